"""The stock broker of amqtt, configured by its own means as close to ours as they reach."""

from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from pwdlib.hashers.argon2 import Argon2Hasher

from tests.broker.traps.wanted import Wanted

SITES = ("pond7", "pond8")


def rights_to_publish() -> dict[str, list[str]]:
    """The contract's table, in the words of amqtt's access control lists."""
    by_site = ("heartbeat", "feeders/+/state", "feeders/+/events", "replies/+")
    by_hub = ["fh/v1/+/commands", "fh/v1/+/feeders/+/commands"]
    return {"hub": by_hub, **{site: [f"fh/v1/{site}/{end}" for end in by_site] for site in SITES}}


def rights_to_read(*by_site: str) -> dict[str, list[str]]:
    return {"hub": ["fh/v1/#"], "monitor": ["$SYS/#"]} | {
        site: [f"fh/v1/{site}/{end}" for end in by_site] for site in SITES
    }


def password_file(directory: Path, secret: str, *, slow: bool) -> Path:
    """Everybody's password, hashed with amqtt's own cost or with next to none."""
    hasher = Argon2Hasher() if slow else Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)
    file = directory / "passwords"
    file.write_text("".join(f"{user}:{hasher.hash(secret)}\n" for user in ("hub", "monitor", *SITES)))
    return file


def stock_broker(wanted: Wanted, secret: str) -> Broker:
    """A broker on free ports: open to anyone, or with its password file and its access control lists.

    The lists are configured the old way, by sections: the new way knows no list of what may be received.
    """
    max_connections = wanted.options.get("max_connections", -1)
    listeners = {"default": ListenerConfig(bind="127.0.0.1:0", max_connections=max_connections)}
    if wanted.ws:
        listeners["ws"] = ListenerConfig(type=ListenerType.WS, bind="127.0.0.1:0")
    if wanted.tls:  # whose certificates are believed can be said, not whether one must be shown
        files = {"certfile": wanted.tls.certificate, "keyfile": wanted.tls.key, "cafile": wanted.tls.client_ca}
        listeners["tls"] = ListenerConfig(bind="127.0.0.1:0", ssl=True, **files)
    if wanted.anyone:
        everybody: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        if wanted.store:
            file = str(wanted.directory / "amqtt.db")
            everybody["amqtt.contrib.persistence.SessionDBPlugin"] = {"file": file, "clear_on_shutdown": False}
        return Broker(BrokerConfig(listeners=listeners, plugins=everybody))
    topic_check: dict[str, Any] = {
        "enabled": True,
        "plugins": ["topic_acl"],
        "subscribe-acl": rights_to_read("+", "feeders/+/commands"),
        "receive-acl": rights_to_read("commands", "feeders/+/commands", "heartbeat"),
    }
    if wanted.publish_acl:
        topic_check["publish-acl"] = rights_to_publish()
    passwords = password_file(wanted.directory, secret, slow=wanted.slow_passwords)
    auth = {"plugins": ["auth_file"], "password-file": str(passwords)}
    return Broker(BrokerConfig(listeners=listeners, plugins=None, auth=auth, topic_check=topic_check))
