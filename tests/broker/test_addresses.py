"""Addresses as people read them, and whose they are."""

import pytest

from broker.addresses import address_of, network_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [(("192.0.2.7", 1883), "192.0.2.7:1883"), (("2001:db8::1", 1883), "[2001:db8::1]:1883"), (None, "unknown")],
)
def test_an_address_is_a_host_and_a_port(peer, address):
    assert address_of(peer) == address


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7:1883", "192.0.2.7"),
        ("::ffff:192.0.2.7:1883", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1:1883", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::9]:1883", "2001:db8:1:2::/64"),
        ("fe80::1%eth0:1883", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_is_an_ipv4_address_or_what_one_ipv6_customer_has(address, network):
    assert network_of(address) == network
