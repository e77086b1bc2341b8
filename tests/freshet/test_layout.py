"""Key names: distinct for distinct things, whatever an id looks like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.layout import Keys, check_version

KEYS = Keys("f")
VERSIONED = [KEYS.item, KEYS.user, KEYS.knowledge]
SHARED = [KEYS.active(), KEYS.due(), KEYS.waiting(), KEYS.leased(), KEYS.refreshed()]
ids = st.text(max_size=6) | st.sampled_from(["", ":", "i:", "v1:i:a", "u:x", "items", "dims"])
versions = st.sampled_from(["v1", "v2", "v1.i", "i", "u", "k", "items"])


@given(st.lists(st.tuples(st.integers(0, 3), versions, ids), unique=True, max_size=40))
def test_no_two_things_share_a_key(things: list[tuple[int, str, str]]) -> None:
    """Catches an id with a colon that reads as another kind's, or another version's, key."""
    named = set(SHARED)
    expected = set()
    for kind, version, one in things:
        key = KEYS.history(one) if kind == 3 else VERSIONED[kind](version, one)
        named |= {key, KEYS.items(version), KEYS.dims(version), KEYS.deleted(version)}
        expected |= {(kind, "" if kind == 3 else version, one)}
    used = {version for _, version, _ in things}
    assert len(named) == len(SHARED) + len(expected) + 3 * len(used)


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


def test_every_key_is_documented() -> None:
    """Catches a key that a Java ranker or an operator cannot look up."""
    page = (Path(__file__).parents[2] / "docs" / "redis-layout.md").read_text(encoding="utf-8")
    for method in [name for name in vars(Keys) if not name.startswith("_") and name != "prefix"]:
        one = getattr(Keys("<p>"[1]), method)
        names = {"version": "<v>", "item_id": "<item>", "user_id": "<user>"}
        names |= {name: f"<{name}>" for name in ("fingerprint", "content", "sharing")}
        arguments = [names[name] for name in re.findall(r"\w+", str(one.__func__.__code__.co_varnames[1:]))]
        assert f"`{one(*arguments)}`".replace("`p:", "`<p>:") in page
