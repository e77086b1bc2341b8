"""From files and settings to a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from schemas.files import FileError
from streams.settings import SettingError, Settings
from streams.wiring.distillation import distillation_config, read_catalogue

ROWS = [
    {"category": "Tea", "attribute": "Brand", "definition": 'Who makes it, "as\nprinted"', "rule": ""},
    {"category": "Tea", "attribute": "Size", "definition": "", "rule": "to grams"},
]


def written(folder: Path, kind: str) -> Path:
    file = folder / f"catalogue.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif kind == "csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(ROWS), file)
    else:
        file.write_text(json.dumps(ROWS) if kind == "json" else "\n".join(map(json.dumps, ROWS)))
    return file


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "jsonl"])
def test_a_catalogue_is_read_from_every_form(tmp_path: Path, kind: str) -> None:
    """Catches a form of file that the documentation names and the reader does not know."""
    [category] = read_catalogue(written(tmp_path, kind)).categories
    assert [(one.name, one.rule) for one in category.attributes] == [("Brand", ""), ("Size", "to grams")]


def test_what_is_no_catalogue_is_named(tmp_path: Path) -> None:
    """Catches a traceback where a file name is wanted."""
    file = tmp_path / "wrong.json"
    file.write_text('{"a": 1}\n')
    with pytest.raises(FileError, match=r"wrong\.json"):
        read_catalogue(file)


def test_the_settings_make_the_recipe(tmp_path: Path) -> None:
    """Catches a setting that nothing follows."""
    items = tmp_path / "items.jsonl"
    gold = json.dumps({"Brand": ["Acme"], "Size": []})
    items.write_text(json.dumps({"item_id": "i", "title": "Acme tea", "category": "Tea", "attributes": gold}))
    distillation = distillation_config(
        Settings.load({}, knowledge_agents="full", catalogue=str(written(tmp_path, "csv")), examples=str(items)),
        None,
    )
    assert distillation.agent_set == ("attribute_analyst", "need_analyst", "critic")
    assert distillation.catalogue is not None
    assert distillation.examples == 3
    assert "i" in {one.example_id for one in distillation.bank.examples}


@pytest.mark.parametrize(("name", "wrong"), [("agents", "gpu"), ("catalogue", "no.csv"), ("examples", "no.jsonl")])
def test_a_wrong_setting_names_itself(name: str, wrong: str) -> None:
    """Catches a worker that starts without the catalogue it was told to follow."""
    with pytest.raises(SettingError, match=f"FRESHET_KNOWLEDGE__{name.upper()}"):
        distillation_config(Settings.load({}, **{name: wrong}), None)
