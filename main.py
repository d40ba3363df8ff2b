"""The command line `feeder-hub`, and the one place that wires the parts together.

settings -> database, Redis (embedded or by URL), broker (embedded or by URL) -> link -> hub -> HTTP
"""

import asyncio
import contextlib
import errno
import gc
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
import uvicorn
import uvloop
from prometheus_client import REGISTRY
from sqlmodel import Session
from starlette.types import ASGIApp

from broker.addresses import network_of
from broker.certificates import TlsFault, TlsFiles
from broker.cli import bare_broker
from broker.guard import NOT_AUTHORIZED, Authenticate, Credentials, NotAdmitted, Refusal
from broker.link import EmbeddedLink
from broker.listeners import ListenError, allow_many_connections
from broker.server import BrokerOptions, EmbeddedBroker
from broker.store import StoreUnusable
from config.settings import Mqtt, Settings, SettingsError, load
from http_api import cli as api
from http_api.app import create_app
from http_api.bounds import Bounds, protocol, watch
from http_api.headers import Headers
from http_api.operations import FarmsReach, Services
from http_api.proxies import BehindProxies
from http_api.service import BrokerFigures
from http_api.streams import Streams
from hub import audit, checkup, demo, logs, presence
from hub.accounts import add_token, get_token_row, has_tokens
from hub.accounts import told as token_told
from hub.call_limits import CallLimits
from hub.cli import backup, demo_data, doctor, export, monitor, person, rollout, site, token
from hub.cli.workplace import DataDirOption, JsonOption, Workplace
from hub.commands import Commands
from hub.conversation import Conversation
from hub.data_dir import DataDir
from hub.database import AWAY, Database, why_away
from hub.errors import HubError
from hub.housekeeping import Housekeeping
from hub.ingest import Ingest
from hub.link import BrokerAddress, NetworkLink
from hub.liveness import LivenessKeys
from hub.login_throttle import LoginThrottle
from hub.monitors import USER_PREFIX, MonitorLogins
from hub.mosquitto import HUB_USER
from hub.orders import Desk
from hub.passwords import Passwords
from hub.protocol.times import utc_now
from hub.protocol.topics import Identity, Topics
from hub.quiet_log import QuietLines, QuietLog
from hub.rejects import Rejects, excerpt
from hub.retention import Kept
from hub.rights import Role
from hub.rollouts import Rollouts
from hub.rounds import Rounds
from hub.site_logins import SiteLogins
from hub.sites import is_site
from hub.sqlite import sqlite_url
from hub.store import Store
from hub.stream import LiveStream
from hub.tasks import GoingOn, Tasks
from hub.valkey import embedded_valkey

LINK_WITHIN_S: Final = 5.0
HTTP_STOPS_WITHIN_S: Final = 2
THREADS_TAKE_TURNS_EVERY_S: Final = 0.0005
"""A change goes from the event loop to the database's thread and back; at Python's 5 ms each waits for the other."""
GARBAGE_THRESHOLDS: Final = (20_000, 20, 20)
"""A message makes hundreds of objects, few of them in a cycle: at Python's 700 the collector runs for every message."""

log = structlog.get_logger()
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command(name="broker")(bare_broker)
app.command(name="backup")(backup.back_up)
app.command(name="restore")(backup.restore)
app.command(name="demo-data")(demo_data.make_demo_data)
app.add_typer(site.app, name="site")
app.add_typer(monitor.app, name="monitor")
app.add_typer(token.app, name="token")
app.add_typer(person.app, name="person")
app.add_typer(rollout.app, name="rollout")
app.add_typer(export.app, name="export")
app.add_typer(api.app, name="api")


class CannotStart(HubError):
    """The hub cannot start; says which setting to change."""


# --- the hub ----------------------------------------------------------------------------------------------------


