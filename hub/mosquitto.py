"""The files that give an external mosquitto the rights of the contract: passwords, access list, settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hub.models import Monitor, Site
from hub.monitors import username
from hub.protocol.topics import Topics

HUB_USER: Final = "hub"


def passwords(sites: Iterable[Site], monitors: Iterable[Monitor], hub_password_hash: str) -> str:
    """Mosquitto's `password_file`: hub, sites and monitors, each with the hash that mosquitto_passwd would make."""
    lines = [
        f"{HUB_USER}:{hub_password_hash}",
        *(f"{site.id}:{site.mqtt_password_hash}" for site in sites),
        *(f"{username(monitor.name)}:{monitor.mqtt_password_hash}" for monitor in monitors),
    ]
    return "\n".join(lines) + "\n"


def access_list(sites: Iterable[Site], monitors: Iterable[Monitor], topics: Topics) -> str:
    """Mosquitto's `acl_file`, from the contract's table of who may do what."""
    lines = [
        f"user {HUB_USER}",
        f"topic read {topics.root}/#",
        f"topic write {topics.commands('+')}",
        f"topic write {topics.commands('+', '+')}",
    ]
    for site in sites:
        lines += [
            "",
            f"user {site.id}",
            f"topic readwrite {topics.heartbeat(site.id)}",
            f"topic write {topics.state(site.id, '+')}",
            f"topic write {topics.events(site.id, '+')}",
            f"topic write {topics.replies(site.id, '+')}",
            f"topic read {topics.commands(site.id)}",
            f"topic read {topics.commands(site.id, '+')}",
        ]
    for monitor in monitors:
        lines += ["", f"user {username(monitor.name)}", "topic read $SYS/#"]
        if monitor.site_id is not None:
            lines.append(f"topic read {topics.root}/{monitor.site_id}/#")
    return "\n".join(lines) + "\n"


def settings(directory: Path) -> str:
    """What to include in mosquitto.conf."""
    return f"""\
# Include this in mosquitto.conf, or start it alone: mosquitto -c {directory / "mosquitto.conf"}
listener 1883 127.0.0.1
allow_anonymous false
password_file {directory / "passwords"}
acl_file {directory / "acl"}
# Small packets wait up to 40 ms without this.
set_tcp_nodelay true
# The hub acknowledges a message when it is stored; let many be on their way meanwhile.
max_inflight_messages 1000
max_queued_messages 100000
# What the contract allows, and room for topic and header.
message_size_limit 70000
"""
