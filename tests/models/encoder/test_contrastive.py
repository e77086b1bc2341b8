"""The contrastive head and the choice between it and PCA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.encoder.aligner import LinearAligner, load_aligner
from models.encoder.aligner_training import AlignerConfig, train_aligner
from models.encoder.cold_items import ColdConfig
from models.encoder.contrastive import HeadConfig, Texts, train_head
from models.encoder.pairs import DAY_MS, NothingToLearn, Pairs, co_engaged
from models.reasoner.sequences import TrainingEvents, code

ITEMS, GROUPS, DIMS = 200, 10, 48
HEAD = HeadConfig(dims=16, steps=80, check_every=40, batch=64, learning_rate=6e-3, seed=1)


def texts(rng: np.random.Generator, *, telling: bool = True) -> Texts:
    """Items of ten groups: eight weak directions tell the group, the strong ones tell nothing of it."""
    group = np.arange(ITEMS) % GROUPS
    centres = rng.standard_normal((GROUPS, 8))
    vectors = rng.standard_normal((ITEMS, DIMS))
    vectors[:, :8] = (centres[group] if telling else rng.standard_normal((ITEMS, 8))) * 0.5
    vectors[:, 8:28] *= 1.5
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    told = unit.copy()
    told[:, 28:38] += 0.3 * rng.standard_normal((ITEMS, 10)).astype(np.float32)  # a wording of its own
    known = np.arange(ITEMS) % 2 == 0
    return Texts(unit, (told / np.linalg.norm(told, axis=1, keepdims=True)).astype(np.float32), known)


def events(rng: np.random.Generator, *, days: int = 100) -> TrainingEvents:
    """Baskets of one group each; each item is first seen on its own day."""
    users, items, times = [], [], []
    for basket in range(2_000):
        day = int(rng.integers(20, days))
        there = np.flatnonzero(
            (np.arange(ITEMS) % GROUPS == basket % GROUPS)
            & (60 + np.arange(ITEMS) * 0.15 <= day + 40 * (np.arange(ITEMS) < 100))
        )
        for item in rng.permutation(there)[:5]:
            users.append(str(basket % 97))
            items.append(str(item))
            times.append(day * DAY_MS + basket)
    return TrainingEvents(users, items, np.array(times, dtype=np.int64))


def pairs(columns: TrainingEvents) -> Pairs:
    log = code(columns, [int(item) for item in columns.item_ids])
    return co_engaged(log, ITEMS, np.random.default_rng(0))


def separation(aligner: LinearAligner, vectors: np.ndarray) -> float:
    """How much closer items of one group stand than items of two."""
    aligned = aligner.align(vectors)
    cosines = aligned @ aligned.T
    same = (np.arange(ITEMS) % GROUPS)[:, None] == np.arange(ITEMS) % GROUPS
    return float(cosines[same & ~np.eye(ITEMS, dtype=bool)].mean() - cosines[~same].mean())


def test_what_is_bought_together_comes_to_stand_close() -> None:
    """Catches a loss that learns nothing, or pushes partners apart as each other's negatives."""
    rng = np.random.default_rng(3)
    both, met = texts(rng), pairs(events(rng))
    fit = train_head(both, met, HEAD)
    assert separation(fit.aligner, both.text) > 2 * separation(LinearAligner.fit_pca(both.every(), 16), both.text)


def test_hard_negatives_are_never_partners() -> None:
    """Catches a partner among the hard negatives, which would teach the opposite of the log."""
    rng = np.random.default_rng(3)
    both, met = texts(rng), pairs(events(rng))
    fit = train_head(both, met, replace(HEAD, hard=4))
    assert separation(fit.aligner, both.text) > separation(LinearAligner.fit_pca(both.every(), 16), both.text)


def test_both_tiers_of_an_item_come_to_stand_close() -> None:
    """Catches a knowledge tier that moves away from the text tier it replaces."""
    rng = np.random.default_rng(4)
    both, met = texts(rng), pairs(events(rng))
    known = both.known
    pca = LinearAligner.fit_pca(both.every(), 16)

    def tiers(aligner: LinearAligner) -> float:
        return float(np.median((aligner.align(both.text[known]) * aligner.align(both.knowledge[known])).sum(1)))

    assert tiers(train_head(both, met, replace(HEAD, same=0.5, steps=240)).aligner) > tiers(pca) + 0.02


def test_same_seed_same_map_also_from_its_file(tmp_path: Path) -> None:
    """Catches randomness from outside the seed, and a file that forgets how its map was found."""
    rng = np.random.default_rng(5)
    both, met = texts(rng), pairs(events(rng))
    one, two = (train_head(both, met, replace(HEAD, steps=20)).aligner for _ in range(2))
    other = train_head(both, met, replace(HEAD, steps=20, seed=2)).aligner
    assert one.revision == two.revision != other.revision
    one.save(tmp_path / "a.safetensors")
    loaded = load_aligner(tmp_path / "a.safetensors")
    assert loaded.revision == one.revision
    assert isinstance(loaded, LinearAligner)
    assert loaded.about["found_by"] == "contrast"


def test_new_items_are_judged_on_a_time_split() -> None:
    """Catches a head chosen by items it was trained on, and metrics without their baselines."""
    rng = np.random.default_rng(6)
    cold = ColdConfig(known=ITEMS, least_baskets=3, damping=5)
    config = AlignerConfig(head=HEAD, cold=cold)
    ids = [str(item) for item in range(ITEMS)]
    aligner, metrics = train_aligner(events(rng), ids, texts(np.random.default_rng(3)), config)
    assert metrics["found_by"] == "contrast"
    assert metrics["validated_on"] == "items first seen after a time split"
    assert metrics["recall50"] > metrics["pca_recall50"]
    assert aligner.dims == 16


def test_pca_is_kept_where_the_head_does_not_win() -> None:
    """Catches a head saved for its own sake: over texts that tell nothing there is nothing to learn for new items."""
    rng = np.random.default_rng(7)
    config = AlignerConfig(head=replace(HEAD, steps=50, learning_rate=1e-12))
    plain = texts(rng, telling=False)
    aligner, metrics = train_aligner(events(rng), [str(i) for i in range(ITEMS)], plain, config)
    assert metrics["found_by"] == "pca"
    assert aligner.revision == LinearAligner.fit_pca(plain.every(), 16).revision


def test_an_empty_log_says_what_is_missing() -> None:
    """Catches a crash in the middle of training instead of a sentence."""
    plain = Texts.alone(texts(np.random.default_rng(1)).text)
    strangers = TrainingEvents(["u"], ["stranger"], np.array([1], dtype=np.int64))
    with pytest.raises(NothingToLearn, match="none of 1 events is about one of the 200 items"):
        train_aligner(strangers, [str(i) for i in range(ITEMS)], plain, AlignerConfig(head=HEAD))


def test_an_older_file_loads_and_an_unknown_kind_is_named(tmp_path: Path) -> None:
    """Catches a checkpoint of yesterday that no longer loads, or one of tomorrow read as something else."""
    matrix, mean = np.eye(8, dtype=np.float32)[:, :4].copy(), np.zeros(8, dtype=np.float32)
    save_file({"matrix": matrix, "mean": mean}, tmp_path / "old.safetensors")
    assert load_aligner(tmp_path / "old.safetensors").revision == LinearAligner(matrix, mean).revision
    save_file({"matrix": matrix}, tmp_path / "new.safetensors", {"kind": "tower"})
    with pytest.raises(ValueError, match="kind 'tower'"):
        load_aligner(tmp_path / "new.safetensors")
