"""Codes of a new embedding that old codes can be compared with, so that new queries search old shards."""

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.binarize.fitting import filled
from tasks.codes.binarizer import Binarizer, Encoded
from tasks.codes.packing import values

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

RIDGES = np.geomspace(1e-8, 1e2, 21)
"""Ridge penalties to choose from, as shares of the mean variance of the new vectors."""


def compatible(old: Binarizer, stored: Encoded, vectors: Floats) -> Binarizer:
    """Fit a binarizer on vectors of a new space whose codes are comparable with the old binarizer's.

    Rows given in both spaces suffice: their stored codes, and their vectors in the new space. What a code says of a
    row's projection, f·v (±1 without factors), is regressed linearly on the new vectors, with the ridge that
    generalised cross-validation likes best (Golub, Heath and Wahba, 1979); both in closed form.

    Parameters
    ----------
    old
        The binarizer of the stored codes.
    stored
        Codes of n rows.
    vectors
        float32[n, d], the same rows in the new space. A missing or infinite component counts as its column's mean.

    Returns
    -------
    Binarizer
        Of the same method, width, planes and tables; it takes d components.

    Raises
    ------
    RecipeError
        No rows, or not as many codes as vectors.
    """
    n = len(vectors)
    if vectors.ndim != 2 or not vectors.size or len(stored.codes) != n or stored.codes.shape[1] != old.bytes:
        raise RecipeError(
            f"{vectors.shape} vectors for codes of shape {stored.codes.shape}, {old.bytes} bytes each",
            "give the stored codes and the new vectors of the same rows, one at least",
        )
    x = filled(vectors)
    target, norms = _target(old, stored)
    mean = x.mean(axis=0, dtype=np.float64)
    z, middle = x - mean, target.mean(axis=0)
    matrix = ridge(z, target - middle)
    # (x − shift)·matrix has no constant term: the shift is moved until it gives the targets' mean, as far as it can.
    shift = mean - np.linalg.lstsq(matrix.T, middle, rcond=1e-6)[0]
    lengths = np.sqrt(((x - shift) ** 2).sum(axis=1))
    square = float((lengths**2).sum())
    gain = float((lengths * norms).sum()) / square if norms is not None and square > 0 else 1.0
    gain = gain if gain > 0 else 1.0
    return Binarizer(
        old.method, "compatible", x.shape[1], old.width, old.planes, old.estimates, shift.astype(np.float32),
        np.ascontiguousarray(matrix, np.float32), old.tables, old.step * gain, old.gain * gain,
    )  # fmt: skip


def _target(old: Binarizer, stored: Encoded) -> tuple[Doubles, Doubles | None]:
    """What codes say of projections, float64[n, width], and the rows' norms."""
    v = values(stored.codes, old.width, old.weights).astype(np.float64)
    if stored.norms is None or stored.factors is None:
        return v, None
    norms, factors = (
        table.astype(np.float64)[places]
        for table, places in zip(old.tables, (stored.norms, stored.factors), strict=True)
    )
    return v * factors[:, None], norms


def ridge(z: Doubles, target: Doubles) -> Doubles:
    """The matrix W that lessens ‖z·W − target‖² + λ‖W‖², float64[d, w], λ by generalised cross-validation.

    Parameters
    ----------
    z, target
        float64[n, d] and float64[n, w], both centred.
    """
    n = len(z)
    variance, turn = np.linalg.eigh(z.T @ z)
    variance = np.maximum(variance, 0.0)
    mixed = turn.T @ (z.T @ target)
    energy = (mixed**2).sum(axis=1)
    unit = float(variance.mean())
    if unit < 1e-200:
        return np.zeros_like(mixed)  # all rows are the same
    found: list[tuple[float, float]] = []
    for penalty in RIDGES * unit:
        shrunk = 1 / (variance + penalty)
        left = float((target**2).sum() - (energy * (2 * shrunk - variance * shrunk**2)).sum())
        free = 1 - float((variance * shrunk).sum() + 1) / n
        found.append((max(left, 0.0) / free**2 if free > 1e-9 else np.inf, penalty))
    penalty = min(found)[1] if np.isfinite(min(found)[0]) else RIDGES[-1] * unit
    return turn @ (mixed / (variance + penalty)[:, None])
