"""schemathesis calls whatever the OpenAPI document says can be called, with every check, and finds nothing.

For minutes, with other data each time: HUNT_S=600 make test ARGS="tests/http_api/test_schemathesis.py --timeout=0".
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.hub_process import BIN, feeder_hub_json
from tests.http_api.document import Described, described_hub

HUNT_S = int(os.environ.get("HUNT_S", "0"))
EXAMPLES = {"admin": 8, "viewer": 3, "nobody": 2}
"""Cases that are made up for each operation, by who calls."""
NEVER_ENDS = "follow_events"
"""The live stream, which test_stream.py calls."""


@dataclass(frozen=True)
class Allowed:
    """Statuses with which these operations may refuse what their schemas allow."""

    operations: tuple[str, ...]
    statuses: tuple[int, ...]
    reason: str


_CHANGES = ("put_config", "patch_config", "restore_revision")
_NUMBERED = (
    "list_revisions",
    "list_presence",
    "list_all_feeders",
    "list_rollout_feeders",
    "preview_rollout",
    "list_audit",
)
ALLOWED = (
    Allowed(_CHANGES, (412,), "If-Match may name another config than the one that the farm has"),
    Allowed(("patch_site", "patch_feeder"), (412,), "If-Match may name something else than what is there"),
    Allowed(
        ("start_rollout", "preview_rollout"),
        (422,),
        "a selection has feeders and a change has a field, which no schema says",
    ),
    Allowed(("put_config", "patch_config"), (422,), "a config's fields have to fit together, which no schema says"),
    Allowed(("command_feeder",), (422,), "a dose has to fit into the day, and after the pause since the last one"),
    Allowed(("command_feeder",), (428,), "only `feed` needs an Idempotency-Key"),
    Allowed(("command_site",), (422,), "only a site that is stopped can be released"),
    Allowed(("create_site",), (422,), "to JSON Schema 2.0 is an integer; here it is none"),
    Allowed(("create_person", "set_password", "change_password"), (422,), "a password is not to be guessed"),
    Allowed(("create_token",), (422,), "a token's name is printable, which no schema says"),
    Allowed(_NUMBERED, (422,), "a cursor is the `next` of an earlier page, not any text"),
    Allowed(("get_daily",), (422,), "a range of days has its order and its length, which no schema says"),
)
ALWAYS = ["2xx", "3xx", 401, 403, 404, 409, 429]
"""What is there, what may be done, and how often, no schema says."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    with described_hub(tmp_path_factory.mktemp("hub")) as described:
        yield described


def settings() -> str:
    """The table as schemathesis's TOML."""
    statuses: dict[str, list[int | str]] = {}
    for allowed in ALLOWED:
        for operation in allowed.operations:
            statuses.setdefault(operation, list(ALWAYS)).extend(allowed.statuses)
    accepted = "checks.positive_data_acceptance.expected-statuses"
    lines = [f"{accepted} = {json.dumps(ALWAYS)}"]
    for operation, expected in statuses.items():
        lines += [
            "[[operations]]",
            f"include-operation-id = {json.dumps(operation)}",
            f"{accepted} = {json.dumps(expected)}",
        ]
    return "\n".join(lines)


@pytest.mark.timeout(400 + 2 * HUNT_S)
@pytest.mark.parametrize("who", EXAMPLES)
def test_schemathesis_finds_nothing(hub: Described, tmp_path: Path, who: str) -> None:
    (tmp_path / "schemathesis.toml").write_text(settings())
    headers = [] if who == "nobody" else ["--header", f"Authorization: Bearer {token_of(hub, who)}"]
    amount = (
        ["--max-time", str(HUNT_S), "--generation-database", "none"]
        if HUNT_S
        else ["--max-examples", str(EXAMPLES[who]), "--generation-deterministic", "--no-shrink"]
    )
    done = subprocess.run(
        [
            *(str(BIN / "st"), "--config-file", str(tmp_path / "schemathesis.toml")),
            *("run", f"{hub.farm.hub.http_url}/api/v1/openapi.json", "--checks", "all"),
            *("--exclude-operation-id", NEVER_ENDS, "--request-timeout", "10", "--continue-on-failure", "--no-color"),
            *("--warnings", "off", *headers, *amount),
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
            "PYTHONPATH": str(Path(__file__).parent),
            "KEPT_TOKEN": hub.farm.api.get("/session").json()["id"],
        },
        capture_output=True,
        text=True,
        timeout=380 + 2 * HUNT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"Tested: +{len(hub.by_id()) - 1}\n", done.stdout), done.stdout
    assert '"exc_info"' not in hub.farm.hub.log
    assert "Traceback" not in hub.farm.hub.log
    assert hub.site.alive(), "its desktop was there all the time"


def token_of(hub: Described, who: str) -> str:
    if who == "admin":
        return hub.farm.hub.token
    return str(feeder_hub_json("token", "add", "--role", who, "--data-dir", hub.farm.hub.data_dir)["token"])


def test_what_is_allowed_names_operations_that_are_there(hub: Described) -> None:
    there = hub.by_id()
    assert NEVER_ENDS in there
    for allowed in ALLOWED:
        for operation in allowed.operations:
            assert {str(status) for status in allowed.statuses} <= set(there[operation]["responses"]), operation
