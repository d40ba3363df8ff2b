"""`feeder-hub person`: who logs in with a password."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlmodel import Session

from hub.accounts import new_secret
from hub.cli.workplace import DataDirOption, JsonOption, print_json, workplace
from hub.errors import NotFound
from hub.logins import end_logins
from hub.models import Person
from hub.passwords import check_password, hash_password
from hub.people import Grant, add_person, check_login, delete_person, list_people, person_with_login, set_roles
from hub.protocol.times import rfc3339, utc_now
from hub.rights import Role

app = typer.Typer(no_args_is_help=True, help="People, who log in with a password.")
_ALL = 10**9
LoginArgument = Annotated[str, typer.Argument(metavar="LOGIN", help="What the person logs in as.")]
RolesOption = Annotated[
    list[str] | None,
    typer.Option("--role", metavar="ROLE[@SITE]", help="viewer, operator, technician or admin, at one site or at all."),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE|-", help="Holds the password. Not given: one is made, and printed."),
]


@app.command()
def add(
    context: typer.Context,
    login: LoginArgument,
    roles: RolesOption = None,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    password_file: PasswordFileOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a person. Without a file the password is made here and printed this once."""
    grants = [_grant(text) for text in roles or []]
    check_login(login)
    password, is_made = _password(login, password_file)
    hashed = hash_password(password)
    with workplace(context, data_dir).database() as database:
        made = database.write_now(
            lambda session: add_person(session, login, name or login, hashed, grants, utc_now()).id
        )
    if as_json:
        print_json({"id": made, "login": login} | ({"password": password} if is_made else {}))
    else:
        typer.echo(f"Person {login}.")
        if is_made:
            typer.echo(f"Password (shown this once): {password}")


@app.command(name="list")
def list_all(context: typer.Context, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the people and their roles."""
    with workplace(context, data_dir).database() as database:
        found = database.read_now(lambda session: list_people(session, None, _ALL))
    if as_json:
        items = [
            {
                "id": person.id,
                "login": person.login,
                "name": person.name,
                "roles": [{"role": grant.role, "site": grant.site} for grant in grants],
                "created_at": rfc3339(person.created_at),
            }
            for person, grants in found
        ]
        print_json({"items": items})
        return
    table = Table("login", "name", "roles", "made")
    for person, grants in found:
        table.add_row(person.login, person.name, ", ".join(map(_in_words, grants)), f"{person.created_at:%Y-%m-%d}")
    Console().print(table)


@app.command(name="roles")
def change_roles(
    context: typer.Context, login: LoginArgument, roles: RolesOption = None, data_dir: DataDirOption = None
) -> None:
    """Say all that a person is from now on; without --role they are nothing any more."""
    grants = [_grant(text) for text in roles or []]
    with workplace(context, data_dir).database() as database:
        database.write_now(lambda session: set_roles(session, _known(session, login).id, grants))
    typer.echo(f"{login}: {', '.join(map(_in_words, grants)) or 'no role'}.")


@app.command(name="password")
def change_password(
    context: typer.Context,
    login: LoginArgument,
    password_file: PasswordFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Give a person a new password; their logins end."""
    password, is_made = _password(login, password_file)
    hashed = hash_password(password)

    def work(session: Session) -> None:
        person = _known(session, login)
        person.password_hash = hashed
        end_logins(session, person.id)

    with workplace(context, data_dir).database() as database:
        database.write_now(work)
    typer.echo(f"Password (shown this once): {password}" if is_made else f"{login} has a new password.")


@app.command()
def remove(context: typer.Context, login: LoginArgument, data_dir: DataDirOption = None) -> None:
    """Take a person away; what was done in this name stays."""
    with workplace(context, data_dir).database() as database:
        database.write_now(lambda session: delete_person(session, _known(session, login).id))
    typer.echo(f"{login} is no more.")


def _known(session: Session, login: str) -> Person:
    person = person_with_login(session, login)
    if person is None:
        raise NotFound(f"There is nobody with the login {login}; `feeder-hub person list` has them.")
    return person


def _password(login: str, file: Path | None) -> tuple[str, bool]:
    """The password, and whether it was made here."""
    if file is None:
        return new_secret(), True
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"the password cannot be read from {file}: {error}") from error
    password = text.rstrip("\r\n")
    check_password(password, login)
    return password, False


def _grant(text: str) -> Grant:
    role, _, site = text.partition("@")
    try:
        return Grant(site or None, Role(role))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: a role is {', '.join(Role)}, with @SITE for one site only") from error


def _in_words(grant: Grant) -> str:
    return grant.role if grant.site is None else f"{grant.role}@{grant.site}"
