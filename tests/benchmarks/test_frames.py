"""Counting packets by their length: cut anywhere, complete, and nothing else passes."""

import pytest

from benchmarks.broker.frames import Arrivals, Unexpected, pubacks, publishes
from hub.protocol.packets import Decoder, Puback, Publish, encode

TOPIC, PAYLOAD = "a/b", b"x" * 100


def cut(data: bytes, length: int) -> list[bytes]:
    return [data[at : at + length] for at in range(0, len(data), length)]


def test_what_is_sent_are_packets_whose_ids_come_round():
    ring = publishes(TOPIC, PAYLOAD, 1, ids=3)
    packets = Decoder().feed(ring.take(2) + ring.take(3))
    assert [packet.packet_id for packet in packets] == [1, 2, 3, 1, 2]
    assert packets[0] == Publish(TOPIC, PAYLOAD, 1, packet_id=1)


def test_at_qos_0_packets_have_no_id():
    assert Decoder().feed(publishes(TOPIC, PAYLOAD, 0, ids=3).take(2)) == [Publish(TOPIC, PAYLOAD)] * 2


@pytest.mark.parametrize("length", [1, 3, 4, 7, 12])
def test_every_acknowledgement_is_counted_however_it_is_cut(length):
    due = pubacks(ids=5)
    data = b"".join(encode(Puback(n)) for n in (1, 2, 3, 4, 5, 1, 2))
    assert sum(due.expect(part) for part in cut(data, length)) == 7


def test_an_acknowledgement_out_of_turn_is_an_error():
    with pytest.raises(Unexpected):
        pubacks(ids=5).expect(encode(Puback(2)))


def test_more_at_once_than_was_ever_due_is_an_error():
    with pytest.raises(Unexpected):
        pubacks(ids=2).expect(b"".join(encode(Puback(n)) for n in (1, 2, 1)))


@pytest.mark.parametrize("length", [1, 50, 107, 108, 300, 10_000])
def test_each_message_is_answered_with_its_own_id_however_it_is_cut(length):
    ids = [1, 255, 256, 65_535, 7, 8]
    data = b"".join(encode(Publish(TOPIC, PAYLOAD, 1, packet_id=n)) for n in ids)
    arrivals = Arrivals(TOPIC, PAYLOAD)
    counts, answers = zip(*(arrivals.take(part) for part in cut(data, length)), strict=True)
    assert sum(counts) == len(ids)
    assert Decoder().feed(b"".join(answers)) == [Puback(n) for n in ids]


@pytest.mark.parametrize(
    "other", [Publish(TOPIC, b"y" * 100, 1, packet_id=1), Publish(TOPIC, PAYLOAD, 1, dup=True, packet_id=1)]
)
def test_a_message_that_is_not_the_one_published_is_an_error(other):
    with pytest.raises(Unexpected):
        Arrivals(TOPIC, PAYLOAD).take(encode(other))
