"""Stored vectors: within the error their dtype promises, for every value that may come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from freshet.vectors import BFLOAT16, DTYPES, FLOAT16, INT8, Dtype, encode_vectors

LARGEST = 65_504.0
EDGES = [0.0, -0.0, LARGEST, -LARGEST, 2.0**-24, -(2.0**-24), 1023 * 2.0**-24, 2.0**-14, 1.0, -1.0]
values = st.sampled_from(EDGES) | st.floats(-LARGEST, LARGEST, width=16)
matrices = arrays.arrays(np.float16, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=values)


def roundtrip(vectors: NDArray[np.float16], dtype: Dtype) -> NDArray[np.float32]:
    stored = encode_vectors([row.tobytes() for row in vectors], dtype)
    assert {len(one) for one in stored} == {dtype.size(vectors.shape[1])}
    out = np.full(vectors.shape, np.nan, np.float32)
    dtype.decode(np.frombuffer(b"".join(stored), dtype.layout(vectors.shape[1])), out)
    return out


@given(matrices)
def test_float16_is_exact(vectors: NDArray[np.float16]) -> None:
    """Catches a bit lost on the way, the sign of zero included."""
    assert (roundtrip(vectors, FLOAT16).view(np.uint32) == vectors.astype(np.float32).view(np.uint32)).all()


@given(matrices)
def test_bfloat16_is_within_2_to_the_minus_8_of_each_value(vectors: NDArray[np.float16]) -> None:
    """Catches truncation in place of rounding, which doubles the error and shrinks every vector."""
    exact = vectors.astype(np.float64)
    assert (np.abs(roundtrip(vectors, BFLOAT16) - exact) <= np.abs(exact) * 2.0**-8).all()


def test_bfloat16_rounds_half_to_even() -> None:
    """Catches a bias: values half way between two would all go up."""
    half_way = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8]], np.float16)
    assert roundtrip(half_way, BFLOAT16).tolist() == [[1.0, 1 + 2.0**-6, -1.0]]


@given(matrices)
def test_int8_is_within_half_a_step(vectors: NDArray[np.float16]) -> None:
    """Catches a scale of the wrong vector, a step that overflows, a vector of zeros that becomes NaN."""
    exact = vectors.astype(np.float64)
    step = np.abs(exact).max(axis=1, keepdims=True) / 127
    found = roundtrip(vectors, INT8)
    assert (np.abs(found - exact) <= step * (0.5 + 1e-5)).all()
    largest = np.abs(exact).max(axis=1)
    assert np.abs(found).max(axis=1) == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("fill", EDGES)
def test_a_vector_of_one_value_comes_back(dtype: Dtype, fill: float) -> None:
    """Catches the zero vector, the largest and the smallest value that a float16 can hold."""
    vectors = np.full((2, 3), fill, np.float16)
    exact = vectors.astype(np.float64)
    assert np.allclose(roundtrip(vectors, dtype), exact, rtol=2.0**-8, atol=0)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda one: one.name)
def test_vectors_of_different_widths_are_stored_together(dtype: Dtype) -> None:
    """Catches a batch of two versions whose vectors are cut at the wrong byte."""
    rng = np.random.default_rng(1)
    vectors = [rng.normal(size=dims).astype("<f2").tobytes() for dims in (3, 8, 1, 5)]
    assert encode_vectors(vectors, dtype) == [encode_vectors([one], dtype)[0] for one in vectors]
    assert encode_vectors([], dtype) == []


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(dtype: Dtype, value: float) -> None:
    """Catches a NaN on its way to every ranking that asks for it, or one that int8 turns into a number."""
    with pytest.raises(ValueError, match="not finite"):
        encode_vectors([np.array([1.0, value], "<f2").tobytes()], dtype)


def test_every_finite_float16_decodes_exactly_where_subnormals_are_flushed() -> None:
    """Catches values below 2^-14 that become 0 in a ranker whose thread takes subnormal float32 for zero."""
    torch: Any = pytest.importorskip("torch")
    every = np.arange(65_536, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(1, -1)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes no subnormals")
    try:
        assert not np.float32(1e-45) * np.float32(2.0**112) > 0
        found = roundtrip(every, FLOAT16).view(np.uint32)
    finally:
        torch.set_flush_denormal(False)
    assert (found == every.astype(np.float32).view(np.uint32)).all()
