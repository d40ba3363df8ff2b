"""Who may publish, subscribe to and receive what: every row of the contract's table, for everybody."""

import pytest

from hub.protocol.topics import Address, Identity, Kind, Topics, is_id

TOPICS = Topics("fh/v1")
HUB, SITE, HAND = Identity("hub", "hub"), Identity("site", "pond7"), Identity("hand", "pond7")
MONITOR = Identity("monitor", "monitor-anna")
MONITOR_OF_SITE = Identity("monitor", "monitor-ben", site="pond7")
EVERYBODY = [HUB, SITE, HAND, MONITOR, MONITOR_OF_SITE]

# topic below the root | who may publish it | and retained too | who may receive it (a monitor of pond7 all below it)
TABLE = [
    ("pond7/heartbeat", {"site", "hand"}, True, {"hub", "site"}),
    ("pond7/feeders/f1/state", {"site", "hand"}, True, {"hub"}),
    ("pond7/feeders/f1/events", {"site", "hand"}, False, {"hub"}),
    ("pond7/replies/h1", {"site", "hand"}, False, {"hub"}),
    ("pond7/feeders/f1/commands", {"hub"}, False, {"hub", "site"}),
    ("pond7/commands", {"hub"}, False, {"hub", "site"}),
    ("pond8/heartbeat", set(), False, {"hub"}),
    ("pond8/feeders/f1/state", set(), False, {"hub"}),
    ("pond8/feeders/f1/events", set(), False, {"hub"}),
    ("pond8/replies/h1", set(), False, {"hub"}),
    ("pond8/feeders/f1/commands", {"hub"}, False, {"hub"}),
    ("pond8/commands", {"hub"}, False, {"hub"}),
]
UNKNOWN_TOPICS = [
    "",
    "/",
    "fh",
    "fh/v1",
    "fh/v1/",
    "fh/v1/pond7",
    "fh/v1/pond7/",
    "fh/v1//heartbeat",
    "fh/v1/pond7/heartbeat/",
    "/fh/v1/pond7/heartbeat",
    "fh/v1/pond7/heartbeat/x",
    "fh/v1/POND7/heartbeat",
    "fh/v1/-pond/heartbeat",
    "fh/v1/pond.7/heartbeat",
    "fh/v1/pond7\n/heartbeat",
    "fh/v1/päd/heartbeat",
    f"fh/v1/{'p' * 64}/heartbeat",
    "fh/v1/pond7/state",
    "fh/v1/pond7/feeders/state",
    "fh/v1/pond7/feeders//state",
    "fh/v1/pond7/feeders/F1/state",
    "fh/v1/pond7/feeders/f1/config",
    "fh/v1/pond7/feeders/f1/heartbeat",
    "fh/v1/pond7/feeders/f1/replies",
    "fh/v1/pond7/replies",
    "fh/v1/pond7/replies/H1",
    "fh/v1/pond7/replies/h1/x",
    "fh/v1/+/heartbeat",
    "fh/v1/pond7/#",
    "fh/v2/pond7/heartbeat",
    "fh/v10/pond7/heartbeat",
    "$SYS/broker/uptime",
    "$share/g/fh/v1/pond7/heartbeat",
]


@pytest.mark.parametrize(("topic", "publishers", "retained", "_readers"), TABLE)
@pytest.mark.parametrize("identity", EVERYBODY, ids=lambda identity: f"{identity.kind} {identity.name}")
def test_each_topic_is_published_by_whom_the_table_says_and_retained_only_where_it_says(
    identity: Identity, topic: str, publishers: set[str], retained: bool, _readers: set[str]
) -> None:
    allowed = identity.kind in publishers
    assert TOPICS.may_publish(identity, f"fh/v1/{topic}", retain=False) is allowed
    assert TOPICS.may_publish(identity, f"fh/v1/{topic}", retain=True) is (allowed and retained)


@pytest.mark.parametrize(("topic", "_publishers", "_retained", "readers"), TABLE)
@pytest.mark.parametrize("identity", EVERYBODY, ids=lambda identity: f"{identity.kind} {identity.name}")
def test_each_topic_is_received_and_subscribed_to_by_whom_the_table_says(
    identity: Identity, topic: str, _publishers: set[str], _retained: bool, readers: set[str]
) -> None:
    allowed = topic.startswith("pond7/") if identity is MONITOR_OF_SITE else identity.kind in readers
    assert TOPICS.may_receive(identity, f"fh/v1/{topic}") is allowed
    assert TOPICS.may_subscribe(identity, f"fh/v1/{topic}") is allowed


