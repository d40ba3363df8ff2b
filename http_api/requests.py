"""A request as the handlers read it."""

from dataclasses import dataclass
from typing import Self

from starlette.types import Receive, Scope

from hub.errors import InvalidOrder


class BodyTooLarge(Exception):
    pass


@dataclass(slots=True)
class Request:
    """headers: by their names in lower case; of one that came twice the first counts. query: as it stands in the URL.

    receive: gives the ASGI messages of its body.
    """

    method: str
    path: str
    path_params: dict[str, str]
    headers: dict[str, str]
    query: bytes
    receive: Receive

    @classmethod
    def of(cls, scope: Scope, receive: Receive, path_params: dict[str, str]) -> Self:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        return cls(scope["method"], scope["path"], path_params, headers, scope["query_string"], receive)

    async def body(self, max_bytes: int) -> bytes:
        """Raises BodyTooLarge before more than that is kept, or InvalidOrder if it ends too soon."""
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise BodyTooLarge
        body, more = bytearray(), True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise InvalidOrder("The request ended before its body was complete.")
            body += message["body"]
            if len(body) > max_bytes:
                raise BodyTooLarge
            more = message["more_body"]
        return bytes(body)
