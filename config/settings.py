"""Every setting of Feeder Hub, typed, with its unit and default, and `load`, which reads them.

Strongest first: flags, FEEDER_HUB_... in the environment (`__` between section and setting), the files in
FEEDER_HUB_SECRETS_DIR, the TOML file (--config, FEEDER_HUB_CONFIG or ./feeder-hub.toml), the defaults.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from config.sources import (
    CONFIG_VARIABLE,
    SECRETS_DIR_VARIABLE,
    Entry,
    SourceError,
    from_environment,
    from_overrides,
    from_secrets,
    from_toml,
    misspelt,
    nested,
)
from config.urls import DatabaseUrl, MqttUrl, PublicMqttUrl, RedisUrl, masked

DEFAULT_FILE = Path("feeder-hub.toml")


class SettingsError(Exception):
    """The settings cannot be used; the text names every fault, one a line, and never shows a password."""


class Setting(NamedTuple):
    """One setting as `doctor` prints it: dotted name, value with passwords masked, what it means."""

    name: str
    value: str
    description: str


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
TopicRoot = Annotated[str, StringConstraints(pattern=r"^[^$+#/\x00][^+#/\x00]*(/[^+#/\x00]+)*$", max_length=200)]
Host = Annotated[str, StringConstraints(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
File = Annotated[Path, AfterValidator(Path.expanduser)]


def _split(value: object) -> object:
    """A variable holds several values with commas between them."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value != "*" and not re.fullmatch(r"https?://[^/\s]+", value):
            raise ValueError(f"{value!r} is no page's address such as https://farm.example, without a path, nor *")
    return values


Origins = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_origins)]


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is no IP address or network: {error}") from error
    return values


Networks = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_networks)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hub(_Section):
    id: Name | None = Field(
        None,
        description="This hub process in the topics of replies; two processes on one broker need two ids. "
        "Not set: made once and kept in the data directory.",
    )


class Http(_Section):
    host: Host = Field("127.0.0.1", description="The address that HTTP listens on; 0.0.0.0 is every one.")
    port: Port = Field(8080, description="The TCP port that HTTP listens on; 0 takes a free one.")
    max_body_bytes: int = Field(65_536, ge=1024, description="The longest body of a request, in bytes.")
    max_json_depth: int = Field(
        32, ge=0, description="How many levels of objects and lists a body may have, one in the other. 0 is no limit."
    )
    max_json_values: int = Field(
        10_000, ge=0, description="How many values the JSON of a body may have, in all. 0 is no limit."
    )
    max_request_line_bytes: int = Field(
        8192, ge=0, description="The longest path of a request with its query, in bytes. 0 is no limit."
    )
    max_head_bytes: int = Field(
        32_768, ge=0, description="The longest head of a request, in bytes: its path and its headers. 0 is no limit."
    )
    request_timeout_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long a request may take to come, from its first byte to its last, in seconds; a new "
        "connection has as long for its first one. 0 is no limit. What is done then has bounds of its own: a command "
        "is waited for as long as commands.timeout_s says.",
    )
    max_calls_per_s: int = Field(
        300,
        ge=0,
        description="How many calls one person or token may make in a second, over ten seconds, at all hub processes "
        "together. 0 is no limit.",
    )
    max_calls_per_s_per_address: int = Field(
        600,
        ge=0,
        description="How many calls may come from one IPv4 address or IPv6 /64, likewise. 0 is no limit.",
    )
    trusted_proxies: Networks = Field(
        (),
        description='The addresses and networks of reverse proxies, such as ["127.0.0.1", "10.0.0.0/8"]: what they say '
        "in X-Forwarded-For and X-Forwarded-Proto is believed, and of nobody else.",
    )
    hsts_s: int = Field(
        0,
        ge=0,
        description="For how long browsers that came over TLS are to come over TLS only, in seconds "
        "(Strict-Transport-Security); 31536000 is a year. Only where TLS stands in front. 0: they are not told.",
    )