async def run(settings: Settings, *, with_demo: bool) -> None:
    """The whole hub, until SIGINT or SIGTERM. Raises HubError if it cannot start."""
    allow_many_connections()
    sys.setswitchinterval(THREADS_TAKE_TURNS_EVERY_S)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last reads certificates anew, with TLS
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tls_files(settings)  # or it would be found out when all the rest stands
    data_dir = DataDir(settings.data_dir)
    with data_dir.alone(), http_socket(settings) as listening:
        async with contextlib.AsyncExitStack() as stack:
            services, broker_urls = await stack.enter_async_context(hub_parts(settings, data_dir))
            await stack.enter_async_context(http_server(settings, services, listening))
            if with_demo:
                secret_file = await demo.prepare(services.database, data_dir)
                heartbeat_s = settings.liveness.heartbeat_s
                await stack.enter_async_context(
                    demo.desktop(broker_urls[0], settings.mqtt.root, secret_file, data_dir, heartbeat_s)
                )
            await say_hello(settings, services, listening, broker_urls, with_demo=with_demo)
            gc.collect()
            gc.freeze()  # what is there now stays; the collector need not look at it again
            gc.set_threshold(*GARBAGE_THRESHOLDS)
            await stop.wait()
            log.info("stopping")
    log.info("stopped")


@contextlib.asynccontextmanager
async def hub_parts(settings: Settings, data_dir: DataDir) -> AsyncIterator[tuple[Services, list[str]]]:
    """Everything but HTTP; yields the services and the URLs of the broker, that for the demo's desktop first."""
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(database_url(settings, data_dir)))
        redis_url = settings.redis.url
        if redis_url is None:
            redis_url = (await stack.enter_async_context(embedded_valkey(data_dir.path))).url
        store = await stack.enter_async_context(Store(redis_url))
        hub_id = settings.hub.id or data_dir.hub_id()
        stream = await stack.enter_async_context(LiveStream(store, settings.stream.keep_events, hub_id))
        streams = await stack.enter_async_context(Streams(database, stream, settings.stream.max_per_caller))
        tasks = await stack.enter_async_context(Tasks())
        per_s = settings.http.max_calls_per_s, settings.http.max_calls_per_s_per_address
        call_limits = await stack.enter_async_context(CallLimits(store, *per_s))
        liveness = LivenessKeys(store, settings.liveness.ttl_s)
        lines = await stack.enter_async_context(QuietLines())
        rejects = Rejects(store, lines)
        topics = Topics(settings.mqtt.root)
        client_id, filters = f"{HUB_USER}-{hub_id}", topics.hub_filters(hub_id)
        broker = None
        link: EmbeddedLink | NetworkLink
        if settings.mqtt.url is None:
            broker = await stack.enter_async_context(
                embedded_broker(settings, data_dir, database, topics, rejects, tasks)
            )
            link = broker.link(Identity("hub", HUB_USER), client_id, filters)
        else:
            address = BrokerAddress.parse(settings.mqtt.url, HUB_USER, data_dir.hub_mqtt_secret())
            link = NetworkLink(address, client_id, filters, connect_timeout_s=settings.mqtt.connect_timeout_s)
        await begin_liveness(database, liveness, nobody_is_connected=broker is not None)
        desk = Desk(hub_id, topics, settings.commands.timeout_s)
        commands = Commands(database, liveness, stream, rejects, desk, link)
        conversation = Conversation(database, commands, desk, link, tasks)
        ingest = Ingest(database, liveness, stream, commands, conversation, rejects, topics, tasks)
        await stack.enter_async_context(link.running(ingest.receive))
        await stack.enter_async_context(Rounds(database, liveness, stream, commands, conversation, lines))
        rollouts = await stack.enter_async_context(Rollouts(database, liveness, stream, commands))
        await stack.enter_async_context(Housekeeping(database, kept_by(settings)))
        if broker is not None:  # a desktop is let in when the hub listens
            await listen(broker)
        broker_urls = urls_of(broker, settings)
        if not await link.wait_connected(LINK_WITHIN_S):
            log.warning("no MQTT broker yet; the hub goes on trying", url=broker_urls[0], reason=link.last_fault)
        yield (
            Services(
                database=database,
                store=store,
                passwords=await stack.enter_async_context(Passwords()),
                login_throttle=LoginThrottle(store),
                liveness=liveness,
                stream=stream,
                streams=streams,
                commands=commands,
                rejects=rejects,
                link=link,
                rollouts=rollouts,
                broker=broker,
                topics=topics,
                bounds=bounds_of(settings),
                call_limits=call_limits,
                farms_reach=FarmsReach(settings.mqtt.public_url or public_url_of(broker_urls), settings.mqtt.root),
                version=version("feeder-hub"),
            ),
            broker_urls,
        )


