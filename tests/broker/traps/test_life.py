"""Shutting down, and what is there after a new start."""

import pytest


async def test_a_shutdown_closes_a_connection_that_has_said_nothing(place):
    idle = await place.socket()
    await place.broker.shutdown()
    assert await idle.closed() == []


@pytest.mark.parametrize("suddenly", [True, False])
@pytest.mark.parametrize("last", [b"19", b""])
async def test_retained_messages_come_back_as_they_were_when_the_broker_ended(start_broker, last, suddenly):
    place = await start_broker(anyone=True, store=True)
    publisher = await place.client("publisher")
    for value in (*(b"%d" % number for number in range(19)), last):
        await publisher.publish("level", value, retain=True)
    await place.settle()
    if not suddenly:
        await place.broker.shutdown()
    await place.broker.kill()

    place = await start_broker(anyone=True, store=True)
    subscriber = await place.hub("level")
    assert [payload for _, payload, _, _ in await place.heard(subscriber)] == ([last] if last else [])
