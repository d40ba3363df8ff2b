"""MQTT 3.1.1 packets, by the standard's clauses."""
# ruff: noqa: FBT003 - packets are written as the standard draws them, field by field

import pytest

from hub.protocol.packets import (
    FAILURE,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketTooLarge,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    UnacceptableProtocol,
    Unsuback,
    Unsubscribe,
    Will,
    encode,
    is_topic_filter,
)


def connect_bytes(flags: int = 0x02, payload: bytes = b"\0\1a", name: bytes = b"MQTT", level: int = 4) -> bytes:
    body = len(name).to_bytes(2, "big") + name + bytes((level, flags)) + b"\0\x3c" + payload
    return bytes((0x10, len(body))) + body


# Written from the standard's figures by hand, not by our encoder.
GOLDEN: list[tuple[Packet, bytes]] = [
    (Connect("a", True, 60), connect_bytes()),
    (Connect("a", False, 60), connect_bytes(0x00)),
    (Connect("", True, 60), connect_bytes(payload=b"\0\0")),
    (
        Connect("a", True, 60, Will("w", b"x", 1, True), "u", b"p"),
        connect_bytes(0xEE, b"\0\1a\0\1w\0\1x\0\1u\0\1p"),
    ),
    (Connack(True, 0), b"\x20\2\1\0"),
    (Connack(False, 5), b"\x20\2\0\5"),
    (Publish("a/b", b"hi"), b"\x30\7\0\3a/bhi"),
    (Publish("a/b", b"", 0, True), b"\x31\5\0\3a/b"),
    (Publish("a/b", b"hi", 1, False, False, 10), b"\x32\x09\0\3a/b\0\x0ahi"),
    (Publish("a/b", b"hi", 2, True, True, 10), b"\x3d\x09\0\3a/b\0\x0ahi"),
    (Publish("\ufeffå", b""), b"\x30\7\0\5\xef\xbb\xbf\xc3\xa5"),  # [MQTT-1.5.3-3]: U+FEFF stays
    (Publish("t", b"x" * 125), b"\x30\x80\x01\0\1t" + b"x" * 125),
    (Puback(1), b"\x40\2\0\1"),
    (Pubrec(65535), b"\x50\2\xff\xff"),
    (Pubrel(258), b"\x62\2\1\2"),
    (Pubcomp(1), b"\x70\2\0\1"),
    (Subscribe(10, (("a/b", 1), ("c/+", 2))), b"\x82\x0e\0\x0a\0\3a/b\1\0\3c/+\2"),
    (Suback(10, (1, FAILURE)), b"\x90\4\0\x0a\1\x80"),
    (Unsubscribe(10, ("a/b", "#")), b"\xa2\x0a\0\x0a\0\3a/b\0\1#"),
    (Unsuback(10), b"\xb0\2\0\x0a"),
    (Pingreq(), b"\xc0\0"),
    (Pingresp(), b"\xd0\0"),
    (Disconnect(), b"\xe0\0"),
]

