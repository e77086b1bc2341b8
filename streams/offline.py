"""Distils a list of items into a file, and goes on where an earlier run stopped.

Owns what is still to do, the calls under way at once, and which outcome goes where. Must not know Kafka or Redis, nor
draw progress: a `Watcher` does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from processors.validate import check_item
from schemas.records import Item, ItemKnowledge
from streams.backoff import Backoff
from streams.errors import Family, family, reason
from streams.knowledge_file import (
    KnowledgeFileError,
    Lines,
    parse_knowledge,
    read_knowledge,
    write_parquet,
)
from streams.metrics import Metrics

NAME = "distill"
LONGEST_PAUSE_S = 30.0
T = TypeVar("T")


class Distils(Protocol):
    """What makes the knowledge: a `processors.distill.Distiller`, or one that saves calls."""

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        """See `processors.distill.Distiller.distill`."""
        ...


class Watcher(Protocol):
    """Is told how a run goes."""

    def item(self, tally: Tally) -> None:
        """The run begins, or one more item is through."""
        ...

    def waiting(self, cause: str) -> None:
        """The endpoint is away for the reason given; "" when it is back. May be told the same twice."""
        ...


@dataclasses.dataclass(slots=True)
class Tally:
    """What came of a run. `there` items needed nothing; the others are fresh, cache, shared or failed."""

    items: int = 0
    there: int = 0
    fresh: int = 0
    cache: int = 0
    shared: int = 0
    failed: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    complete: bool = False

    @property
    def made(self) -> int:
        """Items this run brought to knowledge."""
        return self.fresh + self.cache + self.shared

    @property
    def left(self) -> int:
        """Items nobody has tried yet."""
        return self.items - self.there - self.made - self.failed

    @property
    def per_second(self) -> float:
        """Items tried a second."""
        return (self.made + self.failed) / self.seconds if self.seconds > 0 else 0.0

    def add(self, knowledge: ItemKnowledge) -> None:
        """Count one success."""
        cost = knowledge.provenance
        match cost.origin:
            case "cache":
                self.cache += 1
            case "shared":
                self.shared += 1
            case _:
                self.fresh += 1
        self.calls += cost.calls
        self.tokens_in += cost.tokens_in
        self.tokens_out += cost.tokens_out


class KnowledgeFile:
    """The result of all runs into one `out`, and beside it what failed.

    `out` grows line by line. For `OUT.parquet` that is `OUT.jsonl`, of which the parquet file is made at the end of a
    run; it must stay for the next run to go on.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._made: set[str] = set()
        parquet = out.suffix == ".parquet"
        path = out.with_suffix(".jsonl") if parquet else out
        begins = parquet and out.exists() and not path.exists()
        self.lines = Lines(path)
        try:
            self.failures = Lines(out.with_name(f"{out.name}.failed.jsonl"))
        except KnowledgeFileError:
            self.lines.close()
            raise
        if begins:  # only the parquet file was kept
            for record in read_knowledge(out):
                self.lines.append(dataclasses.asdict(record))

    def close(self) -> None:
        """Let go of the files."""
        self.lines.close()
        self.failures.close()

    def fingerprints(self) -> dict[str, str]:
        """Each item's, of its last record."""
        return {_of(line, "item_id"): _of(line, "fingerprint") for line in self.lines.read()}

    def known(self, item_ids: Iterable[str]) -> Iterator[ItemKnowledge]:
        """The last records of some items, in no order."""
        wanted = set(item_ids)
        last = {_of(line, "item_id"): line for line in self.lines.read() if line.get("item_id") in wanted}
        return (parse_knowledge(line, f"{self.lines.path}: item {item_id}") for item_id, line in last.items())

    def add(self, knowledge: ItemKnowledge) -> None:
        """Keep a record."""
        self._made.add(knowledge.item_id)
        self.lines.append(dataclasses.asdict(knowledge))

    def add_failure(self, item: Item, fingerprint: str, error: Exception) -> None:
        """Keep why an item failed, with the model's raw answer where there is one."""
        self.failures.append(
            {
                "item_id": item.item_id,
                "fingerprint": fingerprint,
                "reason": str(reason(error)),
                "message": str(error),
                "answer": str(getattr(error, "answer", "")),
            }
        )

    def finish(self) -> None:
        """Drop lines that later ones took the place of, and failures that were mended; write the parquet file."""
        done = self.fingerprints()
        _keep_last(self.lines, lambda line: True)
        _keep_last(
            self.failures,
            lambda line: line["item_id"] not in self._made and done.get(line["item_id"]) != line.get("fingerprint"),
        )
        if self.out != self.lines.path:
            write_parquet(self.out, read_knowledge(self.lines.path))


