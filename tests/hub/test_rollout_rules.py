"""What a rollout does next, given the counts; and its pace."""

from datetime import timedelta
from typing import Any

import pytest

from hub.command_states import CommandState
from hub.rollout_rules import (
    OF_COMMAND,
    End,
    Part,
    Plan,
    RolloutState,
    Send,
    allowed_now,
    next_after,
    next_step,
)
from tests.hub.conftest import NOW, after

PLAN = Plan(max_in_flight=3, per_minute=60, abort_share=0.25, abort_after=1)
RUNNING = RolloutState.RUNNING
P = Part


@pytest.mark.parametrize(
    ("canaries", "others", "step"),
    [
        ({P.WAITING: 2}, {P.WAITING: 9}, Send(2, canaries=True)),
        ({P.WAITING: 5}, {P.WAITING: 9}, Send(3, canaries=True)),
        ({P.APPLIED: 1, P.SENT: 1}, {P.WAITING: 9}, None),
        ({P.APPLIED: 1, P.UNKNOWN: 1}, {P.WAITING: 9}, None),
        ({P.APPLIED: 2}, {P.WAITING: 9}, Send(3, canaries=False)),
        ({}, {P.WAITING: 9}, Send(3, canaries=False)),
        ({}, {P.WAITING: 9, P.SENT: 1, P.UNKNOWN: 1}, Send(1, canaries=False)),
        ({}, {P.WAITING: 9, P.SENDING: 3}, None),
        ({P.APPLIED: 1}, {P.APPLIED: 9}, End(RolloutState.FINISHED)),
        ({P.APPLIED: 1}, {P.APPLIED: 8, P.SENT: 1}, None),
        ({P.APPLIED: 1}, {P.APPLIED: 8, P.UNKNOWN: 1}, End(RolloutState.FINISHED)),
        ({}, {P.LEFT_OUT: 3}, End(RolloutState.FINISHED)),
        ({}, {}, End(RolloutState.FINISHED)),
    ],
)
def test_what_is_next(canaries: dict[Part, int], others: dict[Part, int], step: Any) -> None:
    assert next_step(RUNNING, PLAN, canaries, others) == step


@pytest.mark.parametrize("bad", [P.FAILED, P.REFUSED, P.UNRESOLVED])
def test_a_canary_that_did_not_end_well_aborts(bad: Part) -> None:
    step = next_step(RUNNING, PLAN, {P.APPLIED: 9, bad: 1}, {P.WAITING: 100})
    assert isinstance(step, End)
    assert step.state is RolloutState.ABORTED


@pytest.mark.parametrize(("applied", "bad", "aborts"), [(3, 1, False), (2, 1, True), (30, 10, False), (29, 10, True)])
def test_the_share_counts_those_that_have_ended_and_may_be_reached(applied: int, bad: int, aborts: bool) -> None:
    counts = {P.APPLIED: applied, P.FAILED: bad, P.WAITING: 50, P.LEFT_OUT: 40, P.UNKNOWN: 1}
    assert isinstance(next_step(RUNNING, PLAN, {}, counts), End) is aborts


def test_the_share_counts_once_enough_have_ended() -> None:
    plan = Plan(3, 60, abort_share=0.25, abort_after=4)
    assert next_step(RUNNING, plan, {}, {P.FAILED: 3, P.WAITING: 9}) == Send(3, canaries=False)
    assert isinstance(next_step(RUNNING, plan, {}, {P.FAILED: 4, P.WAITING: 9}), End)


def test_a_paused_one_sends_nothing_but_ends_and_aborts_all_the_same() -> None:
    paused = RolloutState.PAUSED
    assert next_step(paused, PLAN, {}, {P.WAITING: 9}) is None
    assert next_step(paused, PLAN, {}, {P.APPLIED: 9}) == End(RolloutState.FINISHED)
    assert isinstance(next_step(paused, PLAN, {}, {P.FAILED: 9, P.WAITING: 1}), End)


@pytest.mark.parametrize("state", [RolloutState.FINISHED, RolloutState.ABORTED, RolloutState.CANCELLED])
def test_what_has_ended_does_not_go_on(state: RolloutState) -> None:
    assert next_step(state, PLAN, {P.FAILED: 1}, {P.WAITING: 9}) is None


def test_every_state_of_a_command_says_what_became_of_the_part() -> None:
    assert set(OF_COMMAND) == set(CommandState)


def test_no_minute_has_more_than_the_pace_and_a_second_of_catching_up() -> None:
    plan = Plan(1000, per_minute=600, abort_share=0, abort_after=1)
    next_at, sent, moment = NOW, 0, NOW
    while moment < after(60):
        allowed = allowed_now(plan, next_at, moment)
        if allowed:
            next_at, sent = next_after(plan, next_at, allowed, moment), sent + allowed
        moment += timedelta(seconds=0.25)
    assert 590 <= sent <= 610
    assert allowed_now(plan, next_at, after(4000)) == 11


def test_a_slow_pace_is_kept_between_two() -> None:
    plan = Plan(10, per_minute=2, abort_share=0, abort_after=1)
    assert allowed_now(plan, NOW, NOW) == 1
    next_at = next_after(plan, NOW, 1, NOW)
    assert next_at == after(30)
    assert allowed_now(plan, next_at, after(29.9)) == 0
    assert allowed_now(plan, next_at, after(31)) == 1
