"""Small histories, catalogues and untrained networks for the reasoner's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.reasoner.catalogue import Catalogue
from models.reasoner.checkpoint import Checkpoint
from models.reasoner.network import BlockDiffusionNetwork, NetworkConfig

DIMS = 8

# Tiny tensors: several threads only wait for each other, minutes long on a busy machine.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Told:
    """A history; times default to one a second."""

    user_id: str
    item_ids: Sequence[str]
    event_times: Sequence[int] = ()


def told(user_id: str, *item_ids: str) -> Told:
    return Told(user_id, item_ids, tuple(1000 * (place + 1) for place in range(len(item_ids))))


def names(count: int, first: int = 0) -> list[str]:
    return [f"i{number}" for number in range(first, first + count)]


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def network(items: int, seed: int = 0) -> BlockDiffusionNetwork:
    """Random weights, large enough for every state to depend on all that it sees."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = BlockDiffusionNetwork(
            NetworkConfig(items=items, knowledge_dims=DIMS, width=16, heads=2, feedforward=32, dropout=0.0)
        )
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return made.eval().requires_grad_(False)


def checkpoint(items: int = 40, seed: int = 0) -> Checkpoint:
    return Checkpoint(network(items, seed), tuple(names(items)), unit_vectors(items), {}, {})


def catalogue(items: int = 40) -> Catalogue:
    return Catalogue(names(items), unit_vectors(items))


def random_histories(users: int, items: int, longest: int, seed: int = 0) -> list[Told]:
    rng = np.random.default_rng(seed)
    return [
        told(f"u{user}", *(f"i{row}" for row in rng.integers(items, size=rng.integers(1, longest + 1))))
        for user in range(users)
    ]