class Mqtt(_Section):
    host: Host = Field(
        "127.0.0.1", description="The address that the embedded broker listens on without TLS; 0.0.0.0 is every one."
    )
    port: Port = Field(1883, description="The TCP port that the embedded broker listens on; 0 takes a free one.")
    tls_host: Host | None = Field(
        None,
        description="The address that it listens on with TLS (tls_port, wss_port). Not set: the same as host.",
    )
    tls_port: Port | None = Field(
        None, description="The TCP port for MQTT over TLS; it needs tls_certificate and tls_key. Not set: none."
    )
    tls_certificate: File | None = Field(
        None,
        description="The file with the broker's certificate, and behind it those that lead to its authority, in PEM "
        "format. A changed file is noticed; SIGHUP has it read at once. Not set: no TLS.",
    )
    tls_key: File | None = Field(
        None,
        description="The file with the certificate's private key, without a passphrase, in PEM format. "
        "Not set: no TLS.",
    )
    tls_client_ca: File | None = Field(
        None,
        description="The file with the authorities whose client certificates are believed, in PEM format. The common "
        "name (CN) of such a certificate is the site it is for. Not set: none are.",
    )
    tls_client_certificates: Literal["none", "optional", "required"] = Field(
        "none",
        description="Whether a client shows a certificate that tls_client_ca signed: none, optional, required. "
        "One that does is that site, and needs no password.",
    )
    ws_port: Port | None = Field(None, description="The TCP port for MQTT over WebSocket. Not set: none.")
    wss_port: Port | None = Field(
        None,
        description="The TCP port for MQTT over WebSocket over TLS; it needs tls_certificate and tls_key. "
        "Not set: none.",
    )
    ws_origins: Origins = Field(
        (),
        description='The web pages that may connect by WebSocket, such as ["https://farm.example"]; ["*"] is every '
        "page. Programs that are no browser need not be listed.",
    )
    url: MqttUrl | None = Field(
        None,
        repr=False,
        description="An external broker, mqtt:// or mqtts://, user:password@ allowed. Not set: the embedded broker.",
    )
    public_url: PublicMqttUrl | None = Field(
        None,
        description="What farms are told to connect to when they claim their credentials, as they reach it. "
        "Not set: the broker's own address, with TLS if it has that.",
    )
    root: TopicRoot = Field("fh/v1", description="What every topic starts with; the desktops must have the same.")
    connect_timeout_s: Seconds = Field(
        5.0,
        description="How long a connection may take until it is set up, in seconds, on either side; at the embedded "
        "broker from its acceptance to its login.",
    )
    max_packet_bytes: int = Field(
        70_000,
        ge=1024,
        le=268_435_455,
        description="The longest MQTT packet the embedded broker takes, in bytes: a payload of 64 KiB, "
        "the contract's limit, and room for its topic and header.",
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="How many clients the embedded broker takes at a time. "
        "Each needs an open file: raise the limit of the process (ulimit -n) with it.",
    )
    max_connections_per_address: int = Field(
        100,
        ge=1,
        description="How many of them may come from one IPv4 address or IPv6 /64. "
        "Where a proxy stands in front, all come from the proxy's.",
    )
    max_unauthenticated: int = Field(
        500, ge=1, description="How many of them may be there without having logged in yet."
    )
    max_connections_per_user: int = Field(
        10,
        ge=1,
        description="How many connections one site may have at a time: its desktop, which is always let in, "
        "and tools beside it.",
    )
    max_login_pause_s: float = Field(
        60.0,
        ge=0,
        le=600,
        description="The longest pause of an address that goes on logging in with wrong passwords, in seconds. "
        "0 where a proxy stands in front, so that every client has the proxy's address.",
    )
    max_messages_per_s: int = Field(
        1000,
        ge=0,
        description="How many messages the embedded broker takes from one site in a second, over some time and all "
        "its connections; one that sends more is read more slowly. Ten pings count as one message. 0 is no limit.",
    )
    max_messages_with_hub: int = Field(
        100,
        ge=1,
        le=10_000,
        description="How many messages of one site the hub may have that it has not stored yet; a site with more is "
        "read more slowly, so that it delays nobody else's.",
    )
    max_bytes_with_hub: int = Field(
        1_048_576, ge=1024, le=16_777_216, description="How many bytes these may have, without their topics."
    )
    max_in_flight: int = Field(
        20,
        ge=1,
        le=65_535,
        description="How many messages of QoS 1 and 2 are on their way to one client, not acknowledged yet.",
    )
    max_queued_messages: int = Field(
        1000,
        ge=1,
        description="How many more may wait for one client. When it is too much the oldest of QoS 0 go first; then "
        "its session ends, and it finds none when it comes again.",
    )
    max_queued_bytes: int = Field(
        4_194_304, ge=1024, description="How many bytes these may have, without their topics."
    )
    max_buffered_bytes: int = Field(
        4_194_304,
        ge=1024,
        description="How many bytes of answers one client may leave unread until its connection ends.",
    )
    max_subscriptions: int = Field(100, ge=1, description="How many topic filters one client may subscribe to.")
    max_unreleased: int = Field(
        1000, ge=1, le=65_535, description="How many messages of QoS 2 one client may send without releasing them."
    )
    max_sessions: int = Field(
        20_000, ge=1, description="How many sessions there may be: of clients that are there, and stored ones."
    )
    max_retained_messages: int = Field(
        1000, ge=1, description="How many retained messages one site may have; a new one too many is not kept."
    )
    max_retained_bytes: int = Field(
        8_388_608, ge=1024, description="How many bytes these may have, without their topics."
    )
    max_topic_length: int = Field(512, ge=1, le=65_535, description="How many characters a topic may have.")
    max_topic_levels: int = Field(32, ge=1, le=65_535, description="How many levels a topic may have.")
    sys_interval_s: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="How often the embedded broker publishes its figures below $SYS/, in seconds; 0 for never.",
    )

    @model_validator(mode="after")
    def _tls_has_its_files(self) -> Self:
        if (self.tls_port, self.wss_port) != (None, None) and None in (self.tls_certificate, self.tls_key):
            raise ValueError("tls_port and wss_port need tls_certificate and tls_key")
        if (self.tls_client_ca is None) != (self.tls_client_certificates == "none"):
            raise ValueError("tls_client_ca and tls_client_certificates (optional or required) need each other")
        return self


