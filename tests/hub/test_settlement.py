"""From a reply, a report's outcome or the deadline to a command's known end: each transition, late and twice."""

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import Session, select

from hub import settlement, waiting
from hub.command_states import SETTLED, CommandState
from hub.database import Database
from hub.feeders import drift, take_state
from hub.models import Command, ConfigRevision, Feeder, Site
from hub.protocol.messages import Outcome
from hub.settlement import Settled
from hub.stories import stories
from tests.hub.conftest import CONFIG, DESK, FEEDER, NOW, SITE, TO, after, config_order, order, placed, reply, state

pytestmark = pytest.mark.both_databases

S = CommandState
NEW_CONFIG = CONFIG | {"meal_g": 300.0}
FARM_CONFIG = CONFIG | {"meal_g": 111.0}


def dose(session: Session, grams: float = 250.0) -> Command:
    return placed(session, order("feed", args={"grams": grams}))


def change(session: Session, **fields: Any) -> Command:
    return placed(session, config_order(args=NEW_CONFIG, **fields))


def answer(session: Session, command: Command, status: str, at_s: float = 1, site: str = SITE, **told: Any) -> Settled:
    session.flush()
    return settlement.take_reply(session, site, reply(command.id, status, **told), after(at_s))


def outcome(session: Session, command: Command, status: str, journal: str = "journal-1", **told: Any) -> Settled:
    said = Outcome.model_validate({"id": command.id, "status": status} | told)
    return settlement.take_outcome(session, SITE, journal, said, after(30))


def overdue(session: Session, command: Command) -> Command:
    session.flush()
    assert command.id in {row.id for row in settlement.mark_overdue(session, command.deadline_at)}
    return now_is(session, command)


def now_is(session: Session, command: Command) -> Command:
    session.flush()
    session.expire_all()
    return session.get_one(Command, command.id)


def dispensed_g(session: Session, command: Command) -> float | None:
    return (now_is(session, command).result or {}).get("dispensed_g")


def feeder(session: Session) -> Feeder:
    session.flush()
    return session.get_one(Feeder, (SITE, FEEDER), populate_existing=True)


def farm_tells(session: Session, seq: int = 1, **reported: Any) -> None:
    take_state(session, SITE, FEEDER, state(seq, **({"config_version": 7, "local_rev": 3} | reported)), NOW)


def local_revisions(session: Session) -> list[tuple[int, int]]:
    session.flush()
    rows = session.exec(select(ConfigRevision).where(ConfigRevision.origin == "local")).all()
    return [(row.version, row.local_rev) for row in rows]


def states(session: Session, command: Command) -> list[str]:
    session.flush()
    return [step.state for step in stories(session, [command.id])[command.id]]


# --- replies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["applied", "rejected", "failed"])
@pytest.mark.parametrize("before", ["sent", "received", "unknown"])
def test_a_final_reply_settles_whatever_came_before(session: Session, before: str, status: str) -> None:
    command = dose(session)
    if before == "received":
        answer(session, command, "received")
    if before == "unknown":
        overdue(session, command)
    settled = answer(session, command, status, 5, code="because", detail="of this")
    assert settled.moved
    assert settled.contradiction is None
    row = now_is(session, command)
    assert (row.state, row.code, row.detail, row.settled_at) == (status, "because", "of this", after(5))
    assert states(session, command) == ["pending", "sent", *([] if before == "sent" else [before]), status]


@pytest.mark.parametrize("status", ["received", "running"])
def test_a_reply_that_is_not_final_says_only_that_the_desktop_has_it(session: Session, status: str) -> None:
    command = dose(session)
    assert answer(session, command, status).moved
    assert now_is(session, command).state == S.RECEIVED
    assert now_is(session, command).settled_at is None
    assert not answer(session, command, "running").moved
    assert states(session, command) == ["pending", "sent", "received"]


@pytest.mark.parametrize("late", ["received", "running"])
def test_a_reply_that_is_not_final_never_leads_back(session: Session, late: str) -> None:
    unknown, applied = dose(session), dose(session)
    overdue(session, unknown)
    answer(session, applied, "applied")
    for command, stays in ((unknown, S.UNKNOWN), (applied, S.APPLIED)):
        settled = answer(session, command, late, 50)
        assert not settled.moved
        assert settled.contradiction is None
        assert now_is(session, command).state == stays


