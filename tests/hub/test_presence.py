"""The history of liveness: one open span, one who tells, and two desktops seen."""

import threading

import pytest
from sqlmodel import Session, select

from hub import presence
from hub.database import Database
from hub.models import Presence
from tests.hub.conftest import NOW, SITE, after

pytestmark = pytest.mark.both_databases


def spans(session: Session) -> list[tuple[str, str | None]]:
    """(session, ended_by) of the site's spans, the oldest first."""
    return [(span.session, span.ended_by) for span in reversed(presence.list_spans(session, SITE, None, 100))]


def test_a_session_begins_once(session: Session) -> None:
    assert presence.begin(session, SITE, "s1", NOW)
    assert not presence.begin(session, SITE, "s1", after(1))
    assert spans(session) == [("s1", None)]
    assert presence.open_spans(session) == [(SITE, "s1")]


def test_a_new_session_ends_the_older_ones_span(session: Session) -> None:
    presence.begin(session, SITE, "s1", NOW)
    assert presence.begin(session, SITE, "s2", after(5))
    assert spans(session) == [("s1", "replaced"), ("s2", None)]
    first = session.exec(select(Presence).where(Presence.session == "s1")).one()
    assert first.ended_at == after(5)


def test_a_span_ends_once_and_by_its_own_session_only(session: Session) -> None:
    presence.begin(session, SITE, "s2", NOW)
    assert not presence.finish(session, SITE, "s1", after(1), "will", None)
    assert not presence.finish(session, "pond8", "s2", after(1), "will", None)
    assert spans(session) == [("s2", None)]
    assert presence.finish(session, SITE, "s2", after(2), "will", after(1))
    assert not presence.finish(session, SITE, "s2", after(3), "expired", None)
    (span,) = session.exec(select(Presence)).all()
    assert (span.ended_at, span.ended_by, span.last_seen_at) == (after(2), "will", after(1))


def test_a_session_that_comes_alive_again_begins_a_new_span(session: Session) -> None:
    presence.begin(session, SITE, "s1", NOW)
    presence.finish(session, SITE, "s1", after(1), "expired", NOW)
    assert presence.begin(session, SITE, "s1", after(2))
    assert spans(session) == [("s1", "expired"), ("s1", None)]


def test_sites_do_not_touch_each_others_spans(session: Session) -> None:
    presence.begin(session, SITE, "s1", NOW)
    presence.begin(session, "pond8", "s1", NOW)
    presence.begin(session, "pond8", "s2", NOW)
    assert presence.open_spans(session) == [(SITE, "s1"), ("pond8", "s2")]


def test_at_a_restart_every_open_span_ends(session: Session) -> None:
    presence.begin(session, SITE, "s1", NOW)
    presence.begin(session, "pond8", "s2", NOW)
    presence.finish(session, "pond8", "s2", NOW, "will", None)
    presence.finish_all(session, after(1), "restart")
    assert presence.open_spans(session) == []
    assert spans(session) == [("s1", "restart")]


def test_it_is_empty_until_somebody_was_alive(session: Session) -> None:
    assert presence.is_empty(session)
    presence.begin(session, SITE, "s1", NOW)
    presence.finish(session, SITE, "s1", NOW, "will", None)
    assert not presence.is_empty(session)


def test_more_than_three_sessions_in_a_minute_are_two_desktops(session: Session) -> None:
    for n in range(3):
        presence.begin(session, SITE, f"s{n}", after(n * 10))
        assert not presence.has_two_desktops(session, SITE, after(n * 10))
    presence.begin(session, SITE, "s3", after(30))
    assert presence.has_two_desktops(session, SITE, after(30))
    assert not presence.has_two_desktops(session, "pond8", after(30))


def test_sessions_that_follow_slowly_are_one_desktop(session: Session) -> None:
    for n in range(12):
        presence.begin(session, SITE, f"s{n}", after(n * 20.5))
        assert not presence.has_two_desktops(session, SITE, after(n * 20.5))


def test_spans_are_listed_in_pages_the_newest_first(session: Session) -> None:
    for n in range(5):
        presence.begin(session, SITE, f"s{n}", after(n))
    session.flush()
    page = presence.list_spans(session, SITE, None, 2)
    assert [span.session for span in page] == ["s4", "s3"]
    assert [span.session for span in presence.list_spans(session, SITE, page[-1].id, 9)] == ["s2", "s1", "s0"]


def test_of_many_processes_that_notice_the_same_change_exactly_one_tells(database_url: str) -> None:
    processes = [Database(database_url) for _ in range(4)]
    start = threading.Barrier(len(processes))
    told: list[tuple[str, int]] = []

    def notice(database: Database, n: int) -> None:
        for turn in range(10):
            start.wait()
            if database.write_now(lambda session, turn=turn: presence.begin(session, SITE, f"s{turn}", NOW)):  # type: ignore[misc]  # mypy does not infer a lambda with a default
                told.append((f"begin {turn}", n))
            start.wait()
            if database.write_now(
                lambda session, turn=turn: presence.finish(session, SITE, f"s{turn}", NOW, "will", None)  # type: ignore[misc]  # as above
            ):
                told.append((f"finish {turn}", n))

    threads = [threading.Thread(target=notice, args=(database, n)) for n, database in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(what for what, _ in told) == sorted([f"{w} {n}" for w in ("begin", "finish") for n in range(10)])
    for database in processes:
        database.close()


def test_a_site_was_last_seen_by_the_newest_span_that_tells(session: Session) -> None:
    for n, (site, seen) in enumerate([(SITE, after(1)), (SITE, after(5)), (SITE, None), ("pond8", None)]):
        presence.begin(session, site, f"s{n}", after(n))
        presence.finish(session, site, f"s{n}", after(n), "expired", seen)
    assert presence.last_seen(session) == {SITE: after(5)}
