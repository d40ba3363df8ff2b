"""Which subscribers a topic concerns, and which retained messages a filter: two tries of levels, no I/O.

The cost of a look-up depends on what matches, not on how many subscriptions or retained messages there are.
Topics are compared level by level, byte for byte, with no normalization [MQTT-4.7.3-4].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hub.protocol.packets import Publish

_S = TypeVar("_S")


class _Branch(Generic[_S]):
    __slots__ = ("below", "here", "whole")

    def __init__(self) -> None:
        self.below: dict[str, _Branch[_S]] = {}
        self.here: dict[_S, int] = {}  # subscribers of the filter that ends on this level, with their QoS
        self.whole: dict[_S, int] = {}  # of the filter that goes on with a final '#'


class Subscriptions(Generic[_S]):
    """Topic filters, and the QoS that each subscriber was granted for them."""

    def __init__(self) -> None:
        self._root: _Branch[_S] = _Branch()

    def add(self, topic_filter: str, subscriber: _S, qos: int) -> None:
        """Grant the filter; the same filter again replaces its QoS [MQTT-3.8.4-3]."""
        branch = self._root
        levels = topic_filter.split("/")
        last = levels.pop()
        for level in levels:
            branch = branch.below.setdefault(level, _Branch())
        if last == "#":
            branch.whole[subscriber] = qos
        else:
            branch.below.setdefault(last, _Branch()).here[subscriber] = qos

    def remove(self, topic_filter: str, subscriber: _S) -> None:
        """Take the filter back from a subscriber that has it, and prune the branches left empty [MQTT-3.10.4-2]."""
        levels = topic_filter.split("/")
        ends_whole = levels[-1] == "#"
        if ends_whole:
            levels.pop()
        path = [self._root]
        for level in levels:
            path.append(path[-1].below[level])
        del (path[-1].whole if ends_whole else path[-1].here)[subscriber]
        for level, branch, parent in zip(reversed(levels), reversed(path), reversed(path[:-1]), strict=False):
            if branch.below or branch.here or branch.whole:
                break
            del parent.below[level]

    def match(self, topic: str) -> dict[_S, int]:
        """The subscribers that a topic concerns and nobody else [MQTT-3.3.2-3] [MQTT-4.5.0-1].

        Each once, with the highest QoS it has [MQTT-3.3.5-1]. Filters may have both wildcards [MQTT-3.8.3-2].
        """
        found: dict[_S, int] = {}
        branches = [self._root]
        wildcards = not topic.startswith("$")  # on the first level only [MQTT-4.7.2-1]
        for level in topic.split("/"):
            below: list[_Branch[_S]] = []
            for branch in branches:
                if wildcards and branch.whole:
                    _add_highest(found, branch.whole)
                if level in branch.below:
                    below.append(branch.below[level])
                if wildcards and "+" in branch.below:
                    below.append(branch.below["+"])
            if not below:
                return found
            branches = below
            wildcards = True
        for branch in branches:
            _add_highest(found, branch.here)
            _add_highest(found, branch.whole)  # "sport/#" matches "sport" too: section 4.7.1.2
        return found


def _add_highest(found: dict[_S, int], subscribers: dict[_S, int]) -> None:
    if not found:
        found.update(subscribers)
        return
    for subscriber, qos in subscribers.items():
        if found.get(subscriber, -1) < qos:
            found[subscriber] = qos


class _Leaf:
    __slots__ = ("below", "message", "owner")

    def __init__(self) -> None:
        self.below: dict[str, _Leaf] = {}
        self.message: Publish | None = None
        self.owner = ""


@dataclass(slots=True)
class Held:
    """How much of one owner is retained."""

    messages: int = 0
    payload_bytes: int = 0


class Retained:
    """The last retained message of each topic, and how many each owner has."""

    def __init__(self) -> None:
        self._root = _Leaf()
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return sum(held.messages for held in self._held.values())

    def held_by(self, owner: str) -> Held:
        """How much of an owner is retained now."""
        return self._held.get(owner, Held())

    def held_by_others(self, owner: str) -> Held:
        """How much is retained of everybody but an owner."""
        others = [held for name, held in self._held.items() if name != owner]
        return Held(sum(held.messages for held in others), sum(held.payload_bytes for held in others))

    def store(self, message: Publish, owner: str) -> None:
        """Keep it as its topic's message, whoever's was there before [MQTT-3.3.1-5, -7]."""
        leaf = self._root
        for level in message.topic.split("/"):
            below = leaf.below.get(level)
            if below is None:
                below = leaf.below[level] = _Leaf()
            leaf = below
        self._count_out(leaf)
        leaf.message, leaf.owner = message, owner
        held = self._held.setdefault(owner, Held())
        held.messages += 1
        held.payload_bytes += len(message.payload)

    def clear(self, topic: str) -> bool:
        """Forget a topic's message; False if there is none [MQTT-3.3.1-10, -11]."""
        path = [self._root]
        levels = topic.split("/")
        for level in levels:
            leaf = path[-1].below.get(level)
            if leaf is None:
                return False
            path.append(leaf)
        if path[-1].message is None:
            return False
        self._count_out(path[-1])
        path[-1].message = None
        for level, leaf, parent in zip(reversed(levels), reversed(path), reversed(path[:-1]), strict=False):
            if leaf.below or leaf.message is not None:
                break
            del parent.below[level]
        return True

    def _count_out(self, leaf: _Leaf) -> None:
        if leaf.message is not None:
            held = self._held[leaf.owner]
            held.messages -= 1
            held.payload_bytes -= len(leaf.message.payload)
            if not held.messages:
                del self._held[leaf.owner]

    def topics_of(self, owner: str) -> list[str]:
        """The topics whose message is that owner's; a walk through all that is retained."""
        leaves = self._all_below([self._root], hide_dollar=False)
        return [leaf.message.topic for leaf in leaves if leaf.message is not None and leaf.owner == owner]

    def match(self, topic_filter: str) -> list[Publish]:
        """The retained messages whose topics the filter matches [MQTT-3.3.1-6]."""
        levels = topic_filter.split("/")
        everything_below = levels[-1] == "#"
        if everything_below:
            levels.pop()
        leaves = [self._root]
        for depth, level in enumerate(levels):
            if level == "+":
                leaves = [
                    below
                    for leaf in leaves
                    for name, below in leaf.below.items()
                    if depth or not name.startswith("$")  # [MQTT-4.7.2-1]
                ]
            else:
                leaves = [leaf.below[level] for leaf in leaves if level in leaf.below]
        if everything_below:
            leaves = list(self._all_below(leaves, hide_dollar=not levels))
        return [leaf.message for leaf in leaves if leaf.message is not None]

    def _all_below(self, leaves: list[_Leaf], *, hide_dollar: bool) -> Iterator[_Leaf]:
        waiting = list(leaves)
        while waiting:
            leaf = waiting.pop()
            yield leaf
            at_root = hide_dollar and leaf is self._root
            waiting += [below for name, below in leaf.below.items() if not (at_root and name.startswith("$"))]
