"""Distilling a file: resume, failures, waits and the calls that are saved."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freshet.records import Claim, Item, ItemKnowledge, Provenance
from models.llm.client import LLMForbidden, LLMUnavailable
from processors.items.distiller import InvalidKnowledge
from processors.items.prompt_text import digest, used_fields
from schemas.knowledge_file import KnowledgeFile
from streams.jobs.distill_file import DistillCounts, OfflineRun, chosen
from tests.support.fakes import NOW_MS, FakeClock

ITEMS = [Item(f"i{n}", NOW_MS, f"Thing number{n} model{n}x") for n in range(6)]


class FakeDistiller:
    """Answers at once, unless `behave` raises; `asked` are the titles."""

    def __init__(self, distillation: str = "r1") -> None:
        self.distillation = distillation
        self.asked: list[str] = []
        self.under_way = self.most_under_way = 0
        self.behave: Callable[[Item], None] = lambda item: None
        self.hang_on: set[str] = set()

    async def identify(self) -> None:
        """Its name is known."""

    def fingerprint(self, item: Item) -> str:
        return digest(used_fields(item), self.distillation)

    async def distill(self, item: Item, *, source_partition: int = -1, source_offset: int = -1) -> ItemKnowledge:
        self.asked.append(item.title)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(60 if item.item_id in self.hang_on else 0.001)
        self.under_way -= 1
        self.behave(item)
        cost = Provenance(calls=2, tokens_in=10, tokens_out=5)
        claims = (Claim("audience", "", "anybody", inferred=True),)
        return ItemKnowledge(item.item_id, item.event_time, 1, self.fingerprint(item), "a thing", claims, cost)


class Watcher:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.causes: list[str] = []
        self.tallies: list[DistillCounts] = []

    def item(self, tally: DistillCounts) -> None:
        self.tallies.append(dataclasses.replace(tally))

    def waiting(self, cause: str) -> None:
        if not self.causes or self.causes[-1] != cause:
            self.causes.append(cause)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[KnowledgeFile]:
    file = KnowledgeFile(tmp_path / "k.jsonl")
    yield file
    file.close()


def run_of(
    items: list[Item], file: KnowledgeFile, distiller: FakeDistiller, watcher: Watcher | None = None
) -> OfflineRun:
    return OfflineRun(items, file, distiller, watcher or Watcher(), FakeClock(), concurrency=3)


async def test_every_item_is_distilled_once_and_counted(file: KnowledgeFile) -> None:
    """Catches lost or doubled items, too many calls at once, and a wrong bill."""
    distiller, watcher = FakeDistiller(), Watcher()
    tally = await run_of(ITEMS, file, distiller, watcher).run()
    assert sorted(distiller.asked) == sorted(item.title for item in ITEMS)
    assert distiller.most_under_way == 3
    assert file.fingerprints() == {item.item_id: distiller.fingerprint(item) for item in ITEMS}
    assert (tally.fresh, tally.calls, tally.tokens_in, tally.tokens_out, tally.left) == (6, 12, 60, 30, 0)
    assert tally.complete
    told = [told.made for told in watcher.tallies]
    assert (told[0], told[-1], len(told)) == (0, 6, 7)


async def test_a_second_run_asks_only_for_what_is_new_or_changed(file: KnowledgeFile) -> None:
    """Catches tokens spent again on what stands in the file, and a changed item that keeps its old knowledge."""
    await run_of(ITEMS, file, FakeDistiller()).run()
    changed = dataclasses.replace(ITEMS[0], title="Another model9z")
    price_only = dataclasses.replace(ITEMS[1], price=9.5, event_time=NOW_MS + 5)
    distiller = FakeDistiller()
    tally = await run_of([changed, price_only, *ITEMS[2:], Item("new", NOW_MS, "Brand new8y")], file, distiller).run()
    assert sorted(distiller.asked) == ["Another model9z", "Brand new8y"]
    assert (tally.there, tally.made) == (5, 2)


async def test_a_new_recipe_makes_everything_again(file: KnowledgeFile) -> None:
    """Catches knowledge of two prompts or models mixed in one file."""
    await run_of(ITEMS, file, FakeDistiller()).run()
    distiller = FakeDistiller("r2")
    assert (await run_of(ITEMS, file, distiller).run()).fresh == 6
    assert file.fingerprints()["i0"] == distiller.fingerprint(ITEMS[0])


async def test_a_run_cut_off_keeps_what_it_made(file: KnowledgeFile) -> None:
    """Catches a Ctrl-C that costs more than what was under way."""
    distiller = FakeDistiller()
    distiller.hang_on = {"i1", "i4"}
    run = run_of(ITEMS, file, distiller)
    task = asyncio.create_task(run.run())
    while run.tally.made < 4:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (run.tally.made, run.tally.left, run.tally.complete) == (4, 2, False)
    again = FakeDistiller()
    tally = await run_of(ITEMS, file, again).run()
    assert (tally.there, again.asked) == (4, [ITEMS[1].title, ITEMS[4].title])


async def test_a_failed_item_is_noted_with_its_answer_and_tried_by_the_next_run(file: KnowledgeFile) -> None:
    """Catches one bad item that ends the run, or is never tried again."""

    def refuse(item: Item) -> None:
        if item.item_id == "i2":
            raise InvalidKnowledge("cut off", '{"a')

    distiller = FakeDistiller()
    distiller.behave = refuse
    untitled = Item("blank", NOW_MS, " ")
    tally = await run_of([*ITEMS, untitled], file, distiller).run()
    assert (tally.fresh, tally.failed, tally.left) == (5, 2, 0)
    failures = {line["item_id"]: line for line in file.failures.read()}
    assert (failures["i2"]["reason"], failures["i2"]["answer"]) == ("invalid_knowledge", '{"a')
    assert failures["blank"]["reason"] == "empty_title"
    file.finish()
    again = FakeDistiller()
    await run_of(ITEMS, file, again).run()
    assert again.asked == [ITEMS[2].title]
    file.finish()
    assert [line["item_id"] for line in file.failures.read()] == ["blank"]


async def test_an_endpoint_that_is_away_is_waited_for(file: KnowledgeFile) -> None:
    """Catches a failure noted, or a run ended, because a server restarts."""
    down = {"left": 4}

    def away(item: Item) -> None:
        if down["left"]:
            down["left"] -= 1
            raise LLMUnavailable("connection refused")

    distiller, watcher = FakeDistiller(), Watcher()
    distiller.behave = away
    tally = await run_of(ITEMS, file, distiller, watcher).run()
    assert (tally.fresh, tally.failed) == (6, 0)
    assert watcher.causes[0] == "connection refused"
    assert watcher.causes[-1] == ""


async def test_a_refused_key_ends_the_run(file: KnowledgeFile) -> None:
    """Catches a run that notes every item as failed, or waits for ever, where the settings are wrong."""

    def forbid(item: Item) -> None:
        raise LLMForbidden("401")

    distiller = FakeDistiller()
    distiller.behave = forbid
    with pytest.raises(LLMForbidden):
        await run_of(ITEMS, file, distiller).run()
    assert list(file.failures.read()) == []


async def test_variants_and_repeats_cost_one_call(file: KnowledgeFile) -> None:
    """Catches an offline run that pays for what the lane would share; also with what an earlier run made."""
    towels = [Item(f"t{n}", NOW_MS, f"Bath towel {size} cm", brand="Acme") for n, size in enumerate((50, 60, 70))]
    repeat = dataclasses.replace(ITEMS[0], item_id="again")
    distiller = FakeDistiller()
    tally = await run_of([*towels[:2], ITEMS[0], repeat], file, distiller).run()
    assert (tally.fresh, tally.cache, tally.shared) == (2, 1, 1)
    later = FakeDistiller()
    tally = await run_of([*towels, ITEMS[0]], file, later).run()
    assert (tally.there, tally.shared, later.asked) == (3, 1, [])


def test_a_sample_is_drawn_by_seed_in_the_files_order() -> None:
    """Catches a sample that another run with the same seed would not draw, and an id that counts twice."""
    drawn = chosen(iter(ITEMS), 3, seed=7)
    assert drawn == chosen(ITEMS, 3, seed=7)
    assert drawn == sorted(drawn, key=lambda item: item.item_id)
    assert any(chosen(ITEMS, 3, seed=seed) != drawn for seed in range(5))
    newer = dataclasses.replace(ITEMS[0], title="newer")
    assert chosen([*ITEMS, newer])[0].title == "newer"
    assert len(chosen([*ITEMS, newer], 100)) == 6
