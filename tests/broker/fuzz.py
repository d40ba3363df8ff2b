"""Attacks on a real broker while a good client wants to be served: no fault, no stall, no leak.

A run is rounds of attacks, many at a time, each round with a seed of its own; after each one everything must be as it
was. `python -m tests.broker.fuzz --seconds 600` is a long run; `--seconds 0 --seed N` is one round again.
"""

import argparse
import asyncio
import gc
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import trustme
import uvloop

from broker.certificates import TlsFiles
from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol import packets
from hub.protocol.packets import Connect, Disconnect, Pingreq, Pingresp, Puback, Publish
from hub.protocol.topics import Identity
from tests.broker.attacks import Attack, any_attack
from tests.broker.conftest import Peer

ATTACKS_PER_ROUND: Final = 500
AT_A_TIME: Final = 250
CONNECT_TIMEOUT_S: Final = 0.3
PATIENCE_S: Final = 10.0
"""How long the good client waits for an answer, and everybody for what the broker must close, on a busy machine."""
MOST_BLOCKS_PER_ATTACK: Final = 1.0
"""Memory blocks that an attack may leave behind, on the average; a session that is forgotten has dozens."""
GOOD_CLIENT: Final = "good"
_SAYS_ADMITTED: Final = (b"\x20\x02\x00\x00", b"\x20\x02\x01\x00")


class Finding(AssertionError):
    """The broker did what it must not."""


@dataclass
class Report:
    """What a run did and saw."""

    rounds: int = 0
    attacks: int = 0
    admitted: int = 0
    answers: int = 0
    slowest_answer_s: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    """The broker's, in the end."""
    blocks: list[int] = field(default_factory=list)
    """Memory blocks in use after each round."""

    @property
    def blocks_per_attack(self) -> float:
        """How many more there are in the last third of the rounds than in the second, where each has fewest."""
        third = len(self.blocks) // 3
        if third < 2:
            return 0.0  # what is in use in one moment is too much a matter of chance
        before, after = self.blocks[-2 * third : -third], self.blocks[-third:]
        return (min(after) - min(before)) / (third * ATTACKS_PER_ROUND)

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds of {self.attacks} attacks in all, {self.admitted} seen to be admitted; "
            f"{self.answers} answers to the good client, the slowest after {self.slowest_answer_s * 1000:.0f} ms; "
            f"{self.blocks_per_attack:+.2f} memory blocks for each attack"
        )


class Everybody(EverybodyMayDoEverything):
    """Lets everybody do everything, and remembers the client ids."""

    def __init__(self) -> None:
        self.client_ids: set[str] = set()

    def acting_as(self, identity: Identity, client_id: str) -> Identity | None:
        self.client_ids.add(client_id)
        return super().acting_as(identity, client_id)


