"""Questions that are asked together: each once, and never answered by what was asked before they came."""

import asyncio

import pytest

from hub.together import Together


class Oracle:
    """Answers when it is told to, and says how often it was asked before."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.fails = False

    async def answer(self, questions: list[str]) -> list[str]:
        self.asked.append(questions)
        n = len(self.asked)
        await self.may_answer.wait()
        if self.fails:
            raise OSError("away")
        return [f"{question}{n}" for question in questions]


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_questions_of_one_turn_are_one_question() -> None:
    oracle = Oracle()
    together = Together(oracle.answer)
    oracle.may_answer.set()
    assert await asyncio.gather(*(together.ask(question) for question in "abab")) == ["a1", "b1", "a1", "b1"]
    assert oracle.asked == [["a", "b"]]


async def test_who_asks_after_a_question_was_sent_gets_a_newer_answer() -> None:
    oracle = Oracle()
    together = Together(oracle.answer)
    early = together.ask("a")
    await turns()
    late = [together.ask("a"), together.ask("a")]
    await turns()
    assert oracle.asked == [["a"]], "one at a time"
    oracle.may_answer.set()
    assert (await early, await asyncio.gather(*late)) == ("a1", ["a2", "a2"])


async def test_what_fails_fails_for_those_who_asked_and_the_next_are_asked_anew() -> None:
    oracle = Oracle()
    together = Together(oracle.answer)
    oracle.fails = True
    oracle.may_answer.set()
    outcomes = await asyncio.gather(*(together.ask(question) for question in "ab"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError]
    oracle.fails = False
    assert await together.ask("a") == "a2"


async def test_who_gives_up_leaves_the_others_alone() -> None:
    oracle = Oracle()
    together = Together(oracle.answer)
    impatient, patient = together.ask("a"), together.ask("a")
    await turns()
    impatient.cancel()
    oracle.may_answer.set()
    assert await patient == "a1"
    with pytest.raises(asyncio.CancelledError):
        await impatient
