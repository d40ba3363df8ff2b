"""`feeder-hub api`: what it prints, how it ends, and what it does when the line is cut."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from http_api.cli import Exit, object_of, problem_words
from http_api.client import takes_key
from tests.end_to_end.desktop import CONFIG, silent
from tests.end_to_end.hub_process import BIN, START_WITHIN_S, Child, environment, feeder_hub, until
from tests.http_api.conftest import Scene
from tests.http_api.lossy import LossyLine

Done = subprocess.CompletedProcess[str]


def api(scene: Scene, *arguments: str | Path, port: int | None = None) -> Done:
    """Run a command of `feeder-hub api` with the administrator's token."""
    url = f"http://127.0.0.1:{port or scene.farm.hub.http_port}"
    return feeder_hub("api", *arguments, url=url, token=scene.farm.hub.token)


@contextmanager
def line(scene: Scene, lose_answers: int = 0) -> Iterator[LossyLine]:
    with LossyLine(scene.farm.hub.http_port, lose_answers).listening() as opened:
        yield opened


def doses(scene: Scene) -> int:
    return [order.name for order in scene.desktop.orders].count("feed")


# --- what it prints, and how it ends --------------------------------------------------------------------------------


def test_what_is_read_is_printed_and_ends_with_0(scene: Scene) -> None:
    for path in (f"sites/{scene.site.name}", f"/sites/{scene.site.name}", f"/api/v1/sites/{scene.site.name}"):
        done = api(scene, "get", path)
        assert done.returncode == Exit.DONE, done.stderr
        assert json.loads(done.stdout)["site"] == scene.site.name
    assert api(scene, "get", "sites?limit=1", "--json").stdout.count("\n") == 1


def test_a_body_comes_from_fields_from_a_file_or_from_standard_input(scene: Scene, tmp_path: Path) -> None:
    path = f"sites/{scene.site.name}/feeders/f1/config"
    done = api(scene, "patch", path, "--body", "meal_g=300", "window.end=18:00")
    assert done.returncode == Exit.DONE, done.stderr
    assert (json.loads(done.stdout)["meal_g"], json.loads(done.stdout)["window"]["end"]) == (300, "18:00")
    assert "ETag: " in done.stderr
    file = tmp_path / "config=new.json"
    file.write_text(json.dumps(CONFIG | {"meal_g": 310}))
    assert json.loads(api(scene, "put", path, "--body", file).stdout)["meal_g"] == 310
    piped = subprocess.run(
        [BIN / "feeder-hub", "api", "put", path, "--body", "-"],
        input=json.dumps(CONFIG | {"meal_g": 320}),
        env=environment({"url": scene.farm.hub.http_url, "token": scene.farm.hub.token}),
        capture_output=True,
        text=True,
        timeout=START_WITHIN_S,
        check=True,
    )
    assert json.loads(piped.stdout)["meal_g"] == 320


def test_a_change_upon_another_config_is_refused_and_one_upon_this_is_made(scene: Scene) -> None:
    path = f"sites/{scene.site.name}/feeders/f1/config"
    assert api(scene, "patch", path, "meal_g=300", "--if-match", '"99.9"').returncode == Exit.REFUSED
    told = api(scene, "get", path).stderr
    etag = told.partition("ETag: ")[2].strip()
    assert api(scene, "patch", path, "meal_g=300", "--if-match", etag).returncode == Exit.DONE


def test_a_site_is_made_and_deleted(scene: Scene) -> None:
    name = f"{scene.site.name}-new"
    made = api(scene, "post", "sites", f"site={name}", "feeders=3")
    assert json.loads(made.stdout)["feeders"] == ["f1", "f2", "f3"]
    assert (gone := api(scene, "delete", f"sites/{name}")).returncode == Exit.DONE
    assert json.loads(gone.stdout)["session_ended"] is False
    assert api(scene, "get", f"sites/{name}").returncode == Exit.REFUSED


