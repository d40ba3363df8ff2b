"""The tables. Rows are facts; the rules that move them stand in the file of their noun.

Times are UTC in whole milliseconds; grams are floats in g; ids are the contract's ids and ULIDs.

What every change and every message runs through uses the tables (SITE, FEEDER ...) with statements that are built once:
see `hub.statements`. Everything else uses the classes.
"""

import functools
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKeyConstraint, Index, text
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from hub.statements import Row, row_type

JsonObject = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment that keeps its zone: SQLite drops it, so it is UTC on the way in and on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else _in_utc(value)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"a moment without a time zone cannot be stored: {value!r}")
    return value.astimezone(UTC)


@functools.lru_cache(maxsize=32)
def _to_text(value: datetime | None) -> str | None:
    """As SQLAlchemy writes it for SQLite, at a fifth of its price: each change has ten of them, most of them twice."""
    return None if value is None else _in_utc(value).isoformat(" ", "microseconds").removesuffix("+00:00")


def _from_text(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored + "+00:00")


def _moment(**options: Any) -> Any:
    return Field(sa_type=UtcDateTime, **options)


def _json(**options: Any) -> Any:
    return Field(sa_type=JSON(none_as_null=True), **options)


class Site(SQLModel, table=True):
    """One fish farm with one desktop."""

    id: str = Field(primary_key=True, max_length=63)
    name: str = Field(max_length=200)
    sought: str = Field(default="", max_length=600)
    """Id and name as they are searched: databases differ in which capitals they know."""
    time_zone: str = Field(max_length=64)
    mqtt_password_hash: str = Field(max_length=200)
    old_mqtt_password_hash: str | None = Field(default=None, max_length=200)
    """Of the secret before a rotation, which counts beside the new one until then."""
    old_secret_ends_at: datetime | None = _moment(default=None)
    created_at: datetime = _moment()
    stop_epoch: int = Field(default=0, sa_type=BigInteger)
    stopped_at: datetime | None = _moment(default=None)
    stop_command_id: str | None = Field(default=None, max_length=26)


class Feeder(SQLModel, table=True):
    """One robot at a site: what the hub wants of it, and what its desktop last reported."""

    site_id: str = Field(primary_key=True, max_length=63, foreign_key="site.id", ondelete="CASCADE")
    id: str = Field(primary_key=True, max_length=63)
    created_at: datetime = _moment()
    last_version: int = Field(default=0, sa_type=BigInteger)
    """The highest config version given out or reported; the next one is higher."""
    desired_config: JsonObject | None = _json(default=None)
    desired_version: int | None = Field(default=None, sa_type=BigInteger)
    pending_command_id: str | None = Field(default=None, max_length=26)
    """The newest `set_config` that waits or is on its way."""
    in_flight_command_id: str | None = Field(default=None, max_length=26)
    """The `set_config` that was sent and is not answered; the next one waits for its end, or for its deadline."""
    reported_config: JsonObject | None = _json(default=None)
    reported_version: int | None = Field(default=None, sa_type=BigInteger)
    local_rev: int = Field(default=0, sa_type=BigInteger)
    state_journal_id: str | None = Field(default=None, max_length=64)
    state_seq: int | None = Field(default=None, sa_type=BigInteger)
    condition: str | None = Field(default=None, max_length=16)
    control: str | None = Field(default=None, max_length=16)
    silo_g: float | None = None
    next_meal_at: datetime | None = _moment(default=None)
    state_at: datetime | None = _moment(default=None)


def _of_feeder() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["site_id", "feeder_id"], ["feeder.site_id", "feeder.id"], ondelete="CASCADE")


class SiteTag(SQLModel, table=True):
    """A word that an administrator gave to a site, to find it by."""

    __tablename__ = "site_tag"
    __table_args__ = (Index("ix_site_tag_tag", "tag", "site_id"),)

    site_id: str = Field(primary_key=True, max_length=63, foreign_key="site.id", ondelete="CASCADE")
    tag: str = Field(primary_key=True, max_length=50)


class FeederTag(SQLModel, table=True):
    """The same of a feeder."""

    __tablename__ = "feeder_tag"
    __table_args__ = (_of_feeder(), Index("ix_feeder_tag_tag", "tag", "site_id", "feeder_id"))

    site_id: str = Field(primary_key=True, max_length=63)
    feeder_id: str = Field(primary_key=True, max_length=63)
    tag: str = Field(primary_key=True, max_length=50)