MALFORMED: list[tuple[str, bytes]] = [
    ("section 2.2.1", b"\x00\0"),
    ("section 2.2.1", b"\xf0\0"),
    ("section 2.2.3", b"\x30\xff\xff\xff\xff\x01"),
    ("section 2.2.3", b"\xc0\1\0"),
    ("section 2.2.3", b"\xe0\1\0"),
    ("section 2.2.3", b"\x40\3\0\1\0"),
    ("section 2.2.3", b"\x40\1\1"),
    *(("MQTT-2.2.2-2", bytes((first, 2, 0, 1))) for first in (0x41, 0x52, 0x78, 0xB1, 0xC1, 0xD4, 0x11)),
    ("MQTT-3.6.1-1", b"\x60\2\0\1"),
    ("MQTT-3.8.1-1", b"\x80\6\0\1\0\1a\0"),
    ("MQTT-3.10.1-1", b"\xa0\5\0\1\0\1a"),
    ("MQTT-3.14.1-1", b"\xe1\0"),
    ("MQTT-3.3.1-4", b"\x36\5\0\1a\0\1"),
    ("MQTT-3.3.1-2", b"\x38\3\0\1a"),
    ("MQTT-1.5.3-1", b"\x30\4\0\2\xc3\x28"),
    ("MQTT-1.5.3-1", b"\x30\5\0\3\xed\xa0\x80"),  # a surrogate
    ("MQTT-1.5.3-1", b"\x30\4\0\2\xc0\xaf"),  # overlong
    ("MQTT-1.5.3-2", b"\x30\5\0\3a\0b"),
    ("section 1.5.3", b"\x30\3\0\5a"),
    ("section 1.5.3", b"\x30\1\0"),
    ("MQTT-4.7.3-1", b"\x30\2\0\0"),
    ("MQTT-4.7.1-1", b"\x30\3\0\1#"),
    ("MQTT-4.7.1-1", b"\x30\5\0\3a/+"),
    *(("MQTT-2.3.1-1", packet) for packet in (b"\x32\5\0\1a\0\0", b"\x32\4\0\1a\0")),
    *(("section 2.3.1", packet) for packet in (b"\x40\2\0\0", b"\x62\2\0\0", b"\xb0\2\0\0", b"\x90\3\0\0\0")),
    *(("MQTT-2.3.1-1", packet) for packet in (b"\x82\6\0\0\0\1a\0", b"\xa2\5\0\0\0\1a", b"\x82\0")),
    ("MQTT-3.8.3-3", b"\x82\2\0\1"),
    ("MQTT-3.8.3-4", b"\x82\6\0\1\0\1a\3"),
    ("MQTT-3.8.3-4", b"\x82\6\0\1\0\1a\x80"),
    ("MQTT-3.8.3-4", b"\x82\5\0\1\0\1a"),
    ("MQTT-3.8.3-1", b"\x82\6\0\1\0\1\xff\0"),
    ("MQTT-3.10.3-1", b"\xa2\5\0\1\0\1\xff"),
    ("MQTT-3.10.3-2", b"\xa2\2\0\1"),
    ("MQTT-4.7.3-1", b"\x82\5\0\1\0\0\0"),
    ("MQTT-4.7.1-2", b"\x82\x08\0\1\0\3#/a\0"),
    ("MQTT-4.7.1-2", b"\x82\x07\0\1\0\2a#\0"),
    ("MQTT-4.7.1-2", b"\x82\x07\0\1\0\2+#\0"),
    ("MQTT-4.7.1-3", b"\x82\x07\0\1\0\2a+\0"),
    ("MQTT-4.7.1-3", b"\x82\x09\0\1\0\4a+/#\0"),
    ("MQTT-3.1.2-1", connect_bytes(name=b"MQTt")),
    ("MQTT-3.1.2-1", connect_bytes(name=b"")),
    ("MQTT-3.1.2-3", connect_bytes(0x03)),
    ("MQTT-3.1.2-13", connect_bytes(0x0A)),
    ("MQTT-3.1.2-14", connect_bytes(0x1E, b"\0\1a\0\1w\0\0")),
    ("MQTT-3.1.2-15", connect_bytes(0x22)),
    ("MQTT-3.1.2-22", connect_bytes(0x42, b"\0\1a\0\1p")),
    ("MQTT-3.1.4-1", connect_bytes(payload=b"\0\1ab")),
    ("MQTT-3.1.4-1", b"\x10\6\0\4MQTT"),
    ("section 1.5.3", connect_bytes(payload=b"")),  # [MQTT-3.1.3-3]
    ("section 1.5.3", connect_bytes(0x82)),  # [MQTT-3.1.2-19]
    ("section 1.5.3", connect_bytes(0xC2, b"\0\1a\0\1u")),  # [MQTT-3.1.2-21]
    ("section 1.5.3", connect_bytes(0x06)),  # [MQTT-3.1.2-9]
    ("MQTT-4.7.1-1", connect_bytes(0x06, b"\0\1a\0\1#\0\0")),
    ("MQTT-4.7.3-1", connect_bytes(0x06, b"\0\1a\0\0\0\0")),
    ("MQTT-1.5.3-2", connect_bytes(payload=b"\0\1\0")),
    ("MQTT-3.2.2-4", b"\x20\2\1\1"),
    ("section 3.2.2", b"\x20\2\0\6"),
    ("MQTT-3.9.3-2", b"\x90\3\0\1\3"),
]


@pytest.mark.parametrize(("packet", "data"), GOLDEN)
def test_bytes_and_packets_are_as_the_standard_draws_them(packet: Packet, data: bytes) -> None:
    assert encode(packet) == data
    assert Decoder().feed(data) == [packet]


@pytest.mark.parametrize(("clause", "data"), MALFORMED)
def test_what_the_standard_forbids_is_malformed_by_its_clause(clause: str, data: bytes) -> None:
    with pytest.raises(MalformedPacket) as malformed:
        Decoder().feed(data)
    assert malformed.value.clause == clause


@pytest.mark.parametrize(
    "data", [connect_bytes(level=3), connect_bytes(level=5), connect_bytes(name=b"MQIsdp", level=3)]
)
def test_another_version_of_mqtt_is_told_apart_from_nonsense(data: bytes) -> None:
    with pytest.raises(UnacceptableProtocol):
        Decoder().feed(data)


def test_packets_before_a_malformed_one_are_not_lost() -> None:
    with pytest.raises(MalformedPacket) as malformed:
        Decoder().feed(b"\xc0\0\x40\2\0\1\xff\xff")
    assert malformed.value.before == [Pingreq(), Puback(1)]


def test_a_packet_may_come_byte_by_byte() -> None:
    decoder = Decoder()
    stream = b"".join(data for _, data in GOLDEN)
    found = [packet for at in range(len(stream)) for packet in decoder.feed(stream[at : at + 1])]
    assert found == [packet for packet, _ in GOLDEN]


def test_a_packet_declared_too_long_is_refused_before_its_body_comes() -> None:
    decoder = Decoder(1000)
    assert len(decoder.feed(encode(Publish("a", b"x" * 994)))) == 1
    assert decoder.feed(b"\x30\xff") == []
    with pytest.raises(PacketTooLarge):
        decoder.feed(b"\x7f")


@pytest.mark.parametrize("packet", [Publish("a", b"", 1), Puback(0), Puback(65536), Publish("a/#"), Publish("")])
def test_what_cannot_be_said_in_mqtt_is_not_encoded(packet: Packet) -> None:
    with pytest.raises(ValueError):
        encode(packet)


@pytest.mark.parametrize("text", ["#", "+", "a/#", "+/b/+", "/", "a//b", "$SYS/#", "a b"])
def test_wildcards_may_fill_whole_levels(text: str) -> None:
    assert is_topic_filter(text)


@pytest.mark.parametrize("text", ["", "a#", "#/a", "a+", "a/+b", "##", "a\0"])
def test_wildcards_fill_nothing_less_than_whole_levels(text: str) -> None:
    assert not is_topic_filter(text)
