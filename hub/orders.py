"""Placing an order: the checks and the row, in one transaction, before anything is sent. No network here.

A command's row is committed as `sent` before it is published: from then on the desktop may have it, whatever happens
to this process. What waits (see `hub.waiting`) is committed as `pending`.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

from pydantic import ValidationError
from sqlalchemy import bindparam, insert, update
from sqlalchemy import select as sa_select
from sqlmodel import Session, select
from ulid import ULID

from hub import audit, settlement
from hub.audit import By
from hub.command_states import CommandState
from hub.errors import ConfigChanged, ConfigUnknown, Fault, InvalidOrder, KeyReused, NotFound, Stopped
from hub.feeders import add_revision, dose_duration, etag, faults_of, get_feeder, parse_config
from hub.liveness import AliveSession
from hub.models import (
    COMMAND,
    FEEDER,
    IDEMPOTENCY_KEY,
    SITE,
    Command,
    CommandRow,
    FeederRow,
    JsonObject,
    Site,
    command_row,
)
from hub.protocol import messages
from hub.protocol.messages import ARGUMENTS, FEEDER_COMMANDS, MAX_VERSION, FeederConfig
from hub.protocol.topics import Topics
from hub.safety import check_dose, left_today_g
from hub.sites import get_site
from hub.statements import Statement

SUPERSEDED: Final = "superseded"
"""The code of a change that waited and whose place a newer one took; no desktop's, as none ever saw it."""
REFUSED_WHILE_STOPPED: Final = FEEDER_COMMANDS - {"pause"}
"""A pause moves nothing, and keeps its feeder at rest when the stop is released."""


@dataclass(frozen=True, slots=True)
class Key:
    """A caller's Idempotency-Key, whose it is, and a hash of the request that it came with."""

    owner: str
    text: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants done. `feeder` None: for the whole site. caller_id, address: whose it is and whence it came,
    for the audit.
    """

    site: str
    feeder: str | None
    name: str
    actor: str
    args: JsonObject = field(default_factory=dict)
    key: Key | None = None
    caller_id: str | None = None
    address: str = ""


@dataclass(frozen=True, slots=True)
class ConfigOrder(Order):
    """A change of config: the whole of it, or (patch) a merge patch, upon the config that `if_match` names.

    queue_for_s: how long it may wait for a site that is away; None: it does not.
    """

    patch: bool = False
    if_match: str | None = None
    queue_for_s: float | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """Who places orders: this hub process, its topics, and how long a desktop has for an answer."""

    hub_id: str
    topics: Topics
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Placed:
    """The row. `is_new` False: the order had been placed before, and is not to be published again.

    superseded: the change that waited, and whose place this one took.
    """

    command: CommandRow
    is_new: bool
    superseded: CommandRow | None = None


_BY_KEY: Final = Statement(
    sa_select(IDEMPOTENCY_KEY.c.fingerprint, IDEMPOTENCY_KEY.c.command_id).where(
        IDEMPOTENCY_KEY.c.owner == bindparam("owner"), IDEMPOTENCY_KEY.c.key == bindparam("key")
    )
)
_INSERT_KEY: Final = Statement(
    insert(IDEMPOTENCY_KEY).values({column.name: bindparam(column.name) for column in IDEMPOTENCY_KEY.c})
)


def placed_before(session: Session, order: Order) -> Command | None:
    """The command that the order's key already stands for. Raises KeyReused."""
    if order.key is None:
        return None
    row = _BY_KEY.first(session, owner=order.key.owner, key=order.key.text)
    if row is None:
        return None
    if row.fingerprint != order.key.fingerprint:
        raise KeyReused("This Idempotency-Key came before, with another request. Use a new key for a new order.")
    return session.exec(select(Command).where(Command.id == row.command_id)).one()


