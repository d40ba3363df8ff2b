"""The books of a soak find what is lost, doubled, late or uncalled, and nothing else."""

import pytest

from benchmarks.soak.ledger import Account, Ledger, Reader, Stream

STREAM = Stream("s", qos=2)
ONCE = Reader("once", qos=2, streams=(STREAM,))
OFTEN = Reader("often", qos=1, streams=(STREAM,))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger([ONCE, OFTEN])


def everybody_gets(ledger: Ledger, *numbers: int) -> None:
    for number in numbers:
        for reader in (ONCE, OFTEN):
            ledger.arrived(reader, STREAM, number)


def test_what_arrived_at_everybody_is_fine(ledger):
    for number in range(1000):
        ledger.acknowledged(STREAM, number)
        everybody_gets(ledger, number)
    assert ledger.account() == Account(owed=2000)
    assert ledger.account().fine


def test_what_was_acknowledged_and_did_not_arrive_is_lost_for_each_reader(ledger):
    ledger.acknowledged(STREAM, 300)
    ledger.arrived(ONCE, STREAM, 300)
    assert ledger.account() == Account(owed=2, lost=1)
    assert not ledger.account().fine


def test_what_was_not_acknowledged_is_not_owed_and_may_arrive(ledger):
    everybody_gets(ledger, 0)
    assert ledger.account() == Account()


def test_twice_is_a_fault_only_where_once_was_promised(ledger):
    everybody_gets(ledger, 0, 0)
    assert ledger.account() == Account(duplicated=1, redelivered=1)
    assert not ledger.account().fine


def test_at_qos_1_a_second_arrival_is_a_fault_when_the_broker_must_have_known_of_the_first(ledger):
    everybody_gets(ledger, 0)
    ledger.settled(OFTEN, STREAM, 0)
    assert ledger.account().fine
    ledger.arrived(OFTEN, STREAM, 0)
    assert ledger.account() == Account(again=1, redelivered=1)
    assert not ledger.account().fine


def test_a_second_arrival_is_no_fault_when_the_publisher_sent_it_twice(ledger):
    ledger.arrived(OFTEN, STREAM, 0)
    ledger.settled(OFTEN, STREAM, 0)
    ledger.resent(STREAM, 0)
    ledger.arrived(OFTEN, STREAM, 0)
    assert ledger.account() == Account(redelivered=1)


def test_a_first_arrival_after_a_later_message_is_out_of_order_and_a_second_one_is_not(ledger):
    everybody_gets(ledger, 0, 2)
    ledger.arrived(OFTEN, STREAM, 0)
    assert ledger.account().out_of_order == 0
    ledger.arrived(OFTEN, STREAM, 1)
    assert ledger.account().out_of_order == 1


def test_a_will_after_a_goodbye_is_uncalled(ledger):
    ledger.uncalled(STREAM, 0)
    assert ledger.account().fine
    ledger.arrived(ONCE, STREAM, 0)
    assert ledger.account().uncalled == 1


@pytest.mark.parametrize(("found", "wrong"), [(3, True), (4, False), (5, False), (6, True), (None, True)])
def test_what_is_retained_is_the_last_acknowledged_or_one_sent_after_it(ledger, found, wrong):
    for number in (3, 4, 5):
        ledger.retained_sent("t", number)
    ledger.retained_acknowledged("t", 4)
    assert ledger.wrongly_retained({} if found is None else {"t": found}) == ["t"] * wrong


def test_a_topic_without_an_acknowledgement_may_hold_anything(ledger):
    ledger.retained_sent("t", 0)
    assert ledger.wrongly_retained({}) == []
