"""`feeder-hub demo-data`: a year of a hub's work, to look at and to measure."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hub.cli.workplace import DataDirOption, workplace
from hub.demo_data import Plan, fill
from hub.protocol.times import utc_now


def make_demo_data(
    context: typer.Context,
    sites: Annotated[int, typer.Option(min=1, max=9999, help="How many farms.")] = 100,
    feeders: Annotated[int, typer.Option(min=1, help="How many feeders all of them have together.")] = 2000,
    days: Annotated[int, typer.Option(min=0, help="Of how many days; each feeder has a meal an hour.")] = 365,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day after the last one.  [default: today, in UTC]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same numbers and the same seed make the same rows.")] = 1,
    database_url: Annotated[
        str | None, typer.Option(help="sqlite:///… or postgresql://….  [default: as in the settings]")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Fill an empty database with a year of demo data: 17.5 million events, some minutes."""
    place = workplace(context, data_dir)
    if database_url is not None:
        place = replace(place, database_url=database_url)
    last = utc_now().date() if until is None else until.date()
    plan = Plan(sites, feeders, days, last, seed)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with place.database() as database, bar:
        events = bar.add_task("events", total=plan.events)
        fill(database, plan, lambda made: bar.advance(events, made))
    typer.echo(f"{sites} sites, {feeders} feeders and {plan.events:,} events, from {plan.first_day} to before {last}.")
