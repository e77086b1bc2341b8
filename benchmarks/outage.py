"""What an LLM endpoint that is killed costs the item lanes: `python -m benchmarks.outage [--seconds 60] [--json]`.

Starts an Apache Kafka, a Valkey, an LLM server and one worker process of its own, and sends items at a steady rate:
before, during and after an outage in which the LLM server is killed and its port closed. Then every item is looked for:

- *lost*: items without knowledge at the end; must be 0;
- *dead letters*: must be 0;
- *text during*: items sent during the outage whose text vector was published before its end; should be all of them.

`--llm loopback` (default) is a stand-in that answers at once and means nothing; `--llm vllm` is the embedded vLLM
server with its prepared weights, for which a rate of 0.2 items a second suits two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from freshet.records import Item, ItemFeatures, ItemKnowledge, ItemTier
from local.stack.kafka import KafkaServer
from local.stack.llm import LlmServer
from local.stack.valkey import ValkeyServer
from schemas.codec import Codec
from streams.kafka.producer import kafka_config
from streams.settings import Settings
from tests.support.deployment import Deployment
from tests.support.loopback_llm import LoopbackLlm

WARM_S = 15.0
"""Items are sent for so long before the outage, and again after it."""
BURST_S = 10.0
"""So many seconds' items come at once just before the outage, so that it comes under load."""
LANES = "item-text,item-distill,sink"
_NOUNS = ("kettle", "tent", "lamp", "shampoo", "notebook", "drill", "teapot", "raincoat", "candle", "backpack")


class Endpoint(Protocol):
    """An LLM server that can be ended and started again on its address."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class VllmEndpoint:
    """The embedded vLLM server without its supervisor, which would start it again at once."""

    def __init__(self, home: Path, folder: Path) -> None:
        from models.encoder.weights import ensure_vllm_env, prepare_llm

        self._server = LlmServer(ensure_vllm_env(home), prepare_llm(home), folder=folder)

    @property
    def url(self) -> str:
        return self._server.address

    def start(self) -> None:
        """Start, and wait until it serves."""
        self._server.start()

    def stop(self) -> None:
        """End it with its engine."""
        self._server.stop()


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is sent and for how long the endpoint is away."""

    seconds: float
    rate: float
    timeout_s: float


def items_between(first: int, count: int) -> list[Item]:
    """Items that differ enough to be distilled each by itself."""
    now = time.time_ns() // 1_000_000
    return [
        Item(f"item-{n}", now, f"{_NOUNS[n % len(_NOUNS)]} model K{n}", brand=f"Maker {n % 7}", category=("shop",))
        for n in range(first, first + count)
    ]


class Watch:
    """What the lanes have published so far; reads on with every look, so that looking often is cheap."""

    def __init__(self, deployed: Deployment) -> None:
        topics = deployed.topics
        self._letters = topics.dead_letters(topics.items)
        self._kinds = {topics.item_knowledge: ItemKnowledge, topics.item_features: ItemFeatures}
        config = kafka_config(deployed.settings, **{"group.id": "outage-watch", "enable.auto.commit": False})
        self._consumer = Consumer(config)
        self._consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in (*self._kinds, self._letters)
                for partition in range(deployed.settings.kafka.partitions)
            ]
        )
        self._codec = Codec()
        self._known: set[str] = set()
        self._text: set[str] = set()
        self.dead_letters = 0

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()

    def knowledge(self) -> set[str]:
        """Items that have knowledge."""
        self._read_on()
        return set(self._known)

    def text_tier(self) -> set[str]:
        """Items that have had a text vector."""
        self._read_on()
        return set(self._text)

    def _read_on(self) -> None:
        while messages := self._consumer.consume(1_000, timeout=2.0):
            for message in messages:
                if message.error() is None:
                    self._note(message.topic() or "", message.value())

    def _note(self, topic: str, value: bytes | None) -> None:
        if topic == self._letters:
            self.dead_letters += 1
        elif value is not None:
            record = self._codec.decode(self._kinds[topic], value)
            if isinstance(record, ItemKnowledge):
                self._known.add(record.item_id)
            elif isinstance(record, ItemFeatures) and record.tier == ItemTier.TEXT:
                self._text.add(record.item_id)


