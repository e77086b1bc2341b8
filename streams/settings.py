"""Settings: keyword overrides over `FRESHET_*` variables over one TOML file over defaults, checked at start.

Owns every setting's name, type, default, range and meaning. Must not connect to anything.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "FRESHET_"
# Read by make, the tests and this module itself, and no settings.
OTHER_VARIABLES = frozenset({"FRESHET_CONFIG", "FRESHET_REQUIRE_SERVERS", "FRESHET_TEST_SERVERS"})
OAUTH = "OAUTHBEARER"
CHOICES = {
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR"),
    "kafka_security": ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    "kafka_mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTH),
    "vector_dtype": ("float16", "bfloat16", "int8"),
}
"""Settings of a closed set of words; the others that name something are checked where its table is."""


class SettingError(ValueError):
    """A setting has a value it must not have; the message names the setting, the value and what is wanted."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        shown = "a secret" if name.lower().endswith(("password", "secret")) else repr(without_password(value))
        super().__init__(f"{variable(name)} is {shown}, wanted {wanted}")
        self.name = name


class UnknownSetting(SettingError):
    """There is no setting of this name; the message says which one was probably meant."""

    def __init__(self, name: str, meant: str) -> None:
        ValueError.__init__(self, f"{variable(name)} is no setting{meant}")
        self.name = name


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def without_password(value: object) -> object:
    """`value`, and where it is text with `user:password@` in it, without the password: fit for a log."""
    return re.sub(r"((?:://|^|,)[^:/@,]*):[^,]*@", r"\1:***@", value) if isinstance(value, str) else value


