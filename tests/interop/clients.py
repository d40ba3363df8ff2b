"""MQTT clients that other people wrote, each behind the same few words."""

import asyncio
import itertools
import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gmqtt
import paho.mqtt.client as paho

WITHIN_S = 10.0


class Way(NamedTuple):
    """How a client comes in. `scheme`: mqtt, mqtts, ws or wss; `ca`: the authority's certificate, a PEM file."""

    scheme: str
    port: int
    ca: Path

    @property
    def secure(self) -> bool:
        return self.scheme in ("mqtts", "wss")


class Heard(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool


class Will(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool


class Client(ABC):
    """One connection, from `open` to `close`, and again."""

    ways: tuple[str, ...] = ("mqtt", "mqtts", "ws", "wss")

    def __init__(self, way: Way, client_id: str, *, clean: bool = True, will: Will | None = None) -> None:
        self.way = way
        self.client_id = client_id
        self.clean = clean
        self.will = will
        self.inbox: asyncio.Queue[Heard] = asyncio.Queue()

    async def heard(self) -> Heard:
        """The next message."""
        return await asyncio.wait_for(self.inbox.get(), WITHIN_S)

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def subscribe(self, topic_filter: str, qos: int) -> None: ...

    @abstractmethod
    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None: ...

    @abstractmethod
    async def close(self) -> None:
        """With a DISCONNECT."""


class Paho(Client):
    """paho-mqtt, in its own thread."""

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._seen: asyncio.Queue[str] = asyncio.Queue()
        transport = "websockets" if self.way.scheme in ("ws", "wss") else "tcp"
        self._client = client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self.client_id, transport=transport, clean_session=self.clean
        )
        if self.way.secure:
            client.tls_set(str(self.way.ca))
        if self.will is not None:
            client.will_set(*self.will)

        def tell(event: str) -> Callable[..., None]:
            return lambda *_: loop.call_soon_threadsafe(self._seen.put_nowait, event)

        client.on_connect, client.on_subscribe, client.on_publish = map(tell, ("in", "granted", "published"))
        client.on_message = lambda _client, _data, message: loop.call_soon_threadsafe(
            self.inbox.put_nowait, Heard(message.topic, message.payload, message.qos, message.retain)
        )
        await asyncio.to_thread(client.connect, "127.0.0.1", self.way.port)
        client.loop_start()
        await self._see("in")

    async def _see(self, event: str) -> None:
        assert await asyncio.wait_for(self._seen.get(), WITHIN_S) == event

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        self._client.subscribe(topic_filter, qos)
        await self._see("granted")

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain)
        await self._see("published")

    async def close(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)


class Gmqtt(Client):
    """gmqtt, which knows no WebSocket."""

    ways = ("mqtt", "mqtts")

    async def open(self) -> None:
        will = None
        if self.will is not None:
            will = gmqtt.Message(self.will.topic, self.will.payload, qos=self.will.qos, retain=self.will.retain)
        self._granted = asyncio.Event()
        self._client = client = gmqtt.Client(self.client_id, clean_session=self.clean, will_message=will)
        client.set_config({"reconnect_retries": 0})
        client.on_message = self._on_message
        client.on_subscribe = lambda *_: self._granted.set()
        secure: Any = ssl.create_default_context(cafile=str(self.way.ca)) if self.way.secure else False
        version = gmqtt.constants.MQTTv311
        await client.connect("127.0.0.1", self.way.port, ssl=secure, version=version, raise_exc=True)

    def _on_message(self, _: object, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        self.inbox.put_nowait(Heard(topic, payload, qos, bool(properties["retain"])))
        return 0

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        self._client.subscribe(topic_filter, qos)
        await asyncio.wait_for(self._granted.wait(), WITHIN_S)

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=qos, retain=retain)
        await asyncio.wait_for(self._client._persistent_storage.wait_empty(), WITHIN_S)  # it tells nobody

    async def close(self) -> None:
        await self._client.disconnect()


