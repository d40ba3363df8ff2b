"""The data directory: what one hub keeps on its machine. Its secrets are readable by their owner only."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ulid import ULID

from hub.accounts import new_secret
from hub.errors import HubError


class DataDirError(HubError):
    """The data directory cannot be made or written; says why."""


class DataDir:
    """Made if it is not there. Raises DataDirError."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataDirError(f"the data directory {self.path} cannot be made: {error.strerror}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other hub process out of the directory; the command line may still come in."""
        try:
            lock = (self.path / "hub.lock").open("wb")
        except OSError as error:
            raise DataDirError(f"the data directory {self.path} cannot be written: {error.strerror}") from error
        with lock as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataDirError(
                    f"another hub is running with the data directory {self.path}; choose another one with --data-dir"
                ) from None
            yield

    def hub_id(self) -> str:
        """Names this hub process in the topics of replies; stays the same."""
        return self._kept("hub-id", f"h{str(ULID())[-10:].lower()}")

    def hub_mqtt_secret(self) -> str:
        """The hub's own password at an external broker that was set up by `export mosquitto`."""
        return self._kept("hub-mqtt-secret", new_secret())

    def put_secret(self, name: str, secret: str) -> Path:
        """Write a secret into a file of its own; returns its path."""
        path = self.path / name
        draft = path.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secret + "\n")
        draft.replace(path)
        return path

    def _kept(self, name: str, fresh: str) -> str:
        path = self.path / name
        try:
            if not path.exists():
                self.put_secret(name, fresh)
            return path.read_text().strip()
        except OSError as error:
            raise DataDirError(f"{path} cannot be read or written: {error.strerror}") from error
