"""TLS over a socket, by the standard library's TLS without I/O.

The loops' own TLS would do, but uvloop reads before it can be told that TLS is to follow, asyncio's keeps 256 KiB
for each connection, and they differ in how they end. Here the handshake is a step of the connection's coroutine.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Final

from broker.sockets import CHUNK_BYTES, Layer, NotOpened, Socket

GONE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The peer sends nothing more. Which of the two it is in a handshake differs between versions of Python."""

_MOST_UNREAD_ANSWERS: Final = 100
"""Answers to new keys, 22 bytes each or some more, for a peer that does not read."""


class Tls(Layer):
    """The broker's end of a TLS connection."""

    def __init__(self, below: Socket | Layer, context: ssl.SSLContext) -> None:
        super().__init__(below)
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._is_open = False
        self._unread_answers = 0

    async def open(self) -> None:
        while not self._is_open:
            try:
                self._tls.do_handshake()
                self._is_open = True
            except ssl.SSLWantReadError:
                self._send()
                await self._receive(CHUNK_BYTES)
            except GONE as error:
                raise EOFError from error
            except ssl.SSLError as error:
                raise NotOpened(_reason(error), str(error)) from error
            finally:
                self._send()  # a last alert too

    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        if not (self._tls.pending() or self._received.pending):
            await self._receive(n)
        while True:
            try:
                data = self._tls.read(n)
            except ssl.SSLWantReadError:
                self._answer()
                await self._receive(n)
                continue
            except GONE:  # with a goodbye or without; MQTT has its own
                self._is_open = False
                return b""
            except ssl.SSLError:
                self._is_open = False
                self._send()  # the alert
                raise
            if not data:
                await asyncio.sleep(0)  # a turn for the answers to what came before the end
            return data

    def _answer(self) -> None:
        """Send what TLS itself has to say: the answer to new keys, which a peer may ask for without end."""
        if self._to_send.pending:
            self._unread_answers = self._unread_answers + 1 if self._below.paused else 0
            if self._unread_answers > _MOST_UNREAD_ANSWERS:
                raise ConnectionAbortedError("a peer that asks for new keys and does not read the answers")
            self._send()

    async def _receive(self, n: int) -> None:
        data = await self._below.read(n)
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()

    def write(self, data: bytes) -> None:
        if self._is_open:
            left = memoryview(data)
            while left:  # record by record: the buffer in between keeps the size that it once had
                left = left[self._tls.write(left) :]
                self._send()

    def _send(self) -> None:
        if self._to_send.pending:
            self._below.write(self._to_send.read())

    def finish(self) -> None:
        if self._is_open:
            self._is_open = False
            with suppress(ssl.SSLError):  # it wants to hear the peer's goodbye, which nobody waits for
                self._tls.unwrap()
            self._send()
        self._below.finish()

    async def close(self) -> None:
        self.finish()
        await self._below.close()

    def get_ssl_info(self) -> ssl.SSLObject:
        return self._tls


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) or error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "client-certificate"
    return "tls-handshake"
