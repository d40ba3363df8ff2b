"""The bad clients of a soak: what they send, and within what time the broker must be rid of them."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from benchmarks.mqtt import HOST
from benchmarks.soak.ground import Ground, until_either
from hub.protocol.packets import (
    Connack,
    Connect,
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    encode,
)

_SOON_S: Final = 5.0
_AFTER_THE_TIME_LIMIT_S: Final = 15.0
"""Five seconds for a CONNECT are the broker's; the rest is for a machine with other work."""
_LASTS_S: Final = 4.0
_BETWEEN_ATTACKS_S: Final = (0.2, 2.0)
_CHUNK_BYTES: Final = 65_536
_SILENT: Final = encode(Connect("bad silent", keep_alive=1))


@dataclass(frozen=True, slots=True)
class Attack:
    """Bytes that somebody sends.

    connected: after a proper CONNECT. every_s: seconds between one byte and the next, 0 for all at once.
    ends_within_s: the broker must have closed the connection by then; None if it need not.
    """

    name: str
    data: bytes
    connected: bool = True
    every_s: float = 0.0
    ends_within_s: float | None = _SOON_S


ATTACKS: Final = (
    Attack("noise", bytes(range(0xF0, 0x100)) * 16, connected=False),
    Attack("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", connected=False),
    Attack("PUBLISH first", encode(Publish("a", b"x")), connected=False),
    Attack("another protocol", b"\x10\x0d\0\4HTTP\4\2\0\0\0\1a", connected=False),
    Attack("level 5", b"\x10\x0d\0\4MQTT\5\2\0\0\0\1a", connected=False),
    Attack("length of five bytes", b"\x10\xff\xff\xff\xff\x01", connected=False),
    Attack(
        "CONNECT of 256 MB", b"\x10\xff\xff\xff\x7f\0\4MQTT", connected=False, ends_within_s=_AFTER_THE_TIME_LIMIT_S
    ),
    Attack("nothing", b"", connected=False, ends_within_s=_AFTER_THE_TIME_LIMIT_S),
    Attack("slow CONNECT", _SILENT, connected=False, every_s=0.6, ends_within_s=_AFTER_THE_TIME_LIMIT_S),
    Attack("silence past its keep-alive", _SILENT, connected=False, ends_within_s=_AFTER_THE_TIME_LIMIT_S),
    Attack("second CONNECT", encode(Connect("bad"))),
    Attack("CONNACK from a client", encode(Connack())),
    Attack("QoS 3", b"\x36\x05\0\1a\0\1"),
    Attack("wildcard in a topic", b"\x30\x04\0\2a#"),
    Attack("ill-formed UTF-8", b"\x30\x04\0\2\xc3\x28"),
    Attack("packet id 0", b"\x32\x05\0\1a\0\0"),
    Attack("SUBSCRIBE without a filter", b"\x82\x02\0\1"),
    Attack("reserved flags", b"\x80\x06\0\1\0\1a\0"),
    Attack("reserved packet type", b"\xf0\x00"),
    Attack("topic longer than its packet", b"\x30\x04\xff\xffab"),
    Attack("bytes after DISCONNECT", encode(Disconnect()) + encode(Publish("a", b"x")) * 100),
    Attack("PUBLISH of 256 MB", b"\x30\xff\xff\xff\x7f" + b"x" * 64, every_s=0.1, ends_within_s=None),
    Attack("PUBLISH cut short", encode(Publish("a", b"x" * 1000))[:500], ends_within_s=None),
    Attack(
        "QoS 2 never released",
        b"".join(encode(Publish("a", b"x", 2, packet_id=n)) for n in range(1, 101)),
        ends_within_s=None,
    ),
    Attack(
        "acknowledgements of nothing",
        b"".join(encode(packet(n)) for n in range(1, 101) for packet in (Puback, Pubrec, Pubrel, Pubcomp)),
        ends_within_s=None,
    ),
    Attack("many filters", encode(Subscribe(1, tuple((f"bad/{n}/+/#", 1) for n in range(500)))), ends_within_s=None),
)


async def attack(ground: Ground, client_id: str) -> None:
    """One attack after the other."""
    while not ground.stop.is_set():
        await ground.up.wait()
        kills = ground.kills
        chosen = ground.random.choice(ATTACKS)
        try:
            reader, writer = await asyncio.open_connection(HOST, ground.port)
        except OSError as error:
            ground.fault(f"refused a connection: {type(error).__name__}", kills)
        else:
            await _carry_out(ground, chosen, client_id, reader, writer, kills)
            ground.counts["attacks"] += 1
        await ground.pause(*_BETWEEN_ATTACKS_S)


async def _carry_out(
    ground: Ground,
    chosen: Attack,
    client_id: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    kills: int,
) -> None:
    ending = asyncio.create_task(_read_to_end(reader))
    sending = asyncio.create_task(_send(writer, chosen, client_id))
    await until_either(ending, ground.stop, chosen.ends_within_s or _LASTS_S)
    if chosen.ends_within_s is not None and not ending.done() and not ground.stop.is_set():
        ground.fault(f"did not end: {chosen.name}", kills)
    writer.transport.abort()
    sending.cancel()
    await asyncio.wait([ending, sending])


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):  # an abrupt end is one too
        while await reader.read(_CHUNK_BYTES):
            pass


async def _send(writer: asyncio.StreamWriter, chosen: Attack, client_id: str) -> None:
    if chosen.connected:
        writer.write(encode(Connect(client_id)))
    for part in (chosen.data[n : n + 1] for n in range(len(chosen.data))) if chosen.every_s else (chosen.data,):
        writer.write(part)
        await asyncio.sleep(chosen.every_s)
