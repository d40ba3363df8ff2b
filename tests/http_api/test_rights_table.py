"""Every call, by everybody, everywhere: who is let in, who is told 401, 403, or that there is nothing.

A query that no call knows is refused only after the caller was let in (422): nothing is changed here, and the answer
tells how far one came. What a handler asks beyond that (the right to one command, the site of a row) has its own tests.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from http_api.app import OPERATIONS
from http_api.operations import Operation
from hub.rights import RIGHTS, Right, Role
from tests.end_to_end.farm import Farm
from tests.http_api.conftest import problem

LET_IN, NO_LOGIN, NOT_ALLOWED, NOT_THERE = 422, 401, 403, 404
PLACES = ("own site", "other site", "every site")
ANY = {
    "feeder": "f1",
    "revision": "1",
    **dict.fromkeys(("command", "person", "login", "token", "rollout"), "01J00000000000000000000000"),
}


@dataclass(frozen=True)
class Everybody:
    """Clients by role and by where they have it; the site that all calls are about."""

    site: str
    clients: dict[tuple[Role, str], httpx.Client]
    nobody: httpx.Client


@pytest.fixture(scope="module")
def everybody(farm: Farm) -> Iterator[Everybody]:
    site, other = farm.new_site().name, farm.new_site().name
    of_place = {"own site": site, "other site": other, "every site": None}
    with ExitStack() as stack:
        clients = {
            (role, place): stack.enter_context(farm.hub.api(farm.hub.new_token(role, of_place[place])))
            for role in Role
            for place in PLACES
        }
        nobody = stack.enter_context(httpx.Client(base_url=f"{farm.hub.http_url}/api/v1"))
        yield Everybody(site, clients, nobody)


def expected(operation: Operation, role: Role, place: str) -> int:
    """By the table alone."""
    right = operation.right
    if right is None:
        return LET_IN
    if "{site}" in operation.path and place == "other site":
        return NOT_THERE
    if operation.hub_wide and place != "every site":
        return NOT_ALLOWED
    return LET_IN if right in RIGHTS[role] else NOT_ALLOWED


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_table_says_who_is_let_in(everybody: Everybody, operation: Operation) -> None:
    path = operation.path.format(site=everybody.site, **ANY)
    query = {"no-call-knows-this": "1"}
    for (role, place), client in everybody.clients.items():
        answer = client.request(operation.method, path, params=query)
        assert answer.status_code == expected(operation, role, place), (role, place, answer.text)
    stranger = everybody.nobody.request(operation.method, path, params=query)
    assert stranger.status_code == (NO_LOGIN if operation.right is not None else LET_IN), stranger.text


def test_a_site_that_is_not_yours_answers_as_one_that_is_not_there(everybody: Everybody) -> None:
    stranger = everybody.clients[Role.ADMIN, "other site"]
    for operation in OPERATIONS:
        if "{site}" in operation.path:
            told = [
                problem(stranger.request(operation.method, operation.path.format(site=site, **ANY)), 404, "not-found")
                for site in (everybody.site, "nowhere")
            ]
            assert told[0]["detail"].replace(everybody.site, "nowhere") == told[1]["detail"]


def test_every_right_guards_some_call_or_command() -> None:
    assert {operation.right for operation in OPERATIONS} - {None} == set(Right)
