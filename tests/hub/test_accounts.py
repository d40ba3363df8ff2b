"""Secrets, tokens and the table of rights."""

import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, select

from hub import sites
from hub.accounts import (
    add_token,
    caller_of,
    has_tokens,
    list_tokens,
    mqtt_password_hash,
    mqtt_password_matches,
    new_secret,
    revoke_token,
)
from hub.errors import AlreadyExists, InvalidOrder, NotFound
from hub.logins import current
from hub.models import Feeder, Site, Token
from hub.rights import Role
from hub.site_secrets import Which, which_secret
from tests.hub.conftest import NOW, SITE, order, placed


def test_a_secret_is_long_random_and_fits_into_a_url() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43,}", secret) for secret in secrets)


def test_an_mqtt_hash_has_mosquittos_form_and_a_salt_of_its_own() -> None:
    first, second = mqtt_password_hash("secret"), mqtt_password_hash("secret")
    assert re.fullmatch(r"\$7\$[0-9]+\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==", first)
    assert first != second
    assert "secret" not in first


def test_a_password_matches_its_own_hash_only() -> None:
    stored = mqtt_password_hash("sécret")
    assert mqtt_password_matches(stored, "sécret".encode())
    for wrong in (b"", b"secret", "sécret ".encode(), stored.encode()):
        assert not mqtt_password_matches(stored, wrong)


def test_a_hash_made_by_mosquitto_passwd_is_understood(tmp_path: Path, needs_program: Callable[[str], str]) -> None:
    program = needs_program("mosquitto_passwd")
    file = tmp_path / "passwords"
    subprocess.run([program, "-b", "-c", str(file), "pond7", "by mosquitto"], check=True, capture_output=True)
    user, _, stored = file.read_text().strip().partition(":")
    assert user == "pond7"
    assert mqtt_password_matches(stored, b"by mosquitto")
    assert not mqtt_password_matches(stored, b"by somebody")


def test_a_token_names_its_caller_and_only_its_hash_is_kept(session: Session) -> None:
    assert not has_tokens(session)
    token = add_token(session, Role.OPERATOR, SITE, "barge", NOW)
    session.flush()
    assert has_tokens(session)
    caller = caller_of(session, token, NOW)
    assert caller is not None
    assert (caller.actor, caller.roles) == ("token:barge", {SITE: frozenset({Role.OPERATOR})})
    assert caller_of(session, token + "x", NOW) is None
    assert caller_of(session, "", NOW) is None
    row = session.exec(select(Token)).one()
    assert token not in str(row.model_dump())
    assert caller_of(session, row.sha256, NOW) is None


def test_a_token_lets_in_until_it_expires(session: Session) -> None:
    token = add_token(session, Role.VIEWER, None, "a week", NOW, expires_at=NOW + timedelta(days=7))
    session.flush()
    caller = caller_of(session, token, NOW + timedelta(days=6))
    assert caller is not None
    assert caller_of(session, token, NOW + timedelta(days=7)) is None
    assert current(session, caller, NOW + timedelta(days=7)) is None


def test_a_token_for_a_site_that_is_not_there_is_refused(session: Session) -> None:
    with pytest.raises(NotFound):
        add_token(session, Role.VIEWER, "nowhere", "x", NOW)


# --- sites and their secrets -------------------------------------------------------------------------------------


def test_a_new_sites_secret_opens_that_site(session: Session) -> None:
    secret = sites.add_site(session, "bay", ["f1"], "Europe/Oslo", NOW).secret.encode()
    assert which_secret(session, "bay", secret, NOW) is Which.CURRENT
    assert which_secret(session, SITE, secret, NOW) is which_secret(session, "nowhere", secret, NOW) is None


@pytest.mark.parametrize(
    ("site", "feeders", "time_zone"),
    [
        ("Bay", ["f1"], "UTC"),
        ("", ["f1"], "UTC"),
        ("bay\n", ["f1"], "UTC"),
        ("hub", ["f1"], "UTC"),
        ("hub-2", ["f1"], "UTC"),
        ("monitor", ["f1"], "UTC"),
        ("admin-x", ["f1"], "UTC"),
        ("bay", [], "UTC"),
        ("bay", ["f1", "f1"], "UTC"),
        ("bay", ["F1"], "UTC"),
        ("bay", [f"f{n}" for n in range(sites.MAX_FEEDERS + 1)], "UTC"),
        ("bay", ["f1"], "Mars/Olympus"),
        ("bay", ["f1"], "../etc/passwd"),
        ("bay", ["f1"], ""),
    ],
)
def test_a_site_with_a_wrong_name_feeder_or_time_zone_is_refused(
    session: Session, site: str, feeders: list[str], time_zone: str
) -> None:
    with pytest.raises(InvalidOrder) as refused:
        sites.add_site(session, site, feeders, time_zone, NOW)
    assert refused.value.faults


def test_a_name_that_only_begins_like_a_reserved_one_is_free(session: Session) -> None:
    for site in ("hubert", "hub_2", "monitors"):
        sites.add_site(session, site, ["f1"], "UTC", NOW)


def test_a_site_is_added_once(session: Session) -> None:
    with pytest.raises(AlreadyExists):
        sites.add_site(session, SITE, ["f1"], "UTC", NOW)


def test_a_token_that_is_revoked_names_nobody_any_more_and_the_others_do(session: Session) -> None:
    first, second = (add_token(session, Role.VIEWER, None, name, NOW) for name in ("anna", "ben"))
    session.flush()
    anna, ben = list_tokens(session)
    caller = caller_of(session, first, NOW)
    assert caller is not None
    assert current(session, caller, NOW) == caller
    revoke_token(session, anna.id)
    session.flush()
    assert current(session, caller, NOW) is None
    assert caller_of(session, first, NOW) is None
    assert caller_of(session, second, NOW) is not None
    assert [token.name for token in list_tokens(session)] == [ben.name] == ["ben"]
    with pytest.raises(NotFound):
        revoke_token(session, anna.id)


def test_a_deleted_site_takes_everything_of_its_own_along_and_nothing_of_anothers(session: Session) -> None:
    add_token(session, Role.VIEWER, SITE, "x", NOW)
    placed(session, order("pause"))
    placed(session, order("pause", site="pond8"))
    session.flush()
    sites.delete_site(session, SITE)
    session.flush()
    session.expire_all()
    assert [site.id for site in session.exec(select(Site))] == ["pond8"]
    assert {feeder.site_id for feeder in session.exec(select(Feeder))} == {"pond8"}
    assert session.exec(select(Token)).all() == []
    counts = {
        name: session.connection().exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
        for name in ("command", "command_step")
    }
    assert counts == {"command": 1, "command_step": 2}
