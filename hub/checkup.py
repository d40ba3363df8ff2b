"""The checks of `feeder-hub doctor`: each finds one thing right, or says what to do."""

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from hub.database import Database
from hub.link import BrokerAddress, NetworkLink
from hub.tables import DatabaseError
from hub.valkey import ValkeyError, find_program

LOW_DISK_BYTES: Final = 500 * 2**20
WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`fine` False: it has to be mended before the hub can run; `text` says how."""

    name: str
    fine: bool
    text: str


Check = Callable[[], Awaitable[Finding]]


def port_check(name: str, host: str, port: int, setting: str) -> Check:
    async def check() -> Finding:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, port), family=family):
                return Finding(name, fine=True, text=f"{host}:{port} is free")
        except OSError as error:
            hint = f"another program (or a running hub) has it; choose another one with {setting}"
            return Finding(name, fine=False, text=f"{host}:{port}: {error.strerror}; {hint}")

    return check


def broker_check(address: BrokerAddress, client_id: str) -> Check:
    async def check() -> Finding:
        link = NetworkLink(address, client_id, (), stored_session=False)
        async with link.running(lambda message: message.acknowledge()):
            reached = await link.wait_connected(WITHIN_S)
        where = f"{address.host}:{address.port} as {address.username}"
        text = where if reached else f"{where}: {link.last_fault or 'no answer'}; check mqtt.url and the broker's log"
        return Finding("MQTT broker", reached, text)

    return check


def redis_check(url: str | None) -> Check:
    async def check() -> Finding:
        if url is None:
            try:
                return Finding("Redis", fine=True, text=f"embedded: {await asyncio.to_thread(find_program)}")
            except ValkeyError as error:
                return Finding("Redis", fine=False, text=str(error))
        redis = Redis.from_url(url, socket_timeout=WITHIN_S, socket_connect_timeout=WITHIN_S)
        try:
            version = (await redis.info("server"))["redis_version"]
        except (RedisError, OSError) as error:
            return Finding("Redis", fine=False, text=f"{error}; check redis.url")
        finally:
            await redis.aclose()
        return Finding("Redis", fine=True, text=f"external, version {version}")

    return check


def database_check(url: str) -> Check:
    def open_it() -> Finding:
        try:
            database = Database(url)
            try:
                shown = database.url.render_as_string()
                if not database.is_there():
                    return Finding("database", fine=True, text=f"{shown}: not there yet, the hub makes it")
                current, newest = database.versions()
                state = f"version {current}, newest {newest}" if current else "empty, the hub makes its tables"
                if current not in (None, newest):
                    state += ", to which the next start of the hub brings it"
                return Finding("database", fine=True, text=f"{shown}: {state}")
            finally:
                database.close()
        except (DatabaseError, SQLAlchemyError) as error:
            return Finding("database", fine=False, text=f"{error}; check database.url")

    async def check() -> Finding:
        return await asyncio.to_thread(open_it)

    return check


def disk_check(data_dir: Path) -> Check:
    async def check() -> Finding:
        if not os.access(data_dir, os.W_OK):
            return Finding("disk", fine=False, text=f"{data_dir} cannot be written; choose another one with --data-dir")
        free = shutil.disk_usage(data_dir).free
        text = f"{data_dir}: {free // 2**20} MiB free"
        return Finding("disk", free >= LOW_DISK_BYTES, text if free >= LOW_DISK_BYTES else text + "; make room")

    return check
