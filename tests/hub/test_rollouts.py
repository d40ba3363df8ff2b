"""Rollouts: driven by one process, relieved by another; nothing is sent twice, and nothing after an abort."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import Session, update

from hub import rollout_rows as rows
from hub.audit import By
from hub.errors import KeyReused, NotAllowed, NotFound, RolloutEnded
from hub.feeders import take_state
from hub.models import ROLLOUT, Rollout
from hub.orders import Key
from hub.protocol import messages
from hub.protocol.times import utc_now
from hub.rights import Caller, Role
from hub.rollout_plan import Change, Selection
from hub.rollout_rules import Part, Plan, RolloutState
from hub.rollouts import Rollouts, _order
from tests.hub.conftest import NOW, Overheard, Process, StartProcess, after, state, until

pytestmark = pytest.mark.both_databases

BY = By("token:anna")
CALLER = Caller("01J00000000000000000000000", "anna", {None: frozenset({Role.OPERATOR})})
EVERYTHING = Selection(everything=True)
FEEDERS = [("pond7", "f1"), ("pond7", "f2"), ("pond8", "f1"), ("pond8", "f2")]
FAST = Plan(max_in_flight=10, per_minute=6000, abort_share=0.5, abort_after=1)
MORE = Change("set_config", {"meal_g": 300.0})


def draft(**how: Any) -> rows.Draft:
    given = {"change": MORE, "plan": FAST, "canaries": 1, "queue_for_s": None} | how
    return rows.Draft(CALLER.id, CALLER.actor, **given)


def driver_of(process: Process) -> Rollouts:
    return Rollouts(process.database, process.liveness, process.stream, process.commands)


def answers(process: Process, status: Callable[[messages.Command, str], str]) -> None:
    """The desktops answer every change at once, with the status for command and feeder (`site/feeder`)."""

    def answer(command: messages.Command) -> None:
        if command.name != "set_config":
            return
        topic = process.link.published[-1][0].split("/")
        said = status(command, f"{topic[2]}/{topic[4]}")
        if said != "silent":
            result = {name: command.args[name] for name in ("config", "config_version", "local_rev")}
            fields = result if said == "applied" else {"code": "bad"}
            told = messages.Reply.model_validate({"id": command.id, "status": said} | fields)
            process.link.hand(f"fh/v1/{topic[2]}/replies/{command.reply_to.rsplit('/', 1)[1]}", told)

    process.link.on_publish = answer


async def known(process: Process, *sites: str) -> None:
    """These sites are alive, and every feeder's config is known."""

    def work(session: Session) -> None:
        for site, feeder in FEEDERS:
            take_state(session, site, feeder, state(), NOW)

    await process.database.write(work)
    for site in sites or ("pond7", "pond8"):
        await process.beat(site=site)


async def parts(process: Process, rollout_id: str) -> dict[str, Part]:
    found = await process.database.read(lambda session: rows.list_parts(session, rollout_id, None, None, None, 100))
    return {f"{part.site_id}/{part.feeder_id}": Part(part.state) for part in found}


async def settled(process: Process, rollouts: Rollouts, rollout_id: str) -> Rollout:
    async def look() -> Rollout | None:
        await rollouts.look()
        row = await process.database.read(lambda session: session.get_one(Rollout, rollout_id))
        return row if row.settled_at is not None else None

    found: Rollout = await until(look)
    return found


async def test_every_feeder_gets_it_once_the_canary_first(process: Process) -> None:
    await known(process)
    answers(process, lambda command, feeder: "applied")
    rollouts = driver_of(process)
    async with Overheard(process.stream) as overheard:
        made = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
        row = await settled(process, rollouts, made.id)
        await overheard.settled()
    assert (row.state, row.reason) == (RolloutState.FINISHED, None)
    assert await parts(process, made.id) == {f"{site}/{feeder}": Part.APPLIED for site, feeder in FEEDERS}
    assert len(process.link.said("set_config")) == len(FEEDERS)
    told = [entry for entry in overheard.entries if entry.kind == "rollout"]
    assert {entry.site for entry in told} == {"pond7", "pond8"}
    assert told[-1].data["counts"]["applied"] == 2
    assert told[-1].data["settled"] is True


async def test_a_canary_that_is_rejected_aborts_and_nobody_else_is_sent_anything(process: Process) -> None:
    await known(process)
    answers(process, lambda command, feeder: "rejected")
    rollouts = driver_of(process)
    made = await rollouts.start(CALLER, EVERYTHING, draft(canaries=2), BY)
    row = await settled(process, rollouts, made.id)
    assert row.state == RolloutState.ABORTED
    assert row.reason
    found = await parts(process, made.id)
    assert sorted(found.values()) == sorted([Part.REFUSED, Part.REFUSED, Part.SKIPPED, Part.SKIPPED])
    assert len(process.link.said("set_config")) == 2


