"""Which contract each topic holds, and what a schema registry has of them under `<topic>-value`.

Owns the table and the comparison. Must not encode records (`schemas.codec` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freshet.records import (
    DeadLetter,
    Erasure,
    Item,
    ItemFeatures,
    ItemKnowledge,
    Record,
    UserEvent,
    UserFeatures,
)
from schemas.history import kept_schemas, schema_json
from schemas.registry import RegistryClient
from streams.kafka.topics import Topics

LEVEL = "FULL_TRANSITIVE"
"""Topics are replayed from the start by workers of any release: each version must read every other."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One subject, its contract, and how it stands: `missing`, `registered`, `incompatible` (with what is there)."""

    name: str
    kind: str
    state: str
    level: str = ""
    message: str = ""

    @property
    def good(self) -> bool:
        """Whether workers can write it and a replay can read it."""
        return self.state == "registered" and self.level == LEVEL


def contracts(topics: Topics) -> dict[str, type[Record]]:
    """The contract of each topic."""
    flow: dict[str, type[Record]] = {
        topics.items: Item,
        topics.user_events: UserEvent,
        topics.item_knowledge: ItemKnowledge,
        topics.item_features: ItemFeatures,
        topics.user_features: UserFeatures,
    }
    dead_letters: dict[str, type[Record]] = {topics.dead_letters(topic): DeadLetter for topic in flow}
    return {**flow, **dead_letters, topics.erasures: Erasure}


def contract_of(topics: Topics, topic: str) -> type[Record] | None:
    """The contract of a topic by its name, also of another version than that of `topics`; None where it is none."""
    if (kind := contracts(topics).get(topic)) is not None:
        return kind
    if topic.endswith(topics.dead_letters("")):
        return DeadLetter
    stems = {topics.item_features_stem: ItemFeatures, topics.user_features_stem: UserFeatures}
    return next((kind for stem, kind in stems.items() if topic.startswith(stem)), None)


def check(registry: RegistryClient, topics: Topics) -> list[Subject]:
    """How each subject stands. Raises `RegistryUnavailable`, `RegistryRejected`."""
    found = []
    for topic, kind in contracts(topics).items():
        name, schema = f"{topic}-value", schema_json(kind)
        level = registry.level(name)
        if registry.standing(name, schema) is not None:
            found.append(Subject(name, kind.__name__, "registered", level))
        elif problems := registry.incompatibilities(name, schema):
            found.append(Subject(name, kind.__name__, "incompatible", level, "; ".join(problems)))
        else:
            found.append(Subject(name, kind.__name__, "missing", level))
    return found


def register(registry: RegistryClient, topics: Topics) -> list[Subject]:
    """Set each subject's level and register every kept version of its contract, oldest first; may be repeated.

    The past versions too: a registry that is new must be able to say of a later one whether it reads them all. Raises
    `RegistryUnavailable`, and `RegistryRejected` where one is incompatible.
    """
    for topic, kind in contracts(topics).items():
        name = f"{topic}-value"
        registry.set_level(name, LEVEL)
        for text in _versions(kind):
            registry.register(name, text)
    return check(registry, topics)


def _versions(kind: type[Record]) -> Sequence[str]:
    return [kept.text for kept in kept_schemas() if kept.kind is kind]
