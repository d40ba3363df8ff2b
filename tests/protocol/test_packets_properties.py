"""What holds for any MQTT packets and any bytes, however the network cuts them."""

import itertools
import time
from collections.abc import Iterable
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.protocol.packets import (
    FAILURE,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
    encode,
)

MAX_BYTES: Final = 200
"""The longest packet that the decoders of damaged bytes take."""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
NAMES = TEXT.map(lambda text: text.replace("+", "p").replace("#", "h")).filter(bool)
FILTERS = st.lists(st.sampled_from(["+", "a", "", "å", "$x"]), min_size=1, max_size=6).map("/".join).filter(bool)
IDS = st.integers(1, 65535)
QOS = st.integers(0, 2)
DATA = st.binary(max_size=100) | st.integers(0, 2 * MAX_BYTES).map(bytes)
PACKETS: st.SearchStrategy[Packet] = st.one_of(
    st.builds(
        Connect,
        TEXT,
        st.booleans(),
        st.integers(0, 65535),
        st.none() | st.builds(Will, NAMES, DATA, QOS, st.booleans()),
        TEXT,
        st.none() | DATA,
    ),
    st.builds(Connack, st.booleans()),
    st.builds(Connack, code=st.integers(1, 5)),
    st.builds(Publish, NAMES, DATA, st.just(0), st.booleans()),
    st.builds(Publish, NAMES, DATA, st.integers(1, 2), st.booleans(), st.booleans(), IDS),
    *(st.builds(ack, IDS) for ack in (Puback, Pubrec, Pubrel, Pubcomp, Unsuback)),
    st.builds(Subscribe, IDS, st.lists(st.tuples(FILTERS, QOS), min_size=1, max_size=5).map(tuple)),
    st.builds(Unsubscribe, IDS, st.lists(FILTERS, min_size=1, max_size=5).map(tuple)),
    st.builds(Suback, IDS, st.lists(st.sampled_from([0, 1, 2, FAILURE]), min_size=1).map(tuple)),
    st.sampled_from([Pingreq(), Pingresp(), Disconnect()]),
)


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    """Packets with bytes put in, taken out or changed, most of all where their headers are."""
    stream = bytearray(b"".join(map(encode, draw(st.lists(PACKETS, min_size=1, max_size=4)))))
    places = st.integers(0, 12) | st.integers(0, len(stream))
    for at, removed, put in draw(st.lists(st.tuples(places, st.integers(0, 3), st.binary(max_size=3)), max_size=4)):
        stream[at : at + removed] = put
    return bytes(stream)


@st.composite
def short_packets(draw: st.DrawFn) -> bytes:
    """A packet that lacks its end, with a length that admits it."""
    first, *rest = encode(draw(PACKETS))
    length = draw(st.integers(0, min(len(rest), 127)))
    return bytes((first, length, *rest[1 : 1 + length]))


STREAMS = damaged_packets() | short_packets() | st.binary(max_size=2 * MAX_BYTES)
MANY = settings(
    max_examples=5 * settings.default.max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
CUTS = st.lists(st.integers(0, 1000), max_size=10) | st.just(range(1, 1000))


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def decoded(pieces: Iterable[bytes]) -> tuple[list[Packet], str | None]:
    """The packets, and what was wrong with the rest of the bytes."""
    decoder = Decoder(MAX_BYTES)
    packets: list[Packet] = []
    try:
        for piece in pieces:
            packets += decoder.feed(piece)
            assert len(decoder._partial) <= MAX_BYTES
    except MalformedPacket as malformed:
        return packets + malformed.before, f"{type(malformed).__name__}: {malformed}"
    return packets, None


@MANY
@given(st.lists(PACKETS, max_size=6), CUTS)
def test_any_packets_come_back_however_the_network_cuts_them(packets: list[Packet], cuts: Iterable[int]) -> None:
    stream = b"".join(map(encode, packets))
    decoder = Decoder()
    assert [packet for piece in pieces(stream, cuts) for packet in decoder.feed(piece)] == packets


@MANY
@given(STREAMS, CUTS)
def test_any_bytes_mean_the_same_however_the_network_cuts_them(stream: bytes, cuts: Iterable[int]) -> None:
    """They are packets, malformed or not there yet: nothing else, and no more is kept than one packet may have."""
    assert decoded(pieces(stream, cuts)) == decoded([stream])


@MANY
@given(STREAMS)
def test_what_is_understood_can_be_said_again(stream: bytes) -> None:
    packets, _ = decoded([stream])
    assert Decoder().feed(b"".join(map(encode, packets))) == packets


def test_a_packet_that_comes_byte_by_byte_costs_by_its_length_and_not_by_its_square() -> None:
    def cost_s(length: int) -> float:
        stream = encode(Publish("t", bytes(length)))
        decoder = Decoder()
        start = time.perf_counter()
        packets = [packet for at in range(len(stream)) for packet in decoder.feed(stream[at : at + 1])]
        assert len(packets) == 1
        return time.perf_counter() - start

    short, long = min(cost_s(16_384) for _ in range(5)), min(cost_s(524_288) for _ in range(2))
    assert long < 5 * 32 * short