async def test_others_wait_until_every_canary_has_ended(process: Process) -> None:
    await known(process)
    answers(process, lambda command, feeder: "silent")
    rollouts = driver_of(process)
    made = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
    for _ in range(3):
        await rollouts.look()
    [canary] = process.link.said("set_config")
    answers(process, lambda command, feeder: "applied")
    result = {name: canary.args[name] for name in ("config", "config_version", "local_rev")}
    await process.answer(canary.id, "applied", **result)
    assert (await settled(process, rollouts, made.id)).state == RolloutState.FINISHED


async def test_what_cannot_be_changed_is_left_out_and_a_second_rollout_only_does_the_rest(process: Process) -> None:
    await known(process)
    answers(process, lambda command, feeder: "applied")
    rollouts = driver_of(process)
    first = await rollouts.start(CALLER, Selection(feeders=(("pond7", "f1"),)), draft(), BY)
    await settled(process, rollouts, first.id)
    planned = await rollouts.preview(CALLER, EVERYTHING, MORE, may_wait=False)
    assert [each.is_needless for each in planned] == [True, False, False, False]
    assert planned[1].before == {"meal_g": 250.0}
    assert planned[1].after == {"meal_g": 300.0}
    too_much = await rollouts.preview(CALLER, EVERYTHING, Change("set_config", {"meal_g": 1e6}), may_wait=False)
    assert [fault.field for fault in getattr(too_much[0].refusal, "faults", ())] == ["meal_g"]
    second = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
    await settled(process, rollouts, second.id)
    assert (await parts(process, second.id))["pond7/f1"] == Part.LEFT_OUT
    assert len(process.link.said("set_config")) == len(FEEDERS)


async def test_a_site_that_is_away_is_refused_or_waited_for(process: Process) -> None:
    await known(process, "pond7")
    answers(process, lambda command, feeder: "applied")
    rollouts = driver_of(process)
    refused = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
    await settled(process, rollouts, refused.id)
    found = await parts(process, refused.id)
    assert [found["pond8/f1"], found["pond7/f1"]] == [Part.LEFT_OUT, Part.APPLIED]

    waits = await rollouts.start(CALLER, EVERYTHING, draft(queue_for_s=3600), BY)
    for _ in range(3):
        await rollouts.look()
    assert (await parts(process, waits.id))["pond8/f1"] == Part.WAITING
    await process.beat(site="pond8")
    assert (await settled(process, rollouts, waits.id)).state == RolloutState.FINISHED
    assert (await parts(process, waits.id))["pond8/f2"] == Part.APPLIED


async def test_who_waited_too_long_for_its_site_is_refused(process: Process) -> None:
    await known(process, "pond7")
    rollouts = driver_of(process)
    selection = Selection(sites=("pond8",))
    made = await rollouts.start(CALLER, selection, draft(queue_for_s=0.05), BY)
    row = await settled(process, rollouts, made.id)
    assert row.state == RolloutState.ABORTED  # the canary never came to its turn
    assert set((await parts(process, made.id)).values()) == {Part.REFUSED, Part.SKIPPED}
    assert process.link.said("set_config") == []


async def test_a_paused_one_sends_nothing_and_a_cancelled_one_never_goes_on(process: Process) -> None:
    await known(process)
    answers(process, lambda command, feeder: "applied")
    rollouts = driver_of(process)
    made = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
    await rollouts.turn_to(made.id, RolloutState.PAUSED, BY)
    await rollouts.look()
    assert process.link.said("set_config") == []
    await rollouts.turn_to(made.id, RolloutState.CANCELLED, By("ben"))
    row = await settled(process, rollouts, made.id)
    assert (row.state, row.ended_by) == (RolloutState.CANCELLED, "ben")
    assert set((await parts(process, made.id)).values()) == {Part.SKIPPED}
    assert (await rollouts.turn_to(made.id, RolloutState.CANCELLED, By("carl"))).ended_by == "ben"
    with pytest.raises(RolloutEnded):
        await rollouts.turn_to(made.id, RolloutState.RUNNING, BY)


