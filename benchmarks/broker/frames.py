"""Packets made once and sent for ever, and what comes back counted by their length: no work in Python per message.

A load generator that is slower than the broker measures itself. All PUBLISH packets here are equally long and
alike but for their packet ids, so a whole read is checked by one comparison.
"""

from typing import Final

from hub.protocol.packets import Puback, Publish, encode

PUBACK_BYTES: Final = 4


class Unexpected(Exception):
    """The broker sent something other than what is due."""


class Ring:
    """Frames of one length that follow each other in a circle."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frame_bytes = len(frames[0])
        assert all(len(frame) == self.frame_bytes for frame in frames)
        self._bytes = self.frame_bytes * len(frames)
        self._twice = b"".join(frames) * 2
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` frames, at most one turn of the circle."""
        return self._cut(count * self.frame_bytes)

    def expect(self, data: bytes) -> int:
        """How many frames these bytes complete. Raises Unexpected if they are not the next ones."""
        begun = self._at % self.frame_bytes
        if self._cut(len(data)) != data:
            raise Unexpected(f"{data[:40]!r} is not what is due")
        return (begun + len(data)) // self.frame_bytes

    def _cut(self, length: int) -> bytes:
        if length > self._bytes:
            raise Unexpected(f"{length} bytes at once are more than was ever due")
        cut = self._twice[self._at : self._at + length]
        self._at = (self._at + length) % self._bytes
        return cut


def publishes(topic: str, payload: bytes, qos: int, ids: int) -> Ring:
    """PUBLISH packets as a client sends them, with packet ids from 1 to `ids` in turn (none at QoS 0)."""
    return Ring([encode(Publish(topic, payload, qos, packet_id=qos and n)) for n in range(1, ids + 1)])


def pubacks(ids: int) -> Ring:
    """What answers those of QoS 1, in their order [MQTT-4.6.0-2]."""
    return Ring([encode(Puback(n)) for n in range(1, ids + 1)])


class Arrivals:
    """PUBLISH packets of QoS 1 as a subscriber gets them: the packet ids are the broker's."""

    def __init__(self, topic: str, payload: bytes) -> None:
        without_id = encode(Publish(topic, payload, 1, packet_id=1))
        self._id_at = without_id.index(topic.encode()) + len(topic.encode())
        self._frame_bytes = len(without_id)
        self._frame = without_id[: self._id_at] + b"\0\0" + without_id[self._id_at + 2 :]
        self._begun = b""

    def take(self, data: bytes) -> tuple[int, bytes]:
        """How many messages these bytes complete, and their PUBACKs. Raises Unexpected if they are others."""
        data = self._begun + data
        count = len(data) // self._frame_bytes
        whole = bytearray(data[: count * self._frame_bytes])
        self._begun = data[len(whole) :]
        answer = bytearray(encode(Puback(1))) * count
        for byte in (0, 1):
            place = slice(self._id_at + byte, None, self._frame_bytes)
            answer[2 + byte :: PUBACK_BYTES] = whole[place]
            whole[place] = bytes(count)
        if whole != self._frame * count:
            raise Unexpected(f"{data[:40]!r} is not what is due")
        return count, bytes(answer)