class Fuzzer:
    """One broker, and those who attack it."""

    def __init__(self, broker: EmbeddedBroker, everybody: Everybody, context: ssl.SSLContext, report: Report) -> None:
        self._broker = broker
        self._everybody = everybody
        self._context = context
        self._report = report
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def round(self, seed: int) -> None:
        """The attacks of one seed, and then everything as it was. Raises Finding."""
        tasks = len(asyncio.all_tasks())
        numbers = range(seed * ATTACKS_PER_ROUND, (seed + 1) * ATTACKS_PER_ROUND)
        ends = await asyncio.gather(*map(self._throw, numbers), return_exceptions=True)
        for fault in filter(None, ends):
            raise fault
        self._report.rounds += 1
        self._report.attacks += len(numbers)
        await self._until("all connections but one are closed", lambda: self._broker.counters["connections"] == 1)
        await self._tidy_up()
        await self._until("all is as before", lambda: self._left() == (1, 1, 1, 0, 0, tasks))

    def _left(self) -> tuple[int, ...]:
        gauges = ("connections", "clients_connected", "sessions", "retained", "messages_queued")
        return *(self._broker.counters[gauge] for gauge in gauges), len(asyncio.all_tasks())

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise Finding(f"not true in {PATIENCE_S} s: {what}; {dict(self._broker.counters)}") from None

    async def _throw(self, number: int) -> None:
        async with self._places:
            attack = any_attack(Random(number))
            ports = {"tcp": self._broker.port, "websocket": self._broker.ws_port}
            port = ports.get(attack.way, self._broker.tls_port)
            context = self._context if attack.way == "tls" else None
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            if attack.end == "deaf":
                writer.transport.pause_reading()
            for piece in attack.pieces:
                if writer.transport.is_closing():
                    break
                writer.write(piece)
                await asyncio.sleep(0)  # a chance to go out by itself
            try:
                await self._end(attack, reader, writer)
            finally:
                writer.transport.abort()

    async def _end(self, attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if attack.end in ("reset", "deaf") or (attack.end == "finish" and not writer.can_write_eof()):
            enough = self._report.answers + 3
            await self._until("the good client is served", lambda: self._report.answers >= enough)
            return
        heard = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                with suppress(OSError):
                    if attack.end == "finish" and not writer.transport.is_closing():
                        writer.write_eof()
                    while data := await reader.read(65_536):
                        heard = heard[-3:] + data
                        if any(said in heard for said in _SAYS_ADMITTED):
                            self._report.admitted += 1
                            if attack.end == "stay":
                                return  # it is a client, and may
        except TimeoutError:
            raise Finding(f"its connection is not closed: {attack}") from None

    async def _tidy_up(self) -> None:
        """End the sessions that were stored, and clear what was retained."""
        for client_id in self._everybody.client_ids - {GOOD_CLIENT}:
            peer = await Peer(self._broker.port).open()
            peer.send(Connect(client_id), Disconnect())
            await peer.closed()
            peer.drop()
        self._everybody.client_ids.clear()
        peer = await Peer(self._broker.port).open()
        await peer.connect("tidy")
        await peer.subscribe("#", qos=0)
        for topic, _, _, retained in await peer.messages():
            if retained:
                peer.send(Publish(topic, b"", retain=True))
        await peer.so_far()
        peer.drop()


async def be_a_good_client(broker: EmbeddedBroker, report: Report) -> None:
    """Publish, receive what was published, acknowledge it and ping, without end. Raises Finding."""
    loop = asyncio.get_running_loop()
    peer = await Peer(broker.port).open()
    await peer.connect(GOOD_CLIENT, clean_session=False)
    await peer.subscribe(GOOD_CLIENT)
    try:
        for number in count():
            start_s = loop.time()
            message = Publish(GOOD_CLIENT, b"%d" % number, 1, packet_id=number % 65_535 + 1)
            peer.send(message, Pingreq())
            async with asyncio.timeout(PATIENCE_S):
                answers = [await peer.receive() for _ in range(3)]
            delivered = next(answer for answer in answers if isinstance(answer, Publish))
            expected = [replace(message, packet_id=delivered.packet_id), Puback(message.packet_id), Pingresp()]
            if any(each not in answers for each in expected):
                raise Finding(f"the good client hears {answers} and not {expected}")
            peer.send(Puback(delivered.packet_id))
            report.answers += 1
            report.slowest_answer_s = max(report.slowest_answer_s, loop.time() - start_s)
            await asyncio.sleep(0.005)
    except (OSError, EOFError, TimeoutError, StopIteration) as error:
        raise Finding(f"the good client is not served: {error!r}") from error
    finally:
        peer.drop()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What is logged as an error, and by whom."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{record.name}: {self.format(record)}")

    handler = Collect(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)


@asynccontextmanager
async def attacked_broker(directory: Path, report: Report) -> AsyncIterator[Fuzzer]:
    """A broker with all ways in and a store, with little patience and the limits of a packet that the product has."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    files = TlsFiles(directory / "broker.pem", directory / "broker-key.pem")
    made.cert_chain_pems[0].write_to_path(str(files.certificate))
    made.private_key_pem.write_to_path(str(files.key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = replace(
        OPEN_OPTIONS,
        port=0,
        ws_port=0,
        tls_port=0,
        tls=files,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        max_packet_bytes=BrokerOptions().max_packet_bytes,
        store=directory / "broker.db",
        sys_interval_s=0.5,
    )
    everybody = Everybody()
    async with EmbeddedBroker(options, let_everybody_in, everybody, lambda _: None) as broker:
        good = asyncio.create_task(be_a_good_client(broker, report))
        try:
            fuzzer = Fuzzer(broker, everybody, context, report)
            await fuzzer._until("the good client is served", lambda: report.answers > 0 or good.done())
            yield fuzzer
            report.counters.update(broker.counters)
        finally:
            good.cancel()
            with suppress(asyncio.CancelledError):
                await good


def memory_blocks() -> int:
    """How many are in use, but for the topics that the codec remembers."""
    packets._known_topic.cache_clear()
    packets._known_topic_field.cache_clear()
    gc.collect()
    return sys.getallocatedblocks()


async def fuzz(
    directory: Path, seed: int, *, rounds: int = 1, seconds: float = 0.0, tell: Callable[[str], None] = print
) -> Report:
    """Rounds with this seed, the next, and so on: so many at least, and for about that long. Raises Finding."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    report = Report()
    with complaints() as found:
        async with attacked_broker(directory, report) as fuzzer:
            while report.rounds < rounds or loop.time() < end_s:
                now = seed + report.rounds
                try:
                    await fuzzer.round(now)
                    if found:
                        raise Finding("logged as errors:\n" + "\n".join(found))
                except Finding as finding:
                    raise Finding(f"seed {now}: {finding}") from finding
                report.blocks.append(memory_blocks())
                tell(f"seed {now}: {report}")
    if report.blocks_per_attack > MOST_BLOCKS_PER_ATTACK:
        raise Finding(f"seeds from {seed}: memory is not given back; {report}")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.broker.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with (
        TemporaryDirectory(prefix="feeder-hub-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        report = runner.run(fuzz(Path(directory), arguments.seed, seconds=arguments.seconds))
    print(*(f"{name:40} {value:10}" for name, value in sorted(report.counters.items())), sep="\n")


if __name__ == "__main__":
    main()
