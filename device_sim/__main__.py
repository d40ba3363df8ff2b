"""The command line of the simulated farm, `feeder-sim`."""

import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from device_sim.desktop import Broker, Desktop, sleepless_clock
from device_sim.journal import Journal, JournalUnusable
from device_sim.plc import Feeder, Plc, Registers
from device_sim.rules import DesktopRules
from device_sim.schedule import is_time_zone
from hub.protocol.messages import FeederConfig, Window
from hub.protocol.times import utc_now
from hub.protocol.topics import Topics, is_id

DEFAULT_CONFIG: Final = FeederConfig(
    enabled=True,
    meal_g=250,
    interval_s=3600,
    window=Window(start="06:00", end="19:30"),
    daily_limit_g=4000,
    feed_rate_g_per_s=12.5,
    silo_low_g=5000,
)
"""How a feeder feeds until the hub says otherwise."""
SILO_HOLDS_G: Final = 50_000

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def feeder_sim() -> None:
    """A farm in a box: feeders with their physics, and the desktop that drives them over MQTT."""


@app.command()
def desktop(
    url: Annotated[str, typer.Option(help="The broker: mqtt://host:port or mqtts://host:port.")],
    site: Annotated[str, typer.Option(help="The site's id; it is the MQTT user name and client id as well.")],
    secret_file: Annotated[Path, typer.Option(help="The file that holds the site's MQTT secret.")],
    feeders: Annotated[int, typer.Option(min=1, max=1000, help="How many feeders: f1, f2, ...")] = 1,
    time_zone: Annotated[str, typer.Option(help="The farm's IANA time zone, until the hub sets one.")] = "UTC",
    heartbeat_s: Annotated[float, typer.Option(min=0.05, max=3600, help="Seconds between two heartbeats.")] = 20,
    journal: Annotated[
        Path | None, typer.Option(help="The desktop's journal.  [default: data/desktop-SITE.sqlite]")
    ] = None,
    root: Annotated[str, typer.Option(help="The first levels of every topic.")] = "fh/v1",
    ca_file: Annotated[
        Path | None, typer.Option(help="Who signs the broker's certificate, if not a public CA.")
    ] = None,
    tick_s: Annotated[float, typer.Option(min=0.01, max=5, help="Seconds between two looks at the feeders.")] = 0.2,
    once: Annotated[bool, typer.Option("--once", help="End when the connection fails or is lost.")] = False,
) -> None:
    """Play a site's desktop with its feeders, until SIGTERM or Ctrl-C.

    Ends with 0 after a signal, 2 if the command line is wrong, 3 if the broker refuses the login, and with
    --once 4 if there is no connection.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if not is_id(site):
        raise typer.BadParameter(f"{site!r} is no id: lower-case letters, digits, - and _, at most 63")
    if not is_time_zone(time_zone):
        raise typer.BadParameter(f"{time_zone!r} is no IANA time zone known here")
    try:
        broker = Broker.at(url, site, secret_file.read_text().strip(), ca_file)
        topics = Topics(root)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    file = journal or Path("data") / f"desktop-{site}.sqlite"
    try:
        memory = Journal(file)
    except (JournalUnusable, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    names = [f"f{number}" for number in range(1, feeders + 1)]
    plc = Plc({name: Feeder(memory.registers(name) or _new_registers(time_zone, utc_now())) for name in names})
    rules = DesktopRules(site, plc, memory, sleepless_clock, topics, heartbeat_s=heartbeat_s)
    try:
        code = Desktop(rules, broker, tick_s=tick_s, once=once).run()
    finally:
        memory.close()
    raise typer.Exit(code)


def _new_registers(time_zone: str, now: datetime) -> Registers:
    return Registers(config=DEFAULT_CONFIG, time_zone=time_zone, clock=now, silo_g=SILO_HOLDS_G * 0.8)


def main() -> None:
    """Entry of the `feeder-sim` command."""
    app()


if __name__ == "__main__":
    main()