@contextlib.asynccontextmanager
async def embedded_broker(
    settings: Settings,
    data_dir: DataDir,
    database: Database,
    topics: Topics,
    rejects: Rejects,
    tasks: Tasks,
) -> AsyncIterator[EmbeddedBroker]:
    """The broker in this process, with what it kept; it does not listen yet. Raises CannotStart."""

    def tell(refusal: Refusal, times: int) -> None:
        log.warning(
            "mqtt refused",
            kind=refusal.kind,
            reason=refusal.reason,
            user=refusal.identity,
            address=refusal.address,
            times=times,
            **{name: excerpt(text) for name in ("client_id", "topic", "detail") if (text := getattr(refusal, name))},
        )
        if refusal.identity is not None:
            detail = f"{refusal.kind}: {refusal.reason}" + (f", {times} times" if times > 1 else "")
            tasks.start(rejects.keep(refusal.identity, "forbidden", detail, refusal.topic or ""), "keep refusal")

    options = broker_options(settings, data_dir)
    monitors, sites = MonitorLogins(database), SiteLogins(database)
    async with QuietLog(tell) as quiet:

        def record(refusal: Refusal) -> None:
            quiet.record(refusal.reason, refusal.identity or network_of(refusal.address), refusal)

        broker = EmbeddedBroker(options, authenticate_with(database, monitors, sites), topics, record)
        if options.tls is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, broker.reload_certificates)
        figures = BrokerFigures(lambda: broker.counters)
        try:
            async with broker.opened():
                REGISTRY.register(figures)
                try:
                    async with monitors.watched(broker.disconnect_user), sites.watched(broker.disconnect_user):
                        yield broker
                finally:
                    REGISTRY.unregister(figures)
        except StoreUnusable as error:
            raise CannotStart(str(error)) from error


def broker_options(settings: Settings, data_dir: DataDir) -> BrokerOptions:
    """What the settings say of the embedded broker; most options are settings of the same name. Raises CannotStart."""
    mqtt = settings.mqtt
    same = {name: getattr(mqtt, name) for name in SAME_NAMES}
    host = bracketed(mqtt.host)
    tls_host = None if mqtt.tls_host is None else bracketed(mqtt.tls_host)
    store = data_dir.path / "broker.db"
    return replace(BrokerOptions(**same), host=host, tls_host=tls_host, tls=tls_files(settings), store=store)


SAME_NAMES: Final = {field.name for field in fields(BrokerOptions)} & set(Mqtt.model_fields)


def tls_files(settings: Settings) -> TlsFiles | None:
    """What the broker's TLS is made from, after a try. Raises CannotStart."""
    mqtt = settings.mqtt
    if mqtt.url is not None or mqtt.tls_certificate is None or mqtt.tls_key is None:
        return None
    files = TlsFiles(mqtt.tls_certificate, mqtt.tls_key, mqtt.tls_client_ca, mqtt.tls_client_certificates)
    try:
        files.context()
    except TlsFault as fault:
        name = f"tls_{fault.field}"
        raise CannotStart(f"{fault}. Name another file: FEEDER_HUB_MQTT__{name.upper()} or mqtt.{name}.") from fault
    return files


async def listen(broker: EmbeddedBroker) -> None:
    """Let clients in. Raises CannotStart."""
    try:
        await broker.start()
    except ListenError as error:
        how = how_to_listen(error, "mqtt", error.option)
        raise CannotStart(f"MQTT cannot listen on {error.host}:{error.port}: {how}") from error


