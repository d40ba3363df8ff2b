"""`make soak`: a thousand clients that come and go, for minutes, and whether anything was lost or memory grew."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Annotated, Any, Final

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.processes import ChildFailed
from benchmarks.report import machine
from benchmarks.soak import abuse, report, roles
from benchmarks.soak.ground import ROOT, Ground
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.life import Life
from benchmarks.soak.population import Population, population
from benchmarks.soak.report import Found

_KILLS: Final = 5
_LOOK_EVERY_S: Final = 1.0
_ARRIVE_WITHIN: Final = 1 / 60
"""The share of the whole time in which everybody comes for the first time."""
_LAST_MESSAGES_WITHIN_S: Final = 60.0
_INTERRUPTED: Final = 130

console = Console(width=None if sys.stdout.isatty() else 110)


async def run(seconds: float, connections: int, kills: int, seed: int) -> Found:
    """The whole soak. Raises ChildFailed if the broker does not start, ExceptionGroup on a fault of our own."""
    people = population(connections)
    with tempfile.TemporaryDirectory(prefix="feeder-hub-soak-") as work_dir:
        async with Life(Path(work_dir)) as life:
            ground = Ground(life.server.port, Ledger([reader for reader, _ in people.readers]), Random(seed))
            ground.up.set()
            memory: list[tuple[float, int]] = []
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_watch(ground, life, seconds, memory))
                readers = [await roles.enroll(ground, reader, name) for reader, name in people.readers]
                staying = [
                    *(
                        roles.read_streams(ground, reader, session)
                        for (reader, _), session in zip(people.readers, readers, strict=True)
                    ),
                    *(roles.take_over(ground, topic) for topic in people.state_topics),
                ]
                arrival_s = seconds * _ARRIVE_WITHIN
                for role in staying:
                    group.create_task(_in_a_while(ground, role, arrival_s))
                finishing = [
                    group.create_task(_in_a_while(ground, role, arrival_s)) for role in _passing(ground, people)
                ]
                await _kill_now_and_then(ground, life, seconds, kills)
                await _end(ground, finishing)
                watch.cancel()
        ground.faults["logged exceptions"] += life.logged_faults
        return Found(ground.ledger.account(), ground.counts, +ground.faults, ground.kills, memory)


def _passing(ground: Ground, people: Population) -> list[Coroutine[Any, Any, None]]:
    """Those who finish when they are told to stop."""
    filters = [*(stream.topic for stream in people.streams), f"{ROOT}/retained/+", f"{ROOT}/state/+"]
    return [
        *(roles.publish_stream(ground, stream) for stream in people.streams),
        *(roles.update_retained(ground, topic) for topic in people.retained_topics),
        *(roles.die(ground, stream) for stream in people.wills),
        *(roles.stall(ground, client_id) for client_id in people.stalled),
        *(roles.visit(ground, client_id, filters) for client_id in people.visitors),
        *(abuse.attack(ground, client_id) for client_id in people.bad),
    ]


async def _in_a_while(ground: Ground, role: Coroutine[Any, Any, None], longest_s: float) -> None:
    """Not everybody at the same moment."""
    await ground.pause(0, longest_s)
    await role


async def _kill_now_and_then(ground: Ground, life: Life, seconds: float, kills: int) -> None:
    for n in range(kills + 1):
        await asyncio.sleep(seconds / (kills + 1))
        if n < kills:
            ground.up.clear()
            ground.kills += 1
            await life.kill_and_begin_again()
            ground.up.set()


async def _end(ground: Ground, finishing: list[asyncio.Task[None]]) -> None:
    """Let everybody finish, the last messages arrive, and a newcomer look at what is retained."""
    ground.stop.set()
    await asyncio.wait(finishing)
    for _ in range(int(_LAST_MESSAGES_WITHIN_S / _LOOK_EVERY_S)):
        if not ground.ledger.account().lost:
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    found = await roles.retained(ground, f"{ROOT}/state/+", f"{ROOT}/retained/+")
    ground.faults["retained something else than the last"] += len(ground.ledger.wrongly_retained(found))
    ground.over.set()


async def _watch(ground: Ground, life: Life, seconds: float, memory: list[tuple[float, int]]) -> None:
    """Look at the broker's memory once a second, and say how it goes."""
    began_s = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    with bar:
        task = bar.add_task("", total=seconds)
        while True:
            at_s = time.monotonic() - began_s
            held_bytes = life.server.process.memory_bytes() if ground.up.is_set() else None
            if held_bytes is not None:
                memory.append((round(at_s, 1), held_bytes))
            stage = "waiting for the last messages" if ground.stop.is_set() else "soaking"
            bar.update(
                task,
                completed=at_s,
                description=f"{stage}: {ground.counts['connections']:,} connections, "
                f"{ground.counts['published']:,} published, {ground.counts['delivered']:,} delivered, "
                f"{(held_bytes or 0) / 1e6:.0f} MB, {ground.faults.total()} faults",
            )
            await asyncio.sleep(_LOOK_EVERY_S)


def main(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 10.0,
    connections: Annotated[int, typer.Option(min=20, help="How many clients.")] = 1000,
    kill: Annotated[bool, typer.Option("--kill", help="Kill the broker in the middle, and start it again.")] = False,
    kills: Annotated[int, typer.Option(min=1, help="How often, with --kill.")] = _KILLS,
    seed: Annotated[int, typer.Option(help="Of what is left to chance.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there too.")] = None,
) -> None:
    """Let clients come and go. Ends with 1 if a message was lost or doubled, memory grew or anything else is wrong."""
    facts = machine()
    console.print(
        f"{facts['at']}, {facts['cores']} cores, load {facts['load']}, {facts['system']}, Python {facts['python']}; "
        f"{minutes:g} minutes, {connections:,} clients, seed {seed}\n",
        highlight=False,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run(minutes * 60, connections, kills * kill, seed))
    except ChildFailed as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; every process is ended")
        sys.exit(_INTERRUPTED)
    report.show(console, found)
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": facts, "seed": seed} | found.as_json()) + "\n")
    sys.exit(0 if found.fine else 1)


if __name__ == "__main__":
    typer.run(main)
