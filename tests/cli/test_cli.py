"""The command line's frame: every command of the table exists, and asking for help costs nothing."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists(name: str) -> None:
    """Catches a line of the table that names a module or command which is not there."""
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, click.Command)
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_help_imports_nothing_heavy() -> None:
    """Catches a `freshet --help` that takes seconds because a command imports torch."""
    code = (
        "import sys; from click.testing import CliRunner; from cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "print({'torch', 'faust', 'confluent_kafka', 'pyarrow', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_wrong_setting_is_exit_code_2() -> None:
    """Catches a traceback where a setting has a wrong value."""
    result = CliRunner().invoke(main, ["topics", "list"], env={"FRESHET_PARTITIONS": "many"})
    assert result.exit_code == 2
    assert "FRESHET_KAFKA__PARTITIONS" in result.output
    assert "'many'" in result.output
