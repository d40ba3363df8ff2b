"""What may refuse a command at the feeders, what each command does there, and what its outcome is.

`check` comes before the command is written into the journal as begun, `do` after it.
"""

from typing import Any

from pydantic import ValidationError

from device_sim.journal import Journal
from device_sim.plc import Feeder, Interlocked, Plc, PlcLost
from device_sim.schedule import is_time_zone
from hub.protocol.codes import MEANING, Code
from hub.protocol.messages import (
    ARGUMENTS,
    Command,
    Feed,
    Model,
    Outcome,
    SetConfig,
    StopConfirmation,
    differences,
)


class Refused(Exception):
    """A rule refuses the command: the code, and what the reply says beside it."""

    def __init__(self, code: Code, detail: str | None = None, **answer: Any) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail or MEANING[code]
        self.answer = answer


def rejected(command_id: str, refused: Refused) -> Outcome:
    """The outcome of a refused command."""
    return Outcome(id=command_id, status="rejected", code=refused.code, detail=refused.detail, **refused.answer)


def arguments(command: Command) -> Model:
    """The command's arguments, checked. Raises Refused with `limit` or `bad_args`."""
    try:
        return ARGUMENTS[command.name].model_validate(command.args)
    except ValidationError as error:
        raise _what_is_wrong(error) from error


def _what_is_wrong(error: ValidationError) -> Refused:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    out_of_limits = all(
        fault["type"] in ("greater_than_equal", "less_than_equal") or fault["loc"] == ("config",) for fault in faults
    )
    detail = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    return Refused(Code.LIMIT if out_of_limits else Code.BAD_ARGS, detail[:1000])


def check(command: Command, args: Model, name: str | None, plc: Plc, journal: Journal) -> None:
    """Every rule that can refuse it before it is begun. Raises Refused, or PlcLost."""
    if name is None:
        if command.name == "release":
            _check_release(plc)
        return
    if name not in plc.names:
        raise Refused(Code.UNKNOWN_FEEDER)
    if journal.latched and command.name != "pause":  # it moves nothing, and holds when the stop is released
        raise Refused(Code.STOPPED)
    if plc[name].registers.control != "remote":
        raise Refused(Code.NOT_REMOTE)
    if isinstance(args, SetConfig):
        _check_config(args, plc[name], journal.config_version(name))


def _check_config(order: SetConfig, feeder: Feeder, config_version: int) -> None:
    as_it_is: dict[str, Any] = {
        "config": feeder.registers.config,
        "config_version": config_version,
        "local_rev": feeder.registers.local_rev,
    }
    if order.config_version <= config_version:
        raise Refused(Code.STALE_VERSION, **as_it_is)
    if order.local_rev != feeder.registers.local_rev:
        raise Refused(Code.STALE, **as_it_is)
    if not is_time_zone(order.time_zone):
        raise Refused(Code.BAD_ARGS, f"time_zone: this desktop knows no {order.time_zone!r}")


def _check_release(plc: Plc) -> None:
    """A release is for the whole site or not at all: each PLC must answer and stand on remote."""
    hindered: dict[str, StopConfirmation] = {}
    for name in plc.names:
        try:
            if plc[name].registers.control != "remote":
                hindered[name] = StopConfirmation(confirmed=False, code=Code.NOT_REMOTE)
        except PlcLost:
            hindered[name] = StopConfirmation(confirmed=False, code=Code.PLC_LOST)
    if hindered:
        code = Code(next(iter(hindered.values())).code or Code.PLC_LOST)
        raise Refused(code, f"not released, because of {', '.join(hindered)}", feeders=hindered)


def do(command: Command, args: Model, name: str | None, plc: Plc, journal: Journal) -> Outcome | None:
    """Do it and tell its outcome; None for a dose, which goes on and is told when it ends."""
    if name is None:
        return _stop_all(command, plc, journal) if command.name == "stop_all" else _release(command, plc, journal)
    feeder = plc[name]
    outcome: Outcome | None = Outcome(id=command.id, status="applied")
    match command.name, args:
        case "set_config", SetConfig():
            outcome = _set_config(command.id, args, name, feeder, journal)
        case "feed", Feed():
            outcome = None
            try:
                feeder.start_dose(args.grams, command.id)
            except Interlocked as interlocked:
                raise Refused(interlocked.code) from interlocked
        case "pause", _:
            feeder.pause()
        case "resume", _:
            feeder.resume()
        case _:
            raise Refused(Code.NOT_SUPPORTED)
    journal.save_registers(name, feeder.registers)
    return outcome


