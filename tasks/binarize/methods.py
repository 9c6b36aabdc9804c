"""Binarizers: from vectors to bits. Each is fitted on train, and is plain arrays from then on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.binarize.rotation import pack, product, random_rotation

Vectors = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Binarizer:
    """bit = (x − shift) @ rotation > 0. Every method here is of this form; they differ in how they are fitted.

    Attributes
    ----------
    method
        `median`, `itq` or `rabitq`.
    shift
        float64[d].
    rotation
        float64[d, d], orthogonal (for `median` the identity).
    """

    method: str
    shift: NDArray[np.float64]
    rotation: NDArray[np.float64]

    def project(self, x: Vectors) -> NDArray[np.float64]:
        """float32[n, d] to float64[n, d]: shifted and rotated, before the sign is taken."""
        centred = x.astype(np.float64) - self.shift
        return centred if self.method == "median" else product(centred, self.rotation)

    def encode(self, x: Vectors) -> Codes:
        """float32[n, d] to packed codes uint8[n, ceil(d / 8)]."""
        return pack(self.project(x) > 0)

    def factors(self, x: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """RaBitQ's scalars: norm ‖y‖₂ and f = ‖y‖₂² / ‖y‖₁ of each shifted and rotated row, float32[n]."""
        y = self.project(x)
        norm = np.sqrt((y * y).sum(axis=1))
        one = np.abs(y).sum(axis=1)
        return norm.astype(np.float32), (norm**2 / np.where(one > 0, one, 1.0)).astype(np.float32)


def fit_median(x: Vectors) -> Binarizer:
    """A threshold at each component's median: bits of the greatest marginal entropy."""
    d = x.shape[1]
    return Binarizer("median", np.median(x.astype(np.float64), axis=0), np.eye(d))


def quantisation_error(projected: NDArray[np.float64]) -> float:
    """Σ ‖sign(v) − v‖² over rows v: what iterative quantisation lowers."""
    signs = np.where(projected > 0, 1.0, -1.0)
    return float(((signs - projected) ** 2).sum())


def fit_itq(x: Vectors, seed: int, iterations: int = 50) -> Binarizer:
    """Iterative quantisation (Gong and Lazebnik, CVPR 2011): the rotation that brings vectors nearest to signs.

    Each iteration takes signs, then solves the orthogonal Procrustes problem by one SVD; the quantisation error
    never rises.
    """
    centre = x.astype(np.float64).mean(axis=0)
    v = x.astype(np.float64) - centre
    rotation = random_rotation(seed, "itq", x.shape[1])
    for _ in range(iterations):
        signs = np.where(v @ rotation > 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(v.T @ signs)
        rotation = left @ right
    return Binarizer("itq", centre, rotation)


def fit_rabitq(x: Vectors, seed: int) -> Binarizer:
    """RaBitQ (Gao and Long, SIGMOD 2024): centre, random rotation, signs; and two scalars a row."""
    centre = x.astype(np.float64).mean(axis=0)
    return Binarizer("rabitq", centre, random_rotation(seed, "rabitq", x.shape[1]))
