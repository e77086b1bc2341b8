"""A language model without weights: in memory, or as an OpenAI-compatible server on loopback.

Its answers are made from the listing in the prompt, are of the schema asked for, and never change; `Trouble` makes it
slow, busy, broken or talkative.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from models.llm.client import Completion, CompletionRequest, Message

MODEL = "fake-llm"


def listing(messages: Sequence[Message]) -> dict[str, Any]:
    """The item that the last message asks about."""
    text = messages[-1].content
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def answer(messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A document of `schema`, made of the listing's words; quotes are taken from its title."""
    item = listing(messages)
    words = str(item.get("title", "thing")).split()

    def make(part: Mapping[str, Any], name: str) -> Any:
        if part["type"] == "object":
            return {key: make(value, key) for key, value in part["properties"].items()}
        if "enum" in part:
            return part["enum"][0]
        if part["type"] == "integer":
            return 0
        if part["type"] == "array":
            return [make(part["items"], f"{name} {number}") for number in range(part.get("minItems", 1))]
        if name == "quote":
            return words[0]
        return f"{name} {' '.join(words[:2])}"

    return make(schema, "answer")


@dataclass
class Trouble:
    """What goes wrong, next answer first: "429", "503", "400", "401", "truncated", "garbage", "hang"; "" is well."""

    script: deque[str] = field(default_factory=deque)
    always: str = ""
    delay_s: float = 0.0

    def next(self) -> str:
        return self.script.popleft() if self.script else self.always


class FakeLlm:
    """An in-memory `LanguageModel`; `calls` are the conversations it was asked."""

    name = MODEL

    def __init__(self) -> None:
        self.calls: list[tuple[str, Sequence[Message], int]] = []
        self.errors: deque[Exception | str] = deque()

    async def complete(self, request: CompletionRequest) -> Completion:
        self.calls.append((request.schema_name, request.messages, request.max_tokens))
        trouble = self.errors.popleft() if self.errors else ""
        if isinstance(trouble, Exception):
            raise trouble
        text = trouble or json.dumps(answer(request.messages, request.schema))
        reason = "length" if trouble == "{" else "stop"
        return Completion(text, 100, 50, 0.01, MODEL, reason)

    async def served_model(self) -> str:
        return self.name

    async def aclose(self) -> None:
        """Nothing to release."""


class FakeLlmServer:
    """The same answers over HTTP; `.url` is the base URL, `.served` counts whole answers. Port 0: a free one."""

    def __init__(self, trouble: Trouble | None = None, *, port: int = 0) -> None:
        self.trouble = trouble or Trouble()
        self.served = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(200, {"data": [{"id": MODEL}]} if self.path == "/v1/models" else {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake._answer(body, self._send)

            def _send(self, code: int, document: Mapping[str, Any] | bytes) -> None:
                payload = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(payload)))
                if code == 429:
                    self.send_header("retry-after", "0.2")
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hung up is what some tests are about."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _answer(self, body: Mapping[str, Any], send: Any) -> None:
        with self._lock:
            trouble = self.trouble.next()
        if self.trouble.delay_s:
            time.sleep(self.trouble.delay_s)
        if trouble == "hang":
            time.sleep(30)
        if trouble.isdigit():
            send(int(trouble), {"error": {"message": f"scripted {trouble}"}})
            return
        if trouble == "garbage":
            send(200, b"<html>not json</html>")
            return
        messages = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        text = json.dumps(answer(messages, body["response_format"]["json_schema"]["schema"]))
        reason = "stop"
        if trouble == "truncated":
            text, reason = text[: len(text) // 2], "length"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
        with self._lock:
            self.served += 1
        usage = {"prompt_tokens": 100, "completion_tokens": 50}
        send(200, {"model": body["model"], "choices": [choice], "usage": usage})

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
