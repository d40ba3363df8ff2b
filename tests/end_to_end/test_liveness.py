"""Alive or not: wills, expiry, replays and take-overs, as the hub tells them."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.conftest import TTL_S, running_farm
from tests.end_to_end.desktop import CONFIG, ScriptedDesktop
from tests.end_to_end.events import EventStream
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import until


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with running_farm(tmp_path_factory.mktemp("hub"), liveness__ttl_s=TTL_S, commands__timeout_s=2) as farm:
        yield farm


def ends_of(site: Site) -> list[str | None]:
    """How the site's spans ended, the newest first."""
    return [span["ended_by"] for span in site.get("/presence")["items"]]


def test_a_desktop_that_is_killed_is_not_alive_at_once_by_its_will(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.simulated_farm(site)
    with EventStream(farm.hub, query=f"?site={site.name}") as stream:
        desktop.kill()
        killed_s = time.monotonic()
        until(lambda: site.alive() is False, TTL_S / 2)
        stream.wait_for("liveness", alive=False, ended_by="will")
        assert time.monotonic() - killed_s < TTL_S / 2
        desktop.start()
        stream.wait_for("liveness", 10, alive=True)
        farm.wait_known(site)
    assert ends_of(site) == [None, "will"]


def test_a_frozen_desktop_is_not_alive_after_its_time_and_a_change_is_refused_fast(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.simulated_farm(site)
    with EventStream(farm.hub, query=f"?site={site.name}") as stream:
        desktop.freeze()
        until(lambda: site.alive() is False, TTL_S + 1)
        stream.wait_for("liveness", 1.5, alive=False, ended_by="expired")

        took_s = [refused_in_s(site) for _ in range(3)]
        assert min(took_s) < 0.05

        desktop.thaw()
        until(site.alive, 10)
        stream.wait_for("liveness", 10, alive=True)
        farm.wait_known(site)
        assert site.put_config().status_code == 200
    assert len(stream.of("liveness", alive=False)) == 1
    assert len([end for end in ends_of(site) if end == "expired"]) == 1
    assert [command["name"] for command in site.get("/commands")["items"]] == ["set_config"]


def refused_in_s(site: Site) -> float:
    began_s = time.monotonic()
    answer: httpx.Response = site.api.put(site.path("/feeders/f1/config"), json=CONFIG)
    took_s = time.monotonic() - began_s
    assert (answer.status_code, answer.json()["type"].partition("#")[2]) == (409, "desktop-offline")
    return took_s


def test_a_desktop_that_says_goodbye_is_not_alive_and_its_will_stays_unused(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.simulated_farm(site)
    assert desktop.stop().code == 0
    until(lambda: site.alive() is False, TTL_S / 2)
    assert ends_of(site) == ["shutdown"]


def test_heartbeats_keep_a_site_alive_in_one_span(farm: Farm) -> None:
    site = farm.new_site()
    farm.desktop(site)
    since = site.get("/liveness")["since"]
    ends_at_s = time.monotonic() + 2 * TTL_S

    def is_over() -> bool:
        assert site.alive() is True
        return time.monotonic() > ends_at_s

    until(is_over, 3 * TTL_S, every_s=0.1)
    live = site.get("/liveness")
    assert live["since"] == since
    assert 0 < live["expires_in_s"] <= TTL_S
    assert ends_of(site) == [None]


def test_a_late_will_of_an_old_session_leaves_the_new_one_alive(farm: Farm) -> None:
    site = farm.new_site()
    old = farm.desktop(site)
    with EventStream(farm.hub, query=f"?site={site.name}") as stream:
        new = farm.desktop(site)  # with the same client id: the broker ends the old connection and publishes its will
        old.wait_cut_off()
        new.publish("heartbeat", {"online": False, "session": old.session}, retain=True)  # and it comes late as well
        until(lambda: site.get("/liveness")["session"] == new.session)
        ends_at_s = time.monotonic() + TTL_S
        until(lambda: site.alive() is True and time.monotonic() > ends_at_s, TTL_S + 2, every_s=0.1)
        assert site.put_config().status_code == 200
    assert len(stream.of("liveness", alive=True, session=new.session)) == 1
    assert stream.of("liveness", alive=False, session=new.session) == []


def test_a_late_heartbeat_of_a_session_that_has_ended_raises_no_dead(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.desktop(site)
    ended = desktop.session
    desktop.vanish()
    until(lambda: site.alive() is False)
    desktop.connect(beating=False)
    desktop.publish("heartbeat", desktop.heartbeat(1000) | {"session": ended}, retain=True)
    stays_dead(site)


def test_a_heartbeat_that_counts_no_further_renews_nothing(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.desktop(site, connected=False)
    desktop.connect(beating=False)
    desktop.publish("heartbeat", desktop.heartbeat(7), retain=True)
    until(site.alive)
    ends_at_s = time.monotonic() + TTL_S + 1

    def again() -> bool:
        desktop.publish("heartbeat", desktop.heartbeat(7), retain=True)
        return site.alive() is False

    until(again, TTL_S + 1, every_s=0.1)
    assert time.monotonic() < ends_at_s


def stays_dead(site: Site) -> None:
    """For long enough that a heartbeat would have been taken in."""
    ends_at_s = time.monotonic() + 0.5

    def is_over() -> bool:
        assert site.alive() is False
        return time.monotonic() > ends_at_s

    until(is_over)


def test_nobody_is_alive_before_the_first_heartbeat(farm: Farm) -> None:
    site = farm.new_site()
    assert site.alive() is False
    desktop: ScriptedDesktop = farm.desktop(site, connected=False)
    desktop.connect(beating=False)
    stays_dead(site)
    assert site.get("/presence")["items"] == []
