"""Backups of the database, made while the hub runs, and what a database becomes when it is restored from one.

SQLite: a copy of one moment by its online backup, in one file. PostgreSQL: `pg_dump`'s custom format. A restored
database is behind the farms: what it takes for open may long have ended, and what it gives out must not look old there.
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from sqlalchemy import select, text, update
from sqlmodel import Session

from hub import settlement
from hub.audit import By, record
from hub.command_states import CommandState
from hub.database import Database
from hub.errors import HubError
from hub.feeders import end_flight, settle_config
from hub.models import COMMAND, FEEDER, SITE
from hub.orders import Desk, Order, place
from hub.protocol.topics import Topics
from hub.sqlite import BUSY_TIMEOUT_S
from hub.tables import check_version, upgrade

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

CAUSE: Final = "restored from a backup"
ACTOR: Final = "restore"
_DESK: Final = Desk("restore", Topics(), timeout_s=0)
"""Whose stops are unknown from the beginning; the hub that starts next repeats them in its own name."""
_SQLITE: Final = b"SQLite format 3\0"
_POSTGRESQL: Final = b"PGDMP"
_PAGES_A_STEP: Final = 256
_POSTGRESQL_PROGRAMS: Final = Path("/usr/lib/postgresql")
_SCHEMA: Final = "public"


class BackupError(HubError):
    """No backup was made, or nothing was restored; says why."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """What restoring changed in the restored rows: commands that waited, that were on their way; sites under a stop."""

    expired: int
    unknown: int
    stopped: int


@dataclass(frozen=True, slots=True)
class Restored:
    """`aside`: where the database is that was there before; None: there was none."""

    resumed: Resumed
    aside: str | None


# --- the rule ----------------------------------------------------------------------------------------------------


def resume(session: Session, now: datetime) -> Resumed:
    """Make restored rows fit to go on with. Every latch stays, and nothing that is answered later releases one.

    A latched stop may have been released since, and its desktop would answer for it what it answered then. So the site
    is stopped anew, by a stop that no desktop knows. Config versions and stop epochs go on from the time in seconds,
    which is higher than any that was given out since the backup (as long as a feeder has had less than one change a
    second). So a desktop takes the first order for new.
    """
    connection = session.connection()
    waiting = connection.execute(select(COMMAND.c.id).where(COMMAND.c.state == CommandState.PENDING)).scalars().all()
    for command_id in waiting:
        detail = (
            "It waited when the backup was made that is restored now; the feeder's state shows if it was sent later."
        )
        ended = settlement.advance(session, command_id, CommandState.EXPIRED, CAUSE, now, detail=detail)
        if ended is not None and ended.feeder_id is not None:
            settle_config(session, ended.site_id, ended.feeder_id, ended.id, {}, now, applied=False)
    under_way = COMMAND.c.state.in_((CommandState.SENT, CommandState.RECEIVED))
    sent = connection.execute(select(COMMAND.c.id).where(under_way)).scalars().all()
    for command_id in sent:
        unknown = settlement.advance(session, command_id, CommandState.UNKNOWN, CAUSE, now)
        if unknown is not None and unknown.name == "set_config":
            end_flight(session, unknown)
    floor = int(now.timestamp())
    connection.execute(update(FEEDER).where(FEEDER.c.last_version < floor).values(last_version=floor))
    connection.execute(update(SITE).where(SITE.c.stop_epoch < floor).values(stop_epoch=floor))
    stopped = connection.execute(select(SITE.c.id).where(SITE.c.stopped_at.is_not(None))).scalars().all()
    for site in stopped:
        stop = place(session, Order(site, None, "stop_all", ACTOR), None, _DESK, now).command
        settlement.advance(session, stop.id, CommandState.UNKNOWN, CAUSE, now)
    return Resumed(len(waiting), len(sent), len(stopped))


# --- either database ---------------------------------------------------------------------------------------------


def back_up(url: str, file: Path, progress: Progress, *, overwrite: bool) -> None:
    """Write a backup of the database as it is at this moment. Raises HubError, and leaves no half file."""
    if file.exists() and not overwrite:
        raise BackupError(f"{file} is there already; name another file, or overwrite it with --force")
    with _opened(url) as database:
        if not database.is_there():
            raise BackupError(f"there is no database at {_path(database)} yet")
        if database.versions()[0] is None:
            raise BackupError(f"the database {database.url.render_as_string()} is empty")
        with _draft(file) as draft:
            if database.is_sqlite:
                _copy_sqlite(_path(database), draft, progress)
                _check_sqlite(draft)
            else:
                command = ["--format=custom", f"--schema={_SCHEMA}", "--no-owner", "--no-privileges"]
                _run(database, "pg_dump", [*command, f"--file={draft}"])
                _run(None, "pg_restore", ["--list", str(draft)])
                progress(1, 1)


def restore(url: str, file: Path, now: datetime, progress: Progress, by: By) -> Restored:
    """Put a backup in the place of the database, which is kept aside. Nobody else may use it meanwhile.

    by: who does it, for the restored audit; what came after the backup is in that of the database that is kept aside.

    Raises HubError; then the database is as it was.
    """
    try:
        with file.open("rb") as backup:
            begins = backup.read(len(_SQLITE))
    except OSError as error:
        raise BackupError(f"{file} cannot be read: {error.strerror}") from error
    with _opened(url) as database:
        wanted = _SQLITE if database.is_sqlite else _POSTGRESQL
        if not begins.startswith(wanted):
            kind = "SQLite" if database.is_sqlite else "PostgreSQL"
            raise BackupError(f"{file} is no backup of a {kind} database, which database.url asks for")
        aside = now.strftime("before-restore-%Y%m%dT%H%M%SZ")
        restore_it = _restore_sqlite if database.is_sqlite else _restore_postgresql
        return restore_it(database, file, aside, now, progress, by)


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    """As it is: neither made nor brought to another version."""
    database = Database(url, patient=True)
    try:
        yield database
    finally:
        database.close()


def _resumed(database: Database, version: str, file: Path, now: datetime, by: By) -> Resumed:
    """In one transaction, so that no hub finds the rows before they are fit to go on with."""

    def work(session: Session) -> Resumed:
        connection = session.connection()
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
        upgrade(connection)
        resumed = resume(session, now)
        record(session, by, "restore", target=file.name, after=asdict(resumed))
        return resumed

    return database.write_now(work)


@contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """A file beside this one, for its owner only, that takes its place once it is whole and on disk."""
    draft = file.with_name(f"{file.name}.draft")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        try:
            yield draft
            _sync(draft)
            draft.replace(file)
            _sync(file.parent)
        finally:
            for suffix in ("", "-wal", "-shm"):
                draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise BackupError(f"{error.filename or file} cannot be written: {error.strerror}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- SQLite ------------------------------------------------------------------------------------------------------


def _path(database: Database) -> Path:
    return Path(database.url.database or "")


def _copy_sqlite(source: Path, target: Path, progress: Progress) -> None:
    """One moment of it, also while others write. Raises BackupError."""
    address = f"file:{urllib.parse.quote(str(source.absolute()))}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as original,
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            # The moment is held, or the copy would begin anew with every write of another process.
            original.execute("BEGIN").execute("SELECT count(*) FROM sqlite_master").close()
            original.backup(copy, pages=_PAGES_A_STEP, progress=lambda _, left, all_: progress(all_ - left, all_))
            copy.execute("PRAGMA journal_mode=DELETE").close()  # one file, with nothing beside it
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied to {target}: {error}") from error


def _check_sqlite(file: Path) -> str:
    """Its version. Raises HubError: it is damaged, or of a version that is not known here."""
    try:
        with closing(sqlite3.connect(file)) as copy:
            found = [row[0] for row in copy.execute("PRAGMA integrity_check")]
    except sqlite3.Error as error:
        found = [str(error)]
    if found != ["ok"]:
        raise BackupError(f"{file} is damaged: {'; '.join(found[:3])}")
    with _opened(f"sqlite:///{file}") as copied:
        version = copied.versions()[0]
    if version is None:
        raise BackupError(f"{file} has no tables of a hub")
    with closing(sqlite3.connect(file)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE").close()  # opening it has made it two files again
    return version


def _restore_sqlite(database: Database, file: Path, aside: str, now: datetime, progress: Progress, by: By) -> Restored:
    path = _path(database)
    kept = path.with_name(f"{path.name}.{aside}")
    with _draft(path) as draft:
        _copy_sqlite(file, draft, progress)
        version = _check_sqlite(draft)
        with _opened(f"sqlite:///{draft}") as restored:
            resumed = _resumed(restored, version, file, now, by)
        if not path.exists():
            return Restored(resumed, None)
        _put_aside(path, kept)
    return Restored(resumed, str(kept))


def _put_aside(path: Path, kept: Path) -> None:
    """Keep the file under another name; it stays in its place until the new one takes it."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as old:
            old.execute("PRAGMA journal_mode=DELETE").close()  # all that is in the log beside it comes into the file
        os.link(path, kept)
    except sqlite3.OperationalError as error:
        raise BackupError(f"{path} cannot be put aside: {error}") from error
    except sqlite3.DatabaseError:  # damaged, which may be why there is a restore: as it is, with its log
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(kept.with_name(kept.name + suffix))


