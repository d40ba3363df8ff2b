"""`feeder-hub monitor`: MQTT users for tools that only read."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlmodel import Session

from hub.audit import Trail
from hub.cli.workplace import DataDirOption, JsonOption, change, print_json, workplace
from hub.monitors import NewMonitor, add_monitor, list_monitors, remove_monitor, username
from hub.protocol.times import rfc3339, utc_now

app = typer.Typer(no_args_is_help=True, help="MQTT users for tools that only read.")
NameArgument = Annotated[str, typer.Argument(help="The monitor's name: a-z 0-9 _ -.")]


@app.command()
def add(
    context: typer.Context,
    name: NameArgument,
    site: Annotated[str | None, typer.Option(help="It may read this site's topics as well.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a monitor: it reads the broker's figures ($SYS/#). Its MQTT secret is printed this once and kept nowhere."""

    def work(session: Session, trail: Trail) -> NewMonitor:
        made = add_monitor(session, name, site, utc_now())
        trail.note(site=site, target=name)
        return made

    place = workplace(context, data_dir)
    with place.database() as database:
        made = change(database, "create_monitor", work)
    if as_json:
        mqtt = {"username": made.username, "secret": made.secret}
        print_json({"monitor": made.name, "site": made.site, "mqtt": mqtt})
        return
    filters = ["$SYS/#"] if made.site is None else ["$SYS/#", f"{place.topics.root}/{made.site}/#"]
    typer.echo(f"Monitor {made.name}. It may read {' and '.join(filters)}, and publish nothing.")
    typer.echo(f"MQTT user name: {made.username}")
    typer.echo(f"MQTT secret (shown this once): {made.secret}")


@app.command(name="list")
def list_all(context: typer.Context, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the monitors."""
    with workplace(context, data_dir).database() as database:
        monitors = database.read_now(list_monitors)
    if as_json:
        items = [
            {
                "monitor": monitor.name,
                "site": monitor.site_id,
                "username": username(monitor.name),
                "created_at": rfc3339(monitor.created_at),
            }
            for monitor in monitors
        ]
        print_json({"items": items})
        return
    table = Table("monitor", "site", "MQTT user name")
    for monitor in monitors:
        table.add_row(monitor.name, monitor.site_id or "", username(monitor.name))
    Console().print(table)


@app.command()
def remove(context: typer.Context, name: NameArgument, data_dir: DataDirOption = None) -> None:
    """Remove a monitor. A running hub cuts its connections within a second."""

    def work(session: Session, trail: Trail) -> None:
        trail.note(site=remove_monitor(session, name).site_id, target=name)

    with workplace(context, data_dir).database() as database:
        change(database, "delete_monitor", work)
    typer.echo(f"Monitor {name} is removed. An external broker knows it until the next `feeder-hub export`.")
