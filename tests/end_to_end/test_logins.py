"""Who is kept out of the hub's own broker, and how an administrator sees it."""

import contextlib
import re
import socket
import sqlite3

import httpx

from hub.protocol.packets import Connack, Connect, Decoder, encode
from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import until


def login(farm: Farm, user: str, password: str, client_id: str | None = None, source: str = "127.0.0.1") -> int:
    """The code that the broker answers with; the connection is closed."""
    address = ("127.0.0.1", farm.hub.mqtt_port)
    with socket.create_connection(address, timeout=10, source_address=(source, 0)) as opened:
        opened.sendall(encode(Connect(client_id or user, username=user, password=password.encode())))
        [answer] = Decoder().feed(opened.recv(100))
        assert isinstance(answer, Connack)
        return answer.code


def figure(farm: Farm, name: str) -> int:
    """One of the broker's figures in /metrics."""
    text = httpx.get(farm.hub.http_url + "/metrics").text
    found = re.search(rf'^feeder_hub_broker{{name="{name}"}} (\S+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def lines(farm: Farm, reason: str) -> list[str]:
    return [line for line in farm.hub.log.splitlines() if f"reason={reason}" in line]


def test_wrong_logins_are_counted_by_reason_and_logged_a_few_times(start_farm: StartFarm) -> None:
    farm = start_farm(mqtt__connect_timeout_s=1)
    site = farm.new_site()
    assert login(farm, site.name, site.secret) == 0
    codes = [login(farm, "nobody", "guess", source="127.0.0.2") for _ in range(50)]
    assert set(codes) == {3, 5}
    assert figure(farm, "refused_login-throttled") == codes.count(3) > 0
    assert figure(farm, "refused_bad-credentials") == codes.count(5)
    assert 0 < len(lines(farm, "login-throttled")) <= 5
    assert "nobody" in lines(farm, "bad-credentials")[0]
    assert login(farm, site.name, site.secret) == 0
    farm.hub.stop()
    *_, rest = lines(farm, "login-throttled")
    assert f"times={codes.count(3) - 5}" in rest


def test_a_database_that_is_down_says_unavailable_and_is_nobodys_failure(start_farm: StartFarm) -> None:
    farm = start_farm()
    site = farm.new_site()

    def rename(table: str, new_name: str) -> None:
        with contextlib.closing(sqlite3.connect(farm.hub.data_dir / "feeder-hub.sqlite", timeout=10)) as database:
            database.execute(f"ALTER TABLE {table} RENAME TO {new_name}").close()

    rename("site", "gone")
    assert [login(farm, site.name, site.secret) for _ in range(10)] == [3] * 10
    assert figure(farm, "refused_authentication-failed") == 10
    assert "no such table" in lines(farm, "authentication-failed")[0]
    rename("gone", "site")
    assert login(farm, site.name, site.secret) == 0
    assert figure(farm, "logins_delayed") == 0


def test_a_flood_of_forbidden_messages_is_counted_exactly_and_kept_as_a_few(start_farm: StartFarm) -> None:
    farm = start_farm()
    site: Site = farm.new_site()
    desktop = farm.desktop(site)
    for number in range(500):
        desktop.publish(f"elsewhere/{number}", b"x")
    until(lambda: figure(farm, "refused_foreign-publish") == 500)
    kept = until(lambda: site.get("/diagnostics")["rejected"])
    assert {entry["reason"] for entry in kept} == {"forbidden"}
    assert len(kept) <= 5
    assert len(lines(farm, "foreign-publish")) == 5
    assert "topic=fh/v1/" in lines(farm, "foreign-publish")[0]
    assert site.alive()


def test_a_site_has_a_desktop_and_so_many_tools_by_a_setting(start_farm: StartFarm) -> None:
    farm = start_farm(mqtt__max_connections_per_user=1)
    site = farm.new_site()
    desktop = farm.desktop(site)
    assert login(farm, site.name, site.secret, client_id=f"{site.name}.tool") == 3
    assert figure(farm, "refused_too-many-connections-of-user") == 1
    [kept] = until(lambda: site.get("/diagnostics")["rejected"])
    assert "too-many-connections-of-user" in kept["detail"]
    desktop.leave()
    until(lambda: login(farm, site.name, site.secret, client_id=f"{site.name}.tool") == 0)
