"""TLS by Debian's nginx, with the configuration that docs/admin.md shows."""

import base64
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.desktop import CONFIG
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import Child, environment, until

NAME = "hub.example"
DOCS = Path(__file__).parents[2] / "docs" / "admin.md"
# What a distribution's own nginx.conf says around it; started by root it would give up the right to these directories.
AROUND = """\
{user}
daemon off;
pid {dir}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
{inside}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port: int = once.getsockname()[1]
        return port


@dataclass(frozen=True)
class Proxy:
    farm: Farm
    port: int
    plain_port: int
    context: ssl.SSLContext

    def client(self, token: str | None = None) -> httpx.Client:
        """As a browser has it, that knows the name."""
        headers = {"Host": f"{NAME}:{self.port}"} | ({"Authorization": f"Bearer {token}"} if token else {})
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}/api/v1", headers=headers, verify=self.context)

    def connect(self) -> ssl.SSLSocket:
        tcp = socket.create_connection(("127.0.0.1", self.port), 10)
        return self.context.wrap_socket(tcp, server_hostname=NAME)


@pytest.fixture
def proxy(start_farm: StartFarm, needs_program: Callable[[str], str], tmp_path: Path) -> Iterator[Proxy]:
    nginx = needs_program("nginx")
    port, plain_port = free_port(), free_port()
    farm = start_farm(
        http__trusted_proxies="127.0.0.1",
        http__hsts_s=31_536_000,
        mqtt__ws_port=0,
        mqtt__ws_origins=f"https://{NAME}",
        stream__max_per_caller=1,
    )
    websocket = re.search(r"ws://127\.0\.0\.1:(\d+)\n", farm.hub.hello)
    assert websocket is not None, farm.hub.hello
    authority = trustme.CA()
    made = authority.issue_cert(NAME, "127.0.0.1")
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "fullchain.pem"))
    made.private_key_pem.write_to_path(str(tmp_path / "privkey.pem"))
    [inside] = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for shown, here in (
        ("127.0.0.1:8080", f"127.0.0.1:{farm.hub.http_port}"),
        ("127.0.0.1:8083", f"127.0.0.1:{websocket[1]}"),
        ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("listen [::]:80;", ""),
        ("listen [::]:443 ssl http2;", ""),
        (f"/etc/letsencrypt/live/{NAME}", str(tmp_path)),
    ):
        assert inside.count(shown) in (1, 2), shown
        inside = inside.replace(shown, here)
    conf = tmp_path / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(AROUND.format(user=user, dir=tmp_path, inside=inside))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    child = Child([nginx, "-p", str(tmp_path), "-c", str(conf)], tmp_path / "nginx.out", environment({}))
    try:
        until(lambda: _listens(port, child))
        yield Proxy(farm, port, plain_port, context)
    finally:
        child.stop()


def _listens(port: int, child: Child) -> bool:
    assert child.process.poll() is None, child.output.read_text() + child.log.read_text()
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_calls_go_through_and_say_that_they_came_over_tls(proxy: Proxy) -> None:
    farm = proxy.farm
    site = farm.new_site()
    farm.desktop(site)
    with proxy.client(farm.hub.token) as api:
        changed = api.put(site.path("/feeders/f1/config"), json=CONFIG | {"meal_g": 287})
        assert (changed.status_code, changed.json()["meal_g"]) == (200, 287)
        assert changed.headers["strict-transport-security"] == "max-age=31536000"
        assert changed.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert api.post("/sites", content=b" " * 70_000).status_code == 413
        for path in ("/metrics", "/readyz", "/healthz"):
            assert api.get(f"https://127.0.0.1:{proxy.port}{path}").status_code == 404
    plain = httpx.get(f"http://127.0.0.1:{proxy.plain_port}/api/v1/sites?limit=5", headers={"Host": NAME})
    assert (plain.status_code, plain.headers["location"]) == (308, f"https://{NAME}/api/v1/sites?limit=5")


def test_a_person_logs_in_with_a_cookie_for_tls_only_and_changes_something_from_the_hubs_own_pages(
    proxy: Proxy,
) -> None:
    made = proxy.farm.hub.cli_json("person", "add", "anna", "--role", "admin")
    with proxy.client() as browser:
        login = {"login": "anna", "password": made["password"]}
        ours = {"Origin": f"https://{NAME}:{proxy.port}"}
        entered = browser.post("/session", json=login, headers=ours)
        assert entered.status_code < 300, entered.text
        assert "secure" in entered.headers["set-cookie"].lower()
        cookie = {"Cookie": entered.headers["set-cookie"].partition(";")[0]}
        assert browser.post("/sites", json={"site": "pond-a", "feeders": 1}, headers=ours | cookie).status_code < 300
        foreign = {"Origin": "https://elsewhere.example"}
        assert browser.post("/sites", json={"site": "pond-b"}, headers=foreign | cookie).status_code == 403


def test_what_a_client_says_of_where_it_comes_from_is_not_believed(proxy: Proxy) -> None:
    with proxy.client() as stranger:
        statuses = [
            stranger.post(
                "/session",
                json={"login": "nobody", "password": "wrong password"},
                headers={"X-Forwarded-For": f"203.0.113.{n}"},
            ).status_code
            for n in range(8)
        ]
    assert statuses[-1] == 429, statuses


def test_events_come_at_once_and_a_client_that_leaves_is_noticed(proxy: Proxy) -> None:
    site = proxy.farm.new_site()
    request = (
        f"GET /api/v1/events HTTP/1.1\r\nHost: {NAME}:{proxy.port}\r\n"
        f"Authorization: Bearer {proxy.farm.hub.token}\r\n\r\n"
    ).encode()
    for _ in range(2):  # there is room for one stream only: the second finds the first gone
        until(lambda: _opens(proxy, request, site.path(), proxy.farm), 10)


def _opens(proxy: Proxy, request: bytes, path: str, farm: Farm) -> bool:
    with proxy.connect() as stream:
        stream.sendall(request)
        if not _came(stream, b"retry:"):
            return False
        began_s = time.monotonic()
        ordered = farm.api.post(f"{path}/commands", json={"name": "stop_all"})
        assert ordered.status_code < 300, ordered.text
        assert _came(stream, b"event: command")
        assert time.monotonic() - began_s < 2
    return True


def _came(stream: ssl.SSLSocket, text: bytes) -> bool:
    """Whether it comes; False: an answer that is no stream."""
    found = b""
    while text not in found:
        some = stream.recv(65_536)
        if not some or b" 429 " in found:
            return False
        found += some
    return True


def test_mqtt_over_websocket_goes_through_for_the_hubs_own_pages(proxy: Proxy) -> None:
    for origin, status in ((f"https://{NAME}", b"101"), ("https://elsewhere.example", b"403")):
        key = base64.b64encode(os.urandom(16)).decode()
        with proxy.connect() as page:
            page.sendall(
                (
                    f"GET /mqtt HTTP/1.1\r\nHost: {NAME}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\n"
                    f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                    "Sec-WebSocket-Protocol: mqtt\r\n\r\n"
                ).encode()
            )
            assert page.recv(4096).split(b" ")[1] == status
