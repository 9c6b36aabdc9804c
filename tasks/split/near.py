"""Pairs of near-duplicates without comparing all pairs, and without missing one.

TLSH: the distance of two headers (length and quartile ratios) is a part of the distance of two digests. Digests
are ordered by header, and only buckets whose headers are near enough are compared. MinHash: signatures of d
different places are cut into d + 1 parts, and two that differ in at most d places have one part in common
(pigeonholes); only signatures that share a part are compared.

Pairs come in blocks of bounded size, in no order that means anything, each pair once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

Rows = NDArray[np.int32]
Words = NDArray[np.uint64]

BLOCK = 1 << 18
"""Pairs in a block, or as many as one row can have where that is more."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A block of pairs of rows, int32[m] each, and their distance, int32[m]."""

    a: Rows
    b: Rows
    distance: Rows


@dataclass(frozen=True, slots=True)
class Digests:
    """TLSH digests, taken apart.

    Attributes
    ----------
    header
        uint16[n]: length code, second and first quartile ratio.
    checksum
        uint8[n].
    body
        uint64[n, 4]: 128 quartiles of two bits.
    """

    header: NDArray[np.uint16]
    checksum: NDArray[np.uint8]
    body: Words


def packed(texts: Sequence[str]) -> NDArray[np.uint8]:
    """TLSH digests in their `T1` form as bytes, uint8[n, 35]."""
    return np.frombuffer(bytes.fromhex("".join(text[2:] for text in texts)), dtype=np.uint8).reshape(-1, 35)


def digests(raw: NDArray[np.uint8]) -> Digests:
    """Take apart packed digests, uint8[n, 35]."""
    turned = (raw[:, :3] >> 4 | raw[:, :3] << 4).astype(np.uint8)  # a header's bytes are written low digit first
    header = (turned[:, 1].astype(np.uint16) << 8 | turned[:, 2]).astype(np.uint16)
    return Digests(header, turned[:, 0].copy(), np.ascontiguousarray(raw[:, 3:]).view(np.uint64))


def _steps(places: int, penalty_from: int) -> list[tuple[int, int]]:
    """Each circular difference of a header's field and what it costs."""
    found: list[tuple[int, int]] = []
    for step in range(places):
        apart = min(step, places - step)
        found.append((step, apart if apart <= 1 else 12 * (apart - penalty_from)))
    return found


def _near_headers(limit: int) -> NDArray[np.int32]:
    """int32[m, 4]: differences of length code, of both ratios, and their cost, where it is at most `limit`."""
    lengths, ratios = _steps(256, 0), _steps(16, 1)
    found = [
        (length, first, second, a + b + c)
        for length, a in lengths
        if a <= limit
        for first, b in ratios
        for second, c in ratios
        if a + b + c <= limit
    ]
    return np.array(found, dtype=np.int32)


@compiled
def _ones(x: np.uint64) -> np.int32:
    # LLVM makes one POPCNT of this.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int32((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _body_distance(bodies: Words, i: int, j: int) -> np.int32:
    """Sum over the quartiles of their difference, where 3 counts 6."""
    low = np.uint64(0x5555555555555555)
    total = np.int32(0)
    for w in range(4):
        a, b = bodies[i, w], bodies[j, w]
        x = a ^ b
        first, second = x & low, (x >> np.uint64(1)) & low
        both = first & second
        # Both bits differ: 0 and 3 if a's bits are equal, 1 and 2 if not.
        ends = both & ~(a ^ (a >> np.uint64(1)))
        total += _ones(first) + 2 * _ones(second & ~both) + 5 * _ones(ends)
    return total


