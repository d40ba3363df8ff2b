"""A desktop that answers every order with `applied` and the config as ordered, at once and without a journal.

It keeps the contract as far as a hub needs it to count the site as alive and to settle a change. Its one line on stdin
is {"port", "secret"}; it says "ready" on stdout when it is subscribed and has said that it is alive.
"""

import asyncio
import json
import sys
from typing import Any, Final

import uvloop

from benchmarks.changes.change import SITE
from benchmarks.mqtt import MqttClient
from hub.protocol.messages import Heartbeat, Offline, PlcHealth, encode
from hub.protocol.packets import Connect, Publish, Will
from hub.protocol.times import utc_now
from hub.protocol.topics import Topics

HEARTBEAT_EVERY_S: Final = 20.0
_SESSION: Final = "echo"
_READ_BACK: Final = ("config", "config_version", "local_rev")


def answer(command: dict[str, Any]) -> bytes:
    """The reply to any command."""
    reply = {"id": command["id"], "status": "applied"}
    if command["name"] == "set_config":
        reply |= {name: command["args"][name] for name in _READ_BACK}
    elif command["name"] == "report":
        reply["outcomes"] = []
    return json.dumps(reply, separators=(",", ":")).encode()


class EchoDesktop:
    """The only desktop of the site."""

    def __init__(self) -> None:
        self._topics = Topics()
        self._heartbeat_topic = self._topics.heartbeat(SITE)
        self._client: MqttClient | None = None

    def take(self, message: Publish) -> None:
        if message.topic == self._heartbeat_topic:
            return
        assert self._client is not None
        command = json.loads(message.payload)
        self._client.publish(command["reply_to"], answer(command))

    async def run(self, port: int, secret: str) -> None:
        """Connect, say that it is there, and answer, until the broker goes."""
        will = Will(self._heartbeat_topic, encode(Offline(online=False, session=_SESSION)), 1, retain=True)
        connect = Connect(SITE, will=will, username=SITE, password=secret.encode())
        self._client = await MqttClient.open(port, connect, self.take)
        await self._client.subscribe(*self._topics.desktop_filters(SITE))
        seq = 0
        while not self._client.lost.done():
            seq += 1
            self._client.publish(self._heartbeat_topic, encode(self._heartbeat(seq)), retain=True)
            if seq == 1:
                print(json.dumps("ready"), flush=True)
            await asyncio.wait({self._client.lost}, timeout=HEARTBEAT_EVERY_S)

    def _heartbeat(self, seq: int) -> Heartbeat:
        return Heartbeat(
            online=True,
            session=_SESSION,
            seq=seq,
            sent_at=utc_now(),
            interval_s=HEARTBEAT_EVERY_S,
            agent="echo of the benchmark",
            journal_id=_SESSION,
            plc=PlcHealth(connected=True),
        )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(EchoDesktop().run(**json.loads(sys.stdin.readline())))
