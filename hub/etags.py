"""ETags of what people change: they name its content, so that nobody writes over what he has not seen."""

import hashlib

from pydantic_core import to_json

from hub.errors import Changed


def etag_of(**content: object) -> str:
    """The same for the same content, whatever happened in between."""
    return f'"{hashlib.sha256(to_json(content)).hexdigest()[:20]}"'


def require_match(if_match: str | None, current: str, what: str) -> None:
    """if_match: the header as it came, None where there was none. Weak tags never match, as RFC 9110 says of it.

    To be called in the transaction that writes, with the row locked. Raises Changed.
    """
    if if_match is None:
        return
    wanted = [tag.strip() for tag in if_match.split(",")]
    if current not in wanted and "*" not in wanted:
        raise Changed(f"If-Match does not name {what} as it is now. Read it again and repeat the change.", current)
