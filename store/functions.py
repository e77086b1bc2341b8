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

_LUA = Path(__file__).parent / "lua"
_PRELUDES = "-- prelude: "


class Library:
    """The functions of one Lua file, `lua/<stem>.lua`.

    One library cannot call another. What several need stands in a prelude, `lua/_<name>.lua`: the first line of a file,
    `-- prelude: _a.lua _b.lua`, names those that are put before it, in this order.

    The file registers `freshet_<function>_DIGEST`; DIGEST becomes a digest of preludes and file, so that workers of two
    releases on one server each call their own code during a rolling upgrade.
    """

    def __init__(self, stem: str) -> None:
        source = _source(stem)
        self.digest = hashlib.sha256(source.encode()).hexdigest()[:10]
        self.source = f"#!lua name=freshet_{stem}_{self.digest}\n{source.replace('DIGEST', self.digest)}"

    def load(self, client: redis.Redis) -> None:
        """Put the library on the server; doing it again changes nothing."""
        client.function_load(self.source, replace=True)

    def call(self, client: Client, function: str, calls: Iterable[Call]) -> list[Any]:
        """The answers of `function` for each (keys, arguments), in one pipelined round trip.

        Loads the library where it is missing (a new server, or one that came back empty), and repeats the calls that
        failed for want of it. Raises the first of redis-py's errors; the server may have run a call that raised, so a
        function must be idempotent. A slot that the Cluster's map lacks is a `redis.ConnectionError`.
        """
        name = f"freshet_{function}_{self.digest}"
        made = list(calls)
        try:
            answers = self._run(client, name, made)
            if missed := [index for index, answer in enumerate(answers) if _not_found(answer)]:
                again = [made[index] for index in missed]
                for server in _servers(client, again):
                    self.load(server)
                for index, answer in zip(missed, self._run(client, name, again), strict=True):
                    answers[index] = answer
        except exceptions.RedisClusterException as error:  # no subclass of RedisError, so callers would miss it
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
            # Without a target redis-py asks a server for the keys of each FCALL, twice, with all its arguments.
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
    """One client for each server that the calls go to."""
    if isinstance(client, redis.Redis):
        return [client]
    nodes = {node.name: node for node in (_node(client, keys) for keys, _ in calls)}
    return [client.get_redis_connection(node) for node in nodes.values()]


def _source(stem: str) -> str:
    """The file of a library, after the preludes that its first line names."""
    text = (_LUA / f"{stem}.lua").read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    preludes = first.removeprefix(_PRELUDES).split() if first.startswith(_PRELUDES) else []
    return "\n".join([*((_LUA / name).read_text(encoding="utf-8") for name in preludes), text])


@cache
def library(stem: str) -> Library:
    """The library of `lua/<stem>.lua`, read once."""
    return Library(stem)
