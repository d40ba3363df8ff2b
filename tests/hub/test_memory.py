"""What is remembered for a few seconds: no longer, and never too much."""

from types import SimpleNamespace

import pytest

import hub.memory
from hub.memory import Memory


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1000.0]
    monkeypatch.setattr(hub.memory, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    return now_s


def test_what_was_put_there_is_forgotten_after_its_time(clock: list[float]) -> None:
    memory = Memory[str, int](5.0)
    assert memory.get("a") is None
    memory.put("a", 1)
    clock[0] += 4.9
    assert memory.get("a") == 1
    clock[0] += 0.2
    assert memory.get("a") is None


def test_a_full_memory_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.memory, "_MOST", 3)
    memory = Memory[int, int](5.0)
    for n in range(4):
        memory.put(n, n)
    assert [memory.get(n) for n in range(4)] == [None, None, None, 3]
