"""The well-behaved clients of a soak, each a coroutine that comes and goes until the end."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

from benchmarks.soak.client import ANSWER_WITHIN_S, Client, Refused, Session
from benchmarks.soak.ground import ROOT, Ground, number_in, until_either
from benchmarks.soak.ledger import Reader, Stream
from hub.protocol.packets import Publish, Will

SETTLED_AFTER_S: Final = 1.0
"""So long after a broker was told something, even a crash must not make it forget."""
_WINDOW: Final = 20
_PUBLISH_EVERY_S: Final = (0.1, 0.7)
_HERE_S: Final = (2.0, 15.0)
_AWAY_S: Final = (0.2, 3.0)
_MESSAGES_A_VISIT: Final = (3, 40)
_LOOK_AGAIN_S: Final = 0.1
_STALLED_S: Final = (5.0, 30.0)
_LITTLE_BYTES: Final = 4096
"""For a stalled reader's receive buffer: what the system keeps for it is not the broker's concern."""
_GOODBYES: Final = 0.3
"""The share of mortals that say goodbye."""


# --- publishers -------------------------------------------------------------------------------------------------


async def publish_stream(ground: Ground, stream: Stream) -> None:
    """Numbered messages, which readers expect."""

    def publish(client: Client, number: int) -> None:
        acknowledged = partial(ground.ledger.acknowledged, stream, number)
        client.publish(Publish(stream.topic, ground.payload(number), stream.qos), acknowledged)

    await _publish(ground, stream.topic, stream.qos, publish, partial(ground.ledger.resent, stream))


async def update_retained(ground: Ground, topic: str) -> None:
    """A retained topic that always has a newer value."""

    def publish(client: Client, number: int) -> None:
        ground.ledger.retained_sent(topic, number)
        acknowledged = partial(ground.ledger.retained_acknowledged, topic, number)
        client.publish(Publish(topic, ground.payload(number), 1, retain=True), acknowledged)

    await _publish(ground, topic, 1, publish, lambda _: None)


async def _publish(
    ground: Ground, topic: str, qos: int, publish: Callable[[Client, int], None], resent: Callable[[int], None]
) -> None:
    """Come and go, often in the middle of an exchange; at the end see everything acknowledged."""
    session = Session(f"publisher of {topic}", clean=qos == 0)
    numbers = count()
    while not ground.stop.is_set():
        client, kills = await ground.connect(session)
        for message in client.resent:
            resent(number_in(message.payload))
        for _ in range(ground.random.randint(*_MESSAGES_A_VISIT)):
            if not await ground.stay(client, kills, *_PUBLISH_EVERY_S):
                break
            if session.unacknowledged < _WINDOW:
                publish(client, next(numbers))
                ground.counts["published"] += 1
        ground.leave(client)
        await ground.pause(*_AWAY_S)
    if session.unacknowledged:
        await _see_acknowledged(ground, session, resent)


async def _see_acknowledged(ground: Ground, session: Session, resent: Callable[[int], None]) -> None:
    client, kills = await ground.connect(session)
    for message in client.resent:
        resent(number_in(message.payload))
    for _ in range(int(ANSWER_WITHIN_S / _LOOK_AGAIN_S)):
        if not session.unacknowledged:
            break
        await asyncio.sleep(_LOOK_AGAIN_S)
    else:
        ground.fault("did not acknowledge a message", kills)
    client.disconnect()


# --- readers ----------------------------------------------------------------------------------------------------


async def enroll(ground: Ground, reader: Reader, topic_filter: str) -> Session:
    """Have a stored session with its subscription, before anything is published."""
    session = Session(reader.name, clean=False)
    client, _ = await ground.connect(session)
    await client.subscribe((topic_filter, reader.qos))
    client.disconnect()
    await client.lost
    return session


async def read_streams(ground: Ground, reader: Reader, session: Session) -> None:
    """Take and acknowledge, coming and going; stay at the end until it is over."""
    streams = {stream.topic: stream for stream in reader.streams}
    acknowledged: list[tuple[Stream, int]] = []

    def take(message: Publish) -> None:
        stream, number = streams[message.topic], number_in(message.payload)
        ground.counts["delivered"] += 1
        ground.ledger.arrived(reader, stream, number)
        if message.qos == 1:
            acknowledged.append((stream, number))

    while not ground.over.is_set():
        client, kills = await ground.connect(session, take)
        acknowledged.clear()  # what was on its way when the last connection ended may come again
        until_s = asyncio.get_running_loop().time() + ground.random.uniform(*_HERE_S)
        while asyncio.get_running_loop().time() < until_s and not ground.stop.is_set():
            told, acknowledged[:] = acknowledged[:], []
            if not await _is_known(ground, client, kills):
                break
            for stream, number in told:
                ground.ledger.settled(reader, stream, number)
        if ground.stop.is_set():
            await until_either(client.lost, ground.over)
        ground.leave(client)
        await ground.pause(*_AWAY_S)


async def _is_known(ground: Ground, client: Client, kills: int) -> bool:
    """Wait until the broker must know for good what it was told so far; False if that cannot be said."""
    try:
        await client.ping()
    except (ConnectionError, TimeoutError) as error:
        ground.fault(f"did not answer a ping: {type(error).__name__}", kills)
        return False
    return await ground.stay(client, kills, SETTLED_AFTER_S, SETTLED_AFTER_S) and kills == ground.kills


async def stall(ground: Ground, client_id: str) -> None:
    """Ask for everything and never read it."""
    while not ground.stop.is_set():
        client, kills = await ground.connect(Session(client_id))
        client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LITTLE_BYTES)
        await _subscribe(ground, client, kills, f"{ROOT}/#")
        client.transport.pause_reading()
        ground.counts["stalled readers"] += 1
        await ground.pause(*_STALLED_S)
        client.abort()


# --- everybody else ---------------------------------------------------------------------------------------------


async def visit(ground: Ground, client_id: str, filters: list[str]) -> None:
    """A clean session: some filters, some messages, gone again."""
    while not ground.stop.is_set():
        client, kills = await ground.connect(Session(client_id))
        await _subscribe(ground, client, kills, ground.random.choice(filters))
        client.publish(Publish(f"visits/{client_id}", ground.payload(0), ground.random.randrange(3)))
        await ground.stay(client, kills, *_HERE_S)
        ground.leave(client)
        await ground.pause(*_AWAY_S)


async def _subscribe(ground: Ground, client: Client, kills: int, topic_filter: str) -> None:
    try:
        await client.subscribe((topic_filter, ground.random.randrange(3)))
    except (ConnectionError, TimeoutError, Refused) as error:
        ground.fault(f"did not grant a subscription: {type(error).__name__}", kills)


async def die(ground: Ground, stream: Stream) -> None:
    """Leave wills: they are owed to the readers when the client vanishes, and must not be sent after a goodbye."""
    for number in count():
        if ground.stop.is_set():
            return
        will = Will(stream.topic, ground.payload(number), stream.qos)
        client, kills = await ground.connect(Session(f"mortal {stream.topic}"), will=will)
        if not await ground.stay(client, kills, *_HERE_S):
            continue
        says_goodbye = ground.random.random() < _GOODBYES
        if says_goodbye:
            client.disconnect()
        else:
            client.abort()
        await asyncio.sleep(SETTLED_AFTER_S)
        if kills == ground.kills:
            (ground.ledger.uncalled if says_goodbye else ground.ledger.acknowledged)(stream, number)
            ground.counts["wills left" if says_goodbye else "wills owed"] += 1


async def take_over(ground: Ground, topic: str) -> None:
    """One client id, again and again before the last connection has ended: its will comes first, and it is closed."""
    older: Client | None = None
    for number in count():
        will = Will(topic, ground.payload(2 * number + 1), 1, retain=True)
        client, kills = await ground.connect(Session(f"twin {topic}"), will=will)
        if older is not None:
            await until_either(older.lost, ground.over, ANSWER_WITHIN_S)
            if not older.lost.done():
                ground.fault("left a connection open that was taken over", kills)
        ground.ledger.retained_sent(topic, 2 * number)
        acknowledged = partial(ground.ledger.retained_acknowledged, topic, 2 * number)
        client.publish(Publish(topic, ground.payload(2 * number), 1, retain=True), acknowledged)
        ground.counts["take-overs"] += older is not None
        if await ground.stay(client, kills, *_HERE_S) and ground.stop.is_set():
            await until_either(client.lost, ground.over)
            client.disconnect()
            return
        older = client


async def retained(ground: Ground, *filters: str) -> dict[str, int]:
    """What a newcomer finds retained: the number of each topic's message."""
    found: dict[str, int] = {}

    def take(message: Publish) -> None:
        if message.retain:
            found[message.topic] = number_in(message.payload)

    client, _ = await ground.connect(Session("newcomer"), take)
    await client.subscribe(*((topic_filter, 0) for topic_filter in filters))
    await client.ping()
    client.disconnect()
    return found
