"""A hub with TLS: certificates of its own, certificates of its sites, and new ones under way."""

import json
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from hub.protocol.packets import Connack, Connect, Decoder, Pingreq, Pingresp, encode
from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import feeder_hub, until

WITHIN_S = 5.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def new_certificate(authority: trustme.CA, directory: Path) -> dict[str, Path]:
    """Settings of the files, which are new ones each time."""
    made = authority.issue_cert("localhost", "127.0.0.1")
    files = {"mqtt__tls_certificate": directory / "broker.pem", "mqtt__tls_key": directory / "key.pem"}
    made.cert_chain_pems[0].write_to_path(str(files["mqtt__tls_certificate"]))
    made.private_key_pem.write_to_path(str(files["mqtt__tls_key"]))
    return files


@pytest.fixture
def farm(start_farm: StartFarm, authority: trustme.CA, tmp_path: Path) -> Farm:
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    return start_farm(
        mqtt__tls_port=0,
        mqtt__tls_client_ca=tmp_path / "clients.pem",
        mqtt__tls_client_certificates="optional",
        mqtt__max_login_pause_s=0,
        **new_certificate(authority, tmp_path),
    )


class Client:
    """One TLS connection, with a certificate or without."""

    def __init__(self, farm: Farm, authority: trustme.CA, name: str | None) -> None:
        port = re.search(r"mqtts://127\.0\.0\.1:(\d+)\n", farm.hub.hello)
        assert port is not None, farm.hub.hello
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if name is not None:
            authority.issue_cert(f"{name}.example", common_name=name).configure_cert(context)
        tcp = socket.create_connection(("127.0.0.1", int(port[1])), WITHIN_S)
        self.socket = context.wrap_socket(tcp, server_hostname="localhost")

    def connect(self, client_id: str, user: str | None, password: str | None = None) -> int:
        """The code of the answer."""
        secret = None if password is None else password.encode()
        self.socket.sendall(encode(Connect(client_id, username=user, password=secret)))
        (answer,) = Decoder().feed(self.socket.recv(100))
        assert isinstance(answer, Connack)
        return answer.code

    @property
    def shown(self) -> bytes | None:
        """The broker's certificate."""
        return self.socket.getpeercert(binary_form=True)


@contextmanager
def client(farm: Farm, authority: trustme.CA, name: str | None = None) -> Iterator[Client]:
    client = Client(farm, authority, name)
    with client.socket:
        yield client


def figures(farm: Farm) -> dict[str, str]:
    """The broker's figures, as /metrics tells them."""
    return dict(re.findall(r'feeder_hub_broker{name="([^"]+)"} (\S+)', httpx.get(f"{farm.hub.http_url}/metrics").text))


def test_a_certificate_is_its_sites_and_nobody_elses(farm: Farm, authority: trustme.CA) -> None:
    site, other = farm.new_site(), farm.new_site()
    for user, password, code in (
        (None, None, 0),
        (site.name, None, 0),
        (site.name, site.secret, 0),
        (site.name, "wrong", 5),
        (other.name, None, 5),
        (other.name, other.secret, 5),
    ):
        with client(farm, authority, site.name) as its:
            assert its.connect(user or site.name, user, password) == code, (user, password)
    with client(farm, authority) as without:
        assert without.connect(site.name, site.name) == 5
    with client(farm, authority) as without:
        assert without.connect(site.name, site.name, site.secret) == 0
    with client(farm, authority, "nosuchsite") as stranger:
        assert stranger.connect("nosuchsite", None) == 5
    assert figures(farm)["refused_certificate-of-another"] == "2.0"
    assert figures(farm)["refused_certificate-of-no-site"] == "1.0"


@pytest.mark.parametrize("told", [True, False], ids=["told by SIGHUP", "noticed"])
def test_new_certificates_come_into_use_and_nobody_is_cut_off(
    farm: Farm, authority: trustme.CA, tmp_path: Path, told: bool
) -> None:
    site = farm.new_site()
    with client(farm, authority, site.name) as old:
        assert old.connect(site.name, None) == 0
        new_certificate(authority, tmp_path)
        if told:
            farm.hub.child.send(signal.SIGHUP)
            until(lambda: figures(farm).get("certificate_reloads"))
        with client(farm, authority) as new:
            assert new.shown != old.shown
        assert figures(farm)["certificate_reloads"] == "1.0"
        old.socket.sendall(encode(Pingreq()))
        assert Decoder().feed(old.socket.recv(100)) == [Pingresp()]


@pytest.mark.parametrize("option", ["certificate", "key", "client_ca"])
def test_a_file_that_cannot_be_used_is_told_with_its_setting_before_anything_begins(
    authority: trustme.CA, tmp_path: Path, option: str
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    settings: dict[str, object] = {
        **new_certificate(authority, tmp_path),
        "mqtt__tls_port": 0,
        "mqtt__tls_client_ca": tmp_path / "clients.pem",
        "mqtt__tls_client_certificates": "required",
    }
    settings[f"mqtt__tls_{option}"] = tmp_path / "missing.pem"
    done = feeder_hub("serve", "--data-dir", tmp_path / "data", **settings)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    for name in (str(tmp_path / "missing.pem"), f"FEEDER_HUB_MQTT__TLS_{option.upper()}", f"mqtt.tls_{option}"):
        assert name in done.stderr
    assert not (tmp_path / "data").exists()

    doctor = feeder_hub("doctor", "--json", "--data-dir", tmp_path / "data", **settings)
    assert doctor.returncode == 1
    assert f"mqtt.tls_{option}" in doctor.stdout


def test_doctor_takes_the_ports_and_the_certificates_that_serve_takes(authority: trustme.CA, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {**new_certificate(authority, tmp_path), "mqtt__tls_port": taken.getsockname()[1]}
        told = feeder_hub("doctor", "--json", "--data-dir", tmp_path, **settings).stdout
    fine = {finding["name"]: finding["fine"] for finding in json.loads(told)["findings"]}
    assert (fine["MQTT port with TLS"], fine["MQTT certificates"]) == (False, True)
