"""A schema registry over real HTTP: enough of Confluent's API for the codec, and its bad days.

Owns no policy but a subject's own: under FULL_TRANSITIVE it refuses what Apache's checker refuses. A test may set
`answer_with`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

SUBJECT_NOT_FOUND, SCHEMA_NOT_FOUND = 40401, 40403


@dataclass
class RegistryStub:
    """What the registry holds, was asked, and shall answer instead (`answer_with`: status and body)."""

    url: str = ""
    schemas: dict[int, dict[str, str]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    answer_with: tuple[int, bytes] | None = None
    levels: dict[str, str] = field(default_factory=dict)

    def add(self, schema: str, subject: str = "", **more: str) -> int:
        """Hold a schema (under a subject); the same text keeps its id."""
        entry = {"schema": schema, **more}
        found = [number for number, held in self.schemas.items() if held == entry]
        number = found[0] if found else 1 + len(self.schemas)
        self.schemas[number] = entry
        if subject and number not in self.subjects.setdefault(subject, []):
            self.subjects[subject].append(number)
        return number

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self.answer_with is not None:
            return self.answer_with
        parts = [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]
        match (method, *parts):
            case ("GET", "_health"):
                return _json(200, {"status": {"schema_registry_ready": True}})
            case ("GET", "schemas", "ids", number):
                held = self.schemas.get(int(number))
                return _json(200, held) if held else _error(404, SCHEMA_NOT_FOUND, "Schema not found")
            case ("GET", "config", subject):
                level = self.levels.get(subject)
                return _json(200, {"compatibilityLevel": level}) if level else _error(404, 40408, "not configured")
            case ("PUT", "config", subject):
                self.levels[subject] = json.loads(body)["compatibility"]
                return _json(200, {"compatibility": self.levels[subject]})
            case ("POST", "compatibility", "subjects", subject, _):
                if subject not in self.subjects:
                    return _error(404, SUBJECT_NOT_FOUND, "Subject not found")
                problems = self._problems(subject, json.loads(body)["schema"])
                return _json(200, {"is_compatible": not problems, "messages": problems})
            case ("POST", "subjects", subject, "versions") if self._problems(subject, json.loads(body)["schema"]):
                return _error(409, 409, "Schema being registered is incompatible")
            case ("POST", "subjects", subject, "versions"):
                return _json(200, {"id": self.add(json.loads(body)["schema"], subject)})
            case ("POST", "subjects", subject):
                if subject not in self.subjects:
                    return _error(404, SUBJECT_NOT_FOUND, "Subject not found")
                for number in self.subjects[subject]:
                    if self.schemas[number]["schema"] == json.loads(body)["schema"]:
                        return _json(200, {"subject": subject, "id": number, "version": 1})
                return _error(404, SCHEMA_NOT_FOUND, "Schema not found")
        return _error(404, 404, "HTTP 404 Not Found")

    def _problems(self, subject: str, schema: str) -> list[str]:
        if self.levels.get(subject) != "FULL_TRANSITIVE":
            return []
        held = [self.schemas[number]["schema"] for number in self.subjects.get(subject, ())]
        pairs = [pair for other in held for pair in ((schema, other), (other, schema))]
        return [f"{reader[:40]} does not read {writer[:40]}" for reader, writer in pairs if not _reads(reader, writer)]


def _reads(reader: str, writer: str) -> bool:
    schemas = avro.schema.parse(reader), avro.schema.parse(writer)
    answer = ReaderWriterCompatibilityChecker().get_compatibility(*schemas)
    return answer.compatibility is SchemaCompatibilityType.compatible


def _json(status: int, value: object) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


def _error(status: int, code: int, message: str) -> tuple[int, bytes]:
    return _json(status, {"error_code": code, "message": message})


@contextmanager
def registry_stub(host: str = "127.0.0.1", port: int = 0) -> Iterator[RegistryStub]:
    """A running registry; on a free port where none is given."""
    stub = RegistryStub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            stub.requests.append((self.command, self.path))
            stub.authorization.append(self.headers.get("Authorization"))
            status, raw = stub.handle(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: `requests` is the log."""

    server = ThreadingHTTPServer((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
