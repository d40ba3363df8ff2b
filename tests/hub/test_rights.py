"""Roles and rights: the table itself, and at which sites it counts."""

from pathlib import Path

import pytest

from hub.errors import NotAllowed
from hub.protocol.messages import ARGUMENTS
from hub.rights import OF_COMMANDS, RIGHTS, Caller, Right, Role

R = Right


def caller(**roles: Role) -> Caller:
    """Roles by site; under `everywhere` what is granted hub-wide."""
    return Caller(
        "id", "x", {None if site == "everywhere" else site: frozenset({role}) for site, role in roles.items()}
    )


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, {R.READ}),
        (Role.OPERATOR, {R.READ, R.STOP, R.HANDLE, R.OPERATE}),
        (Role.TECHNICIAN, {R.READ, R.STOP, R.HANDLE, R.SERVICE}),
        (Role.ADMIN, set(R)),
    ],
)
def test_each_role_has_its_rights_and_no_more(role: Role, may: set[Right]) -> None:
    assert {right for right in Right if caller(everywhere=role).may(right, "pond7")} == may
    assert set(RIGHTS) == set(Role)


def test_the_docs_have_the_same_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "web-developer.md").read_text()
    head, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text[text.index("| right | viewer") :].split("\n\n")[0].splitlines()
        if not line.startswith("|---")
    ]
    told = {role: {row[0] for row in rows if row[head.index(role)] == "x"} for role in Role}
    assert told == {role: set(RIGHTS[role]) for role in Role}
    assert [row[0] for row in rows] == list(Right)


def test_every_command_needs_a_right_of_its_own() -> None:
    of_the_hub_itself = {"ack_events"}
    assert set(OF_COMMANDS) == (set(ARGUMENTS) | {"set_config"}) - of_the_hub_itself


def test_a_role_counts_at_its_site_and_nowhere_else() -> None:
    anna = caller(pond7=Role.ADMIN, pond8=Role.VIEWER)
    assert anna.may(R.ADMINISTER, "pond7")
    assert not anna.may(R.ADMINISTER, "pond8")
    assert not anna.may(R.READ, "pond9")
    assert not anna.may(R.READ, None)
    assert anna.sites == {"pond7", "pond8"}
    assert anna.may_somewhere(R.ADMINISTER)


def test_a_role_that_is_granted_hub_wide_counts_at_every_site_beside_what_is_granted_there() -> None:
    anna = caller(everywhere=Role.VIEWER, pond7=Role.OPERATOR)
    assert anna.sites is None
    assert anna.may(R.READ, "pond9")
    assert anna.may(R.OPERATE, "pond7")
    assert not anna.may(R.OPERATE, "pond9")
    assert not anna.may(R.OPERATE, None)


def test_who_has_no_role_sees_nothing_and_is_told_so() -> None:
    nobody = caller()
    assert nobody.sites == frozenset()
    assert not any(nobody.may_somewhere(right) for right in Right)
    with pytest.raises(NotAllowed, match="you have no role"):
        nobody.require(R.READ, "pond7")


def test_a_refusal_says_what_is_missing_where_and_what_one_is() -> None:
    with pytest.raises(NotAllowed, match=r"the right to operate at pond8; you are viewer, operator at pond7\."):
        caller(everywhere=Role.VIEWER, pond7=Role.OPERATOR).require(R.OPERATE, "pond8")