class Redis(_Section):
    url: RedisUrl | None = Field(
        None,
        repr=False,
        description="An external Redis or Valkey (6.2 or newer), redis://, rediss:// or unix://. "
        "Not set: an embedded one, as a child process.",
    )


class Database(_Section):
    url: DatabaseUrl | None = Field(
        None,
        repr=False,
        description="An external database, postgresql://user:password@host/name (extra `postgres`), "
        "or sqlite:///path. Not set: SQLite in the data directory.",
    )


class Liveness(_Section):
    ttl_s: Seconds = Field(
        25.0,
        description="How long a site is alive after its last heartbeat, in seconds; more than heartbeat_s.",
    )
    heartbeat_s: Seconds = Field(
        default_factory=lambda given: given["ttl_s"] * 0.8,
        description="How often a desktop is to send a heartbeat, in seconds; normally four fifths of ttl_s.",
    )

    @model_validator(mode="after")
    def _heartbeats_keep_a_site_alive(self) -> Self:
        if self.heartbeat_s >= self.ttl_s:
            raise ValueError(
                f"heartbeat_s ({self.heartbeat_s:g}) must be less than ttl_s ({self.ttl_s:g}), "
                "or a healthy site counts as dead between two heartbeats"
            )
        return self


class Commands(_Section):
    timeout_s: Seconds = Field(
        10.0, description="How long a command may take until its outcome counts as unknown, in seconds."
    )


def _longer_than_a_local_day(days: int) -> int:
    if days == 1:
        raise ValueError("must be 0 or at least 2: a local day may have 25 hours, and all of it counts for the limits")
    return days


Days = Annotated[int, Field(ge=0, le=36_500), AfterValidator(_longer_than_a_local_day)]