@compiled
def _tlsh_block(
    header: NDArray[np.uint16],
    checksum: NDArray[np.uint8],
    body: Words,
    starts: NDArray[np.int64],
    near: NDArray[np.int32],
    limit: int,
    first: int,
    a: Rows,
    b: Rows,
    distance: Rows,
) -> tuple[int, int]:
    """Fill a block from row `first` on, rows in the order of headers; returns its pairs and the row to go on from."""
    n = len(header)
    count = 0
    for i in range(first, n):
        if count + n > len(a):
            return count, i
        h = np.int64(header[i])
        for k in range(len(near)):
            length = ((h >> 8) + near[k, 0]) & 255
            second = ((h >> 4) + near[k, 2]) & 15
            other = length << 8 | second << 4 | ((h + near[k, 1]) & 15)
            for j in range(max(starts[other], i + 1), starts[other + 1]):
                apart = near[k, 3] + np.int32(checksum[i] != checksum[j])
                if apart <= limit:
                    apart += _body_distance(body, i, j)
                    if apart <= limit:
                        a[count], b[count], distance[count] = i, j, apart
                        count += 1
    return count, n


def _blocks(n: int) -> tuple[Rows, Rows, Rows]:
    size = BLOCK + n
    return np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)


def tlsh_pairs(found: Digests, limit: int) -> Iterator[Pairs]:
    """Pairs of digests at a TLSH distance of at most `limit`, all of them."""
    order = np.argsort(found.header, kind="stable").astype(np.int32)
    header, checksum, body = found.header[order], found.checksum[order], found.body[order]
    starts = np.searchsorted(header, np.arange(65_537)).astype(np.int64)
    near = _near_headers(limit)
    a, b, distance = _blocks(len(order))
    row = 0
    while row < len(order):
        count, row = _tlsh_block(header, checksum, body, starts, near, limit, row, a, b, distance)
        yield Pairs(order[a[:count]], order[b[:count]], distance[:count].copy())


@compiled
def _part_keys(signatures: NDArray[np.uint32], rows: Rows, start: int, stop: int, keys: Words) -> None:
    for i in range(len(rows)):
        h = np.uint64(0)
        for p in range(start, stop):
            h = (h ^ np.uint64(signatures[rows[i], p])) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(32)
        keys[i] = h


@compiled
def _minhash_block(
    signatures: NDArray[np.uint32],
    rows: Rows,
    order: NDArray[np.int64],
    keys: Words,
    bounds: NDArray[np.int64],
    part: int,
    limit: int,
    first: int,
    a: Rows,
    b: Rows,
    distance: Rows,
) -> tuple[int, int]:
    """Fill a block from place `first` of the order by part key on; returns its pairs and the place to go on from."""
    n = len(order)
    count = 0
    for p in range(first, n):
        if count + n > len(a):
            return count, p
        i = order[p]
        for q in range(p + 1, n):
            j = order[q]
            if keys[j] != keys[i]:
                break
            apart = 0
            for k in range(len(bounds) - 1):
                before = apart
                for place in range(bounds[k], bounds[k + 1]):
                    apart += np.int64(signatures[rows[i], place] != signatures[rows[j], place])
                if apart > limit or (k < part and apart == before):  # too far, or met in an earlier part
                    apart = limit + 1
                    break
            if apart <= limit:
                a[count], b[count], distance[count] = i, j, apart
                count += 1
    return count, n


def different_places(jaccard: float, places: int) -> int:
    """Places in which two signatures may differ for an estimate of at least `jaccard`."""
    return math.floor((1 - jaccard) * places + 1e-9)


def minhash_pairs(signatures: NDArray[np.uint32], rows: Rows, limit: int) -> Iterator[Pairs]:
    """Pairs of signatures that differ in at most `limit` places, all of them.

    Parameters
    ----------
    signatures
        uint32[n, places]; may be mapped from a file.
    rows
        int32[m]: the rows to compare. Pairs are places in it.
    """
    places = signatures.shape[1]
    parts = min(limit + 1, places)
    bounds = np.linspace(0, places, parts + 1).astype(np.int64)
    keys = np.empty(len(rows), dtype=np.uint64)
    a, b, distance = _blocks(len(rows))
    for part in range(parts):
        _part_keys(signatures, rows, int(bounds[part]), int(bounds[part + 1]), keys)
        order = np.argsort(keys, kind="stable")
        place = 0
        while place < len(order):
            count, place = _minhash_block(signatures, rows, order, keys, bounds, part, limit, place, a, b, distance)
            yield Pairs(a[:count].copy(), b[:count].copy(), distance[:count].copy())
