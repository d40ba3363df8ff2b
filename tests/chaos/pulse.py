"""What passed of a site's heartbeats at one point of their way, and what may be said of its liveness. No I/O."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hub.protocol.packets import Decoder, MalformedPacket, Publish

SLACK_S: Final = 1.0
"""The hub has so long, beyond its time to live, to notice what has changed."""


@dataclass(slots=True)
class Pulse:
    """Seconds on one clock. lives_since_s, lives_until_s: while it must count as alive, were it looked at here."""

    ttl_s: float
    last_beat_s: float | None = None
    lives_since_s: float = 0.0
    lives_until_s: float = 0.0
    _session: str = ""
    _ended: set[str] = field(default_factory=set)
    _beats_s: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def beat(self, session: str, at_s: float) -> None:
        """A heartbeat passes, and is no replay."""
        if session in self._ended:
            return
        if at_s >= self.lives_until_s:
            self.lives_since_s = at_s
        self._session, self.last_beat_s, self.lives_until_s = session, at_s, at_s + self.ttl_s
        self._beats_s.append(at_s)

    def lives_until_s_by(self, then_s: float) -> float:
        """Until when it must count as alive by the heartbeats that had passed by then."""
        last_s = max((beat_s for beat_s in self._beats_s if beat_s <= then_s), default=float("-inf"))
        return min(last_s + self.ttl_s, self.lives_until_s)

    def end(self, session: str, at_s: float) -> None:
        """A last will or a goodbye passes."""
        self._ended.add(session)
        if session == self._session:
            self.lives_until_s = min(self.lives_until_s, at_s)


def fault_in(alive: bool | None, asked_s: float, answered_s: float, sent: Pulse, heard: Pulse) -> str | None:
    """What is wrong with an answer about liveness, where it is wrong for longer than the time to live and the slack.

    sent: the pulse where the desktop's line ends. heard: where the hub's begins; what has just come by there is on its
    way to Redis. That it is not known is never wrong.
    """
    bound_s = sent.ttl_s + SLACK_S
    if alive is True:
        silent_s = asked_s - (sent.last_beat_s if sent.last_beat_s is not None else float("-inf"))
        if silent_s > bound_s:
            return f"said to be alive, and had been cut off for {silent_s:.1f} s"
    lives_until_s = heard.lives_until_s_by(asked_s - SLACK_S)
    if alive is False and answered_s < lives_until_s and asked_s - heard.lives_since_s > bound_s:
        return f"said not to be alive, and its heartbeats had got through for {asked_s - heard.lives_since_s:.1f} s"
    return None


class HeartbeatTap:
    """Reads heartbeats out of one direction of an MQTT connection. `pulses`: by site.

    from_broker: RETAIN there says that it is a replay; towards the broker it is a wish.
    """

    def __init__(self, pulses: dict[str, Pulse], clock: Callable[[], float], *, from_broker: bool) -> None:
        self._pulses, self._clock, self._from_broker = pulses, clock, from_broker
        self._decoder: Decoder | None = Decoder()
        self._carried: set[tuple[str, str]] = set()

    def ended(self) -> None:
        """The connection is over: whoever spoke here is cut off, and the broker publishes the last will."""
        if not self._from_broker:
            for site, session in self._carried:
                self._pulses[site].end(session, self._clock())

    def feed(self, data: bytes) -> None:
        if self._decoder is None:
            return
        try:
            packets = self._decoder.feed(data)
        except MalformedPacket:
            self._decoder = None  # the two that speak here will find out themselves
            return
        for packet in packets:
            if isinstance(packet, Publish) and packet.topic.endswith("/heartbeat"):
                self._take(packet)

    def _take(self, packet: Publish) -> None:
        site = packet.topic.split("/")[-2]
        pulse = self._pulses.get(site)
        if pulse is None:
            return
        said = json.loads(packet.payload)
        self._carried.add((site, said["session"]))
        if not said["online"]:
            pulse.end(said["session"], self._clock())  # a will that is replayed is true all the same
        elif not (packet.retain and self._from_broker):
            pulse.beat(said["session"], self._clock())
