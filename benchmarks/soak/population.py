"""Who takes part in a soak: so many of each kind, for so many connections in all."""

from dataclasses import dataclass
from typing import Final

from benchmarks.soak.ground import ROOT
from benchmarks.soak.ledger import Reader, Stream

_SHARES: Final = {
    "publishers": 0.15,
    "readers": 0.10,
    "mortals": 0.10,
    "twins": 0.06,
    "updaters": 0.04,
    "stalled": 0.02,
    "bad": 0.08,
}
_READERS_A_GROUP: Final = 10
_WILLS: Final = "wills"


@dataclass(frozen=True, slots=True)
class Population:
    """streams, wills: one publisher or mortal each. readers: with the filter of each. The others by their names."""

    streams: tuple[Stream, ...]
    wills: tuple[Stream, ...]
    readers: tuple[tuple[Reader, str], ...]
    state_topics: tuple[str, ...]
    retained_topics: tuple[str, ...]
    stalled: tuple[str, ...]
    bad: tuple[str, ...]
    visitors: tuple[str, ...]


def population(connections: int) -> Population:
    """At least one of each kind; readers and publishers come in groups, every reader of one for all of its streams."""
    many = {kind: max(1, round(connections * share)) for kind, share in _SHARES.items()}
    groups = max(1, many["readers"] // _READERS_A_GROUP)
    streams = tuple(
        Stream(f"{ROOT}/{n % groups}/{n}", qos=n // groups % 3) for n in range(max(many["publishers"], 3 * groups))
    )
    wills = tuple(Stream(f"{ROOT}/{_WILLS}/{n}", qos=1 + n % 2) for n in range(many["mortals"]))
    followed = {f"{ROOT}/{group}/": streams[group::groups] for group in range(groups)} | {f"{ROOT}/{_WILLS}/": wills}
    readers = [
        (Reader(f"reader {prefix}{n}", qos=1 + n % 2, streams=followed[prefix]), f"{prefix}+")
        for prefix in followed
        for n in range(max(2, many["readers"] // len(followed)))
    ]
    taken = sum(many.values())
    return Population(
        streams=streams,
        wills=wills,
        readers=tuple(readers),
        state_topics=tuple(f"{ROOT}/state/{n}" for n in range(many["twins"])),
        retained_topics=tuple(f"{ROOT}/retained/{n}" for n in range(many["updaters"])),
        stalled=tuple(f"stalled {n}" for n in range(many["stalled"])),
        bad=tuple(f"bad {n}" for n in range(many["bad"])),
        visitors=tuple(f"visitor {n}" for n in range(max(1, connections - taken))),
    )