class Run:
    """One outage from beginning to end."""

    def __init__(
        self, deployed: Deployment, watch: Watch, endpoint: Endpoint, plan: Plan, say: Callable[[str], None]
    ) -> None:
        self._deployed = deployed
        self._watch = watch
        self._endpoint = endpoint
        self._plan = plan
        self._say = say
        self._sent = 0

    def __call__(self) -> dict[str, float | int | bool]:
        """Warm up, kill, wait, start again, wait for the rest; answers the figures."""
        self._endpoint.start()
        worker = self._deployed.worker("--lanes", LANES)
        self._send_for(WARM_S)
        self._deployed.until(lambda: bool(self._watch.knowledge()), "the first knowledge", self._plan.timeout_s)
        self._send(max(1, round(BURST_S * self._plan.rate)))
        self._endpoint.stop()
        began, sent_before = time.monotonic(), self._sent
        before = len(self._watch.knowledge())
        self._say(f"killed the endpoint when {before} of {sent_before} items had knowledge")
        self._send_for(self._plan.seconds - (time.monotonic() - began))
        away_s = time.monotonic() - began
        at_end = len(self._watch.knowledge())
        text = self._watch.text_tier()
        self._say(f"{away_s:.0f} s later {at_end} have knowledge, {len(text)} of {self._sent} have a text vector")
        during = [f"item-{n}" for n in range(sent_before, self._sent)]
        self._endpoint.start()
        back = time.monotonic()
        self._send_for(WARM_S)
        complete = self._wait_for_all()
        recovered_s = time.monotonic() - back
        return {
            "items": self._sent,
            "outage_s": round(away_s, 1),
            "knowledge_before": before,
            "knowledge_at_end_of_outage": at_end,
            "sent_during": len(during),
            "text_during": sum(one in text for one in during),
            "knowledge": len(self._watch.knowledge()),
            "lost": self._sent - len(self._watch.knowledge()),
            "dead_letters": self._watch.dead_letters,
            "recovered_s": round(recovered_s, 1),
            "complete": complete,
            "worker_alive": worker.running,
        }

    def _send_for(self, seconds: float) -> None:
        """Send at the plan's rate, in portions of a second or of one item."""
        end = time.monotonic() + seconds
        step_s = max(1.0, 1.0 / self._plan.rate)
        while (left := end - time.monotonic()) > 0:
            count = max(1, round(self._plan.rate * step_s))
            self._send(count)
            time.sleep(min(step_s, max(0.0, left)))

    def _send(self, count: int) -> None:
        self._deployed.send(items_between(self._sent, count))
        self._sent += count

    def _wait_for_all(self) -> bool:
        deadline = time.monotonic() + self._plan.timeout_s
        while len(self._watch.knowledge()) < self._sent or not self._deployed.drained():
            if time.monotonic() > deadline:
                return False
            time.sleep(1.0)
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the endpoint is away")
    parser.add_argument("--rate", type=float, default=4.0, help="items a second")
    parser.add_argument("--llm", choices=("loopback", "vllm"), default="loopback")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for what is left after the outage")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse_args(arguments)
    settings = Settings.load()
    with ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="freshet-outage-")))
        kafka = servers.enter_context(KafkaServer(settings.home))
        valkey = servers.enter_context(ValkeyServer())
        endpoint: Endpoint = (
            LoopbackLlm(folder, delay_s=0.5) if options.llm == "loopback" else VllmEndpoint(settings.home, folder)
        )
        servers.callback(endpoint.stop)
        settings = settings.replace(kafka=kafka.address, redis=valkey.url, llm=endpoint.url, partitions=2)
        deployed = Deployment(settings, folder)
        servers.callback(deployed.stop)
        plan = Plan(options.seconds, options.rate, options.timeout)
        watch = Watch(deployed)
        servers.callback(watch.close)
        result = Run(deployed, watch, endpoint, plan, lambda text: print(text, file=sys.stderr, flush=True))()
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:28} {value}")
    return 0 if result["complete"] and not result["lost"] and not result["dead_letters"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
