"""Nearest codes by Hamming distance, exactly. Ties go to the smaller row number."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled, population_count

Words = NDArray[np.uint64]

GROUP = 64
"""Rows that one branch passes over. The loop over them has a fixed length, so that it becomes vector instructions."""
BLOCK_BYTES = 16 << 10
"""Of codes that all queries are compared with before the next: half of a processor's first cache."""
STREAM = 8
"""When rows are read as they lie: rows of a place that one branch passes over."""
UNROLLED = 32
"""Words of a code up to which a kernel of its own is compiled."""
FEW = 4
"""Queries for which rows are read as they lie; for more, blocks of rows are turned first."""
LEAST = 16_384
"""Rows that a thread of its own is worth."""
FAR = np.uint64(2**63)


def places(width: int) -> int:
    """Places that are read at once: of long rows fewer (four of ten million rows of 1 024 bits took twice as long)."""
    return 4 if width <= 8 else 2


def words(codes: NDArray[np.uint8], planes: int = 1) -> Words:
    """Codes as 64-bit words, each plane filled up with zero bits (which never differ).

    Parameters
    ----------
    codes
        uint8[n, bytes], packed, the planes one after the other.

    Returns
    -------
    uint64[n, planes · ceil(bytes / planes / 8)]
        A view where nothing had to be filled.
    """
    n, width = codes.shape
    size = width // planes
    if size % 8 == 0 and codes.flags.c_contiguous:
        return codes.view(np.uint64) if size else np.zeros((n, 0), np.uint64)
    padded = np.zeros((n, planes, -(-size // 8) * 8), dtype=np.uint8)
    padded[:, :, :size] = codes.reshape(n, planes, size)
    return padded.reshape(n, planes * padded.shape[2]).view(np.uint64)


@compiled
def insert(ids: NDArray[np.int64], values: NDArray[Any], row: int, value: Any) -> Any:  # pragma: no cover - compiled
    """Put a row into a list sorted by (value, row), behind its equals: rows come in rising order. The last value."""
    place = len(ids) - 1
    while place > 0 and values[place - 1] > value:
        values[place] = values[place - 1]
        ids[place] = ids[place - 1]
        place -= 1
    values[place] = value
    ids[place] = row
    return values[len(ids) - 1]


@compiled
def turn(codes: Words, block: Words) -> None:  # pragma: no cover - compiled
    """Rows of codes to uint64[groups, words, GROUP], so that neighbouring rows fill a vector."""
    for g in range(-(-len(codes) // GROUP)):
        part = codes[g * GROUP : (g + 1) * GROUP]
        for w in range(codes.shape[1]):
            for i in range(len(part)):
                block[g, w, i] = part[i, w]


@cache
def _scans(width: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Kernels for codes of so many words: the loop over words is unrolled, that over rows becomes vectors."""
    parts = places(width)

    @compiled
    def scan(
        queries: Words, codes: Words, ids: NDArray[np.int64], distances: Words, block: Words
    ) -> None:  # pragma: no cover - compiled
        rows = len(block) * GROUP
        last = ids.shape[1] - 1
        for start in range(0, len(codes), rows):
            here = min(rows, len(codes) - start)
            turn(codes[start : start + here], block)
            for a in range(len(queries)):
                query = queries[a]
                worst = distances[a, last]
                for g in range(-(-here // GROUP)):
                    part = block[g]
                    hit = np.uint64(0)
                    for i in range(GROUP):
                        total = np.uint64(0)
                        for w in range(width):
                            total += population_count(query[w] ^ part[w, i])
                        hit |= np.uint64(total < worst)
                    if hit == 0:
                        continue
                    for i in range(min(GROUP, here - g * GROUP)):
                        total = np.uint64(0)
                        for w in range(width):
                            total += population_count(query[w] ^ part[w, i])
                        if total < worst:
                            worst = insert(ids[a], distances[a], start + g * GROUP + i, total)

    @compiled
    def sweep(
        query: Words, codes: Words, ids: NDArray[np.int64], distances: Words
    ) -> None:  # pragma: no cover - compiled
        # At several places at once, as memory is read sooner so than at one; each has its list.
        last = ids.shape[1] - 1
        part = len(codes) // (parts * STREAM) * STREAM
        worst = distances[0, last]
        for start in range(0, part, STREAM):
            hit = np.uint64(0)
            for s in range(parts):
                rows = codes[s * part + start : s * part + start + STREAM]
                for i in range(STREAM):
                    total = np.uint64(0)
                    for w in range(width):
                        total += population_count(query[w] ^ rows[i, w])
                    hit |= np.uint64(total < worst)
            if hit == 0:
                continue
            worst = np.uint64(0)
            for s in range(parts):
                first = s * part + start
                for i in range(first, first + STREAM):
                    total = np.uint64(0)
                    for w in range(width):
                        total += population_count(query[w] ^ codes[i, w])
                    if total < distances[s, last]:
                        insert(ids[s], distances[s], i, total)
                worst = max(worst, distances[s, last])
        for i in range(parts * part, len(codes)):
            total = np.uint64(0)
            for w in range(width):
                total += population_count(query[w] ^ codes[i, w])
            if total < distances[parts - 1, last]:
                insert(ids[parts - 1], distances[parts - 1], i, total)

    return scan, sweep


@compiled
def _wide(
    queries: Words, codes: Words, ids: NDArray[np.int64], distances: Words
) -> None:  # pragma: no cover - compiled
    last = ids.shape[1] - 1
    for start in range(0, len(codes), GROUP):
        for a in range(len(queries)):
            for i in range(start, min(start + GROUP, len(codes))):
                total = np.uint64(0)
                for w in range(codes.shape[1]):
                    total += population_count(queries[a, w] ^ codes[i, w])
                if total < distances[a, last]:
                    insert(ids[a], distances[a], i, total)


def block_for(width: int) -> Words:
    """Room for a block of turned rows of so many words, uint64[groups, width, GROUP]."""
    return np.zeros((max(1, BLOCK_BYTES // (8 * GROUP * max(1, width))), width, GROUP), dtype=np.uint64)


def ranges(rows: int, threads: int) -> list[tuple[int, int]]:
    """Rows cut into at most so many ranges of equal length, none of them short."""
    parts = max(1, min(threads, rows // LEAST))
    return list(pairwise([rows * i // parts for i in range(parts + 1)]))


def over_threads(
    search: Callable[[int, int], tuple[NDArray[np.int64], NDArray[Any]]], rows: int, threads: int, k: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Search ranges of rows at once (kernels hold no lock of the interpreter), and merge what was found.

    Parameters
    ----------
    search
        From first and last row to ids (in all rows) and values [q, k], as `merge` takes them.
    """
    parts = ranges(rows, threads)
    if len(parts) == 1:
        return search(*parts[0])
    with ThreadPoolExecutor(len(parts)) as pool:
        return merge(list(pool.map(lambda part: search(*part), parts)), k)


def merge(parts: list[tuple[NDArray[np.int64], NDArray[Any]]], k: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The k best of several lists for each query, by (value, id); a place without a row has id -1 and goes last.

    Parameters
    ----------
    parts
        ids int64[q, any] and values [q, any].
    """
    ids = np.concatenate([part[0] for part in parts], axis=1)
    values = np.concatenate([part[1] for part in parts], axis=1)
    order = np.lexsort((ids, values, ids < 0), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)


def hamming_top_k(
    queries: NDArray[np.uint8], codes: NDArray[np.uint8], k: int, *, threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The k codes nearest to each query.

    Parameters
    ----------
    queries, codes
        uint8[q, bytes] and uint8[n, bytes], packed.
    k
        At most n are found.
    threads
        Ranges of rows that are looked through at once; the result is the same.

    Returns
    -------
    ids
        int64[q, min(k, n)], ordered by (distance, row number).
    distances
        int32[q, min(k, n)], bits that differ.
    """
    k = min(k, len(codes))
    asked, stored = words(np.ascontiguousarray(queries)), words(codes)
    width = stored.shape[1]

    def search(start: int, stop: int) -> tuple[NDArray[np.int64], Words]:
        ids = np.full((len(asked), k), -1, dtype=np.int64)
        distances = np.full((len(asked), k), FAR)
        part = stored[start:stop]
        if width > UNROLLED:
            _wide(asked, part, ids, distances)
        elif len(asked) <= FEW:
            for a, query in enumerate(asked):
                near, far = np.full((places(width), k), -1, dtype=np.int64), np.full((places(width), k), FAR)
                _scans(width)[1](query, part, near, far)
                ids[a : a + 1], distances[a : a + 1] = merge([(near.reshape(1, -1), far.reshape(1, -1))], k)
        else:
            _scans(width)[0](asked, part, ids, distances, block_for(width))
        ids[ids >= 0] += start
        return ids, distances

    if not k or not len(asked):
        return np.zeros((len(asked), k), np.int64), np.zeros((len(asked), k), np.int32)
    ids, distances = over_threads(search, len(stored), threads, k)
    return ids, distances.astype(np.int32)
