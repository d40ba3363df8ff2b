"""The part `broker` of a benchmark: messages, connections and requests, beside mosquitto or beside itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.broker.cases import (
    BESIDE_IDLE,
    DOORS,
    MOSQUITTO,
    OURS,
    Door,
    beside_idle,
    connections,
    request_from_hub_place,
)
from benchmarks.broker.certificate import Certificate, make_certificate
from benchmarks.broker.flow import FlowOrder
from benchmarks.broker.targets import CONNECTIONS, FLOWS, REQUESTS
from benchmarks.changes.cases import raw_mqtt
from benchmarks.changes.change import ChangeOrder
from benchmarks.processes import Child, module
from benchmarks.rounds import Case, Round, Step
from benchmarks.servers import Server, bare_broker, mosquitto

NAME: Final = "broker"
_CONCURRENCY: Final = 16
_FEEDERS: Final = 64
_CONNECTIONS_LAST_S: Final = 4.0


@asynccontextmanager
async def steps(work_dir: Path, seconds: float, clients: int) -> AsyncIterator[list[Step]]:
    """Every case, while those servers run that are not started anew for each round."""
    certificate = make_certificate(work_dir)
    async with (
        mosquitto(work_dir) as theirs,
        bare_broker(work_dir) as ours,
        beside_idle(work_dir, clients) as ours_beside_idle,
        Child.started("flow", module("broker.flow"), work_dir) as flow,
        raw_mqtt(work_dir) as raw,
        request_from_hub_place(work_dir) as from_hub,
    ):
        brokers = ((MOSQUITTO, theirs), (OURS, ours), (BESIDE_IDLE, ours_beside_idle))
        yield [
            *(_flow(title, server, flow, qos, seconds) for qos in range(len(FLOWS)) for title, server in brokers),
            *(_connections(door, clients, work_dir, certificate) for door in DOORS),
            _requests(raw, MOSQUITTO, seconds),
            _requests(from_hub, OURS, seconds),
        ]


def _flow(title: str, server: Server, flow: Child, qos: int, seconds: float) -> Step:
    case = Case(title, server.process, flow)

    async def run(number: int, seconds: float) -> Round:
        return await case.measure(number, FLOWS[qos], FlowOrder(server.port, qos, seconds))

    return Step(FLOWS[qos], title, seconds, run)


def _connections(door: Door, clients: int, work_dir: Path, certificate: Certificate) -> Step:
    async def run(number: int, _: float) -> Round:
        return await connections(number, CONNECTIONS, door, clients, work_dir, certificate)

    return Step(CONNECTIONS, door.case, _CONNECTIONS_LAST_S, run, warms_up=False)


def _requests(case: Case, title: str, seconds: float) -> Step:
    case = replace(case, title=title)

    async def run(number: int, seconds: float) -> Round:
        return await case.measure(number, REQUESTS, ChangeOrder(_CONCURRENCY, _FEEDERS, seconds))

    return Step(REQUESTS, title, seconds, run)
