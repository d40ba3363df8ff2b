"""Headers that every answer has, so that nobody makes more of it than was meant."""

from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""What an answer says of these itself stands, as a page does that has scripts."""


@dataclass(frozen=True, slots=True)
class Headers:
    """hsts_s: for how long a browser that was here over TLS is to come by TLS only; 0: not said."""

    hsts_s: int = 0

    def put_on(self, response: Response) -> Response:
        """The same answer, with those that it does not have yet."""
        there = {name for name, _ in response.raw_headers}
        response.raw_headers.extend(header for header in _ALWAYS if header[0] not in there)
        if self.hsts_s:
            response.raw_headers.append((b"strict-transport-security", f"max-age={self.hsts_s}".encode()))
        return response
