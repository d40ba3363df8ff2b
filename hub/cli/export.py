"""`feeder-hub export`: the hub's sites and rights, for other programs."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from hub import mosquitto
from hub.accounts import mqtt_password_hash
from hub.cli.workplace import DataDirOption, workplace
from hub.monitors import list_monitors
from hub.sites import list_sites

app = typer.Typer(no_args_is_help=True, help="The hub's sites and rights, for other programs.")


@app.callback()
def export() -> None:
    """The hub's sites and rights, for other programs."""


@app.command(name="mosquitto")
def export_mosquitto(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Where to write passwords, acl and mosquitto.conf.")],
    data_dir: DataDirOption = None,
) -> None:
    """Write password and ACL files for an external mosquitto. Write them again whenever sites or monitors change."""
    place = workplace(context, data_dir)
    with place.database() as database:
        sites, monitors = database.read_now(lambda session: (list_sites(session), list_monitors(session)))
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    _write(
        directory / "passwords",
        mosquitto.passwords(sites, monitors, mqtt_password_hash(place.data_dir.hub_mqtt_secret())),
    )
    _write(directory / "acl", mosquitto.access_list(sites, monitors, place.topics))
    written = "passwords and acl"
    if (directory / "mosquitto.conf").exists():
        typer.echo("mosquitto.conf is there already, and stays as it is.")
    else:
        _write(directory / "mosquitto.conf", mosquitto.settings(directory))
        written = "passwords, acl and mosquitto.conf"
    typer.echo(f"Wrote {written} for {len(sites)} sites, {len(monitors)} monitors and the hub to {directory}.")
    typer.echo("Let a running mosquitto read them again:  pkill -HUP mosquitto")
    typer.echo("Start the hub with it:  FEEDER_HUB_MQTT__URL=mqtt://127.0.0.1:1883 feeder-hub serve")
    typer.echo("The hub logs in as `hub` with the secret that it keeps in its data directory.")


def _write(path: Path, text: str) -> None:
    """Readable by owner and group only: password hashes and rights are nobody else's business.

    mosquitto reads them as its own user, so the files become its group's, where we may do that.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
        file.write(text)
    with contextlib.suppress(LookupError, PermissionError):
        shutil.chown(path, group="mosquitto")
