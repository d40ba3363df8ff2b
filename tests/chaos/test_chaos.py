"""Twenty faults from end to end, and what the books and the watch find where a promise is broken."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hub.protocol.packets import Publish, encode
from tests.chaos.faults import deck
from tests.chaos.ground import Ground, Site
from tests.chaos.ledger import Answer, Change, FeederBooks, Ledger, Outcome, SiteBooks, Stop, faults_in
from tests.chaos.line import Line, Way
from tests.chaos.pulse import HeartbeatTap, Pulse, fault_in
from tests.end_to_end.external import NeedsProgram
from tests.end_to_end.hub_process import environment

ROOT = Path(__file__).parents[2]
WITHIN_S = 240.0
"""It takes about 75 s, and longer where others want the processors too."""


@pytest.mark.timeout(WITHIN_S + 20)
def test_twenty_faults_lose_no_command_double_no_dose_and_leave_nobody_wrongly_alive(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    for program in ("mosquitto", "redis-server"):
        needs_program(program)
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.chaos", "--faults", "20", "--seed", "1", "--json", str(figures)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # it ends what it started
        said, _ = process.communicate(timeout=15)
    assert process.returncode == 0, said
    found = json.loads(figures.read_text())
    assert sum(len(ground["struck"]) for ground in found["grounds"]) == 20
    for ground in found["grounds"]:
        assert ground["doses_fed"] > 0
        assert ground["looks"] > 0


# --- the books ------------------------------------------------------------------------------------------------------

T0_S = 1_790_000_000.0


def at(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(T0_S + seconds, UTC).isoformat()


def row(command_id: str, name: str, state: str, **fields: Any) -> dict[str, Any]:
    told = {"id": command_id, "site": "pond1", "feeder": "f1", "name": name, "state": state, "args": {}, "result": None}
    story = [{"state": step} for step in ("pending", "sent", state)]
    return told | {"created_at": at(1), "settled_at": at(2), "story": story} | fields


def a_good_run() -> tuple[Ledger, dict[str, SiteBooks]]:
    """A dose that was fed, one that the desktop never saw, a config, and a stop with its release."""
    ids = {"fed": "feed", "void": "feed", "config": "set_config", "stop": "stop_all", "release": "release"}
    changes = [
        Change(
            f"key-{command_id}",
            "pond1",
            None if command_id in ("stop", "release") else "f1",
            name,
            [Answer(T0_S + 0.9, T0_S + 1.5, "outcome-unknown" if command_id == "void" else "200", command_id)],
        )
        for command_id, name in ids.items()
    ]
    config = {"meal_g": 5.0}
    rows = [
        row("fed", "feed", "applied", result={"dispensed_g": 3.0}),
        row("void", "feed", "not_executed"),
        row("config", "set_config", "applied", args={"config": config, "config_version": 4}),
        row("stop", "stop_all", "applied", feeder=None, settled_at=at(11)),
        row("release", "release", "applied", feeder=None),
    ]
    events = [
        {"id": "e1", "kind": "dose", "feeder": "f1", "command_id": "fed", "dispensed_g": 3.0, "at": at(1.2)},
    ]
    journal = {"fed": Outcome("applied", 3.0), "void": Outcome("not_seen", None)}
    books = SiteBooks(rows, events, {"f1": config}, journal, {"f1": FeederBooks(3.0, config, 4)})
    return Ledger(changes, [Stop("pond1", "stop", T0_S + 10, T0_S + 20)]), {"pond1": books}


def test_a_run_that_kept_every_promise_is_fine() -> None:
    assert faults_in(*a_good_run()) == []


def lose(ledger: Ledger, books: SiteBooks) -> None:
    books.rows = [row for row in books.rows if row["id"] != "config"]


def leave_open(ledger: Ledger, books: SiteBooks) -> None:
    books.rows[0]["state"] = "unknown"


def contradict(ledger: Ledger, books: SiteBooks) -> None:
    ledger.changes[2].answers[0] = Answer(T0_S + 0.9, T0_S + 1.5, "plc-failed", "config")


def two_for_one_key(ledger: Ledger, books: SiteBooks) -> None:
    ledger.changes[0].answers.append(Answer(T0_S + 3, T0_S + 4, "200", "void"))


def tell_nobody(ledger: Ledger, books: SiteBooks) -> None:
    books.rows.append(row("stray", "set_config", "superseded"))


def say_that_nothing_was_sent(ledger: Ledger, books: SiteBooks) -> None:
    ledger.changes[0].answers.insert(0, Answer(T0_S + 0.5, T0_S + 1.4, "database-unreachable"))


def feed_twice(ledger: Ledger, books: SiteBooks) -> None:
    books.events.append(books.events[0] | {"id": "e2"})


def feed_and_tell_nobody(ledger: Ledger, books: SiteBooks) -> None:
    books.feeders["f1"].total_g = 6.0


def feed_what_is_void(ledger: Ledger, books: SiteBooks) -> None:
    books.events.append(books.events[0] | {"id": "e2", "command_id": "void"})


def call_applied_what_was_not_fed(ledger: Ledger, books: SiteBooks) -> None:
    books.events.clear()


def lose_an_event(ledger: Ledger, books: SiteBooks) -> None:
    books.feeders["f1"].kept_events.append("e9")


def go_back(ledger: Ledger, books: SiteBooks) -> None:
    books.feeders["f1"].config_version = 3


def feed_while_stopped(ledger: Ledger, books: SiteBooks) -> None:
    books.events[0]["at"] = at(12)


def take_while_stopped(ledger: Ledger, books: SiteBooks) -> None:
    ledger.changes[0].answers[0] = Answer(T0_S + 12, T0_S + 13, "200", "fed")
    books.rows[0]["created_at"] = at(12.5)


BROKEN = {
    lose: "lost: set_config config was answered 200, and is not in the hub's rows",
    leave_open: "feed fed has no end",
    contradict: "set_config config was answered plc-failed, and ended as applied",
    two_for_one_key: "key key-fed made 2 commands",
    tell_nobody: "set_config stray (superseded) is a command that no caller was told of",
    say_that_nothing_was_sent: "feed fed was answered database-unreachable as if nothing had been sent",
    feed_twice: "dose fed (applied) was fed 2 times",
    feed_and_tell_nobody: "f1: the PLC counted 6.00 g, and the doses that it told of are 3.00 g",
    feed_what_is_void: "dose void (not_executed) was fed all the same",
    call_applied_what_was_not_fed: "dose fed (applied) was not fed",
    lose_an_event: "event e9 has not come to the hub",
    go_back: "version 4 was applied last, and the farm has 3",
    feed_while_stopped: "dose fed began after stop stop was confirmed",
    take_while_stopped: "feed fed was taken while stop stop was latched",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_every_broken_promise_is_found(broken: Any) -> None:
    ledger, books = deepcopy(a_good_run())
    broken(ledger, books["pond1"])
    assert any(BROKEN[broken] in fault for fault in faults_in(ledger, books)), faults_in(ledger, books)


# --- liveness -------------------------------------------------------------------------------------------------------


def pulse(*beats_s: float) -> Pulse:
    made = Pulse(ttl_s=3)
    for at_s in beats_s:
        made.beat("s", at_s)
    return made


def judged(pulse: Pulse, asked_s: float, answered_s: float, *, alive: bool | None) -> str | None:
    return fault_in(alive, asked_s, answered_s, pulse, pulse)


def test_who_was_cut_off_may_count_as_alive_for_the_time_to_live_and_a_second() -> None:
    silent = pulse(1, 2)
    assert judged(silent, 5.9, 6, alive=True) is None
    assert judged(silent, 6.1, 6.2, alive=True) == "said to be alive, and had been cut off for 4.1 s"
    assert judged(silent, 6.1, 6.2, alive=False) is None
    assert judged(silent, 99, 99, alive=None) is None


def test_whose_heartbeats_got_through_may_not_count_as_gone() -> None:
    living = pulse(*range(1, 9))
    assert judged(living, 9, 9, alive=True) is None
    assert judged(living, 8.2, 8.3, alive=False) is not None
    assert judged(living, 11.2, 11.3, alive=False) is None, "the last one is over"
    back_again = pulse(1, 2, 3, 4, 5, 7.9)
    assert judged(back_again, 8.1, 8.1, alive=False) is None, "the newest one is on its way still"
    assert judged(back_again, 9, 9, alive=False) is not None
    living.end("s", 8.1)
    assert judged(living, 8.2, 8.3, alive=False) is None, "it has said goodbye"


def test_a_pulse_is_read_out_of_mqtt_and_ends_with_its_connection() -> None:
    seen = Pulse(ttl_s=3)
    tap = HeartbeatTap({"pond1": seen}, lambda: 7.0, from_broker=False)
    beat = b'{"online": true, "session": "s"}'
    for byte in encode(Publish("fh/v1/pond1/heartbeat", beat, 1, retain=True, packet_id=1)):
        tap.feed(bytes([byte]))
    assert (seen.last_beat_s, seen.lives_until_s) == (7, 10)
    tap.ended()
    assert seen.lives_until_s == 7
    replayed = Pulse(ttl_s=3)
    tap = HeartbeatTap({"pond1": replayed}, lambda: 7.0, from_broker=True)
    tap.feed(encode(Publish("fh/v1/pond1/heartbeat", beat, 1, retain=True, packet_id=1)))
    assert replayed.last_beat_s is None


# --- lines and faults -----------------------------------------------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data)
    writer.close()


async def is_over(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(10), 5) == b""
    except ConnectionError:
        return True


async def test_a_line_carries_slows_swallows_and_cuts() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    async with server, Line(lambda: port) as line:
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        writer.write(b"one")
        assert await reader.read(10) == b"one"
        line.slow(0.1)
        began_s = loop.time()
        writer.write(b"two")
        assert await reader.read(10) == b"two"
        assert loop.time() - began_s >= 0.2
        line.heal()
        line.swallow(Way.DOWN)
        writer.write(b"three")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.1)
        line.heal()
        assert await is_over(reader), "what was lost is lost, and so is the connection"
        line.cut()
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", line.port)
        assert await is_over(other_reader)
        for each in (writer, other_writer):
            each.close()


def test_a_seed_draws_the_same_faults_again_and_every_kind_of_them() -> None:
    line: Any = None
    site = Site("pond1", ["f1"], line, line, Pulse(3), Pulse(3))
    part: Any = object()
    everything: Any = Ground("external", Path(), part, part, part, part, part, part, part, part, [site])
    drawn = [[(fault.kind, fault.what) for fault in deck(everything, Random("1"), 40)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert {kind for kind, _ in drawn[0]} == {
        "hub killed",
        "desktop killed",
        "Redis killed",
        "broker restarted",
        "PostgreSQL restarted",
        "line cut",
        "line slow",
        "line swallows",
    }
