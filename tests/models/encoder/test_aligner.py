"""The linear map into the stored space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.encoder.aligner import LinearAligner


def unit(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_random_projection_keeps_cosines_and_its_seed() -> None:
    """Catches a projection that scrambles neighbors, or differs between two workers."""
    vectors = unit(np.random.default_rng(1), 50, 384)
    vectors[1] = vectors[0] * 0.95 + vectors[1] * 0.05
    aligned = LinearAligner.random(0).align(vectors)
    assert aligned.shape == (50, 128)
    assert aligned.dtype == np.float32
    assert (aligned[0] @ aligned[1:].T).argmax() == 0
    assert LinearAligner.random(0).revision == LinearAligner.random(0).revision != LinearAligner.random(1).revision


def test_pca_finds_the_directions_that_vary(tmp_path: Path) -> None:
    """Catches a map that drops what tells items apart; and signs that flip between two fits."""
    rng = np.random.default_rng(2)
    vectors = (rng.standard_normal((300, 8)) @ rng.standard_normal((8, 64)) + 3).astype(np.float32)
    aligner = LinearAligner.fit_pca(vectors, 8)
    restored = (vectors - aligner.mean) @ aligner.matrix @ aligner.matrix.T + aligner.mean
    assert np.allclose(restored, vectors, atol=1e-2)
    assert np.allclose(np.linalg.norm(aligner.align(vectors), axis=1), 1, atol=1e-5)
    aligner.save(tmp_path / "aligner.safetensors")
    assert LinearAligner.load(tmp_path / "aligner.safetensors").revision == aligner.revision
    assert LinearAligner.fit_pca(vectors, 8).revision == aligner.revision


def test_a_small_catalogue_still_gives_a_full_width_map() -> None:
    """Catches a narrow map, or NaN, from fewer items than dimensions."""
    vectors = unit(np.random.default_rng(3), 5, 64)
    aligner = LinearAligner.fit_pca(vectors, 16)
    aligned = aligner.align(vectors)
    assert aligned.shape == (5, 16)
    assert np.isfinite(aligned).all()
    assert np.isfinite(aligner.align(aligner.mean[None])).all()


def test_more_dims_than_there_are_is_an_error() -> None:
    """Catches zero columns."""
    with pytest.raises(ValueError, match="cannot make 65 dimensions out of 64"):
        LinearAligner.random(0, 64, 65)
