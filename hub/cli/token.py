"""`feeder-hub token`: keys to the HTTP API."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlmodel import Session

from hub.accounts import add_token, get_token_row, list_tokens, revoke_token, told
from hub.audit import Trail
from hub.cli.workplace import DataDirOption, JsonOption, change, print_json, workplace
from hub.protocol.times import rfc3339, utc_now
from hub.rights import Role

app = typer.Typer(no_args_is_help=True, help="Keys to the HTTP API.")


@app.command()
def add(
    context: typer.Context,
    role: Annotated[
        Role, typer.Option(help="viewer reads; operator also orders; technician also connects farms; admin may do all.")
    ],
    site: Annotated[str | None, typer.Option(help="For this site only; otherwise for every site.")] = None,
    name: Annotated[str | None, typer.Option(help="Whose it is; stands beside what is done with it.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token. It is printed this once; only its hash is kept."""
    called = name or (f"{role}-{site}" if site else role)

    def work(session: Session, trail: Trail) -> str:
        made = add_token(session, role, site, called, utc_now())
        row = get_token_row(session, made)
        trail.note(site=site, target=row.id, after=told(row))
        return made

    with workplace(context, data_dir).database() as database:
        made = change(database, "create_token", work)
    if as_json:
        print_json({"token": made})
    else:
        typer.echo(f"Token (shown this once): {made}")


@app.command(name="list")
def list_all(context: typer.Context, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the tokens; what they are themselves is kept nowhere."""
    with workplace(context, data_dir).database() as database:
        tokens = database.read_now(list_tokens)
    if as_json:
        items = [
            {
                "id": token.id,
                "name": token.name,
                "role": token.role,
                "site": token.site_id,
                "created_at": rfc3339(token.created_at),
            }
            for token in tokens
        ]
        print_json({"items": items})
        return
    table = Table("id", "name", "role", "site", "made")
    for token in tokens:
        table.add_row(token.id, token.name, token.role, token.site_id or "", f"{token.created_at:%Y-%m-%d}")
    Console().print(table)


@app.command()
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as `token list` has it.")],
    data_dir: DataDirOption = None,
) -> None:
    """Take a token away. A running hub lets nobody in with it after a few seconds, and ends its live streams."""

    def work(session: Session, trail: Trail) -> str:
        row = revoke_token(session, token_id)
        trail.note(site=row.site_id, target=row.id, before=told(row))
        return row.name

    with workplace(context, data_dir).database() as database:
        name = change(database, "revoke_token", work)
    typer.echo(f"Token {token_id} ({name}) is revoked.")