class ClaimCode(SQLModel, table=True):
    """A code by which somebody on the farm fetches the site's credentials, once: its SHA-256. One a site."""

    __tablename__ = "claim_code"

    site_id: str = Field(primary_key=True, max_length=63, foreign_key="site.id", ondelete="CASCADE")
    sha256: str = Field(max_length=64, unique=True)
    overlap_s: int
    """How long the secret that it replaces goes on counting."""
    created_by: str = Field(max_length=100)
    expires_at: datetime = _moment()


class Command(SQLModel, table=True):
    """One order and its state now; its story is in CommandStep."""

    __table_args__ = (
        _of_feeder(),
        Index("ix_command_site_id", "site_id", "id"),
        Index(
            "ix_command_open",
            "deadline_at",
            sqlite_where=text("settled_at IS NULL"),
            postgresql_where=text("settled_at IS NULL"),
        ),
        Index(
            "ix_command_dose",
            "site_id",
            "feeder_id",
            "created_at",
            sqlite_where=text("name = 'feed'"),
            postgresql_where=text("name = 'feed'"),
        ),
        Index(
            "ix_command_unresolved",
            "site_id",
            sqlite_where=text("state = 'unresolved' AND closed_at IS NULL"),
            postgresql_where=text("state = 'unresolved' AND closed_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True, max_length=26)
    site_id: str = Field(max_length=63, foreign_key="site.id", ondelete="CASCADE")
    feeder_id: str | None = Field(default=None, max_length=63)
    name: str = Field(max_length=32)
    args: JsonObject = _json()
    patch: JsonObject | None = _json(default=None)
    """Of a change that waited: what its config is made of, upon the farm's config when it is sent; None: the whole."""
    state: str = Field(max_length=16)
    """One of CommandState."""
    code: str | None = Field(default=None, max_length=64)
    detail: str | None = Field(default=None, max_length=1000)
    result: JsonObject | None = _json(default=None)
    """What was read back: config, config_version, local_rev, dispensed_g, feeders; as far as it applies."""
    actor: str = Field(max_length=100)
    hub_id: str = Field(max_length=63)
    session: str | None = Field(default=None, max_length=64)
    journal_id: str | None = Field(default=None, max_length=64)
    stop_epoch: int = Field(sa_type=BigInteger)
    created_at: datetime = _moment()
    expires_at: datetime = _moment()
    """The desktop does not begin after this; one that waits is not sent after this."""
    deadline_at: datetime = _moment()
    """Without a final reply by then the outcome is unknown."""
    replaces_id: str | None = Field(default=None, max_length=26)
    """The command that waited, and whose place this one took."""
    closed_at: datetime | None = _moment(default=None)
    """When a person looked into what is `unresolved`, and closed it."""
    closed_by: str | None = Field(default=None, max_length=100)
    remark: str | None = Field(default=None, max_length=1000)
    next_report_at: datetime | None = _moment(default=None)
    report_count: int = 0
    settled_at: datetime | None = _moment(default=None)


class CommandStep(SQLModel, table=True):
    """A command came into a state: when, and why. Each state at most once, as states only move forward."""

    __tablename__ = "command_step"

    command_id: str = Field(primary_key=True, max_length=26, foreign_key="command.id", ondelete="CASCADE")
    state: str = Field(primary_key=True, max_length=16)
    at: datetime = _moment()
    cause: str = Field(max_length=200)


class IdempotencyKey(SQLModel, table=True):
    """A key that a caller (`owner`: the id of its token) gave to an order, committed together with the order's row."""

    __tablename__ = "idempotency_key"

    owner: str = Field(primary_key=True, max_length=26)
    key: str = Field(primary_key=True, max_length=200)
    fingerprint: str = Field(max_length=64)
    command_id: str = Field(max_length=26, foreign_key="command.id", ondelete="CASCADE", index=True)
    created_at: datetime = _moment()


class ConfigRevision(SQLModel, table=True):
    """A config that a feeder was ordered to take (its outcome is the command's), or (origin `local`) took there."""

    __tablename__ = "config_revision"
    __table_args__ = (
        _of_feeder(),
        Index("ix_config_revision_feeder", "site_id", "feeder_id", "id"),
        Index("ix_config_revision_at", "at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    site_id: str = Field(max_length=63)
    feeder_id: str = Field(max_length=63)
    version: int = Field(sa_type=BigInteger)
    local_rev: int = Field(sa_type=BigInteger)
    origin: str = Field(max_length=8)
    actor: str | None = Field(default=None, max_length=100)
    at: datetime = _moment()
    config: JsonObject = _json()
    command_id: str | None = Field(
        default=None, max_length=26, foreign_key="command.id", ondelete="SET NULL", index=True
    )


class FeederEvent(SQLModel, table=True):
    """A meal, a dose, a skip, a jam ... as the desktop told it; stored once by its id within the site."""

    __tablename__ = "feeder_event"
    __table_args__ = (
        _of_feeder(),
        Index("ix_feeder_event_at", "site_id", "feeder_id", "at"),
        Index("ix_feeder_event_feeder", "site_id", "feeder_id", "id"),
    )

    site_id: str = Field(primary_key=True, max_length=63)
    id: str = Field(primary_key=True, max_length=26)
    feeder_id: str = Field(max_length=63)
    seq: int = Field(sa_type=BigInteger)
    kind: str = Field(max_length=64)
    at: datetime = _moment()
    planned_g: float | None = None
    dispensed_g: float | None = None
    reason: str | None = Field(default=None, max_length=1000)
    command_id: str | None = Field(default=None, max_length=26)
    received_at: datetime = _moment()


class Presence(SQLModel, table=True):
    """A span of time in which one session of a site's desktop was alive. At most one is open per site."""

    __table_args__ = (
        Index("ix_presence_site", "site_id", "id"),
        Index("ix_presence_ended_at", "ended_at"),
        Index(
            "uq_presence_open",
            "site_id",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    site_id: str = Field(max_length=63, foreign_key="site.id", ondelete="CASCADE")
    session: str = Field(max_length=64)
    began_at: datetime = _moment()
    ended_at: datetime | None = _moment(default=None)
    ended_by: str | None = Field(default=None, max_length=16)
    """will, shutdown, expired, replaced or restart."""
    last_seen_at: datetime | None = _moment(default=None)


class Person(SQLModel, table=True):
    """Somebody who logs in with a password."""

    id: str = Field(primary_key=True, max_length=26)
    login: str = Field(max_length=64, unique=True)
    name: str = Field(max_length=200)
    password_hash: str = Field(max_length=200)
    """Argon2id, with its parameters."""
    created_at: datetime = _moment()


class PersonRole(SQLModel, table=True):
    """A role that a person has at one site, or (`site_id` None) at every one."""

    __tablename__ = "person_role"

    id: int | None = Field(default=None, primary_key=True)
    person_id: str = Field(max_length=26, foreign_key="person.id", ondelete="CASCADE", index=True)
    role: str = Field(max_length=16)
    site_id: str | None = Field(default=None, max_length=63, foreign_key="site.id", ondelete="CASCADE", index=True)


class Login(SQLModel, table=True):
    """A person's session on one device: its cookie, stored as its SHA-256, until it ends."""

    id: str = Field(primary_key=True, max_length=26)
    person_id: str = Field(max_length=26, foreign_key="person.id", ondelete="CASCADE", index=True)
    sha256: str = Field(max_length=64, unique=True)
    created_at: datetime = _moment()
    expires_at: datetime = _moment(index=True)
    last_used_at: datetime = _moment()
    address: str = Field(max_length=64)
    agent: str = Field(max_length=200)


class Token(SQLModel, table=True):
    """A script's key to the HTTP API, stored as its SHA-256."""

    id: str = Field(primary_key=True, max_length=26)
    name: str = Field(max_length=64)
    sha256: str = Field(max_length=64, unique=True)
    role: str = Field(max_length=16)
    site_id: str | None = Field(default=None, max_length=63, foreign_key="site.id", ondelete="CASCADE")
    created_at: datetime = _moment()
    expires_at: datetime | None = _moment(default=None)
    last_used_at: datetime | None = _moment(default=None)
    """Within a minute."""


class Monitor(SQLModel, table=True):
    """A tool's MQTT user that only reads: the broker's figures and, if it is a site's, that site's topics."""

    name: str = Field(primary_key=True, max_length=63)
    site_id: str | None = Field(default=None, max_length=63, foreign_key="site.id", ondelete="CASCADE")
    mqtt_password_hash: str = Field(max_length=200)
    created_at: datetime = _moment()


SITE: Final = SQLModel.metadata.tables["site"]
FEEDER: Final = SQLModel.metadata.tables["feeder"]
COMMAND: Final = SQLModel.metadata.tables["command"]
COMMAND_STEP: Final = SQLModel.metadata.tables["command_step"]
CONFIG_REVISION: Final = SQLModel.metadata.tables["config_revision"]
FEEDER_EVENT: Final = SQLModel.metadata.tables["feeder_event"]
IDEMPOTENCY_KEY: Final = SQLModel.metadata.tables["idempotency_key"]
PRESENCE: Final = SQLModel.metadata.tables["presence"]

FeederRow = Feeder | Row
"""A feeder as an object, or as a row of FEEDER: the same names either way."""
CommandRow = Command | Row
"""The same of a command and COMMAND."""
command_row: Final = row_type("CommandRow", COMMAND.c.keys())
