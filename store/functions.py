"""Server-side functions: Lua files of this package, loaded into Redis (7+) or Valkey when first missed.

Owns loading, naming and, in a Cluster, which node a call goes to. Must not know what a function does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis
from redis import exceptions

from freshet.connect import Client, is_cluster

Call = tuple[Sequence[Any], Sequence[Any]]
"""Keys and arguments of one call; in a Cluster all keys of a call are of one slot."""


class Library:
    """The functions of one Lua file, `lua/<stem>.lua`.

    The file registers `freshet_<function>_DIGEST`; the word DIGEST becomes a digest of the file, so that workers of two
    releases on one server each call their own code while one is rolled out.
    """

    def __init__(self, stem: str) -> None:
        source = (Path(__file__).parent / "lua" / f"{stem}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha256(source.encode()).hexdigest()[:10]
        self.source = f"#!lua name=freshet_{stem}_{self.digest}\n{source.replace('DIGEST', self.digest)}"

    def load(self, client: redis.Redis) -> None:
        """Put the library on the server; doing it again changes nothing."""
        client.function_load(self.source, replace=True)

    def call(self, client: Client, function: str, calls: Iterable[Call]) -> list[Any]:
        """The answers of `function` for each (keys, arguments), in one pipelined round trip.

        The library is missing on a new server, and again after one came back empty: then it is loaded there, and what
        found none is called again. Raises redis-py's errors, of several the first; a call may have been made all the
        same, so a function must bear being called twice. What a Cluster's map lacks is a `redis.ConnectionError`.
        """
        name = f"freshet_{function}_{self.digest}"
        made = list(calls)
        try:
            answers = self._run(client, name, made)
            if missed := [place for place, answer in enumerate(answers) if _not_found(answer)]:
                again = [made[place] for place in missed]
                for server in _servers(client, again):
                    self.load(server)
                for place, answer in zip(missed, self._run(client, name, again), strict=True):
                    answers[place] = answer
        except exceptions.RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _run(self, client: Any, name: str, calls: Sequence[Call]) -> list[Any]:
        """An answer or an error for each call."""
        if not calls:
            return []
        clustered = is_cluster(client)
        pipeline = client.pipeline(transaction=False)
        for keys, args in calls:
            # Left to itself redis-py asks a server for the keys of every FCALL, twice, with all its arguments.
            routed = {"target_nodes": _node(client, keys)} if clustered else {}
            pipeline.execute_command("FCALL", name, len(keys), *keys, *args, **routed)
        return list(pipeline.execute(raise_on_error=False))


def _not_found(answer: Any) -> bool:
    return isinstance(answer, redis.ResponseError) and "function not found" in str(answer).lower()


def _node(client: Any, keys: Sequence[Any]) -> Any:
    """The node that has the keys."""
    try:
        return client.get_node_from_key(keys[0])
    except exceptions.SlotNotCoveredError:
        client.nodes_manager.initialize()  # the map was made while a node was away
        return client.get_node_from_key(keys[0])


def _servers(client: Client, calls: Sequence[Call]) -> list[redis.Redis]:
    """A client of each server that is called."""
    if isinstance(client, redis.Redis):
        return [client]
    nodes = {node.name: node for node in (_node(client, keys) for keys, _ in calls)}
    return [client.get_redis_connection(node) for node in nodes.values()]


@cache
def library(stem: str) -> Library:
    """The library of `lua/<stem>.lua`, read once."""
    return Library(stem)
