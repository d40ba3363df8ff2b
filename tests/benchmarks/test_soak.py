"""The soak: its client's own rules, who takes part, and a short one from end to end."""

import json
from pathlib import Path

import pytest

from benchmarks.soak.abuse import ATTACKS
from benchmarks.soak.client import Session
from benchmarks.soak.population import population
from hub.protocol.packets import Connect, Decoder, Puback, Pubcomp, Publish, Pubrec, Pubrel
from tests.benchmarks.conftest import run_module


def test_a_qos_2_message_is_handed_on_once_until_it_is_released():
    session, message, got = Session("me", clean=False), Publish("t", b"x", 2, packet_id=7), []
    answers = [session.take(packet, got.append) for packet in (message, message, Pubrel(7), message)]
    assert answers == [Pubrec(7), Pubrec(7), Pubcomp(7), Pubrec(7)]
    assert got == [message, message]


def test_what_is_not_acknowledged_is_sent_again_in_order_on_the_next_connection():
    session, acknowledged = Session("me", clean=False), []
    for qos in (1, 2, 2, 1):
        session.publish(Publish("t", b"x", qos), lambda: acknowledged.append(1))
    session.take(Pubrec(2), acknowledged.append)
    session.take(Puback(4), acknowledged.append)
    assert session.accepted(present=True) == [
        Publish("t", b"x", 1, dup=True, packet_id=1),
        Pubrel(2),
        Publish("t", b"x", 2, dup=True, packet_id=3),
    ]
    assert len(acknowledged) == 2
    session.take(Pubcomp(2), acknowledged.append)
    assert session.unacknowledged == 2


def test_a_client_whose_session_the_broker_forgot_begins_anew():
    session = Session("me", clean=False)
    session.publish(Publish("t", b"x", 1), lambda: None)
    assert session.accepted(present=False) == []
    assert session.unacknowledged == 0


@pytest.mark.parametrize("connections", [20, 100, 1000])
def test_everybody_takes_part_and_every_stream_of_a_reader_is_within_its_filter(connections):
    people = population(connections)
    assert all(map(len, (people.state_topics, people.retained_topics, people.stalled, people.bad, people.visitors)))
    assert {stream.qos for stream in people.streams} == {0, 1, 2}
    for reader, topic_filter in people.readers:
        assert reader.streams
        assert all(stream.topic.startswith(topic_filter.removesuffix("+")) for stream in reader.streams)
    read = {stream for reader, _ in people.readers for stream in reader.streams}
    assert read == {*people.streams, *people.wills}


def test_a_thousand_connections_are_about_a_thousand():
    people = population(1000)
    kinds = (people.streams, people.wills, people.readers, people.state_topics, people.retained_topics)
    assert sum(map(len, (*kinds, people.stalled, people.bad, people.visitors))) == pytest.approx(1000, rel=0.02)


def test_an_attack_that_need_not_end_at_once_breaks_no_rule_and_the_others_have_names_of_their_own():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    for attack in ATTACKS:
        if attack.ends_within_s is None:
            Decoder().feed(attack.data)
    slow = [attack for attack in ATTACKS if attack.every_s and attack.ends_within_s]
    assert [type(Decoder().feed(attack.data)[0]) for attack in slow] == [Connect]


@pytest.mark.parametrize("killed", [False, True])
def test_a_short_soak_finds_a_broker_that_keeps_its_word(tmp_path: Path, killed):
    figures = tmp_path / "figures.json"
    kills = ("--kill", "--kills", "1") if killed else ()
    ended = run_module(
        "benchmarks.soak", "--minutes", "0.05", "--connections", "20", "--json", str(figures), *kills, tmp_path=tmp_path
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(figures.read_text())
    assert found["fine"]
    assert found["kills"] == killed
    assert found["account"]["owed"] > 0
    assert found["counts"]["connections"] > 0
    assert found["memory"]
    assert found["trend"] is None, "a short run says nothing of memory"
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "something was left behind"
