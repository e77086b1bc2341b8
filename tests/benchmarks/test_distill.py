"""The distill benchmark on the real broker, against a server without weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.distill import Bench, draw, measure
from benchmarks.llm_load import Counts, VllmServer
from freshet.records import Item
from streams.settings import Settings
from tests.support.fakes_encoder import FakeEncoder
from tests.support.fakes_llm import MODEL, FakeLlmServer, Trouble

KEYS = [
    "items_per_s",
    "bare_items_per_s",
    "ratio",
    "tokens_per_item",
    "prefix_hit_rate",
    "calls_unchanged",
    "calls_price_only",
]
ITEMS = [Item(f"i{n}", 0, f"Thing number{n} model{n}x", price=2.5) for n in range(9)]


async def test_all_runs_end_in_one_answer(kafka: str, valkey: str, topic_prefix: str) -> None:
    """Catches a run that never ends, a key that is missing, and calls counted for what is known."""
    said: list[str] = []
    with FakeLlmServer(Trouble(delay_s=0.02)) as server:
        settings = Settings.load(
            {}, kafka=kafka, redis=valkey, llm=server.url, llm_model=MODEL, topic_prefix=topic_prefix, partitions=2
        )
        items = draw(ITEMS, 9, seed=1)
        result = await measure(Bench(settings, items[:-1], items[-1], said.append, FakeEncoder()))
    assert list(result) == KEYS
    assert result["ratio"] == pytest.approx(result["items_per_s"] / result["bare_items_per_s"], abs=0.01)  # type: ignore[operator]
    assert result["tokens_per_item"] >= 150  # type: ignore[operator]
    assert result["prefix_hit_rate"] is None
    assert (result["calls_unchanged"], result["calls_price_only"]) == (0, 0)
    kinds = [line.partition(":")[0] for line in said]
    assert kinds[1:] == ["lane (warming)", "lane", "bare", "bare", "lane", "again"]


def test_a_sample_has_no_title_twice_and_the_seed_decides() -> None:
    """Catches items that share one distillation, which would count as speed."""
    twice = [*ITEMS, Item("copy", 0, "THING number0 model0x")]
    drawn = draw(twice, 9, seed=3)
    assert len({item.title.casefold() for item in drawn}) == 9
    assert [item.item_id for item in drawn] == [item.item_id for item in draw(twice, 9, seed=3)]
    with pytest.raises(ValueError, match="9 items of different titles, 10 wanted"):
        draw(twice, 10, seed=3)


@pytest.fixture
def vllm_like() -> Iterator[str]:
    """A server with vLLM's metrics page, whose cache is let go at the second asking."""
    answers = iter([{"success": False}, {"success": True}])
    page = (
        'vllm:request_success_total{finished_reason="stop"} 5.0\n'
        'vllm:request_success_total{finished_reason="length"} 2.0\n'
        "vllm:prefix_cache_queries_total 100.0\n"
        "vllm:prefix_cache_hits_total 80.0\n"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(page.encode() if self.path == "/metrics" else b"")

        def do_POST(self) -> None:
            self._send(json.dumps(next(answers)).encode())

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


async def test_the_servers_counters_are_read_over_all_labels(vllm_like: str) -> None:
    """Catches requests that ended for another reason left out, and a cache taken for empty that is not."""
    server = VllmServer(vllm_like)
    counts = await server.counts()
    assert counts == Counts(7.0, 100.0, 80.0)
    assert await server.forget_prefixes()
    await server.aclose()
