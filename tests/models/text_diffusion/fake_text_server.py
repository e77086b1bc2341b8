"""A text diffusion model without weights, as an OpenAI-compatible server on loopback: numbered lines, or trouble."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.fakes_llm import FakeLlmServer, Trouble


class FakeTextServer(FakeLlmServer):
    """Answers each chat with `answer(log text)`; `asked` are the bodies, `most` the most calls open at once."""

    def __init__(self, answer: Callable[[str], str], trouble: Trouble | None = None) -> None:
        super().__init__(trouble)
        self.answer = answer
        self.asked: list[Mapping[str, Any]] = []
        self.most = self._open = 0
        self._counting = threading.Lock()

    def _answer(self, body: Mapping[str, Any], send: Any) -> None:
        with self._counting:
            self.asked.append(body)
            self._open += 1
            self.most = max(self.most, self._open)
            trouble = self.trouble.next()
        try:
            time.sleep(self.trouble.delay_s)
            if trouble.isdigit():
                send(int(trouble), {"error": {"message": f"scripted {trouble}"}})
            elif trouble == "garbage":
                send(200, b"<html>not json</html>")
            else:
                said = {"role": "assistant", "content": self.answer(body["messages"][-1]["content"])}
                send(200, {"model": body["model"], "choices": [{"message": said, "finish_reason": "stop"}]})
        finally:
            with self._counting:
                self._open -= 1
