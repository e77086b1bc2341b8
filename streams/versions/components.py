"""What a worker makes a version of: the components that its lanes pin, by the names a manifest has.

Owns how each is found. Which lane pins what stands in the table of lanes. Must not know what becomes of a conflict:
the worker ends with that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from freshet.records import ItemFeatures, ItemKnowledge, UserFeatures
from schemas.history import fingerprint
from streams.lanes.table import LANES, lane_specs
from streams.wiring.resources import Resources


def schema_identity() -> str:
    """The contracts of what a ranker is given, each with the fingerprint of its schema."""
    return " ".join(f"{kind.__name__}@{fingerprint(kind):016x}" for kind in (ItemFeatures, UserFeatures, ItemKnowledge))


KNOWN: Mapping[str, Callable[[Resources], str]] = {
    "schema": lambda resources: schema_identity(),
    "dims": lambda resources: str(resources.settings.vectors.dims),
    "dtype": lambda resources: resources.settings.vectors.dtype,
    "encoder": lambda resources: resources.encoder.revision,
    "aligner": lambda resources: resources.aligner.revision,
    "prompts": lambda resources: resources.distillation.fingerprint,
    "reasoner": lambda resources: resources.settings.reasoner.kind,
}
"""The components that can be known before a lane runs, and how."""

LLM, CHECKPOINT = "llm", "checkpoint"
LATER = frozenset({LLM, CHECKPOINT})
"""The others: a language model is pinned when it says its name (`streams.wiring.language_model`), a checkpoint when it
is there (`streams.lanes.live_reasoner`)."""

REQUIRED = ("schema", "dims", "dtype", "encoder", "aligner", "reasoner")
"""The components without which items and users of a version are no pair: no version is activated before it has them."""


def pinned(names: Iterable[str]) -> set[str]:
    """The components that the lanes called `names` pin, sooner or later."""
    return {component for spec in lane_specs(names) for component in spec.pins}


def components(names: Iterable[str], resources: Resources) -> dict[str, str]:
    """What the lanes called `names` pin and can be known before they run. Loads models: call it from a thread."""
    wanted = pinned(names)
    # A random aligner is known by the encoder's width alone, and refreshing users asks for no encoder.
    if "encoder" not in wanted and resources.trained_aligner is None:
        wanted.discard("aligner")
    return {name: find(resources) for name, find in KNOWN.items() if name in wanted}


def required_by_lane() -> dict[str, str]:
    """Each required component with the lanes that pin it, in words."""
    lanes = {component: [spec.name for spec in LANES.values() if component in spec.pins] for component in REQUIRED}
    return {component: " or ".join(filter(None, (", ".join(n[:-1]), *n[-1:]))) for component, n in lanes.items()}