def urls_of(broker: EmbeddedBroker | None, settings: Settings) -> list[str]:
    """Where the broker is found, embedded or not: first without TLS, from this machine."""
    mqtt = settings.mqtt
    if broker is None:
        assert mqtt.url is not None
        address = BrokerAddress.parse(mqtt.url, HUB_USER, "")
        return [f"{'mqtts' if address.tls else 'mqtt'}://{bracketed(address.host)}:{address.port}"]
    tls_host = mqtt.tls_host or mqtt.host
    ways = (
        ("mqtt", mqtt.host, broker.port),
        ("mqtts", tls_host, broker.tls_port),
        ("ws", mqtt.host, broker.ws_port),
        ("wss", tls_host, broker.wss_port),
    )
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is read here, not listened on
    return [f"{way}://{bracketed(here.get(host, host))}:{port}" for way, host, port in ways if port is not None]


def public_url_of(urls: list[str]) -> str:
    """What a farm is told to connect to where no setting says it: with TLS, if there is a way with it."""
    return next((url for url in urls if url.startswith("mqtts:")), urls[0])


def authenticate_with(database: Database, monitors: MonitorLogins, sites: SiteLogins) -> Authenticate:
    """Whose credentials a client shows: a monitor's or a site's. The hub itself is inside, and needs none.

    Who shows a certificate is the one it is for, and no other; a site needs no password then. One that is given is
    the right one all the same.
    """

    async def authenticate(shown: Credentials) -> Identity | None:
        name, password = shown.username or shown.certificate_name, shown.password
        if shown.certificate_name not in (None, name):
            raise NotAdmitted(NOT_AUTHORIZED, "certificate-of-another")
        if name is None or (password is None and shown.certificate_name is None):
            return None
        if name.startswith(USER_PREFIX):
            return None if password is None else await monitors.identify(name, password)
        if password is None:
            known = await database.read(lambda session: is_site(session, name))
        else:
            known = await sites.identify(name, password, shown.client_id)
        if not known and shown.username is None:
            raise NotAdmitted(NOT_AUTHORIZED, "certificate-of-no-site")
        return Identity("site", name) if known else None

    return authenticate


async def begin_liveness(database: Database, liveness: LivenessKeys, *, nobody_is_connected: bool) -> None:
    """What is known of the living when this process starts: with its own broker, that nobody is connected yet."""
    now = utc_now()
    if nobody_is_connected:
        await database.write(lambda session: presence.finish_all(session, now, "restart"))
    nobody = nobody_is_connected or await database.read(presence.is_empty)
    await liveness.begin_epoch(recovering=not nobody)
    await liveness.remember(await database.read(presence.last_seen))


def kept_by(settings: Settings) -> Kept:
    """How long the settings keep what is old."""
    kept = settings.retention

    def days(number: int) -> timedelta | None:
        return timedelta(days=number) if number else None

    return Kept(
        events=days(kept.events_days),
        commands=days(kept.commands_days),
        revisions=days(kept.revisions_days),
        presence=days(kept.presence_days),
        idempotency_keys=timedelta(hours=kept.idempotency_keys_hours) if kept.idempotency_keys_hours else None,
        audit=days(kept.audit_days),
    )


def database_url(settings: Settings, data_dir: DataDir) -> str:
    return settings.database.url or sqlite_url(data_dir.path)


def bracketed(host: str) -> str:
    """A host as it stands in an address with a port."""
    return f"[{host}]" if ":" in host else host


# --- HTTP -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def http_socket(settings: Settings) -> Iterator[socket.socket]:
    """The listening socket; taken before anything else starts, so that a taken port changes nothing."""
    host, port = settings.http.host, settings.http.port
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise CannotStart(f"HTTP cannot listen on {host}:{port}: {how_to_listen(error, 'http')}") from error
    with listening:
        yield listening


