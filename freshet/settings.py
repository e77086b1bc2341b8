"""Settings: `FRESHET_*` variables over one TOML file over defaults, checked at start.

Owns every setting's name, type, default and meaning (the table in `docs/settings.md` is generated from here). Must not
connect to anything.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


class SettingError(ValueError):
    """A setting has a value it must not have; the message names the setting, the value and what is wanted."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        shown = "a secret" if name.lower().endswith(("password", "secret")) else repr(value)
        super().__init__(f"{variable(name)} is {shown}, wanted {wanted}")
        self.name = name


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"FRESHET_{name.upper()}"


def _setting(default: Any, about: str, *, least: float | None = None, most: float | None = None) -> Any:
    return field(default=default, metadata={"about": about, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a worker, a command or a reader can be told; see `docs/settings.md`."""

    kafka: str = _setting("", "Kafka bootstrap servers, host:port[,host:port]; empty: the stack of `freshet up`")
    redis: str = _setting("", "Redis or Valkey URL, redis://host:port/db; empty: the stack of `freshet up`")
    llm: str = _setting("", "Base URL of an OpenAI-compatible endpoint; empty: the stack of `freshet up`")
    llm_model: str = _setting("", "Model name at the endpoint; empty: the first one it serves")
    llm_concurrency: int = _setting(8, "LLM calls under way at once, per worker", least=1, most=1024)
    llm_timeout_s: float = _setting(120.0, "Seconds before one LLM call counts as failed", least=1)
    registry: str = _setting("", "Schema registry URL; empty: Avro single-object encoding")
    version: str = _setting("v1", "Feature version the worker writes")
    key_prefix: str = _setting("f", "First part of every Redis key")
    topic_prefix: str = _setting("", "Put before every topic name and consumer group")
    partitions: int = _setting(4, "Partitions of topics that `freshet topics create` makes", least=1, most=10_000)
    replication: int = _setting(1, "Replication factor of those topics", least=1, most=10)
    dims: int = _setting(128, "Dimensions of every stored vector", least=8, most=4096)
    home: Path = _setting(Path("~/.cache/freshet"), "Folder for weights, Kafka jars, checkpoints and the embedded stack")
    encoder: str = _setting("", "Folder of the text encoder; empty: the one of `freshet models prepare`")
    checkpoint: str = _setting("", "Reasoner checkpoint folder; empty: home/reasoner; absent: co-occurrence fallback")
    history_length: int = _setting(200, "Newest events kept per user", least=1, most=10_000)
    max_future_s: float = _setting(300.0, "An event further in the future than this is a dead letter", least=0)
    firehose_batch: int = _setting(10_000, "Records per batch of user-events and sink", least=1, most=1_000_000)
    refresh_poll_s: float = _setting(1.0, "Seconds between two looks at the due users", least=0.01)
    refresh_interval_s: float = _setting(30.0, "At most one refresh per user in this many seconds", least=0)
    refresh_batch: int = _setting(128, "Users claimed and inferred together", least=1, most=10_000)
    lease_s: float = _setting(60.0, "A claimed user comes back after this many seconds", least=1)
    slots: int = _setting(16, "Behaviours inferred per user", least=1, most=256)
    steps: int = _setting(2, "Denoising steps per block", least=1, most=256)
    feature_ttl_s: int = _setting(30 * 86_400, "Seconds a feature or history lives without a write", least=60)
    dead_letter_run: int = _setting(1_000, "This many dead letters in a row on one partition stop the worker", least=1)
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, file: Path | None = None, **overrides: Any) -> Settings:
        """Merge defaults, the TOML file (`file` or `FRESHET_CONFIG`), the environment and keyword overrides.

        Raises `SettingError` for an unknown name, a value that does not parse, or one out of its range.
        """
        env = os.environ if environ is None else environ
        path = file or (Path(env["FRESHET_CONFIG"]) if env.get("FRESHET_CONFIG") else None)
        raw: dict[str, Any] = {}
        if path is not None:
            try:
                raw.update(tomllib.loads(path.read_text()))
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise SettingError("config", str(path), f"a readable TOML file ({error})") from error
        known = {f.name: f for f in fields(cls)}
        for name in known:
            if variable(name) in env:
                raw[name] = env[variable(name)]
        raw.update({name: value for name, value in overrides.items() if value is not None})
        for name in raw:
            if name not in known:
                raise SettingError(name, raw[name], f"one of {', '.join(sorted(known))}")
        return cls(**{name: _parse(known[name], value) for name, value in raw.items()})

    def __post_init__(self) -> None:
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise SettingError("log_level", self.log_level, "DEBUG, INFO, WARNING or ERROR")
        for name in ("version", "key_prefix"):
            value = getattr(self, name)
            if not value or not all(c.isalnum() or c in "-_." for c in value):
                raise SettingError(name, value, "letters, digits, '-', '_' and '.'")
        for f in fields(self):
            if isinstance(getattr(self, f.name), str) and f.metadata.get("about", "").find("URL") > 0:
                value = getattr(self, f.name)
                if value and "://" not in value:
                    raise SettingError(f.name, value, "a URL such as http://host:port or redis://host:port")
        object.__setattr__(self, "home", Path(self.home).expanduser())


def _parse(f: Any, value: Any) -> Any:
    kind = {"str": str, "int": int, "float": float, "Path": Path}[f.type]
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        parsed = kind(value)
    except (TypeError, ValueError):
        wanted = {"int": "a whole number", "float": "a number"}.get(f.type, f"a {f.type}")
        raise SettingError(f.name, value, wanted) from None
    least, most = f.metadata["least"], f.metadata["most"]
    if (least is not None and not parsed >= least) or (most is not None and not parsed <= most):
        bounds = f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"
        raise SettingError(f.name, value, f"a number {bounds}")
    return parsed
