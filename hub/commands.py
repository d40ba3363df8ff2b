"""Commands: from a call to its known end. The row first, then the publish, then the reply.

Whoever waits for a command holds a future by its id; the row outlives the future, the caller and this process.
"""

import asyncio
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import structlog
from prometheus_client import Counter, Histogram
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from hub import settlement, waiting
from hub.command_states import SETTLED, CommandState
from hub.database import AWAY, Database, why_away
from hub.errors import BrokerUnreachable, DesktopOffline, InvalidOrder, LivenessUnknown, NotFound, Refused
from hub.liveness import AliveSession, LivenessKeys
from hub.memory import Memory
from hub.models import Command, CommandRow, JsonObject
from hub.orders import ConfigOrder, Desk, Order, Placed, check_target, place, placed_before, to_message
from hub.protocol.link import Link, NotConnected
from hub.protocol.messages import Outcome, Reply, encode
from hub.protocol.times import rfc3339, utc_now
from hub.rejects import Rejects
from hub.settlement import Settled
from hub.statements import Row
from hub.stories import settled_of
from hub.stream import LiveStream

log = structlog.get_logger()

TIMER_SLACK_S: Final = 0.005
"""A timer may wake up some milliseconds before its time; the deadline must have passed by then."""

TARGET_REMEMBERED_S: Final = 5.0
"""An order for what was deleted may be refused for so long because its desktop is away, and not because it is gone."""

_AT_THE_SAME_MOMENT: Final = (IntegrityError, InvalidOrder, Refused, LivenessUnknown, BrokerUnreachable)
"""How an order is turned down that another process placed under the same key, between the look at the key and the row:
it breaks the key, or a limit (with the pause between two doses), or is late for the desktop that the other one found.
"""

ENDS = Counter("feeder_hub_command_ends_total", "Commands that came to an end, by name and state.", ["name", "state"])
DURATION = Histogram("feeder_hub_command_seconds", "From an order to its settled end.", ["name"])
_ends, _duration = functools.cache(ENDS.labels), functools.cache(DURATION.labels)


def brief(command: CommandRow) -> JsonObject:
    """A command as the live stream tells it."""
    return {
        "id": command.id,
        "feeder": command.feeder_id,
        "name": command.name,
        "state": command.state,
        "code": command.code,
        "detail": command.detail,
        "created_at": rfc3339(command.created_at),
        "settled_at": None if command.settled_at is None else rfc3339(command.settled_at),
        "closed_at": None if command.closed_at is None else rfc3339(command.closed_at),
    }


