"""`feeder-hub backup` and `feeder-hub restore`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from hub import backup
from hub.cli.workplace import DataDirOption, whoever_runs_this, workplace
from hub.protocol.times import utc_now


def back_up(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where to write it; it holds hashes of secrets.")],
    data_dir: DataDirOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a backup of the database, also while the hub runs. The broker's own store is not part of it."""
    place = workplace(context, data_dir)
    with _bar("Backup") as progress:
        backup.back_up(place.database_url, file, progress, overwrite=force)
    typer.echo(f"Wrote {file}, {file.stat().st_size} bytes.")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file that `feeder-hub backup` wrote.")],
    data_dir: DataDirOption = None,
) -> None:
    """Put a backup in the place of the database, while no hub runs. The old database is kept aside."""
    place = workplace(context, data_dir)
    with place.data_dir.alone(), _bar("Restore") as progress:
        restored = backup.restore(place.database_url, file, utc_now(), progress, whoever_runs_this())
    resumed = restored.resumed
    typer.echo(f"Restored {file}.")
    if restored.aside is not None:
        typer.echo(f"The database that was there: {restored.aside}")
    typer.echo(f"Changes that waited, and are not wanted any more: {resumed.expired}")
    typer.echo(f"Commands that were on their way, and are asked about when their sites are back: {resumed.unknown}")
    typer.echo(f"Sites whose emergency stop was latched, and that are stopped anew: {resumed.stopped}")


@contextmanager
def _bar(what: str) -> Iterator[backup.Progress]:
    """A progress bar, where somebody looks."""
    with Bar(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