@pytest.mark.parametrize("topic", UNKNOWN_TOPICS)
def test_a_topic_that_the_contract_does_not_know_is_nobodys(topic: str) -> None:
    assert TOPICS.parse(topic) is None
    for identity in EVERYBODY:
        assert not TOPICS.may_publish(identity, topic, retain=False)
        assert not TOPICS.may_publish(identity, topic, retain=True)
    for identity in (SITE, HAND):
        assert not TOPICS.may_receive(identity, topic)
        assert not TOPICS.may_subscribe(identity, topic)


def test_no_topic_is_received_by_everybody_who_may_not_subscribe_to_it() -> None:
    for topic in [f"fh/v1/{row[0]}" for row in TABLE] + UNKNOWN_TOPICS:
        for identity in EVERYBODY:
            if TOPICS.may_receive(identity, topic):
                assert TOPICS.may_subscribe(identity, topic), (identity, topic)


def test_a_desktop_gets_all_of_its_own_filters() -> None:
    filters = TOPICS.desktop_filters("pond7")
    assert filters == ("fh/v1/pond7/commands", "fh/v1/pond7/feeders/+/commands", "fh/v1/pond7/heartbeat")
    assert all(TOPICS.may_subscribe(SITE, topic_filter) for topic_filter in filters)
    assert not any(TOPICS.may_subscribe(HAND, topic_filter) for topic_filter in filters)


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+",
        "+/+/+/+",
        "fh/#",
        "fh/v1/#",
        "fh/v1/+/commands",
        "fh/v1/+/heartbeat",
        "fh/v1/+/feeders/+/commands",
        "fh/v1/pond7/#",
        "fh/v1/pond7/+",
        "fh/v1/pond7/feeders/#",
        "fh/v1/pond7/feeders/+/+",
        "fh/v1/pond7/feeders/+/state",
        "fh/v1/pond7/feeders/+/commands/#",
        "fh/v1/pond7/commands/#",
        "fh/v1/pond8/feeders/+/commands",
        "fh/v1/pond/feeders/+/commands",
        "fh/v1/pond77/feeders/+/commands",
        "$share/g/fh/v1/pond7/commands",
        "$SYS/#",
        "",
    ],
)
def test_no_wildcard_lets_a_desktop_read_more_than_its_own_commands_and_heartbeat(topic_filter: str) -> None:
    assert not TOPICS.may_subscribe(SITE, topic_filter)
    assert not TOPICS.may_subscribe(HAND, topic_filter)


def test_the_hub_reads_everything_below_its_root_and_nothing_else() -> None:
    for topic_filter in (*(topic_filter for topic_filter, _qos in TOPICS.hub_filters("h1")), "fh/v1/#"):
        assert TOPICS.may_subscribe(HUB, topic_filter)
    for topic_filter in ("#", "fh/#", "fh/v1", "fh/v10/#", "$SYS/#", "+/v1/#"):
        assert not TOPICS.may_subscribe(HUB, topic_filter)
    assert not TOPICS.may_receive(HUB, "fh/v10/pond7/heartbeat")


def test_a_hubs_filters_are_what_desktops_publish_with_its_own_replies_and_no_heartbeat_is_kept_for_it() -> None:
    assert TOPICS.hub_filters("h1") == (
        ("fh/v1/+/heartbeat", 0),
        ("fh/v1/+/feeders/+/state", 1),
        ("fh/v1/+/feeders/+/events", 1),
        ("fh/v1/+/replies/h1", 1),
    )


def test_a_monitor_reads_the_brokers_own_topics_and_publishes_nothing() -> None:
    for topic_filter in ("$SYS", "$SYS/#", "$SYS/broker/+"):
        assert TOPICS.may_subscribe(MONITOR, topic_filter)
    for topic_filter in ("#", "$SYSTEM/#", "fh/v1/#", "+/broker"):
        assert not TOPICS.may_subscribe(MONITOR, topic_filter)
    assert TOPICS.may_receive(MONITOR, "$SYS/broker/uptime")
    assert not TOPICS.may_receive(MONITOR, "fh/v1/pond7/heartbeat")
    assert not TOPICS.may_publish(MONITOR, "$SYS/broker/uptime", retain=True)


