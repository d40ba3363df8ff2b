"""Sites' MQTT secrets: which count, and for how long; claim codes: what they are and what becomes of them."""

import asyncio
import hashlib
import re
from datetime import timedelta

import pytest
from sqlmodel import Session, select

from hub import claims, site_secrets
from hub.accounts import mqtt_password_matches
from hub.claims import ClaimThrottle, claim, make_code
from hub.errors import NoSuchCode, NotFound, TooManyTries
from hub.models import ClaimCode, Site
from hub.site_logins import SiteLogins
from hub.site_secrets import Which, drop_old_secrets, end_old_secret, rotate_secret, sites_past_overlap, which_secret
from hub.sites import delete_site
from hub.store import Store
from tests.hub.conftest import NOW, SITE, after, until

DAY = timedelta(days=1)


def rotated(session: Session, overlap: timedelta = timedelta(0), seconds: float = 0) -> bytes:
    secret = rotate_secret(session, SITE, after(seconds), overlap).secret.encode()
    session.flush()
    return secret


def which(session: Session, secret: bytes, seconds: float = 0, site: str = SITE) -> Which | None:
    return which_secret(session, site, secret, after(seconds))


@pytest.mark.both_databases
def test_a_sites_own_secret_counts_and_nothing_else_does(session: Session) -> None:
    secret = rotated(session)
    assert which(session, secret) is Which.CURRENT
    for wrong in (secret + b"x", b"", b"\xff\x00"):
        assert which(session, wrong) is None
    assert which(session, secret, site="pond8") is which(session, secret, site="nowhere") is None


@pytest.mark.both_databases
def test_the_old_secret_counts_beside_the_new_one_until_its_time_is_over(session: Session) -> None:
    old = rotated(session)
    new = rotated(session, DAY)
    assert (which(session, old), which(session, new)) == (Which.OLD, Which.NEWER)
    almost, over = DAY.total_seconds() - 1, DAY.total_seconds()
    assert (which(session, old, almost), which(session, new, almost)) == (Which.OLD, Which.NEWER)
    assert (which(session, old, over), which(session, new, over)) == (None, Which.CURRENT)


def test_without_an_overlap_the_old_one_ends_at_once_and_so_does_the_one_before_it(session: Session) -> None:
    first = rotated(session)
    second = rotated(session, DAY)
    third = rotated(session)
    assert [which(session, secret) for secret in (first, second, third)] == [None, None, Which.CURRENT]


def test_of_several_rotations_the_secret_that_the_desktop_knows_goes_on(session: Session) -> None:
    """The second one was given out and lost: the desktop has the first one still."""
    first = rotated(session)
    second = rotated(session, DAY)
    third = rotated(session, DAY, seconds=60)
    assert [which(session, secret, 61) for secret in (first, second, third)] == [Which.OLD, None, Which.NEWER]


def test_after_an_overlap_is_over_the_next_rotation_keeps_the_newest(session: Session) -> None:
    rotated(session)
    second = rotated(session, DAY)
    third = rotated(session, DAY, seconds=2 * DAY.total_seconds())
    later = 2 * DAY.total_seconds() + 1
    assert (which(session, second, later), which(session, third, later)) == (Which.OLD, Which.NEWER)


def test_the_overlap_ends_when_the_new_secret_has_come_and_not_by_one_that_is_new_no_more(session: Session) -> None:
    old = rotated(session)
    lost = rotated(session, DAY)
    new = rotated(session, DAY)
    assert end_old_secret(session, SITE, lost) is False
    assert which(session, old) is Which.OLD
    assert end_old_secret(session, SITE, new) is True
    session.flush()
    assert (which(session, old), which(session, new)) == (None, Which.CURRENT)
    assert end_old_secret(session, SITE, new) is end_old_secret(session, "nowhere", new) is False


