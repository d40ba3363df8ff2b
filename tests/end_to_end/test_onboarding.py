"""A farm gets credentials, new ones, and claims them by a code, while its desktop goes on."""

import httpx
import pytest

from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import until
from tests.end_to_end.test_logins import login


@pytest.fixture
def farm(start_farm: StartFarm) -> Farm:
    return start_farm()


def claim(farm: Farm, code: str) -> httpx.Response:
    return httpx.post(f"{farm.hub.http_url}/api/v1/claims", json={"code": code})


def test_a_rotation_cuts_nobody_off_and_ends_the_old_secret_when_the_desktop_has_the_new_one(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.desktop(site)
    session = site.get("/liveness")["session"]
    rotated = farm.api.post(site.path("/credentials")).raise_for_status()
    assert rotated.headers["Cache-Control"] == "no-store"
    answer = rotated.json()
    assert (answer["session_ended"], answer["to_do"]) == (False, None)
    assert answer["old_secret_ends_at"] is not None
    secret = answer["mqtt"]["secret"]
    assert site.put_config().status_code == 200
    assert site.get("/liveness")["session"] == session, "it has gone on all the while"
    assert login(farm, site.name, site.secret, client_id=f"{site.name}.tool") == 0
    assert login(farm, site.name, secret, client_id=f"{site.name}.tool") == 0
    desktop.leave()
    desktop.connect()  # the old one still counts
    farm.wait_known(site)
    desktop.leave()
    desktop.secret = secret
    desktop.connect()
    farm.wait_known(site)
    assert login(farm, site.name, site.secret, client_id=f"{site.name}.tool") == 5
    assert site.put_config(meal_g=300).status_code == 200


def test_when_the_overlap_is_over_the_old_secret_and_its_connections_end(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.desktop(site)
    assert farm.api.post(site.path("/credentials?overlap=1")).status_code == 200
    desktop.wait_cut_off()
    assert login(farm, site.name, site.secret) == 5
    until(lambda: "the old secret has ended" in farm.hub.log)


def test_a_technician_claims_credentials_on_the_farm_by_a_code_once(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.desktop(site)
    with farm.hub.api(farm.hub.new_token("technician", site.name)) as technician:
        made = technician.post(site.path("/claim-code"))
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    code = made.json()["code"]
    answer = claim(farm, code.lower())
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    mqtt = answer.json()["mqtt"]
    secret = mqtt.pop("secret")
    assert answer.json()["site"] == site.name
    assert mqtt == {
        "username": site.name,
        "client_id": site.name,
        "url": f"mqtt://127.0.0.1:{farm.mqtt_port()}",
        "topic_prefix": f"fh/v1/{site.name}",
    }
    assert site.alive(), "nobody was cut off"
    again = claim(farm, code)
    assert (again.status_code, again.json()["type"]) == (404, "/docs/problems#no-such-code")
    wrong = claim(farm, "7Q2K-M9RT-0XVB-4HDN")
    assert (wrong.status_code, wrong.json()) == (404, again.json())
    desktop.leave()
    desktop.secret = secret
    desktop.connect()
    farm.wait_known(site)
    assert code not in farm.hub.log
    assert secret not in farm.hub.log


def test_whoever_guesses_codes_is_slowed_and_a_code_is_only_posted(farm: Farm) -> None:
    codes = [claim(farm, f"guess {n}") for n in range(12)]
    assert [answer.status_code for answer in codes] == [404] * 10 + [429] * 2
    assert 0 < int(codes[-1].headers["Retry-After"]) <= 60
    url = f"{farm.hub.http_url}/api/v1/claims"
    assert httpx.get(url, params={"code": "guess"}).status_code == 405
    assert httpx.post(url, json={}).status_code == 422
    assert httpx.post(url, json={"code": "x" * 65}).status_code == 422


def test_farms_are_told_the_address_that_the_settings_name(start_farm: StartFarm) -> None:
    farm = start_farm(mqtt__public_url="mqtts://broker.example:8883", mqtt__root="fh/v1")
    site = farm.new_site()
    code = farm.api.post(site.path("/claim-code?overlap=0")).json()["code"]
    assert claim(farm, code).json()["mqtt"]["url"] == "mqtts://broker.example:8883"
    assert login(farm, site.name, site.secret) == 5, "without an overlap the old secret has ended"
