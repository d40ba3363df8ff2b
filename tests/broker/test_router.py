"""The two tries, against a plain reading of section 4.7."""

from hypothesis import given
from hypothesis import strategies as st

from broker.router import Held, Retained, Subscriptions
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


PUBLISHED = st.lists(st.tuples(TOPICS, st.binary(max_size=2), st.sampled_from(["pond7", "pond8"])))


@given(PUBLISHED, FILTERS)
def test_a_filter_finds_the_last_retained_message_of_each_topic(published, topic_filter):
    trie = Retained()
    model: dict[str, tuple[bytes, str]] = {}
    for topic, payload, owner in published:
        if payload:
            trie.store(Publish(topic, payload), owner)
            model[topic] = payload, owner
        else:
            assert trie.clear(topic) == (model.pop(topic, None) is not None)
    assert len(trie) == len(model)
    found = {message.topic: message.payload for message in trie.match(topic_filter)}
    assert found == {topic: payload for topic, (payload, _) in model.items() if matches(topic_filter, topic)}
    for owner in ("pond7", "pond8"):
        mine = {topic: payload for topic, (payload, who) in model.items() if who == owner}
        assert sorted(trie.topics_of(owner)) == sorted(mine)
        assert trie.held_by(owner) == Held(len(mine), sum(map(len, mine.values())))
    for topic in model:
        assert trie.clear(topic)
    assert len(trie) == 0
    assert not trie._root.below