@pytest.mark.both_databases
def test_an_overlap_that_is_over_is_found_once(session: Session) -> None:
    rotated(session)
    rotated(session, DAY)
    over = NOW + DAY
    assert sites_past_overlap(session, over - timedelta(seconds=1)) == []
    assert sites_past_overlap(session, over) == [SITE]
    drop_old_secrets(session, [SITE, "pond8"], over)
    assert sites_past_overlap(session, over) == []
    assert session.exec(select(Site.old_mqtt_password_hash)).all() == [None, None]


@pytest.mark.parametrize("site", [SITE, "nowhere", "", "x" * 65_535])
@pytest.mark.parametrize("overlap", [timedelta(0), DAY])
def test_every_wrong_secret_costs_the_same_hashes_so_that_nobody_learns_which_sites_there_are(
    session: Session, monkeypatch: pytest.MonkeyPatch, site: str, overlap: timedelta
) -> None:
    rotated(session, overlap)
    rounds = []

    def matches(stored: str, secret: bytes) -> bool:
        rounds.append(stored.split("$")[2])
        return mqtt_password_matches(stored, secret)

    monkeypatch.setattr(site_secrets, "mqtt_password_matches", matches)
    assert which(session, b"a guess", site=site) is None
    assert rounds == ["101", "101"]


def test_a_site_that_does_not_exist_has_no_secret_to_rotate(session: Session) -> None:
    with pytest.raises(NotFound):
        rotate_secret(session, "nowhere", NOW)


# --- who is let in, and who is sent away ----------------------------------------------------------------------------


@pytest.mark.both_databases
async def test_the_desktop_ends_the_overlap_and_a_tool_beside_it_does_not(database) -> None:
    gone = []

    async def disconnect(site: str) -> None:
        gone.append(site)

    logins = SiteLogins(database)
    async with logins.watched(disconnect):
        old = (await database.write(lambda session: rotate_secret(session, SITE, NOW))).secret.encode()
        new = await database.write(lambda session: rotate_secret(session, SITE, NOW, timedelta(days=36500)))
        assert await logins.identify(SITE, new.secret.encode(), f"{SITE}.tool")
        assert await logins.identify(SITE, old, SITE)
        assert not gone
        assert await logins.identify(SITE, new.secret.encode(), SITE)
        assert gone == [SITE], "whoever was there had the old one"
        assert not await logins.identify(SITE, old, SITE)
        assert await logins.identify(SITE, new.secret.encode(), SITE)
    assert gone == [SITE]


async def test_when_an_overlap_is_over_whoever_is_connected_is_sent_away(database) -> None:
    gone = []

    async def disconnect(site: str) -> None:
        gone.append(site)

    await database.write(lambda session: rotate_secret(session, SITE, NOW, DAY))  # NOW is long ago
    async with SiteLogins(database).watched(disconnect):
        await until(lambda: asyncio.sleep(0, result=gone))
    assert gone == [SITE]


# --- claim codes ------------------------------------------------------------------------------------------------------


@pytest.mark.both_databases
def test_a_code_is_claimed_once_and_rotates_with_its_overlap(session: Session) -> None:
    old = rotated(session)
    made = make_code(session, SITE, 60, "anna", NOW)
    assert made.expires_at == NOW + timedelta(minutes=10)
    site, new = claim(session, made.code, after(599))
    assert (site, new.old_ends_at) == (SITE, after(599 + 60))
    session.flush()
    assert (which(session, old, 600), which(session, new.secret.encode(), 600)) == (Which.OLD, Which.NEWER)
    with pytest.raises(NoSuchCode):
        claim(session, made.code, after(600))


def test_a_code_has_more_than_sixty_random_bits_and_is_kept_as_its_hash(session: Session) -> None:
    codes = [make_code(session, SITE, 0, "anna", NOW).code for _ in range(50)]
    session.flush()
    assert len(set(codes)) == 50
    assert all(re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code) for code in codes)
    [row] = session.exec(select(ClaimCode)).all()
    assert row.sha256 == hashlib.sha256(codes[-1].replace("-", "").encode()).hexdigest()
    with pytest.raises(NoSuchCode):
        claim(session, codes[-2], NOW)


