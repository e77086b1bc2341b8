"""How inference scales with the catalogue: `python -m benchmarks.catalogue_scale [--json] [--plot FILE]`.

One network, trained for some hundred steps on a real log, over catalogues of 4 thousand to 1 million items: the real
ones, and cold ones whose vectors are jittered mixtures of real neighbors. Full scoring against denoising within
shortlists of 256, found in four ways. Speed is users per second of CPU time on one thread, which a busy machine
disturbs least; recall is the share of full scoring's 16 items that the shortlist infers too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.candidate_indexes import Cells, Faiss, Finder, SemanticIds
from models.interactions import Ints, TrainingEvents, code
from models.reasoner.catalogue import Vectors
from models.reasoner.checkpoint import Checkpoint, load
from models.reasoner.denoiser import BlockDenoiser, Reading
from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.sampler import SlotPlan, denoise
from models.reasoner.sequences import first_events
from models.reasoner.shortlist import NOTHING, CandidateIndex, Shortlist
from models.reasoner.slot_layout import layout
from models.reasoner.training.config import TrainingConfig
from schemas.files import read_events, read_items
from streams.jobs.training import train_on
from streams.settings import Settings

SIZES = (4_000, 20_000, 100_000, 300_000, 1_000_000)
STEPS = (1, 2, 4)
SLOTS = 16
NEIGHBOURS = 16
DATA = Path("../shared/data/online_retail_2011")


class Scan:
    """What `models.reasoner.shortlist` does."""

    name = "scan"

    def __init__(self, vectors: Tensor) -> None:
        self.index = CandidateIndex(vectors.shape[1] - 1)
        self.index.update(torch.arange(len(vectors)), vectors[:, :-1], vectors[:, -1])

    def find(self, queries: Tensor, count: int) -> Tensor:
        """See `Finder.find`."""
        return self.index.shortlist(queries, count).rows

    def change(self, rows: Tensor, vectors: Tensor) -> None:
        """See `Finder.change`."""
        self.index.update(rows, vectors[:, :-1], vectors[:, -1])

    @property
    def bytes(self) -> int:
        """See `Finder.bytes`."""
        return self.index.bytes


class FirstSlot(Scan):
    """The same, asked by the state that predicts the first slot instead of the mean of all."""

    name = "scan, first slot"


@dataclass(frozen=True)
class World:
    """A network, its item table at one size of the catalogue, and users' item rows."""

    network: BlockDiffusionNetwork
    embeddings: Tensor
    bias: Tensor
    histories: Sequence[Ints]

    def denoiser(self, users: Sequence[int], shortlists: Callable[[Tensor], Shortlist] | None = None) -> BlockDenoiser:
        """Over some of the users."""
        layouts = [layout((), SLOTS, 0, 0) for _ in users]
        reading = Reading.of([self.histories[user] for user in users], layouts, 200)
        return BlockDenoiser(self.network, self.embeddings, self.bias, reading, shortlists=shortlists)

    def first(self, users: Sequence[int]) -> Tensor:
        """The states (B, width) that predict the users' first slots."""
        reading = Reading.of([self.histories[user] for user in users], [layout((), SLOTS, 0, 0) for _ in users], 200)
        return self.network.prefix(self.embeddings[reading.prefix], reading.lengths).last

    def seen(self, users: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the users must not get: places among `users`, item rows."""
        rows = [self.histories[user] for user in users]
        return torch.from_numpy(np.repeat(np.arange(len(rows)), [len(r) for r in rows])), torch.from_numpy(
            np.concatenate(rows)
        )


def enlarged(vectors: Vectors, size: int, seed: int = 0) -> Vectors:
    """`size` vectors: the given ones, then mixtures of one with two of its neighbors, jittered by 0.3 deviations."""
    rng = np.random.default_rng(seed)
    real, extra = len(vectors), max(0, size - len(vectors))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.argpartition(-(unit @ unit.T), NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    anchor = rng.integers(real, size=extra)
    others = near[anchor[:, None], rng.integers(NEIGHBOURS, size=(extra, 2))]
    shares = rng.dirichlet([2, 1, 1], size=extra).astype(np.float32)
    jitter = 0.3 * vectors.std(0)
    made = np.empty((max(real, size), vectors.shape[1]), dtype=np.float32)
    made[:real] = vectors
    for begin in range(0, extra, 100_000):
        part = slice(begin, begin + 100_000)
        mixed = shares[part, :1] * vectors[anchor[part]]
        mixed += shares[part, 1:2] * vectors[others[part, 0]] + shares[part, 2:] * vectors[others[part, 1]]
        mixed += jitter * rng.standard_normal(mixed.shape, dtype=np.float32)
        length = np.linalg.norm(vectors[anchor[part]], axis=1) / np.linalg.norm(mixed, axis=1)
        made[real + begin : real + begin + len(mixed)] = mixed * length[:, None]
    return made[:size]


@torch.inference_mode()
def world(checkpoint: Checkpoint, histories: Sequence[Ints], size: int) -> World:
    """The checkpoint's network over `size` items; those beyond the trained ones are cold."""
    vectors = torch.from_numpy(enlarged(checkpoint.vectors, size))
    trained = torch.arange(len(vectors))
    trained[trained >= checkpoint.network.config.items] = -1
    embeddings, bias = checkpoint.network.embed(vectors, trained)
    return World(checkpoint.network.eval(), embeddings, bias, histories)


def full(world: World, users: int, steps: int) -> tuple[Tensor, Tensor, float]:
    """Rows and confidences (B, S) by scoring every item, in batches that stay in cache, and CPU seconds."""
    at_once = max(1, 8_000_000 // (SLOTS * len(world.embeddings)))
    began, rows, confidences = time.process_time(), [], []
    for begin in range(0, users, at_once):
        part = range(begin, min(begin + at_once, users))
        block = denoise(world.denoiser(part), world.seen(part), part, SlotPlan(SLOTS, steps))
        rows.append(block.rows)
        confidences.append(block.confidences)
    return torch.cat(rows), torch.cat(confidences), time.process_time() - began


def within(world: World, users: int, steps: int, search: Callable[[Tensor], Shortlist]) -> tuple[Tensor, Tensor, float]:
    """The same within shortlists."""
    began = time.process_time()
    denoiser = world.denoiser(range(users), search)
    block = denoise(denoiser, NOTHING, range(users), SlotPlan(SLOTS, steps))
    return denoiser.rows_of(block.rows), block.confidences, time.process_time() - began


def shared(one: Tensor, other: Tensor) -> float:
    """Share of the rows (B, S) that `other` (B, K) has too, over users."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b) - {-1}) / len(a) for a, b in pairs]))


@torch.inference_mode()
def by_catalogue(
    sizes: Sequence[int],
    checkpoint: Checkpoint,
    histories: Sequence[Ints],
    *,
    users: int = 64,
    compared: int = 64,
    count: int = 256,
    rounds: int = 5,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """One row per size and method; `compared` of the users are also scored in full."""
    rows = []
    for size in sizes:
        here = world(checkpoint, histories[:users], size)
        exact = {steps: full(here, compared, steps) for steps in STEPS}
        speeds = {f"users_per_s_{steps}": round(compared / exact[steps][2], 1) for steps in STEPS}
        rows.append({"items": size, "method": "full", **speeds, "mb": _mb(here.embeddings, here.bias)})
        say(json.dumps(rows[-1]))
        for finder, build_s in finders(torch.cat([here.embeddings, here.bias[:, None]], dim=1)):
            row = {"items": size, "method": finder.name, "build_s": round(build_s, 2)}
            rows.append({**row, **_measured(finder, here, exact, users, count, rounds)})
            say(json.dumps(rows[-1]))
    return rows


def finders(vectors: Tensor) -> Iterator[tuple[Finder, float]]:
    """Everything compared, over embeddings and biases (N, width + 1), and the CPU seconds that building it took."""
    makers: list[Callable[[Tensor], Finder]] = [Scan, FirstSlot, Cells, SemanticIds]
    makers += [Faiss] if importlib.util.find_spec("faiss") else []
    for maker in makers:
        began = time.process_time()
        finder = maker(vectors.clone())
        build_s = time.process_time() - began
        yield finder, build_s
        if isinstance(finder, Cells | Faiss):
            yield finder.wider(), build_s


def _measured(
    finder: Finder,
    here: World,
    exact: dict[int, tuple[Tensor, Tensor, float]],
    users: int,
    count: int,
    rounds: int,
) -> dict[str, Any]:
    vectors = torch.cat([here.embeddings, here.bias[:, None]], dim=1)
    row: dict[str, Any] = {}
    seen = here.seen(range(users))
    span, most = len(vectors), max(len(rows) for rows in here.histories)
    index = finder.index if isinstance(finder, Scan) else Scan(vectors).index
    compared, first = len(exact[1][0]), here.first(range(users))
    taken: list[float] = []

    def search(states: Tensor) -> Shortlist:
        began = time.process_time()
        if isinstance(finder, Scan):
            asked = first if isinstance(finder, FirstSlot) else states
            found = index.shortlist(asked, count, seen)
        else:  # the others cannot leave out what a user has: they are asked for more
            rows = finder.find(states, count + most)
            struck = torch.isin(rows + torch.arange(len(rows))[:, None] * span, seen[0] * span + seen[1])
            found = index.with_others(torch.where(struck, -1, rows), seen)
        taken.append(time.process_time() - began)
        return found

    def unweighed(states: Tensor) -> Shortlist:
        found = search(states)
        return replace(found, weights=torch.full_like(found.weights, -torch.inf))

    within(here, users, 1, search)  # the first call allocates
    for steps in STEPS:
        runs = [within(here, users, steps, search) for _ in range(rounds)]
        row[f"users_per_s_{steps}"] = round(users / median(run[2] for run in runs), 1)
        row[f"recall_{steps}"] = round(shared(exact[steps][0], runs[0][0][:compared]), 3)
    row["search_ms"] = round(1_000 * median(taken), 1)
    scale = exact[1][1].mean()
    row["confidence_ratio"] = round(float(within(here, users, 1, search)[1][:compared].mean() / scale), 2)
    plain = within(here, users, 1, unweighed)
    row["recall_1_without_rest"] = round(shared(exact[1][0], plain[0][:compared]), 3)
    row["confidence_ratio_without_rest"] = round(float(plain[1][:compared].mean() / scale), 2)
    changed = torch.arange(0, len(vectors), max(1, len(vectors) // 1_000))[:1_000]
    began = time.process_time()
    finder.change(changed, vectors[changed].clone())
    row["update_1000_ms"] = round(1_000 * (time.process_time() - began), 1)
    row["mb"] = round(finder.bytes / 2**20, 1)
    return row


def _mb(*tensors: Tensor) -> float:
    return round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20, 1)


def histories_of(checkpoint: Checkpoint, events: Path, users: int, longest: int = 64) -> list[Ints]:
    """The item rows of some users, first events only, at most `longest`."""
    table = read_events(events)
    row_of = {item_id: row for row, item_id in enumerate(checkpoint.item_ids)}
    ids = table["item_id"].to_pylist()
    columns = TrainingEvents(table["user_id"].to_pylist(), ids, table["event_time"].to_numpy().astype(np.int64))
    log = code(columns, [row_of.get(item_id, -1) for item_id in ids])
    starts = np.searchsorted(log.users, np.arange(log.user_count + 1))
    chosen = np.random.default_rng(0).permutation(log.user_count)
    read = [first_events(log.items[starts[user] : starts[user + 1]])[-longest:] for user in chosen]
    return [rows for rows in read if len(rows)][:users]


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Users a second and recall over the size of the catalogue, one line per method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (speed, recall) = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        sizes = [row["items"] for row in mine]
        speed.plot(sizes, [row["users_per_s_1"] for row in mine], marker="o", label=method)
        recall.plot(sizes, [row.get("recall_1", 1.0) for row in mine], marker="o", label=method)
    for axis, title in (
        (speed, "users/s per core, 1 step, 16 slots, batch 64"),
        (recall, "recall of full scoring's 16"),
    ):
        axis.set(xscale="log", xlabel="items", title=title)
        axis.grid(alpha=0.3)
    speed.set_yscale("log")
    speed.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with events.parquet and items.parquet")
    parser.add_argument("--checkpoint", type=Path, help="a trained reasoner instead of a new one")
    parser.add_argument("--compared", type=int, default=64, help="users scored in full")
    parser.add_argument("--count", type=int, default=256, help="items in a shortlist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="draw the curve into this file")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    torch.set_num_threads(1)
    if options.checkpoint is None:
        with tempfile.TemporaryDirectory() as folder:
            events, items = (
                read_events(options.data / "events.parquet"),
                read_items(options.data / "items.parquet", default_time=0),
            )
            checkpoint = train_on(events, items, Settings.load(), TrainingConfig(), Path(folder) / "reasoner")
    else:
        checkpoint = load(options.checkpoint)
    histories = histories_of(checkpoint, options.data / "events.parquet", 64)
    rows = by_catalogue(
        options.sizes,
        checkpoint,
        histories,
        compared=options.compared,
        count=options.count,
        rounds=options.rounds,
        say=say,
    )
    if options.plot is not None:
        draw(rows, options.plot)
    if options.json:
        print(json.dumps({"by_catalogue": rows, "threads": 1, "slots": SLOTS}))
    else:
        for row in rows:
            print(" · ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
