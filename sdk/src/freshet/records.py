"""The records of the seven Avro contracts as frozen dataclasses, with the fields of the `.avsc` files in `schemas/`.

Times are integer milliseconds since the epoch (UTC). Vectors are little-endian float16 bytes. Defaults are the Avro
defaults. Must not import anything outside the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class ItemTier(IntEnum):
    """How much went into an item's vector; a higher tier replaces a lower one of the same event time."""

    TEXT = 1
    KNOWLEDGE = 2


class UserTier(IntEnum):
    """Which reasoner made a user's vectors; a higher tier replaces a lower one of the same event time."""

    FALLBACK = 1
    DIFFUSION = 2


@dataclass(frozen=True, slots=True)
class Item:
    """One product as the platform knows it (topic `items`, key = `item_id`)."""

    item_id: str
    event_time: int
    title: str
    description: str = ""
    brand: str = ""
    category: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    price: float | None = None


@dataclass(frozen=True, slots=True)
class UserEvent:
    """One event of one user (topic `user-events`, key = `user_id`)."""

    user_id: str
    item_id: str
    event_type: str
    event_time: int
    event_id: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """One piece of knowledge about an item; `quote` is verbatim item text, or None for an inferred claim.

    `normalized` is the value by the rules of the attribute catalogue, None where no rule applies.
    """

    kind: str
    name: str
    value: str
    quote: str | None = None
    inferred: bool = False
    normalized: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which agents and model made a knowledge record, from what, and at what cost."""

    agents: Sequence[str] = ()
    prompt_fingerprints: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    model_revision: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    latency_seconds: float = 0.0
    origin: str = "fresh"
    profile: str = ""
    examples: Sequence[str] = ()
    shared_from: str = ""


@dataclass(frozen=True, slots=True)
class ItemKnowledge:
    """What the agents distilled about one item (topic `item-knowledge`, key = `item_id`)."""

    item_id: str
    event_time: int
    computed_time: int
    fingerprint: str
    summary: str = ""
    claims: Sequence[Claim] = ()
    provenance: Provenance = field(default_factory=Provenance)
    source_partition: int = -1
    source_offset: int = -1
    category: Sequence[str] = ()
    absent: Sequence[str] = ()
    flags: Sequence[str] = ()
    content_fingerprint: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """The vector of one item in one feature version; `vector` is `dims` little-endian float16."""

    item_id: str
    version: str
    tier: int
    event_time: int
    computed_time: int
    dims: int
    vector: bytes
    source_partition: int = -1
    source_offset: int = -1


@dataclass(frozen=True, slots=True)
class InferredBehavior:
    """One item the user plausibly engages with beyond the log, with a confidence in [0, 1].

    A behavior that matches no item of the catalogue has an empty `item_id`, and a `text` instead.
    """

    item_id: str
    confidence: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class UserFeatures:
    """Vectors and inferred behaviors of one user in one version; vectors are `dims` little-endian float16."""

    user_id: str
    version: str
    tier: int
    event_time: int
    computed_time: int
    dims: int
    log_vector: bytes
    inferred_vector: bytes
    behaviors: Sequence[InferredBehavior] = ()
    reasoner: str = ""
    history_length: int = 0
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """One Kafka record header."""

    name: str
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed, with its bytes unchanged and the reason (topic `<topic>.dlq`)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    reason: str
    stage: str
    attempt: int
    exception: str
    message: str
    schema_id: str
    failed_time: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """An order to keep no event of a user up to `erased_time` (topic `erasures`, key = `user_digest`)."""

    user_digest: str
    erased_time: int


Record = Item | UserEvent | ItemKnowledge | ItemFeatures | UserFeatures | DeadLetter | Erasure