def _of(line: Mapping[str, Any], name: str) -> str:
    value = line.get(name)
    if not isinstance(value, str):
        raise KnowledgeFileError(f"a line without {name}: is this a file of `freshet distill`?")
    return value


def _keep_last(lines: Lines, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave each item's last line, if it is wanted."""
    last: dict[str, int] = {}
    count = 0
    for number, line in enumerate(lines.read()):
        count += 1
        item_id = _of(line, "item_id")
        last.pop(item_id, None)
        if wanted(line):
            last[item_id] = number
    if len(last) < count:
        kept = set(last.values())
        lines.rewrite(line for number, line in enumerate(lines.read()) if number in kept)


def chosen(items: Iterable[Item], limit: int | None = None, seed: int = 0) -> list[Item]:
    """Each item once, its last row counting, in the file's order; `limit` of them drawn with `seed`."""
    by_id = {item.item_id: item for item in items}
    found = list(by_id.values())
    if limit is None or limit >= len(found):
        return found
    places = random.Random(seed).sample(range(len(found)), limit)
    return [found[place] for place in sorted(places)]


class OfflineRun:
    """One run over `items` into `file`; `tally` is right at any time, also after a run was cut off.

    `fingerprint` is the identity of the knowledge that `distiller` makes of an item: an item whose last record bears it
    needs nothing.
    """

    def __init__(
        self,
        items: Sequence[Item],
        file: KnowledgeFile,
        distiller: Distils,
        fingerprint: Callable[[Item], str],
        watcher: Watcher,
        clock: Callable[[], int],
        tally: Tally | None = None,
        *,
        concurrency: int,
    ) -> None:
        self._file = file
        self._distiller = distiller
        self._fingerprint = fingerprint
        self._watcher = watcher
        self._clock = clock
        self._concurrency = concurrency
        self._backoff = Backoff(NAME, Metrics(), most_s=LONGEST_PAUSE_S)
        there = file.fingerprints()
        self._to_do = [item for item in items if there.get(item.item_id) != fingerprint(item)]
        self.tally = tally or Tally()
        self.tally.items, self.tally.there = len(items), len(items) - len(self._to_do)

    async def run(self) -> Tally:
        """Distil what is left. Waits for an endpoint that is away; raises what no retry mends, and cancellation.

        Whatever ends it, what was made is in the file.
        """
        began = time.monotonic()
        queue = iter(self._to_do)
        self._watcher.item(self.tally)

        async def work() -> None:
            for item in queue:  # one iterator for all: each item is taken once
                await self._one(item)
                self.tally.seconds = time.monotonic() - began
                self._watcher.item(self.tally)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(self._to_do))):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one error ends the others: the first says what happened
        finally:
            self.tally.seconds = time.monotonic() - began
        self.tally.complete = True
        return self.tally

    async def _one(self, item: Item) -> None:
        try:
            # The same contract as in the stream; a catalogue's times may lie ahead, as nothing is ordered by them.
            check_item(item, self._clock(), math.inf)
            knowledge = await self._backoff.persevere(lambda: self._ask(item))
        except Exception as error:
            if family(error) is not Family.POISON:
                raise
            self._file.add_failure(item, self._fingerprint(item), error)
            self.tally.failed += 1
        else:
            self._file.add(knowledge)
            self.tally.add(knowledge)

    async def _ask(self, item: Item) -> ItemKnowledge:
        return await told(lambda: self._distiller.distill(item), self._watcher)


async def told(operation: Callable[[], Awaitable[T]], watcher: Watcher) -> T:
    """Run `operation` and tell the watcher whether the endpoint is away."""
    try:
        result = await operation()
    except Exception as error:
        if family(error) is Family.TRANSIENT:
            watcher.waiting(str(error) or type(error).__name__)
        raise
    watcher.waiting("")
    return result
