"""Which feature versions there are, what each is made of, who writes it, and which one rankers read.

Owns pointers, manifests and the register of workers; each change is one atomic step on the server (`lua/versions.lua`).
Must not judge whether a version is fit to be read (`coverage.py`), nor touch its features (`version_gc.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freshet.connect import Client, keys_for
from freshet.layout import check_version
from store.functions import library

LIVE_S = 60.0
"""A worker without a heartbeat for this long is dead."""


class VersionError(Exception):
    """An operation on a version is not possible; the message says what to do instead."""


class VersionConflict(VersionError):
    """Components differ from what a version pins; `differing` maps each to (pinned value, own value)."""

    def __init__(self, version: str, differing: Mapping[str, tuple[str, str]]) -> None:
        self.version, self.differing = version, dict(differing)
        differences = "; ".join(
            f"{name} is {own!r}, the version has {pinned!r}" for name, (pinned, own) in differing.items()
        )
        super().__init__(
            f"this does not fit version {version}: {differences}. Go back to what the version has, or fill a new one: "
            "`freshet versions create NEW`, then workers with FRESHET_VERSION=NEW"
        )


class VersionRetiring(VersionError):
    """The version is being deleted, or was: nobody may read or write it."""


class VersionInUse(VersionError):
    """The version cannot be deleted: rankers read it, a rollback leads to it, or workers write it."""


class ActiveMoved(VersionError):
    """The active version is not the one the caller expected: somebody else activated or rolled back meanwhile."""


@dataclass(frozen=True, slots=True)
class VersionNames:
    """A snapshot of all versions; `created` maps names, oldest first, to creation times in server milliseconds."""

    active: str | None
    previous: str | None
    created: Mapping[str, int]
    retiring: frozenset[str]

    @property
    def all(self) -> list[str]:
        """All names, oldest first, including versions being deleted."""
        return list(self.created)

    @property
    def live(self) -> list[str]:
        """The names of versions that may be read and written."""
        return [name for name in self.created if name not in self.retiring]

    def state(self, version: str) -> str:
        """`active`, `previous`, `retiring`, `old`, `shadow` (no older than the active one) or `unknown`."""
        if version in (self.active, self.previous):
            return "active" if version == self.active else "previous"
        if version not in self.created:
            return "unknown"
        if version in self.retiring:
            return "retiring"
        newest = self.created.get(self.active or "", -1)
        return "old" if self.created[version] < newest else "shadow"


@dataclass(frozen=True, slots=True)
class Pinned:
    """One component of a manifest: its value, who pinned it, and when in server milliseconds."""

    value: str
    by: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker of a version, the server time of its last heartbeat in milliseconds, and how it describes itself."""

    name: str
    seen_ms: int
    about: Mapping[str, Any]