def _stop_all(command: Command, plc: Plc, journal: Journal) -> Outcome:
    """Latch the site first, then each PLC; one that cannot be reached now is latched when it can."""
    journal.set_stop(command.stop_epoch, latched=True)
    confirmed = latch_all(plc, journal)
    feeders = {
        name: StopConfirmation(confirmed=name in confirmed, code=None if name in confirmed else Code.PLC_LOST)
        for name in plc.names
    }
    if len(confirmed) == len(feeders):
        return Outcome(id=command.id, status="applied", feeders=feeders)
    detail = "not every feeder has confirmed the stop"
    return Outcome(id=command.id, status="failed", code=Code.PLC_LOST, detail=detail, feeders=feeders)


def latch_all(plc: Plc, journal: Journal) -> set[str]:
    """Stop every feeder that can be reached, and name those that then say that they are stopped."""
    confirmed = set()
    for name in plc.names:
        try:
            feeder = plc[name]
        except PlcLost:
            continue
        if not feeder.registers.latched:
            feeder.latch()
            journal.save_registers(name, feeder.registers)
        if feeder.condition == "stopped":
            confirmed.add(name)
    return confirmed


def _release(command: Command, plc: Plc, journal: Journal) -> Outcome:
    journal.set_stop(command.stop_epoch, latched=False)
    feeders = {}
    for name in plc.names:
        plc[name].release()
        journal.save_registers(name, plc[name].registers)
        feeders[name] = StopConfirmation(confirmed=not plc[name].registers.latched)
    return Outcome(id=command.id, status="applied", feeders=feeders)


def _set_config(command_id: str, order: SetConfig, name: str, feeder: Feeder, journal: Journal) -> Outcome:
    """Write, read back, and call it applied only if every field came back within its tolerance."""
    before = feeder.registers.config, feeder.registers.time_zone
    feeder.write_config(order.config, order.time_zone)
    read_back = feeder.registers.config
    different = differences(order.config, read_back)
    if different:
        feeder.write_config(*before)
        detail = ", ".join(f"{f}: wrote {getattr(order.config, f)}, read {getattr(read_back, f)}" for f in different)
        status, code = "failed", Code.READ_BACK_DIFFERS
    else:
        journal.set_config_version(name, order.config_version)
        status, code, detail = "applied", None, None
    return Outcome.model_validate(
        {
            "id": command_id,
            "status": status,
            "code": code,
            "detail": detail,
            "config": feeder.registers.config,
            "config_version": journal.config_version(name),
            "local_rev": feeder.registers.local_rev,
        }
    )


def recovered(command: Command, name: str | None, plc: Plc, journal: Journal) -> Outcome:
    """What became of a command that a stop of the desktop cut off: what the PLC shows.

    Half an emergency stop is none: the rest of it is done now.
    """
    code = Code.INTERRUPTED
    interrupted = Outcome(id=command.id, status="interrupted", code=code, detail=MEANING[code])
    if command.name == "stop_all":
        return _stop_all(command, plc, journal)
    if name is None or name not in plc.names:
        return interrupted
    feeder = plc[name]
    r = feeder.registers
    if command.name == "set_config":
        order = SetConfig.model_validate(command.args)
        took = not differences(order.config, r.config) and order.time_zone == r.time_zone
        if took:
            journal.set_config_version(name, order.config_version)
        outcome = Outcome(id=command.id, status="applied") if took else interrupted
        as_it_is = {
            "config": r.config,
            "config_version": journal.config_version(name),
            "local_rev": r.local_rev,
        }
        return outcome.model_copy(update=as_it_is)
    if command.name == "feed":
        # Nobody watches this dose any more: it ends here, and the PLC's counter says how far it came.
        if r.feeding is not None and r.feeding.command_id == command.id:
            feeder.abort_dose(Code.INTERRUPTED)
            journal.save_registers(name, r)
        grams = r.last_dose_g if r.last_dose_id == command.id else 0
        return interrupted.model_copy(update={"dispensed_g": round(grams, 3)})
    return interrupted
