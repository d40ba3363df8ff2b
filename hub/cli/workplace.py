"""What a command works with; `main` makes it from the settings and the flags."""

import json
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from sqlmodel import Session

from hub.audit import By, Trail, recorded
from hub.data_dir import DataDir
from hub.database import Database
from hub.protocol.topics import Topics
from hub.tables import DatabaseError

T = TypeVar("T")
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the hub keeps what it keeps.  [default: ./data]", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@dataclass(frozen=True, slots=True)
class Workplace:
    """One hub's data directory, database and topics, without the hub."""

    data_dir: DataDir
    database_url: str
    topics: Topics

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The database, with its tables; a new one gets them. Raises DatabaseError.

        Tables that are there are left at their version: a hub of that version may be at work on them.
        """
        database = Database(self.database_url)
        try:
            current, newest = database.versions()
            if current is None:
                database.migrate()
            elif current != newest:
                raise DatabaseError(
                    f"the database is of version {current}, which an older Feeder Hub has written, and this one works "
                    f"on {newest}. `feeder-hub serve` brings it there, once no older hub uses it; until then use the "
                    "command line of the old version."
                )
            yield database
        finally:
            database.close()


MakeWorkplace = Callable[[Path | None], Workplace]


def workplace(context: typer.Context, data_dir: Path | None) -> Workplace:
    """The workplace for the flags that a command was given."""
    make: MakeWorkplace = context.obj
    return make(data_dir)


def whoever_runs_this() -> By:
    """Who it is to the operating system, for the audit; a number where it knows no name."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return By(f"cli:{name}")


def change(database: Database, action: str, work: Callable[[Session, Trail], T]) -> T:
    """Run the work in a transaction, with its entry in the audit. action: as the call of HTTP that does the same."""
    return database.write_now(recorded(whoever_runs_this(), action, None, work))


def print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content))
