"""TLS over a socket: what of it nobody but its own file can show."""

from types import SimpleNamespace

import pytest

from broker.tls import Tls


class Below:
    """A socket under TLS: whether its peer reads, and what was written to it."""

    def __init__(self) -> None:
        self.entry = None
        self.paused = False
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)


def ask_for_new_keys(channel: Tls) -> None:
    """Python has no call that asks for new keys; what TLS has to answer is put where it would put it."""
    channel._to_send.write(b"new keys too")
    channel._answer()


def test_a_peer_may_ask_for_new_keys_as_long_as_it_reads_the_answers():
    below = Below()
    channel = Tls(below, SimpleNamespace(wrap_bio=lambda *_, **__: None))
    for number in range(1000):
        below.paused = number % 50 > 25
        ask_for_new_keys(channel)
    assert below.written == 1000 * len(b"new keys too")


def test_a_peer_that_asks_for_new_keys_and_reads_nothing_is_ended():
    below = Below()
    channel = Tls(below, SimpleNamespace(wrap_bio=lambda *_, **__: None))
    below.paused = True
    for _ in range(100):
        ask_for_new_keys(channel)
    with pytest.raises(OSError, match="does not read the answers"):
        ask_for_new_keys(channel)
