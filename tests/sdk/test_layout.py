"""Key names: distinct for distinct things, whatever an id looks like."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from freshet.layout import BUCKETS, Keys, bucket_tags, check_version

KEYS = Keys("f")
VERSIONED = [KEYS.item, KEYS.user, KEYS.knowledge]
SHARED = [KEYS.active(), KEYS.previous(), KEYS.versions(), KEYS.refreshing(), KEYS.replays()]
ids = st.text(max_size=6) | st.sampled_from(["", ":", "i:", "v1:i:a", "u:x", "items", "shape"])
versions = st.sampled_from(["v1", "v2", "v1.i", "i", "u", "k", "items"])


@given(st.lists(st.tuples(st.integers(0, 3), versions, ids), unique=True, max_size=40))
def test_no_two_things_share_a_key(things: list[tuple[int, str, str]]) -> None:
    """Catches an id with a colon that reads as another kind's, or another version's, key."""
    named = set(SHARED)
    expected = set()
    for kind, version, one in things:
        key = KEYS.history(one) if kind == 3 else VERSIONED[kind](version, one)
        named |= {key, KEYS.items(version), KEYS.shape(version), KEYS.deleted(version), KEYS.due(version)}
        expected |= {(kind, "" if kind == 3 else version, one)}
    used = {version for _, version, _ in things}
    assert len(named) == len(SHARED) + len(expected) + 4 * len(used)


@pytest.mark.parametrize(
    "version", ["", "a:b", "v 1", "v*", "h", "kc", "budget", "active", "due", "waiting", "leased", "refreshed", "ü"]
)
def test_a_version_that_would_break_keys_is_refused(version: str) -> None:
    """Catches a version named like a key that belongs to no version, or with a pattern in it."""
    with pytest.raises(ValueError, match="version"):
        check_version(version)


@pytest.mark.parametrize("prefix", ["", "a:b", "*"])
def test_a_prefix_that_would_break_keys_is_refused(prefix: str) -> None:
    """Catches a prefix under which one team's keys are another's."""
    with pytest.raises(ValueError, match="prefix"):
        Keys(prefix)


def test_tags_spread_buckets_evenly_over_the_slots() -> None:
    """Catches a cluster whose nodes hold unequal shares, and tags that another language would make differently."""
    slots = [key_slot(tag.encode()) for tag in bucket_tags()]
    assert [slot // 256 for slot in slots] == list(range(BUCKETS))
    assert bucket_tags()[:4] == ("{10}", "{18}", "{113}", "{342}")


def test_what_one_call_touches_is_in_one_slot() -> None:
    """Catches a CROSSSLOT error: a bucket's entities beside its indexes, all worker state together."""
    keys = Keys("f", clustered=True)
    for one in ("a", "{b}", "ü", ""):
        bucket = keys.bucket(one)
        assert bucket == zlib.crc32(one.encode()) % BUCKETS
        mine = [keys.item("v1", one), keys.user("v1", one), keys.knowledge("v1", one)]
        mine += [keys.items("v1", bucket), keys.deleted("v1", bucket), keys.bucket_shape("v1", bucket)]
        assert len({key_slot(key.encode()) for key in mine}) == 1
    state = [keys.active(), keys.previous(), keys.history("a"), keys.due("v1"), keys.budget(), keys.shape("v1")]
    assert len({key_slot(key.encode()) for key in state}) == 1
