"""The people: they order things of any hub process that answers, and where it broke off ask again with the same key."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from sqlalchemy.exc import OperationalError

from hub.errors import HubError, Unavailable
from hub.models import Command
from hub.orders import ConfigOrder, Key, Order
from tests.simulation.clock import VirtualLoop
from tests.simulation.process import HubProcess

TRIES = 3
PATIENCE_S = 60.0
CONFIG: dict[str, Any] = {
    "enabled": True,
    "interval_s": 3600,
    "window": {"start": "06:00", "end": "19:30"},
    "daily_limit_g": 400_000.0,
    "feed_rate_g_per_s": 12.5,
    "silo_low_g": 5000.0,
}


class People:
    """`told`: what a caller was told of its command, by the command's id."""

    def __init__(
        self,
        loop: VirtualLoop,
        random: Random,
        site: str,
        feeders: list[str],
        processes: list[HubProcess],
        note: Callable[[str], None],
        fault: Callable[[str], None],
    ) -> None:
        self.told: dict[str, str] = {}
        self.orders = 0
        self._loop = loop
        self._random = random
        self._site = site
        self._feeders = feeders
        self._processes = processes
        self._note = note
        self._fault = fault

    def order_something(self) -> None:
        """One of the things that people do."""
        names = ["feed", "set_config", "pause", "resume", "stop_all", "release", "ping", "report"]
        (name,) = self._random.choices(names, [12, 12, 1, 2, 1.5, 3, 0.5, 0.5])
        self.order(name)
        if name == "feed" and self._random.random() < 0.1:
            self.order("stop_all")  # at the same moment, at another process perhaps
        if name == "set_config" and self._random.random() < 0.3:
            self.order("set_config")
        if name == "stop_all":
            self._loop.after(self._random.expovariate(1 / 40), lambda: self.order("release"))

    def order(self, name: str) -> None:
        self.orders += 1
        self._loop.start(self._insist(self._made(name, self.orders)))

    def _made(self, name: str, number: int) -> Order:
        random = self._random
        actor = random.choice(["anna", "ben"])
        key = Key("people", f"wish-{number}", name) if random.random() < 0.7 else None
        if name in ("stop_all", "release", "ping", "report"):
            return Order(self._site, None, name, actor, key=key)
        feeder = random.choice(self._feeders)
        if name == "set_config":
            queue_for_s = random.choice([None, None, 20.0, 120.0, 600.0])
            args = CONFIG | {"meal_g": 100 + number * 0.25}
            return ConfigOrder(self._site, feeder, name, actor, args=args, key=key, queue_for_s=queue_for_s)
        if name == "feed":
            # Grams of its own for each wish: so it is known again at the PLC, whatever its command is called.
            grams = 10 + number * 0.25 + random.choice([0, 0, 0, 0, 300.125])
            return Order(self._site, feeder, name, actor, {"grams": grams}, key)
        return Order(self._site, feeder, name, actor, key=key)

    async def _insist(self, order: Order) -> None:
        for _ in range(TRIES if order.key is not None else 1):
            running = [process for process in self._processes if process.ready]
            if not running:
                await asyncio.sleep(self._random.uniform(1, 5))
                continue
            process = self._random.choice(running)
            wait_s = self._random.choice([None, None, 0.0, 3.0])
            asked = self._loop.start(process.commands.send(order, wait_s), process.life)
            await asyncio.wait({asked}, timeout=PATIENCE_S)
            if not self._must_try_again(order, asked):
                return
            await asyncio.sleep(self._random.uniform(0.2, 3))

    def _must_try_again(self, order: Order, asked: "asyncio.Task[Command]") -> bool:
        if not asked.done() or asked.cancelled():
            asked.cancel()
            return True  # the process was killed, or did not answer
        error = asked.exception()
        if error is None:
            command = asked.result()
            self._note(f"{order.actor} is told that {order.name} {command.id} is {command.state}")
            self.told[command.id] = command.state
            return False
        if not isinstance(error, (HubError, OperationalError)):
            self._fault(f"an order ends with {error!r}")
        self._note(f"{order.name} of {order.actor}: {type(error).__name__}")
        return isinstance(error, (Unavailable, OperationalError))
