"""From files and settings to the configuration that knowledge is made by.

Owns how an attribute catalogue and worked examples are read. Must not know what agents make of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.encoder.encoder import TextEncoder
from processors.items.agents import UnknownAgentSet
from processors.items.attribute_catalogue import AttributeCatalogue, CatalogueError
from processors.items.distiller import DistillationConfig
from processors.items.examples import ExampleBank, annotated_examples, own_examples
from schemas.annotated import Annotated, read_annotated
from schemas.files import FileError, read_table
from streams.settings import SettingError, Settings


def read_catalogue(path: Path) -> AttributeCatalogue:
    """An attribute catalogue from parquet, CSV, JSON lines, or a JSON list of rows; raises `FileError`."""
    try:
        return AttributeCatalogue.from_rows(_rows(path))
    except CatalogueError as error:
        raise FileError(f"{path}: {error}") from error


def make_distillation_config(
    encoder: TextEncoder | None,
    *,
    profile: str,
    catalogue: AttributeCatalogue | None = None,
    examples: Sequence[Annotated] = (),
    shown: int = 3,
) -> DistillationConfig:
    """The configuration of the agent set `profile`; `examples` are annotated items beside the bank of the package."""
    bank = own_examples(encoder)
    if catalogue is not None and examples:
        items, products = [row.item for row in examples], [row.product for row in examples]
        noted = annotated_examples(items, [row.gold for row in examples], catalogue, products=products)
        by_item = dict(zip((item.item_id for item in items), products, strict=True))
        bank = ExampleBank((*bank.examples, *noted.examples), encoder, products=by_item)
    return DistillationConfig(profile, catalogue, bank, shown, encoder)


def distillation_config(settings: Settings, encoder: TextEncoder | None) -> DistillationConfig:
    """What the settings ask for; raises `SettingError` where a file or a name is wrong."""
    try:
        catalogue = (
            read_catalogue(Path(settings.knowledge.catalogue).expanduser()) if settings.knowledge.catalogue else None
        )
    except FileError as error:
        raise SettingError(
            "knowledge.catalogue", settings.knowledge.catalogue, f"an attribute catalogue ({error})"
        ) from error
    try:
        annotated = (
            read_annotated(Path(settings.knowledge.examples).expanduser()) if settings.knowledge.examples else []
        )
    except FileError as error:
        raise SettingError(
            "knowledge.examples", settings.knowledge.examples, f"items with annotated attributes ({error})"
        ) from error
    try:
        return make_distillation_config(
            encoder,
            profile=settings.knowledge.agents,
            catalogue=catalogue,
            examples=annotated,
        )
    except UnknownAgentSet as error:
        raise SettingError(
            "knowledge.agents", settings.knowledge.agents, f"an agent set or a list of agents ({error})"
        ) from error


def _rows(path: Path) -> list[Mapping[str, Any]]:
    if path.suffix == ".json":
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            rows = None  # JSON lines, perhaps
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            return rows
    rows = read_table(path).to_pylist()
    return list(rows)