# --- PostgreSQL --------------------------------------------------------------------------------------------------


def _restore_postgresql(
    database: Database, file: Path, aside: str, now: datetime, progress: Progress, by: By
) -> Restored:
    """In one transaction: the schema with the old tables gets another name, and the new ones take its place."""
    schema = aside.replace("-", "_").lower()
    there_were_tables = database.read_now(lambda session: session.connection().execute(_HAS_TABLES).scalar_one())
    if others := database.read_now(lambda session: session.connection().execute(_OTHERS).scalar_one()):
        raise BackupError(f"{others} others are connected to the database; stop every hub that uses it first")
    only_ours = [f"--schema={_SCHEMA}", "--no-owner", "--no-privileges"]
    told = _run(None, "pg_restore", ["--data-only", "--table=alembic_version", "--file=-", *only_ours, str(file)])
    version = next((after for line, after in pairwise(told.splitlines()) if line.startswith("COPY")), None)
    if version is None:
        raise BackupError(f"{file} has no tables of a hub")
    check_version(version)
    with tempfile.TemporaryDirectory(prefix="feeder-hub-restore-") as directory:
        script = Path(directory) / "backup.sql"
        _run(None, "pg_restore", [f"--file={script}", *only_ours, str(file)])
        move = [f"ALTER SCHEMA {_SCHEMA} RENAME TO {schema}", f"CREATE SCHEMA {_SCHEMA}"]
        statements = [word for statement in move for word in ("--command", statement)]
        how = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
        _run(database, "psql", [*how, *statements, f"--file={script}", "--command", _NOT_FIT_YET])
    progress(1, 1)
    return Restored(_resumed(database, version, file, now, by), f"schema {schema}" if there_were_tables else None)


_NOT_FIT_YET: Final = "UPDATE public.alembic_version SET version_num = 'half restored'"
"""No hub starts on such a version, if the restore ends here; it can be done again."""
_HAS_TABLES: Final = text(f"SELECT to_regclass('{_SCHEMA}.alembic_version') IS NOT NULL")
_OTHERS: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


def _run(database: Database | None, program: str, arguments: Sequence[str]) -> str:
    """What one of PostgreSQL's programs prints, run upon this database. Raises BackupError with its complaint."""
    versions = sorted(_POSTGRESQL_PROGRAMS.glob("*/bin"), key=lambda found: float(found.parent.name), reverse=True)
    path = os.pathsep.join([*map(str, versions), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if found is None:
        raise BackupError(f"{program} is not installed; it is in Debian's package postgresql-client")
    environment = dict(os.environ)
    command = [found, *arguments]
    if database is not None:
        # The password does not stand in the command line, which everybody on the machine can read.
        environment |= {"PGPASSWORD": str(database.url.password or "")} if database.url.password else {}
        where = database.url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
        command.append(f"--dbname={where}")
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BackupError(f"{program} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
