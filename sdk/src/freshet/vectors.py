"""Vectors as bytes: float16, bfloat16, and int8 with one scale a vector.

Owns the three dtypes in both directions, many vectors at a time. Must not know headers, records or Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The finite float16 are those whose other bits than the sign are less than these.
_INFINITE = 0x7C00
# A float16 moved to the top of a float32, sign aside, is this much too small, as the exponents' biases are 15 and 127.
_BIAS = np.float32(2.0**112)
_SIGN_AND_REST = np.int32(~0x7000_0000)
_SUBNORMAL = np.float32(1e-45)


@dataclass(frozen=True, slots=True)
class Dtype:
    """One way to store a vector.

    `fields` are the parts of a stored vector of `dims` values, as NumPy names them. `encode` takes float16 vectors end
    to end and where each starts, and the end. `decode` fills `out` (N, dims) from N stored vectors. `about` is for the
    documentation.
    """

    name: str
    number: int
    fields: Callable[[int], list[tuple[Any, ...]]]
    encode: Callable[[NDArray[np.uint16], Sequence[int]], list[bytes]]
    decode: Callable[[NDArray[np.void], NDArray[np.float32]], None]
    about: str

    def layout(self, dims: int) -> np.dtype[np.void]:
        """A stored vector as a NumPy type; packed."""
        return np.dtype(self.fields(dims))

    def size(self, dims: int) -> int:
        """Bytes of a stored vector."""
        return self.layout(dims).itemsize


def encode_vectors(vectors: Sequence[bytes], dtype: Dtype) -> list[bytes]:
    """Each of `vectors`, little-endian float16 of any width, as stored; raises ValueError for one that is not finite.

    float16 is kept as it is. bfloat16 rounds to even, so an error is at most 2^-8 of the value. int8 rounds to the
    nearest of 255 steps of a 127th of the vector's largest magnitude, so an error is at most half a step.
    """
    words = np.frombuffer(b"".join(vectors), "<u2")
    if words.size and int((words & 0x7FFF).max()) >= _INFINITE:
        raise ValueError("a vector holds a value that is not finite")
    return (
        list(vectors)
        if dtype is FLOAT16
        else dtype.encode(words, list(accumulate((len(one) // 2 for one in vectors), initial=0)))
    )


def _encode_float16(words: NDArray[np.uint16], starts: Sequence[int]) -> list[bytes]:
    return _cut(words, starts)


def _decode_float16(stored: NDArray[np.void], out: NDArray[np.float32]) -> None:
    _widen(stored["values"], out)


def _widen(words: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """float16 to float32: move the bits and multiply. Four passes take 0.02 ms for 500 x 128, where a cast takes 0.12.

    A thread that takes subnormal float32 for zero (`torch.set_flush_denormal`, some code compiled with -ffast-math)
    would lose values below 2^-14: it looks them up instead, in 0.05 ms.
    """
    if not _SUBNORMAL * _BIAS > 0:
        np.take(_float32_of_float16(), words, mode="wrap", out=out)
        return
    bits = out.view(np.int32)
    bits[...] = words.view("<i2")  # spreads the sign over the upper half, of which all but one bit must go again
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_REST, out=bits)
    np.multiply(out, _BIAS, out=out)


@cache
def _float32_of_float16() -> NDArray[np.float32]:
    return np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


def _widened(words: NDArray[np.uint16]) -> NDArray[np.float32]:
    out = np.empty(words.shape, np.float32)
    _widen(words, out)
    return out


def _cut(values: NDArray[Any], starts: Sequence[int]) -> list[bytes]:
    data, width = values.tobytes(), values.itemsize
    return [data[width * start : width * end] for start, end in pairwise(starts)]


def _encode_bfloat16(words: NDArray[np.uint16], starts: Sequence[int]) -> list[bytes]:
    bits = _widened(words).view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return _cut((bits >> 16).astype("<u2"), starts)


def _decode_bfloat16(stored: NDArray[np.void], out: NDArray[np.float32]) -> None:
    bits = out.view(np.uint32)
    bits[...] = stored["values"]
    np.left_shift(bits, 16, out=bits)


def _encode_int8(words: NDArray[np.uint16], starts: Sequence[int]) -> list[bytes]:
    exact = _widened(words)
    scales = np.maximum.reduceat(np.abs(exact), starts[:-1]) / np.float32(127)
    per_step = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    steps = np.rint(exact * per_step.repeat(np.diff(starts))).astype(np.int8)
    heads = _cut(scales.astype("<f4"), range(len(starts)))
    return [head + vector for head, vector in zip(heads, _cut(steps, starts), strict=True)]


def _decode_int8(stored: NDArray[np.void], out: NDArray[np.float32]) -> None:
    np.multiply(stored["values"], stored["scale"][:, None], out=out, dtype=np.float32)


FLOAT16 = Dtype(
    "float16",
    1,
    lambda dims: [("values", "<u2", (dims,))],
    _encode_float16,
    _decode_float16,
    "`dims` x IEEE 754 binary16. Exact: the contracts on Kafka hold these",
)
BFLOAT16 = Dtype(
    "bfloat16",
    2,
    lambda dims: [("values", "<u2", (dims,))],
    _encode_bfloat16,
    _decode_bfloat16,
    "`dims` x the upper 16 bits of an IEEE 754 binary32, rounded to even: shift left by 16 and read a float32",
)
INT8 = Dtype(
    "int8",
    3,
    lambda dims: [("scale", "<f4"), ("values", "i1", (dims,))],
    _encode_int8,
    _decode_int8,
    "one f32 scale, then `dims` x i8 from -127 to 127: value = scale x i8. A vector of zeros has scale 0",
)
DTYPES = {one.name: one for one in (FLOAT16, BFLOAT16, INT8)}
"""Every dtype by its name."""
UNKNOWN = replace(FLOAT16, name="", number=0)
"""Stands in for a dtype of a later release: no vector has it, so that all vectors are absent."""
