"""Calls for whoever runs the hub, outside `/api/v1`: is it there, can it work, what does it count."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlmodel import select
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from http_api.operations import Services
from http_api.problems import ALL
from hub.database import AWAY, why_away
from hub.errors import Unavailable

DATABASE_ANSWERS_WITHIN_S: Final = 2.0
"""As Redis does: whoever asks whether the hub is ready waits for a few seconds only."""

log = structlog.get_logger()


async def healthz(_request: Request) -> Response:
    """The process is there and its event loop turns."""
    return PlainTextResponse("ok\n")


async def readyz(services: Services, _request: Request) -> Response:
    """200 where every part that a change needs can be reached, else 503; and which part cannot."""
    parts = dict(
        zip(
            ("database", "redis", "mqtt"),
            await asyncio.gather(_database(services), _redis(services), _mqtt(services)),
            strict=True,
        )
    )
    ready = all(part == "ok" for part in parts.values())
    return JSONResponse({"ready": ready, "parts": parts}, 200 if ready else 503)


async def problem_page(_request: Request) -> Response:
    """What the `type` of a problem leads to."""
    rows = "\n".join(
        f'<tr id="{kind.slug}"><td>{kind.status}</td><td><code>{kind.slug}</code></td><td>{kind.title}</td></tr>'
        for kind in ALL
    )
    page = f"<!doctype html><html lang=en><title>Feeder Hub: problems</title><table>\n{rows}\n</table></html>\n"
    return HTMLResponse(page)


async def metrics(_request: Request) -> Response:
    """Prometheus's text format."""
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


async def _database(services: Services) -> str:
    try:
        async with asyncio.timeout(DATABASE_ANSWERS_WITHIN_S):
            await services.database.read(lambda session: session.exec(select(1)).one())
    except (TimeoutError, *AWAY) as error:
        log.warning("not ready: the database does not answer", reason=why_away(error) or "it is too slow")
        return "does not answer"
    return "ok"


async def _redis(services: Services) -> str:
    try:
        await services.store.call("PING")
    except Unavailable as error:
        log.warning("not ready: Redis does not answer", reason=str(error))
        return "does not answer"
    return "ok"


async def _mqtt(services: Services) -> str:
    return "ok" if services.link.connected else "not connected"


class BrokerFigures(Collector):
    """What the embedded broker counts, and what it holds now, as one metric by name."""

    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> list[GaugeMetricFamily]:
        figures = GaugeMetricFamily("feeder_hub_broker", "The embedded broker's figures, by name.", labels=["name"])
        for name, value in self._read().items():
            figures.add_metric([name], value)
        return [figures]
