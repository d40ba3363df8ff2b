"""URLs of other systems: what is accepted, and how they are shown without their passwords."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def masked(url: str) -> str:
    """The URL without its password, wherever it stands."""
    # Up to the last @: a password that was not percent-encoded may hold one itself.
    url = re.sub(r"(://[^:/?]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", r"\1***", url)


def _url(*schemes: str) -> AfterValidator:
    def check(url: str) -> str:
        # Messages leave out the URL and what urlsplit says of a bad port: it may quote a piece of a password.
        try:
            parts = urlsplit(url)
            port_is_real = parts.port != 0
        except ValueError:
            raise ValueError("is no URL; characters such as @ / : in a password are written as %40 %2F %3A") from None
        if parts.scheme not in schemes:
            raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not port_is_real or not (parts.hostname or parts.scheme in ("unix", "sqlite")):
            raise ValueError("must name a host, and a port other than 0 if it names one")
        if parts.scheme.startswith("mqtt") and (parts.path.strip("/") or parts.query or parts.fragment):
            raise ValueError("must end after the host and port; the topic root is a setting of its own, mqtt.root")
        return url

    return AfterValidator(check)


def _without_password(url: str) -> str:
    if "@" in url:
        raise ValueError("must have no user and no password: every farm is told it")
    return url


MqttUrl = Annotated[str, _url("mqtt", "mqtts")]
PublicMqttUrl = Annotated[str, _url("mqtt", "mqtts", "ws", "wss"), AfterValidator(_without_password)]
RedisUrl = Annotated[str, _url("redis", "rediss", "unix")]
DatabaseUrl = Annotated[str, _url("sqlite", "postgresql", "postgresql+psycopg")]
