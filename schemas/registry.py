"""A small client of a Confluent-compatible schema registry: register or look up a schema, fetch one by id.

Owns the HTTP calls, their cache, and which of their failures are worth a retry. Must not know Avro or any record.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, ClassVar

from schemas.setting import SettingGroup, setting

# An id that answered 404 is not looked up again at once: a stream of poison must not become a stream of HTTP calls.
UNKNOWN_FOR_S = 30.0
MAX_UNKNOWN = 10_000
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


def _quoted(subject: str) -> str:
    return urllib.parse.quote(subject, safe="")


def _subject(subject: str) -> str:
    return f"/subjects/{_quoted(subject)}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RegistrySettings(SettingGroup):
    """`[registry]`: the schema registry, if there is one."""

    GROUP: ClassVar[str] = "registry"
    MAIN: ClassVar[str] = "url"

    url: str = setting("", "Schema registry URL; empty: Avro single-object encoding", url=True)
    auto_register: bool = setting(True, "Register schemas that the registry lacks; false in production")


class RegistryUnavailable(Exception):
    """The registry gave no usable answer (connect, timeout, 429, 5xx): transient, try again."""


class RegistryRejected(Exception):
    """The registry rejected this client (credentials, incompatible schema): fatal, a person must act."""


class UnknownSchemaId(LookupError):
    """The registry answered that it has no Avro schema with this id: waiting will not help."""


class RegistryClient:
    """A client of one registry; thread-safe; caches every positive answer for good, as ids are immutable.

    `url` may contain `user:password@` (HTTP basic). With `auto_register=False` (production) a schema that the registry
    does not have under the subject raises `RegistryRejected` instead of being registered.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 5.0,
        *,
        auto_register: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a registry URL looks like http://host:8081")
        host = parts.netloc.rpartition("@")[2]  # error messages show the base URL: no password in it
        self._base = urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._headers = {"Accept": _CONTENT_TYPE, "Content-Type": _CONTENT_TYPE}
        if parts.username:
            user, password = map(urllib.parse.unquote, (parts.username, parts.password or ""))
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._timeout_s = timeout_s
        self._auto_register = auto_register
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, str] = {}
        self._unknown: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"RegistryClient({self._base!r})"

    def register(self, subject: str, schema: str) -> int:
        """The id of `schema` (JSON text) under `subject`: looked up first, then registered if allowed.

        Raises `RegistryUnavailable` (transient) or `RegistryRejected` (fatal).
        """
        with self._lock:  # held over the HTTP call: threads that miss the same id wait for one answer
            known = self._ids.get((subject, schema))
            if known is not None:
                return known
            path = _subject(subject)
            status, answer = self._call("POST", path, {"schema": schema})
            if status == 404:  # neither the subject nor the schema is there
                if not self._auto_register:
                    raise RegistryRejected(
                        f"subject {subject} does not have this schema and auto-registration is off; "
                        "`freshet schemas register`, for the same FRESHET_VERSION, adds it"
                    )
                status, answer = self._call("POST", f"{path}/versions", {"schema": schema})
            if status != 200:
                raise RegistryRejected(f"subject {subject}: HTTP {status} {answer.get('message', '')}".strip())
            schema_id = answer.get("id")
            if not isinstance(schema_id, int):
                raise RegistryUnavailable(f"the registry at {self._base} answered without an id")
            self._ids[subject, schema] = schema_id
            return schema_id

    def standing(self, subject: str, schema: str) -> int | None:
        """The id of `schema` under `subject`, None if the registry does not have it there. Raises as `register`."""
        status, answer = self._call("POST", _subject(subject), {"schema": schema})
        if status not in (200, 404):
            raise RegistryRejected(f"subject {subject}: HTTP {status} {answer.get('message', '')}".strip())
        return answer.get("id") if status == 200 else None

    def incompatibilities(self, subject: str, schema: str) -> list[str]:
        """Why the registry would refuse `schema` under `subject`; empty if it accepts it. Raises as `register`."""
        path = f"/compatibility{_subject(subject)}/versions?verbose=true"
        status, answer = self._call("POST", path, {"schema": schema})
        if status == 404:  # no such subject yet: nothing to be incompatible with
            return []
        if status != 200:
            raise RegistryRejected(f"subject {subject}: HTTP {status} {answer.get('message', '')}".strip())
        if answer.get("is_compatible", True):
            return []
        return [str(message) for message in answer.get("messages", ())] or ["the registry calls it incompatible"]

    def level(self, subject: str) -> str:
        """The compatibility level set for `subject`, empty if it has the registry's default."""
        status, answer = self._call("GET", f"/config/{_quoted(subject)}")
        return str(answer.get("compatibilityLevel", "")) if status == 200 else ""

    def set_level(self, subject: str, level: str) -> None:
        """Set the compatibility level of `subject`. Raises as `register`."""
        status, answer = self._call("PUT", f"/config/{_quoted(subject)}", {"compatibility": level})
        if status != 200:
            raise RegistryRejected(f"subject {subject}: HTTP {status} {answer.get('message', '')}".strip())

    def schema(self, schema_id: int) -> str:
        """The JSON text of the Avro schema under `schema_id`.

        Raises `UnknownSchemaId` (poison), `RegistryUnavailable` (transient) or `RegistryRejected` (fatal).
        """
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        with self._lock:
            if self._monotonic() - self._unknown.get(schema_id, float("-inf")) < UNKNOWN_FOR_S:
                raise UnknownSchemaId(f"the registry has no Avro schema {schema_id}")
            status, answer = self._call("GET", f"/schemas/ids/{schema_id}")
            if status == 404 or (status == 200 and answer.get("schemaType", "AVRO") != "AVRO"):
                if len(self._unknown) >= MAX_UNKNOWN:  # ids come from record bytes: poison could fill the memory
                    self._unknown.clear()
                self._unknown[schema_id] = self._monotonic()
                raise UnknownSchemaId(f"the registry has no Avro schema {schema_id}")
            if status != 200:
                raise RegistryRejected(f"schema {schema_id}: HTTP {status} {answer.get('message', '')}".strip())
            text = answer.get("schema")
            if not isinstance(text, str):
                raise RegistryUnavailable(f"the registry at {self._base} answered without a schema")
            self._schemas[schema_id] = text
            return text

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """One HTTP call: status and JSON object. Raises `RegistryUnavailable` for an answer that a retry may change."""
        request = urllib.request.Request(
            self._base + path,
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, raw = error.code, error.read()
        except (OSError, HTTPException) as error:
            raise RegistryUnavailable(f"no answer from the registry at {self._base}: {error}") from error
        if status in (408, 425, 429) or status >= 500:
            raise RegistryUnavailable(f"the registry at {self._base} answered HTTP {status}")
        try:
            parsed = json.loads(raw)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            return status, parsed
        if status in (401, 403):  # often a gateway's HTML, and still an answer: the credentials are wrong
            return status, {}
        # A 404 page that is not the registry's JSON comes from a proxy or a wrong path, not from the registry.
        raise RegistryUnavailable(f"the answer of {self._base} (HTTP {status}) is not a registry's JSON")
