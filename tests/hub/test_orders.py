"""Placing an order: the checks, the row, the version, the key; and nothing at all where it is refused."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from hub import settlement, waiting
from hub.command_states import CommandState
from hub.database import Database
from hub.errors import ConfigChanged, ConfigUnknown, HubError, InvalidOrder, KeyReused, NotFound, Stopped
from hub.feeders import etag, take_state
from hub.models import Command, CommandStep, ConfigRevision, Feeder, IdempotencyKey, Site
from hub.orders import Key, Order, merge_patch, place, placed_before, to_message
from hub.protocol.messages import FeederConfig
from hub.stories import stories
from tests.hub.conftest import (
    CONFIG,
    DESK,
    FEEDER,
    NOW,
    SITE,
    TO,
    TOPICS,
    after,
    config_order,
    order,
    placed,
    reply,
    state,
)

pytestmark = pytest.mark.both_databases

KEY = Key("someone", "key-1", "body-1")
DISK_FULL = {
    "sqlite": ["CREATE TEMP TRIGGER full BEFORE INSERT ON command_step BEGIN SELECT RAISE(ABORT, 'disk full'); END"],
    "postgresql": [
        "CREATE FUNCTION pg_temp.fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''disk full''; END'",
        "CREATE TRIGGER fails BEFORE INSERT ON command_step FOR EACH ROW EXECUTE FUNCTION pg_temp.fail()",
    ],
}


def feeder(session: Session) -> Feeder:
    session.flush()
    return session.get_one(Feeder, (SITE, FEEDER), populate_existing=True)


def known(session: Session, **reported: Any) -> Feeder:
    """The farm has told its config."""
    taken = take_state(session, SITE, FEEDER, state(**({"config_version": 7, "local_rev": 3} | reported)), NOW)
    assert taken is not None
    return feeder(session)


def refused(session: Session, ordered: Order, error: type[HubError]) -> HubError:
    """Placing it raises, and afterwards every table is as it was."""
    session.commit()
    before = everything(session)
    with pytest.raises(error) as raised:
        place(session, ordered, TO, DESK, NOW)
    session.rollback()
    assert everything(session) == before
    return raised.value


def everything(session: Session) -> list[Any]:
    tables = (Site, Feeder, Command, CommandStep, ConfigRevision, IdempotencyKey)
    return [[row.model_dump() for row in session.exec(select(table))] for table in tables]


# --- the row and the message -------------------------------------------------------------------------------------


def test_the_row_tells_who_ordered_what_when_and_until_when(session: Session) -> None:
    command = placed(session, order("feed", args={"grams": 250.0}))
    assert command.state is CommandState.SENT
    assert (command.site_id, command.feeder_id, command.name, command.actor) == (SITE, FEEDER, "feed", "anna")
    assert (command.session, command.journal_id, command.hub_id) == (TO.session, TO.journal_id, "h1")
    assert (command.created_at, command.expires_at, command.settled_at) == (NOW, after(10), None)
    steps = stories(session, [command.id])[command.id]
    assert [(step.state, step.at) for step in steps] == [("pending", NOW), ("sent", NOW)]


def test_the_message_is_the_row(session: Session) -> None:
    known(session)
    done = place(session, config_order(), TO, DESK, NOW)
    assert done.is_new
    message = to_message(done.command, TOPICS, NOW)
    assert (message.id, message.name, message.session, message.journal_id) == (
        done.command.id,
        "set_config",
        TO.session,
        TO.journal_id,
    )
    assert message.reply_to == TOPICS.replies(SITE, "h1")
    assert (message.issued_at, message.expires_at, message.stop_epoch) == (NOW, after(10), 0)
    assert message.args == {"config": CONFIG, "config_version": 8, "local_rev": 3, "time_zone": "Asia/Jerusalem"}


def test_a_doses_deadline_includes_its_grams_over_its_feed_rate(session: Session) -> None:
    known(session)
    command = placed(session, order("feed", args={"grams": 1250.0}))
    assert command.expires_at == after(10)
    assert (command.deadline_at - command.expires_at).total_seconds() >= 1250 / 12.5
    assert placed(session, order("pause")).deadline_at == after(10)


@pytest.mark.parametrize(
    ("name", "args", "field"),
    [
        ("feed", {}, "args.grams"),
        ("feed", {"grams": 0}, "args.grams"),
        ("feed", {"grams": 20_001}, "args.grams"),
        ("feed", {"grams": "250"}, "args.grams"),
        ("feed", {"grams": True}, "args.grams"),
        ("feed", {"grams": float("nan")}, "args.grams"),
        ("feed", {"grams": 10, "gramms": 10}, "args.gramms"),
        ("pause", {"for_s": 10}, "args.for_s"),
        ("calibrate", {"x": None}, "args.x"),
    ],
)
def test_wrong_arguments_are_refused_by_their_names(session: Session, name: str, args: Any, field: str) -> None:
    error = refused(session, order(name, args=args), InvalidOrder)
    assert isinstance(error, InvalidOrder)
    assert field in [fault.field for fault in error.faults]


def test_a_broken_limit_is_told(session: Session) -> None:
    error = refused(session, order("feed", args={"grams": 20_001}), InvalidOrder)
    assert isinstance(error, InvalidOrder)
    assert error.faults[0].limit == 20_000


@pytest.mark.parametrize(("site", "to_feeder"), [("nowhere", FEEDER), (SITE, "f9"), ("nowhere", None)])
def test_an_order_for_what_is_not_there_is_refused(session: Session, site: str, to_feeder: str | None) -> None:
    refused(session, order("pause" if to_feeder else "ping", to_feeder, site), NotFound)


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_are_one_more_than_the_highest_given_out_or_reported(session: Session) -> None:
    assert placed(session, config_order()).args["config_version"] == 1
    assert placed(session, config_order()).args["config_version"] == 2
    known(session, config_version=40)
    assert placed(session, config_order()).args["config_version"] == 41
    known(session, seq=2, config_version=41)
    assert placed(session, config_order()).args["config_version"] == 42
    assert placed(session, config_order(feeder="f2")).args["config_version"] == 1


def test_a_restored_database_gives_out_no_version_again_once_the_farm_has_told_its_own(session: Session) -> None:
    known(session, config_version=18)
    session.commit()
    assert placed(session, config_order()).args["config_version"] == 19
    session.rollback()  # the backup knows nothing of version 19
    known(session, seq=2, config_version=19)
    assert placed(session, config_order()).args["config_version"] == 20


def test_a_rejection_for_its_version_raises_the_next_one(session: Session) -> None:
    command = placed(session, config_order())
    stale = reply(command.id, "rejected", code="stale_version", config=CONFIG, config_version=30, local_rev=3)
    settlement.take_reply(session, SITE, stale, after(1))
    assert placed(session, config_order()).args["config_version"] == 31


def test_a_change_is_a_revision_with_its_command_and_its_actor(session: Session) -> None:
    known(session)
    command = placed(session, config_order(actor="ben"))
    session.flush()
    (revision,) = session.exec(select(ConfigRevision).where(ConfigRevision.origin == "hub")).all()
    assert (revision.version, revision.local_rev, revision.actor) == (8, 3, "ben")
    assert (revision.command_id, revision.config) == (command.id, CONFIG)


def test_two_processes_never_give_out_one_version_twice(database_url: str) -> None:
    processes = [Database(database_url) for _ in range(3)]
    versions: list[int] = []

    def give_out(database: Database) -> None:
        for _ in range(8):
            command = database.write_now(lambda session: placed(session, config_order()))
            versions.append(command.args["config_version"])

    threads = [threading.Thread(target=give_out, args=(database,)) for database in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in processes:
        database.close()
    assert sorted(versions) == list(range(1, 25))


# --- If-Match and PATCH ------------------------------------------------------------------------------------------


def test_a_change_upon_the_current_config_is_taken(session: Session) -> None:
    current = etag(known(session))
    assert current == '"7.3"'
    placed(session, config_order(if_match=current))


@pytest.mark.parametrize("if_match", ['"6.3"', '"7.2"', '"7"', "7.3", '""', 'W/"7.3"'])
def test_a_change_upon_another_config_is_refused_with_the_current_etag(session: Session, if_match: str) -> None:
    known(session)
    error = refused(session, config_order(if_match=if_match), ConfigChanged)
    assert isinstance(error, ConfigChanged)
    assert error.etag == '"7.3"'


def test_one_of_several_tags_is_enough(session: Session) -> None:
    known(session)
    placed(session, config_order(if_match='"1.0", "7.3"'))


def test_any_known_config_will_do_for_a_star(session: Session) -> None:
    refused(session, config_order(if_match="*"), ConfigChanged)
    known(session)
    placed(session, config_order(if_match="*"))
    placed(session, config_order(if_match="*"))


def test_a_second_change_upon_the_same_config_is_refused_while_the_first_is_on_its_way(session: Session) -> None:
    known(session)
    first = placed(session, config_order(if_match='"7.3"'))
    refused(session, config_order(if_match='"7.3"'), ConfigChanged)
    settlement.take_reply(session, SITE, reply(first.id, "rejected", code="not_remote"), after(1))
    placed(session, config_order(if_match='"7.3"'))


def test_after_the_first_change_is_applied_its_own_etag_is_the_current_one(session: Session) -> None:
    known(session)
    first = placed(session, config_order(if_match='"7.3"'))
    applied = reply(first.id, "applied", config=CONFIG, config_version=8, local_rev=3)
    settlement.take_reply(session, SITE, applied, after(1))
    refused(session, config_order(if_match='"7.3"'), ConfigChanged)
    placed(session, config_order(if_match='"8.3"'))


def test_a_patch_changes_its_fields_of_the_reported_config_only(session: Session) -> None:
    known(session)
    command = placed(session, config_order(patch=True, args={"meal_g": 300.0, "window": {"end": "20:00"}}))
    assert command.args["config"] == CONFIG | {"meal_g": 300.0, "window": {"start": "06:00", "end": "20:00"}}


def test_a_patch_while_a_change_is_on_its_way_builds_upon_that_change(session: Session) -> None:
    known(session)
    first = placed(session, config_order(patch=True, args={"meal_g": 300.0}))
    second = placed(session, config_order(patch=True, args={"interval_s": 7200}))
    assert second.args["config"] == CONFIG | {"meal_g": 300.0, "interval_s": 7200}
    settlement.take_reply(session, SITE, reply(first.id, "failed"), after(1))
    waiting.send_waiting(session, SITE, TO, DESK, after(1))
    settlement.take_reply(session, SITE, reply(second.id, "failed"), after(1))
    third = placed(session, config_order(patch=True, args={"interval_s": 7200}))
    assert third.args["config"] == CONFIG | {"interval_s": 7200}


def test_a_patch_of_a_config_that_nobody_knows_is_refused(session: Session) -> None:
    refused(session, config_order(patch=True, args={"meal_g": 300.0}), ConfigUnknown)


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"meal_g": 0}, "meal_g"),
        ({"meal_g": None}, "meal_g"),
        ({"meal_g": "300"}, "meal_g"),
        ({"meals": 3}, "meals"),
        ({"window": "all day"}, "window"),
        ({"window": {"start": "25:00"}}, "window.start"),
        ({"interval_s": 3600.5}, "interval_s"),
        ({"meal_g": 4001.0}, "body"),
    ],
)
def test_a_patch_that_breaks_the_config_is_refused_by_its_field(session: Session, patch: Any, field: str) -> None:
    known(session)
    error = refused(session, config_order(patch=True, args=patch), InvalidOrder)
    assert isinstance(error, InvalidOrder)
    assert field in [fault.field for fault in error.faults]


def test_a_config_that_lacks_a_field_is_refused_with_every_field_at_fault(session: Session) -> None:
    wrong = {name: value for name, value in CONFIG.items() if name != "window"} | {"meal_g": -1, "interval_s": 1}
    error = refused(session, config_order(args=wrong), InvalidOrder)
    assert isinstance(error, InvalidOrder)
    assert {fault.field for fault in error.faults} == {"window", "meal_g", "interval_s"}


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merging_is_that_of_rfc_7396(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


# --- stop and release --------------------------------------------------------------------------------------------


def test_a_stop_latches_and_raises_the_epoch_in_the_same_transaction(session: Session) -> None:
    command = placed(session, order("stop_all", None), to=None)
    site = session.get_one(Site, SITE)
    assert (site.stop_epoch, site.stopped_at, site.stop_command_id) == (1, NOW, command.id)
    assert command.stop_epoch == 1
    message = to_message(command, TOPICS, NOW)
    assert message.session is None
    assert message.journal_id is None


def test_each_stop_and_each_release_raises_the_epoch_and_later_commands_carry_it(session: Session) -> None:
    epochs = [placed(session, order(name, None), to=None).stop_epoch for name in ("stop_all", "stop_all", "release")]
    session.flush()
    assert [*epochs, placed(session, order("pause")).stop_epoch] == [1, 2, 3, 3]


def test_a_stop_names_no_session_even_where_one_is_alive(session: Session) -> None:
    command = placed(session, order("stop_all", None), to=TO)
    assert (command.session, command.journal_id) == (None, None)


@pytest.mark.parametrize("name", ["feed", "resume", "calibrate"])
def test_while_the_stop_is_latched_nothing_moves(session: Session, name: str) -> None:
    placed(session, order("stop_all", None), to=None)
    refused(session, order(name, args={"grams": 250.0} if name == "feed" else {}), Stopped)


def test_while_the_stop_is_latched_a_feeder_can_be_paused(session: Session) -> None:
    placed(session, order("stop_all", None), to=None)
    assert placed(session, order("pause")).state is CommandState.SENT


def test_while_the_stop_is_latched_no_config_is_changed(session: Session) -> None:
    known(session)
    placed(session, order("stop_all", None), to=None)
    refused(session, config_order(), Stopped)
    placed(session, config_order(site="pond8"))


def test_where_nothing_is_stopped_there_is_nothing_to_release(session: Session) -> None:
    refused(session, order("release", None), InvalidOrder)


def test_a_report_asks_for_what_is_unknown_and_can_no_longer_begin(session: Session) -> None:
    gone, dose = placed(session, order("pause")), placed(session, order("feed", args={"grams": 250.0}))
    placed(session, order("pause"), after(15))
    placed(session, order("pause", site="pond8"))
    settlement.mark_overdue(session, after(20))
    report = placed(session, order("report", None), after(20))
    assert report.args == {"commands": [gone.id]}
    settlement.mark_overdue(session, after(1000))
    assert dose.id in placed(session, order("report", None), after(1000)).args["commands"]


def test_a_ping_names_the_heartbeat_that_it_answers(session: Session) -> None:
    assert placed(session, order("ping", None)).args == {"session": TO.session, "seq": TO.seq}


# --- keys --------------------------------------------------------------------------------------------------------


def test_the_same_key_with_the_same_body_is_the_same_command(session: Session) -> None:
    first = place(session, order("feed", args={"grams": 250.0}, key=KEY), TO, DESK, NOW)
    again = place(session, order("feed", args={"grams": 250.0}, key=KEY), TO, DESK, after(60))
    assert again.command.id == first.command.id
    assert not again.is_new
    assert len(session.exec(select(Command)).all()) == 1


def test_the_same_key_with_another_body_is_refused(session: Session) -> None:
    placed(session, order("feed", args={"grams": 250.0}, key=KEY))
    refused(session, order("feed", args={"grams": 300.0}, key=Key("someone", KEY.text, "body-2")), KeyReused)


def test_the_same_key_of_another_owner_is_another_key(session: Session) -> None:
    first = placed(session, order("feed", args={"grams": 250.0}, key=KEY))
    theirs = Key("somebody else", KEY.text, KEY.fingerprint)
    second = placed(session, order("feed", args={"grams": 250.0}, key=theirs))
    assert first.id != second.id


def test_a_refusal_is_not_kept_under_its_key(session: Session) -> None:
    stop = placed(session, order("stop_all", None), to=None)
    refused(session, order("feed", args={"grams": 250.0}, key=KEY), Stopped)
    assert placed_before(session, order("feed", args={"grams": 250.0}, key=KEY)) is None
    release = placed(session, order("release", None), after(1))
    settlement.take_reply(session, SITE, reply(release.id, "applied"), after(2))
    session.expire_all()
    assert placed(session, order("feed", args={"grams": 250.0}, key=KEY), after(3)).id != stop.id


def test_the_key_answers_whatever_has_become_of_the_site_meanwhile(session: Session) -> None:
    first = placed(session, order("feed", args={"grams": 250.0}, key=KEY))
    placed(session, order("stop_all", None), to=None)
    assert placed(session, order("feed", args={"grams": 250.0}, key=KEY)).id == first.id


def test_two_processes_with_one_key_place_one_command(database_url: str) -> None:
    processes = [Database(database_url) for _ in range(4)]
    start = threading.Barrier(len(processes))
    ids: list[tuple[int, str, bool]] = []

    def take_turns(database: Database) -> None:
        for turn in range(5):
            start.wait()
            dose = order("feed", args={"grams": 1.0}, key=Key("someone", f"key-{turn}", "body"))
            try:
                done = database.write_now(lambda session, dose=dose: place(session, dose, TO, DESK, NOW))  # type: ignore[misc]  # mypy does not infer a lambda with a default
                ids.append((turn, done.command.id, done.is_new))
            except IntegrityError:  # PostgreSQL: both looked before the other one's was committed
                earlier = database.read_now(lambda session, dose=dose: placed_before(session, dose))  # type: ignore[misc]  # mypy does not infer a lambda with a default
                assert earlier is not None
                ids.append((turn, earlier.id, False))

    threads = [threading.Thread(target=take_turns, args=(database,)) for database in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in processes:
        database.close()
    assert len(ids) == 20
    assert len({(turn, command_id) for turn, command_id, _ in ids}) == 5
    assert sum(is_new for _, _, is_new in ids) == 5


def at_once(database_url: str, *works: Callable[[Database], Any]) -> list[Any]:
    """What becomes of each work (its result, or its refusal), each done by a hub process of its own."""
    with contextlib.ExitStack() as stack:
        processes = [Database(database_url) for _ in works]
        for database in processes:
            stack.callback(database.close)
        start = threading.Barrier(len(works))

        def do(database: Database, work: Callable[[Database], Any]) -> Any:
            start.wait(10)
            try:
                return work(database)
            except HubError as refusal:
                return refusal

        with ThreadPoolExecutor(len(works)) as threads:
            return list(threads.map(do, processes, works))


def feeds(session: Session) -> set[str]:
    return set(session.exec(select(Command.id).where(Command.name == "feed")))


def stop_and_look(session: Session) -> set[str]:
    """Latch the stop; returns the doses that were placed before."""
    placed(session, order("stop_all", None))
    session.flush()
    return feeds(session)


def feed(session: Session) -> set[str]:
    return {placed(session, order("feed", args={"grams": 1.0})).id}


@pytest.mark.parametrize(("first", "second"), [(stop_and_look, feed), (feed, stop_and_look)])
def test_of_a_stop_and_a_dose_at_once_the_later_one_waits_for_the_earlier_one(
    database_url: str, first: Callable[[Session], set[str]], second: Callable[[Session], set[str]]
) -> None:
    first_is_placed = threading.Event()

    def not_committed_for_a_while(session: Session) -> set[str]:
        done = first(session)
        session.flush()
        first_is_placed.set()
        time.sleep(0.2)  # the transaction is held open: a lock that is missing shows now
        return done

    def meanwhile(database: Database) -> set[str]:
        first_is_placed.wait(10)
        return database.write_now(second)

    results = at_once(database_url, lambda database: database.write_now(not_committed_for_a_while), meanwhile)
    if first is feed:
        assert results[0] == results[1]
        assert len(results[0]) == 1
    else:
        assert results[0] == set()
        assert isinstance(results[1], Stopped)


def test_no_dose_is_placed_after_a_stop_however_they_race(database_url: str) -> None:
    def start_again(session: Session) -> None:
        session.get_one(Site, SITE).stopped_at = None

    database = Database(database_url)
    for _ in range(10):
        stop, dose = (lambda hub: hub.write_now(stop_and_look)), (lambda hub: hub.write_now(feed))
        known_to_the_stop, *_ = at_once(database_url, stop, dose, dose)
        assert database.read_now(feeds) == known_to_the_stop
        database.write_now(start_again)
    database.close()


def test_a_command_that_cannot_be_stored_leaves_no_trace(session: Session) -> None:
    known(session)
    session.commit()
    before = everything(session)
    for statement in DISK_FULL[session.get_bind().dialect.name]:
        session.connection().exec_driver_sql(statement)
    with pytest.raises(Exception, match="disk full"):
        placed(session, config_order(key=KEY)), session.flush()
    session.rollback()
    assert everything(session) == before


def test_a_stored_config_is_a_config(session: Session) -> None:
    command = placed(session, config_order())
    assert FeederConfig.model_validate(command.args["config"]).model_dump() == CONFIG


@pytest.mark.parametrize("junk", [2**53 - 1, 2**53])
def test_a_feeder_whose_farm_has_reported_a_version_beyond_all_heals_with_its_next_state(
    session: Session, junk: int
) -> None:
    values = {"last_version": junk, "reported_version": junk}
    session.connection().execute(update(Feeder).values(values))
    with pytest.raises(InvalidOrder, match="no newer one"):
        placed(session, config_order())
    take_state(session, SITE, "f1", state(config_version=7), NOW)
    assert placed(session, config_order()).args["config_version"] == 8
    with pytest.raises(ValidationError):
        state(config_version=2**53)
