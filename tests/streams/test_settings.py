"""Settings; run as a script, this writes `docs/settings.md`."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generators.settings_page import page
from streams.settings import SettingError, Settings, UnknownSetting, without_password

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_page_is_current() -> None:
    """Catches a setting added or changed without its documentation."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.streams.test_settings"


def test_later_sources_win(tmp_path: Path) -> None:
    """Catches a file that beats the environment, or a default that beats both."""
    file = tmp_path / "freshet.toml"
    file.write_text('slots = 3\npartitions = 5\nversion = "from-file"\n')
    env = {"FRESHET_CONFIG": str(file), "FRESHET_PARTITIONS": "7", "FRESHET_VERSION": "from-env"}
    settings = Settings.load(env, version="from-call", lease_s=None)
    assert (settings.slots, settings.partitions, settings.version, settings.lease_s) == (3, 7, "from-call", 60.0)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("SLOTS", "2.5", "a whole number"),
        ("SLOTS", "0", "a number from 1 to 256"),
        ("SLOTS", "257", "a number from 1 to 256"),
        ("LEASE_S", "nan", "a number at least 1"),
        ("LEASE_S", "soon", "a number"),
        ("REDIS", "localhost:6379", "a URL such as"),
        ("REGISTRY_AUTO_REGISTER", "maybe", "true or false"),
        ("VERSION", "a:b", "letters, digits"),
        ("KEY_PREFIX", "f*", "letters, digits"),
        ("TOPIC_PREFIX", "a b", "letters, digits"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("CONFIG", "/no/such/file.toml", "a readable TOML file"),
    ],
)
def test_wrong_value_names_the_setting(name: str, value: str, wanted: str) -> None:
    """Catches a wrong value that passes, or an error from which nobody can tell what to change."""
    with pytest.raises(SettingError) as caught:
        Settings.load({f"FRESHET_{name}": value})
    assert str(caught.value).startswith(f"FRESHET_{name} is ")
    assert wanted in str(caught.value)


@pytest.mark.parametrize("text", ["slots = [1]", "slots = 2.0", "slots = true", "version = 1", "[redis]\nurl = 'x'"])
def test_wrong_toml_type_is_refused(tmp_path: Path, text: str) -> None:
    """Catches a table or list that becomes a string such as "{'url': 'x'}"."""
    file = tmp_path / "freshet.toml"
    file.write_text(text)
    with pytest.raises(SettingError):
        Settings.load({}, file=file)


def test_unreadable_file_is_a_setting_error(tmp_path: Path) -> None:
    """Catches a traceback for a file that is not TOML, or not text."""
    for data in (b"slots = ", b"\xff\xfe"):
        (tmp_path / "freshet.toml").write_bytes(data)
        with pytest.raises(SettingError, match="readable TOML"):
            Settings.load({}, file=tmp_path / "freshet.toml")


def test_misspelt_variable_is_refused_and_a_foreign_one_is_not() -> None:
    """Catches FRESHET_KAFAK passing silently, and a variable of somebody else being refused."""
    with pytest.raises(UnknownSetting, match="FRESHET_KAFAK is no setting, did you mean FRESHET_KAFKA"):
        Settings.load({"FRESHET_KAFAK": "broker:9092"})
    assert Settings.load({"FRESHET_REQUIRE_SERVERS": "1", "FRESHET_GRAFANA_PORT": "3000", "PATH": "/bin"}) == Settings()


def test_unknown_name_in_file_or_call_is_refused(tmp_path: Path) -> None:
    """Catches a key of the file that nobody reads."""
    (tmp_path / "freshet.toml").write_text("colour = 'blue'")
    with pytest.raises(UnknownSetting, match="FRESHET_COLOUR"):
        Settings.load({}, file=tmp_path / "freshet.toml")
    with pytest.raises(UnknownSetting, match="FRESHET_COLOUR"):
        Settings.load({}, colour="blue")


def test_empty_variable_counts_as_not_set() -> None:
    """Catches `FRESHET_SLOTS: ${SLOTS:-}` of a compose file ending every command."""
    assert Settings.load({"FRESHET_SLOTS": "", "FRESHET_VERSION": "", "FRESHET_CONFIG": ""}) == Settings()


def test_range_holds_for_direct_construction() -> None:
    """Catches checks that only the loader makes."""
    with pytest.raises(SettingError, match="FRESHET_DIMS"):
        Settings(dims=4)


@pytest.mark.parametrize("url", ["redis://user:hunter2@host:6379/0", "redis://:a/hunter2@host/0", "user:hunter2@host"])
def test_passwords_are_never_shown(url: str) -> None:
    """Catches a password in an error, a repr or a log line."""
    assert "hunter2" not in str(without_password(url))
    assert "hunter2" not in str(SettingError("redis", url, "a URL"))
    assert "hunter2" not in repr(Settings(registry=url if "://" in url else f"http://{url}"))
    assert without_password("a:9092,b:9092") == "a:9092,b:9092"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