def place(session: Session, order: Order, to: AliveSession | None, desk: Desk, now: datetime) -> Placed:
    """Check the order and write its row: `sent`, or `pending` for a change that must wait.

    `to` None: a stop_all, which is for whoever is there, or a change that may wait for its site, which is away. It
    waits too while another one of its feeder is on its way, so that none overtakes another; of those that wait the
    latest counts.
    Raises NotFound, InvalidOrder, Stopped, ConfigChanged, ConfigUnknown, KeyReused; then nothing is written.
    """
    earlier = placed_before(session, order)
    if earlier is not None:
        return Placed(earlier, is_new=False)
    command_id = str(ULID())
    if order.feeder is None:
        ready = _for_site(session, order, to, command_id, now)
    else:
        ready = _for_feeder(session, order, order.feeder, now)
    waits = ready.config is not None and (to is None or ready.in_flight_id is not None)
    superseded = None if ready.waiting_id is None else _supersede(session, ready.waiting_id, command_id, now)
    expires_at = now + timedelta(seconds=_may_take_s(order, to, desk, waits=waits))
    # A stop is for whoever is there when it arrives, so it names no session; who gets what waits is not known yet.
    addressee = None if waits or order.name == "stop_all" else to
    command: dict[str, Any] = {
        "id": command_id,
        "site_id": order.site,
        "feeder_id": order.feeder,
        "name": order.name,
        "args": ready.args,
        "patch": order.args if waits and isinstance(order, ConfigOrder) and order.patch else None,
        "state": CommandState.PENDING if waits else CommandState.SENT,
        "actor": order.actor,
        "hub_id": desk.hub_id,
        "session": None if addressee is None else addressee.session,
        "journal_id": None if addressee is None else addressee.journal_id,
        "stop_epoch": ready.stop_epoch,
        "created_at": now,
        "expires_at": expires_at,
        "deadline_at": expires_at + ready.duration,
        "replaces_id": None if superseded is None else superseded.id,
        "report_count": 0,
    }
    _store(session, order, command, ready, now)
    return Placed(command_row(**command), is_new=True, superseded=superseded)


def _may_take_s(order: Order, to: AliveSession | None, desk: Desk, *, waits: bool) -> float:
    """How long after its order a command may begin; one that waits for its turn only has the time for an answer."""
    if not (waits and isinstance(order, ConfigOrder) and order.queue_for_s is not None):
        return desk.timeout_s
    return order.queue_for_s if to is None else max(order.queue_for_s, desk.timeout_s)


def _store(session: Session, order: Order, command: JsonObject, ready: "_Ready", now: datetime) -> None:
    """The command's row, with its steps, its key and what it means for its feeder."""
    command_id, waits = command["id"], command["state"] == CommandState.PENDING
    _INSERT_COMMAND.run(session, **command)
    (settlement.add_pending if waits else settlement.add_sent)(session, command_id, order.actor, now)
    if order.name not in settlement.QUESTIONS:
        audit.record_order(
            session,
            By(order.actor, order.caller_id, order.address),
            command_id,
            order.name,
            now,
            site=order.site,
            feeder=order.feeder,
            before=ready.reported,
            after=ready.args if ready.config is None else ready.args["config"],
        )
    if ready.config is not None:
        _give_out(session, order, ready, command_id, ready.in_flight_id if waits else command_id, now)
    if order.key is not None:
        _INSERT_KEY.run(
            session,
            owner=order.key.owner,
            key=order.key.text,
            fingerprint=order.key.fingerprint,
            command_id=command_id,
            created_at=now,
        )


def _supersede(session: Session, waiting_id: str, by_id: str, now: datetime) -> CommandRow | None:
    """End a change that waits; None if it does not any more."""
    detail = f"A newer change of this feeder took its place: command {by_id}."
    cause = f"replaced by {by_id}"
    return settlement.advance(session, waiting_id, CommandState.SUPERSEDED, cause, now, code=SUPERSEDED, detail=detail)


@dataclass(frozen=True, slots=True)
class _Ready:
    """An order that may be sent. `duration`: what it takes beyond beginning it. `config`: the feeder's change.

    reported: the feeder's config until now, where it is to change. in_flight_id: the change of this feeder that is on
    its way. waiting_id: the one that waits.
    """

    args: JsonObject
    stop_epoch: int
    duration: timedelta = timedelta()
    config: messages.SetConfig | None = None
    reported: JsonObject | None = None
    in_flight_id: str | None = None
    waiting_id: str | None = None


