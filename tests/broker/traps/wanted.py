"""What a test wants to see its trap on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from broker.certificates import TlsFiles


@dataclass(frozen=True)
class Wanted:
    """Which broker. `options` are of our `BrokerOptions`; the stock one has a word for `max_connections` only.

    anyone: open to everybody, instead of with identities and the contract's rights.
    ws: with a WebSocket listener.
    tls: the files of a TLS listener, if there is to be one.
    store: with a file of its own for what survives it.
    slow_passwords: passwords are hashed with argon2, at the cost that amqtt gives it.
    publish_acl: whether the stock broker gets its list of who may publish what.
    """

    which: Literal["ours", "stock"]
    directory: Path
    options: dict[str, Any]
    anyone: bool = False
    ws: bool = False
    tls: TlsFiles | None = None
    store: bool = False
    slow_passwords: bool = False
    publish_acl: bool = True
