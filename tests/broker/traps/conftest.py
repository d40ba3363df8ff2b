"""One trap, two brokers: `--broker=stock` runs the same tests on amqtt's own broker, where each of them must fail."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from hub.protocol.packets import Disconnect, MalformedPacket
from tests.broker.conftest import Peer, Place
from tests.broker.traps.process import BrokerProcess
from tests.broker.traps.wanted import Wanted

SEEN_FROM_OUTSIDE = (AssertionError, TimeoutError, EOFError, ConnectionError, MalformedPacket)
"""How a test fails on a trap; a broker that does not even start is another failure."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--broker", choices=("ours", "stock"), default="ours", help="the broker that the traps are set for"
    )


def which_broker(config: pytest.Config) -> Literal["ours", "stock"]:
    chosen: Literal["ours", "stock"] = config.getoption("--broker", default="ours")
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if which_broker(config) == "stock":
        for item in items:
            if Path(__file__).parent in item.path.parents and item.path.name != "test_fairness.py":
                item.add_marker(pytest.mark.xfail(raises=SEEN_FROM_OUTSIDE, strict=True, reason="a trap of amqtt's"))


class Scene(Place):
    """A broker seen from outside, and its peers."""

    async def settle(self) -> None:
        """Give the broker time to finish what it may be doing: that of a few clients coming and going."""
        for _ in range(5):
            passing = await self.client("hub", client_id="hub-passing")
            await passing.so_far()
            passing.send(Disconnect())
            await passing.closed()

    async def heard(self, peer: Peer) -> list[tuple[str, bytes, int, bool]]:
        """Topic, payload, QoS and RETAIN of what a peer is sent until the broker has nothing more to do."""
        await self.settle()
        return await peer.messages()


StartScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def start_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StartScene]:
    """Starts a broker; keywords are those of `Wanted`, and every other one is an option of ours."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Scene:
            words = {name: options.pop(name) for name in Wanted.__dataclass_fields__ if name in options}
            wanted = Wanted(which_broker(request.config), tmp_path, options, **words)
            if wanted.which == "stock" and wanted.store:
                pytest.importorskip("aiosqlite")
                pytest.importorskip("greenlet")
            scene = Scene(await stack.enter_async_context(BrokerProcess(wanted)), refusals=[])
            stack.callback(lambda: [peer.drop() for peer in scene.peers])
            return scene

        yield start


@pytest.fixture
async def place(start_broker: StartScene) -> Scene:
    """A broker with identities and the contract's rights."""
    return await start_broker()


@pytest.fixture
async def open_place(start_broker: StartScene) -> Scene:
    """A broker where everybody may do everything."""
    return await start_broker(anyone=True)
