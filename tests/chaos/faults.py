"""What breaks, and how: a deck of faults, drawn from one seed. Each holds for a while, and is then undone."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.chaos.ground import TTL_S, Ground, Site
from tests.chaos.line import Line, Way

Strike = Callable[[], Awaitable[None]]

_HOLDS_S: Final = ((0.1, 1.0), (1.0, TTL_S), (TTL_S + 1, TTL_S + 2))
"""Short ones hit what is on its way, middle ones what has a time limit, long ones outlast the time to live."""
_HOLD_WEIGHTS: Final = (5, 3, 2)
_DELAYS_S: Final = (0.05, 0.9)


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` is counted, `what` says more. strike: does it, holds it and undoes it."""

    kind: str
    what: str
    strike: Strike


Kind = Callable[[Ground, Random], Fault]


def deck(ground: Ground, random: Random, count: int) -> list[Fault]:
    """So many faults, every kind about as often as any other, in random order."""
    kinds = [*_EVERYWHERE, *(_EXTERNAL if ground.mosquitto is not None else _EMBEDDED)]
    if ground.postgres is None:
        kinds = [kind for kind in kinds if kind not in _POSTGRES]
    drawn: list[Fault] = []
    while len(drawn) < count:
        random.shuffle(kinds)
        drawn += [kind(ground, random) for kind in kinds[: count - len(drawn)]]
    return drawn


def _hold_s(random: Random) -> float:
    return random.uniform(*random.choices(_HOLDS_S, _HOLD_WEIGHTS)[0])


# --- processes ------------------------------------------------------------------------------------------------------


def hub_killed(ground: Ground, random: Random) -> Fault:
    away_s = random.uniform(0, 1)

    async def strike() -> None:
        await asyncio.to_thread(ground.hub.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(ground.hub.start)

    return Fault("hub killed", f"and started again after {away_s:.1f} s", strike)


def embedded_redis_killed(ground: Ground, _random: Random) -> Fault:
    async def strike() -> None:

        if (pid := await asyncio.to_thread(ground.hub.valkey_pid)) is not None:
            os.kill(pid, signal.SIGKILL)

    return Fault("Redis killed", "the embedded one", strike)


def external_redis_killed(ground: Ground, random: Random) -> Fault:
    away_s = _hold_s(random)
    redis = ground.redis
    assert redis is not None

    async def strike() -> None:
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(redis.start)

    return Fault("Redis killed", f"and started again, empty, after {away_s:.1f} s", strike)


def broker_restarted(ground: Ground, random: Random) -> Fault:
    away_s, crash = _hold_s(random), random.random() < 0.5
    broker = ground.mosquitto
    assert broker is not None

    async def strike() -> None:
        await asyncio.to_thread(broker.kill if crash else broker.stop)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(broker.start)

    return Fault("broker restarted", f"after a {'crash' if crash else 'stop'} of {away_s:.1f} s", strike)


def postgres_restarted(ground: Ground, random: Random) -> Fault:
    away_s, crash = random.choice((0.0, random.uniform(0, TTL_S))), random.random() < 0.5
    postgres = ground.postgres
    assert postgres is not None

    async def strike() -> None:
        await asyncio.to_thread(lambda: postgres.stop(crash=crash))
        await asyncio.sleep(away_s)
        await asyncio.to_thread(postgres.start)

    return Fault("PostgreSQL restarted", f"after a {'crash' if crash else 'stop'} of {away_s:.1f} s", strike)


def desktop_killed(ground: Ground, random: Random) -> Fault:
    site, away_s = random.choice(ground.sites), _hold_s(random)

    async def strike() -> None:
        await asyncio.to_thread(site.desktop.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(site.desktop.start)

    return Fault("desktop killed", f"of {site.name}, and started again after {away_s:.1f} s", strike)


# --- lines ----------------------------------------------------------------------------------------------------------


def _some(ground: Ground, random: Random) -> list[Site]:
    """One site, or now and then all of them."""
    return ground.sites if random.random() < 0.3 else [random.choice(ground.sites)]


def _desktop_lines(ground: Ground, random: Random) -> tuple[str, list[Line]]:
    sites = _some(ground, random)
    return f"desktop of {', '.join(site.name for site in sites)}", [site.line for site in sites]


def _broker_line(ground: Ground, _random: Random) -> tuple[str, list[Line]]:
    assert ground.broker_line is not None
    return "hub to broker", [ground.broker_line]


def _redis_line(ground: Ground, _random: Random) -> tuple[str, list[Line]]:
    assert ground.redis_line is not None
    return "hub to Redis", [ground.redis_line]


def _postgres_line(ground: Ground, _random: Random) -> tuple[str, list[Line]]:
    assert ground.postgres_line is not None
    return "hub to PostgreSQL", [ground.postgres_line]


Where = Callable[[Ground, Random], tuple[str, list[Line]]]


def _cut(where: Where) -> Kind:
    def line_cut(ground: Ground, random: Random) -> Fault:
        (name, lines), hold_s = where(ground, random), _hold_s(random)

        async def strike() -> None:
            for line in lines:
                line.cut()
            await _hold_and_heal(lines, hold_s)

        return Fault("line cut", f"{name}, for {hold_s:.1f} s", strike)

    return line_cut


def _slow(where: Where) -> Kind:
    def line_slow(ground: Ground, random: Random) -> Fault:
        (name, lines), hold_s = where(ground, random), _hold_s(random)
        delay_s = random.uniform(*_DELAYS_S)

        async def strike() -> None:
            for line in lines:
                line.slow(delay_s)
            await _hold_and_heal(lines, hold_s)

        return Fault("line slow", f"{name}, {delay_s:.2f} s each way, for {hold_s:.1f} s", strike)

    return line_slow


def _swallowing(where: Where) -> Kind:
    def line_swallows(ground: Ground, random: Random) -> Fault:
        (name, lines), hold_s = where(ground, random), _hold_s(random)
        ways = random.choice(((Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)))

        async def strike() -> None:
            for line in lines:
                line.swallow(*ways)
            await _hold_and_heal(lines, hold_s)

        return Fault("line swallows", f"{name}, {' and '.join(ways)}, for {hold_s:.1f} s", strike)

    return line_swallows


async def _hold_and_heal(lines: list[Line], hold_s: float) -> None:
    try:
        await asyncio.sleep(hold_s)
    finally:
        for line in lines:
            line.heal()


_EVERYWHERE: Final = (
    hub_killed,
    desktop_killed,
    _cut(_desktop_lines),
    _slow(_desktop_lines),
    _swallowing(_desktop_lines),
)
_POSTGRES: Final = (postgres_restarted, *(breaking(_postgres_line) for breaking in (_cut, _slow, _swallowing)))
_EMBEDDED: Final = (embedded_redis_killed,)
_EXTERNAL: Final = (
    external_redis_killed,
    broker_restarted,
    *_POSTGRES,
    *(breaking(where) for where in (_broker_line, _redis_line) for breaking in (_cut, _slow, _swallowing)),
)
