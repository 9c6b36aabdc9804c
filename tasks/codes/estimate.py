"""Nearest codes by estimated Euclidean distance: a float query, or another code, against bit planes and two scalars.

A query's components are rounded to a few bits, held as bit planes, and compared with the codes' planes by counting the
bits that differ: ⟨q', v⟩ is a sum of these counts, each times a power of two. What is kept is computed anew from the
query's floats.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tasks.codes.hamming import GROUP, Words, block_for, insert, over_threads, turn, words
from tasks.codes.packing import pack
from tasks.jit import compiled, population_count

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

QUERY_BITS = 4
"""Bits of a query's component beside codes of one plane; a plane more needs a bit more. The rounding adds a
twentieth to the variance of the estimate, and only decides what is looked at closer."""
SPARE = 24
"""Rows beyond twice as many as wanted that are looked at closer: of 26 000 that belong among the nearest ten
none is then missed, where 8 miss 16."""


def query_planes(projected: Floats, bits: int) -> tuple[Words, Floats]:
    """Each query's components as odd multiples of half a step, in binary.

    Component j is about step · Σ_b 2^b · t_bj / 2, where t = ±1 is the b-th plane's bit: levels lie on both sides of
    zero alike, the outermost is the largest component.

    Parameters
    ----------
    projected
        float32[q, w], finite.
    bits
        Planes, B.

    Returns
    -------
    planes : uint64[q, B · words]
        The lowest plane first.
    step : float32[q]
    """
    top = (1 << bits) - 1
    peak = np.abs(projected).max(axis=1, initial=0.0)
    step = (2 * peak / top).astype(np.float32)
    level = np.rint(projected / np.where(step > 0, step, np.float32(1))[:, None] + np.float32(top / 2))
    level = np.clip(level, 0, top).astype(np.uint16)  # of six planes and more a level is above 255
    packed = [pack((level >> b) & 1 > 0) for b in range(bits)]
    return words(np.concatenate(packed, axis=1), bits), step


@cache
def _scan(width: int, planes: int, bits: int) -> Callable[..., None]:
    """A kernel for codes of so many words a plane, planes, and planes of a query."""

    @compiled
    def scan(
        queries: Words,
        base: Floats,
        step: Floats,
        codes: Words,
        norms: Bytes,
        factors: Bytes,
        tables: Floats,
        ids: NDArray[np.int64],
        values: Floats,
        block: Words,
        about: Floats,
    ) -> None:  # pragma: no cover - compiled
        # The value is squared[norm] + 2 factor (step · count - base): the counts are whole, so nothing but this is
        # rounded, in one order.
        rows = len(block) * GROUP
        last = ids.shape[1] - 1
        squares, doubles = tables[0] * tables[0], np.float32(2) * tables[1]
        for start in range(0, len(codes), rows):
            here = min(rows, len(codes) - start)
            turn(codes[start : start + here], block)
            for g in range(-(-here // GROUP)):
                first = start + g * GROUP
                some, other = norms[first : first + GROUP], factors[first : first + GROUP]
                squared, twice = about[g, 0], about[g, 1]
                for i in range(len(some)):
                    squared[i] = squares[some[i]]
                    twice[i] = doubles[other[i]]
            for a in range(len(queries)):
                query = queries[a]
                worst = values[a, last]
                low, unit = base[a], step[a]
                for g in range(-(-here // GROUP)):
                    part, squared, twice = block[g], about[g, 0], about[g, 1]
                    hit = np.uint64(0)
                    for i in range(GROUP):
                        count = np.uint64(0)
                        for p in range(planes):
                            for b in range(bits):
                                some = np.uint64(0)
                                for w in range(width):
                                    some += population_count(query[b * width + w] ^ part[p * width + w, i])
                                count += some << np.uint64(b + planes - 1 - p)
                        value = squared[i] + twice[i] * (unit * np.float32(count) - low)
                        hit |= np.uint64(value < worst)
                    if hit == 0:
                        continue
                    for i in range(min(GROUP, here - g * GROUP)):
                        count = np.uint64(0)
                        for p in range(planes):
                            for b in range(bits):
                                some = np.uint64(0)
                                for w in range(width):
                                    some += population_count(query[b * width + w] ^ part[p * width + w, i])
                                count += some << np.uint64(b + planes - 1 - p)
                        value = squared[i] + twice[i] * (unit * np.float32(count) - low)
                        if value < worst:
                            worst = insert(ids[a], values[a], start + g * GROUP + i, value)

    return scan


@compiled
def _settle(
    projected: Floats,
    codes: Bytes,
    planes: int,
    norms: Bytes,
    factors: Bytes,
    tables: Floats,
    ids: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    size = codes.shape[1] // planes
    for a in range(len(ids)):
        for slot in range(ids.shape[1]):
            row = ids[a, slot]
            if row < 0:
                continue
            inner, weight = 0.0, 1.0
            for p in range(planes):
                some = 0.0
                for j in range(projected.shape[1]):
                    bit = (codes[row, p * size + (j >> 3)] >> (j & 7)) & 1
                    some += np.float64(projected[a, j]) if bit else -np.float64(projected[a, j])
                inner += weight * some
                weight *= 0.5
            norm = np.float64(tables[0, norms[row]])
            values[a, slot] = norm * norm - 2.0 * np.float64(tables[1, factors[row]]) * inner


def _planned(
    queries: Words,
    base: Floats,
    step: Floats,
    stored: Words,
    planes: int,
    bits: int,
    scalars: tuple[Bytes, Bytes, Floats],
    k: int,
    threads: int,
) -> tuple[NDArray[np.int64], Floats]:
    width = stored.shape[1] // planes
    scan = _scan(width, planes, bits)
    norms, factors, tables = scalars

    def search(start: int, stop: int) -> tuple[NDArray[np.int64], Floats]:
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        values = np.full((len(queries), k), np.inf, dtype=np.float32)
        block = block_for(stored.shape[1])
        about = np.zeros((len(block), 2, GROUP), dtype=np.float32)
        part = slice(start, stop)
        scan(queries, base, step, stored[part], norms[part], factors[part], tables, ids, values, block, about)
        ids[ids >= 0] += start
        return ids, values

    return over_threads(search, len(stored), threads, k)


def estimated_top_k(
    projected: Floats,
    codes: Bytes,
    planes: int,
    norms: Bytes,
    factors: Bytes,
    tables: Floats,
    k: int,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.int64], Floats]:
    """The k rows whose estimated squared distance to each float query is least.

    ‖q − x‖² ≈ ‖q'‖² + ‖y‖² − 2f⟨q', v⟩, where v = Σ 2⁻ⁱ sᵢ are the row's signs, plane after plane, and
    f = ‖y‖² / ⟨y, v⟩ (RaBitQ: Gao and Long, SIGMOD 2024). Rows are found by the query rounded to a few bits, twice as
    many as asked for; the estimates given, and the order, are those of the query itself.

    Parameters
    ----------
    projected
        float32[q, w], queries as the binarizer projects them; finite.
    codes
        uint8[n, planes · ceil(w / 8)], packed.
    planes
        Planes of a code.
    norms, factors
        uint8[n], places in the tables.
    tables
        float32[2, 256], norms ‖y‖ and factors f.
    k
        At most n are found.
    threads
        Ranges of rows that are looked through at once; the result is the same.

    Returns
    -------
    ids
        int64[q, min(k, n)], ordered by (estimate, row number).
    squared
        float32[q, min(k, n)]; may fall below 0 by the estimate's error.
    """
    k = min(k, len(codes))
    if not k or not len(projected):
        return np.zeros((len(projected), k), np.int64), np.zeros((len(projected), k), np.float32)
    bits = QUERY_BITS + planes - 1
    query, step = query_planes(projected, bits)
    # ⟨q', v⟩ = step/2 · Σ_b Σ_p 2^b 2^-p (w - 2 differing)
    scale = np.float32(2.0 ** (1 - planes))
    whole = ((1 << bits) - 1) * ((1 << planes) - 1) * projected.shape[1]
    base = step * scale * np.float32(whole / 2)
    found, _ = _planned(
        query, base, step * scale, words(codes, planes), planes, bits, (norms, factors, tables),
        min(len(codes), 2 * k + SPARE), threads,
    )  # fmt: skip
    values = np.full(found.shape, np.inf)
    _settle(projected, codes, planes, norms, factors, tables, found, values)
    order = np.lexsort((found, values), axis=1)[:, :k]
    squared = (projected.astype(np.float64) ** 2).sum(axis=1)[:, None]
    near = np.take_along_axis(found, order, axis=1)
    return near, (np.take_along_axis(values, order, axis=1) + squared).astype(np.float32)


def symmetric_top_k(
    queries: tuple[Bytes, Bytes, Bytes],
    rows: tuple[Bytes, Bytes, Bytes],
    planes: int,
    width: int,
    tables: Floats,
    k: int,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.int64], Floats]:
    """The k rows nearest to each query by codes alone: ‖y‖² + ‖y_q‖² − 2 f f_q Σ 2⁻ⁱ⁻ʲ ⟨s_qi, s_j⟩.

    Parameters
    ----------
    queries, rows
        Codes uint8[·, bytes], norms uint8[·] and factors uint8[·], as a binarizer encodes them.
    planes, width
        Of the binarizer: planes, and bits of a plane.
    tables
        float32[2, 256], norms and factors.
    k
        At most as many as there are rows are found.

    Returns
    -------
    ids
        int64[q, min(k, n)], ordered by (distance, row number).
    squared
        float32[q, min(k, n)].
    """
    asked, own, other = queries
    codes, norms, factors = rows
    k = min(k, len(codes))
    if not k or not len(asked):
        return np.zeros((len(asked), k), np.int64), np.zeros((len(asked), k), np.float32)
    size = asked.shape[1] // planes
    lowest_first = asked.reshape(len(asked), planes, size)[:, ::-1].reshape(len(asked), -1)
    scale = tables[1, other] * np.float32(2.0 ** (2 - 2 * planes))
    base = scale * np.float32(((1 << planes) - 1) ** 2 * width)
    ids, values = _planned(
        words(np.ascontiguousarray(lowest_first), planes), base, 2 * scale, words(codes, planes), planes, planes,
        (norms, factors, tables), k, threads,
    )  # fmt: skip
    return ids, values + (tables[0, own] ** 2)[:, None]
