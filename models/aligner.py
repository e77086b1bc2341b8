"""From the encoder's space to the stored one: one linear map that items and users share.

Owns the map, its file and its revision. A contrastive head is another way to find the same matrix. Encodes no text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LinearAligner:
    """`normalise((x - mean) @ matrix)`; matrix (dims_in, dims_out), mean (dims_in,)."""

    matrix: Vectors
    mean: Vectors

    @classmethod
    def random(cls, seed: int = 0, dims_in: int = 384, dims: int = 128) -> LinearAligner:
        """A fixed random orthonormal projection: keeps cosines roughly, where nothing is known of the catalogue."""
        if dims > dims_in:
            raise ValueError(f"cannot make {dims} dimensions out of {dims_in}")
        gauss = np.random.default_rng(seed).standard_normal((dims_in, dims))
        return cls(np.linalg.qr(gauss)[0].astype(np.float32), np.zeros(dims_in, dtype=np.float32))

    @classmethod
    def fit_pca(cls, vectors: Vectors, dims: int = 128) -> LinearAligner:
        """The `dims` main directions of a catalogue's vectors (N, dims_in), centred.

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
        return cls((basis * signs).astype(np.float32), mean.astype(np.float32))

    @classmethod
    def load(cls, file: Path) -> LinearAligner:
        """Read a safetensors file; raises `FileNotFoundError` or `ValueError`."""
        from safetensors.numpy import load_file

        tensors = load_file(file)
        try:
            return cls(tensors["matrix"], tensors["mean"])
        except KeyError as error:
            raise ValueError(f"{file} holds no aligner: {error} is missing") from error

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        save_file({"matrix": np.ascontiguousarray(self.matrix), "mean": self.mean}, file)

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
