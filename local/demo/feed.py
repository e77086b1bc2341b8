"""Plays the log into Kafka: each new item just before its first event, events at a steady rate, times made now.

Owns pacing and the re-timing of an old log. Must not look at what becomes of a record beyond its confirmation.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from concurrent.futures import Future
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from freshet.clock import wall_clock
from freshet.records import UserEvent
from local.demo.data import DemoData, in_steps
from schemas.codec import Codec
from streams.kafka.producer import Delivery, KafkaProducer
from streams.kafka.topics import Topics
from streams.settings import Settings

TICK_S = 0.05


def shifted_to_now(events: pa.Table, now_ms: int) -> pa.Table:
    """The log moved in time so that its last event is a second ago; gaps between events stay."""
    newest = pc.max(events["event_time"]).as_py()
    column = events.schema.get_field_index("event_time")
    moved = pc.add(events["event_time"], now_ms - 1_000 - newest)
    return events.set_column(column, "event_time", moved)


class DemoFeed:
    """A thread that plays `data.stream` and its new items; read `events`, `items` and `done` at any time."""

    def __init__(self, data: DemoData, settings: Settings, codec: Codec, rate: float) -> None:
        self._data = data
        self._settings = settings
        self._codec = codec
        self._rate = rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-feed", daemon=True)
        self._error: BaseException | None = None
        self.events = 0
        self.items = 0
        self.done = False

    def start(self) -> None:
        """Begin to play."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once all is played, or the feed has failed."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop early, or return at once when all is played. Raises what made the feed fail."""
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        producer = KafkaProducer(self._settings)
        try:
            unconfirmed = self._play(producer)
            for future in unconfirmed:
                future.result(timeout=60)
            self.done = True
        except BaseException as error:  # handed to whoever calls stop()
            self._error = error
        finally:
            producer.close()

    def _play(self, producer: KafkaProducer) -> list[Future[Delivery]]:
        topics, data = Topics(self._settings), self._data
        began = time.monotonic()
        unconfirmed: list[Future[Delivery]] = []
        for start, stop in in_steps(data.stream.num_rows, max(1, int(self._rate * TICK_S))):
            if self._stopping.wait(max(0.0, began + start / self._rate - time.monotonic())):
                break
            now = wall_clock()
            due = bisect_left(data.new_at, stop)
            for item in data.new[self.items : due]:
                value = self._codec.encode(replace(item, event_time=now), topics.items)
                unconfirmed.append(producer.send(topics.items, item.item_id.encode(), value))
            self.items = due
            rows = zip(*(column.to_pylist() for column in data.stream.slice(start, stop - start).columns), strict=True)
            for row in rows:
                event = replace(UserEvent(*row), event_time=now)
                value = self._codec.encode(event, topics.user_events)
                unconfirmed.append(producer.send(topics.user_events, event.user_id.encode(), value))
            self.events = stop
            unconfirmed = [future for future in unconfirmed if not future.done() or future.exception()]
        return unconfirmed