@pytest.mark.parametrize("status", ["applied", "rejected", "failed"])
def test_a_duplicate_of_the_final_reply_changes_nothing(session: Session, status: str) -> None:
    command = dose(session)
    answer(session, command, status, 2, dispensed_g=249.6, code="c")
    before = now_is(session, command).model_dump()
    settled = answer(session, command, status, 9, dispensed_g=249.6, code="c")
    assert not settled.moved
    assert settled.contradiction is None
    assert now_is(session, command).model_dump() == before


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["applied", "rejected", "failed"], 2)))
def test_a_final_reply_that_contradicts_an_earlier_one_is_told_and_changes_no_state(
    session: Session, first: str, second: str
) -> None:
    command = dose(session)
    answer(session, command, first, 2)
    settled = answer(session, command, second, 9)
    assert not settled.moved
    assert settled.contradiction
    row = now_is(session, command)
    assert (row.state, row.settled_at) == (first, after(2))
    assert row.result == {"contradiction": f"{second} came after {first}"}


def test_of_two_doses_told_the_larger_counts_and_the_contradiction_is_told(session: Session) -> None:
    command = dose(session)
    answer(session, command, "failed", dispensed_g=100.0)
    settled = answer(session, command, "applied", dispensed_g=250.0)
    assert settled.contradiction
    assert dispensed_g(session, command) == 250.0
    assert answer(session, command, "failed", dispensed_g=100.0).contradiction
    assert dispensed_g(session, command) == 250.0


def test_a_larger_dose_told_later_counts_though_the_state_is_the_same(session: Session) -> None:
    command = dose(session)
    answer(session, command, "applied", dispensed_g=200.0)
    assert answer(session, command, "applied", dispensed_g=250.0).contradiction
    assert dispensed_g(session, command) == 250.0


def test_a_smaller_dose_told_later_is_raised_and_does_not_count(session: Session) -> None:
    command = dose(session)
    answer(session, command, "applied", dispensed_g=250.0)
    assert answer(session, command, "applied", dispensed_g=200.0).contradiction
    assert dispensed_g(session, command) == 250.0


def test_a_dose_told_first_without_grams_gets_them_later(session: Session) -> None:
    command = dose(session)
    answer(session, command, "applied")
    answer(session, command, "applied", dispensed_g=250.0)
    assert dispensed_g(session, command) == 250.0


def test_a_reply_of_another_site_changes_nothing(session: Session) -> None:
    command = dose(session)
    for status in ("received", "applied", "failed"):
        assert answer(session, command, status, site="pond8") == Settled(None, moved=False)
    assert now_is(session, command).state == S.SENT
    assert states(session, command) == ["pending", "sent"]


def test_a_reply_to_a_command_that_nobody_sent_changes_nothing(session: Session) -> None:
    assert settlement.take_reply(session, SITE, reply("01JABCDEFGHJKMNPQRSTVWXYZ0", "applied"), NOW) == Settled(
        None, moved=False
    )


def test_what_is_told_of_one_reply_does_not_change_with_the_next(session: Session) -> None:
    command = dose(session)
    received = answer(session, command, "received")
    applied = answer(session, command, "applied")
    assert received.command is not None
    assert applied.command is not None
    assert (received.command.state, applied.command.state) == (S.RECEIVED, S.APPLIED)


# --- a change of config ------------------------------------------------------------------------------------------


