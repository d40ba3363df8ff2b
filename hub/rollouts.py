"""Rollouts as they go on: made by people, and driven by one of the hub processes, which the others relieve.

Each look of the driver: what has become of what was sent, what is next (hub.rollout_rules), and the claimed changes go
out by way of Commands, each under an idempotency key made of rollout and feeder. Whoever claims it, it is one command.
"""

import asyncio
import hashlib
from collections.abc import Collection
from types import TracebackType
from typing import Final, Self

import structlog
from sqlmodel import Session
from ulid import ULID

from hub import rollout_rows as rows
from hub.audit import By, Trail, recorded
from hub.commands import Commands
from hub.database import AWAY, Database, why_away
from hub.errors import DesktopOffline, HubError, InvalidOrder, NotAllowed, NotFound, Unavailable
from hub.liveness import LivenessKeys
from hub.models import JsonObject, Rollout, RolloutFeeder
from hub.orders import ConfigOrder, Key, Order
from hub.protocol.times import utc_now
from hub.rights import Caller
from hub.rollout_plan import Change, Planned, Selection, plan_of, select_feeders
from hub.rollout_rows import LEASE, Draft
from hub.rollout_rules import Part, RolloutState, Send
from hub.stream import LiveStream
from hub.tasks import END_WITHIN_S, GoingOn

LOOK_EVERY_S: Final = 0.25
"""While a rollout goes on."""
IDLE_LOOK_EVERY_S: Final = 1.0

_TURNS: Final = {
    RolloutState.PAUSED: "pause_rollout",
    RolloutState.RUNNING: "resume_rollout",
    RolloutState.CANCELLED: "cancel_rollout",
}

log = structlog.get_logger()


