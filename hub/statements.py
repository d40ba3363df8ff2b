"""Statements that every change and every message runs through: built and compiled once, run on the driver itself.

They are written in SQLAlchemy's language, with its types, once for both kinds of database. A run costs what the driver
takes, a tenth of what it costs by way of `Connection.execute`; errors are those that SQLAlchemy raises.
"""

import functools
from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine
from sqlmodel import Session

Process = Callable[[Any], Any]
_DRIVER: Final = "driver"


class Row(tuple[Any, ...]):
    """One row: its columns by their names."""

    __slots__ = ()

    def but(self, **values: Any) -> "Row":
        """The same row with other values in some of its columns."""
        return cast("Row", cast("Any", self)._replace(**values))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def row_type(name: str, columns: Iterable[str]) -> Callable[..., Row]:
    """Makes rows with these columns; by their names, those that are not given are None."""
    names = list(columns)
    fields = namedtuple(name, names, defaults=[None] * len(names))  # type: ignore[misc]  # noqa: PYI024
    return cast("Callable[..., Row]", type(name, (fields, Row), {"__slots__": ()}))


def run_on(session: Session, connection: Connection) -> None:
    """Say that the session works in this one's transaction: asking the session each time costs as much as a run."""
    session.info[_DRIVER] = _Driver.of(connection)


@dataclass(slots=True)
class _Driver:
    """The driver below a connection that is in a transaction."""

    connection: Connection
    name: str
    execute: Callable[[str, Any], Any]
    error: type[Exception]

    @classmethod
    def of(cls, connection: Connection) -> "_Driver":
        dialect, driver = connection.dialect, cast("Any", connection.connection.dbapi_connection)
        return cls(connection, dialect.name, driver.execute, dialect.loaded_dbapi.Error)


class Statement:
    """A query, or an insert, update or delete, `returning` or not, with a `bindparam` for each value it is run with."""

    def __init__(self, clause: Any) -> None:
        self._clause = clause
        self._compiled: dict[str, _Compiled] = {}

    def run(self, session: Session, /, **values: Any) -> list[Row]:
        """The rows that it finds or returns."""
        driver = session.info.get(_DRIVER) or _Driver.of(session.connection())
        compiled = self._compiled.get(driver.name)
        if compiled is None:
            compiled = self._compiled[driver.name] = _compile(self._clause, driver.connection.dialect)
        return compiled.run(driver, values)

    def first(self, session: Session, /, **values: Any) -> Row | None:
        rows = self.run(session, **values)
        return rows[0] if rows else None


@dataclass(slots=True)
class _Compiled:
    """names: whose values the driver is given, in this order. binds: which of them it is given in another form.

    fixed: values that stand in the statement itself, in the driver's form. columns: name and type of those that it
    finds or returns. read: makes a row of them; known after the first run, as it depends on what the driver tells of
    each column.
    """

    sql: str
    positional: bool
    names: tuple[str, ...]
    binds: tuple[tuple[int, Process], ...]
    fixed: dict[str, Any]
    columns: tuple[tuple[str, TypeEngine[Any]], ...]
    read: Callable[[tuple[Any, ...]], Row] | None = None

    def run(self, driver: _Driver, values: dict[str, Any]) -> list[Row]:
        given = values | self.fixed if self.fixed else values
        parameters: Any = [given[name] for name in self.names]
        for n, process in self.binds:
            parameters[n] = process(parameters[n])
        if not self.positional:
            parameters = dict(zip(self.names, parameters, strict=True))
        try:
            cursor = driver.execute(self.sql, parameters)
            if not self.columns:
                return []
            found = cursor.fetchall()
        except driver.error as error:
            raise _as_sqlalchemy_says(error, driver.connection, self.sql, parameters) from error
        if self.read is None:
            self.read = _reader(self.columns, driver.connection.dialect, cursor.description)
        return [self.read(values) for values in found]


def _compile(clause: Any, dialect: Dialect) -> _Compiled:
    compiled = clause.compile(dialect=dialect)
    names = tuple(compiled.positiontup if compiled.positional else compiled.bind_names.values())
    binds = [compiled.binds[name] for name in names]
    if untyped := {name for name, bind in zip(names, binds, strict=True) if isinstance(bind.type, NullType)}:
        raise TypeError(f"no column says of what type {', '.join(sorted(untyped))} is: give bindparam a type_")
    processes = [bind.type.dialect_impl(dialect).bind_processor(dialect) for bind in binds]
    return _Compiled(
        compiled.string,
        compiled.positional,
        names,
        tuple((n, process) for n, process in enumerate(processes) if process is not None and binds[n].required),
        {
            name: bind.value if process is None else process(bind.value)
            for name, bind, process in zip(names, binds, processes, strict=True)
            if not bind.required
        },
        tuple((column.name, column.type) for column in clause.exported_columns),
    )


def _reader(
    columns: Iterable[tuple[str, TypeEngine[Any]]], dialect: Dialect, described: Iterable[Any]
) -> Callable[[tuple[Any, ...]], Row]:
    """What makes a row of the driver's values."""
    row: Any = row_type("Row", [name for name, _ in columns])
    make_row: Callable[[list[Any]], Row] = functools.partial(tuple.__new__, row)
    of_columns = [
        of.dialect_impl(dialect).result_processor(dialect, about[1])
        for (_, of), about in zip(columns, described, strict=True)
    ]
    processes = [(n, process) for n, process in enumerate(of_columns) if process is not None]

    def read(values: tuple[Any, ...]) -> Row:
        ours = list(values)
        for n, process in processes:
            ours[n] = process(ours[n])
        return make_row(ours)

    return read


def run_on_driver(connection: Connection, sql: str) -> None:
    """A statement without values and rows."""
    driver: Any = connection.connection.dbapi_connection
    try:
        driver.execute(sql).close()
    except connection.dialect.loaded_dbapi.Error as error:
        raise _as_sqlalchemy_says(error, connection, sql, ()) from error


def _as_sqlalchemy_says(error: Exception, connection: Connection, sql: str, parameters: Any) -> BaseException:
    """The driver's error as SQLAlchemy raises it. A connection that is lost is not used again."""
    dialect = connection.dialect
    errors = dialect.loaded_dbapi.Error
    lost = isinstance(error, errors) and dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
    if lost:
        connection.invalidate(error)
    return DBAPIError.instance(sql, parameters, error, errors, connection_invalidated=lost, dialect=dialect)
