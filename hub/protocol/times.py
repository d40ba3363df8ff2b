"""Times as the contract writes them: RFC 3339, UTC, with milliseconds (`2026-03-01T06:00:00.000Z`)."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, PlainSerializer


def rfc3339(moment: datetime) -> str:
    """The moment in the contract's form; `moment` must know its time zone."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole_ms(moment: datetime) -> datetime:
    """The moment in UTC, cut to whole milliseconds, so that what is stored equals what was sent.

    Raises ValueError for one that UTC has in no year from 1 to 9999.
    """
    try:
        utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time in UTC lies in the years 1 to 9999") from error
    beyond = utc.microsecond % 1000
    return utc.replace(microsecond=utc.microsecond - beyond) if beyond else utc


def utc_now() -> datetime:
    """Now, in UTC, in whole milliseconds. The rules take `now` as an argument; the I/O around them asks here."""
    return whole_ms(datetime.now(UTC))


def _in_bounds(moment: datetime) -> datetime:
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"a time lies in the years {FIRST_YEAR} to {LAST_YEAR}")
    return moment


FIRST_YEAR, LAST_YEAR = 1970, 2999
"""No clock shows others, however far off it is; every one of them has its date in every time zone."""
Stored = Annotated[AwareDatetime, AfterValidator(whole_ms), PlainSerializer(rfc3339, return_type=str, when_used="json")]
"""A moment that is told on, whatever was taken in."""
Instant = Annotated[Stored, AfterValidator(_in_bounds)]
"""A moment that a message tells."""
