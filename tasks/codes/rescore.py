"""Distances to rows kept as int8, and to the rows themselves; how many of the true neighbours were found."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.codes.hamming import merge
from tasks.jit import compiled

Floats = NDArray[np.float32]

BLOCK = 1 << 22
"""Distances that are held at once by the exact search."""


def quantise(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rows as int8 times a scale of each row: the row's largest component is 127.

    Parameters
    ----------
    x
        float32[n, d]. A component that is missing or infinite counts as 0.

    Returns
    -------
    vectors : int8[n, d]
    scales : float32[n]
        x ≈ scale · vector, each component within half a scale.
    """
    finite = np.where(np.isfinite(x), x, np.float32(0))
    scales = (np.abs(finite).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
    return np.rint(finite / np.where(scales > 0, scales, np.float32(1))[:, None]).astype(np.int8), scales


@compiled
def _distances(
    queries: Floats, candidates: NDArray[np.int64], vectors: NDArray[np.int8], scales: Floats, values: Floats
) -> None:  # pragma: no cover - compiled
    d = queries.shape[1]
    for a in range(len(candidates)):
        for slot in range(candidates.shape[1]):
            row = candidates[a, slot]
            if row < 0:
                values[a, slot] = np.inf
                continue
            # Sixteen sums side by side: one order, in vector instructions.
            sums = np.zeros(16, dtype=np.float32)
            scale = scales[row]
            whole = d // 16 * 16
            for start in range(0, whole, 16):
                some, other = queries[a, start : start + 16], vectors[row, start : start + 16]
                for j in range(16):
                    difference = some[j] - scale * np.float32(other[j])
                    sums[j] += difference * difference
            total = np.float32(0)
            for j in range(16):
                total += sums[j]
            for j in range(whole, d):
                difference = queries[a, j] - scale * np.float32(vectors[row, j])
                total += difference * difference
            values[a, slot] = total


def rescored(
    queries: Floats, candidates: NDArray[np.int64], vectors: NDArray[np.int8], scales: Floats, k: int
) -> tuple[NDArray[np.int64], Floats]:
    """The k of each query's candidates that are nearest by their int8 vectors.

    Parameters
    ----------
    queries
        float32[q, d], in the space that the vectors are of.
    candidates
        int64[q, m], rows; -1: none.
    vectors, scales
        int8[n, d] and float32[n], as `quantise` gives them.

    Returns
    -------
    ids
        int64[q, min(k, m)], ordered by (distance, row number), -1 where there is none.
    squared
        float32[q, min(k, m)], squared Euclidean distances; infinite where there is none.
    """
    values = np.empty(candidates.shape, dtype=np.float32)
    _distances(np.ascontiguousarray(queries, np.float32), candidates, vectors, scales, values)
    return merge([(candidates, values)], k)


def exact_top_k(queries: Floats, base: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The k rows nearest to each query by squared Euclidean distance, computed in float64, a block at a time.

    Parameters
    ----------
    queries, base
        float32[q, d] and float32[n, d], finite.

    Returns
    -------
    ids
        int64[q, min(k, n)], ordered by (distance, row number).
    squared
        float32[q, min(k, n)].
    """
    k = min(k, len(base))
    asked = queries.astype(np.float64)
    best = np.full((len(asked), k), -1, dtype=np.int64), np.full((len(asked), k), np.inf)
    for start, part in _blocks(base, max(1, BLOCK // max(1, len(asked), base.shape[1]))):
        squared = (asked**2).sum(axis=1)[:, None] + (part**2).sum(axis=1)[None, :] - 2 * (asked @ part.T)
        near = np.argpartition(squared, min(k, len(part)) - 1, axis=1)[:, :k] if len(part) > k else None
        ids = np.broadcast_to(np.arange(len(part)), squared.shape) if near is None else near
        # Rows as far as the k-th that the partition left out would be lost: few, but they count.
        values = np.take_along_axis(squared, ids, axis=1)
        if near is not None:
            ids, values = _with_ties(squared, ids, values, k)
        best = merge([best, (ids + start, values)], k)
    return best[0], best[1].astype(np.float32)


def _with_ties(
    squared: NDArray[np.float64], ids: NDArray[np.int64], values: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    worst = values.max(axis=1, keepdims=True)
    if not ((squared <= worst).sum(axis=1) > k).any():
        return ids, values
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(squared, order, axis=1)


def _blocks(base: Floats, rows: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(base), rows):
        yield start, base[start : start + rows].astype(np.float64)


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact neighbours that were found, over all queries; int64[q, any] and int64[q, k]."""
    if not exact.size:
        return float("nan")
    return sum(len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)) / exact.size
