"""WebSocket frames, against the library's: what it writes we read, however it is cut, and the other way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from broker.frames import BINARY, Frames, closing, frame


def masked(opcode, data=b"", *, fin=True):
    return Frame(opcode, data, fin=fin).serialize(mask=True)


def read_by_library(data):
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert not reader.buffer
    return done.value.value


messages = st.lists(
    st.tuples(st.sampled_from(["whole", "pieces", "ping", "pong"]), st.binary(max_size=300) | st.just(bytes(70_000))),
    max_size=5,
)


@given(messages, st.data())
def test_the_payload_is_the_same_however_the_bytes_are_cut(messages, data):
    sent, payload = b"", b""
    for kind, content in messages:
        if kind in ("ping", "pong"):
            sent += masked(Opcode.PING if kind == "ping" else Opcode.PONG, content[:125])
            continue
        payload += content
        if kind == "whole":
            sent += masked(Opcode.BINARY, content)
        else:  # with a ping in between, as it may be
            middle = len(content) // 2
            sent += masked(Opcode.BINARY, content[:middle], fin=False) + masked(Opcode.PING, b"between")
            sent += masked(Opcode.CONT, b"", fin=False) + masked(Opcode.CONT, content[middle:])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=10)))
    frames, received = Frames(), b""
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        received += frames.receive(sent[start:end])
    assert received == payload
    assert not frames.is_over


@given(st.binary(max_size=2_000))
def test_no_bytes_do_more_harm_than_a_fault(data):
    whole, bytewise = Frames(), Frames()
    payload = whole.receive(data)
    assert b"".join(bytewise.receive(data[at : at + 1]) for at in range(len(data))) == payload
    assert (whole.closed_with, str(whole.fault)) == (bytewise.closed_with, str(bytewise.fault))
    assert len(whole._partial) < 14 + 125


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_the_library_reads_what_is_written(length):
    assert read_by_library(frame(BINARY, bytes(length))) == Frame(Opcode.BINARY, bytes(length))
    assert Close.parse(read_by_library(closing(1002)).data).code == 1002


def test_a_ping_is_answered_with_what_it_carries():
    frames = Frames()
    frames.receive(masked(Opcode.PING, b"one") + masked(Opcode.PING, b"two"))
    assert read_by_library(frames.pong) == Frame(Opcode.PONG, b"two")


def test_after_a_closing_nothing_counts():
    frames = Frames()
    closes = masked(Opcode.CLOSE, b"\x03\xe8bye")
    assert frames.receive(masked(Opcode.BINARY, b"a") + closes + masked(Opcode.BINARY, b"b")) == b"a"
    assert frames.receive(masked(Opcode.BINARY, b"c")) == b""
    assert (frames.closed_with, frames.fault) == (b"\x03\xe8bye", None)


@pytest.mark.parametrize("closing_frame", [b"", b"\x03\xe8", b"\x03\xf3r\xc3\xa9ason", b"\x0b\xb8", b"\x13\x87"])
def test_proper_closings(closing_frame):
    frames = Frames()
    frames.receive(masked(Opcode.CLOSE, closing_frame))
    assert (frames.closed_with, frames.fault) == (closing_frame, None)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (masked(Opcode.TEXT, b"text"), 1003),
        (b"\xc2\x80\0\0\0\0", 1002),  # a reserved bit
        (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
        (masked(Opcode.CONT, b"x"), 1002),
        (masked(Opcode.BINARY, b"x", fin=False) + masked(Opcode.BINARY, b"x"), 1002),
        (masked(Opcode.BINARY, b"x", fin=False) + masked(Opcode.TEXT, b"x"), 1003),
        (b"\x83\x80\0\0\0\0", 1002),  # a data frame of a kind that is not defined
        (b"\x8b\x80\0\0\0\0", 1002),  # a control frame of a kind that is not defined
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in pieces
        (b"\x89\xfe\0\x7e\0\0\0\0" + bytes(126), 1002),  # a ping that is too long
        (b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),  # a length of 64 bits
        (b"\x88\x81\0\0\0\0\0", 1002),  # a closing with half a code
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # with a code that is not sent (1005)
        (b"\x88\x82\0\0\0\0\x03\xe7", 1002),  # with one that is none (999)
        (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),  # with a reason that is not UTF-8
    ],
)
def test_what_is_forbidden_is_a_fault_and_what_came_before_it_counts(sent, code):
    frames = Frames()
    before = masked(Opcode.BINARY, b"before")
    assert frames.receive(before + sent + before).startswith(b"before")
    assert frames.fault is not None
    assert frames.fault.code == code
    assert frames.receive(before) == b""
