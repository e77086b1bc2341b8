from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.interactions import TrainingEvents
from models.reasoner import checkpoint
from models.reasoner.block_diffusion import BlockDiffusionReasoner
from models.reasoner.catalogue import Catalogue
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.fit import TrainingProgress, sampled_cross_entropy
from models.reasoner.training.train_reasoner import train_reasoner
from tests.models.reasoner.reasoner_tools import DIMS, Told, names, told, unit_vectors

ITEMS = 60
TINY = TrainingConfig(
    steps=8, width=16, window=8, block=4, batch=16, negatives=20, validation_share=0.1, dropout=0.0, max_items=100
)


def walks(users: int = 150, length: int = 10) -> TrainingEvents:
    """Everyone walks the items in order from a random start: the next item is certain."""
    rng = np.random.default_rng(0)
    events = [
        (f"u{user}", f"i{(start + place) % ITEMS}", 1_000_000 * place + user)
        for user, start in enumerate(rng.integers(ITEMS, size=users))
        for place in range(length)
    ]
    users_, items, times = zip(*events, strict=True)
    return TrainingEvents(users_, items, np.array(times))


def catalogue(extra: int = 0) -> Catalogue:
    return Catalogue(names(ITEMS + extra), unit_vectors(ITEMS + extra))


def trained(out: Path, config: TrainingConfig = TINY, **options: object) -> checkpoint.Checkpoint:
    return checkpoint.load(train_reasoner(walks(), catalogue(), config, out, **options))  # type: ignore[arg-type]


def test_it_learns_what_can_be_learned(tmp_path: Path):
    config = replace(TINY, steps=300, learning_rate=0.02, validate_every=0, neighbors=False)
    made = trained(tmp_path / "c", config)
    assert made.metrics["hr10"] > 0.9
    assert made.metrics["popularity_hr10"] < 0.5
    [inference] = BlockDiffusionReasoner(made).infer(
        [told("u", "i10", "i11", "i12", "i13")], catalogue(), slots=4, steps=4
    )
    # Not only the next item, which a next-item model has, but what comes after it.
    assert {"i14", "i15", "i16", "i17"} == {behavior.item_id for behavior in inference.behaviors}


def test_the_same_seed_gives_the_same_checkpoint(tmp_path: Path):
    one, same = trained(tmp_path / "a"), trained(tmp_path / "b")
    other = trained(tmp_path / "c", replace(TINY, seed=1))
    assert one.revision == same.revision != other.revision
    assert {k: v for k, v in one.metrics.items() if k != "train_seconds"} == {
        k: v for k, v in same.metrics.items() if k != "train_seconds"
    }


class Interrupted(Exception):
    pass


def interrupted(at: int):
    def progress(told: TrainingProgress) -> None:
        if told.step == at:
            raise Interrupted

    return progress


