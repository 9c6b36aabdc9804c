"""Compiled parts of encoding: from a BLAS product to bits that are the same whatever the BLAS and the batch.

A float32 product z·m differs from the exact one by at most d·2⁻²⁴·‖z‖·‖m‖, in whatever order it was added up. So a
value farther than that from a threshold is on the right side of it, and the few that are nearer are settled by a sum
in float64 in one fixed order.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.jit import LANES, compiled, lane_sums

Floats = NDArray[np.float32]

LIMIT = np.float32(16384.0)
"""Grid steps at which a value is cut off, so that squares of twice as much fit 31 bits."""


def slack(matrix: Floats) -> Floats:
    """How far a float32 product with each column may be from the exact one, as a share of the row's norm: float32[w].

    The 16 beside the number of terms cover what follows the product: norms and steps rounded to float32, and one
    multiplication. The constant covers products that underflow.
    """
    norms = np.sqrt((matrix.astype(np.float64) ** 2).sum(axis=0))
    return ((len(matrix) + 16) * 2.0**-24 * norms * 1.01 + 2.0**-80).astype(np.float32)


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
def _packed(flags: NDArray[np.uint8], words: NDArray[np.uint64], code: NDArray[np.uint8]) -> None:
    # words are the flags, eight at a time: the product gathers their lowest bits in the highest byte.
    for b in range(len(code)):
        code[b] = np.uint8((words[b] * np.uint64(0x0102040810204080)) >> np.uint64(56))


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
        _packed(flags, words, codes[i])


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
    n, width = p.shape
    exact = len(columns) == 0
    low, high = np.int32(-(1 << (planes - 1))), np.int32((1 << (planes - 1)) - 1)
    shift = np.int32(finer)
    small = np.int32(math.sqrt(2.0**31 / width) / 2.0 - 1.0)  # a row's sums of squares of twice as much fit 31 bits
    unit = 1 << (planes - 1)
    size = len(words)
    for i in range(n):
        norm = np.float32(norms[i])
        if norm == 0.0:
            codes[i, :] = 0
            factors[i] = 0.0
            continue
        inverse = np.float32(math.sqrt(width) * (unit << finer) / (2.0 * step * norms[i]))
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
        far = np.int32(0)
        for j in range(width):
            far = np.int32(far | (steps[j] ^ np.int32(steps[j] >> np.int32(31))))
        square = np.int64(0)
        inner = np.int64(0)
        # Numba computes with int64 unless each step is said to be int32.
        squares = np.int32(0)
        inners = np.int32(0)
        if planes == 1 and far < small:
            for j in range(width):
                y2 = np.int32(np.int32(steps[j] + steps[j]) + np.int32(1))
                squares = np.int32(squares + np.int32(y2 * y2))
                inners = np.int32(inners + abs(y2))  # 2 · level + 1 is its sign
                flags[j] = steps[j] >= np.int32(0)
            _packed(flags, words, codes[i])
            factors[i] = (np.int64(squares) - width / 3.0) * unit / (2.0 * np.float64(inverse) * np.int64(inners))
            continue
        if far < small:
            for j in range(width):
                y2 = np.int32(np.int32(steps[j] + steps[j]) + np.int32(1))
                level = min(max(np.int32(steps[j] >> shift), low), high)
                squares = np.int32(squares + np.int32(y2 * y2))
                inners = np.int32(inners + np.int32(y2 * np.int32(np.int32(level + level) + np.int32(1))))
                steps[j] = np.int32(level - low)
            square += np.int64(squares)
            inner += np.int64(inners)
        else:
            for j in range(width):
                wide = np.int64(2) * steps[j] + np.int64(1)
                level = min(max(np.int32(steps[j] >> shift), low), high)
                square += wide * wide
                inner += wide * (np.int64(2) * level + np.int64(1))
                steps[j] = np.int32(level - low)
        for plane in range(planes):
            down = np.int32(planes - 1 - plane)
            for j in range(width):
                flags[j] = np.uint8((steps[j] >> down) & np.int32(1))
            _packed(flags, words, codes[i, plane * size : (plane + 1) * size])
        factors[i] = (square - width / 3.0) * unit / (2.0 * np.float64(inverse) * inner)


@compiled
def summed(z: Floats, matrix: Floats, lanes: NDArray[np.float64], result: Floats) -> None:
    """Sums in the order of `_dot`, rounded to float32: what `rounded` gives, and faster for a few rows.

    `lanes` is float64[8, w], room for the eight partial sums of each column.
    """
    d, width = matrix.shape
    whole = d - d % 8
    for i in range(len(z)):
        lanes[:] = 0.0
        for k in range(d):
            value = np.float64(z[i, k])
            lane = lanes[k % 8 if k < whole else 0]
            for j in range(width):
                lane[j] += value * np.float64(matrix[k, j])
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
