"""Plays a case against a broker: its bytes go out, and what comes back is compared byte by byte."""

import time
from collections.abc import Callable, Iterable

from tests.protocol.mqtt.notation import Bytes, Cut, PacketId, read_bytes, size
from tests.protocol.mqtt.steps import Step
from tests.protocol.mqtt.wires import WebSocketWire, Wire

PINGREQ, PINGRESP = read_bytes("PINGREQ []"), read_bytes("PINGRESP []")


class Player:
    """One run of one case. `new_wire` makes a connection that is not open yet."""

    def __init__(self, new_wire: Callable[[], Wire]) -> None:
        self._new_wire = new_wire
        self._wires: dict[str, Wire] = {}
        self._ids: dict[str, bytes] = {}

    async def play(self, steps: Iterable[Step]) -> None:
        """Take every step; then prove that nothing more comes. Raises AssertionError with the step that failed."""
        try:
            for step in steps:
                await self._take(step)
            for _ in range(2):  # the second time round, the broker has handled all that it had been sent
                for who in self._wires:
                    await self._take(Step(f"{who} < nothing   (at the end)", who, "nothing"))
        finally:
            for wire in self._wires.values():
                wire.transport.abort()

    async def _take(self, step: Step) -> None:
        if step.who not in self._wires:
            self._wires[step.who] = await self._new_wire().open()
        wire = self._wires[step.who]
        try:
            await self._act(step, wire)
        except TimeoutError as late:
            raise AssertionError(f"{step.line}\nbut nothing comes after {wire.unread.hex(' ') or 'that'}") from late

    async def _act(self, step: Step, wire: Wire) -> None:
        match step.verb:
            case ">":
                await wire.send(*self._pieces(step.what))
            case ">>":
                await wire.send(*(bytes((byte,)) for byte in b"".join(self._pieces(step.what))))
            case "texts" | "fragments":
                assert isinstance(wire, WebSocketWire), f"{step.line}\nis for a WebSocket"
                pieces = self._pieces(step.what)
                await (wire.send_text(b"".join(pieces)) if step.verb == "texts" else wire.send_fragments(pieces))
            case "<":
                await self._expect(step, wire, step.what)
            case "<*":
                await self._expect_any(step, wire)
            case "nothing":
                assert wire.connected, f"{step.line}\nbut it is not connected: let it end"
                await wire.send(*self._pieces(PINGREQ))
                await self._expect(step, wire, PINGRESP)
            case "close":
                await self._expect_end(step, wire)
                silent_s = time.monotonic() - wire.sent_at
                assert silent_s >= step.after_s, f"{step.line}\nbut it came after {silent_s:.3f} s"
            case "vanishes":
                wire.finish()
                await self._expect_end(step, wire)
            case "breaks":
                wire.reset()
                del self._wires[step.who]

    def _pieces(self, what: Bytes) -> list[bytes]:
        pieces = [b""]
        for part in what:
            if isinstance(part, Cut):
                pieces.append(b"")
            else:
                pieces[-1] += self._ids[part.name] if isinstance(part, PacketId) else part
        return pieces

    async def _expect(self, step: Step, wire: Wire, what: Bytes) -> None:
        came = await wire.take(size(what))
        assert self._fits(came, what), self._told(step, wire, came, what)
        wire.connected = wire.connected or (came[:2] == b"\x20\x02" and came[3:4] == b"\0")

    async def _expect_any(self, step: Step, wire: Wire) -> None:
        left = list(step.any_of)
        while left:
            came = b""
            for count in sorted({size(what) for what in left}):
                came += await wire.take(count - len(came))
                found = next((what for what in left if self._fits(came, what)), None)
                if found is not None:
                    left.remove(found)
                    break
            else:
                raise AssertionError(self._told(step, wire, came, left[0]))

    async def _expect_end(self, step: Step, wire: Wire) -> None:
        came = await wire.take(1)
        assert not came, self._told(step, wire, came, ())
        wire.transport.abort()
        del self._wires[step.who]

    def _fits(self, came: bytes, what: Bytes) -> bool:
        """Whether these bytes are what was to come; if so, packet ids that the broker chose are learnt from them."""
        if len(came) != size(what):
            return False
        learnt: dict[str, bytes] = {}
        at = 0
        for part in what:
            if isinstance(part, PacketId):
                packet_id = came[at : at + 2]
                if packet_id != self._ids.get(part.name, packet_id):
                    return False
                if packet_id in (b"\0\0", self._ids.get(part.unlike), learnt.get(part.unlike)):
                    return False
                learnt[part.name] = packet_id
                at += 2
            elif isinstance(part, bytes):
                if not came.startswith(part, at):
                    return False
                at += len(part)
        self._ids |= learnt
        return True

    def _told(self, step: Step, wire: Wire, came: bytes, what: Bytes) -> str:
        wanted = " ".join(part.hex(" ") if isinstance(part, bytes) else f"${part.name}" for part in what)
        told = (came + wire.unread).hex(" ")
        ids = {name: packet_id.hex() for name, packet_id in self._ids.items()}
        return f"{step.line}\nwanted: {wanted[:600] or 'the end'}\ncame:   {told[:600] or 'the end'}\nids:    {ids}"