def _setting(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    most: float | None = None,
    url: bool = False,
    secret: bool = False,
) -> Any:
    told = {"about": about, "least": least, "most": most, "url": url, "secret": secret}
    return field(default=default, metadata=told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a worker, a command or a reader can be told; see `docs/settings.md`."""

    kafka: str = _setting("", "Kafka bootstrap servers, host:port[,host:port]; empty: the stack of `freshet up`")
    kafka_security: str = _setting("plaintext", "How Kafka is spoken to: plaintext, ssl, sasl_plaintext or sasl_ssl")
    kafka_mechanism: str = _setting(
        "SCRAM-SHA-512", "How a password or token is shown: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    )
    kafka_username: str = _setting("", "User name at Kafka")
    kafka_password: str = _setting("", "Its password", secret=True)
    kafka_ca_file: str = _setting("", "Certificates that Kafka's is signed by, PEM; empty: those of the system")
    kafka_cert_file: str = _setting("", "Our own certificate for Kafka, PEM (mutual TLS)")
    kafka_key_file: str = _setting("", "Its key, PEM")
    kafka_key_password: str = _setting("", "The password of that key", secret=True)
    kafka_token_url: str = _setting("", "OAUTHBEARER: token endpoint (OAuth 2.0 client credentials)", url=True)
    kafka_client_id: str = _setting("", "OAUTHBEARER: client id")
    kafka_client_secret: str = _setting("", "OAUTHBEARER: its secret", secret=True)
    kafka_token_scope: str = _setting("", "OAUTHBEARER: scope to ask for")
    redis: str = _setting(
        "",
        "Redis or Valkey URL (redis, rediss, redis+sentinel, redis+cluster); empty: the stack of `freshet up`",
        url=True,
    )
    llm: str = _setting("", "Base URL of an OpenAI-compatible endpoint; empty: the stack of `freshet up`", url=True)
    llm_backend: str = _setting("openai", "How the endpoint is spoken to; see `models/llm/backends.py`")
    llm_model: str = _setting("", "Model name at the endpoint; empty: the first one it serves")
    llm_concurrency: int = _setting(
        16, "Most LLM calls under way at once, per worker; fewer while the endpoint is busy", least=1, most=1024
    )
    llm_timeout_s: float = _setting(120.0, "Seconds before one LLM call counts as failed", least=1)
    llm_tokens_per_hour: int = _setting(
        0, "LLM tokens all workers together may spend an hour, then new items wait; 0: no limit", least=0
    )
    knowledge_cache_ttl_s: int = _setting(90 * 86_400, "Seconds cached knowledge lives without being used", least=60)
    share_knowledge: bool = _setting(True, "Variants of one product in size or colour share one distillation")
    profile: str = _setting("cpu", "Who is asked about an item: a team (cpu, full) or agents with commas between")
    catalogue: str = _setting("", "File of wanted attributes per category (parquet, CSV, JSON); empty: open analysis")
    examples: str = _setting("", "File of items with annotated attributes, as worked examples of that catalogue")
    examples_shown: int = _setting(3, "Worked examples in a prompt, the nearest to its item", least=0, most=32)
    registry: str = _setting("", "Schema registry URL; empty: Avro single-object encoding", url=True)
    registry_auto_register: bool = _setting(True, "Register schemas that the registry lacks; false in production")
    version: str = _setting("v1", "Feature version the worker writes")
    key_prefix: str = _setting("f", "First part of every Redis key")
    topic_prefix: str = _setting("", "Put before every topic name and consumer group")
    partitions: int = _setting(4, "Partitions of topics that `freshet topics create` makes", least=1, most=10_000)
    replication: int = _setting(1, "Replication factor of those topics", least=1, most=10)
    session_timeout_s: float = _setting(
        15.0, "Kafka takes a worker that was silent for so long for dead and gives its partitions to others", least=1
    )
    dims: int = _setting(128, "Dimensions of every stored vector", least=8, most=4096)
    home: Path = _setting(  # noqa: RUF009 - a dataclasses.field, like the others
        "~/.cache/freshet", "Folder for weights, Kafka jars, checkpoints and the embedded stack"
    )
    encoder: str = _setting("", "Folder of the text encoder; empty: the one of `freshet models prepare`")
    encoder_backend: str = _setting("auto", "What computes it: auto, torch (CUDA where there is one) or openvino")
    reasoner: str = _setting(
        "block-diffusion", "Who infers (`models/reasoner/kinds.py`): block-diffusion, text-diffusion or cooccurrence"
    )
    reasoner_url: str = _setting(
        "", "Text diffusion: base URL of its OpenAI-compatible server; empty: in process", url=True
    )
    reasoner_model: str = _setting("", "Text diffusion: model name at that server (empty: its first), or model folder")
    checkpoint: str = _setting("", "Reasoner checkpoint folder; empty: home/reasoner; absent: co-occurrence fallback")
    torch_threads: int = _setting(
        1, "Threads of one torch computation in a worker; raise it where cores are idle", least=1
    )
    history_length: int = _setting(200, "Newest events kept per user", least=1, most=10_000)
    max_future_s: float = _setting(300.0, "An event further in the future than this is a dead letter", least=0)
    firehose_batch: int = _setting(10_000, "Records per batch of user-events and sink", least=1, most=1_000_000)
    refresh_poll_s: float = _setting(1.0, "Seconds between two looks at the due users", least=0.01)
    refresh_events: int = _setting(1, "New events that make a user due for a refresh", least=1, most=1_000)
    refresh_stale_s: float = _setting(
        600.0, "A user with fewer new events is due when the last refresh is older than this many seconds", least=0
    )
    refresh_interval_s: float = _setting(30.0, "At most one refresh per user in this many seconds", least=0)
    refresh_batch: int = _setting(128, "Users claimed and inferred together", least=1, most=10_000)
    lease_s: float = _setting(60.0, "A claimed user comes back after this many seconds", least=1)
    slots: int = _setting(16, "Behaviors inferred per user", least=1, most=256)
    feature_ttl_s: int = _setting(
        30 * 86_400, "Seconds a user, history or deletion mark lives without a write", least=60
    )
    item_ttl_s: int = _setting(0, "Seconds an item's vector lives without a write; 0: for ever", least=0)
    knowledge_ttl_s: int = _setting(0, "Seconds an item's knowledge lives without a write; 0: for ever", least=0)
    vector_dtype: str = _setting("float16", "How the version's vectors are stored: float16, bfloat16 or int8")
    erasure_sweep_s: float = _setting(
        3_600.0, "Seconds between two removals of the dead letters of erased users", least=1
    )
    dead_letter_run: int = _setting(1_000, "This many dead letters in a row on one partition stop the worker", least=1)
    dead_letter_ratio: float = _setting(
        0.5, "More dead letters than this part of a partition's latest records stop the worker", least=0, most=1
    )
    dead_letter_window: int = _setting(10_000, "How many of a partition's latest records that looks at", least=20)
    metrics_port: int = _setting(0, "Port of /metrics, /livez and /readyz of a worker; 0: none", least=0, most=65_535)
    metrics_host: str = _setting("127.0.0.1", "Address they are bound to; 0.0.0.0 inside of a container")
    stall_s: float = _setting(
        120.0, "A lane that is behind, or a thread, that makes no progress for so many seconds stands still", least=1
    )
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, file: Path | None = None, **overrides: Any) -> Settings:
        """Merge defaults, the TOML file (`file` or `FRESHET_CONFIG`), the environment and keyword overrides.

        An empty variable and an override of None count as not set. Raises `SettingError` for an unknown name, a
        variable that looks like a misspelt setting, a value that does not parse, or one out of its range.
        """
        env = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
        known = {f.name: f for f in fields(cls)}
        raw = _from_file(file or (Path(env["FRESHET_CONFIG"]) if "FRESHET_CONFIG" in env else None))
        raw.update(_from_environment(env, known))
        raw.update({name: value for name, value in overrides.items() if value is not None})
        for name in raw:
            if name not in known:
                raise UnknownSetting(name, _meant(name, known))
        return cls(**{name: _parse(known[name], value) for name, value in raw.items()})

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_range(f, getattr(self, f.name))
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise SettingError(name, getattr(self, name), f"{', '.join(words[:-1])} or {words[-1]}")
        for name in ("version", "key_prefix"):
            if not re.fullmatch(r"[A-Za-z0-9._-]+", getattr(self, name)):
                raise SettingError(name, getattr(self, name), "letters, digits, '-', '_' and '.'")
        if not re.fullmatch(r"[A-Za-z0-9._-]*", self.topic_prefix):
            raise SettingError("topic_prefix", self.topic_prefix, "letters, digits, '-', '_' and '.'")
        _check_kafka(self)
        if self.redis:
            _check_redis(self.redis)
        object.__setattr__(self, "home", Path(self.home).expanduser())

    def __repr__(self) -> str:
        shown = (f"{f.name}={_shown(f, getattr(self, f.name))!r}" for f in fields(self))
        return f"Settings({', '.join(shown)})"


def _shown(f: Field[Any], value: Any) -> object:
    """What a log may show of a value."""
    return "***" if f.metadata["secret"] and value else without_password(value)


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError("config", str(path), f"a readable TOML file ({error})") from error


def _from_environment(env: Mapping[str, str], known: Mapping[str, Field[Any]]) -> dict[str, str]:
    raw: dict[str, str] = {}
    for name, value in env.items():
        setting = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if setting in known:
            raw[setting] = value
        elif (whole := setting.removesuffix("_file")) != setting and whole in known and _may_be_a_file(known[whole]):
            raw.setdefault(whole, _secret_of(setting, value))
        elif meant := _meant(setting, known):  # others may have FRESHET_ variables of their own; a slip is no other's
            raise UnknownSetting(setting, meant)
    return raw


def _may_be_a_file(f: Field[Any]) -> bool:
    return bool(f.metadata["secret"] or f.metadata["url"])


def _secret_of(name: str, path: str) -> str:
    """What a mounted secret holds, without the line break at its end."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise SettingError(name, path, f"a readable file ({type(error).__name__})") from None


def _meant(name: str, known: Mapping[str, Field[Any]]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f", did you mean {variable(close[0])}?" if close else ""


WANTED = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "Path": "a path"}
"""What the types are called, to people."""
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _parse(f: Field[Any], value: Any) -> Any:
    """`value`, from text or TOML, as the type of the setting."""
    kind = str(f.type)
    try:
        if kind == "bool":
            return value if isinstance(value, bool) else _TRUTH[str(value).lower()]
        if isinstance(value, bool):
            raise TypeError
        if kind == "int":
            return int(value) if isinstance(value, str) else value.__index__()
        if kind == "float":
            return float(value)
        if not isinstance(value, (str, Path)):
            raise TypeError
        return Path(value) if kind == "Path" else str(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SettingError(f.name, value, WANTED[kind]) from None


def _check_range(f: Field[Any], value: Any) -> None:
    least, most = f.metadata["least"], f.metadata["most"]
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        raise SettingError(f.name, value, f"a number {range_of(f)}")
    if f.metadata["url"] and value and "://" not in value:
        raise SettingError(f.name, value, "a URL such as http://host:port or redis://host:port")


def _check_kafka(s: Settings) -> None:
    """Raise `SettingError` where the settings of Kafka's security do not belong together."""
    if s.kafka_security.startswith("sasl"):
        if s.kafka_mechanism == OAUTH:
            for name in ("kafka_token_url", "kafka_client_id", "kafka_client_secret"):
                if not getattr(s, name):
                    raise SettingError(name, "", f"a value, as FRESHET_KAFKA_MECHANISM is {OAUTH}")
        elif not (s.kafka_username and s.kafka_password):
            name = "kafka_password" if s.kafka_username else "kafka_username"
            raise SettingError(name, "", f"a value, as FRESHET_KAFKA_SECURITY is {s.kafka_security}")
    elif s.kafka_username or s.kafka_password or s.kafka_client_secret:
        raise SettingError("kafka_security", s.kafka_security, "sasl_ssl, as there are credentials")
    if bool(s.kafka_cert_file) != bool(s.kafka_key_file):
        name = "kafka_key_file" if s.kafka_cert_file else "kafka_cert_file"
        raise SettingError(name, "", "a file: certificate and key belong together")


def _check_redis(url: str) -> None:
    from freshet.connect import parse  # which needs redis-py: not before there is something to check

    try:
        parse(url)
    except ValueError as error:
        raise SettingError("redis", url, f"a Redis URL: {error}") from None


def range_of(f: Field[Any]) -> str:
    """In words, what numbers a setting may be; empty where any."""
    least, most = f.metadata["least"], f.metadata["most"]
    if least is None:
        return ""
    return f"at least {least}" if most is None else f"from {least} to {most}"
