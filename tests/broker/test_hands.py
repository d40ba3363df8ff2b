"""A hand: a second connection of a site, for tools. It publishes beside the desktop and can never act in its place."""

import pytest

from hub.protocol.packets import Will

HEARTBEAT = "fh/v1/pond7/heartbeat"


async def test_a_hand_publishes_what_its_site_may_and_knocks_nobody_out(place):
    hub = await place.hub("fh/v1/#")
    site = await place.client("pond7")
    hand = await place.client("pond7", client_id="pond7.hand")
    await hand.publish(HEARTBEAT, b"beat")
    await hand.publish("fh/v1/pond8/heartbeat", b"not mine")
    await hand.publish("fh/v1/pond7/commands", b"not mine")
    assert [message[:2] for message in await hub.messages()] == [(HEARTBEAT, b"beat")]
    assert await site.so_far() == []


async def test_a_hand_hears_nothing(place):
    hand = await place.client("pond7", client_id="pond7.hand")
    codes = await hand.subscribe("fh/v1/pond7/commands", "fh/v1/pond7/feeders/+/commands", HEARTBEAT, "#")
    assert codes == (0x80, 0x80, 0x80, 0x80)


@pytest.mark.parametrize("wish", [{"clean_session": False}, {"will": Will(HEARTBEAT, b"gone", qos=1, retain=True)}])
async def test_a_hand_keeps_no_session_and_leaves_no_will(place, wish):
    peer = await place.socket()
    assert (await peer.connect("pond7", client_id="pond7.hand", **wish)).code == 0x02


async def test_the_hand_of_another_site_is_refused(place):
    for client_id in ("pond8.hand", "pond7hand", "hub", "hub-1"):
        peer = await place.socket()
        assert (await peer.connect("pond7", client_id=client_id)).code == 0x02
