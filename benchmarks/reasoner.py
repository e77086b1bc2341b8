"""Users a second of the block-diffusion reasoner: `python -m benchmarks.reasoner [--json]`.

Prints users/s by denoising steps, model and history sizes and catalogue, beside cached autoregressive decoding of the
same network and beside the same plan without a prefix cache, and what the selection of items costs. Random weights:
speed does not depend on their values. Every figure is the median of rounds in which the rivals take turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.reasoner.block_diffusion import BlockDiffusionReasoner, ItemTable
from models.reasoner.catalogue import Catalogue
from models.reasoner.checkpoint import Checkpoint
from models.reasoner.cooccurrence_table import NeighborConfig, NeighborTable
from models.reasoner.denoiser import BlockDenoiser, Reading, Scratch
from models.reasoner.infill import layout
from models.reasoner.network import BlockDiffusionNetwork, EncodedPrefix, NetworkConfig, rotations
from models.reasoner.sampler import SlotPlan, denoise
from store.histories import History

DIMS = 128
NEIGHBOURS = NeighborConfig()
STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    """Sizes of one measurement; the default is the worker's."""

    items: int = 4_000
    users: int = 64
    history: int = 64
    slots: int = 16
    width: int = 64
    layers: int = 2


class Case:
    """One network, one catalogue, one batch of users."""

    def __init__(self, setting: Setting, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.setting = setting
        torch.manual_seed(seed)
        trained = min(setting.items, 20_000)
        config = NetworkConfig(
            items=trained,
            knowledge_dims=DIMS,
            width=setting.width,
            layers=setting.layers,
            heads=setting.width // 32,
            feedforward=4 * setting.width,
        )
        self.network = BlockDiffusionNetwork(config).eval().requires_grad_(False)
        vectors = rng.standard_normal((setting.items, DIMS), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = tuple(f"item{row}" for row in range(setting.items))
        self.catalogue = Catalogue(ids, vectors)
        near = NeighborTable(
            torch.from_numpy(rng.integers(trained, size=(trained, NEIGHBOURS.most))),
            torch.from_numpy(rng.random((trained, NEIGHBOURS.most), dtype=np.float32)),
            NEIGHBOURS.half_life,
        )
        made = Checkpoint(self.network, ids[:trained], vectors[:trained], {}, {}, neighbors=near)
        self.reasoner = BlockDiffusionReasoner(made)
        self.rows = [rng.choice(setting.items, setting.history, replace=False) for _ in range(setting.users)]
        times = tuple(range(setting.history))
        self.histories = [
            History(f"user{user}", tuple(ids[row] for row in rows), (), times) for user, rows in enumerate(self.rows)
        ]
        self.table = ItemTable(
            self.network, {name: row for row, name in enumerate(ids[:trained])}, self.catalogue, near
        )
        self.table.refresh()
        self.scratch = Scratch()
        self.embeddings, self.bias = (whole[: self.table.size] for whole in (self.table.embeddings, self.table.bias))
        users = np.repeat(np.arange(setting.users), setting.history)
        self.seen = (torch.from_numpy(users), torch.from_numpy(np.concatenate(self.rows)))

    def infer(self, steps: int) -> None:
        """What the lane calls: ids in, behaviors out."""
        self.reasoner.infer(self.histories, self.catalogue, slots=self.setting.slots, steps=steps)

    @torch.inference_mode()
    def denoise(self, steps: int, *, cached: bool = True) -> tuple[float, float]:
        """Seconds in the network and seconds in all, without `cached` at full recompute in every step."""
        layouts = [layout((), self.setting.slots, 0, 0) for _ in self.rows]
        began = time.perf_counter()
        inside = 0.0
        reading = Reading.of(self.rows, layouts, self.setting.history)
        offset = self.table.offset(self.rows)
        given = self.network, self.embeddings, self.bias, reading, offset, None, self.scratch
        denoiser = BlockDenoiser(*given)

        def timed(slots: Tensor, open_: Tensor) -> tuple[Tensor, Tensor | None]:
            nonlocal inside, denoiser
            start = time.perf_counter()
            if not cached:
                denoiser = BlockDenoiser(*given)
            scores = denoiser(slots, open_)
            inside += time.perf_counter() - start
            return scores

        denoise(timed, self.seen, range(self.setting.users), SlotPlan(self.setting.slots, steps))
        return inside, time.perf_counter() - began

    @torch.inference_mode()
    def autoregressive(self) -> Tensor:
        """The best unseen item, appended to the cached history, as often as there are slots; items (B, S)."""
        history = torch.from_numpy(np.stack(self.rows))
        lengths = torch.full((len(history),), history.shape[1])
        prefix = self.network.prefix(self.embeddings[history], lengths)
        chosen: list[Tensor] = []
        offset = self.table.offset(self.rows)
        assert offset is not None
        near = offset.dense(self.setting.items)
        everyone = torch.arange(len(history))
        for slot in range(self.setting.slots):
            scores = self.network.scores(prefix.last, self.embeddings, self.bias) + near
            scores[self.seen] = -torch.inf
            for row in chosen:
                scores[everyone, row] = -torch.inf
            scores.logsumexp(1)  # a confidence costs the same here as there
            chosen.append(scores.argmax(1))
            if slot + 1 < self.setting.slots:
                prefix = extended(self.network, prefix, self.embeddings[chosen[-1]])
        return torch.stack(chosen, dim=1)


def extended(network: BlockDiffusionNetwork, prefix: EncodedPrefix, item: Tensor) -> EncodedPrefix:
    """The cached history with one more item (B, width) behind it; all histories are of one length."""
    rotation = rotations(prefix.lengths[:1] + 1, network.config)
    x, keys, values = item[:, None], [], []
    mask = torch.cat([prefix.mask, torch.ones_like(prefix.mask[:, :1])], dim=1)
    for layer, past_k, past_v in zip(network.stack, prefix.keys, prefix.values, strict=True):
        q, k, v = layer.project(x, rotation)
        keys.append(torch.cat([past_k, k], dim=2))
        values.append(torch.cat([past_v, v], dim=2))
        x = layer.finish(x, q, keys[-1], values[-1], mask[:, None, None])
    return EncodedPrefix(tuple(keys), tuple(values), mask, prefix.lengths + 1, network.norm(x[:, 0]))


def seconds(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each of `runs`, which take turns."""
    for run in runs:
        run()
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return [median(times) for times in taken]


def by_steps(setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """One row per number of steps: the lane's call, the same without a prefix cache, the share of the selection."""
    case = Case(setting)
    rows = []
    for steps in STEPS:
        shares: list[float] = []

        def split(steps: int = steps, shares: list[float] = shares) -> None:
            inside, whole = case.denoise(steps)
            shares.append(1 - inside / whole)

        runs = [
            lambda steps=steps: case.infer(steps),
            split,
            lambda steps=steps: case.denoise(steps, cached=False),
            case.autoregressive,
        ]
        infer_s, denoise_s, recompute_s, autoregressive_s = seconds(runs, rounds)
        rows.append(
            {
                "steps": steps,
                "width": setting.width,
                "layers": setting.layers,
                "history": setting.history,
                "users_per_s": round(setting.users / infer_s, 1),
                "denoise_users_per_s": round(setting.users / denoise_s, 1),
                "recompute_users_per_s": round(setting.users / recompute_s, 1),
                "autoregressive_users_per_s": round(setting.users / autoregressive_s, 1),
                "select_share": round(median(shares), 3),
            }
        )
    return rows


def by_catalogue(sizes: Sequence[int], setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """The lane's call at other catalogue sizes, at the default plan and at four steps."""
    rows = []
    for items in sizes:
        case = Case(replace(setting, items=items))
        began = time.perf_counter()
        case.infer(1)
        first_s = time.perf_counter() - began  # with what is built once
        one, four = seconds([lambda: case.infer(1), lambda: case.infer(4)], rounds)  # noqa: B023
        rows.append(
            {
                "items": items,
                "users_per_s": round(setting.users / one, 1),
                "users_per_s_4_steps": round(setting.users / four, 1),
                "first_call_s": round(first_s, 2),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--catalogues", default="1000,4000,20000,100000,300000,1000000")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = Setting()
    steps = by_steps(base, options.rounds)
    for other in (replace(base, history=16), replace(base, history=200), replace(base, width=128, layers=4)):
        steps += by_steps(other, max(3, options.rounds // 3))
    sizes = [int(size) for size in options.catalogues.split(",") if size]
    catalogues = by_catalogue(sizes, base, max(3, options.rounds // 3))
    default = next(row for row in steps if row["steps"] == SlotPlan().steps)
    answer = {
        **{key: default[key] for key in ("users_per_s", "autoregressive_users_per_s", "recompute_users_per_s")},
        "select_share": default["select_share"],
        "threads": options.threads,
        "by_steps": steps,
        "by_catalogue": catalogues,
    }
    show(f"by steps: {base.items:,} items, {base.users} users, {base.slots} slots, {options.threads} threads", steps)
    show("by catalogue", catalogues)
    if options.json:
        print(json.dumps(answer))


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
