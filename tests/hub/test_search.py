"""Sites and feeders, found by tags, by a part of their names, by a feeder's condition; and ETags of what is changed."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlmodel import Session
from ulid import ULID

from hub.errors import Changed, NotFound
from hub.feeders import change_feeder, feeder_etag, grams_today, list_all_feeders, list_feeders
from hub.ingest import store_event
from hub.models import Command, Feeder
from hub.protocol.messages import Event
from hub.search import EVERYTHING, Search
from hub.site_pages import list_page
from hub.sites import add_site, change_site, delete_site, get_site, site_etag
from hub.tags import of_feeders, of_sites, tag_feeder, tag_site
from tests.hub.conftest import NOW, SITE

pytestmark = pytest.mark.both_databases


@pytest.fixture
def farms(session: Session) -> Session:
    """pond7, pond8 and three more, in three zones."""
    for site, name, zone in (
        ("nord", "Østfjorden Nord", "Europe/Oslo"),
        ("syd", "ØSTFJORDEN Syd 100%", "Europe/Oslo"),
        ("west", "Westerly_1", "Pacific/Auckland"),
    ):
        add_site(session, site, ["f1", "f2", "silo-9"], zone, NOW, name=name)
    session.flush()
    tag_site(session, "nord", ["salmon", "north"])
    tag_site(session, "syd", ["salmon"])
    tag_feeder(session, "nord", "f1", ["indoor"])
    tag_feeder(session, "west", "f2", ["indoor", "old"])
    return session


def sites(session: Session, *tags: str, text: str | None = None) -> list[str]:
    return [one.site.id for one in list_page(session, None, 99, None, Search(tags, text))]


def feeders(session: Session, *tags: str, text: str | None = None, condition: str | None = None) -> list[str]:
    found = list_all_feeders(session, None, 99, None, Search(tags, text, condition))
    return [f"{row.site_id}/{row.id}" for row in found]


def test_sites_are_found_by_all_of_their_tags(farms: Session) -> None:
    assert sites(farms, "salmon") == ["nord", "syd"]
    assert sites(farms, "salmon", "north") == ["nord"]
    assert sites(farms, "salmon", "nowhere") == sites(farms, "nowhere") == []


def test_a_list_tells_each_sites_tags_and_what_is_unresolved(farms: Session) -> None:
    for number, site in enumerate(("nord", "nord", "syd")):
        order = {"id": f"C{number}", "site_id": site, "name": "ping", "args": {}, "state": "unresolved", "actor": "a"}
        times = dict.fromkeys(("created_at", "expires_at", "deadline_at"), NOW)
        farms.add(Command(**order, **times, hub_id="h1", stop_epoch=0, closed_at=NOW if site == "syd" else None))
    farms.flush()
    told = {one.site.id: (one.tags, one.unresolved) for one in list_page(farms, "a", 99, None, EVERYTHING)}
    assert told == {
        "nord": (["north", "salmon"], 2),
        "pond7": ([], 0),
        "pond8": ([], 0),
        "syd": (["salmon"], 0),
        "west": ([], 0),
    }


def test_a_part_of_a_name_or_id_finds_whatever_the_capitals_are_in_every_language(farms: Session) -> None:
    assert sites(farms, text="østFJORD") == ["nord", "syd"]
    assert sites(farms, text="POND") == ["pond7", "pond8"]
    assert sites(farms, text="%") == ["syd"]
    assert sites(farms, text="_") == ["west"], "what SQL takes for a pattern is a text like any other"
    assert sites(farms, "north", text="syd") == []


def test_feeders_of_all_sites_are_found_by_their_own_tags_and_their_sites(farms: Session) -> None:
    assert feeders(farms, "indoor") == ["nord/f1", "west/f2"]
    assert feeders(farms, "indoor", "salmon") == ["nord/f1"]
    assert feeders(farms, "north") == ["nord/f1", "nord/f2", "nord/silo-9"]
    assert feeders(farms, text="SILO") == ["nord/silo-9", "syd/silo-9", "west/silo-9"]
    assert feeders(farms, "old", text="westerly") == ["west/f2"]


def test_feeders_are_found_by_condition(farms: Session) -> None:
    farms.execute(update(Feeder).where(Feeder.site_id == "west", Feeder.id == "f1").values(condition="jammed"))
    assert feeders(farms, condition="jammed") == ["west/f1"]
    assert [row.id for row in list_feeders(farms, "west", None, 9, Search(condition="jammed"))] == ["f1"]


def test_feeders_of_all_sites_come_in_pages_and_only_of_some_sites(farms: Session) -> None:
    seen: list[tuple[str, str]] = []
    while page := list_all_feeders(farms, seen[-1] if seen else None, 2, {"nord", "west"}, EVERYTHING):
        seen += [(row.site_id, row.id) for row in page]
    assert seen == [(site, feeder) for site in ("nord", "west") for feeder in ("f1", "f2", "silo-9")]
    assert list_all_feeders(farms, None, 9, frozenset(), EVERYTHING) == []


def test_todays_grams_of_many_sites_are_of_the_day_of_each(farms: Session) -> None:
    now = datetime(2026, 6, 1, 11, tzinfo=UTC)  # 13:00 in Oslo; 23:00 in Auckland, whose day began 23 hours ago
    for site in ("nord", "west"):
        for hours in (1, 12, 22, 24):
            at = now - timedelta(hours=hours)
            said = {"id": str(ULID()), "seq": hours, "kind": "meal", "at": at, "dispensed_g": float(2**hours)}
            assert store_event(farms, site, "f2", Event.model_validate(said), at)
    rows = list_all_feeders(farms, None, 99, None, EVERYTHING)
    today_g = grams_today(farms, rows, now)
    assert set(today_g) == {(row.site_id, row.id) for row in rows}
    assert {key: grams for key, grams in today_g.items() if grams} == {
        ("nord", "f2"): 2.0 + 4096.0,
        ("west", "f2"): 2.0 + 4096.0 + 2.0**22,
    }


def test_tags_go_with_what_they_were_given_to(farms: Session) -> None:
    delete_site(farms, "nord")
    farms.flush()
    assert of_sites(farms, ["nord"]) == {"nord": []}
    assert of_feeders(farms, [("nord", "f1")]) == {("nord", "f1"): []}


def test_a_site_is_changed_only_as_it_was_read(session: Session) -> None:
    def etag() -> str:
        return site_etag(get_site(session, SITE), of_sites(session, [SITE])[SITE])

    read = etag()
    change_site(session, SITE, None, None, ["b", "a", "b"], read)
    assert of_sites(session, [SITE])[SITE] == ["a", "b"]
    for old in (read, f"W/{etag()}", '"x"'):
        with pytest.raises(Changed) as refused:
            change_site(session, SITE, "mine", None, None, old)
        assert refused.value.etag == etag()
    change_site(session, SITE, "mine", "Europe/Oslo", None, f'"other", {etag()}')
    change_site(session, SITE, None, None, [], "*")
    assert (get_site(session, SITE).name, of_sites(session, [SITE])[SITE]) == ("mine", [])
    with pytest.raises(NotFound):
        change_site(session, "nowhere", "mine", None, None, "*")


def test_a_feeders_tags_are_changed_only_as_they_were_read(session: Session) -> None:
    change_feeder(session, SITE, "f1", ["indoor"], feeder_etag([]))
    with pytest.raises(Changed):
        change_feeder(session, SITE, "f1", ["old"], feeder_etag([]))
    change_feeder(session, SITE, "f1", ["old"], feeder_etag(["indoor"]))
    assert of_feeders(session, [(SITE, "f1"), (SITE, "f2")]) == {(SITE, "f1"): ["old"], (SITE, "f2"): []}
    with pytest.raises(NotFound):
        change_feeder(session, SITE, "f9", [], None)