async def test_another_process_goes_on_where_a_driver_died_and_sends_nothing_twice(
    start_process: StartProcess,
) -> None:
    one, other = await start_process("h1"), await start_process("h2")
    await known(one)
    answers(one, lambda command, feeder: "applied")
    answers(other, lambda command, feeder: "applied")
    dying, heir = driver_of(one), driver_of(other)
    made = await dying.start(CALLER, EVERYTHING, draft(), BY)
    now = utc_now()
    # It takes the lease, claims the canary, publishes it, and dies before it has noted that.
    assert await one.database.write(lambda session: rows.take_lease(session, made.id, dying._driver, now))
    taken = await one.database.write(lambda session: rows.take_step(session, made.id, dying._driver, [], [], now))
    [claimed] = taken.claimed
    row = await one.database.read(lambda session: session.get_one(Rollout, made.id))
    one.link.on_publish = None
    await one.commands.send(_order(row, claimed), wait_s=0)
    await heir.look()
    assert other.link.published == [], "the lease has not run out yet"
    await one.database.write(
        lambda session: session.connection().execute(update(ROLLOUT).values(leased_until=after(-3600)))
    )
    await heir.look()
    assert len(one.link.said("set_config")) == 1
    assert other.link.said("set_config") == []
    [canary] = one.link.said("set_config")
    result = {name: canary.args[name] for name in ("config", "config_version", "local_rev")}
    await one.answer(canary.id, "applied", **result)
    assert (await settled(other, heir, made.id)).state == RolloutState.FINISHED
    assert len(one.link.said("set_config")) + len(other.link.said("set_config")) == len(FEEDERS)


async def test_two_drivers_at_once_send_every_change_once(start_process: StartProcess) -> None:
    one, other = await start_process("h1"), await start_process("h2")
    await known(one)
    for process in (one, other):
        answers(process, lambda command, feeder: "applied")
    async with driver_of(one) as first, driver_of(other):
        made = await first.start(CALLER, EVERYTHING, draft(), BY)

        async def has_settled() -> bool:
            row = await one.database.read(lambda session: session.get_one(Rollout, made.id))
            return row.settled_at is not None

        await until(has_settled, 10)
    assert set((await parts(one, made.id)).values()) == {Part.APPLIED}
    assert len(one.link.said("set_config")) + len(other.link.said("set_config")) == len(FEEDERS)


async def test_a_broker_that_is_away_leaves_it_waiting_and_after_a_cancel_nothing_goes_out(process: Process) -> None:
    await known(process)
    process.link.connected = False
    rollouts = driver_of(process)
    made = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
    await rollouts.look()
    assert set((await parts(process, made.id)).values()) == {Part.WAITING}
    await rollouts.turn_to(made.id, RolloutState.CANCELLED, BY)
    process.link.connected = True
    await settled(process, rollouts, made.id)
    assert process.link.said("set_config") == []


async def test_the_same_key_starts_one_rollout(process: Process) -> None:
    await known(process)
    rollouts = driver_of(process)
    key = Key(CALLER.id, "k", "same")
    first = await rollouts.start(CALLER, EVERYTHING, draft(key=key), BY)
    assert (await rollouts.start(CALLER, EVERYTHING, draft(key=key), BY)).id == first.id
    with pytest.raises(KeyReused):
        await rollouts.start(CALLER, EVERYTHING, draft(key=Key(CALLER.id, "k", "other")), BY)


async def test_it_takes_the_right_at_every_site_and_a_part_is_seen_by_who_sees_the_site(process: Process) -> None:
    await known(process)
    rollouts = driver_of(process)
    made = await rollouts.start(CALLER, EVERYTHING, draft(), BY)
    mine = Caller("x", "x", {"pond7": frozenset({Role.OPERATOR}), "pond8": frozenset({Role.VIEWER})})
    neighbour = Caller("y", "y", {"pond8": frozenset({Role.OPERATOR})})
    with pytest.raises(NotAllowed):
        await rollouts.start(mine, Selection(sites=("pond7", "pond8")), draft(), BY)
    with pytest.raises(NotFound):
        await rollouts.start(neighbour, Selection(feeders=(("pond7", "f1"),)), draft(), BY)
    only = await rollouts.preview(neighbour, EVERYTHING, MORE, may_wait=False)
    assert {each.site for each in only} == {"pond8"}

    def seen(session: Session, caller: Caller) -> int:
        rows.get(session, made.id, caller.sites)
        return sum(rows.counts_of(session, [made.id], caller.sites)[made.id].values())

    assert await process.database.read(lambda session: seen(session, neighbour)) == 2
    assert await process.database.read(lambda session: seen(session, CALLER)) == 4
    stranger = Caller("z", "z", {"pond9": frozenset({Role.ADMIN})})
    with pytest.raises(NotFound):
        await process.database.read(lambda session: seen(session, stranger))
