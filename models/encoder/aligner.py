"""From the encoder's space to the stored one: one map that items and users share.

Owns the maps, their file and their revision. Encodes no text and trains nothing: PCA is fitted here, the contrastive
head finds the same matrix by `models.encoder.contrastive`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Aligner(Protocol):
    """What turns encoder vectors into stored ones."""

    @property
    def dims(self) -> int:
        """Width of the stored vectors."""
        ...

    @property
    def revision(self) -> str:
        """Digest of the map: vectors of two revisions must never meet."""
        ...

    def align(self, vectors: Vectors) -> Vectors:
        """Unit vectors (N, dims) of encoder vectors (N, dims_in)."""
        ...

    def save(self, file: Path) -> None:
        """Write a safetensors file that `load_aligner` reads."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LinearAligner:
    """`normalize((x - mean) @ matrix)`; matrix (dims_in, dims_out), mean (dims_in,).

    `about` says how the map was found (plain JSON values); it goes into the file and not into the revision.
    """

    matrix: Vectors
    mean: Vectors
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def random(cls, seed: int = 0, dims_in: int = 384, dims: int = 128) -> LinearAligner:
        """A fixed random orthonormal projection: keeps cosines roughly, where nothing is known of the catalogue."""
        if dims > dims_in:
            raise ValueError(f"cannot make {dims} dimensions out of {dims_in}")
        gauss = np.random.default_rng(seed).standard_normal((dims_in, dims))
        matrix = np.linalg.qr(gauss)[0].astype(np.float32)
        return cls(matrix, np.zeros(dims_in, dtype=np.float32), {"found_by": "random"})

    @classmethod
    def fit_pca(cls, vectors: Vectors, dims: int = 128) -> LinearAligner:
        """The `dims` main directions of a catalogue's vectors (N, dims_in), centered.

        Centring takes away what all the catalogue's texts have in common, so that cosines spread. With fewer vectors
        than directions the rest is filled with random orthonormal ones.
        """
        mean = vectors.mean(axis=0)
        _, _, directions = np.linalg.svd(vectors - mean, full_matrices=False)
        basis = directions[:dims].T
        if basis.shape[1] < dims:
            filler = cls.random(0, vectors.shape[1], dims).matrix
            basis = np.linalg.qr(np.hstack([basis, filler]))[0][:, :dims]
        # SVD leaves signs open; fix them so that the same catalogue gives the same file.
        signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(dims)])
        return cls((basis * signs).astype(np.float32), mean.astype(np.float32), {"found_by": "pca"})

    @classmethod
    def load(cls, file: Path) -> LinearAligner:
        """Read a safetensors file; raises `FileNotFoundError` or `ValueError`."""
        tensors, about = _read(file)
        try:
            return cls(tensors["matrix"], tensors["mean"], about)
        except KeyError as error:
            raise ValueError(f"{file} holds no aligner: {error} is missing") from error

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        tensors = {"matrix": np.ascontiguousarray(self.matrix), "mean": self.mean}
        save_file(tensors, file, {"kind": "linear", "about": json.dumps(dict(self.about), sort_keys=True)})

    @property
    def dims(self) -> int:
        """Width of the stored vectors."""
        return int(self.matrix.shape[1])

    @property
    def revision(self) -> str:
        """Digest of the map: vectors of two revisions must never meet."""
        return hashlib.sha256(self.matrix.tobytes() + self.mean.tobytes()).hexdigest()[:12]

    def align(self, vectors: Vectors) -> Vectors:
        """Unit vectors (N, dims) of encoder vectors (N, dims_in); a vector equal to the mean becomes zero."""
        projected = (vectors - self.mean) @ self.matrix
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        aligned: Vectors = (projected / np.where(norms > 0, norms, 1)).astype(np.float32)
        return aligned


KINDS: dict[str, Callable[[Path], Aligner]] = {"linear": LinearAligner.load}
"""What a file's metadata calls its map, and who reads it. Files without the word are older, and linear."""


def load_aligner(file: Path) -> Aligner:
    """The aligner in a safetensors file, of whatever kind; raises `FileNotFoundError` or `ValueError`."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        kind = (tensors.metadata() or {}).get("kind", "linear")
    if kind not in KINDS:
        raise ValueError(f"{file} holds an aligner of kind {kind!r}, known are {', '.join(KINDS)}")
    return KINDS[kind](file)


def _read(file: Path) -> tuple[dict[str, Vectors], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        about = json.loads((tensors.metadata() or {}).get("about", "{}"))
        return {name: tensors.get_tensor(name) for name in tensors.keys()}, about  # noqa: SIM118 - no mapping
