"""A line to the hub that loses what the hub says: a TCP proxy for tests of clients."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class LossyLine:
    """Carries everything to that port. lose_answers: of so many connections the answer is lost, and they are cut."""

    to_port: int
    lose_answers: int = 0
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    """The first bytes of each connection."""
    lost: threading.Event = field(default_factory=threading.Event)
    _open: list[socket.socket] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self, port: int = 0) -> Iterator["LossyLine"]:
        with socket.create_server(("127.0.0.1", port)) as server:
            self.port = server.getsockname()[1]
            accepting = threading.Thread(target=self._accept, args=(server,))
            accepting.start()
            try:
                yield self
            finally:
                server.shutdown(socket.SHUT_RDWR)
                self.cut()
                accepting.join()

    def cut(self) -> None:
        """Cut every connection that is open."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, server: socket.socket) -> None:
        carrying = []
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                break
            carrying.append(threading.Thread(target=self._carry, args=(client,)))
            carrying[-1].start()
        self.cut()
        for each in carrying:
            each.join()

    def _carry(self, client: socket.socket) -> None:
        loses = self.lose_answers > 0
        self.lose_answers -= loses
        with client, socket.create_connection(("127.0.0.1", self.to_port)) as hub:
            self._open += [client, hub]
            up = threading.Thread(target=self._pump, args=(client, hub), kwargs={"keep": True})
            up.start()
            if loses:
                with contextlib.suppress(OSError):
                    hub.recv(65536)
                self.lost.set()
            else:
                self._pump(hub, client)
            for each in (client, hub):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            up.join()

    def _pump(self, source: socket.socket, to: socket.socket, *, keep: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if keep:
                    self.requests.append(data)
                    keep = False
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)
