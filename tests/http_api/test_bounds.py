"""What a request may take, and what every answer says: bytes, depth, time, how often, from where."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from http_api.bounds import Bounds, check_json
from hub.errors import InvalidOrder
from tests.end_to_end.events import EventStream
from tests.end_to_end.hub_process import HubProcess, until
from tests.http_api.conftest import problem

WITHIN_S = 1.0
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Behind a proxy on this machine, and in a hurry; calls are limited by the address only."""
    settings = {
        "http__request_timeout_s": WITHIN_S,
        "http__max_calls_per_s": 0,
        "http__max_calls_per_s_per_address": 10,
        "http__trusted_proxies": "127.0.0.1,10.0.0.0/8",
        "http__hsts_s": 600,
    }
    yield from running(tmp_path_factory.mktemp("bounds"), **settings)


@pytest.fixture(scope="module")
def strict_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Two calls a second for each token; no proxy is trusted."""
    yield from running(tmp_path_factory.mktemp("strict"), http__max_calls_per_s=2)


def running(directory: Path, **settings: object) -> Iterator[HubProcess]:
    hub = HubProcess(directory, **settings)
    try:
        yield hub.start()
    finally:
        hub.discard()


@pytest.fixture
def api(hub: HubProcess) -> Iterator[httpx.Client]:
    with hub.api() as api:
        api.headers["X-Forwarded-For"] = "198.51.100.1"
        yield api


class Raw:
    """A connection of bytes."""

    def __init__(self, hub: HubProcess) -> None:
        self.socket = socket.create_connection(("127.0.0.1", hub.http_port), timeout=10)
        self.auth = f"Host: hub\r\nAuthorization: Bearer {hub.token}\r\nX-Forwarded-For: 198.51.100.2\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def to_the_end(self) -> bytes:
        """All that comes until the hub closes."""
        found = b""
        try:
            while some := self.socket.recv(65_536):
                found += some
        except ConnectionResetError:
            pass
        return found

    def refused(self, status: int, kind: str) -> None:
        """It is answered so, and closed; the answer says what every answer says."""
        head, _, body = self.to_the_end().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        assert first.split(" ")[1] == str(status), (head, body)
        headers = dict(line.lower().split(": ", 1) for line in lines)
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert ALWAYS.items() <= headers.items()
        assert json.loads(body)["type"].endswith(f"#{kind}")


# --- bytes and depth -----------------------------------------------------------------------------------------------


def test_too_deep_and_too_long_json_is_refused_with_the_bound_that_it_broke(api: httpx.Client) -> None:
    deep = b'{"site":' + b"[" * 32 + b"]" * 32 + b"}"
    assert "32 levels" in problem(api.post("/sites", content=deep), 422, "invalid")["detail"]
    long = b'{"site":[' + b"1," * 10_000 + b"1]}"
    assert "10000 values" in problem(api.post("/sites", content=long), 422, "invalid")["detail"]


@pytest.mark.parametrize(
    ("raw", "is_within"),
    [
        (b"[[[]]]", True),
        (b"[[[[]]]]", False),
        (b'[[["[[[[]]]]"]]]', True),
        (b'{"a":"\\"[[[[","b":{"c":{}}}', True),
        (b'{"a":{"b":{"c":{}}}}', False),
        (b"[],[],[],[]", True),  # no JSON, which its reader says
        (b'["a","a","a","a","a","a"]', True),
        (b'["a","a","a","a","a","a","a","a","a"]', False),
        (b'["a,a,a,a,a,a,a,a,a,a,a,a,a"]', True),
        (b'["never ends, [[[[,,,,,,,,', True),
        (b"[" * 60_000, False),
        (b'"' + b"\\" * 60_000 + b"[" * 5_000, True),
    ],
)
def test_what_stands_in_strings_is_neither_deep_nor_long(raw: bytes, is_within: bool) -> None:
    bounds = Bounds(json_depth=3, json_values=8)
    began_s = time.perf_counter()
    if is_within:
        check_json(raw, bounds)
    else:
        with pytest.raises(InvalidOrder):
            check_json(raw, bounds)
    assert time.perf_counter() - began_s < 0.5
    check_json(raw, Bounds(json_depth=0, json_values=0))


def test_a_long_path_and_long_headers_are_refused(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.send(f"GET /{'x' * 9000} HTTP/1.1\r\n{raw.auth}\r\n")
        raw.refused(414, "uri-too-long")
    with Raw(hub) as raw:
        raw.send(f"GET /healthz HTTP/1.1\r\n{raw.auth}X: {'x' * 40_000}\r\n\r\n")
        raw.refused(431, "head-too-large")
    with Raw(hub) as raw:
        raw.send("GET /healthz HTTP/1.1\r\n" + "X: y\r\n" * 8000)
        raw.refused(431, "head-too-large")


def test_headers_without_an_end_are_refused_at_their_bound_and_not_kept(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.send("GET /healthz HTTP/1.1\r\nX: ")
        for _ in range(100):
            try:
                raw.send("x" * 8192)
            except ConnectionError:
                break
        answer = raw.to_the_end()
        assert not answer or b" 431 " in answer


def test_requests_one_behind_the_other_are_all_answered(hub: HubProcess) -> None:
    body = " " * 60_000
    with Raw(hub) as raw:
        post = f"POST /api/v1/sites HTTP/1.1\r\n{raw.auth}Content-Length: {len(body)}\r\n\r\n{body}"
        get = "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n"
        last = "GET /healthz HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"
        raw.send(post + get + get + last)
        answers = raw.to_the_end()
    assert (answers.count(b"HTTP/1.1 422"), answers.count(b"HTTP/1.1 200")) == (1, 3)


def test_what_is_no_http_is_told_so(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.send("\x16\x03\x01 hello\r\n\r\n")
        raw.refused(400, "no-http")


# --- time ----------------------------------------------------------------------------------------------------------


def test_a_head_that_does_not_end_in_time_is_refused(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.send("GET /healthz HTTP/1.1\r\nHost: hub\r\n")
        raw.refused(408, "request-timeout")


def test_a_connection_on_which_nothing_comes_is_closed(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.refused(408, "request-timeout")


def test_a_body_that_does_not_end_in_time_is_refused(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.send(f'POST /api/v1/sites HTTP/1.1\r\n{raw.auth}Content-Length: 100\r\n\r\n{{"site"')
        raw.refused(408, "request-timeout")


def test_a_body_that_nobody_wants_keeps_no_connection_open(hub: HubProcess) -> None:
    with Raw(hub) as raw:
        raw.send(f"GET /healthz HTTP/1.1\r\n{raw.auth}Content-Length: 100000\r\n\r\n")
        until(lambda: _is_closed_after_a_byte(raw))


def _is_closed_after_a_byte(raw: Raw) -> bool:
    try:
        raw.send("x")
    except ConnectionError:
        return True
    time.sleep(0.05)  # slowly is how such a client sends
    return False


def test_a_wait_for_a_commands_end_and_an_open_stream_are_no_slow_requests(hub: HubProcess) -> None:
    with EventStream(hub) as stream, hub.api() as api:
        until(lambda: api.get("/sites").status_code == 200 and time.sleep(0.5) is None)
        assert not stream.ended.wait(3 * WITHIN_S)


# --- how often -----------------------------------------------------------------------------------------------------


def calls_until_refused(api: httpx.Client, **headers: str) -> tuple[int, httpx.Response]:
    for n in range(10_000):
        answer = api.get("/sites", headers=headers)
        if answer.status_code == 429:
            return n, answer
        assert answer.status_code == 200
    raise AssertionError("never refused")


def test_a_token_makes_so_many_calls_and_another_one_its_own(strict_hub: HubProcess) -> None:
    token = strict_hub.new_token("operator")
    with strict_hub.api(token) as api, strict_hub.api(strict_hub.new_token("viewer")) as other:
        count, answer = calls_until_refused(api, **{"X-Forwarded-For": "198.51.100.77"})
        assert count >= 20
        problem(answer, 429, "too-many-calls")
        assert 1 <= int(answer.headers["Retry-After"]) <= 20
        assert other.get("/sites").status_code == 200
        # A stop is not held up by whatever has run wild with the same token.
        stop = api.post("/sites/pond1/commands", json={"name": "stop_all"})
        problem(stop, 404, "not-found")
        assert httpx.get(f"{strict_hub.http_url}/healthz").status_code == 200


def test_an_address_makes_so_many_calls_whatever_its_tokens_and_another_one_its_own(
    hub: HubProcess, api: httpx.Client
) -> None:
    count, answer = calls_until_refused(api, **{"X-Forwarded-For": "203.0.113.5"})
    assert count >= 100
    problem(answer, 429, "too-many-calls")
    assert api.get("/sites", headers={"X-Forwarded-For": "203.0.113.6"}).status_code == 200
    with httpx.Client(base_url=f"{hub.http_url}/api/v1") as nobody:
        guess = {"X-Forwarded-For": "203.0.113.5", "Authorization": "Bearer fh_guessed"}
        problem(nobody.get("/sites", headers=guess), 429, "too-many-calls")
    # What a client says itself of where it comes from stands before what the proxy says.
    chain = "203.0.113.7, 203.0.113.5, 10.1.2.3"
    problem(api.get("/sites", headers={"X-Forwarded-For": chain}), 429, "too-many-calls")


def test_who_is_no_proxy_is_not_believed(strict_hub: HubProcess) -> None:
    with strict_hub.api(strict_hub.new_token("viewer")) as api:
        session = {"login": "nobody", "password": "wrong password"}
        answers = [
            api.post("/session", json=session, headers={"X-Forwarded-For": f"203.0.113.{n}"}).status_code
            for n in range(8)
        ]
    assert answers[-1] == 429, "each try was taken for another address's"


@pytest.mark.parametrize(
    "said",
    [
        "",
        ",",
        "unknown",
        "x" * 8000,
        "'; DROP TABLE site; --",
        "[::1",
        "::1]:x",
        "1.2.3.4:99999999",
        "999.1.1.1",
        "\xff",
    ],
)
def test_whatever_a_proxy_passes_on_is_answered(api: httpx.Client, said: str) -> None:
    headers: list[tuple[str, Any]] = [
        ("X-Forwarded-For", said.encode("latin-1")),
        ("X-Forwarded-Proto", said[:100].encode("latin-1")),
    ]
    assert api.get("/sites", headers=headers).status_code in (200, 429)


# --- what every answer says ----------------------------------------------------------------------------------------


def test_every_answer_says_what_a_browser_may_make_of_it(hub: HubProcess, api: httpx.Client) -> None:
    paths = ("/api/v1/sites", "/api/v1/nothing", "/api/v1/openapi.json", "/docs/problems", "/healthz", "/metrics", "/")
    for method in ("GET", "HEAD", "DELETE"):
        for path in paths:
            answer = api.request(method, hub.http_url + path)
            assert ALWAYS.items() <= answer.headers.items(), (method, path)
            assert answer.headers["strict-transport-security"] == "max-age=600"
    with closing(httpx.Client(base_url=hub.http_url)) as nobody:
        assert ALWAYS.items() <= nobody.get("/api/v1/sites").headers.items()


def test_without_the_setting_nobody_is_told_to_come_by_tls(strict_hub: HubProcess) -> None:
    assert "strict-transport-security" not in httpx.get(f"{strict_hub.http_url}/healthz").headers
