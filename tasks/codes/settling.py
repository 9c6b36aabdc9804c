"""Compiled parts of encoding: from a BLAS product to bits that are the same whatever the BLAS and the batch.

A float32 product z·m differs from the exact one by at most d·2⁻²⁴·‖z‖·‖m‖, in whatever order it was added up. So a
value farther than that from a threshold is on the right side of it, and the few that are nearer are settled by a sum
in float64 in one fixed order.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.jit import CHAINS, LANES, compiled, lane_sums, wide_vectors

Floats = NDArray[np.float32]

GATHER = np.uint64(0x0102040810204080)
"""Its product with eight bytes of 0 or 1 has them as bits in its highest byte, the first lowest."""
LIMIT = np.float32(16384.0)
"""Grid steps at which a value is cut off, so that squares of twice as much fit 31 bits."""


def slack(matrix: Floats, roundings: int) -> Floats:
    """How far a float32 product with each column may be from the exact one, as a share of the row's norm: float32[w].

    The 16 beside the roundings of the product, as many as it has terms, cover what follows it: norms and steps rounded
    to float32, and one multiplication. The constant covers products that underflow.
    """
    norms = np.sqrt((matrix.astype(np.float64) ** 2).sum(axis=0))
    return ((roundings + 16) * 2.0**-24 * norms * 1.01 + 2.0**-80).astype(np.float32)


@compiled
def _dot(row: Floats, column: Floats) -> float:
    size = len(row)
    whole = size - size % LANES
    s0, s1, s2, s3, s4, s5, s6, s7 = lane_sums(row, column, whole)
    for k in range(whole, size):
        s0 += np.float64(row[k]) * np.float64(column[k])
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


@compiled
def centre(x: Floats, shift: Floats, z: Floats, norms: NDArray[np.float64], scales: NDArray[np.float64]) -> None:
    """Rows z = (x − shift)·2^−e; what is not finite becomes 0. Norms of z, and 2^e.

    e is 0 but for rows of extreme norms, whose products would underflow or overflow.
    """
    n, d = x.shape
    for i in range(n):
        row = z[i]
        bad = False
        for k in range(d):
            value = x[i, k] - shift[k]
            bad |= not (abs(value) < np.float32(np.inf))
            row[k] = value
        if bad:
            for k in range(d):
                if not abs(row[k]) < np.float32(np.inf):
                    row[k] = np.float32(0.0)
        norm = math.sqrt(_dot(row, row))
        scale = 1.0
        if norm > 0.0 and not 2.0**-30 < norm < 2.0**30:
            scale = math.ldexp(1.0, math.frexp(norm)[1])
            for k in range(d):
                row[k] = np.float32(np.float64(row[k]) / scale)
            norm /= scale
        norms[i], scales[i] = norm, scale


@compiled
def signs(
    p: Floats,
    z: Floats,
    norms: NDArray[np.float64],
    columns: Floats,
    slacks: Floats,
    flags: NDArray[np.uint8],
    words: NDArray[np.uint64],
    codes: NDArray[np.uint8],
) -> None:
    """Packed signs of p = z·matrix, uint8[n, bytes]; 0 is negative.

    `columns` is the matrix transposed, or of no rows where p is exact. `flags` is uint8[8 · bytes] and zero, `words`
    the same memory as uint64[bytes].
    """
    wide_vectors()
    n, width = p.shape
    exact = len(columns) == 0
    for i in range(n):
        norm = np.float32(norms[i])
        if norm == 0.0:
            codes[i, :] = 0
            continue
        row = p[i]
        near = False
        for j in range(width):
            flags[j] = row[j] > np.float32(0.0)
            near |= not (abs(row[j]) > slacks[j] * norm)
        if near and not exact:
            for j in range(width):
                if not abs(row[j]) > slacks[j] * norm:
                    flags[j] = _dot(z[i], columns[j]) > 0.0
        for b in range(len(words)):
            codes[i, b] = np.uint8((words[b] * GATHER) >> np.uint64(56))


@compiled
def cells(
    p: Floats,
    z: Floats,
    norms: NDArray[np.float64],
    columns: Floats,
    slacks: Floats,
    step: float,
    planes: int,
    finer: int,
    steps: NDArray[np.int32],
    flags: NDArray[np.uint8],
    words: NDArray[np.uint64],
    codes: NDArray[np.uint8],
    factors: NDArray[np.float64],
) -> None:
    """Packed bit planes of p = z·matrix, and each row's factor ‖y‖² / <y, v>, float64[n] (0 for a row of zeros).

    A row's values are numbered by the cell of a uniform grid that they lie in: cell c is (c·h, (c + 1)·h], and
    h = step·‖z‖ / (√w·2^(planes − 2 + finer)). The recurrence s₀ = sign(y), sᵢ = sign of what the planes before leave
    is then the binary number c >> finer, cut off at the outermost cells, highest bit first. The factor is computed from
    the cells alone, in whole numbers: from their middles, less the variance of a uniform cell.
    """
    wide_vectors()
    n, width = p.shape
    exact = len(columns) == 0
    shift = np.int32(finer)
    half = np.int32(1 << (planes - 1))
    # Up to here a row's sums of products of two odd numbers fit 31 bits.
    small = np.int32(math.sqrt(2.0**31 / width) / 2.0 - 1.0)
    size = len(words)
    for i in range(n):
        norm = np.float32(norms[i])
        if norm == 0.0:
            codes[i, :] = 0
            factors[i] = 0.0
            continue
        inverse = np.float32(math.sqrt(width) * (half << finer) / (2.0 * step * norms[i]))
        reach = norm * inverse
        row = p[i]
        for j in range(width):
            t = row[j] * inverse
            flags[j] = not (abs(t - np.rint(t)) > slacks[j] * reach)
            steps[j] = np.int32(np.ceil(min(max(t, -LIMIT), LIMIT))) - np.int32(1)
        for word in range(size):  # most have no value that is near a border
            if words[word] != np.uint64(0):
                for j in range(8 * word, min(8 * word + 8, width)):
                    if flags[j]:
                        y = np.float64(row[j]) if exact else _dot(z[i], columns[j])
                        y = min(max(y * np.float64(inverse), -np.float64(LIMIT)), np.float64(LIMIT))
                        steps[j] = np.int32(math.ceil(y)) - np.int32(1)
        # Of cell c, 2·c + 1 is the middle in half cells: m = c or −1 − c gives its size 2·m + 1, the sign is c's.
        # Numba computes with int64 unless each step is said to be int32.
        far = np.int32(0)
        squares, inners = np.int32(0), np.int32(0)
        if planes == 1:
            for j in range(width):
                m = np.int32(steps[j] ^ np.int32(steps[j] >> np.int32(31)))
                far = np.int32(far | m)
                squares = np.int32(squares + np.int32(m * m))
                inners = np.int32(inners + m)
                flags[j] = steps[j] >= np.int32(0)
            square = 4 * (np.int64(squares) + np.int64(inners)) + width
            inner = 2 * np.int64(inners) + width
        else:
            for j in range(width):
                sign = np.int32(steps[j] >> np.int32(31))
                m = np.int32(steps[j] ^ sign)
                far = np.int32(far | m)
                level = np.int32(min(np.int32(m >> shift), np.int32(half - np.int32(1))))
                middle = np.int32(np.int32(m + m) + np.int32(1))
                squares = np.int32(squares + np.int32(middle * middle))
                inners = np.int32(inners + np.int32(middle * np.int32(np.int32(level + level) + np.int32(1))))
                flags[j] = np.uint8(np.int32(np.int32(level ^ sign) + half))
            square, inner = np.int64(squares), np.int64(inners)
        if far >= small:  # the sums overflowed, or may have
            square, inner = np.int64(0), np.int64(0)
            for j in range(width):
                m = np.int32(steps[j] ^ np.int32(steps[j] >> np.int32(31)))
                wide = 2 * np.int64(m) + 1
                square += wide * wide
                inner += wide * (2 * np.int64(min(np.int32(m >> shift), np.int32(half - np.int32(1)))) + 1)
        for plane in range(planes):  # a byte of flags is a value's level: its bits, highest first, are the planes'
            down = np.uint64(planes - 1 - plane)
            for b in range(size):
                bits = (words[b] >> down) & np.uint64(0x0101010101010101)
                codes[i, plane * size + b] = np.uint8((bits * GATHER) >> np.uint64(56))
        factors[i] = (square - width / 3.0) * half / (2.0 * np.float64(inverse) * inner)


@compiled
def summed(z: Floats, matrix: Floats, lanes: NDArray[np.float64], result: Floats) -> None:
    """Sums in the order of `_dot`, rounded to float32: what `rounded` gives, and faster for a few rows.

    `lanes` is float64[32, w], room for the partial sums of each column.
    """
    d, width = matrix.shape
    whole = d - d % LANES
    for i in range(len(z)):
        lanes[:] = 0.0
        for k in range(whole):
            value = np.float64(z[i, k])
            lane = lanes[k % (CHAINS * LANES)]
            for j in range(width):
                lane[j] += value * np.float64(matrix[k, j])
        for low in range(LANES):
            for j in range(width):
                lanes[low, j] = (lanes[low, j] + lanes[low + 16, j]) + (lanes[low + 8, j] + lanes[low + 24, j])
        for k in range(whole, d):
            value = np.float64(z[i, k])
            for j in range(width):
                lanes[0, j] += value * np.float64(matrix[k, j])
        for j in range(width):
            even = (lanes[0, j] + lanes[4, j]) + (lanes[2, j] + lanes[6, j])
            result[i, j] = np.float32(even + ((lanes[1, j] + lanes[5, j]) + (lanes[3, j] + lanes[7, j])))


@compiled
def rounded(p: NDArray[np.float64], z: Floats, norms: NDArray[np.float64], columns: Floats, result: Floats) -> None:
    """The float32 values nearest to sums in fixed order, from p = z·matrix of a float64 BLAS.

    A value that lies as near to the border between two float32 values as the BLAS may be wrong is summed up again.
    """
    n, width = p.shape
    d = z.shape[1]
    for j in range(width):
        column = columns[j]
        share = 0.0
        for k in range(d):
            share += np.float64(column[k]) * np.float64(column[k])
        share = math.sqrt(share) * (d + 16) * 2.0**-52
        for i in range(n):
            error = share * norms[i]
            value = p[i, j]
            low, high = np.float32(value - error), np.float32(value + error)
            result[i, j] = low if low == high else np.float32(_dot(z[i], column))
