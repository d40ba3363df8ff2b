"""`feeder-hub token`: keys to the HTTP API."""

from typing import Annotated

import typer

from hub.accounts import Role, add_token
from hub.cli.workplace import DataDirOption, JsonOption, print_json, workplace
from hub.protocol.times import utc_now

app = typer.Typer(no_args_is_help=True, help="Keys to the HTTP API.")


@app.callback()
def token() -> None:
    """Keys to the HTTP API."""


@app.command()
def add(
    context: typer.Context,
    role: Annotated[Role, typer.Option(help="viewer reads; operator also orders; admin also manages sites.")],
    site: Annotated[str | None, typer.Option(help="For this site only; otherwise for every site.")] = None,
    name: Annotated[str | None, typer.Option(help="Whose it is; stands beside what is done with it.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token. It is printed this once; only its hash is kept."""
    with workplace(context, data_dir).database() as database:
        made = database.write_now(
            lambda session: add_token(session, role, site, name or (f"{role}-{site}" if site else role), utc_now())
        )
    if as_json:
        print_json({"token": made})
    else:
        typer.echo(f"Token (shown this once): {made}")