class Commands:
    """Sends orders, waits for their ends, and takes in what desktops answer."""

    def __init__(
        self,
        database: Database,
        liveness: LivenessKeys,
        stream: LiveStream,
        rejects: Rejects,
        desk: Desk,
        link: Link,
    ) -> None:
        self._database = database
        self._rejects = rejects
        self._liveness = liveness
        self._stream = stream
        self._desk = desk
        self._link = link
        self._targets = Memory[tuple[str, str | None], bool](TARGET_REMEMBERED_S)
        self._waiting: dict[str, list[asyncio.Future[CommandRow]]] = {}
        self._sent: dict[str, Row] = {}
        """What this process has sent, while somebody here waits for it; a stop is not among it, as its row changes."""
        self._of_others: set[str] = set()
        """Commands that somebody here waits for, and that another process may settle."""

    # --- from a caller -----------------------------------------------------------------------------------------

    async def send(self, order: Order, wait_s: float | None = None) -> CommandRow:
        """Place the order, publish it, and wait for its end, at most `wait_s` (None: as long as it may take to begin).

        The command as it then is: settled, or `sent`, `received` or `unknown`. Raises NotFound, InvalidOrder, Refused
        or Unavailable; then nothing was sent. An order that was placed before is not placed again.
        """
        command = await self._placed_before(order)
        if command is None:
            try:
                placed, wait_s = await self._place(order, wait_s)
            except _AT_THE_SAME_MOMENT:
                command = await self._placed_before(order)
                if command is None:
                    raise
            else:
                command = placed.command
                if placed.superseded is not None:
                    self._tell(Settled(placed.superseded, moved=True))
                if placed.is_new and command.state == CommandState.SENT:
                    return await self._publish_and_wait(command, wait_s)
                if placed.is_new:
                    self._stream.publish("command", command.site_id, brief(command))
        return await self._wait_for_another(command, wait_s)

    async def _placed_before(self, order: Order) -> CommandRow | None:
        """The command that the order's key already stands for. Raises KeyReused."""
        if order.key is None:
            return None
        return await self._database.read(lambda session: placed_before(session, order))

    async def _check_target(self, order: Order) -> None:
        """Raises NotFound. What was there a few seconds ago passes: the order is refused either way."""
        target = order.site, order.feeder
        if not self._targets.get(target):
            await self._database.read(lambda session: check_target(session, order))
            self._targets.put(target, value=True)

    async def _place(self, order: Order, wait_s: float | None) -> tuple[Placed, float | None]:
        """The row, and how long its caller waits: not at all where nobody is there for a change that may wait."""
        try:
            to, now = await self._addressee(order), utc_now()
        except (DesktopOffline, LivenessUnknown):
            await self._check_target(order)  # not there is not away
            raise
        placed = await self._database.write(lambda session: place(session, order, to, self._desk, now))
        return placed, 0 if to is None and order.name != "stop_all" else wait_s

    async def _publish_and_wait(self, command: CommandRow, wait_s: float | None) -> CommandRow:
        is_stop = command.name == "stop_all"
        with self._expecting(command.id, None if is_stop else command) as end:
            if not self._publish(command) and is_stop:
                command = await self._to_be_repeated(command)
            self._stream.publish("command", command.site_id, brief(command))
            if not is_stop or wait_s == 0:
                return await self._end_of(command, end, wait_s)
            self._of_others.add(command.id)  # another process may repeat it, and hear its end
            looks = asyncio.create_task(self._give_up_if_away(command.site_id, end), name="is-anybody-there")
            try:
                return await self._end_of(command, end, wait_s)
            finally:
                looks.cancel()
                await asyncio.wait({looks})

    async def _give_up_if_away(self, site: str, end: asyncio.Future[CommandRow]) -> None:
        """Nobody waits for a stop's end where nobody is there to confirm it."""
        try:
            await self._liveness.require_alive(site)
        except (DesktopOffline, LivenessUnknown):
            _give_up(end)

    async def _wait_for_another(self, command: CommandRow, wait_s: float | None) -> CommandRow:
        """The end of a command that somebody else sent, or will send; it may be another process."""
        with self._expecting(command.id) as end:
            command = await self.get(command.id)
            if command.state in SETTLED or command.state == CommandState.UNKNOWN:
                return command
            self._of_others.add(command.id)
            return await self._end_of(command, end, wait_s)

    async def _addressee(self, order: Order) -> AliveSession | None:
        """The living session to send to; None for a change that may wait for its site, and for a stop.

        A stop is for whoever hears it: it is latched and published before anybody asks who that is.
        """
        if order.name == "stop_all":
            return None
        try:
            to = await self._liveness.require_alive(order.site)
        except DesktopOffline:
            if isinstance(order, ConfigOrder) and order.queue_for_s is not None:
                return None
            raise
        if not self._link.connected:
            raise BrokerUnreachable(
                "The hub has no connection to the MQTT broker now; nothing was sent. Try again soon."
            )
        return to

    async def _to_be_repeated(self, stop: CommandRow) -> CommandRow:
        """A stop that could not be published is `unknown` at once, so that the next round with a broker repeats it."""
        now = utc_now()

        def work(session: Session) -> CommandRow | None:
            return settlement.advance(session, stop.id, CommandState.UNKNOWN, "no connection to the broker", now)

        try:
            return await self._database.write(work) or stop
        except AWAY as error:
            # It is latched, and becomes `unknown` at its deadline.
            log.warning("stop to be repeated later: the database is away", command=stop.id, reason=why_away(error))
            return stop

    def _publish(self, command: CommandRow) -> bool:
        """False: there is no connection to the broker."""
        topic = self._desk.topics.commands(command.site_id, command.feeder_id)
        try:
            self._link.publish(topic, encode(to_message(command, self._desk.topics, utc_now())))
        except NotConnected:
            # The row says `sent`; the deadline makes it `unknown`, and the desktop's journal settles it.
            log.warning("command not published: no connection to the broker", command=command.id, site=command.site_id)
            return False
        return True

    @contextmanager
    def _expecting(self, command_id: str, sent: CommandRow | None = None) -> Iterator[asyncio.Future[CommandRow]]:
        end: asyncio.Future[CommandRow] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(command_id, []).append(end)
        if isinstance(sent, Row):
            self._sent[command_id] = sent
        try:
            yield end
        finally:
            if sent is not None:
                self._sent.pop(command_id, None)
            waiting = self._waiting.get(command_id, [])
            if end in waiting:
                waiting.remove(end)
            if not waiting:
                self._waiting.pop(command_id, None)

    async def _end_of(self, command: CommandRow, end: asyncio.Future[CommandRow], wait_s: float | None) -> CommandRow:
        until_deadline_s = (command.deadline_at - utc_now()).total_seconds()
        patience_s = min(self._desk.timeout_s if wait_s is None else wait_s, until_deadline_s)
        if wait_s == 0:
            return command
        # A fifth of the price of `wait_for`, which makes a future of its own.
        timer = end.get_loop().call_later(max(0.0, patience_s) + TIMER_SLACK_S, _give_up, end)
        try:
            return await end
        except TimeoutError:
            try:
                overdue = await self.mark_overdue(only=command.id)
                return overdue[0] if overdue else await self.get(command.id)
            except AWAY as error:
                # It was sent, whatever the database cannot say now; the rounds go on with it when it is back.
                log.warning("outcome not known: the database is away", command=command.id, reason=why_away(error))
                return command
        finally:
            timer.cancel()

    # --- what is known -----------------------------------------------------------------------------------------

    async def get(self, command_id: str) -> Command:
        """Raises NotFound."""
        command = await self._database.read(lambda session: session.get(Command, command_id))
        if command is None:
            raise NotFound(f"There is no command {command_id}.")
        return command

    # --- from the desktop --------------------------------------------------------------------------------------

    async def take_reply(self, site: str, reply: Reply) -> Settled:
        """Store what a desktop answers; whoever waits for the command learns of it."""
        now, sent = utc_now(), self._sent.get(reply.id)
        if sent is not None and sent.site_id != site:
            sent = None
        settled = await self._database.write(lambda session: settlement.take_reply(session, site, reply, now, sent))
        await self._raise_contradiction(site, settled)
        self._tell(settled)
        return settled

    async def take_outcomes(self, site: str, asked_of_journal: str, outcomes: list[Outcome]) -> list[Settled]:
        """Store what a desktop's journal says of commands whose outcome was unknown."""
        now = utc_now()

        def work(session: Session) -> list[Settled]:
            return [settlement.take_outcome(session, site, asked_of_journal, outcome, now) for outcome in outcomes]

        settled = await self._database.write(work)
        for one in settled:
            await self._raise_contradiction(site, one)
            self._tell(one)
        return settled

    # --- by the clock ------------------------------------------------------------------------------------------

    async def mark_overdue(self, only: str | None = None) -> list[CommandRow]:
        """Make what is past its deadline `unknown`, whichever process sent it."""
        now = utc_now()
        overdue = await self._database.write(lambda session: settlement.mark_overdue(session, now, only))
        for command in overdue:
            self._tell(Settled(command, moved=True))
        return overdue

    async def look_at_others(self) -> None:
        """Tell who waits here for a command that another process has settled. While nobody does, nobody asks."""
        self._of_others &= self._waiting.keys()
        if not self._of_others:
            return
        ids = sorted(self._of_others)
        for command in await self._database.read(lambda session: settled_of(session, ids)):
            self._wake(command)

    async def end_overdue(self) -> None:
        """End what has waited for too long, and what nobody will answer any more, whichever process took the order."""
        now = utc_now()

        def work(session: Session) -> list[CommandRow]:
            return [*waiting.expire_waiting(session, now), *settlement.end_unanswered(session, now)]

        for command in await self._database.write(work):
            self._tell(Settled(command, moved=True))

    async def send_waiting(self, site: str, to_session: str) -> None:
        """Send the site's changes that wait for nothing any more, if its desktop is there in this session."""
        try:
            to = await self._liveness.require_alive(site)
        except (DesktopOffline, LivenessUnknown):
            return
        if to.session != to_session or not self._link.connected:
            return
        now = utc_now()
        for command in await self._database.write(
            lambda session: waiting.send_waiting(session, site, to, self._desk, now)
        ):
            if command.state == CommandState.SENT:
                self._publish(command)
            self._tell(Settled(command, moved=True))

    def send_again(self, stop: Command) -> None:
        """Publish a latched stop once more, under the id that the desktop may know already, with new times.

        The reply comes to this process: the one that ordered it may be gone.
        """
        expires_at = utc_now() + timedelta(seconds=self._desk.timeout_s)
        self._publish(stop.model_copy(update={"expires_at": expires_at, "hub_id": self._desk.hub_id}))

    async def _raise_contradiction(self, site: str, settled: Settled) -> None:
        command = settled.command
        if command is not None and settled.contradiction is not None:
            topic = self._desk.topics.replies(site, self._desk.hub_id)
            await self._rejects.record(site, "contradiction", f"command {command.id}: {settled.contradiction}", topic)

    def _tell(self, settled: Settled) -> None:
        command = settled.command
        if command is None or not (settled.moved or settled.told_more):
            return
        if settled.moved and command.state in SETTLED:
            _ends(command.name, command.state).inc()
            assert command.settled_at is not None
            _duration(command.name).observe((command.settled_at - command.created_at).total_seconds())
            self._wake(command)
        self._stream.publish("command", command.site_id, brief(command))

    def _wake(self, command: CommandRow) -> None:
        for end in self._waiting.pop(command.id, []):
            if not end.done():
                end.set_result(command)


def _give_up(end: asyncio.Future[CommandRow]) -> None:
    if not end.done():
        end.set_exception(TimeoutError())
