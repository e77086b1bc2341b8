"""Vectors as bytes: float16, bfloat16, and int8 with one scale per vector.

Owns the three dtypes, encoding and decoding many vectors at a time. Must not know headers, records or Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A float16 is finite if its bits without the sign are less than this.
_INFINITE = 0x7C00
# The bits of a float16, shifted to the top of a float32 below its sign, are a value too small by this factor: the
# biases of the exponents are 15 and 127.
_BIAS = np.float32(2.0**112)
_SIGN_AND_REST = np.int32(~0x7000_0000)
_SUBNORMAL = np.float32(1e-45)


@dataclass(frozen=True, slots=True)
class Dtype:
    """One way to store a vector.

    `fields(dims)` are the parts of a stored vector as fields of a NumPy dtype. `encode(words, starts)` takes the
    bits of concatenated float16 vectors, and the index at which each starts followed by the end of the last.
    `decode(stored, out)` fills `out` (N, dims) from N stored vectors. `about` is a sentence for the documentation.
    """

    name: str
    number: int
    fields: Callable[[int], list[tuple[Any, ...]]]
    encode: Callable[[NDArray[np.uint16], Sequence[int]], list[bytes]]
    decode: Callable[[NDArray[np.void], NDArray[np.float32]], None]
    about: str

    def layout(self, dims: int) -> np.dtype[np.void]:
        """A stored vector as a NumPy dtype without padding."""
        return np.dtype(self.fields(dims))

    def size(self, dims: int) -> int:
        """Bytes of a stored vector."""
        return self.layout(dims).itemsize


def encode_vectors(vectors: Sequence[bytes], dtype: Dtype) -> list[bytes]:
    """The stored bytes of each of `vectors`, which are little-endian float16 of any width.

    float16 is stored unchanged. bfloat16 rounds to even, so the error is at most 2^-8 of the value. int8 rounds to one
    of 255 steps, each a 127th of the vector's largest magnitude, so the error is at most half a step. Raises ValueError
    for a value that is not finite.
    """
    words = np.frombuffer(b"".join(vectors), "<u2")
    if words.size and int((words & 0x7FFF).max()) >= _INFINITE:
        raise ValueError("a vector holds a value that is not finite")
    return (
        list(vectors)
        if dtype is FLOAT16
        else dtype.encode(words, list(accumulate((len(vector) // 2 for vector in vectors), initial=0)))
    )


def _encode_float16(words: NDArray[np.uint16], starts: Sequence[int]) -> list[bytes]:
    return _cut(words, starts)


def _decode_float16(stored: NDArray[np.void], out: NDArray[np.float32]) -> None:
    _widen(stored["values"], out)


def _widen(words: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """float16 to float32: shift the bits and multiply. Four passes take 0.02 ms for 500 x 128; a cast takes 0.12 ms."""
    # A thread that flushes subnormal float32 to zero (`torch.set_flush_denormal`, code compiled with -ffast-math) would
    # lose values below 2^-14 in the multiplication. A table of all float16 values takes 0.05 ms.
    if not _SUBNORMAL * _BIAS > 0:
        np.take(_float32_of_float16(), words, mode="wrap", out=out)
        return
    bits = out.view(np.int32)
    bits[...] = words.view("<i2")  # extends the sign over the upper half; the mask below keeps one bit of it
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
    bits += 0x7FFF + ((bits >> 16) & 1)  # round to even
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
DTYPES = {dtype.name: dtype for dtype in (FLOAT16, BFLOAT16, INT8)}
"""Every dtype by its name."""
UNKNOWN = replace(FLOAT16, name="", number=0)
"""Replaces a dtype of a later release: no vector has it, so all vectors are absent."""