class Retention(_Section):
    events_days: Days = Field(
        1095, description="How long meals, doses and other events of feeders are kept, in days. 0 is for ever."
    )
    commands_days: Days = Field(
        365,
        description="How long commands are kept after their end, in days; what is open stays, and so does a change of "
        "config as long as its revision. 0 is for ever.",
    )
    revisions_days: Days = Field(
        0,
        description="How long revisions of configs are kept, in days; those that feeders have, or are to have, stay. "
        "0 is for ever.",
    )
    presence_days: Days = Field(
        365, description="How long it is kept when each desktop was there, in days. 0 is for ever."
    )
    idempotency_keys_hours: int = Field(
        24,
        ge=0,
        le=8760,
        description="How long an Idempotency-Key stands for its order, in hours. "
        "0 is for as long as the command is kept.",
    )
    audit_days: Days = Field(
        0, description="How long the audit is kept: who changed what, and who was refused, in days. 0 is for ever."
    )


class Stream(_Section):
    keep_events: int = Field(
        10_000, ge=1, description="How many events the live stream keeps for pages that connect again."
    )
    max_per_caller: int = Field(
        20,
        ge=0,
        description="How many live streams one person or token may have open at a time, at each hub process. "
        "0 is no limit.",
    )


class Log(_Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe message that is logged: debug, info, warning, error."
    )
    format: Literal["console", "json"] = Field(
        "console", description="How a log line looks: console for people, json for programs."
    )


def _described(section: BaseModel, above: str = "") -> Iterable[Setting]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _described(value, f"{above}{key}.")
        else:
            text = "not set" if value is None else masked(str(list(value) if isinstance(value, tuple) else value))
            yield Setting(above + key, text, field.description or "")


class Settings(_Section):
    """All settings. Immutable; printing it shows no URL, because a URL may hold a password."""

    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        Path("data"), description="The directory for everything the hub keeps; made if it is not there."
    )
    hub: Hub = Hub()
    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    redis: Redis = Redis()
    database: Database = Database()
    liveness: Liveness = Liveness()
    commands: Commands = Commands()
    retention: Retention = Retention()
    stream: Stream = Stream()
    log: Log = Log()

    def describe(self) -> list[Setting]:
        """Every setting with its value, in the order of config/example.toml."""
        return list(_described(self))


NAMES = tuple(setting.name for setting in Settings().describe())


def load(
    overrides: Mapping[str, object] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read all sources and check what they say.

    `overrides` are the flags, by dotted name (`{"http.port": 8081}`) or nested; None is a flag not given.
    Raises SettingsError with all faults at once.
    """
    faults: list[str] = []
    given: dict[str, Entry] = {}
    for source in _weakest_first(overrides or {}, config_file, environ):
        try:
            for entry in source:
                if fault := misspelt(entry, NAMES):
                    faults.append(fault)
                else:
                    given[entry.name] = entry
        except SourceError as error:
            faults.append(str(error))
    settings = Settings()
    try:
        settings = Settings.model_validate(nested({name: entry.value for name, entry in given.items()}))
    except ValidationError as error:
        faults += [
            _fault(".".join(map(str, each["loc"])), each["msg"], given)
            for each in error.errors()
            if each["type"] != "default_factory_not_called"  # a default that follows from a value at fault
        ]
    if faults:
        raise SettingsError("The settings cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))
    return settings


def _weakest_first(
    overrides: Mapping[str, object], config_file: Path | None, environ: Mapping[str, str]
) -> Iterable[Iterable[Entry]]:
    named_file = config_file or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named_file or DEFAULT_FILE.exists():
        yield from_toml(named_file or DEFAULT_FILE)
    if secrets_dir := environ.get(SECRETS_DIR_VARIABLE):
        yield from_secrets(Path(secrets_dir))
    yield from_environment(environ)
    yield from_overrides(overrides)


def _fault(name: str, message: str, given: Mapping[str, Entry]) -> str:
    message = message.removeprefix("Value error, ")
    if name not in given:  # a rule between settings, which the section as a whole broke
        places = [entry.place for entry in given.values() if entry.name.startswith(name + ".")]
        return f"{name}: {message} (set by {', '.join(places)})"
    shown = "" if name.endswith("url") else f", not {given[name].value!r}"
    return f"{given[name].place}: {message}{shown}"
