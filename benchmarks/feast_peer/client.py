"""Feast's client in the reader benchmark, run by `.venv-feast`: `python -m benchmarks.feast_peer.client`.

Owns how Feast stores and reads the benchmark's vectors. Must not import any package of ours but the benchmark's own.

Ways: `feast_to_dict` is what its documentation shows, a feature `Array(Float32)` and `to_dict()`. `feast_packed` has
the vector as one feature of bytes and takes it from the response's protobuf without `to_dict()`. `feast_packed_2`,
the fastest we found, does so in two calls, so that the user is not repeated for every candidate. The GLIDE client is
no faster.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ["FEAST_USAGE"] = "False"

import numpy as np
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Bytes, Float32
from feast.value_type import ValueType
from numpy.typing import NDArray

from benchmarks.children import serve
from benchmarks.reader_data import Data, Requests, Scrubber, item_id, user_id

PROJECT = "peer"
WRITTEN_TOGETHER = 2_000
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]
Way = Callable[[str, list[str]], Vectors]


class Client:
    """Answers the lines of `benchmarks/reader.py`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="freshet-feast-")
        self._requests = Requests(0, 0, 0)
        self._scrub = Scrubber()

    def __call__(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Do what the line says."""
        does = getattr(self, f"do_{wish.pop('do')}")
        answer: dict[str, Any] = does(**wish)
        return answer

    def do_open(self, address: str, folder: str, candidates: int) -> dict[str, Any]:
        """Connect, and tell Feast what there is."""
        import feast
        import google.protobuf
        import redis

        self._address = address
        self._data = Data.load(Path(folder))
        self._requests = Requests(len(self._data.items), len(self._data.users), candidates)
        self._views = _views()
        store = self._store()
        store.apply([*_entities(), *self._views])
        self._ways = ways(store)
        versions = {"feast": feast.__version__, "redis": redis.__version__, "protobuf": google.protobuf.__version__}
        return {**versions, "numpy": np.__version__}

    def do_fill(self) -> dict[str, Any]:
        """Store everything, both as floats and packed, without reading what was there."""
        began = time.perf_counter()
        store, data, now = self._store(), self._data, datetime.now(UTC)
        provider = store._get_provider()
        items, users = self._views
        for start in range(0, len(data.items), WRITTEN_TOGETHER):
            rows = range(start, min(start + WRITTEN_TOGETHER, len(data.items)))
            batch = [(_key("item_id", item_id(row)), _values(vector=data.items[row]), now, now) for row in rows]
            provider.online_write_batch(store.config, items, batch, None)
        for row in range(len(data.users)):
            log, inferred = data.users[row]
            values = _values(log=log, inferred=inferred)
            provider.online_write_batch(store.config, users, [(_key("user_id", user_id(row)), values, now, now)], None)
        return {"s": time.perf_counter() - began}

    def do_check(self, way: str, seed: int) -> dict[str, Any]:
        """As `benchmarks.reader_client`."""
        [(user, ids)] = self._requests.draw(1, seed)
        matrix, pair = self._ways[way](user, ids)
        return {"rows": matrix.sum(1).tolist(), "first": matrix[0].tolist(), "user": pair.ravel().tolist()}

    def do_round(self, way: str, requests: int, seed: int, clients: int = 1, cold: bool = False) -> dict[str, Any]:
        """As `benchmarks.reader_client`; `clients` processes at once, each with so many requests."""
        began = time.perf_counter()
        if clients == 1:
            took = _timed(self._ways[way], self._requests.draw(requests, seed), self._scrub if cold else None)
            return {"ms": took, "s": time.perf_counter() - began}
        together = multiprocessing.get_context("fork")
        start, found = together.Barrier(clients + 1), together.SimpleQueue()

        def client(number: int) -> None:
            own = ways(self._store())[way]
            drawn = self._requests.draw(requests, seed + number)
            own(*drawn[0])
            start.wait()
            found.put(_timed(own, drawn, None))

        processes = [together.Process(target=client, args=(number,), daemon=True) for number in range(clients)]
        for process in processes:
            process.start()
        start.wait()
        began = time.perf_counter()
        took = [one for _ in processes for one in found.get()]
        seconds = time.perf_counter() - began
        for process in processes:
            process.join()
        return {"ms": took, "s": seconds}

    def _store(self) -> FeatureStore:
        return FeatureStore(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                # Never looked at again: a registry that is read anew in a request would not be its fastest mode.
                registry={"registry_type": "file", "path": f"{self._folder.name}/registry.db", "cache_ttl_seconds": 0},
                online_store={"type": "redis", "connection_string": self._address, "skip_dedup": True},
                entity_key_serialization_version=3,
            )
        )


def ways(store: FeatureStore) -> dict[str, Way]:
    """How to read through `store`."""

    def ask(features: list[str], user: str, ids: list[str]) -> Any:
        return store.get_online_features(features=features, entity_rows={"item_id": ids, "user_id": [user] * len(ids)})

    def to_dict(user: str, ids: list[str]) -> Vectors:
        found = ask(["items:vector", "users:log", "users:inferred"], user, ids).to_dict()
        pair = np.array([found["log"][0], found["inferred"][0]], np.float32)
        return np.array(found["vector"], np.float32), pair

    def packed(user: str, ids: list[str]) -> Vectors:
        found = _columns(ask(["items:vector_packed", "users:log_packed", "users:inferred_packed"], user, ids))
        return _matrix(found["vector_packed"]), _matrix([found["log_packed"][0], found["inferred_packed"][0]])

    def packed_2(user: str, ids: list[str]) -> Vectors:
        items = _columns(store.get_online_features(features=["items:vector_packed"], entity_rows={"item_id": ids}))
        names = ["users:log_packed", "users:inferred_packed"]
        own = _columns(store.get_online_features(features=names, entity_rows={"user_id": [user]}))
        return _matrix(items["vector_packed"]), _matrix([own["log_packed"][0], own["inferred_packed"][0]])

    return {"feast_to_dict": to_dict, "feast_packed": packed, "feast_packed_2": packed_2}


def _columns(response: Any) -> dict[str, Any]:
    proto = response.proto
    return {name: column.values for name, column in zip(proto.metadata.feature_names.val, proto.results, strict=True)}


def _matrix(values: Any) -> NDArray[np.float32]:
    joined = b"".join([one.bytes_val for one in values])
    return np.frombuffer(joined, "<f2").reshape(len(values), -1).astype(np.float32)


def _timed(way: Way, drawn: list[tuple[str, list[str]]], scrub: Callable[[], None] | None) -> list[float]:
    gc.collect()
    gc.freeze()
    took = []
    for user, ids in drawn:
        if scrub is not None:
            scrub()
        start = time.perf_counter_ns()
        way(user, ids)
        took.append((time.perf_counter_ns() - start) / 1e6)
    gc.unfreeze()
    return took


def _entities() -> tuple[Entity, Entity]:
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    return item, Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)


def _views() -> tuple[FeatureView, FeatureView]:
    item, user = _entities()

    def view(name: str, entity: Entity, features: list[str]) -> FeatureView:
        schema = [Field(name=feature, dtype=Array(Float32)) for feature in features]
        schema += [Field(name=f"{feature}_packed", dtype=Bytes) for feature in features]
        source = FileSource(name=f"{name}_source", path="never-read.parquet", timestamp_field="event_timestamp")
        return FeatureView(name=name, entities=[entity], schema=schema, source=source, ttl=timedelta(0))

    return view("items", item, ["vector"]), view("users", user, ["log", "inferred"])


def _key(name: str, value: str) -> EntityKey:
    return EntityKey(join_keys=[name], entity_values=[Value(string_val=value)])


def _values(**vectors: NDArray[np.float16]) -> dict[str, Value]:
    floats = {name: Value(float_list_val=FloatList(val=vector.tolist())) for name, vector in vectors.items()}
    return floats | {f"{name}_packed": Value(bytes_val=vector.tobytes()) for name, vector in vectors.items()}


if __name__ == "__main__":
    serve(Client())
