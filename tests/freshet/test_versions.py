"""The pointer to the active version."""

from __future__ import annotations

import pytest
import redis

from freshet import Versions


@pytest.mark.parametrize("decode", [False, True])
def test_activation_answers_what_to_roll_back_to(valkey: str, decode: bool) -> None:
    """Catches an operator who activates and no longer knows what was active."""
    with redis.Redis.from_url(valkey, decode_responses=decode) as client:
        versions = Versions(client)
        assert versions.active() is None
        assert versions.activate("v1") is None
        assert versions.activate("v2") == "v1"
        assert versions.active() == "v2"


def test_only_the_first_of_two_workers_activates(valkey: str) -> None:
    """Catches a starting worker that swaps the version under a live ranker."""
    with redis.Redis.from_url(valkey) as client:
        versions = Versions(client)
        assert versions.activate_if_none("v1")
        assert not versions.activate_if_none("v2")
        assert versions.active() == "v1"


def test_prefixes_are_apart_and_wrong_names_are_refused(valkey: str) -> None:
    """Catches one team's activation that moves another's rankers."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client, "a").activate("v1")
        assert Versions(client, "b").active() is None
        for name in ("", "a:b", "due"):
            with pytest.raises(ValueError, match="version"):
                Versions(client).activate(name)