def how_to_listen(error: OSError, section: str, option: str = "port") -> str:
    """Why an address cannot be listened on, and which setting changes it."""
    flag = f"--{section}-port, " if option == "port" else ""
    variable = f"FEEDER_HUB_{section.upper()}__{option.upper()}"
    if error.errno == errno.EADDRINUSE:
        return f"the port is taken. Choose another one: {flag}{variable} or {section}.{option}."
    if error.errno == errno.EACCES:
        return f"ports below 1024 need special rights. Choose another one: {flag}{variable} or {section}.{option}."
    host = "tls_host" if option in ("tls_port", "wss_port") else "host"
    return f"{error.strerror or error}. {section}.{host} must be an address of this machine."


def bounds_of(settings: Settings) -> Bounds:
    """What the settings say of requests."""
    http = settings.http
    return Bounds(
        http.max_body_bytes,
        http.max_json_depth,
        http.max_json_values,
        http.max_request_line_bytes,
        http.max_head_bytes,
        http.request_timeout_s,
    )


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the hub decides in which order things stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def http_server(settings: Settings, services: Services, listening: socket.socket) -> AsyncIterator[None]:
    """HTTP on that socket, from the beginning to the end of the block."""
    headers = Headers(settings.http.hsts_s)
    app: ASGIApp = create_app(services, headers)
    if settings.http.trusted_proxies:
        app = BehindProxies(app, settings.http.trusted_proxies)
    server = Server(
        uvicorn.Config(
            app,
            http=protocol(services.bounds, headers),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # uvicorn would believe any proxy on this machine
            timeout_graceful_shutdown=HTTP_STOPS_WITHIN_S,
        )
    )
    async with (
        GoingOn(lambda: server.serve([listening]), "http") as serving,
        GoingOn(lambda: watch(server.server_state.connections), "http-bounds"),
    ):
        try:
            yield
        finally:
            services.stream.end_listeners()  # uvicorn waits for open streams
            server.should_exit = True
            await asyncio.wait({serving})


# --- the command line -------------------------------------------------------------------------------------------


def first_token(session: Session) -> str:
    """The first administrator's."""
    made = add_token(session, Role.ADMIN, None, "first-admin", utc_now())
    row = get_token_row(session, made)
    audit.record(session, audit.HUB, "create_token", target=row.id, after=token_told(row))
    return made


async def say_hello(
    settings: Settings, services: Services, listening: socket.socket, broker_urls: list[str], *, with_demo: bool
) -> None:
    """Where to look, and at the very first start the first administrator's token."""
    host, port = listening.getsockname()[:2]
    base = f"http://{bracketed(host)}:{port}"
    lines = [f"Feeder Hub {services.version} is running. Ctrl-C stops it.", ""]
    lines += [
        f"  HTTP   {base}/api/v1   (to read and to try: {base}/docs)",
        f"  MQTT   {broker_urls[0]}",
        *(f"         {url}" for url in broker_urls[1:]),
    ]
    shown = "$TOKEN"
    if not await services.database.read(has_tokens):
        shown = await services.database.write(first_token)
        lines += ["", f"  The first administrator's token, shown this once:  {shown}"]
    else:
        data_dir = shlex.quote(str(settings.data_dir))
        lines += ["", f"  A further token:  {sys.argv[0]} token add --role admin --data-dir {data_dir}"]
    if with_demo:
        lines += [
            "",
            f"  The demo farm is site `{demo.SITE}` with feeders f1 ... f{demo.FEEDERS}. Change one of them:",
            "",
            f"  curl -i -X PATCH {base}/api/v1/sites/{demo.SITE}/feeders/f1/config \\",
            f'    -H "Authorization: Bearer {shown}" -H "Content-Type: application/json" \\',
            "    -d '{\"meal_g\": 300}'",
        ]
    typer.echo("\n".join(["", *lines, ""]))
    sys.stdout.flush()


def settings_from(config_file: Path | None, **flags: object) -> Settings:
    """Settings by file, environment and these flags; a mistake in them ends the program with 2."""
    try:
        return load({name.replace("__", "."): value for name, value in flags.items()}, config_file=config_file)
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


def workplace_from(settings: Settings) -> Workplace:
    place = DataDir(settings.data_dir)
    return Workplace(place, database_url(settings, place), Topics(settings.mqtt.root))


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("feeder-hub"))
        raise typer.Exit


ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
VersionOption = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")]