class Versions:
    """The versions under one key prefix; thread-safe, and any call may be repeated after a Redis error.

    A `FeatureReader` sees a swap with its next call, and each of its results holds features of one version only.
    """

    def __init__(self, client: Client, prefix: str = "f") -> None:
        self._redis: Any = client
        self._keys = keys_for(client, prefix)

    def active(self) -> str | None:
        """The version rankers read, or None before the first activation."""
        return _text(self._redis.get(self._keys.active())) or None

    def previous(self) -> str | None:
        """The version a rollback leads to, or None."""
        return _text(self._redis.get(self._keys.previous())) or None

    def names(self) -> list[str]:
        """The versions that may be read and written, oldest first: what a deletion or an erasure must reach."""
        return self.overview().live

    def overview(self) -> VersionNames:
        """A snapshot of all versions, in one round trip."""
        active, previous, *rows = self._call("names")[1:]
        scores = {name: int(float(score)) for name, score in zip(rows[::2], rows[1::2], strict=True)}
        for name in (active, previous):  # a pointer set by an older release, which kept no list of versions
            if name:
                scores.setdefault(name, 0)
        created = dict(sorted(((name, abs(score)) for name, score in scores.items()), key=lambda row: row[1]))
        # lua/versions.lua negates the creation time when a deletion begins: one number keeps order and state.
        retiring = frozenset(name for name, score in scores.items() if score < 0)
        return VersionNames(active or None, previous or None, created, retiring)

    def create(self, version: str, components: Mapping[str, str] | None = None, *, by: str = "") -> bool:
        """Register `version` and pin its first components; False if it was known already. Raises as `pin` does."""
        return self.pin(version, components or {}, by=by)

    def pin(self, version: str, components: Mapping[str, str], *, by: str = "") -> bool:
        """Pin each of `components` that is not pinned yet; True if the version is new.

        Pins all or none: raises `VersionConflict` if one differs, `VersionRetiring` if the version is being deleted.
        """
        pairs = [part for pair in components.items() for part in pair]
        outcome, *rest = self._call("pin", version, check_version(version), by, *pairs)
        if outcome == "differs":
            pinned = dict(zip(rest[::2], rest[1::2], strict=True))
            raise VersionConflict(version, {name: (value, components[name]) for name, value in pinned.items()})
        _refuse_retiring(outcome, version)
        return outcome == "new"

    def manifest(self, version: str) -> dict[str, Pinned]:
        """What the version is made of, by component; empty where nobody pinned anything."""
        fields = {_text(k): _text(v) for k, v in self._redis.hgetall(self._keys.manifest(version)).items()}
        # Beside each component stands `@component`: when it was pinned, a space, and by whom.
        by = {name: fields[f"@{name}"].partition(" ") for name in fields if f"@{name}" in fields}
        return {
            name: Pinned(value, by[name][2], int(by[name][0])) if name in by else Pinned(value)
            for name, value in sorted(fields.items())
            if not name.startswith("@")
        }

    def activate(self, version: str, *, instead_of: str | None = None) -> str | None:
        """Make rankers read `version` from now on; returns the version they read before, for a rollback.

        Raises `VersionRetiring`, and `ActiveMoved` if `instead_of` is given and is not the active one.
        """
        mode = ("any", "") if instead_of is None else ("is", instead_of)
        outcome, before = self._call("activate", version, check_version(version), *mode)
        _refuse_retiring(outcome, version)
        if outcome == "moved":
            raise ActiveMoved(f"{before or 'no version'} is active meanwhile, and not {instead_of}; look again")
        return before or None

    def activate_if_none(self, version: str) -> bool:
        """Activate `version` if none is active yet; True if it was. Of two workers that race, one wins."""
        outcome, _ = self._call("activate", version, check_version(version), "none")
        _refuse_retiring(outcome, version)
        return bool(outcome == "done")

    def rollback(self) -> tuple[str, str]:
        """Swap active and previous; returns the version rankers read before and the one they read now.

        Doing it twice goes forward again. Raises `VersionError` if there is no previous version.
        """
        outcome, before, now = self._call("rollback")
        if outcome == "none":
            raise VersionError("there is no previous version to go back to; see `freshet versions list`")
        return before, now

    def beat(self, version: str, worker: str, about: Mapping[str, Any] | None = None) -> bool:
        """The heartbeat of a `worker` that writes `version`; raises `VersionRetiring` when it must stop.

        False if the server knows no version at all: it has lost its data, and workers must pin again.
        """
        [outcome] = self._call("beat", version, version, worker, json.dumps(dict(about or {})))
        _refuse_retiring(outcome, version)
        return outcome == "done"

    def leave(self, version: str, worker: str) -> None:
        """Remove `worker` from the register, as it stops; without this it counts as alive for `LIVE_S`."""
        self._redis.hdel(self._keys.workers(version), worker)

    def workers(self, version: str, *, live_s: float = LIVE_S) -> list[LiveWorker]:
        """The workers of `version` with a heartbeat in the last `live_s`, by name."""
        living = self._call("workers", version, version, round(1_000 * live_s))[1:]
        if not living:  # HMGET without fields is an error
            return []
        rows = zip(sorted(living), self._redis.hmget(self._keys.workers(version), sorted(living)), strict=True)
        # None: the worker left between the two calls.
        return [_worker(name, _text(row)) for name, row in rows if row is not None]

    def retire(self, version: str, *, force: bool = False, live_s: float = LIVE_S) -> None:
        """Begin the deletion of `version`, irrevocably: from now on it can be neither activated nor pinned.

        Raises `VersionInUse` for the active and the previous one, and while workers are alive unless `force`, which
        makes them stop with their next `beat`.
        """
        outcome, *living = self._call(
            "retire", version, check_version(version), round(1_000 * live_s), "1" if force else "0"
        )
        if outcome == "alive":
            raise VersionInUse(
                f"{version} is written by {', '.join(sorted(living))}; stop them, or use --force, which makes them stop"
            )
        if outcome != "done":
            way = "activate another one first" if outcome == "active" else "it is what a rollback goes to"
            raise VersionInUse(f"{version} is the {outcome} version: {way}")

    def forget(self, version: str) -> None:
        """End a deletion: the name may be used again. Raises `VersionError` if none has begun."""
        if self._call("forget", version, version) != ["done"]:
            raise VersionError(f"{version} is not being deleted")

    def _call(self, function: str, version: str | None = None, *args: str | int) -> list[str]:
        keys = [self._keys.active(), self._keys.previous(), self._keys.versions()]
        if version is not None:
            keys += [self._keys.manifest(version), self._keys.workers(version)]
        [answer] = library("versions").call(self._redis, function, [(keys, args)])
        return [_text(part) for part in answer]


def _refuse_retiring(outcome: str, version: str) -> None:
    if outcome in ("retiring", "gone"):
        state = "is being deleted" if outcome == "retiring" else "was deleted"
        raise VersionRetiring(
            f"version {version} {state}; use another name, or end the deletion first: "
            f"`freshet versions gc {version} --execute`"
        )


def _worker(name: str, row: str) -> LiveWorker:
    seen, _, about = row.partition(" ")
    return LiveWorker(name, int(seen), json.loads(about or "{}"))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
