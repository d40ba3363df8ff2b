"""`feeder-hub site`: farms and their credentials."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlmodel import Session

from hub.audit import Trail
from hub.cli.workplace import DataDirOption, JsonOption, change, print_json, workplace
from hub.feeders import list_feeders
from hub.protocol.times import rfc3339, utc_now
from hub.sites import MAX_FEEDERS, NewSite, add_site, list_sites, numbered_feeders, told

app = typer.Typer(no_args_is_help=True, help="Farms and their MQTT credentials.")
ALL = 10**9


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The site's id: a-z 0-9 _ -, also its MQTT user name and client id.")],
    feeders: Annotated[int, typer.Option(min=1, max=MAX_FEEDERS, help="How many feeders: f1 ... fN.")] = 1,
    time_zone: Annotated[str, typer.Option(help="IANA time zone of the farm, such as Europe/Oslo.")] = "UTC",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a site. Its MQTT secret is printed this once and kept nowhere."""

    def work(session: Session, trail: Trail) -> NewSite:
        made = add_site(session, name, numbered_feeders(feeders), time_zone, utc_now())
        trail.note(site=made.site, after=told(session, made.site))
        return made

    with workplace(context, data_dir).database() as database:
        made = change(database, "create_site", work)
    if as_json:
        mqtt = {"username": made.site, "secret": made.secret}
        print_json({"site": made.site, "feeders": made.feeders, "mqtt": mqtt})
        return
    typer.echo(f"Site {made.site} with feeders {', '.join(made.feeders)}.")
    typer.echo(f"MQTT user name and client id: {made.site}")
    typer.echo(f"MQTT secret (shown this once): {made.secret}")


@app.command(name="list")
def list_all(context: typer.Context, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the sites."""
    with workplace(context, data_dir).database() as database:
        rows = database.read_now(
            lambda session: [
                (site, [feeder.id for feeder in list_feeders(session, site.id, None, ALL)])
                for site in list_sites(session)
            ]
        )
    if as_json:
        items = [
            {
                "site": site.id,
                "name": site.name,
                "time_zone": site.time_zone,
                "feeders": feeders,
                "stopped": site.stopped_at is not None,
                "created_at": rfc3339(site.created_at),
            }
            for site, feeders in rows
        ]
        print_json({"items": items})
        return
    table = Table("site", "name", "time zone", "feeders", "stopped")
    for site, feeders in rows:
        table.add_row(site.id, site.name, site.time_zone, str(len(feeders)), "yes" if site.stopped_at else "no")
    Console().print(table)