@app.callback()
def feeder_hub(context: typer.Context, config: ConfigOption = None, _version: VersionOption = False) -> None:
    """Feeder Hub: fish farms, fed from afar. Settings: TOML file, FEEDER_HUB_... in the environment, then flags."""
    context.obj = lambda data_dir: workplace_from(settings_from(config, data_dir=data_dir))
    context.meta[CONFIG] = config


CONFIG: Final = "feeder-hub.config"
HttpPortOption = Annotated[int | None, typer.Option(help="TCP port for HTTP.  [default: 8080]", show_default=False)]
MqttPortOption = Annotated[
    int | None, typer.Option(help="TCP port of the embedded broker.  [default: 1883]", show_default=False)
]


@app.command()
def serve(
    context: typer.Context,
    demo_farm: Annotated[bool, typer.Option("--demo", help="With a simulated farm of four feeders.")] = False,
    data_dir: DataDirOption = None,
    http_port: HttpPortOption = None,
    mqtt_port: MqttPortOption = None,
) -> None:
    """Run the hub until Ctrl-C."""
    settings = settings_from(context.meta[CONFIG], data_dir=data_dir, http__port=http_port, mqtt__port=mqtt_port)
    logs.configure(settings.log.level, settings.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings, with_demo=demo_farm))


@app.command(name="doctor")
def check_everything(
    context: typer.Context,
    data_dir: DataDirOption = None,
    http_port: HttpPortOption = None,
    mqtt_port: MqttPortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check settings, ports, Redis, database and disk. Ends with 1 if something has to be mended, and says what."""
    settings = settings_from(context.meta[CONFIG], data_dir=data_dir, http__port=http_port, mqtt__port=mqtt_port)
    logs.configure("error", settings.log.format)
    place = DataDir(settings.data_dir)
    http, mqtt = settings.http, settings.mqtt
    if mqtt.url is None:
        broker = embedded_broker_checks(settings)
    else:
        address = BrokerAddress.parse(mqtt.url, HUB_USER, place.hub_mqtt_secret())
        broker = [checkup.broker_check(address, f"{HUB_USER}-doctor")]
    checks = (
        checkup.port_check("HTTP port", http.host, http.port, "http.port"),
        *broker,
        checkup.redis_check(settings.redis.url),
        checkup.database_check(database_url(settings, place)),
        checkup.disk_check(place.path),
    )
    doctor.examine(checks, [(item.name, item.value) for item in settings.describe()], as_json=as_json)


def embedded_broker_checks(settings: Settings) -> list[checkup.Check]:
    """Its ports and its certificates."""
    mqtt = settings.mqtt
    tls_host = mqtt.tls_host or mqtt.host
    ports = (
        ("MQTT port", mqtt.host, mqtt.port, "mqtt.port"),
        ("MQTT port with TLS", tls_host, mqtt.tls_port, "mqtt.tls_port"),
        ("MQTT WebSocket port", mqtt.host, mqtt.ws_port, "mqtt.ws_port"),
        ("MQTT WebSocket port with TLS", tls_host, mqtt.wss_port, "mqtt.wss_port"),
    )
    checks = [checkup.port_check(name, host, port, setting) for name, host, port, setting in ports if port is not None]

    async def certificates_can_be_used() -> checkup.Finding:
        try:
            tls_files(settings)
        except CannotStart as error:
            return checkup.Finding("MQTT certificates", fine=False, text=str(error))
        return checkup.Finding("MQTT certificates", fine=True, text=f"{mqtt.tls_certificate} can be used")

    return checks if mqtt.tls_certificate is None else [*checks, certificates_can_be_used]


def main() -> None:
    """Entry of the `feeder-hub` command: 0 fine, 1 it failed, 2 the command line or the settings are wrong."""
    try:
        app()
    except AWAY as error:
        typer.echo(f"The database cannot be used: {why_away(error)}. `feeder-hub doctor` says more.", err=True)
        sys.exit(1)
    except HubError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
