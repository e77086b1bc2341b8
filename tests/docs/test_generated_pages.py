"""Pages of `docs/reference/` are what the code says today; `python -m docs.generators.NAME_page` writes one."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

import freshet
from docs.generators import cli_page, protocols_page, schemas_page, sdk_page, settings_page
from schemas.history import kept_schemas

GENERATORS = sorted(file.stem for file in (Path(__file__).parents[2] / "docs" / "generators").glob("*_page.py"))


@pytest.mark.parametrize("name", GENERATORS)
def test_page_is_current(name: str) -> None:
    """Catches a command, setting, metric, key, schema or public name that changed without its documentation."""
    generator = import_module(f"docs.generators.{name}")
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), f"run: python -m docs.generators.{name}"


def test_every_command_and_option_is_there() -> None:
    """Catches a command or option that can only be found by asking the program."""
    page = cli_page.page()
    for path, command, _ in cli_page.commands():
        if path != "freshet":
            assert f"# {path}\n" in page
        named = [one for option in command.params if not getattr(option, "hidden", False) for one in option.opts]
        for name in named:
            assert name in page or not name.startswith("--"), name


def test_every_setting_stands_in_backticks() -> None:
    """Catches a setting that cannot be found on its page."""
    page = settings_page.page()
    for name in settings_page.descriptions():
        assert f"`{name}`" in page


def test_every_field_of_every_contract_is_there() -> None:
    """Catches a field, or a kept version, that the page of schemas leaves out."""
    page = schemas_page.page()
    for kept in kept_schemas():
        section = page.partition(f"\n## {kept.kind.__name__}\n")[2].partition("\n## ")[0]
        assert f"{kept.version} (`{kept.fingerprint:016x}`)" in section
        for field in json.loads(kept.text)["fields"]:
            assert f"| `{field['name']}` |" in section


def test_every_public_name_is_there() -> None:
    """Catches a name that rankers may import and cannot look up."""
    page = sdk_page.page()
    for name in freshet.__all__:
        assert f"::: freshet.{name}\n" in page


def test_protocols_are_protocols() -> None:
    """Catches a page that documents a class as an interface after it has moved or become something else."""
    for dotted in protocols_page.PROTOCOLS:
        module, _, name = dotted.rpartition(".")
        assert getattr(getattr(import_module(module), name), "_is_protocol", False), dotted