_OF_AN_ORDER: Final = (
    *("id", "site_id", "feeder_id", "name", "args", "state", "actor", "hub_id", "session", "journal_id", "stop_epoch"),
    *("created_at", "expires_at", "deadline_at", "replaces_id", "report_count", "patch"),
)
_INSERT_COMMAND: Final = Statement(insert(COMMAND).values({name: bindparam(name) for name in _OF_AN_ORDER}))
# Nobody stops the site before the order is committed, and who waits here for a stop sees its latch. Orders do not wait
# for each other's lock of the site, only for those of the same feeder.
_TARGET: Final = Statement(
    sa_select(FEEDER, SITE.c.time_zone, SITE.c.stop_epoch, SITE.c.stopped_at)
    .join(SITE, SITE.c.id == FEEDER.c.site_id)
    .where(FEEDER.c.site_id == bindparam("site"), FEEDER.c.id == bindparam("feeder"))
    .suffix_with("FOR SHARE OF site FOR UPDATE OF feeder", dialect="postgresql")
)
_GIVE_OUT: Final = Statement(
    update(FEEDER)
    .where(FEEDER.c.site_id == bindparam("site"), FEEDER.c.id == bindparam("feeder"))
    .values(
        last_version=bindparam("version"),
        desired_version=bindparam("version"),
        desired_config=bindparam("config"),
        pending_command_id=bindparam("command_id"),
        in_flight_command_id=bindparam("in_flight_id"),
    )
)


def _for_feeder(session: Session, order: Order, feeder: str, now: datetime) -> _Ready:
    target = _TARGET.first(session, site=order.site, feeder=feeder)
    if target is None:
        check_target(session, order)
        raise NotFound(f"Site {order.site} has no feeder {feeder}.")
    if target.stopped_at is not None and order.name in REFUSED_WHILE_STOPPED:
        raise Stopped(f"The emergency stop of site {order.site} is latched; release it first.")
    if isinstance(order, ConfigOrder):
        _check_if_match(order, target)
        change = messages.SetConfig(
            config=patched(_patch_base(session, target), order.args) if order.patch else parse_config(order.args),
            config_version=_next_version(target.last_version, target.reported_version or 0),
            local_rev=target.local_rev,
            time_zone=target.time_zone,
        )
        in_flight_id, pending_id = target.in_flight_command_id, target.pending_command_id
        return _Ready(
            change.model_dump(),
            target.stop_epoch,
            config=change,
            reported=target.reported_config,
            in_flight_id=in_flight_id,
            waiting_id=None if pending_id == in_flight_id else pending_id,
        )
    try:
        args = check_arguments(order.name, order.args)
    except InvalidOrder as error:
        if order.name != "feed" or all(fault.limit is None for fault in error.faults):
            raise
        left_g = left_today_g(session, order.site, feeder, target, now)
        raise InvalidOrder(str(error), [replace(fault, left_today_g=left_g) for fault in error.faults]) from error
    if order.name != "feed":
        return _Ready(args, target.stop_epoch)
    check_dose(session, order.site, feeder, args["grams"], target, now)
    return _Ready(args, target.stop_epoch, dose_duration(args["grams"], target))


def _for_site(session: Session, order: Order, to: AliveSession | None, command_id: str, now: datetime) -> _Ready:
    site = session.get(Site, order.site, with_for_update=True, populate_existing=True)
    if site is None:
        raise NotFound(f"There is no site {order.site}.")
    args = check_arguments(order.name, order.args) if order.name in ("stop_all", "release") else {}
    match order.name:
        case "stop_all":
            site.stop_epoch += 1
            site.stopped_at, site.stop_command_id = now, command_id
            session.add(site)
        case "release" if site.stopped_at is None:
            raise InvalidOrder(f"Site {site.id} is not stopped; there is nothing to release.")
        case "release":
            site.stop_epoch += 1  # a stop that is still on its way is older then, and latches nothing any more
            session.add(site)
        case "ping" if to is not None:
            args = {"session": to.session, "seq": to.seq}
        case "report":
            args = {"commands": settlement.reportable(session, site, now)}
    return _Ready(args, site.stop_epoch)