def test_a_monitor_of_a_site_reads_what_is_below_it_and_nothing_beside_it() -> None:
    assert TOPICS.may_subscribe(MONITOR_OF_SITE, "$SYS/#")
    for topic_filter in ("#", "+", "+/#", "heartbeat", "feeders/+/state", "feeders/f1/#", "anything/there"):
        assert TOPICS.may_subscribe(MONITOR_OF_SITE, f"fh/v1/pond7/{topic_filter}")
    for topic_filter in (
        *("#", "fh/#", "fh/v1/#", "fh/v1/+/heartbeat", "fh/v1/pond7", "fh/v1/pond8/#", "fh/v1/pond77/#"),
        *("fh/v2/pond7/#", "+/v1/pond7/#", "$share/g/fh/v1/pond7/#", "$SYSTEM", ""),
    ):
        assert not TOPICS.may_subscribe(MONITOR_OF_SITE, topic_filter)


@pytest.mark.parametrize(
    ("client_id", "kind"),
    [
        ("pond7", "site"),
        ("pond7.hand", "hand"),
        ("pond7.pub.2", "hand"),
        ("pond7-2", None),
        ("pond77", None),
        ("pond8", None),
        ("pond8.hand", None),
        ("Pond7", None),
        ("hub-h1", None),
        ("", None),
    ],
)
def test_a_sites_client_id_is_its_own_name_or_that_of_a_hand(client_id: str, kind: str | None) -> None:
    acting = TOPICS.acting_as(SITE, client_id)
    assert acting == (None if kind is None else Identity(kind, "pond7"))  # type: ignore[arg-type]  # from the table


@pytest.mark.parametrize(
    ("client_id", "own"), [("hub", True), ("hub-h1", True), ("hub.h1", False), ("hubh1", False), ("pond7", False)]
)
def test_the_hubs_client_ids_begin_with_its_name_and_a_dash(client_id: str, own: bool) -> None:
    assert TOPICS.acting_as(HUB, client_id) == (HUB if own else None)


@pytest.mark.parametrize(
    ("client_id", "own"),
    [("monitor-anna", True), ("monitor-anna.2", True), ("monitor-anna-2", False), ("monitor-an", False), ("", False)],
)
def test_a_monitors_client_ids_begin_with_its_name_and_a_dot_which_no_name_has(client_id: str, own: bool) -> None:
    assert TOPICS.acting_as(MONITOR, client_id) == (MONITOR if own else None)


@pytest.mark.parametrize("root", ["fh/v1", "x", "a/b/c/d", "Größe/1"])
def test_topics_are_taken_apart_as_they_were_built_below_any_root(root: str) -> None:
    topics = Topics(root)
    assert topics.parse(topics.heartbeat("s")) == Address("s", Kind.HEARTBEAT)
    assert topics.parse(topics.state("s", "f")) == Address("s", Kind.STATE, feeder="f")
    assert topics.parse(topics.events("s", "f")) == Address("s", Kind.EVENTS, feeder="f")
    assert topics.parse(topics.commands("s", "f")) == Address("s", Kind.COMMANDS, feeder="f")
    assert topics.parse(topics.commands("s")) == Address("s", Kind.COMMANDS)
    assert topics.parse(topics.replies("s", "h1")) == Address("s", Kind.REPLIES, hub_id="h1")
    assert topics.parse("elsewhere/" + topics.heartbeat("s")) is None


@pytest.mark.parametrize("root", ["", "/", "/fh", "fh/", "fh//v1", "fh/+", "#", "$SYS", "$share/x", "fh\0"])
def test_a_root_that_would_leak_or_match_too_much_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="topic root"):
        Topics(root)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a", True),
        ("0", True),
        ("pond-7_b", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("", False),
        ("-a", False),
        ("_a", False),
        ("A", False),
        ("a b", False),
        ("a\n", False),
        ("٣", False),
    ],
)
def test_an_id_is_1_to_63_of_lower_case_digits_dash_and_underscore(text: str, valid: bool) -> None:
    assert is_id(text) is valid
