"""What the broker must do and what it aims at, and what was measured of that."""

from typing import Final

from benchmarks.broker.cases import BESIDE_IDLE, MOSQUITTO, OURS
from benchmarks.report import Median
from benchmarks.targets import Target

FLOWS: Final = ("QoS 0", "QoS 1")
CONNECTIONS: Final = "connections"
REQUESTS: Final = "requests"


def targets(found: list[Median]) -> list[Target]:
    """In the order of the table; ratios are those of the medians."""
    of = {(one.what, one.case): one for one in found}

    def ratio(what: str, case: str, to: str) -> float | None:
        slower = of[what, to].per_second
        return of[what, case].per_second / slower if slower else None

    ours = of[CONNECTIONS, OURS]
    return [
        *(Target(f"{what}, against {MOSQUITTO}", ratio(what, OURS, MOSQUITTO), 0.5, 1.0) for what in FLOWS),
        *(
            Target(f"{what} beside idle clients, against without", ratio(what, BESIDE_IDLE, OURS), 0.85, 0.95)
            for what in FLOWS
        ),
        Target("connections, per second", ours.per_second, 1000, 3000),
        Target("connections, KB of memory each", ours.server_kb, 25, 10, at_most=True),
        Target(
            f"requests from the hub's place, against {MOSQUITTO}",
            ratio(REQUESTS, OURS, MOSQUITTO),
            0.25,
            0.4,
        ),
    ]
