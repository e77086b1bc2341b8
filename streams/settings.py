"""Settings: keyword overrides over `FRESHET_*` variables over one TOML file over defaults, checked at start.

Owns where a value comes from, and the groups together; a group's names, types, ranges and meanings stand beside its
owner (`streams/kafka/config.py`, `models/llm/config.py`, ...). Must not connect to anything.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from models.encoder.config import EncoderSettings
from models.llm.config import LlmSettings
from models.reasoner.config import ReasonerSettings
from processors.items.config import KnowledgeSettings
from schemas.registry import RegistrySettings
from schemas.setting import PREFIX, SettingError, SettingGroup, UnknownSetting, parsed, setting, shown, variable
from store.config import HistorySettings, RedisSettings, RefreshSettings, VectorSettings
from streams.kafka.config import DeadLetterSettings, KafkaSettings
from streams.worker.config import MetricsSettings, WorkerSettings

__all__ = ["Named", "SettingError", "Settings", "UnknownSetting", "every_setting"]

# Read by make, the tests and this module itself, and no settings.
OTHER_VARIABLES = frozenset({"FRESHET_CONFIG", "FRESHET_REQUIRE_SERVERS", "FRESHET_TEST_SERVERS"})
# Kubernetes gives every pod FRESHET_METRICS_PORT=tcp://10.0.0.1:80 where a service is called freshet-metrics.
_INJECTED = "tcp://"
# Too common to stand for one group: somebody else's FRESHET_PORT is no port of metrics.
_NEVER_ALONE = frozenset({"port", "host"})
_NAME = r"[A-Za-z0-9._-]+"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings(SettingGroup):
    """Everything a worker or a command can be told; see `docs/reference/settings.md`."""

    home: Path = setting(  # noqa: RUF009 - a dataclasses.field, like the others
        "~/.cache/freshet", "Folder for weights, Kafka jars, checkpoints and the embedded stack"
    )
    version: str = setting("v1", "Feature version the worker writes", pattern=_NAME)
    topic_prefix: str = setting("", "Put before every topic name and consumer group", pattern=rf"({_NAME})?")
    key_prefix: str = setting("f", "First part of every Redis key", pattern=_NAME)
    log_level: str = setting("INFO", "Least severe lines that are logged", words=("DEBUG", "INFO", "WARNING", "ERROR"))
    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
    knowledge: KnowledgeSettings = field(default_factory=KnowledgeSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    vectors: VectorSettings = field(default_factory=VectorSettings)
    reasoner: ReasonerSettings = field(default_factory=ReasonerSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    refresh: RefreshSettings = field(default_factory=RefreshSettings)
    dead_letters: DeadLetterSettings = field(default_factory=DeadLetterSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)

    def __post_init__(self) -> None:
        SettingGroup.__post_init__(self)
        object.__setattr__(self, "home", Path(self.home).expanduser())

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, file: Path | None = None, **overrides: Any) -> Settings:
        """Merge defaults, the TOML file (`file` or `FRESHET_CONFIG`), the environment and keyword overrides.

        An override is called as in `replace`. An empty variable and an override of None count as not set. Raises
        `SettingError` for an unknown name, a variable that looks like a misspelt setting, a value that does not parse,
        or one out of its range.
        """
        return cls.load_with_sources(environ, file=file, **overrides)[0]

    @classmethod
    def load_with_sources(
        cls, environ: Mapping[str, str] | None = None, *, file: Path | None = None, **overrides: Any
    ) -> tuple[Settings, dict[str, str]]:
        """As `load`, and where each value that is no default comes from, by the setting's name."""
        env = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
        path = file or (Path(env["FRESHET_CONFIG"]) if "FRESHET_CONFIG" in env else None)
        given: dict[Named, tuple[str, Any]] = {}
        for one, value in _from_file(path):
            given[one] = str(path), value
        for one, source, value in _from_environment(env):
            given[one] = source, value
        for name, value in overrides.items():
            if value is not None:
                given[_named(name)] = "option", value
        values = {one: parsed(one.name, one.field, value) for one, (_, value) in given.items()}
        return _with(cls(), values), {one.name: source for one, (source, _) in given.items()}

    def replace(self, **changes: Any) -> Settings:
        """These settings with `changes`, each called as `find` knows it."""
        return _with(self, {_named(name): value for name, value in changes.items()})

    def value(self, name: str) -> Any:
        """The value of the setting called `name`, as `find` knows it; raises `UnknownSetting`."""
        return self._of(_named(name))

    def environment(self) -> dict[str, str]:
        """The variables that give another process exactly these settings, secrets among them."""
        return {variable(one.name): _as_text(self._of(one)) for one in every_setting()}

    def _of(self, one: Named) -> Any:
        return getattr(getattr(self, one.group) if one.group else self, one.field.name)

    def __repr__(self) -> str:
        values = (f"{one.name}={shown(one.field, self._of(one))!r}" for one in every_setting())
        return f"Settings({', '.join(values)})"


