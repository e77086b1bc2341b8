"""Settings: where a value comes from, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.setting import SettingError, UnknownSetting, without_password
from streams.settings import Settings, every_setting


def test_later_sources_win(tmp_path: Path) -> None:
    """Catches a file that beats the environment, or a default that beats both."""
    file = tmp_path / "freshet.toml"
    file.write_text('version = "from-file"\n[reasoner]\nslots = 3\n[kafka]\npartitions = 5\n')
    env = {"FRESHET_CONFIG": str(file), "FRESHET_KAFKA__PARTITIONS": "6", "FRESHET_VERSION": "from-env"}
    settings, sources = Settings.load_with_sources(env, version="from-call", lease_s=None)
    assert (settings.reasoner.slots, settings.kafka.partitions, settings.version) == (3, 6, "from-call")
    assert settings.refresh.lease_s == 60.0
    assert sources == {
        "reasoner.slots": str(file), "kafka.partitions": "FRESHET_KAFKA__PARTITIONS", "version": "option",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["FRESHET_REFRESH__LEASE_S", "FRESHET_REFRESH_LEASE_S", "FRESHET_LEASE_S", "freshet"], ids=str
)
def test_a_variable_may_be_spelled_three_ways(name: str) -> None:
    """Catches a spelling that the reference promises and nobody reads."""
    settings = Settings.load({name: "7"}) if name != "freshet" else Settings().replace(refresh_lease_s=7.0)
    assert settings.refresh.lease_s == 7.0


@pytest.mark.parametrize("text", ["kafka = 'b:9092'", "[kafka]\nservers = 'b:9092'"])
def test_the_bare_name_of_a_group_is_its_first_setting(tmp_path: Path, text: str) -> None:
    """Catches a file that needs a table for one address."""
    file = tmp_path / "freshet.toml"
    file.write_text(text)
    assert Settings.load({}, file=file).kafka.servers == "b:9092"
    assert Settings.load({"FRESHET_KAFKA": "c:1", "FRESHET_CONFIG": str(file)}).kafka.servers == "c:1"


def test_what_kubernetes_injects_is_no_setting() -> None:
    """Catches a pod that ends because somebody has a service called freshet, or freshet-registry."""
    injected = {
        "FRESHET_PORT": "tcp://10.0.0.1:80", "FRESHET_METRICS_PORT": "tcp://10.0.0.1:80", "FRESHET_HOST": "x",
        "FRESHET_REGISTRY_PORT": "tcp://10.0.0.1:80", "FRESHET_REGISTRY_SERVICE_HOST": "10.0.0.1",
    }  # fmt: skip
    assert Settings.load(injected) == Settings()


def test_another_process_gets_exactly_these_settings() -> None:
    """Catches a setting that is lost, or parsed to another value, on the way to a child."""
    settings = Settings().replace(kafka="b:1", share=False, ratio=0.25, redis="redis://:secret@h/1", home=Path("/x"))
    assert Settings.load(settings.environment()) == settings
    assert settings.value("redis") == settings.value("redis_url") == "redis://:secret@h/1"


def test_no_two_settings_answer_to_one_variable() -> None:
    """Catches a new setting that takes another's spelling."""
    names = [one.joined for one in every_setting()] + [one.name for one in every_setting() if one.name == one.group]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("REASONER__SLOTS", "2.5", "a whole number"),
        ("REASONER__SLOTS", "0", "a number from 1 to 256"),
        ("REASONER__SLOTS", "257", "a number from 1 to 256"),
        ("REFRESH__LEASE_S", "nan", "a number at least 1"),
        ("REFRESH__LEASE_S", "soon", "a number"),
        ("REDIS", "localhost:6379", "a URL such as"),
        ("REGISTRY__AUTO_REGISTER", "maybe", "true or false"),
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


@pytest.mark.parametrize(
    "text", ["dims = [1]", "[vectors]\ndims = 16.0", "[vectors]\ndims = true", "version = 1", "[version]\nname = 'x'"]
)
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


def test_misspelled_variable_is_refused_and_a_foreign_one_is_not() -> None:
    """Catches FRESHET_KAFAK passing silently, and a variable of somebody else being refused."""
    with pytest.raises(UnknownSetting, match=r"FRESHET_KAFAK is no setting, did you mean FRESHET_KAFKA\?"):
        Settings.load({"FRESHET_KAFAK": "broker:9092"})
    with pytest.raises(UnknownSetting, match="did you mean FRESHET_KAFKA__SECURITY"):
        Settings.load({"FRESHET_KAFKA__SECURTY": "ssl"})
    assert Settings.load({"FRESHET_REQUIRE_SERVERS": "1", "FRESHET_GRAFANA_PORT": "3000", "PATH": "/bin"}) == Settings()


def test_unknown_name_in_file_or_call_is_refused(tmp_path: Path) -> None:
    """Catches a key of the file that nobody reads."""
    for text, named in (("color = 'blue'", "FRESHET_COLOR"), ("[kafka]\ncolor = 1", "FRESHET_KAFKA__COLOR")):
        (tmp_path / "freshet.toml").write_text(text)
        with pytest.raises(UnknownSetting, match=named):
            Settings.load({}, file=tmp_path / "freshet.toml")
    with pytest.raises(UnknownSetting, match="FRESHET_COLOR"):
        Settings.load({}, color="blue")


def test_empty_variable_counts_as_not_set() -> None:
    """Catches `FRESHET_SLOTS: ${SLOTS:-}` of a compose file ending every command."""
    assert Settings.load({"FRESHET_SLOTS": "", "FRESHET_VERSION": "", "FRESHET_CONFIG": ""}) == Settings()


def test_range_holds_for_changes_in_code() -> None:
    """Catches checks that only the loader makes."""
    with pytest.raises(SettingError, match="FRESHET_VECTORS__DIMS"):
        Settings().replace(dims=4)


def test_a_group_alone_shows_no_secret() -> None:
    """Catches a group that is logged, or given to a client as an address, password and all."""
    secrets = {one.joined: "hunter2" for one in every_setting() if one.field.metadata["secret"]}
    settings = Settings().replace(**secrets, security="sasl_ssl", username="u", registry="http://u:hunter2@host")
    groups = [getattr(settings, group) for group in {one.group for one in every_setting()} if group]
    assert len(groups) > 10
    for group in groups:
        assert "hunter2" not in f"{group} {group!r}", type(group)


@pytest.mark.parametrize("url", ["redis://user:hunter2@host:6379/0", "redis://:a/hunter2@host/0", "user:hunter2@host"])
def test_passwords_are_never_shown(url: str) -> None:
    """Catches a password in an error, a repr or a log line."""
    assert "hunter2" not in str(without_password(url))
    assert "hunter2" not in str(SettingError("redis", url, "a URL"))
    assert "hunter2" not in repr(Settings().replace(registry=url if "://" in url else f"http://{url}"))
    assert without_password("a:9092,b:9092") == "a:9092,b:9092"
