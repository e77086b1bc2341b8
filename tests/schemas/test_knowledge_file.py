"""Files of knowledge: reading returns what was written, in both formats."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from freshet.records import Claim, Item, ItemKnowledge, Provenance
from processors.items.distiller import InvalidKnowledge
from schemas.files import FileError
from schemas.knowledge_file import KNOWLEDGE_SCHEMA, KnowledgeFile, read_knowledge, write_parquet


def knowledge(item_id: str, fingerprint: str = "f", **fields: object) -> ItemKnowledge:
    return ItemKnowledge(
        item_id,
        1_700_000_000_000,
        2,
        fingerprint,
        "a thing",
        (Claim("attribute", "colour", "red", "RED"), Claim("audience", "", "kids", inferred=True, normalized="child")),
        Provenance(("analyst",), {"analyst": "p1"}, "m", "r", 10, 5, 1, 0.5, "shared", "cpu", ("e1",), "i0"),
        category=("a", "b"),
        absent=("size",),
        flags=("far_from_category",),
        content_fingerprint="c",
        version="v1",
        **fields,  # type: ignore[arg-type]
    )


def test_parquet_columns_are_the_records_fields() -> None:
    """Catches a new field of the contract that the parquet file would lose in silence."""
    for schema, record in (
        (KNOWLEDGE_SCHEMA, ItemKnowledge),
        (KNOWLEDGE_SCHEMA.field("claims").type.value_type, Claim),
        (KNOWLEDGE_SCHEMA.field("provenance").type, Provenance),
    ):
        assert [field.name for field in schema] == [field.name for field in dataclasses.fields(record)]


@pytest.mark.parametrize("name", ["k.jsonl", "k.parquet"])
def test_reading_returns_what_was_written(tmp_path: Path, name: str) -> None:
    """Catches a list for a tuple, a map as pairs, or a lost None."""
    file = KnowledgeFile(tmp_path / name)
    file.add(knowledge("i1"))
    file.add(ItemKnowledge("i2", 1, 2, "g"))
    file.finish()
    file.close()
    assert list(read_knowledge(tmp_path / name)) == [knowledge("i1"), ItemKnowledge("i2", 1, 2, "g")]


def test_the_last_line_of_an_item_counts_and_resolved_failures_go(tmp_path: Path) -> None:
    """Catches stale knowledge beside new, and a list of failures that only grows."""
    file = KnowledgeFile(tmp_path / "k.jsonl")
    for fingerprint in ("old", "new"):
        file.add(knowledge("i1", fingerprint))
    for item_id, fingerprint in (("i1", "new"), ("i2", "f"), ("i2", "f"), ("i3", "f")):
        file.add_failure(Item(item_id, 1, "t"), fingerprint, InvalidKnowledge("cut off", '{"a'), reason="invalid")
    file.add(knowledge("i3", "other content"))
    assert file.fingerprints() == {"i1": "new", "i3": "other content"}
    file.finish()
    assert [line["fingerprint"] for line in file.lines.read()] == ["new", "other content"]
    [failure] = file.failures.read()
    assert (failure["item_id"], failure["reason"], failure["answer"]) == ("i2", "invalid", '{"a')
    file.close()


def test_a_run_continues_from_a_parquet_file_alone(tmp_path: Path) -> None:
    """Catches hours of calls made again because only the parquet file was kept."""
    write_parquet(tmp_path / "k.parquet", [knowledge("i1")])
    file = KnowledgeFile(tmp_path / "k.parquet")
    assert file.fingerprints() == {"i1": "f"}
    assert list(file.known(["i1", "i9"])) == [knowledge("i1")]
    file.close()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """Catches a catalogue given as --out and appended to."""
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": "i1", "title": "t"}\n')
    file = KnowledgeFile(path)
    with pytest.raises(FileError, match="fingerprint"):
        file.fingerprints()
    file.close()
    with pytest.raises(FileError, match=r"items\.jsonl: record 1"):
        list(read_knowledge(path))
