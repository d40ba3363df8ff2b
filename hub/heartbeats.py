"""Taking in heartbeats, last wills and farewells: who is alive by them, and what a session that begins sets off.

Nearly all are the next heartbeat of a session that is known. Those that arrive while the last ones are on their way to
Redis go there together, in one exchange. Whatever else comes is taken in one by one.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakValueDictionary

from pydantic import BaseModel, ValidationError

from hub.conversation import Conversation
from hub.history import History
from hub.intake import Intake, Rejected, read
from hub.liveness import Arrival, Beat, LivenessKeys
from hub.protocol.limits import MAX_PAYLOAD_BYTES
from hub.protocol.link import Message
from hub.protocol.messages import Heartbeat, Offline
from hub.protocol.times import utc_now
from hub.protocol.topics import Address
from hub.tasks import Tasks


@dataclass(frozen=True, slots=True)
class _Heard:
    """A heartbeat, and the message that it came in."""

    address: Address
    message: Message
    said: Heartbeat

    @property
    def site(self) -> str:
        return self.address.site


class Heartbeats:
    """`receive` is called for each message on a heartbeat topic."""

    def __init__(
        self,
        liveness: LivenessKeys,
        history: History,
        conversation: Conversation,
        intake: Intake,
        tasks: Tasks,
    ) -> None:
        self._liveness = liveness
        self._history = history
        self._conversation = conversation
        self._intake = intake
        self._tasks = tasks
        self._of_known: list[_Heard] = []
        self._renewing = False
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def receive(self, address: Address, message: Message) -> None:
        """In the event loop, in order; returns at once."""
        try:
            said = _read(message)
        except Rejected as error:
            self._intake.reject(address, message, error)
            return
        if isinstance(said, Offline):
            self._intake.start(address, message, lambda: self._take_offline(address.site, said, message))
        elif message.retained:  # a replay of something said earlier proves nothing
            self._intake.done(address.kind, message)
        elif self._conversation.hear(address.site, said):
            self._of_known.append(_Heard(address, message, said))
            if not self._renewing:
                self._renewing = True
                self._tasks.start(self._renew_all(), "renew")
        else:
            heard = _Heard(address, message, said)
            self._intake.start(address, message, lambda: self._take_unknown(heard))

    # --- a session that is known -------------------------------------------------------------------------------

    async def _renew_all(self) -> None:
        try:
            while self._of_known:
                heard, self._of_known = self._of_known, []
                await self._renew(heard)
        finally:
            self._renewing = False

    async def _renew(self, heard: list[_Heard]) -> None:
        now, now_s = utc_now(), time.monotonic()
        beats = await self._liveness.beats([_arrival(one, now, now_s) for one in heard])
        for one, beat in zip(heard, beats, strict=True):
            if beat is Beat.RENEWED and not self._conversation.has_more_to_say(one.site, one.said):
                self._intake.done(one.address.kind, one.message)
            else:
                self._go_on_with(one, beat)

    def _go_on_with(self, heard: _Heard, beat: Beat | Exception) -> None:
        async def take() -> None:
            if isinstance(beat, Beat):
                await self._act_on(beat, heard, known=True)
                return
            async with self._turn_of(heard.site):
                late_beat = await self._beat(heard)
            await self._act_on(late_beat, heard, known=True)

        self._intake.start(heard.address, heard.message, take)

    # --- one that is not (yet) ---------------------------------------------------------------------------------

    async def _take_unknown(self, heard: _Heard) -> None:
        async with self._turn_of(heard.site):
            # It must know the time before anybody, seeing its key, sends it an order.
            await self._intake.insist(heard.message, lambda: self._conversation.tell_time(heard.site, heard.said))
            beat = await self._beat(heard)
        await self._act_on(beat, heard, known=False)

    def _turn_of(self, site: str) -> asyncio.Lock:
        """One after the other, as they came: of two sessions the later one counts, also where both had to wait."""
        turn = self._turns.get(site)
        if turn is None:
            turn = self._turns[site] = asyncio.Lock()
        return turn

    async def _beat(self, heard: _Heard) -> Beat:
        async def beat() -> Beat:
            arrival = _arrival(heard, utc_now(), time.monotonic())
            return await self._liveness.beat(*arrival)

        return await self._intake.insist(heard.message, beat)

    async def _act_on(self, beat: Beat, heard: _Heard, *, known: bool) -> None:
        site, said, message = heard.site, heard.said, heard.message
        if beat is Beat.ENDED:
            self._conversation.dismiss(site, said.session)
            return
        if beat is Beat.STALE:
            self._conversation.disregard(site, said.session, said.seq)
            return
        self._conversation.accept(site, said.session)
        if beat in (Beat.STARTED, Beat.REPLACED) or not known:
            await self._intake.insist(message, lambda: self._history.begin(site, said.session))
        if beat is Beat.COUNTED:
            self._conversation.thank_again(site)
        elif beat is Beat.RENEWED:
            self._conversation.thank_again(site)
            await self._conversation.tell_time(site, said)
        else:
            await self._intake.insist(message, lambda: self._conversation.ask_what_is_open(site, at_once=True))

    # --- the end of one ----------------------------------------------------------------------------------------

    async def _take_offline(self, site: str, said: Offline, message: Message) -> None:
        last_seen_at = await self._intake.insist(message, lambda: self._liveness.end(site, said.session))
        self._conversation.dismiss(site, said.session)
        by = "shutdown" if said.reason == "shutdown" else "will"
        if last_seen_at is not None:
            await self._intake.insist(message, lambda: self._history.end(site, said.session, by, last_seen_at))


def _arrival(heard: _Heard, now: datetime, now_s: float) -> Arrival:
    """The heartbeat as it counts now, if it had to wait since it came (Redis or the database was away)."""
    waited_s = now_s - heard.message.received_at_s
    return Arrival(heard.site, heard.said, (heard.said.sent_at - now).total_seconds() + waited_s, waited_s)


class _Online(BaseModel):
    online: bool


def _read(message: Message) -> Heartbeat | Offline:
    if not message.payload:
        raise Rejected("not-json", "the heartbeat topic was cleared; nothing is concluded from that")
    if len(message.payload) <= MAX_PAYLOAD_BYTES:
        try:
            return Heartbeat.model_validate_json(message.payload)
        except ValidationError:
            pass  # it says that somebody is gone, or it is wrong: below it is looked at for what it says
    return read(Heartbeat, message) if read(_Online, message).online else read(Offline, message)
