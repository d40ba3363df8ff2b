"""What is looked up again and again, remembered for a few seconds."""

import time
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_MOST: Final = 10_000


class Memory(Generic[K, V]):
    """Values by their keys, each for `remembered_s` after it was put there; a full memory begins anew."""

    def __init__(self, remembered_s: float) -> None:
        self._remembered_s = remembered_s
        self._known: dict[K, tuple[float, V]] = {}

    def get(self, key: K) -> V | None:
        known = self._known.get(key)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def clear(self) -> None:
        self._known.clear()

    def put(self, key: K, value: V) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = time.monotonic() + self._remembered_s, value
