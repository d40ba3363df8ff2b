"""Everything that the hub refuses or cannot do, as one tree.

    HubError
    |-- InvalidOrder         the order itself is wrong; `faults` names every field at fault
    |-- NotFound             no such site, feeder, command or token (or not yours)
    |-- NotAllowed           the caller has no role that gives the right to it
    |-- WrongLogin           no such login, or another password
    |-- TooManyTries         it was tried too often; `retry_after_s` says when it may be tried again
    |-- NoSuchCode           a claim code that is wrong, used or expired: which of these, nobody is told
    |-- Refused              the order is well-formed, but not now; nothing was sent
    |   |-- AlreadyExists
    |   |-- ConfigUnknown    nobody knows the feeder's config yet, so nothing can be patched
    |   |-- ConfigChanged    If-Match names a config that is not the current one
    |   |-- Changed          If-Match names a site or a feeder as it is not any more
    |   |-- DesktopOffline   the site's liveness key is gone
    |   |-- Stopped          the site's emergency stop is latched
    |   |-- RolloutEnded     a rollout that has ended cannot go on
    |   |-- NotUnresolved    only a command whose outcome cannot be known is closed by a person, once
    |   `-- KeyReused        an Idempotency-Key came again with another body
    |-- Unavailable          a part that is needed cannot be reached; nothing was sent
    |   |-- LivenessUnknown
    |   |-- BrokerUnreachable
    |   `-- StoreUnreachable in hub.store
    `-- what keeps a hub or a command of `feeder-hub` from starting, each beside what it is about

Rules raise these; the HTTP layer turns each class but the last into its problem in one table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


class HubError(Exception):
    """Says in `str(error)` what is wrong and what to do, for a person."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One field at fault. `field` is its path (`config.meal_g`), `limit` the bound that it broke, if it broke one.

    value: what was to be, in the limit's unit. left_today_g: grams that the feeder may still be fed today.
    """

    field: str
    message: str
    limit: float | None = None
    value: float | None = None
    left_today_g: float | None = None


class InvalidOrder(HubError):
    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class NotAllowed(HubError):
    pass


class WrongLogin(HubError):
    pass


class TooManyTries(HubError):
    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(f"{detail} Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class NoSuchCode(HubError):
    def __init__(self) -> None:
        super().__init__("This code does not count: it is mistyped, was used, or is older than ten minutes.")


class NotFound(HubError):
    pass


class Refused(HubError):
    pass


class AlreadyExists(Refused):
    pass


class ConfigUnknown(Refused):
    pass


class ConfigChanged(Refused):
    def __init__(self, detail: str, etag: str | None) -> None:
        super().__init__(detail)
        self.etag = etag


class Changed(Refused):
    def __init__(self, detail: str, etag: str) -> None:
        super().__init__(detail)
        self.etag = etag


class DesktopOffline(Refused):
    def __init__(self, site: str, last_seen_at: datetime | None) -> None:
        super().__init__(f"The desktop of site {site} is not alive; nothing was sent. Try again when it is back.")
        self.last_seen_at = last_seen_at


class Stopped(Refused):
    pass


class NotUnresolved(Refused):
    pass


class RolloutEnded(Refused):
    pass


class KeyReused(Refused):
    pass


class Unavailable(HubError):
    pass


class LivenessUnknown(Unavailable):
    pass


class BrokerUnreachable(Unavailable):
    pass
