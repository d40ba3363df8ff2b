"""The demo farm: one site with four feeders, whose simulated desktop runs as a process of its own."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from sqlmodel import Session

from hub.audit import HUB, record
from hub.child import tied_to_this_process
from hub.data_dir import DataDir
from hub.database import Database
from hub.models import Site
from hub.protocol.times import utc_now
from hub.site_secrets import rotate_secret
from hub.sites import add_site, numbered_feeders, told

SITE: Final = "demo"
FEEDERS: Final = 4
STOPPED_WITHIN_S: Final = 3.0
_SECRET_FILE: Final = "demo-secret"  # noqa: S105 - a file name


async def prepare(database: Database, data_dir: DataDir) -> Path:
    """The demo's site, made where it is missing; returns the file with its secret, which only the demo uses."""

    def work(session: Session) -> str:
        if session.get(Site, SITE) is not None:
            record(session, HUB, "rotate_credentials", site=SITE)
            return rotate_secret(session, SITE, utc_now()).secret
        secret = add_site(session, SITE, numbered_feeders(FEEDERS), "UTC", utc_now(), name="Demo farm").secret
        record(session, HUB, "create_site", site=SITE, after=told(session, SITE))
        return secret

    return data_dir.put_secret(_SECRET_FILE, await database.write(work))


@contextlib.asynccontextmanager
async def desktop(url: str, root: str, secret_file: Path, data_dir: DataDir, heartbeat_s: float) -> AsyncIterator[None]:
    """The simulated desktop, from the beginning to the end of the block; its log is `demo-desktop.log`."""
    command = [
        *(sys.executable, "-m", "device_sim", "desktop", "--url", url, "--root", root, "--site", SITE),
        *("--secret-file", str(secret_file), "--feeders", str(FEEDERS), "--heartbeat-s", f"{heartbeat_s:g}"),
        *("--journal", str(data_dir.path / "demo-journal.sqlite")),
    ]
    with (data_dir.path / "demo-desktop.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *tied_to_this_process(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is for the hub, which then stops its demo
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOPPED_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()
