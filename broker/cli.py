"""`feeder-hub broker`: the bare broker, open to everybody, on loopback only."""

import asyncio
import ipaddress
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from broker.certificates import TlsFault, TlsFiles
from broker.listeners import ListenError, allow_many_connections
from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import BrokerOptions, EmbeddedBroker
from broker.store import StoreUnusable


def bare_broker(
    is_open: Annotated[bool, typer.Option("--open", help="Required: everybody may do everything.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; of this machine's loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port for MQTT; 0 takes a free one.")] = 1883,
    tls_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port for MQTT over TLS.  [default: none]")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for TLS, a PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key, a PEM file.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Clients must show a certificate that this authority, a PEM file, signed.")
    ] = None,
    ws_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port for MQTT over WebSocket.  [default: none]")
    ] = None,
    wss_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port for MQTT over WebSocket over TLS.  [default: none]")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Keep sessions and retained messages in this file.  [default: in memory]")
    ] = None,
) -> None:
    """Run the MQTT broker alone, without hub, Redis or database: for test suites, benchmarks, trying clients.

    Says its addresses on stdout, one JSON object in a line, when it listens.
    """
    if not is_open:
        raise typer.BadParameter("the bare broker knows no users; say --open to let everybody in")
    if not is_loopback(host):
        raise typer.BadParameter(f"an open broker listens on loopback only (127.0.0.1, ::1), not on {host}")
    tls = None
    if (tls_port, wss_port, tls_cert, tls_key, tls_client_ca) != (None,) * 5:
        if tls_cert is None or tls_key is None or (tls_port, wss_port) == (None, None):
            raise typer.BadParameter("TLS needs --tls-cert and --tls-key, and --tls-port or --wss-port")
        tls = TlsFiles(tls_cert, tls_key, tls_client_ca, "none" if tls_client_ca is None else "required")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    options = replace(
        OPEN_OPTIONS,
        host=f"[{host}]" if ":" in host else host,
        port=port,
        tls_port=tls_port,
        ws_port=ws_port,
        wss_port=wss_port,
        tls=tls,
        store=store,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        fault = runner.run(run_bare_broker(options))
    if fault is not None:
        typer.echo(fault, err=True)
        raise typer.Exit(1)


_PORTS: Final = ("port", "tls_port", "ws_port", "wss_port")
_TLS_FLAGS: Final = {"certificate": "--tls-cert", "key": "--tls-key", "client_ca": "--tls-client-ca"}


async def run_bare_broker(options: BrokerOptions) -> str | None:
    """An open broker, until SIGINT or SIGTERM. Returns why it cannot start, and which flag to change."""
    allow_many_connections()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        broker = EmbeddedBroker(options, let_everybody_in, EverybodyMayDoEverything(), record=lambda _: None)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, broker.reload_certificates)
        async with broker:
            try:
                typer.echo(json.dumps({name: getattr(broker, name) for name in _PORTS}))  # which flushes
            except OSError as error:
                # Python would try once more at its end, and complain in its own words.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return f"Standard output cannot be written, so nobody can be told the ports: {error.strerror}."
            await stop.wait()
    except TlsFault as fault:
        return f"{fault}. Name another file: {_TLS_FLAGS[fault.field]}."
    except ListenError as error:
        flag = "--" + error.option.replace("_", "-")
        return f"cannot listen on {error.host}:{error.port}: {error.strerror}. Choose another port: {flag}."
    except StoreUnusable as error:
        return f"{error}. Name another file: --store."
    return None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