def _give_out(
    session: Session,
    order: Order,
    ready: _Ready,
    command_id: str,
    in_flight_id: str | None,
    now: datetime,
) -> None:
    """The change is what is wanted from now on. The feeder's row is locked, so versions only go up."""
    assert order.feeder is not None
    assert ready.config is not None
    change, config = ready.config, ready.args["config"]
    _GIVE_OUT.run(
        session,
        site=order.site,
        feeder=order.feeder,
        version=change.config_version,
        config=config,
        command_id=command_id,
        in_flight_id=in_flight_id,
    )
    add_revision(
        session,
        order.site,
        order.feeder,
        change.config_version,
        change.local_rev,
        config,
        now,
        actor=order.actor,
        command_id=command_id,
    )


def check_target(session: Session, order: Order) -> None:
    """Raises NotFound where there is no such site or feeder."""
    get_site(session, order.site)
    if order.feeder is not None:
        get_feeder(session, order.site, order.feeder)


def to_message(command: CommandRow, topics: Topics, issued_at: datetime) -> messages.Command:
    """What is published for a command's row."""
    return messages.Command(
        id=command.id,
        name=cast("messages.CommandName", command.name),
        args=command.args,
        session=command.session,
        journal_id=command.journal_id,
        stop_epoch=command.stop_epoch,
        reply_to=topics.replies(command.site_id, command.hub_id),
        issued_at=issued_at,
        expires_at=command.expires_at,
    )


def check_arguments(name: str, args: JsonObject) -> JsonObject:
    """The arguments as the contract has them. Raises InvalidOrder, naming every field at fault."""
    try:
        checked = ARGUMENTS[name].model_validate(args)
    except ValidationError as error:
        raise InvalidOrder(f"The arguments of {name} are wrong.", faults_of(error, "args.")) from error
    unknown = sorted(set(args) - set(ARGUMENTS[name].model_fields))
    if unknown:
        raise InvalidOrder(
            f"{name} has no argument {', '.join(unknown)}.",
            [Fault(f"args.{key}", f"{name} has no such argument") for key in unknown],
        )
    return checked.model_dump()


def _next_version(last: int, reported: int) -> int:
    """A desktop that is ahead of this database (restored from a backup) must not refuse it as old.

    There is none after the highest that a farm may report; where it reports another one now, that counts.
    """
    if reported >= MAX_VERSION:
        raise InvalidOrder(f"The farm reports config version {reported}; there is no newer one.")
    return (max(last, reported) if last < MAX_VERSION else reported) + 1


def _check_if_match(order: ConfigOrder, feeder: FeederRow) -> None:
    if order.if_match is None:
        return
    current = etag(feeder)
    wanted = [tag.strip() for tag in order.if_match.split(",")]
    if current is None or (current not in wanted and "*" not in wanted):
        raise ConfigChanged("If-Match does not name the current config. Read it again and repeat the change.", current)
    if feeder.pending_command_id is not None and "*" not in wanted:
        raise ConfigChanged(
            f"Another change of this config is on its way (command {feeder.pending_command_id}). Wait for its end, "
            "read the config again and repeat the change.",
            current,
        )


def _patch_base(session: Session, feeder: FeederRow) -> JsonObject | None:
    """What a patch is made upon: the config as the farm has it, or will have it after the change that is on its way."""
    if feeder.in_flight_command_id is None:
        return cast("JsonObject | None", feeder.reported_config)
    in_flight = session.get_one(Command, feeder.in_flight_command_id)
    return cast("JsonObject", in_flight.args["config"])


def patched(base: JsonObject | None, patch: JsonObject) -> FeederConfig:
    """Raises ConfigUnknown, or InvalidOrder with every field at fault."""
    if base is None:
        raise ConfigUnknown(
            "Nobody knows this feeder's config yet, so there is nothing to patch. PUT the whole config."
        )
    unknown = sorted(set(patch) - set(FeederConfig.model_fields))
    if unknown:
        raise InvalidOrder(
            f"A config has no field {', '.join(unknown)}.",
            [Fault(name, "a config has no such field") for name in unknown],
        )
    return parse_config(merge_patch(base, patch))


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