class Mosquitto(Client):
    """mosquitto_pub and mosquitto_sub; the one who subscribes is there from `subscribe` to `close`."""

    ways = ("mqtt", "mqtts")
    publish_program = "mosquitto_pub"
    subscribe_program = "mosquitto_sub"
    _subscriber: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        """A session that is stored is opened again with what it was subscribed to."""
        if self._subscriber is not None:
            await self._start_subscriber(*self._subscribed)

    def _arguments(self, client_id: str) -> list[str]:
        secure = ["--cafile", str(self.way.ca)] if self.way.secure else []
        return ["-h", "127.0.0.1", "-p", str(self.way.port), "-i", client_id, *secure]

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        self._subscribed = topic_filter, qos
        await self._start_subscriber(topic_filter, qos)

    async def _start_subscriber(self, topic_filter: str, qos: int) -> None:
        options = [] if self.clean else ["--disable-clean-session"]
        if self.will is not None:
            topic, payload, will_qos, retain = self.will
            options += ["--will-topic", topic, "--will-payload", payload.decode(), "--will-qos", str(will_qos)]
            options += ["--will-retain"] if retain else []
        self._subscriber = await asyncio.create_subprocess_exec(
            "stdbuf", "-oL",  # into a pipe it would write when it has a lot to say
            self.subscribe_program, *self._arguments(self.client_id), *options,
            "-d", "-q", str(qos), "-t", topic_filter, "-F", "HEARD %t %q %r %x",
            stdout=asyncio.subprocess.PIPE, limit=1_000_000,
        )  # fmt: skip
        granted = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(self._subscriber, granted))
        await asyncio.wait_for(granted.wait(), WITHIN_S)

    async def _listen(self, subscriber: asyncio.subprocess.Process, granted: asyncio.Event) -> None:
        assert subscriber.stdout is not None
        async for line in subscriber.stdout:
            if line.startswith(b"HEARD"):
                _, topic, qos, retain, payload = line.decode().rstrip("\n").split(" ")
                self.inbox.put_nowait(Heard(topic, bytes.fromhex(payload), int(qos), retain == "1"))
            elif b"Subscribed" in line:
                granted.set()

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        publisher = await asyncio.create_subprocess_exec(
            self.publish_program, *self._arguments(self.client_id + "-pub"),
            "-q", str(qos), "-t", topic, *(["-r"] if retain else []), "-s",
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await asyncio.wait_for(publisher.communicate(payload), WITHIN_S)
        assert (publisher.returncode, errors) == (0, b"")

    async def close(self) -> None:
        if self._subscriber is not None:
            if self._subscriber.returncode is None:
                self._subscriber.terminate()
            await self._subscriber.wait()
            await self._listening


class Node:
    """A Node.js process with any number of MQTT.js clients in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}
        self.inboxes: dict[str, asyncio.Queue[Heard]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def started(cls, node: str, ca: Path) -> "Node":
        """It believes that authority."""
        pipe = asyncio.subprocess.PIPE
        script = str(Path(__file__).with_name("mqttjs.js"))
        environment = {"NODE_EXTRA_CA_CERTS": str(ca)}
        return cls(await asyncio.create_subprocess_exec(node, script, stdin=pipe, stdout=pipe, env=environment))

    async def do(self, deed: str, client: str, **what: Any) -> None:
        number = next(self._ids)
        self._asked[number] = done = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": deed, "client": client, **what}).encode() + b"\n")
        await asyncio.wait_for(done, WITHIN_S)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "heard" in said:
                topic, payload, qos, retain = said["heard"]
                self.inboxes[said["client"]].put_nowait(Heard(topic, payload.encode("latin1"), qos, retain))
            elif "error" in said:
                self._asked.pop(said["id"]).set_exception(ConnectionError(said["error"]))
            else:
                self._asked.pop(said["id"]).set_result(None)

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.terminate()
        await self._process.wait()
        await self._listening


class MqttJs(Client):
    """MQTT.js."""

    node: Node

    async def open(self) -> None:
        self.node.inboxes[self.client_id] = self.inbox
        options: dict[str, Any] = {"clientId": self.client_id, "clean": self.clean}
        if self.will is not None:
            options["will"] = self.will._asdict() | {"payload": self.will.payload.decode()}
        url = f"{self.way.scheme}://127.0.0.1:{self.way.port}"
        await self.node.do("connect", self.client_id, url=url, options=options)

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        await self.node.do("subscribe", self.client_id, filter=topic_filter, qos=qos)

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        await self.node.do(
            "publish", self.client_id, topic=topic, payload=payload.decode("latin1"), qos=qos, retain=retain
        )

    async def close(self) -> None:
        await self.node.do("close", self.client_id)
