"""How a setting is declared: default, meaning, range; and the error that names a wrong one.

Owns the words that every group of settings is written in; a group stands beside its owner (`models/llm/config.py`,
`streams/kafka/config.py`). Where values come from is `streams.settings`'s.
"""

from __future__ import annotations

import re
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

PREFIX = "FRESHET_"
WANTED = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "Path": "a path"}
"""What the types are called, to people."""
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def variable(name: str) -> str:
    """The environment variable of a setting: FRESHET_KAFKA__SECURITY of `kafka.security`."""
    return f"{PREFIX}{name.replace('.', '__').upper()}"


def without_password(value: object) -> object:
    """`value`, and where it is text with `user:password@` in it, without the password: fit for a log."""
    return re.sub(r"((?:://|^|,)[^:/@,]*):[^,]*@", r"\1:***@", value) if isinstance(value, str) else value


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


def setting(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    most: float | None = None,
    words: tuple[str, ...] = (),
    pattern: str = "",
    url: bool = False,
    secret: bool = False,
) -> Any:
    """A dataclass field with its meaning, and what values it may have.

    `words` is a closed set; `pattern` is matched against the whole value. A secret is never printed; it, and a URL, may
    come from a file.
    """
    metadata = {"about": about, "least": least, "most": most, "words": words, "pattern": pattern}
    return field(default=default, metadata={**metadata, "url": url, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SettingGroup:
    """Settings of one owner, checked whenever a value is made. A subclass of its own `__post_init__` calls this one.

    A subclass is a dataclass with `repr=False`: its `repr` shows no secret.
    """

    GROUP: ClassVar[str] = ""
    MAIN: ClassVar[str] = ""
    """The field that the bare name of the group sets: FRESHET_KAFKA is `kafka.servers`."""

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.metadata:
                _check(self.named(f.name), f, getattr(self, f.name))

    def __repr__(self) -> str:
        values = (f"{f.name}={shown(f, getattr(self, f.name))!r}" for f in fields(self) if f.metadata)
        return f"{type(self).__name__}({', '.join(values)})"

    @classmethod
    def named(cls, name: str) -> str:
        """What people call the field `name` of this group."""
        if not cls.GROUP:
            return name
        return cls.GROUP if name == cls.MAIN else f"{cls.GROUP}.{name}"


def shown(f: Field[Any], value: Any) -> object:
    """What a log may show of a value."""
    return "***" if f.metadata["secret"] and value else without_password(value)


def allowed(f: Field[Any]) -> str:
    """In words, what values a setting may have beside its type; empty where any."""
    if f.metadata["words"]:
        *first, last = f.metadata["words"]
        return f"{', '.join(first)} or {last}"
    least, most = f.metadata["least"], f.metadata["most"]
    if least is None:
        return ""
    return f"at least {least}" if most is None else f"from {least} to {most}"


def kind(f: Field[Any]) -> str:
    """In words, the type of a setting and what values it may have."""
    if f.metadata["words"]:
        return allowed(f)
    return ", ".join(part for part in (WANTED[str(f.type)], allowed(f)) if part)


def parsed(name: str, f: Field[Any], value: Any) -> Any:
    """`value`, from text or TOML, as the type of the setting `f`; raises `SettingError`."""
    wanted = str(f.type)
    try:
        if wanted == "bool":
            return value if isinstance(value, bool) else _TRUTH[str(value).lower()]
        if isinstance(value, bool):
            raise TypeError
        if wanted == "int":
            return int(value) if isinstance(value, str) else value.__index__()
        if wanted == "float":
            return float(value)
        if not isinstance(value, (str, Path)):
            raise TypeError
        return Path(value) if wanted == "Path" else str(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SettingError(name, value, WANTED[wanted]) from None


def _check(name: str, f: Field[Any], value: Any) -> None:
    about = f.metadata
    least, most = about["least"], about["most"]
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        raise SettingError(name, value, f"a number {allowed(f)}")
    if about["words"] and value not in about["words"]:
        raise SettingError(name, value, allowed(f))
    if about["pattern"] and not re.fullmatch(about["pattern"], value):
        raise SettingError(name, value, "letters, digits, '-', '_' and '.'")
    if about["url"] and value and "://" not in value:
        raise SettingError(name, value, "a URL such as http://host:port or redis://host:port")
