"""The text encoder on its real weights (`freshet models prepare --encoder`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.encoder.torch_encoder import MiniLmEncoder

pytestmark = pytest.mark.encoder


def test_vectors_are_unit_length_and_near_where_meaning_is(encoder: MiniLmEncoder) -> None:
    """Catches wrong pooling: everything looks alike then."""
    tea, coffee, drill = encoder.encode(["green tea bags", "ground coffee", "cordless power drill"])
    assert np.allclose([np.linalg.norm(v) for v in (tea, coffee, drill)], 1, atol=1e-3)
    assert tea @ coffee > tea @ drill + 0.15


def test_a_text_has_one_vector_whatever_stands_beside_it(encoder: MiniLmEncoder) -> None:
    """Catches rows mixed up by sorting or repeats, and padding that leaks into the mean."""
    texts = ["a", "a much longer text " * 20, "", "a", "snack cake", "frozen waffles, family pack"]
    together = encoder.encode(texts)
    alone = np.vstack([encoder.encode([text]) for text in texts])
    # bfloat16 rounds differently by batch shape.
    assert (np.sum(together * alone, axis=1) > 0.998).all()
    assert np.array_equal(together[0], together[3])


def test_no_text_gives_no_rows(encoder: MiniLmEncoder) -> None:
    """Catches a crash on an empty batch."""
    assert encoder.encode([]).shape == (0, encoder.dims)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    """Catches a stack trace from the depths of transformers."""
    with pytest.raises(FileNotFoundError, match="freshet models prepare"):
        MiniLmEncoder(tmp_path)
