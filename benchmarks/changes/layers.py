"""Where the hub's time goes: py-spy samples the real process under load, the samples are summed by layer.

    .venv/bin/python -m benchmarks.changes.layers --py-spy PATH

py-spy is no dependency of the project; `pip install py-spy` in any environment gives the program.
"""

import asyncio
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.changes import cases
from benchmarks.changes.change import ChangeOrder
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured
from benchmarks.processes import ChildFailed
from benchmarks.rounds import Case

LAYERS: Final = (
    ("HTTP: uvicorn, httptools, Starlette", ("uvicorn/", "starlette/", "httptools/")),
    ("HTTP: token", ("Doorkeeper.caller", "hub/accounts.py")),
    ("HTTP: body, answer", ("http_api/",)),
    (
        "rows: statements, SQLAlchemy",
        ("sqlalchemy", "sqlmodel/", "hub/database.py", "hub/models.py", "hub/statements.py"),
    ),
    ("Redis client", ("redis/", "hub/store.py", "hub/stream.py", "hub/liveness.py", "hub/together.py")),
    ("the link over the network", ("hub/link.py",)),
    ("embedded broker, MQTT codec", ("broker/", "amqtt/", "hub/protocol/packets.py")),
    ("pydantic, the contract's models", ("pydantic/", "hub/protocol/messages.py", "hub/protocol/times.py")),
    ("the hub's rules", ("hub/", "ulid/", "structlog/", "prometheus_client/")),
)
"""Layer, and what the innermost frame of a sample that says anything must contain."""
REST: Final = "event loop, futures, threads"
OUTSIDE: Final = "without the interpreter's lock: SQLite, sockets, disk"
_RATE_HZ: Final = 200
_WARM_UP_S: Final = 3.0
_MARGIN_S: Final = 2.0
_SHOWN_FUNCTIONS: Final = 25

console = Console()


def layer_of(frames: list[str]) -> str:
    """The layer of one sample; `frames`: `function (file:line)`, the innermost last."""
    for frame in reversed(frames):
        for layer, marks in LAYERS:
            if any(mark in frame for mark in marks):
                return layer
    return REST


def own_functions(frames: list[str]) -> set[str]:
    """The functions of the project that were at work in one sample, whatever they called."""
    return {
        f"{function} ({file})"
        for function, _, place in (frame.partition(" (") for frame in frames)
        if (file := place.partition(":")[0]).startswith(("hub/", "http_api/", "broker/"))
    }


def read_samples(raw: str) -> list[tuple[list[str], int]]:
    """py-spy's raw format: frames with semicolons between them, a space, how often."""
    samples = []
    for line in raw.splitlines():
        frames, _, count = line.rpartition(" ")
        samples.append((frames.split(";"), int(count)))
    return samples


async def sample(case: Case, py_spy: str, order: ChangeOrder, samples_file: Path) -> tuple[Measured, float]:
    """Load the hub, and sample it in the middle of it; what was measured, and its CPU ms per request."""
    await case.load.say(**asdict(ChangeOrder(order.concurrency, order.feeders, _WARM_UP_S)))
    await case.load.hear(_WARM_UP_S + LAST_ANSWERS_WITHIN_S)
    loaded_s = order.seconds + _MARGIN_S
    before_s = case.server.cpu_seconds()
    await case.load.say(**asdict(ChangeOrder(order.concurrency, order.feeders, loaded_s)))
    command = [py_spy, "record", "--pid", str(case.server.pid), "--duration", f"{order.seconds:.0f}"]
    command += ["--rate", str(_RATE_HZ), "--gil", "--threads", "--format", "raw", "--output", str(samples_file)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise ChildFailed("py-spy could not sample the hub")
    measured = Measured(**await case.load.hear(loaded_s + LAST_ANSWERS_WITHIN_S))
    after_s = case.server.cpu_seconds()
    if before_s is None or after_s is None:
        raise ChildFailed("the hub's CPU time cannot be read: this system has no /proc")
    return measured, (after_s - before_s) / measured.count * 1000


def show(samples: list[tuple[list[str], int]], measured: Measured, seconds: float, cpu_ms: float) -> None:
    ms_per_sample = 1000 / _RATE_HZ / (measured.count / measured.seconds * seconds)
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for frames, count in samples:
        layers[layer_of(frames)] += count
        for function in own_functions(frames):
            functions[function] += count
    times_ms = {layer: count * ms_per_sample for layer, count in layers.items()}
    times_ms[OUTSIDE] = max(0.0, cpu_ms - sum(times_ms.values()))
    console.print(
        f"{measured.count / measured.seconds:.0f} changes/s, p50 {measured.p50_ms:.1f} ms, "
        f"{cpu_ms:.2f} ms CPU per change, {measured.errors} errors\n",
        highlight=False,
    )
    table = Table("layer", box=None, header_style="bold")
    table.add_column("ms per change", justify="right")
    table.add_column("%", justify="right")
    for layer, ms in sorted(times_ms.items(), key=lambda item: -item[1]):
        table.add_row(layer, f"{ms:.3f}", f"{ms / sum(times_ms.values()):.1%}")
    console.print(table)
    inclusive = Table("\nfunction, with what it calls", box=None, header_style="bold")
    inclusive.add_column("\nms per change", justify="right")
    for function, count in functions.most_common(_SHOWN_FUNCTIONS):
        inclusive.add_row(function, f"{count * ms_per_sample:.3f}")
    console.print(inclusive)


async def run(py_spy: str, seconds: float, concurrency: int, feeders: int) -> None:
    with tempfile.TemporaryDirectory(prefix="feeder-hub-layers-") as work_dir:
        samples_file = Path(work_dir) / "samples"
        async with cases.product(Path(work_dir), feeders) as case:
            order = ChangeOrder(concurrency, feeders, seconds)
            measured, cpu_ms = await sample(case, py_spy, order, samples_file)
        show(read_samples(samples_file.read_text()), measured, seconds, cpu_ms)


def main(
    py_spy: Annotated[str, typer.Option(help="The py-spy program.")] = "py-spy",
    seconds: Annotated[float, typer.Option(min=1, help="How long to sample.")] = 20.0,
    concurrency: Annotated[int, typer.Option(min=1)] = 16,
    feeders: Annotated[int, typer.Option(min=1)] = 64,
) -> None:
    """Sum the hub's time under load by layer and by function."""
    program = shutil.which(py_spy)
    if program is None:
        console.print(f"{py_spy} is not there; `pip install py-spy`, and name it with --py-spy")
        sys.exit(1)
    try:
        asyncio.run(run(program, seconds, concurrency, feeders))
    except ChildFailed as error:
        console.print(str(error), markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
