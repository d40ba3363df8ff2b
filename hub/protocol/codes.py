"""The codes that replies carry, in one table, and what each says to a person who reads it.

The hub gives some of its own, to what no desktop has answered or not in full: `superseded` (hub.orders),
`no_longer_fits` (hub.waiting), `no_reply` and `not_read_back` (hub.settlement).
"""

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Why a command was not applied. A desktop may have more codes of its own; the hub shows them."""

    EXPIRED = "expired"
    CLOCK_UNKNOWN = "clock_unknown"
    STALE_EPOCH = "stale_epoch"
    STALE_VERSION = "stale_version"
    STALE = "stale"
    STOPPED = "stopped"
    NOT_REMOTE = "not_remote"
    LIMIT = "limit"
    BAD_ARGS = "bad_args"
    UNKNOWN_COMMAND = "unknown_command"
    UNKNOWN_FEEDER = "unknown_feeder"
    NOT_SUPPORTED = "not_supported"
    VOIDED = "voided"
    FORGOTTEN = "forgotten"
    PAUSED = "paused"
    BUSY = "busy"
    JAMMED = "jammed"
    EMPTY = "empty"
    PLC_LOST = "plc_lost"
    READ_BACK_DIFFERS = "read_back_differs"
    INTERRUPTED = "interrupted"


MEANING: Final = {
    Code.EXPIRED: "it arrived after its expires_at, by the hub's time",
    Code.CLOCK_UNKNOWN: "no ping has told the hub's time yet",
    Code.STALE_EPOCH: "an emergency stop was ordered after it was sent",
    Code.STALE_VERSION: "its config_version is not newer than the last; the reply has the config as it is",
    Code.STALE: "the config was changed on the farm meanwhile; the reply has the config as it is",
    Code.STOPPED: "the emergency stop is latched",
    Code.NOT_REMOTE: "the feeder's switch is not on remote",
    Code.LIMIT: "a number breaks its limit, the daily limit would be passed, or the last dose is too short a time ago",
    Code.BAD_ARGS: "the arguments are not what this command takes",
    Code.UNKNOWN_COMMAND: "the contract has no such command on this topic",
    Code.UNKNOWN_FEEDER: "the site has no such feeder",
    Code.NOT_SUPPORTED: "this desktop or feeder cannot do it",
    Code.VOIDED: "a report called it not_seen before it arrived, so it must not act any more",
    Code.FORGOTTEN: "it is older than the desktop's journal, which may have seen it before",
    Code.PAUSED: "the feeder is paused",
    Code.BUSY: "the feeder is feeding already",
    Code.JAMMED: "the auger is jammed",
    Code.EMPTY: "the silo is empty",
    Code.PLC_LOST: "the desktop does not reach the PLC",
    Code.READ_BACK_DIFFERS: "the PLC holds another value than was written; the old config was put back",
    Code.INTERRUPTED: "the desktop stopped in the middle of it; it may have acted",
}
"""What each code means: a reply's `detail` when there is nothing more exact to say."""
