"""A LightGBM ranker on Freshet's columns, from an empty Redis to NDCG: python train_ranker.py redis://localhost:6379/0

Needs `pip install freshet-sdk lightgbm`. The world is made up: users like a few topics, of which the log shows some and
the inferred behaviors one more. So the figures show that everything fits together, not what it is worth on your
platform. It writes under the key prefix `example` and leaves the rest alone.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import redis
from numpy.typing import NDArray

from freshet import FeatureReader, InferredBehavior
from freshet.ranking import RankingOptions
from freshet.ranking_reader import RankingReader
from freshet.records import ItemFeatures, UserFeatures
from store.feature_writer import FeatureWriter
from store.versions import Versions

PREFIX, VERSION = "example", "v1"
DIMS, TOPICS, ITEMS, USERS = 32, 24, 1_500, 240
REQUESTS, CANDIDATES = 4, 30  # of each user, of each request
OWN = ("popularity", "price")  # what a ranker has without Freshet
OPTIONS = RankingOptions(tiers=8)
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class World:
    """Who likes what; nothing here but popularity, price and history is known to a ranker."""

    vectors: Floats  # (ITEMS, DIMS)
    topic: NDArray[np.int64]  # (ITEMS,)
    own: Floats  # (ITEMS, len(OWN))
    taste: Floats  # (USERS, TOPICS)
    history: list[list[int]]  # of each user, items
    inferred: list[list[tuple[int, float]]]  # of each user, items and confidences


def make_world(rng: np.random.Generator) -> World:
    """Each user likes three topics: two show in 20 items of history, one only in what a model infers, unsurely."""
    topic = rng.integers(TOPICS, size=ITEMS)
    vectors = rng.normal(size=(TOPICS, DIMS))[topic] + 0.8 * rng.normal(size=(ITEMS, DIMS))
    taste, history, inferred = np.zeros((USERS, TOPICS)), [], []
    for user in range(USERS):
        liked = rng.choice(TOPICS, 3, replace=False)
        taste[user, liked] = 1.0, 0.7, 0.8
        seen = rng.choice(np.flatnonzero(np.isin(topic, liked[:2])), 16), rng.integers(ITEMS, size=4)
        history.append(np.concatenate(seen).tolist())
        right, wrong = rng.choice(np.flatnonzero(topic == liked[2]), 5), rng.integers(ITEMS, size=3)
        sure = np.concatenate((rng.uniform(0.4, 0.9, 5), rng.uniform(0.1, 0.5, 3)))
        inferred.append(list(zip(np.concatenate((right, wrong)).tolist(), sure.tolist(), strict=True)))
    return World(vectors, topic, rng.normal(size=(ITEMS, len(OWN))), taste, history, inferred)


def publish(client: redis.Redis, world: World) -> None:
    """What Freshet's workers do, in short: vectors of items and users into a version, which is then activated."""
    now = int(time.time() * 1_000)

    def stored(vector: Floats) -> bytes:
        return (vector / np.linalg.norm(vector)).astype("<f2").tobytes()

    writer = FeatureWriter(client, PREFIX)
    writer.put_items(
        [ItemFeatures(f"i{n}", VERSION, 2, now, now, DIMS, stored(one)) for n, one in enumerate(world.vectors)]
    )
    users = []
    for n, (seen, guesses) in enumerate(zip(world.history, world.inferred, strict=True)):
        items, confidences = map(list, zip(*guesses, strict=True))
        vectors = stored(world.vectors[seen].mean(axis=0)), stored(np.array(confidences) @ world.vectors[items])
        behaviors = [InferredBehavior(f"i{item}", confidence) for item, confidence in guesses]
        users.append(UserFeatures(f"u{n}", VERSION, 2, now, now, DIMS, *vectors, behaviors, history_length=len(seen)))
    writer.put_users(users)
    Versions(client, PREFIX).activate(VERSION)


def serve(reader: FeatureReader, world: World, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The log that a ranker trains on: columns as they were served, and clicks (requests, CANDIDATES, ...)."""
    ranking = RankingReader(reader, OPTIONS)
    matrices, clicks = [], []
    for user in np.repeat(np.arange(USERS), REQUESTS):
        shown = rng.integers(ITEMS, size=CANDIDATES)
        liked = rng.choice(np.flatnonzero(world.taste[user][world.topic] > 0), 6)  # as a retrieval stage would find
        shown[:6] = liked
        found = ranking.read(f"u{user}", [f"i{item}" for item in shown], [f"i{item}" for item in world.history[user]])
        matrices.append(np.concatenate((world.own[shown], found.features.matrix), axis=1))
        wish = 4.0 * world.taste[user, world.topic[shown]] + 0.7 * world.own[shown, 0] - 3.0
        clicks.append(rng.random(CANDIDATES) < 1 / (1 + np.exp(-wish)))
    return np.stack(matrices), np.stack(clicks).astype(np.float32)


def ndcg(scores: Floats, clicks: Floats, k: int = 10) -> float:
    """Mean NDCG@k over requests with a click."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    gain = np.take_along_axis(clicks, order, axis=1) @ discount
    best = -np.sort(-clicks, axis=1)[:, :k] @ discount
    return float((gain[best > 0] / best[best > 0]).mean())


def train(matrix: Floats, clicks: Floats, names: list[str]) -> lgb.Booster:
    """LambdaMART, one group a request."""
    groups = np.full(len(matrix), CANDIDATES)
    data = lgb.Dataset(matrix.reshape(-1, len(names)), clicks.ravel(), group=groups, feature_name=names)
    options = {"objective": "lambdarank", "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 40}
    return lgb.train(options | {"seed": 0, "deterministic": True, "num_threads": 1, "verbosity": -1}, data, 80)


def main(url: str) -> dict[str, float]:
    """NDCG@10 of held-out users, without and with Freshet's columns."""
    rng = np.random.default_rng(7)
    world = make_world(rng)
    with redis.Redis.from_url(url) as client:
        publish(client, world)
    with FeatureReader(url, PREFIX, raise_errors=True, timeout_s=5) as reader:
        matrix, clicks = serve(reader, world, rng)
    names, held_out = [*OWN, *OPTIONS.names], 3 * len(matrix) // 4  # requests of the last quarter of the users
    results = {}
    for title, width in (("without", len(OWN)), ("with", len(names))):
        model = train(matrix[:held_out, :, :width], clicks[:held_out], names[:width])
        scores = np.asarray(model.predict(matrix[held_out:, :, :width].reshape(-1, width)))
        results[title] = ndcg(scores.reshape(-1, CANDIDATES), clicks[held_out:])
        print(f"NDCG@10 {title:7} Freshet's columns: {results[title]:.3f}")
    gains = model.feature_importance("gain")
    for place in np.argsort(-gains)[:10]:
        print(f"{gains[place] / gains.sum():7.1%}  {names[place]}")
    return results


if __name__ == "__main__":
    main(sys.argv[1])
