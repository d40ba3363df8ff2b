"""A task that goes on: as long as its block, and no block without it."""

import asyncio

import pytest

from hub.tasks import GoingOn, TaskDied


async def for_ever() -> None:
    await asyncio.Event().wait()


async def dies() -> None:
    raise LookupError("by mistake")


async def dies_of_its_end() -> None:
    try:
        await for_ever()
    finally:
        raise LookupError("by mistake")


async def ends() -> None:
    pass


async def test_a_task_goes_on_inside_the_block_and_ends_with_it() -> None:
    async with GoingOn(for_ever, "rounds") as task:
        await asyncio.sleep(0)
        assert not task.done()
    assert task.cancelled()


async def test_where_the_task_dies_the_block_ends_and_says_of_what() -> None:
    async def block() -> None:
        async with GoingOn(for_ever, "quiet-log"), GoingOn(dies, "rounds"), GoingOn(for_ever, "housekeeping"):
            await asyncio.wait_for(for_ever(), 5)

    with pytest.raises(TaskDied, match="rounds died of LookupError") as raised:
        await block()
    assert isinstance(raised.value.__cause__, LookupError)
    await asyncio.sleep(0)  # nothing of the cancellation is left


async def test_a_task_that_dies_while_the_block_ends_is_told_too() -> None:
    async def block() -> None:
        async with GoingOn(dies_of_its_end, "rounds"):
            await asyncio.sleep(0)

    with pytest.raises(TaskDied):
        await block()
    await asyncio.sleep(0)


async def test_a_task_that_dies_at_the_very_end_of_the_block_is_told_too() -> None:
    async def block() -> None:
        async with GoingOn(dies, "rounds") as task:
            while not task.done():
                await asyncio.sleep(0)

    with pytest.raises(TaskDied):
        await block()
    await asyncio.sleep(0)


async def test_a_task_that_ends_rightly_ends_nobody() -> None:
    async with GoingOn(ends, "http") as task:
        await asyncio.wait({task})
        await asyncio.sleep(0)


async def test_what_the_block_raises_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with GoingOn(for_ever, "rounds"):
            raise KeyError


async def test_a_block_that_is_cancelled_by_somebody_else_is_cancelled() -> None:
    async def block() -> None:
        async with GoingOn(for_ever, "rounds"):
            await for_ever()

    owner = asyncio.create_task(block())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    owner.cancel()
    await asyncio.wait({owner})
    assert owner.cancelled()