@pytest.mark.parametrize("typed", ["lower", "without dashes", "spaces", "look-alikes"])
def test_a_code_counts_as_it_was_meant(session: Session, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    letters = iter("01ABCDEFGH01JKMN")
    monkeypatch.setattr(claims.secrets, "choice", lambda _: next(letters))
    code = make_code(session, SITE, 0, "anna", NOW).code
    session.flush()
    as_typed = {
        "lower": code.lower(),
        "without dashes": code.replace("-", ""),
        "spaces": f" {code.replace('-', ' ')}\n",
        "look-alikes": "oI" + code[2:].replace("0", "O").replace("1", "l"),
    }[typed]
    assert claim(session, as_typed, NOW)[0] == SITE


def test_wrong_used_and_expired_codes_are_told_the_same(session: Session) -> None:
    used, told = make_code(session, SITE, 0, "anna", NOW).code, set()
    session.flush()
    claim(session, used, NOW)
    expired = make_code(session, "pond8", 0, "anna", NOW).code
    session.flush()
    for code, seconds in ((used, 0), (expired, 600), ("7Q2K-M9RT-0XVB-4HDN", 0), ("", 0), ("møre", 0)):
        with pytest.raises(NoSuchCode) as refused:
            claim(session, code, after(seconds))
        told.add(str(refused.value))
    assert len(told) == 1


def test_a_code_goes_with_its_site(session: Session) -> None:
    code = make_code(session, SITE, 0, "anna", NOW).code
    session.flush()
    delete_site(session, SITE)
    session.flush()
    with pytest.raises(NoSuchCode):
        claim(session, code, NOW)
    with pytest.raises(NotFound):
        make_code(session, SITE, 0, "anna", NOW)


@pytest.mark.both_databases
async def test_of_two_who_claim_at_the_same_moment_one_gets_it(database) -> None:
    code = (await database.write(lambda session: make_code(session, SITE, 0, "anna", NOW))).code
    work = lambda session: claim(session, code, NOW)  # noqa: E731
    outcomes = await asyncio.gather(
        database.write(work),
        asyncio.to_thread(database.write_now, work),
        database.write(work),
        asyncio.to_thread(database.write_now, work),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoSuchCode"] * 3 + ["tuple"]


async def test_tries_are_limited_by_address_and_for_all_addresses_together(store: Store) -> None:
    throttle = ClaimThrottle(store)
    for _ in range(claims.TRIES_OF_ADDRESS):
        await throttle.admit("192.0.2.1")
    with pytest.raises(TooManyTries) as refused:
        await throttle.admit("192.0.2.1")
    assert 0 < refused.value.retry_after_s <= claims.WITHIN_S
    for n in range(claims.TRIES_OF_ALL - claims.TRIES_OF_ADDRESS):
        await throttle.admit(f"2001:db8:0:{n:x}::1")
    for address in ("198.51.100.7", "2001:db8:ffff::1", "::ffff:192.0.2.9", "no address"):
        with pytest.raises(TooManyTries):
            await throttle.admit(address)
    keys = await store.call("KEYS", "*claims*")
    assert len(keys) <= claims.TRIES_OF_ALL + 1, "what is refused leaves nothing behind"
    ttls = await store.calls(*(("PTTL", key) for key in keys))
    assert all(0 < ttl <= claims.WITHIN_S * 1000 for ttl in ttls)


async def test_an_ipv6_host_has_one_count_for_its_whole_network(store: Store) -> None:
    throttle = ClaimThrottle(store)
    for n in range(claims.TRIES_OF_ADDRESS):
        await throttle.admit(f"2001:db8::{n:x}")
    with pytest.raises(TooManyTries):
        await throttle.admit("2001:db8::ffff")
    await throttle.admit("2001:db8:0:1::1")