def test_an_applied_change_becomes_the_reported_config(session: Session) -> None:
    farm_tells(session)
    command = change(session)
    assert drift(feeder(session)) == ["meal_g"]
    answer(session, command, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert (row.reported_config, row.reported_version, row.local_rev) == (NEW_CONFIG, 8, 3)
    assert (row.pending_command_id, row.desired_version) == (None, 8)
    assert drift(row) == []
    assert local_revisions(session) == local_revisions(session)[:1]  # the farm's first word only


def test_what_is_read_back_within_tolerance_is_applied(session: Session) -> None:
    command = change(session)
    answer(session, command, "applied", config=NEW_CONFIG | {"meal_g": 300.0001}, config_version=1, local_rev=0)
    assert now_is(session, command).state == S.APPLIED


def test_what_is_read_back_differently_has_failed_whatever_the_desktop_says(session: Session) -> None:
    farm_tells(session)
    command = change(session)
    settled = answer(session, command, "applied", config=CONFIG, config_version=8, local_rev=3)
    row = now_is(session, command)
    assert (row.state, row.code) == (S.FAILED, "read_back_differs")
    assert "meal_g" in (row.detail or "")
    assert settled.moved
    assert feeder(session).reported_config == CONFIG
    assert feeder(session).pending_command_id is None
    duplicate = answer(session, command, "applied", config=CONFIG, config_version=8, local_rev=3)
    assert duplicate.contradiction is None


def test_a_stale_rejection_takes_over_the_farms_config_and_records_its_edit_once(session: Session) -> None:
    farm_tells(session)
    session.flush()
    first_word = local_revisions(session)
    command = change(session)
    stale = {"code": "stale", "config": FARM_CONFIG, "config_version": 7, "local_rev": 4}
    answer(session, command, "rejected", **stale)
    row = feeder(session)
    assert (row.reported_config, row.reported_version, row.local_rev) == (FARM_CONFIG, 7, 4)
    assert (row.desired_config, row.pending_command_id) == (FARM_CONFIG, None)
    assert drift(row) == []
    answer(session, command, "rejected", 2, **stale)
    farm_tells(session, 2, config=FARM_CONFIG, local_rev=4)
    assert local_revisions(session) == [*first_word, (7, 4)]


@pytest.mark.parametrize("end", ["rejected", "failed"])
def test_a_change_that_did_not_happen_is_no_longer_wanted(session: Session, end: str) -> None:
    farm_tells(session)
    command = change(session)
    answer(session, command, end)
    row = feeder(session)
    assert (row.desired_config, row.desired_version, row.pending_command_id) == (CONFIG, 7, None)
    assert drift(row) == []


def test_the_end_of_an_older_change_does_not_end_the_newer_one(session: Session) -> None:
    farm_tells(session)
    older = change(session)
    newer = placed(session, config_order(args=CONFIG | {"meal_g": 400.0}))
    answer(session, older, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert row.pending_command_id == newer.id
    assert row.desired_config == CONFIG | {"meal_g": 400.0}
    assert row.reported_config == NEW_CONFIG
    waiting.send_waiting(session, SITE, TO, DESK, after(1))
    answer(session, newer, "failed")
    row = feeder(session)
    assert row.pending_command_id is None
    assert row.desired_config == NEW_CONFIG


def test_an_unknown_change_stays_pending_until_its_end_is_known(session: Session) -> None:
    farm_tells(session)
    command = overdue(session, change(session))
    assert feeder(session).pending_command_id == command.id
    outcome(session, command, "not_seen")
    row = feeder(session)
    assert (row.pending_command_id, row.desired_config) == (None, CONFIG)


def test_a_late_answer_does_not_undo_what_was_reported_meanwhile(session: Session) -> None:
    farm_tells(session)
    command = overdue(session, change(session))
    farm_tells(session, 2, config=CONFIG | {"meal_g": 500.0}, config_version=9)
    outcome(session, command, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert (row.reported_config, row.reported_version) == (CONFIG | {"meal_g": 500.0}, 9)
    assert now_is(session, command).state == S.APPLIED


def test_a_late_outcome_does_not_undo_an_edit_made_on_the_farm_meanwhile(session: Session) -> None:
    farm_tells(session)
    command = overdue(session, change(session))
    farm_tells(session, 2, config=NEW_CONFIG, config_version=8)
    farm_tells(session, 3, config=FARM_CONFIG, config_version=8, local_rev=4)
    before = local_revisions(session)
    outcome(session, command, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert (row.reported_config, row.reported_version, row.local_rev) == (FARM_CONFIG, 8, 4)
    farm_tells(session, 4, config=FARM_CONFIG, config_version=8, local_rev=4)
    assert local_revisions(session) == before


@pytest.mark.parametrize("state_first", [False, True])
def test_a_change_that_proves_applied_after_a_newer_one_came_to_nothing_is_what_is_wanted(
    session: Session, state_first: bool
) -> None:
    farm_tells(session)
    older = overdue(session, change(session))
    newer = placed(session, config_order(args=CONFIG | {"meal_g": 400.0}))
    answer(session, newer, "rejected", code="not_remote")
    assert feeder(session).desired_config == CONFIG
    if state_first:
        farm_tells(session, 2, config=NEW_CONFIG, config_version=8)
    outcome(session, older, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert (row.desired_config, row.desired_version, row.reported_config) == (NEW_CONFIG, 8, NEW_CONFIG)
    assert drift(row) == []


def test_a_change_that_proves_applied_late_leaves_the_drift_of_an_edit_made_upon_it(session: Session) -> None:
    farm_tells(session)
    older = overdue(session, change(session))
    answer(session, placed(session, config_order(args=CONFIG | {"meal_g": 400.0})), "rejected", code="not_remote")
    farm_tells(session, 2, config=FARM_CONFIG, config_version=8, local_rev=4)
    outcome(session, older, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert (row.desired_config, row.desired_version, row.reported_config) == (NEW_CONFIG, 8, FARM_CONFIG)


def test_an_older_change_that_proves_applied_late_is_not_wanted_again(session: Session) -> None:
    farm_tells(session)
    older = overdue(session, change(session))
    newest = CONFIG | {"meal_g": 400.0}
    newer = placed(session, config_order(args=newest))
    answer(session, newer, "applied", config=newest, config_version=9, local_rev=3)
    outcome(session, older, "applied", config=NEW_CONFIG, config_version=8, local_rev=3)
    row = feeder(session)
    assert (row.desired_config, row.desired_version, row.reported_config) == (newest, 9, newest)


@pytest.mark.parametrize("told", [answer, outcome], ids=["reply", "report"])
def test_an_applied_change_without_what_was_read_back_has_failed(session: Session, told: Callable[..., Any]) -> None:
    farm_tells(session)
    command = overdue(session, change(session))
    farm_tells(session, 2, config=FARM_CONFIG, config_version=8, local_rev=4)
    told(session, command, "applied", config_version=8, local_rev=3)
    row = now_is(session, command)
    assert (row.state, row.code) == (S.FAILED, "not_read_back")
    assert feeder(session).reported_config == FARM_CONFIG


# --- the deadline ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["sent", "received"])
def test_past_its_deadline_a_command_is_unknown_and_that_is_no_end(session: Session, before: str) -> None:
    command = placed(session, order("pause"))
    if before == "received":
        answer(session, command, "received")
    session.flush()
    assert settlement.mark_overdue(session, after(9.999)) == []
    (marked,) = settlement.mark_overdue(session, after(10))
    assert (marked.id, marked.state, marked.settled_at) == (command.id, S.UNKNOWN, None)
    assert settlement.mark_overdue(session, after(10)) == []


def test_a_dose_is_not_overdue_while_it_may_still_be_feeding(session: Session) -> None:
    farm_tells(session)
    command = dose(session, 1250.0)
    session.flush()
    assert settlement.mark_overdue(session, after(100)) == []
    overdue(session, command)


def test_what_is_settled_is_never_overdue(session: Session) -> None:
    for status in ("applied", "rejected", "failed"):
        answer(session, dose(session), status)
    assert settlement.mark_overdue(session, after(9999)) == []


def test_only_the_one_asked_for_is_marked(session: Session) -> None:
    first, second = placed(session, order("pause")), placed(session, order("pause"))
    session.flush()
    assert [row.id for row in settlement.mark_overdue(session, after(20), only=second.id)] == [second.id]
    assert now_is(session, first).state == S.SENT


def test_of_two_processes_exactly_one_finds_a_command_overdue(database_url: str) -> None:
    processes = [Database(database_url) for _ in range(3)]
    ids = [processes[0].write_now(lambda session: placed(session, order("pause")).id) for _ in range(20)]
    start = threading.Barrier(len(processes))
    found: list[str] = []

    def look(database: Database) -> None:
        start.wait()
        found.extend(row.id for row in database.write_now(lambda session: settlement.mark_overdue(session, after(20))))

    threads = [threading.Thread(target=look, args=(database,)) for database in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in processes:
        database.close()
    assert sorted(found) == sorted(ids)


def test_of_processes_that_hear_one_reply_at_the_same_moment_none_takes_it_for_a_contradiction(
    database_url: str,
) -> None:
    processes = [Database(database_url) for _ in range(3)]
    ids = [processes[0].write_now(lambda session: placed(session, order("pause")).id) for _ in range(20)]
    start = threading.Barrier(len(processes))
    heard: list[Settled] = []

    def hear(database: Database) -> None:
        for command_id in ids:
            said = reply(command_id, "applied")
            start.wait()
            heard.append(database.write_now(lambda session, said=said: settlement.take_reply(session, SITE, said, NOW)))  # type: ignore[misc]  # mypy does not infer a lambda with a default

    threads = [threading.Thread(target=hear, args=(database,)) for database in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in processes:
        database.close()
    assert [settled.moved for settled in heard].count(True) == len(ids)
    assert {settled.contradiction for settled in heard} == {None}


# --- a report's outcomes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["applied", "rejected", "failed"])
def test_a_reported_end_is_the_end(session: Session, status: str) -> None:
    command = overdue(session, dose(session))
    assert outcome(session, command, status, dispensed_g=120.0, code="c").moved
    row = now_is(session, command)
    assert (row.state, row.code, row.result) == (status, "c", {"dispensed_g": 120.0})


@pytest.mark.parametrize(
    ("status", "journal", "told", "end"),
    [
        ("not_seen", "journal-1", {}, S.NOT_EXECUTED),
        ("not_seen", "journal-2", {}, S.UNRESOLVED),
        ("interrupted", "journal-1", {}, S.UNRESOLVED),
        ("interrupted", "journal-2", {}, S.UNRESOLVED),
        ("forgotten", "journal-1", {}, S.UNRESOLVED),
        ("forgotten", "journal-2", {}, S.UNRESOLVED),
        ("interrupted", "journal-1", {"dispensed_g": 40.0}, S.FAILED),
        ("interrupted", "journal-1", {"dispensed_g": 0.0}, S.FAILED),
    ],
)
def test_each_other_outcome_settles_as_the_contract_says(
    session: Session, status: str, journal: str, told: dict[str, float], end: CommandState
) -> None:
    command = overdue(session, dose(session))
    assert outcome(session, command, status, journal, **told).moved
    row = now_is(session, command)
    assert row.state == end
    assert (row.result or {}) == told
    assert row.settled_at == after(30)


def test_a_command_that_is_still_running_stays_unknown(session: Session) -> None:
    command = overdue(session, dose(session))
    assert not outcome(session, command, "running").moved
    assert now_is(session, command).state == S.UNKNOWN


def test_a_report_of_a_command_that_is_not_unknown_voids_nothing(session: Session) -> None:
    command = dose(session)
    session.flush()
    for status in ("not_seen", "forgotten", "interrupted"):
        assert not outcome(session, command, status).moved
    assert now_is(session, command).state == S.SENT


def test_after_a_late_reply_the_reports_outcome_comes_too_late(session: Session) -> None:
    command = overdue(session, dose(session))
    answer(session, command, "applied", 20, dispensed_g=250.0)
    assert not outcome(session, command, "not_seen").moved
    row = now_is(session, command)
    assert (row.state, dispensed_g(session, row)) == (S.APPLIED, 250.0)


def test_what_was_declared_not_executed_and_then_reported_as_done_is_raised(session: Session) -> None:
    command = overdue(session, dose(session))
    outcome(session, command, "not_seen")
    settled = answer(session, command, "applied", 40, dispensed_g=250.0)
    assert settled.contradiction
    row = now_is(session, command)
    assert (row.state, dispensed_g(session, row)) == (S.NOT_EXECUTED, 250.0)


def test_what_was_never_seen_and_is_then_refused_as_voided_is_no_contradiction(session: Session) -> None:
    command = overdue(session, dose(session))
    outcome(session, command, "not_seen")
    late = answer(session, command, "rejected", 60, code="voided")
    assert (late.moved, late.contradiction) == (False, None)
    assert now_is(session, command).state == S.NOT_EXECUTED


def test_an_outcome_of_another_sites_command_changes_nothing(session: Session) -> None:
    command = overdue(session, dose(session))
    said = Outcome(id=command.id, status="not_seen")
    assert settlement.take_outcome(session, "pond8", "journal-1", said, after(30)) == Settled(None, moved=False)
    assert now_is(session, command).state == S.UNKNOWN


# --- whom to ask, and when ---------------------------------------------------------------------------------------


def ask(session: Session, at_s: float, *, at_once: bool = False, site: str = SITE) -> list[str]:
    session.flush()
    ids, _ = settlement.lease_questions(session, site, after(at_s), at_once=at_once)
    session.flush()
    return ids


def test_one_process_asks_and_again_after_2_4_8_and_at_most_60_seconds(session: Session) -> None:
    command = overdue(session, placed(session, order("pause")))
    at_s = 10.001
    assert ask(session, at_s) == [command.id]
    for pause in (2, 4, 8, 16, 32, 60, 60):
        assert ask(session, at_s) == []
        assert ask(session, at_s + pause - 0.01) == []
        assert settlement.sites_to_ask(session, after(at_s + pause - 0.01)) == []
        at_s += pause
        assert settlement.sites_to_ask(session, after(at_s)) == [SITE]
        assert ask(session, at_s) == [command.id]


def test_a_new_session_is_asked_at_once_and_the_pauses_begin_again(session: Session) -> None:
    command = overdue(session, placed(session, order("pause")))
    for at_s in (11, 20, 40, 80, 200):
        ask(session, at_s)
    assert ask(session, 201, at_once=True) == [command.id]
    assert ask(session, 202.9) == []
    assert ask(session, 203) == [command.id]


def test_the_pauses_stay_at_a_minute_however_often_it_was_asked(session: Session) -> None:
    command = overdue(session, placed(session, order("pause")))
    for n in range(200):
        assert ask(session, 20 + 61 * n) == [command.id]
    assert now_is(session, command).next_report_at == after(20 + 61 * 199) + timedelta(seconds=60)


def test_what_may_still_begin_is_not_asked_about(session: Session) -> None:
    placed(session, order("pause"))
    assert ask(session, 9, at_once=True) == []
    assert ask(session, 11, at_once=True) == []  # past its expiry, but nobody has found it overdue yet


def test_what_is_settled_is_not_asked_about(session: Session) -> None:
    command = overdue(session, placed(session, order("pause")))
    answer(session, command, "applied", 20)
    assert ask(session, 30, at_once=True) == []
    assert settlement.sites_to_ask(session, after(30)) == []


def test_a_report_asks_a_hundred_at_a_time_and_leaves_none_out(session: Session) -> None:
    ids = {placed(session, order("pause")).id for _ in range(150)}
    session.flush()
    settlement.mark_overdue(session, after(10))
    first = ask(session, 11, at_once=True)
    assert len(first) == 100
    second = ask(session, 11.5)
    assert set(first) | set(second) == ids
    assert not set(first) & set(second)


def test_of_two_processes_exactly_one_asks(database_url: str) -> None:
    processes = [Database(database_url) for _ in range(3)]
    for _ in range(20):
        processes[0].write_now(lambda session: placed(session, order("pause")))
    processes[0].write_now(lambda session: settlement.mark_overdue(session, after(20)))
    start = threading.Barrier(len(processes))
    asked: list[str] = []

    def look(database: Database) -> None:
        start.wait()
        asked.extend(database.write_now(lambda session: ask(session, 21)))

    threads = [threading.Thread(target=look, args=(database,)) for database in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in processes:
        database.close()
    assert len(asked) == len(set(asked)) == 20


@pytest.mark.parametrize("name", ["ping", "report"])
def test_a_question_without_a_reply_is_not_asked_about_and_ends_by_the_clock(session: Session, name: str) -> None:
    question = overdue(session, placed(session, order(name, None)))
    assert SITE not in settlement.sites_to_ask(session, after(30))
    for at_once in (False, True):
        assert settlement.lease_questions(session, SITE, after(30), at_once=at_once) == ([], None)
    assert placed(session, order("report", None), after(30)).args == {"commands": []}
    minute_s = settlement.ANSWERED_WITHIN.total_seconds()
    assert settlement.end_unanswered(session, after(9.999 + minute_s)) == []
    (ended,) = settlement.end_unanswered(session, after(10 + minute_s))
    assert (ended.id, ended.state, ended.code) == (question.id, S.FAILED, "no_reply")
    assert settlement.end_unanswered(session, after(10 + minute_s)) == []


def test_a_question_that_is_answered_late_was_answered(session: Session) -> None:
    question = overdue(session, placed(session, order("ping", None)))
    answer(session, question, "applied", 40)
    assert settlement.end_unanswered(session, after(1000)) == []
    assert now_is(session, question).state == S.APPLIED


# --- stop and release --------------------------------------------------------------------------------------------


def test_a_latched_stop_is_sent_again_and_never_asked_about(session: Session) -> None:
    stop = overdue(session, placed(session, order("stop_all", None), to=None))
    ids, again = settlement.lease_questions(session, SITE, after(11), at_once=False)
    assert ids == []
    assert again is not None
    assert again.id == stop.id
    session.flush()
    assert settlement.lease_questions(session, SITE, after(11.5), at_once=False) == ([], None)


def test_a_stop_that_another_one_replaced_while_the_site_was_away_was_never_executed(session: Session) -> None:
    first = placed(session, order("stop_all", None), to=None)
    second = placed(session, order("stop_all", None), after(1), to=None)
    overdue(session, first)
    overdue(session, second)
    ids, again = settlement.lease_questions(session, SITE, after(20), at_once=True)
    assert (ids, again and again.id) == ([first.id], second.id)
    outcome(session, first, "not_seen")
    assert now_is(session, first).state == S.NOT_EXECUTED
    assert session.get_one(Site, SITE).stop_command_id == second.id


def test_a_confirmed_stop_is_told_again_to_a_new_session_only(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    answer(session, stop, "applied", feeders={"f1": {"confirmed": True}})
    assert settlement.lease_questions(session, SITE, after(20), at_once=False) == ([], None)
    _, again = settlement.lease_questions(session, SITE, after(20), at_once=True)
    assert again is not None
    assert again.id == stop.id


def test_an_applied_release_clears_the_latch(session: Session) -> None:
    placed(session, order("stop_all", None), to=None)
    release = placed(session, order("release", None))
    answer(session, release, "received")
    session.expire_all()
    assert session.get_one(Site, SITE).stopped_at == NOW
    answer(session, release, "applied")
    session.expire_all()
    site = session.get_one(Site, SITE)
    assert (site.stopped_at, site.stop_command_id, site.stop_epoch) == (None, None, 2)
    assert settlement.lease_questions(session, SITE, after(20), at_once=True) == ([], None)


@pytest.mark.parametrize("end", ["rejected", "failed"])
def test_a_release_that_was_not_applied_leaves_the_latch(session: Session, end: str) -> None:
    placed(session, order("stop_all", None), to=None)
    release = placed(session, order("release", None))
    answer(session, release, end)
    session.expire_all()
    assert session.get_one(Site, SITE).stopped_at == NOW


def test_a_release_never_clears_a_stop_that_was_ordered_after_it(session: Session) -> None:
    placed(session, order("stop_all", None), to=None)
    release = placed(session, order("release", None))
    second = placed(session, order("stop_all", None), after(1), to=None)
    answer(session, release, "applied", 2)
    session.expire_all()
    site = session.get_one(Site, SITE)
    assert (site.stopped_at, site.stop_command_id, site.stop_epoch) == (after(1), second.id, 3)


def test_a_stop_whose_release_came_to_nothing_goes_on_and_does_not_look_older_than_it(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    release = placed(session, order("release", None))
    answer(session, release, "rejected", code="not_remote")
    again = settlement.lease_questions(session, SITE, after(20), at_once=True)[1]
    assert again is not None
    assert (again.id, again.stop_epoch) == (stop.id, release.stop_epoch)


def test_the_second_of_two_releases_may_be_lost(session: Session) -> None:
    placed(session, order("stop_all", None), to=None)
    first = placed(session, order("release", None))
    placed(session, order("release", None))
    answer(session, first, "applied")
    session.expire_all()
    assert session.get_one(Site, SITE).stopped_at is None


def test_a_stop_that_looks_old_to_its_desktop_is_told_again_with_a_higher_epoch(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    answer(session, stop, "rejected", code="stale_epoch")
    assert now_is(session, stop).state == S.UNKNOWN
    again = settlement.lease_questions(session, SITE, after(1), at_once=False)[1]
    assert again is not None
    assert again.stop_epoch == session.get_one(Site, SITE).stop_epoch == int(after(1).timestamp())


def test_a_stop_that_a_release_has_outrun_is_not_told_again(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    release = placed(session, order("release", None))
    answer(session, stop, "rejected", code="stale_epoch")
    assert now_is(session, stop).state == S.REJECTED
    answer(session, release, "applied")
    session.expire_all()
    assert session.get_one(Site, SITE).stopped_at is None


def test_a_late_release_told_by_a_report_clears_the_latch_too(session: Session) -> None:
    placed(session, order("stop_all", None), to=None)
    release = overdue(session, placed(session, order("release", None)))
    outcome(session, release, "applied")
    session.expire_all()
    assert session.get_one(Site, SITE).stopped_at is None


def test_the_stops_reply_tells_of_each_feeder(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    told = {"f1": {"confirmed": True}, "f2": {"confirmed": False, "code": "plc_lost"}}
    answer(session, stop, "applied", feeders=told)
    assert now_is(session, stop).result == {"feeders": told}


def test_a_stop_that_some_plc_has_not_confirmed_goes_on_and_may_still_be_confirmed(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    partly = {"f1": {"confirmed": True}, "f2": {"confirmed": False, "code": "plc_lost"}}
    assert answer(session, stop, "failed", code="plc_lost", feeders=partly).contradiction is None
    assert now_is(session, stop).state == S.RECEIVED
    assert now_is(session, stop).result == {"feeders": partly}
    answer(session, stop, "applied", feeders={"f1": {"confirmed": True}, "f2": {"confirmed": True}})
    assert now_is(session, stop).state == S.APPLIED


def test_what_a_confirmed_stop_was_settled_with_is_not_overwritten_by_a_later_partial_reply(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    confirmed = {"f1": {"confirmed": True}, "f2": {"confirmed": True}}
    answer(session, stop, "applied", feeders=confirmed)
    later = answer(session, stop, "failed", 60, feeders={"f1": {"confirmed": False, "code": "plc_lost"}})
    assert (later.moved, later.contradiction) == (False, None)
    assert now_is(session, stop).result == {"feeders": confirmed}


def test_a_stop_that_failed_without_naming_a_feeder_is_sent_again_too(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    answer(session, stop, "failed", code="plc_lost")
    assert now_is(session, stop).state == S.RECEIVED
    overdue(session, stop)
    _, again = settlement.lease_questions(session, SITE, after(20), at_once=False)
    assert again is not None


# --- the whole table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", CommandState)
def test_a_command_moves_as_the_table_says_and_no_other_way(session: Session, before: CommandState) -> None:
    for to in CommandState:
        command = dose(session)
        session.flush()
        row = session.get_one(Command, command.id)
        row.state, row.settled_at = before, NOW if before in SETTLED else None
        for step in stories(session, [command.id])[command.id]:
            session.delete(step)
        session.flush()
        allowed = to in _ALLOWED[before]
        assert (settlement.advance(session, command.id, to, "test", after(1)) is not None) is allowed
        row = now_is(session, command)
        assert row.state == (to if allowed else before)
        assert states(session, command) == ([to] if allowed else [])
        if allowed:
            assert row.settled_at == (after(1) if to in SETTLED else None)


_ANSWERED = {S.APPLIED, S.REJECTED, S.FAILED}
_ALLOWED: dict[CommandState, set[CommandState]] = {state: set() for state in CommandState} | {
    S.PENDING: {S.SENT, S.REFUSED, S.EXPIRED, S.SUPERSEDED},
    S.SENT: _ANSWERED | {S.RECEIVED, S.UNKNOWN},
    S.RECEIVED: _ANSWERED | {S.UNKNOWN},
    S.UNKNOWN: _ANSWERED | {S.NOT_EXECUTED, S.UNRESOLVED},
}