@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(tmp_path: Path, at: int):
    """Catches an optimizer, a random generator or a place in the epoch that is not restored."""
    config = replace(TINY, steps=40, batch=64, validate_every=2, dropout=0.1)
    whole = trained(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", config, progress=interrupted(at))
    assert not (tmp_path / "cut").exists()
    cut = trained(tmp_path / "cut", config, resume=True)
    assert cut.metrics["resumed_at"] == (at - 1) // 2 * 2 > 0
    assert cut.revision == whole.revision
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


@pytest.mark.parametrize("other", [{"seed": 1}, {"steps": 41}])
def test_another_run_is_not_resumed(tmp_path: Path, other: dict[str, int]):
    """Catches weights of one run that end up in another."""
    config = replace(TINY, steps=40, validate_every=2)
    with pytest.raises(Interrupted):
        trained(tmp_path / "c", config, progress=interrupted(5))
    made = trained(tmp_path / "c", replace(config, **other), resume=True)
    assert made.metrics["resumed_at"] == 0
    assert made.revision == trained(tmp_path / "d", replace(config, **other)).revision


def test_without_resume_a_run_begins_anew(tmp_path: Path):
    """Catches a run that goes on unasked."""
    config = replace(TINY, steps=40, validate_every=2)
    with pytest.raises(Interrupted):
        trained(tmp_path / "c", config, progress=interrupted(5))
    assert trained(tmp_path / "c", config).metrics["resumed_at"] == 0


def test_training_ends_early_with_the_best_weights(tmp_path: Path):
    """Catches patience that is not kept, and last weights sold as the best."""
    config = replace(TINY, steps=3_000, learning_rate=0.03, validate_every=5, patience=2, validation_share=0.2)
    rng = np.random.default_rng(0)
    noise = TrainingEvents(
        [f"u{n % 40}" for n in range(800)], [f"i{n}" for n in rng.integers(ITEMS, size=800)], np.arange(800) * 1000
    )
    made = checkpoint.load(train_reasoner(noise, catalogue(), config, tmp_path / "c"))
    assert made.metrics["stopped_early"]
    assert made.metrics["steps"] == made.metrics["best_step"] + 2 * 5 < 3_000
    again = replace(config, steps=3_000, patience=0, minutes=None)
    assert again.patience == 0
    assert made.metrics["ndcg10"] >= made.metrics["popularity_ndcg10"] / 2


def test_a_checkpoint_warm_starts_the_next(tmp_path: Path):
    """Catches ids mixed up when the catalogue grew and its order changed, and new items that begin at random."""
    config = replace(TINY, steps=150, learning_rate=0.02, id_dropout=0.0, neighbors=False)
    first = trained(tmp_path / "first", config)
    shuffled = names(ITEMS + 3)[::-1]
    grown = Catalogue(shuffled, unit_vectors(ITEMS + 3)[::-1].copy())
    columns = walks()
    more = TrainingEvents(
        [*columns.user_ids, "new", "new"], [*columns.item_ids, "i60", "i61"], np.append(columns.event_times, [5, 6])
    )
    short = replace(config, steps=1, learning_rate=1e-9)
    made = checkpoint.load(train_reasoner(more, grown, short, tmp_path / "next", warm_start=first))
    cold = checkpoint.load(train_reasoner(more, grown, short, tmp_path / "cold"))
    assert made.metrics["hr10"] > 0.9 > cold.metrics["hr10"] + 0.3
    place = {item_id: row for row, item_id in enumerate(made.item_ids)}
    before = {item_id: row for row, item_id in enumerate(first.item_ids)}
    torch.testing.assert_close(made.network.ids[place["i7"]], first.network.ids[before["i7"]], atol=1e-4, rtol=0)
    assert made.network.ids[place["i60"]].abs().max() < 1e-4


def test_a_warm_start_of_other_sizes_is_refused(tmp_path: Path):
    """Catches a crash deep in torch where a message would do."""
    first = trained(tmp_path / "first")
    with pytest.raises(TrainingError, match="width 16, wanted 32"):
        trained(tmp_path / "next", replace(TINY, width=32), warm_start=first)


def test_the_network_weighs_beside_its_neighbors_what_validation_likes(tmp_path: Path):
    """Catches a weight that nobody uses, and one that is chosen where it was given."""
    config = replace(TINY, steps=150, learning_rate=0.02)
    chosen, given = trained(tmp_path / "a", config), trained(tmp_path / "b", replace(config, network_weight=0.5))
    weighing = chosen.metrics["neighbors"]
    assert weighing["network_weight"] == pytest.approx(float(chosen.network.score_weight))
    assert float(given.network.score_weight) == 0.5
    assert chosen.neighbors is not None
    assert chosen.neighbors.half_life == weighing["half_life"]
    unasked = trained(tmp_path / "c", replace(config, validation_share=0.0))
    assert float(unasked.network.score_weight) == pytest.approx(0.2)
    alone = trained(tmp_path / "d", replace(config, neighbors=False))
    assert alone.neighbors is None
    assert float(alone.network.score_weight) == 1.0


def test_training_leaves_the_global_generator_alone(tmp_path: Path):
    before = torch.random.get_rng_state()
    trained(tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_folder_holds_what_a_worker_needs(tmp_path: Path):
    trained(tmp_path / "c", also=lambda folder: (folder / checkpoint.ALIGNER).write_bytes(b"map") and None)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "aligner.safetensors",
        "catalogue.safetensors",
        "config.json",
        "item_ids.json",
        "metrics.json",
        "neighbours.safetensors",
        "reasoner.safetensors",
    }


def test_the_item_cap_keeps_the_most_frequent_and_rare_ones_only_when_asked(tmp_path: Path):
    capped = trained(tmp_path / "a", replace(TINY, max_items=30))
    assert len(capped.item_ids) == capped.network.config.items == 30
    config = replace(TINY, max_items=30, include_rare=True)
    whole = checkpoint.load(train_reasoner(walks(), catalogue(extra=5), config, tmp_path / "b"))
    assert sorted(whole.item_ids) == sorted(names(ITEMS + 5))
    assert whole.item_ids[:30] == capped.item_ids
    np.testing.assert_array_equal(whole.vectors, catalogue(extra=5).get(whole.item_ids)[0])


def test_progress_rises_to_one_and_steps_are_counted(tmp_path: Path):
    heard: list[TrainingProgress] = []
    made = trained(tmp_path / "c", progress=heard.append)
    assert [each.step for each in heard] == [*range(1, 9), 8]
    assert sorted(each.share for each in heard) == [each.share for each in heard]
    assert heard[-1].share == 1.0
    assert made.metrics["steps"] == 8


def test_the_time_cap_ends_training(tmp_path: Path):
    assert trained(tmp_path / "c", replace(TINY, steps=10**9, minutes=0.01)).metrics["steps"] < 10**6


def test_histories_do_as_well_as_columns(tmp_path: Path):
    columns = walks()
    by_user: dict[str, tuple[list[str], list[int]]] = {}
    for user, item, time in zip(columns.user_ids, columns.item_ids, columns.event_times, strict=True):
        items, times = by_user.setdefault(user, ([], []))
        items.append(item)
        times.append(int(time))
    histories = [Told(user, items, times) for user, (items, times) in by_user.items()]
    made = checkpoint.load(train_reasoner(histories, catalogue(), TINY, tmp_path / "a"))
    assert made.revision == trained(tmp_path / "b").revision


def test_nothing_to_learn_is_an_error(tmp_path: Path):
    with pytest.raises(TrainingError, match="catalogue"):
        train_reasoner([told("u", "x", "y")], catalogue(), TINY, tmp_path / "c")
    with pytest.raises(TrainingError, match="two events"):
        train_reasoner([told("u", "i1"), told("v", "i1")], catalogue(), TINY, tmp_path / "c")
    with pytest.raises(TrainingError, match="two different items"):
        train_reasoner([told("u", "i1", "i1")], catalogue(), replace(TINY, validation_share=0.0), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def fitted_popularity(unigram: torch.Tensor, told: torch.Tensor, negatives: int) -> torch.Tensor:
    """Probabilities that minimize the loss where states say nothing, so that only biases can learn."""
    bias = torch.zeros(len(unigram), requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.1)
    states, embeddings = torch.zeros(512, 1), torch.zeros(len(unigram), 1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        targets = torch.multinomial(unigram, 512, replacement=True)
        sampled_cross_entropy(states, targets, embeddings, bias, told, negatives).mean().backward()
        optimizer.step()
    return bias.detach().softmax(0)


def test_the_sampled_loss_has_the_minimum_of_the_full_one():
    """Without the correction frequent items, candidates in every batch, would be pushed down."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unigram = (torch.arange(200) + 5.0) ** -1
        unigram /= unigram.sum()

        def error(probabilities: torch.Tensor) -> float:
            return float((unigram * (probabilities / unigram).log().abs()).sum())

        full = error(fitted_popularity(unigram, unigram, 200))
        sampled = error(fitted_popularity(unigram, unigram, 30))
        uncorrected = error(fitted_popularity(unigram, torch.full_like(unigram, 0.9), 30))
    assert full < 0.1
    assert sampled < 0.15
    assert uncorrected > 2 * sampled


def test_enough_negatives_make_the_full_softmax():
    states, embeddings, bias = torch.randn(6, DIMS), torch.randn(40, DIMS), torch.randn(40)
    targets = torch.arange(6)
    loss = sampled_cross_entropy(states, targets, embeddings, bias, torch.ones(40) / 40, 40)
    torch.testing.assert_close(loss.mean(), functional.cross_entropy(states @ embeddings.T + bias, targets))
