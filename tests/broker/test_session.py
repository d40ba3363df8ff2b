"""Packet ids of a session."""

from broker.session import Limits, Session
from hub.protocol.packets import Publish


def session_with(**limits: int) -> Session:
    return Session("c", Limits(**limits), journal=None)


MESSAGE = Publish("t", b"x", 1)


def send_one(session: Session) -> int:
    session.enqueue(MESSAGE)
    [message] = session.ready()
    return message.packet_id


def test_ids_go_round_from_65535_to_1_and_pass_over_those_in_flight():
    session = session_with()
    kept = [send_one(session) for _ in range(2)]
    for expected in range(3, 65536):
        assert send_one(session) == expected
        session.puback(expected)
    assert kept == [1, 2]
    assert send_one(session) == 3


def test_a_queue_is_full_by_messages_or_by_bytes():
    by_number, by_bytes = session_with(queued_messages=2), session_with(queued_bytes=10)
    for session in (by_number, by_bytes):
        assert not session.full
    by_number.enqueue(MESSAGE)
    by_number.enqueue(MESSAGE)
    by_bytes.enqueue(Publish("t", b"x" * 10, 1))
    assert by_number.full
    assert by_bytes.full


def test_an_acknowledgement_of_an_unknown_message_is_left_alone():
    session = session_with()
    session.puback(5)
    session.pubcomp(5)
    assert session.pubrec(5).packet_id == 5
