"""Sites' MQTT secrets."""

import pytest

from hub import sites
from hub.accounts import mqtt_password_matches
from hub.sites import rotate_secret, secret_matches
from tests.hub.conftest import SITE


def test_a_sites_own_secret_matches_and_nothing_else_does(session):
    secret = rotate_secret(session, SITE).encode()
    assert secret_matches(session, SITE, secret)
    assert not secret_matches(session, SITE, secret + b"x")
    assert not secret_matches(session, SITE, b"")
    assert not secret_matches(session, "pond8", secret)
    assert not secret_matches(session, "nowhere", secret)


@pytest.mark.parametrize("site", [SITE, "nowhere", "", "x" * 65_535])
def test_a_site_that_does_not_exist_costs_the_same_hash_so_that_nobody_learns_which_do(session, monkeypatch, site):
    rounds = []

    def matches(stored: str, secret: bytes) -> bool:
        rounds.append(stored.split("$")[2])
        return mqtt_password_matches(stored, secret)

    monkeypatch.setattr(sites, "mqtt_password_matches", matches)
    assert not secret_matches(session, site, b"a guess")
    assert rounds == ["101"]
