"""The two tries, against a plain reading of section 4.7."""

from hypothesis import given
from hypothesis import strategies as st

from broker.router import Retained, Subscriptions
from hub.protocol.packets import Publish

LEVELS = st.sampled_from(["a", "b", "", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.sampled_from([["#"], []]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)


def matches(topic_filter: str, topic: str) -> bool:
    """Section 4.7, read aloud."""
    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))


@given(st.lists(st.tuples(FILTERS, st.sampled_from("xyz"), st.integers(0, 2))), st.data(), TOPICS)
def test_a_topic_finds_each_subscriber_once_with_its_highest_qos(granted, data, topic):
    trie: Subscriptions[str] = Subscriptions()
    model: dict[tuple[str, str], int] = {}
    for topic_filter, who, qos in granted:
        trie.add(topic_filter, who, qos)
        model[topic_filter, who] = qos
    for key in data.draw(st.lists(st.sampled_from(sorted(model)), unique=True) if model else st.just([])):
        trie.remove(*key)
        del model[key]
    expected: dict[str, int] = {}
    for (topic_filter, who), qos in model.items():
        if matches(topic_filter, topic):
            expected[who] = max(qos, expected.get(who, 0))
    assert trie.match(topic) == expected


@given(st.lists(st.tuples(FILTERS, st.sampled_from("xyz"))))
def test_what_is_taken_back_leaves_nothing_behind(granted):
    trie: Subscriptions[str] = Subscriptions()
    for topic_filter, who in granted:
        trie.add(topic_filter, who, 0)
    for topic_filter, who in set(granted):
        trie.remove(topic_filter, who)
    assert not trie._root.below
    assert not trie._root.whole


@given(st.lists(st.tuples(TOPICS, st.binary(max_size=1))), FILTERS)
def test_a_filter_finds_the_last_retained_message_of_each_topic(published, topic_filter):
    trie = Retained()
    model: dict[str, bytes] = {}
    for topic, payload in published:
        trie.store(Publish(topic, payload))
        model[topic] = payload
    kept = {topic: payload for topic, payload in model.items() if payload}
    assert len(trie) == len(kept)
    found = {message.topic: message.payload for message in trie.match(topic_filter)}
    assert found == {topic: payload for topic, payload in kept.items() if matches(topic_filter, topic)}
    for topic in kept:
        trie.store(Publish(topic))
    assert len(trie) == 0
    assert not trie._root.below
