"""Server-side functions: Lua files of this package, loaded into Redis (7+) or Valkey when first missed.

Owns loading and naming. Must not know what a function does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

Call = tuple[Sequence[Any], Sequence[Any]]
"""Keys and arguments of one call."""


class Library:
    """The functions of one Lua file, `freshet/<stem>.lua`.

    The file registers `freshet_<function>_DIGEST`; the word DIGEST becomes a digest of the file, so that workers of two
    releases on one server each call their own code while one is rolled out.
    """

    def __init__(self, stem: str) -> None:
        source = Path(__file__).with_name(f"{stem}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha256(source.encode()).hexdigest()[:10]
        self.source = f"#!lua name=freshet_{stem}_{self.digest}\n{source.replace('DIGEST', self.digest)}"

    def load(self, client: redis.Redis) -> None:
        """Put the library on the server; doing it again changes nothing."""
        client.function_load(self.source, replace=True)

    def call(self, client: redis.Redis, function: str, calls: Iterable[Call]) -> list[Any]:
        """The answers of `function` for each (keys, arguments), in one pipelined round trip.

        The library is missing on a new server, and again after one came back empty: then it is loaded and the calls are
        made again, so a function must bear being called twice. Raises redis-py's errors.
        """
        name = f"freshet_{function}_{self.digest}"
        made = list(calls)
        try:
            return self._run(client, name, made)
        except redis.ResponseError as error:
            if "function not found" not in str(error).lower():
                raise
        self.load(client)
        return self._run(client, name, made)

    def _run(self, client: redis.Redis, name: str, calls: Sequence[Call]) -> list[Any]:
        if not calls:
            return []
        pipeline: Any = client.pipeline(transaction=False)
        for keys, args in calls:
            pipeline.execute_command("FCALL", name, len(keys), *keys, *args)
        return list(pipeline.execute())


@cache
def library(stem: str) -> Library:
    """The library of `freshet/<stem>.lua`, read once."""
    return Library(stem)
