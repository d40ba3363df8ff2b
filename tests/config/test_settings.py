"""Settings: which source wins, what a fault says, and that the example file tells the truth."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from config.settings import NAMES, Settings, SettingsError, load
from config.urls import masked

EXAMPLE = Path(__file__).parents[2] / "config" / "example.toml"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(environ: Mapping[str, str] = {}, toml: str = "", flags: Mapping[str, object] = {}) -> str:
    Path("faulty.toml").write_text(toml)
    with pytest.raises(SettingsError) as raised:
        load(flags, config_file=Path("faulty.toml"), environ=environ)
    return str(raised.value)


def test_what_the_command_line_client_reads_may_stand_beside_the_settings() -> None:
    assert load(environ={"FEEDER_HUB_URL": "https://hub.example", "FEEDER_HUB_TOKEN": "x"}) == Settings()


def test_nothing_given_is_the_defaults() -> None:
    assert load(environ={}) == Settings()


def test_each_source_is_stronger_than_the_one_below(tmp_path: Path) -> None:
    Path("feeder-hub.toml").write_text(
        'http = {port = 1, host = "file"}\n[mqtt]\nport = 1\nroot = "file"\n[log]\nlevel = "error"\n'
    )
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "FEEDER_HUB_HTTP__PORT").write_text("2\n")
    (secrets / "FEEDER_HUB_MQTT__ROOT").write_text("secret\n")
    (secrets / "FEEDER_HUB_MQTT__PORT").write_text("2\n")
    (secrets / "tls.key").write_text("somebody else's")
    environ = {
        "FEEDER_HUB_SECRETS_DIR": str(secrets),
        "FEEDER_HUB_HTTP__PORT": "3",
        "FEEDER_HUB_MQTT__PORT": "3",
        "PATH": "/bin",
    }
    settings = load({"http.port": 4, "mqtt.port": None}, environ=environ)
    assert (settings.http.port, settings.mqtt.port) == (4, 3)
    assert (settings.mqtt.root, settings.http.host, settings.log.level) == ("secret", "file", "error")


def test_the_file_is_the_flag_then_the_variable_then_the_one_that_lies_here() -> None:
    for number, name in enumerate(["feeder-hub.toml", "variable.toml", "flag.toml"], start=1):
        Path(name).write_text(f"http.port = {number}")
    variable = {"FEEDER_HUB_CONFIG": "variable.toml"}
    assert load(environ={}).http.port == 1
    assert load(environ=variable).http.port == 2
    assert load(environ=variable, config_file=Path("flag.toml")).http.port == 3


def test_an_empty_variable_is_not_set() -> None:
    assert load(environ={"FEEDER_HUB_MQTT__URL": ""}).mqtt.url is None


def test_overrides_may_be_nested() -> None:
    assert load({"http": {"port": 81}, "data_dir": Path("d")}, environ={}).http.port == 81


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("FEEDER_HUB_HTTP__PROT", "FEEDER_HUB_HTTP__PORT"),
        ("FEEDER_HUB_HTP__PORT", "FEEDER_HUB_HTTP__PORT"),
        ("FEEDER_HUB_DATADIR", "FEEDER_HUB_DATA_DIR"),
        ("FEEDER_HUB_MQTT_URL", "FEEDER_HUB_MQTT__URL"),
        ("FEEDER_HUB_CONFG", "FEEDER_HUB_CONFIG"),
        ("FEEDER_HUB_LIVENESS__TTL", "FEEDER_HUB_LIVENESS__TTL_S"),
        ("FEEDER_HUB_LOG__LEVEL__X", "FEEDER_HUB_LOG__LEVEL"),
    ],
)
def test_a_misspelt_variable_stops_with_its_name_and_the_nearest_right_one(variable: str, nearest: str) -> None:
    text = faults({variable: "1"})
    assert f"{variable}: there is no such setting; did you mean {nearest}?" in text


def test_a_misspelt_key_stops_with_its_name_and_the_nearest_right_one() -> None:
    text = faults(toml='hosts = "x"\n[htpp]\nport = 1\n[commands]\ntimeout = 3')
    assert "htpp.port in faulty.toml: there is no such setting; did you mean http.port in faulty.toml?" in text
    assert "did you mean commands.timeout_s in faulty.toml?" in text
    assert "hosts in faulty.toml" in text


def test_a_misspelt_secret_stops_with_its_name() -> None:
    Path("secrets").mkdir()
    Path("secrets/FEEDER_HUB_REDIS_URL").write_text("redis://:hunter2@h")
    text = faults({"FEEDER_HUB_SECRETS_DIR": "secrets"})
    assert "did you mean secrets/FEEDER_HUB_REDIS__URL?" in text
    assert "hunter2" not in text


def test_all_faults_come_at_once_with_where_they_were_made() -> None:
    text = faults(
        {"FEEDER_HUB_HTTP__PORT": "70000", "FEEDER_HUB_LOG": "info", "FEEDER_HUB_SECRETS_DIR": "missing"},
        toml="[stream]\nkeep_events = 'many'\n[liveness]\nttl_s = nan",
        flags={"log.level": "loud"},
    )
    assert "FEEDER_HUB_HTTP__PORT: Input should be less than or equal to 65535, not '70000'" in text
    assert "FEEDER_HUB_LOG is a section, not a setting; it has log.level, log.format" in text
    assert "stream.keep_events in faulty.toml: Input should be a valid integer" in text
    assert "liveness.ttl_s in faulty.toml" in text
    assert "log.level on the command line" in text
    assert "FEEDER_HUB_SECRETS_DIR missing" in text
    assert len(text.splitlines()) == 7, text


def test_a_file_that_is_missing_or_no_toml_is_named() -> None:
    assert "faulty.toml" in faults(toml="port 8080")
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        load(config_file=Path("missing.toml"), environ={})


def test_heartbeats_must_come_more_often_than_the_ttl() -> None:
    assert "heartbeat_s (3) must be less than ttl_s (3)" in faults(toml="liveness = {ttl_s = 3, heartbeat_s = 3}")
    assert "liveness.ttl_s" in faults(toml="[liveness]\nttl_s = 0")
    short = load({"liveness.ttl_s": 3, "liveness.heartbeat_s": 1}, environ={}).liveness
    assert (short.ttl_s, short.heartbeat_s) == (3.0, 1.0)


def test_a_ttl_alone_brings_its_heartbeat_along() -> None:
    assert load({"liveness.ttl_s": 5}, environ={}).liveness.heartbeat_s == 4.0
    assert Settings().liveness.heartbeat_s == 20.0


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("mqtt.url", "mqtt://hub:a%40b@broker:1884"),
        ("mqtt.url", "mqtts://[::1]:8883"),
        ("redis.url", "rediss://:pw@redis:6380/1"),
        ("redis.url", "unix:///run/redis.sock?db=0"),
        ("database.url", "postgresql://hub:pw@db/feeder_hub"),
        ("database.url", "sqlite:////var/lib/hub.db"),
        ("mqtt.root", "fish farm/v1"),
        ("hub.id", "hub-1_a"),
    ],
)
def test_a_right_value_is_kept_as_it_is(name: str, good: str) -> None:
    values = {setting.name: setting.value for setting in load({name: good}, environ={}).describe()}
    assert values[name] == masked(good)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("mqtt.url", "http://hub:hunter2@broker"),
        ("mqtt.url", "mqtt://hub:hunter2@broker/fh"),
        ("mqtt.url", "mqtt://hub:hunter2/x@broker"),
        ("mqtt.url", "mqtt://hub:hunter2@"),
        ("redis.url", "redis://"),
        ("redis.url", "hunter2"),
        ("database.url", "mysql://hub:hunter2@db/x"),
        ("mqtt.root", "fh/#"),
        ("mqtt.root", "$SYS/x"),
        ("mqtt.root", "fh/"),
        ("hub.id", "Hub"),
        ("hub.id", "h" * 64),
    ],
)
def test_a_wrong_value_is_refused_without_showing_a_password(name: str, bad: str) -> None:
    text = faults(flags={name: bad})
    assert f"{name} on the command line" in text
    assert "hunter2" not in text


def test_no_password_is_shown_when_settings_are_printed_or_described() -> None:
    settings = load(
        {
            "mqtt.url": "mqtt://hub:hunter2@broker",
            "redis.url": "redis://redis/0?password=hunter2&db=1",
            "database.url": "postgresql://hub:hunter2%40@db/x",
        },
        environ={},
    )
    shown = {setting.name: setting.value for setting in settings.describe()}
    assert "hunter2" not in f"{settings!r} {settings} {shown}"
    assert shown["mqtt.url"] == "mqtt://hub:***@broker"
    assert shown["redis.url"] == "redis://redis/0?password=***&db=1"
    assert masked("redis://:p@ss/word@redis/0") == "redis://:***@redis/0"
    assert masked("mqtt://us@er:hunter2@broker") == "mqtt://us@er:***@broker"
    assert masked("unix:///run/redis.sock?db=0") == "unix:///run/redis.sock?db=0"


def test_the_example_file_names_every_setting_with_its_default_and_description() -> None:
    text = EXAMPLE.read_text()
    assert load(config_file=EXAMPLE, environ={}) == Settings(), "as it is, it changes nothing"
    tables = tomllib.loads(re.sub(r"(?m)^#(?=[a-z])", "", text))
    written = {
        f"{section}.{key}" if isinstance(table, dict) else section: value
        for section, table in tables.items()
        for key, value in (table.items() if isinstance(table, dict) else [("", table)])
    }
    assert tuple(written) == NAMES
    paragraphs = re.sub(r"(?m)^(?:# .*\n)+", lambda lines: lines[0].replace("\n# ", " "), text)
    examples = {setting.name: written[setting.name] for setting in Settings().describe() if setting.value == "not set"}
    load(examples | {"mqtt.tls_client_certificates": "optional"}, environ={})
    for setting in Settings().describe():
        if setting.name in examples:
            assert "Not set: " in setting.description
        else:
            assert str(written[setting.name]) == setting.value
        assert f"# {setting.description}\n#{setting.name.rpartition('.')[2]} = " in paragraphs


TLS = "tls_certificate = 'c.pem'\ntls_key = 'k.pem'\n"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("tls_port = 8883", "tls_port and wss_port need tls_certificate and tls_key"),
        ("wss_port = 8084\ntls_key = 'k.pem'", "tls_port and wss_port need tls_certificate and tls_key"),
        (TLS + "tls_client_ca = 'ca.pem'", "tls_client_ca and tls_client_certificates"),
        (TLS + "tls_client_certificates = 'required'", "tls_client_ca and tls_client_certificates"),
        ("ws_origins = ['https://farm.example/page']", "mqtt.ws_origins in faulty.toml"),
        ("ws_origins = ['farm.example']", "'farm.example' is no page's address"),
    ],
)
def test_settings_of_listeners_that_do_not_go_together_are_said(toml: str, said: str) -> None:
    assert said in faults(toml=f"[mqtt]\n{toml}")


def test_several_origins_fit_into_one_variable() -> None:
    settings = load(environ={"FEEDER_HUB_MQTT__WS_ORIGINS": "https://farm.example, http://localhost:3000"})
    assert settings.mqtt.ws_origins == ("https://farm.example", "http://localhost:3000")


def test_files_may_be_in_the_home_directory() -> None:
    key = load({"mqtt.tls_key": "~/key.pem"}, environ={}).mqtt.tls_key
    assert key == Path("~/key.pem").expanduser()


def test_what_counts_for_today_is_kept_for_longer_than_a_day() -> None:
    assert load(environ={"FEEDER_HUB_RETENTION__EVENTS_DAYS": "2"}).retention.events_days == 2
    with pytest.raises(SettingsError, match=r"retention\.events_days|EVENTS_DAYS"):
        load(environ={"FEEDER_HUB_RETENTION__EVENTS_DAYS": "1"})