class Named(NamedTuple):
    """One setting: `name` is `kafka.security`, or `kafka` for the one that its group's bare name sets."""

    group: str
    field: Field[Any]
    name: str

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and self.name == other.name

    @property
    def joined(self) -> str:
        """`kafka_security`: what a keyword, or a variable with one underscore, calls it."""
        return f"{self.group}_{self.field.name}" if self.group else self.field.name

    @property
    def default(self) -> Any:
        """What holds where nothing is said."""
        return self.field.default


def every_setting() -> Iterator[Named]:
    """All settings, group by group."""
    for f in fields(Settings):
        if f.metadata:
            yield Named("", f, f.name)
        else:
            group: type[SettingGroup] = f.default_factory  # type: ignore[assignment]
            for one in fields(group):
                yield Named(f.name, one, group.named(one.name))


def find(name: str) -> Named | None:
    """The setting that a variable without FRESHET_, or a keyword, calls: `group__name`, `group_name`, or `name` alone.

    The group may be left out where no other has a setting of that name.
    """
    wanted = name.lower().replace("__", "_")
    if one := next((one for one in every_setting() if wanted in (one.joined, one.name)), None):
        return one
    alone = [one for one in every_setting() if one.field.name == wanted and wanted not in _NEVER_ALONE]
    return alone[0] if len(alone) == 1 else None


def _named(name: str) -> Named:
    if (one := find(name)) is None:
        raise UnknownSetting(name, _meant(name))
    return one


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with(settings: Settings, values: Mapping[Named, Any]) -> Settings:
    changed: dict[str, dict[str, Any]] = {}
    for one, value in values.items():
        changed.setdefault(one.group, {})[one.field.name] = value
    own = changed.pop("", {})
    return replace(settings, **own, **{name: replace(getattr(settings, name), **new) for name, new in changed.items()})


def _from_file(path: Path | None) -> Iterator[tuple[Named, Any]]:
    """Each setting of the TOML file: `name`, or `name` in the table of its group; `group = value` is its main one."""
    if path is None:
        return
    try:
        document = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError("config", str(path), f"a readable TOML file ({error})") from error
    groups = {one.group for one in every_setting()} - {""}
    for key, value in document.items():
        table = key in groups and isinstance(value, dict)
        for name, one_value in value.items() if table else [(key, value)]:
            wanted = f"{key}.{name}" if table else name
            one = next((one for one in every_setting() if wanted in (one.name, f"{one.group}.{one.field.name}")), None)
            if one is None:
                raise UnknownSetting(wanted, _meant(wanted.replace(".", "_")))
            yield one, one_value


def _from_environment(env: Mapping[str, str]) -> Iterator[tuple[Named, str, str]]:
    """Each setting that a variable sets, with the variable; a value comes after the file that may hold it, and wins."""
    outright: list[tuple[Named, str, str]] = []
    for variable_, value in env.items():
        if not variable_.startswith(PREFIX) or variable_ in OTHER_VARIABLES or value.startswith(_INJECTED):
            continue
        name = variable_.removeprefix(PREFIX).lower()
        if one := find(name):
            outright.append((one, variable_, value))
        elif (whole := find(name.removesuffix("_file"))) and name.endswith("_file") and _may_be_a_file(whole):
            yield whole, variable_, _secret_of(name, value)
        elif meant := _meant(name):  # others may have FRESHET_ variables of their own; a slip is no other's
            raise UnknownSetting(name, meant)
    yield from outright


def _may_be_a_file(one: Named) -> bool:
    return bool(one.field.metadata["secret"] or one.field.metadata["url"])


def _secret_of(name: str, path: str) -> str:
    """What a mounted secret holds, without the line break at its end."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise SettingError(name, path, f"a readable file ({type(error).__name__})") from None


def _meant(name: str) -> str:
    known = {one.joined: one.name for one in every_setting()} | {one.name: one.name for one in every_setting()}
    close = difflib.get_close_matches(name.replace("__", "_"), known, n=1, cutoff=0.8)
    return f", did you mean {variable(known[close[0]])}?" if close else ""
