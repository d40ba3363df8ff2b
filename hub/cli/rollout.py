"""`feeder-hub rollout`: how far rollouts are."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hub.cli.workplace import DataDirOption, JsonOption, print_json, workplace
from hub.database import Database
from hub.models import Rollout
from hub.protocol.times import rfc3339
from hub.rollout_rows import counts_of, get, list_rollouts
from hub.rollout_rules import ENDED_BADLY, ON_ITS_WAY, Part, RolloutState

app = typer.Typer(no_args_is_help=True, help="How far rollouts are.")
LISTED: Final = 100
LOOK_EVERY_S: Final = 0.5
ENDED_WITHOUT_ALL: Final = 3
ABORTED: Final = 4
CANCELLED: Final = 5
_CHANGED_NOTHING: Final = (Part.LEFT_OUT, Part.SKIPPED)


@app.command(name="list")
def list_all(context: typer.Context, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the newest hundred rollouts."""
    with workplace(context, data_dir).database() as database:
        rows = database.read_now(lambda session: list_rollouts(session, None, None, LISTED))
        counts = database.read_now(lambda session: counts_of(session, [row.id for row in rows]))
    if as_json:
        print_json({"items": [_told(row, counts[row.id]) for row in rows]})
        return
    table = Table("id", "begun", "by", "change", "state", "applied", "of", "not applied")
    for row in rows:
        of = counts[row.id]
        turns = sum(of.values()) - of.get(Part.LEFT_OUT, 0)
        bad = sum(of.get(part, 0) for part in ENDED_BADLY)
        table.add_row(
            *(row.id, f"{row.created_at:%Y-%m-%d %H:%M}", row.actor, row.name, row.state),
            *(str(of.get(Part.APPLIED, 0)), str(turns), str(bad)),
        )
    Console().print(table)


@app.command()
def watch(
    context: typer.Context,
    rollout_id: Annotated[str, typer.Argument(metavar="ID", help="The rollout's id, as `rollout list` has it.")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a rollout until it has ended, and nothing of it is on its way any more.

    Ends with 0 where every feeder that had a turn has applied it, 3 where not all have, 4 where it was aborted, 5 where
    it was cancelled.
    """
    with workplace(context, data_dir).database() as database, _bar() as bar:
        task = bar.add_task("", total=None, counts="")
        for row, counts in _looks(database, rollout_id):
            turns = sum(counts.values()) - counts.get(Part.LEFT_OUT, 0)
            ended = sum(count for part, count in counts.items() if part not in (*ON_ITS_WAY, Part.WAITING))
            done = ended - counts.get(Part.LEFT_OUT, 0)
            bar.update(task, completed=done, total=turns, description=row.state, counts=_in_words(counts))
    if as_json:
        print_json(_told(row, counts))
    else:
        reason = f" {row.reason}" if row.reason else ""
        typer.echo(f"Rollout {row.id} is {row.state}: {_in_words(counts)}.{reason}")
    raise typer.Exit(_exit_code(row, counts))


def _looks(database: Database, rollout_id: str) -> Iterator[tuple[Rollout, dict[Part, int]]]:
    """How far it is, now and then, until nothing is sent any more and the answers to what was sent are in."""
    while True:
        row, counts = database.read_now(
            lambda session: (get(session, rollout_id, None), counts_of(session, [rollout_id])[rollout_id])
        )
        yield row, counts
        if row.ended_at is not None and not any(counts.get(part) for part in (Part.SENDING, Part.SENT)):
            return
        time.sleep(LOOK_EVERY_S)


def _in_words(counts: dict[Part, int]) -> str:
    return ", ".join(f"{count} {part}" for part in Part if (count := counts.get(part, 0)))


def _exit_code(row: Rollout, counts: dict[Part, int]) -> int:
    match RolloutState(row.state):
        case RolloutState.ABORTED:
            return ABORTED
        case RolloutState.CANCELLED:
            return CANCELLED
        case _:
            rest = sum(count for part, count in counts.items() if part not in (Part.APPLIED, *_CHANGED_NOTHING))
            return ENDED_WITHOUT_ALL if rest else 0


def _told(row: Rollout, counts: dict[Part, int]) -> dict[str, object]:
    return {
        "id": row.id,
        "state": row.state,
        "reason": row.reason,
        "actor": row.actor,
        "name": row.name,
        "patch": row.patch,
        "created_at": rfc3339(row.created_at),
        "ended_at": None if row.ended_at is None else rfc3339(row.ended_at),
        "counts": {part.value: counts.get(part, 0) for part in Part},
    }


@contextmanager
def _bar() -> Iterator[Progress]:
    """On standard error, where somebody looks."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[counts]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        yield bar
