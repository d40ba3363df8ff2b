"""What the words and the steps of a case mean."""

import pytest

from hub.protocol.packets import Connack, Connect, Disconnect, Publish, Subscribe, Will, encode
from tests.protocol.mqtt.notation import NotationError, PacketId, read_bytes
from tests.protocol.mqtt.steps import Step, read_steps


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ('CONNECT [ "MQTT" 04 02 003c "a" ]', Connect("a", keep_alive=60)),
        (
            """CONNECT [ "MQTT" 04 ec 0000 "a"   # a will of QoS 1, retained
                   "w" ('gone') "u" (00 ff) ]""",
            Connect(
                "a", clean_session=False, will=Will("w", b"gone", 1, retain=True), username="u", password=b"\0\xff"
            ),
        ),
        ("CONNACK [ 01 00 ]", Connack(session_present=True)),
        ("PUBLISH:1rd [ \"a/b\" 000a 'hi' ]", Publish("a/b", b"hi", 1, retain=True, dup=True, packet_id=10)),
        ('PUBLISH [ "x" 61*20 62*180 ]', Publish("x", b"a" * 20 + b"b" * 180)),
        ('PUBLISH [ "\\u00e5" ]', Publish("å")),
        ('SUBSCRIBE [ 0001 "a" 01 "#" 02 ]', Subscribe(1, (("a", 1), ("#", 2)))),
        ("DISCONNECT []", Disconnect()),
    ],
)
def test_the_bytes_of_a_packet(text, packet):
    assert read_bytes(text) == (encode(packet),)


def test_a_bracket_is_repeated_with_the_first_byte_of_its_packet():
    assert read_bytes("PINGREQ []*3") == (b"\xc0\0\xc0\0\xc0\0",)


def test_a_packet_id_of_the_broker_counts_as_two_bytes():
    assert read_bytes('PUBLISH:1 [ "x" $n!m ]') == (b"\x32\5\0\1x", PacketId("n", "m"))


@pytest.mark.parametrize("text", ["1", "PUBLISHED []", "30 [", "30 ]", "( 00 ]", "*3", '"a', "0G"])
def test_what_says_nothing_is_an_error(text):
    with pytest.raises(NotationError):
        read_bytes(text)


def test_a_step_says_who_does_what_and_goes_on_in_indented_lines():
    assert list(read_steps("a > 10\n    20  # and\n    30\nb1 < close after 1.5 s\n")) == [
        Step("a > 10\n    20  # and\n    30", "a", ">", (b"\x10\x20\x30",)),
        Step("b1 < close after 1.5 s", "b1", "close", after_s=1.5),
    ]


def test_a_short_step_stands_for_what_it_says_in_full():
    assert [(step.verb, step.what) for step in read_steps('a connects   # as "a"\na subscribes "#" 1')] == [
        (">", (encode(Connect("a")),)),
        ("<", (encode(Connack()),)),
        (">", (encode(Subscribe(0x7FFF, (("#", 1),))),)),
        ("<", (b"\x90\3\x7f\xff\1",)),
    ]


def test_packets_in_any_order_stand_each_on_a_line():
    (step,) = read_steps("a <*\n    PINGRESP []\n\n    PUBACK [ 0001 ]")
    assert step.any_of == ((b"\xd0\0",), (b"\x40\2\0\1",))


@pytest.mark.parametrize("text", ["a", "a waits", "a connects twice", "a < closes"])
def test_what_is_no_step_is_an_error(text):
    with pytest.raises(NotationError):
        list(read_steps(text))
