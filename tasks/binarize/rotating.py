"""Matrices that turn centred vectors before their signs are taken: axes, random, principal, ITQ."""

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.codes.rotation import FastRotation, random_flips, random_rotation

Doubles = NDArray[np.float64]

ROTATIONS = ("axes", "random", "itq")
ROWS = 16_384
"""Rows that iterative quantisation turns; more move no bit of recall that was measured."""


def spread(x: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """At most this many rows, evenly spaced."""
    return x if len(x) <= rows else x[np.linspace(0, len(x) - 1, rows).astype(np.int64)]


def principal(z: Doubles, width: int) -> Doubles:
    """float64[d, width], eigenvectors of zᵀz, greatest first; the largest loading of each is positive."""
    vectors = np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :width]
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(width)] < 0, -1.0, 1.0)


def quantisation_error(projected: NDArray[np.floating]) -> float:
    """Σ ‖sign(v) − v‖² over rows v: what iterative quantisation lowers."""
    return float(((np.where(projected > 0, 1.0, -1.0) - projected) ** 2).sum())


def itq(z: Doubles, seed: int, iterations: int = 50) -> Doubles:
    """Iterative quantisation (Gong and Lazebnik, CVPR 2011): the rotation that brings rows nearest to signs.

    Each iteration takes signs, then solves the orthogonal Procrustes problem by one SVD; the quantisation error
    never rises.

    Parameters
    ----------
    z
        float64[n, w], centred.
    seed
        Of the first rotation.
    iterations
        How often.

    Returns
    -------
    float64[w, w]
        R with RᵀR = I.
    """
    rotation = random_rotation(seed, "itq", z.shape[1])
    v = (z / max(float(abs(z).max()), 1e-300)).astype(np.float32)  # of any unit: float32 ends at 3.4e38
    for _ in range(iterations):
        signs = np.where(v @ rotation.astype(np.float32) > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd((v.T @ signs).astype(np.float64))
        rotation = left @ right
    return rotation


def rotated(
    rotation: str, z: Doubles, width: int, seed: int, iterations: int = 50
) -> NDArray[np.float32] | FastRotation | None:
    """A rotation to `width` bits: orthonormal columns, or rows where bits outnumber dimensions.

    Parameters
    ----------
    rotation
        `axes`: the components themselves, those of the greatest variance where bits are fewer. `random`: a fast one;
        fewer columns are lengthened so that products keep their expectation, and of more bits the rows are orthonormal,
        so that products are kept. `itq`: principal components, then iterative quantisation.
    z
        float64[n, d], centred.
    width
        Bits.
    seed, iterations
        Of the random rotation, and of iterative quantisation.

    Returns
    -------
    FastRotation, float32[d, width] or None
        None is the identity.

    Raises
    ------
    RecipeError
        More bits than the rotation can give.
    """
    d = z.shape[1]
    if rotation not in ROTATIONS:
        raise RecipeError(f"rotation {rotation!r} is unknown", f"use one of {', '.join(ROTATIONS)}")
    if width > d and rotation != "random":
        raise RecipeError(
            f"{width} bits of {d} dimensions by rotation {rotation!r}, which gives one bit a dimension",
            f"ask for at most {d} bits, use the random rotation or simhash, or residual with more planes",
        )
    if rotation == "random":
        return FastRotation(random_flips(seed, "rabitq", max(d, width)), d, width)
    if rotation == "axes":
        if width == d:
            return None
        kept = np.sort(np.argsort(-(z**2).sum(axis=0), kind="stable")[:width])
        matrix = np.eye(d)[:, kept]
    else:
        sample = z if len(z) <= ROWS else z[np.linspace(0, len(z) - 1, ROWS).astype(np.int64)]
        basis = principal(z, width) if width < d else np.eye(d)
        matrix = basis @ itq(sample @ basis, seed, iterations)
    return np.ascontiguousarray(matrix, np.float32)
