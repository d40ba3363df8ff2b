"""One site that sends without end what the contract does not know: the others, and the hub's memory, do not notice."""

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from hub.protocol.packets import Connack, Connect, Decoder, Publish, encode
from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import until
from tests.end_to_end.test_logins import figure, lines

HANDS = 9
FLOOD_S = 4.0
SWELLING_MB = 60
"""Ten connections with a share of at most 100 messages; without a bound this flood takes hundreds."""


class Flood:
    """Connections of one site that publish at QoS 0 as fast as the network takes it."""

    def __init__(self, farm: Farm, site: Site, payload: bytes) -> None:
        topic = f"fh/v1/{site.name}/feeders/f1/state"
        self._batch = encode(Publish(topic, payload)) * 200
        self._over = threading.Event()
        self._address = ("127.0.0.1", farm.hub.mqtt_port)
        self._threads = [threading.Thread(target=self._send, args=(site, number)) for number in range(HANDS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, site: Site, number: int) -> None:
        with socket.create_connection(self._address, timeout=10) as opened:
            connect = Connect(f"{site.name}.{number}", username=site.name, password=site.secret.encode())
            opened.sendall(encode(connect))
            assert Decoder().feed(opened.recv(100)) == [Connack()]
            opened.settimeout(0.1)
            rest = b""
            while not self._over.is_set():
                rest = rest or self._batch
                with contextlib.suppress(TimeoutError):
                    rest = rest[opened.send(rest) :]


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


@pytest.mark.parametrize("payload", [b"this is not JSON", b"{" * 50_000], ids=["short", "long"])
def test_a_site_that_floods_its_own_topic_costs_the_others_and_the_hub_nothing(
    start_farm: StartFarm, payload: bytes
) -> None:
    farm = start_farm()
    hostile, neighbour = farm.new_site(), farm.new_site()
    desktop = farm.desktop(neighbour)
    until(neighbour.alive)
    before_mb, most_mb, answers_s = resident_mb(farm.hub.child.pid), 0.0, []
    with Flood(farm, hostile, payload):
        ends_s = time.monotonic() + FLOOD_S
        while time.monotonic() < ends_s:
            began_s = time.monotonic()
            assert neighbour.put_config(meal_g=200.0 + len(answers_s) % 50).status_code == 200
            answers_s.append(time.monotonic() - began_s)
            most_mb = max(most_mb, resident_mb(farm.hub.child.pid))
            assert neighbour.alive()
    assert desktop is not None
    print(len(answers_s), sorted(answers_s)[len(answers_s) // 2], max(answers_s), before_mb, most_mb)
    assert figure(farm, "slowed_down") > 0
    assert most_mb - before_mb < SWELLING_MB
    assert max(answers_s) < 1.0
    assert len(lines(farm, "not-json")) <= 5