def test_a_refusal_is_told_in_words_and_ends_with_3(scene: Scene) -> None:
    path = f"sites/{scene.site.name}/feeders/f1/config"
    done = api(scene, "patch", path, "meal_g=99999")
    assert (done.returncode, done.stdout) == (Exit.REFUSED, "")
    assert "(422 invalid)" in done.stderr
    assert "meal_g: " in done.stderr
    assert "limit 20000" in done.stderr
    as_json = api(scene, "patch", path, "meal_g=99999", "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["faults"][0]["field"]) == (Exit.REFUSED, "meal_g")


def test_an_outcome_that_is_unknown_ends_with_4_and_names_the_command(scene: Scene) -> None:
    scene.desktop.answer = silent
    done = api(scene, "post", f"sites/{scene.site.name}/feeders/f1/commands", "name=pause")
    assert done.returncode == Exit.UNKNOWN
    assert "outcome-unknown" in done.stderr
    assert "command_id: " in done.stderr


def test_who_does_not_wait_is_told_where_to_ask(scene: Scene) -> None:
    done = api(scene, "post", f"sites/{scene.site.name}/feeders/f1/commands", "name=pause", "--wait", "0")
    assert done.returncode == Exit.DONE
    location = done.stderr.partition("Location: ")[2].split()[0]
    assert json.loads(api(scene, "get", location).stdout)["name"] == "pause"


def test_a_hub_that_is_not_there_ends_with_5(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = api(scene, "get", "sites", "--patience", "0", port=port)
    assert done.returncode == Exit.UNREACHABLE
    assert f"127.0.0.1:{port}" in done.stderr
    assert api(scene, "watch", "--patience", "0", port=port).returncode == Exit.UNREACHABLE


def test_the_token_comes_from_a_file_or_the_environment_and_never_from_the_command_line(
    scene: Scene, tmp_path: Path
) -> None:
    url = scene.farm.hub.http_url
    assert feeder_hub("api", "get", "sites", url=url).returncode == Exit.REFUSED
    (tmp_path / "token").write_text(scene.farm.hub.token + "\n")
    assert feeder_hub("api", "get", "sites", "--token-file", tmp_path / "token", url=url).returncode == Exit.DONE
    shown = feeder_hub("api", "get", "--help").stdout
    assert "--token-file" in shown
    assert "--token " not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "http://127.0.0.1:1/sites"),
        ("get", "sites/m\u00f8re"),
        ("get", "sites", "--url", "ftp://hub"),
        ("get", "sites", "--token-file", "/nowhere"),
        ("patch", "sites/a", "nonsense"),
        ("patch", "sites/a", "--body", "/nowhere"),
        ("patch", "sites/a", "a=1", "a=2"),
        ("put", "sites/a/feeders/f1/config", "--if-match", "a\nb"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_sends_nothing(scene: Scene, arguments: tuple[str, ...]) -> None:
    with line(scene) as opened:
        assert api(scene, *arguments, port=opened.port).returncode == 2
    assert opened.requests == []


# --- when the line is cut -------------------------------------------------------------------------------------------


def test_a_dose_whose_answer_was_lost_is_asked_for_again_and_fed_once(scene: Scene) -> None:
    with line(scene, lose_answers=2) as opened:
        path = f"sites/{scene.site.name}/feeders/f1/commands"
        done = api(scene, "post", path, "name=feed", "args.grams=25", port=opened.port)
    assert done.returncode == Exit.DONE, done.stderr
    assert json.loads(done.stdout)["state"] == "applied"
    assert len(opened.requests) == 3
    assert doses(scene) == 1


def test_a_dose_whose_answers_are_all_lost_tells_the_key_to_repeat_it_with(scene: Scene) -> None:
    path = f"sites/{scene.site.name}/feeders/f1/commands"
    order = ("post", path, "name=feed", "args.grams=25")
    with line(scene, lose_answers=99) as opened:
        done = api(scene, *order, "--patience", "0", port=opened.port)
    assert done.returncode == Exit.UNKNOWN
    key = done.stderr.partition("--key ")[2].partition(":")[0]
    assert api(scene, *order, "--key", key).returncode == Exit.DONE
    assert doses(scene) == 1


def test_what_cannot_be_repeated_safely_is_not(scene: Scene) -> None:
    name = f"{scene.site.name}-lost"
    with line(scene, lose_answers=1) as opened:
        done = api(scene, "post", "sites", f"site={name}", port=opened.port)
    assert done.returncode == Exit.UNKNOWN
    assert "may have been done or not" in done.stderr
    assert len(opened.requests) == 1
    assert api(scene, "get", f"sites/{name}").returncode == Exit.DONE


def test_a_hub_that_comes_back_in_time_is_waited_for(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found: list[Done] = []
    asking = threading.Thread(target=lambda: found.append(api(scene, "get", "sites", port=port)))
    asking.start()
    with LossyLine(scene.farm.hub.http_port).listening(port):
        asking.join(START_WITHIN_S)
    assert found[0].returncode == Exit.DONE, found[0].stderr


def test_a_watcher_goes_on_where_it_was_after_a_cut(scene: Scene, tmp_path: Path) -> None:
    output = tmp_path / "watched"

    def states() -> list[tuple[str, str]]:
        seen = [json.loads(text)["data"] for text in output.read_text().splitlines()]
        return [(data["id"], data["state"]) for data in seen if "state" in data and "id" in data]

    def ping() -> str:
        return str(scene.site.order("ping").raise_for_status().json()["id"])

    env = environment({"token": scene.farm.hub.token})
    with line(scene) as opened:
        url = f"http://127.0.0.1:{opened.port}"
        command = [str(BIN / "feeder-hub"), "api", "watch", "--site", scene.site.name, "--url", url, "--json"]
        watcher = Child(command, output, env)
        try:
            until(lambda: opened.requests)
            first = until(lambda: (ping(), states())[1])[-1][0]
            opened.cut()
            missed = [ping() for _ in range(3)]
            until(lambda: (missed[-1], "applied") in states(), within_s=15)
            last = ping()
            until(lambda: (last, "applied") in states(), within_s=15)
        finally:
            ended = watcher.stop()
    assert ended.code == Exit.DONE
    assert b"last-event-id" in opened.requests[-1].lower()
    told = states()
    for command_id in (*missed, last):
        assert [state for seen, state in told if seen == command_id] == ["sent", "applied"]
    assert first


def test_a_watcher_prints_a_line_for_each_event_and_ends_after_so_many(scene: Scene) -> None:
    watch = ("watch", "--site", scene.site.name, "--count", "4", "--after", "other-0-1")  # of another Redis: a gap
    events = [json.loads(text) for text in api(scene, *watch, "--json").stdout.splitlines()]
    assert sorted(event["event"] for event in events) == ["gap", "liveness", "state", "state"]
    words = api(scene, *watch).stdout.splitlines()
    of_sites = [event for event in events if event["event"] != "gap"]
    assert [text.split()[:2] for text in words[1:]] == [[event["event"], scene.site.name] for event in of_sites]
    assert words[0].split()[:2] == ["gap", "-"]
    assert any("alive=true session=" in text for text in words)


def test_a_watcher_that_is_not_let_in_ends_with_3(scene: Scene) -> None:
    done = api(scene, "watch", "--site", "nowhere")
    assert done.returncode == Exit.REFUSED
    assert "not-found" in done.stderr


# --- its rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        (["meal_g=300"], {"meal_g": 300}),
        (["window.end=18:00", "window.start=06:00"], {"window": {"end": "18:00", "start": "06:00"}}),
        (["enabled=true", "name=Pond 7", "note=a=b"], {"enabled": True, "name": "Pond 7", "note": "a=b"}),
        (['name="7"', 'feeders=["a"]', "remark="], {"name": "7", "feeders": ["a"], "remark": ""}),
    ],
)
def test_fields_make_an_object(fields: list[str], made: dict[str, Any]) -> None:
    assert object_of(fields) == made


@pytest.mark.parametrize("fields", [["x"], ["=1"], ["a=1", "a=2"], ["a=1", "a.b=2"]])
def test_fields_that_contradict_each_other_are_refused(fields: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        object_of(fields)


def test_the_calls_that_know_a_key_are_those_of_the_declarations() -> None:
    assert takes_key("POST", "sites/pond7/feeders/f1/commands")
    assert takes_key("PUT", "sites/pond7/feeders/f1/config?queue_for=60")
    assert not takes_key("GET", "sites/pond7/feeders/f1/config")
    assert not takes_key("POST", "sites")
    assert not takes_key("POST", "nothing/at/all")


def test_nothing_that_a_problem_says_steers_the_terminal() -> None:
    told = problem_words(
        {"type": "/docs/problems#x", "title": "T", "status": 409, "detail": "a\x1b[31mb\x9b", "more": 1}
    )
    assert "\x1b" not in told
    assert "\x9b" not in told
    assert "more: 1" in told
