"""`GET /events` as a page reads it: server-sent events, taken in by a thread."""

import http.client
import json
import socket
import threading
from dataclasses import dataclass
from typing import Any, Self

from tests.end_to_end.hub_process import HubProcess, until


@dataclass(frozen=True)
class Event:
    id: str
    kind: str
    data: dict[str, Any]


class EventStream:
    """Open inside the block. `seen` grows; `ended` when the hub closed it."""

    def __init__(
        self,
        hub: HubProcess,
        token: str | None = None,
        *,
        query: str = "",
        last_id: str | None = None,
        cookie: str | None = None,
    ) -> None:
        self.seen: list[Event] = []
        self.ended = threading.Event()
        self._open = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", hub.http_port, timeout=60)
        self._headers = {"Cookie": cookie} if cookie else {"Authorization": f"Bearer {token or hub.token}"}
        if last_id is not None:
            self._headers["Last-Event-ID"] = last_id
        self._path = f"/api/v1/events{query}"
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._connection.request("GET", self._path, headers=self._headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        assert self._response.headers["Content-Type"].startswith("text/event-stream")
        self._thread.start()
        assert self._open.wait(5), "the stream does not begin"
        return self

    def __exit__(self, *_: object) -> None:
        opened = self._connection.sock
        if isinstance(opened, socket.socket) and not self.ended.is_set():
            opened.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._response.close()
        self._connection.close()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            while line := self._response.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                    continue
                self._open.set()
                if "data" in fields:
                    self.seen.append(Event(fields["id"], fields["event"], json.loads(fields["data"])))
                fields = {}
        except (OSError, http.client.HTTPException):
            pass  # the stream was cut off, which `ended` tells
        finally:
            self.ended.set()

    def of(self, kind: str, **facts: Any) -> list[Event]:
        """Those so far of that kind with these facts."""
        return [event for event in list(self.seen) if event.kind == kind and facts.items() <= event.data.items()]

    def wait_for(self, kind: str, within_s: float = 5.0, **facts: Any) -> Event:
        return until(lambda: self.of(kind, **facts), within_s)[0]
