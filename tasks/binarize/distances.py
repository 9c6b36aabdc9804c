"""Nearest codes: exact Hamming distance, and RaBitQ's asymmetric estimate. Ties go to the smaller row number."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

BLOCK_ROWS = 4096
"""Rows scanned for a tile of queries before the next rows: 4096 codes of 256 bits are 128 KiB, in L2."""

QUERY_BLOCK = 64
"""Queries whose distances to all rows are held at once."""


def words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Codes as 64-bit words, uint64[n, ceil(bytes / 8)], filled with zero bytes (which never differ)."""
    n, width = codes.shape
    if width % 8 == 0 and codes.flags.c_contiguous:
        return codes.view(np.uint64)
    padded = np.zeros((n, -(-width // 8) * 8), dtype=np.uint8)
    padded[:, :width] = codes
    return padded.view(np.uint64)


@compiled
def _popcount(x: np.uint64) -> np.uint64:
    # LLVM knows this form and makes one POPCNT of it.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _scan(
    queries: NDArray[np.uint64],
    codes: NDArray[np.uint64],
    best: NDArray[np.int32],
    ids: NDArray[np.int64],
    distances: NDArray[np.int32],
) -> None:
    q, k = ids.shape
    n, width = codes.shape
    for start in range(0, n, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n)
        for a in range(q):
            worst = best[a]
            for i in range(start, stop):
                total = np.uint64(0)
                for w in range(width):
                    total += _popcount(queries[a, w] ^ codes[i, w])
                distance = np.int32(total)
                if distance >= worst:
                    continue
                # Insertion into the sorted list of k: rows come in rising order, so ties stay behind.
                place = k - 1
                while place > 0 and distances[a, place - 1] > distance:
                    distances[a, place] = distances[a, place - 1]
                    ids[a, place] = ids[a, place - 1]
                    place -= 1
                distances[a, place] = distance
                ids[a, place] = i
                worst = distances[a, k - 1]
            best[a] = worst


def hamming_top_k(
    queries: NDArray[np.uint8], codes: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The k codes nearest to each query.

    Parameters
    ----------
    queries, codes
        uint8[q, bytes] and uint8[n, bytes], packed.
    k
        At most n.

    Returns
    -------
    ids
        int64[q, k], ordered by (distance, row number).
    distances
        int32[q, k], bits that differ.
    """
    k = min(k, len(codes))
    far = np.iinfo(np.int32).max
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    distances = np.full((len(queries), k), far, dtype=np.int32)
    if k:
        best = np.full(len(queries), far, dtype=np.int32)
        _scan(words(queries), words(codes), best, ids, distances)
    return ids, distances


def rabitq_top_k(
    projected: NDArray[np.float64],
    signs: NDArray[np.float32],
    norms: NDArray[np.float32],
    factors: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k rows whose estimated squared Euclidean distance to each float query is least.

    ‖q − x‖² = ‖q'‖² + ‖y‖² − 2⟨q', y⟩ with q' and y shifted and rotated; ⟨q', y⟩ is estimated, without bias
    over rotations, by f·⟨q', s⟩ (Gao and Long, 2024).

    Parameters
    ----------
    projected
        float64[q, d], queries shifted and rotated by the binarizer.
    signs
        float32[n, d], the codes as ±1.
    norms, factors
        float32[n], the rows' scalars.

    Returns
    -------
    ids
        int64[q, k], ordered by (distance, row number).
    distances
        float32[q, k], squared, estimated; may fall below 0 by the estimate's error.
    """
    query = projected.astype(np.float32)
    base = norms * norms

    def squared(part: NDArray[np.float32]) -> NDArray[np.float32]:
        inner = (part @ signs.T) * factors[None, :]
        return (part * part).sum(axis=1)[:, None] + base[None, :] - 2 * inner

    return _blocks(query, squared, len(signs), k)


def exact_top_k(
    queries: NDArray[np.float32], base: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k rows nearest to each query by squared Euclidean distance, computed in float64."""
    wide = base.astype(np.float64)
    norms = (wide**2).sum(axis=1)

    def squared(part: NDArray[np.float32]) -> NDArray[np.float32]:
        asked = part.astype(np.float64)
        return ((asked**2).sum(axis=1)[:, None] + norms[None, :] - 2 * (asked @ wide.T)).astype(np.float32)

    return _blocks(queries, squared, len(base), k)


def _blocks(
    queries: NDArray[np.float32],
    distances: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    rows: int,
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k least distances of each query, a block of queries at a time, so that memory is bounded."""
    k = min(k, rows)
    ids = np.zeros((len(queries), k), dtype=np.int64)
    values = np.zeros((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), QUERY_BLOCK):
        part = slice(start, start + QUERY_BLOCK)
        ids[part], values[part] = smallest(distances(queries[part]), k)
    return ids, values


def smallest(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places and values of the k least of each row, ordered by (value, place)."""
    k = min(k, values.shape[1])
    ids = np.argsort(values, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int64), np.take_along_axis(values, ids, axis=1)


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact neighbours that were found, over all queries; both int64[q, k]."""
    if not exact.size:
        return float("nan")
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True))
    return hits / exact.size