class Rollouts:
    """`async with Rollouts(...)`: this process drives what no other one does."""

    def __init__(self, database: Database, liveness: LivenessKeys, stream: LiveStream, commands: Commands) -> None:
        self._database = database
        self._liveness = liveness
        self._stream = stream
        self._commands = commands
        self._driver = str(ULID())
        self._sending: set[tuple[str, int]] = set()
        self._wanted, self._stopping = asyncio.Event(), asyncio.Event()
        self._going_on = GoingOn(self._go_on, "rollouts")

    async def __aenter__(self) -> Self:
        self._task = await self._going_on.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is being sent is sent: a change between its row and its publication would count as lost."""
        self._stopping.set()
        self._wanted.set()
        try:
            await asyncio.wait({self._task}, timeout=END_WITHIN_S)
        finally:
            await self._going_on.__aexit__(kind, error, trace)
        try:
            await self._database.write(lambda session: rows.end_leases(session, self._driver))
        except AWAY as away:
            log.warning("rollouts are left to others after a while only", reason=why_away(away))

    # --- from people ----------------------------------------------------------------------------------------------

    async def preview(self, caller: Caller, selection: Selection, change: Change, *, may_wait: bool) -> list[Planned]:
        """What would change, feeder by feeder, and what would be refused. Raises InvalidOrder."""
        chosen = await self._database.read(lambda session: select_feeders(session, selection, caller))
        live = await self._liveness.read(sorted({each.site for each in chosen}))
        by_site = {each.site: each for each in live}
        # Many configs are checked, which is work for a while.
        return await asyncio.to_thread(plan_of, chosen, change, by_site, may_wait=may_wait)

    async def start(self, caller: Caller, selection: Selection, draft: Draft, by: By) -> Rollout:
        """Raises InvalidOrder, NotFound, NotAllowed, KeyReused; then there is no rollout."""
        earlier = await self._database.read(lambda session: rows.made_before(session, draft.key))
        if earlier is not None:
            return earlier
        planned = await self.preview(caller, selection, draft.change, may_wait=draft.queue_for_s is not None)
        for each in planned:
            if isinstance(each.refusal, NotFound | NotAllowed):
                raise each.refusal
        if not planned:
            raise InvalidOrder("The selection has no feeder.")

        def work(session: Session, trail: Trail) -> Rollout:
            row = rows.make(session, draft, planned, utc_now())
            trail.note(target=row.id, after={"name": draft.change.name, "patch": draft.change.patch})
            return row

        made = await self._database.write(recorded(by, "start_rollout", None, work))
        await self._tell(made.id)
        self._wanted.set()
        return made

    async def turn_to(self, rollout_id: str, state: RolloutState, by: By) -> Rollout:
        """Pause, resume or cancel it. Raises RolloutEnded, NotFound."""

        def work(session: Session, trail: Trail) -> Rollout:
            row = rows.turn_to(session, rollout_id, state, by.actor, utc_now())
            trail.note(target=rollout_id, after={"state": state})
            return row

        row = await self._database.write(recorded(by, _TURNS[state], None, work))
        await self._tell(rollout_id)
        self._wanted.set()
        return row

    # --- as the driver --------------------------------------------------------------------------------------------

    async def _go_on(self) -> None:
        while not self._stopping.is_set():
            self._wanted.clear()
            try:
                busy = await self.look()
            except (Unavailable, *AWAY) as error:
                busy = False
                log.warning("rollouts wait", reason=why_away(error))
            except Exception:
                busy = False
                log.exception("rollouts could not be looked at")
            try:
                async with asyncio.timeout(LOOK_EVERY_S if busy else IDLE_LOOK_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def look(self) -> bool:
        """Bring every rollout of this driver forward; whether one of them is on its way. Raises what is in AWAY."""
        unsettled = await self._database.read(rows.unsettled)
        outcomes = await asyncio.gather(*(self._drive(row) for row in unsettled), return_exceptions=True)
        for row, outcome in zip(unsettled, outcomes, strict=True):
            if isinstance(outcome, (Unavailable, *AWAY)):
                log.warning("a rollout waits", rollout=row.id, reason=why_away(outcome))
            elif isinstance(outcome, BaseException):
                log.error("a rollout could not be brought forward", rollout=row.id, exc_info=outcome)
        return any(outcome is True for outcome in outcomes)

    async def _drive(self, row: Rollout) -> bool:
        now = utc_now()
        if row.driver != self._driver or row.leased_until is None or row.leased_until - now < LEASE / 2:
            if row.driver not in (None, self._driver) and row.leased_until is not None and row.leased_until > now:
                return False
            if not await self._database.write(lambda session: rows.take_lease(session, row.id, self._driver, now)):
                return False
        changed = await self._take_news(row.id)
        looked = await self._database.read(lambda session: rows.look(session, row, now))
        parts = [part for part in looked.again if (part.rollout_id, part.position) not in self._sending]
        if looked.step is not None and not (isinstance(looked.step, Send) and not looked.claims):
            alive, away = await self._who_is_there(looked.sites)
            taken = await self._database.write(
                lambda session: rows.take_step(session, row.id, self._driver, alive, away, utc_now())
            )
            parts += taken.claimed
            changed |= taken.refused
            if taken.ended:
                await self._tell(row.id)
        if parts:
            changed |= {part.site_id for part in parts}
            await asyncio.gather(*(self._send(row, part) for part in parts))
        if await self._database.read(lambda session: rows.is_to_settle(session, row.id)):
            await self._database.write(lambda session: rows.settle(session, row.id, utc_now()))
            await self._tell(row.id)
        elif changed:
            await self._tell(row.id, changed)
        return bool(changed) or (row.ended_at is None and row.state == RolloutState.RUNNING)

    async def _take_news(self, rollout_id: str) -> set[str]:
        """The sites of parts of whose commands more is known."""
        found = await self._database.read(lambda session: rows.news_of(session, rollout_id))
        if not found:
            return set()
        taken = await self._database.write(lambda session: rows.take_news(session, found, utc_now()))
        return {news.part.site_id for news in taken}

    async def _who_is_there(self, sites: list[str]) -> tuple[list[str], list[str]]:
        """Of what cannot be known now neither is said."""
        live = await self._liveness.read(sites)
        return [each.site for each in live if each.alive], [each.site for each in live if each.alive is False]

    async def _send(self, row: Rollout, part: RolloutFeeder) -> None:
        """Place and publish a part's command, and note what became of that."""
        this = part.rollout_id, part.position
        self._sending.add(this)
        try:
            await self._send_and_note(row, part)
        except AWAY as error:
            # It may be stored or not: it is sent again under the same key.
            log.warning("a part of a rollout is sent again later", rollout=row.id, reason=why_away(error))
        finally:
            self._sending.discard(this)

    async def _send_and_note(self, row: Rollout, part: RolloutFeeder) -> None:
        try:
            command = await self._commands.send(_order(row, part), wait_s=0)
        except AWAY:
            raise
        except (Unavailable, DesktopOffline) as error:
            if isinstance(error, DesktopOffline) and row.queue_for_s is None:
                await self._note_refusal(part, error)
            else:
                await self._database.write(lambda session: rows.give_back(session, part, utc_now()))
        except HubError as error:
            await self._note_refusal(part, error)
        else:
            await self._database.write(lambda session: rows.mark_sent(session, part, command.id, utc_now()))

    async def _note_refusal(self, part: RolloutFeeder, error: HubError) -> None:
        await self._database.write(lambda session: rows.mark_refused(session, part, error, utc_now()))

    async def _tell(self, rollout_id: str, sites: Collection[str] | None = None) -> None:
        """Tell the live stream how far it is, to each site its own part."""

        def work(session: Session) -> tuple[Rollout | None, dict[str, dict[Part, int]]]:
            return session.get(Rollout, rollout_id), rows.counts_by_site(session, rollout_id, sites)

        row, by_site = await self._database.read(work)
        if row is not None:
            for site, counts in by_site.items():
                self._stream.publish("rollout", site, brief(row, counts))


def brief(row: Rollout, counts: dict[Part, int]) -> JsonObject:
    """A rollout as the live stream tells it to a site."""
    return {
        "id": row.id,
        "state": row.state,
        "reason": row.reason,
        "settled": row.settled_at is not None,
        "counts": {part.value: counts.get(part, 0) for part in Part},
    }


def _order(row: Rollout, part: RolloutFeeder) -> Order:
    text = f"{part.site_id}/{part.feeder_id}"
    key = Key(row.id, text, hashlib.sha256(text.encode()).hexdigest())
    if row.patch is None:
        return Order(part.site_id, part.feeder_id, row.name, row.actor, {}, key)
    return ConfigOrder(part.site_id, part.feeder_id, row.name, row.actor, row.patch, key, patch=True)
