"""Limits and tolerances of every number that may be ordered, in one table.

The hub, the HTTP schema, the page and the simulated farm all read this table; nothing repeats it.
"""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""The largest MQTT payload and HTTP body that the contract knows."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The range of one number, ends included, and how far a PLC's 32-bit value may lie from what was written."""

    name: str
    unit: str
    minimum: float
    maximum: float
    tolerance: float
    meaning: str


LIMITS: Final = {
    limit.name: limit
    for limit in (
        Limit("meal_g", "g", 1, 20_000, 0.01, "grams fed in one meal"),
        Limit("interval_s", "s", 60, 86_400, 0, "seconds from the start of one meal to the start of the next"),
        Limit("daily_limit_g", "g", 1, 500_000, 0.05, "most grams fed in one local day, doses included"),
        Limit("feed_rate_g_per_s", "g/s", 0.1, 500, 0.001, "grams that the auger moves in a second"),
        Limit("silo_low_g", "g", 0, 10_000_000, 1, "the silo counts as low below this many grams"),
        Limit("grams", "g", 1, 20_000, 0.01, "grams fed by one dose"),
        Limit("dose_pause_s", "s", 10, 86_400, 0, "seconds from the start of one dose to the start of the next"),
    )
}


def limited(name: str, default: Any = ...) -> Any:
    """The pydantic field that enforces the table's range for this number."""
    limit = LIMITS[name]
    return Field(
        default,
        ge=limit.minimum,
        le=limit.maximum,
        allow_inf_nan=False,
        description=f"{limit.meaning}, in {limit.unit}",
    )


def equal_within_tolerance(name: str, written: float, read: float) -> bool:
    """Whether a value read back from a PLC is the value that was written to it."""
    return abs(written - read) <= LIMITS[name].tolerance
