"""Random rotations that only the seed decides, and a product whose rows do not depend on each other."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled, wide_vectors

Floats = NDArray[np.float32]

ROUNDS = 4
FEW = 128
"""Components below which a product of matrices is faster than a fast rotation."""


def stream(seed: int, name: str) -> np.random.Generator:
    """The counter-based stream (Philox) of a seed and a use."""
    key = np.frombuffer(hashlib.sha256(f"{seed}\0binarize\0{name}".encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


def random_rotation(seed: int, name: str, dimensions: int) -> NDArray[np.float64]:
    """A rotation drawn from the Haar measure (QR of normals, signs settled; Mezzadri, 2007).

    Parameters
    ----------
    seed, name
        Key of the counter-based stream (Philox).
    dimensions
        Size d.

    Returns
    -------
    float64[d, d]
        R with RᵀR = I.
    """
    q, r = np.linalg.qr(stream(seed, name).standard_normal((dimensions, dimensions)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def random_flips(seed: int, name: str, size: int) -> NDArray[np.uint8]:
    """What a fast rotation of `size` components is drawn as: a bit for each sign, uint8[rounds, bytes]."""
    bits = stream(seed, name).integers(0, 2, (ROUNDS, size), np.uint8)
    return np.packbits(bits, axis=1, bitorder="little")


@dataclass(frozen=True, slots=True, eq=False)
class FastRotation:
    """A random rotation in O(d log d): four times random signs, then Hadamard's transform (Ailon and Chazelle, 2006).

    The transform takes as many components as the greatest power of two gives: the first, the last, those in the middle
    and the first again. Rows of its matrix are then as good as normal (their fourth moments are; tested).

    Attributes
    ----------
    flips
        uint8[rounds, bytes], of `random_flips` for max(d, width) components.
    d, width
        Components of a row, and of what is made of it: more are those of a row with zeros behind it, and fewer are
        lengthened so that products keep their expectation.
    """

    flips: NDArray[np.uint8]
    d: int
    width: int
    _block: int = field(init=False, repr=False)
    _offsets: NDArray[np.int64] = field(init=False, repr=False)
    _signs: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        size = max(self.d, self.width)
        block = 1 << (size.bit_length() - 1)
        rest = size - block
        offsets = np.array([0, rest, rest // 2, 0])
        signs = 1.0 - 2.0 * np.unpackbits(self.flips, axis=1, count=size, bitorder="little")
        for row, first in zip(signs, offsets, strict=True):
            row[first : first + block] /= math.sqrt(block)  # the transform's columns have that length
        object.__setattr__(self, "_block", block)
        object.__setattr__(self, "_offsets", offsets)
        object.__setattr__(self, "_signs", signs)

    @property
    def _scale(self) -> float:
        return math.sqrt(max(self.d, self.width) / self.width)

    @property
    def roundings(self) -> int:
        """Roundings of a float32 `turn`, each of at most 2⁻²⁴ of the row's length, and those of the matrix."""
        return ROUNDS * (self._block.bit_length() + 2) + 4

    def matrix(self) -> Floats:
        """float32[d, width]: what the rotation makes of unit vectors, rounded from float64."""
        return self._turned(np.eye(self.d), np.float64).astype(np.float32)

    def turn(self, x: Floats) -> Floats:
        """Products of float32[n, d] and the matrix, float32[n, width], in one order of sums, whatever the machine."""
        return self._turned(np.ascontiguousarray(x, np.float32), np.float32)

    def _turned(self, x: Any, kind: Any) -> Any:
        result = np.empty((len(x), self.width), kind)
        room = np.empty((2, self._signs.shape[1]), kind)
        _turn(x, self._signs.astype(kind), self._offsets, self._block, kind(self._scale), room[0], room[1], result)
        return result


@compiled
def _mix(x: Any, y: Any) -> None:
    """Two steps of Hadamard's transform, not scaled: halves into pairs, so that each reads and writes in order."""
    wide_vectors()
    part = len(x) // 4
    for k in range(part):
        a, b, c, d = x[k], x[k + part], x[k + 2 * part], x[k + 3 * part]
        s, t, u, v = a + c, b + d, a - c, b - d
        y[4 * k] = s + t
        y[4 * k + 1] = s - t
        y[4 * k + 2] = u + v
        y[4 * k + 3] = u - v


@compiled
def _mix_once(x: Any, y: Any) -> None:
    wide_vectors()
    half = len(x) // 2
    for k in range(half):
        y[2 * k] = x[k] + x[k + half]
        y[2 * k + 1] = x[k] - x[k + half]


@compiled
def _turn(x: Any, signs: Any, offsets: NDArray[np.int64], block: int, scale: Any, a: Any, b: Any, result: Any) -> None:
    """Rows turned; `a` and `b` are room for a row each."""
    wide_vectors()
    rounds, size = signs.shape
    d, width = x.shape[1], result.shape[1]
    for i in range(len(x)):
        for k in range(d):
            a[k] = x[i, k]
        for k in range(d, size):
            a[k] = scale - scale  # 0 of the same type
        for number in range(rounds):
            for k in range(size):
                a[k] *= signs[number, k]
            first = offsets[number]
            here, there = a[first : first + block], b[:block]
            left, swapped = block, False
            while left > 1:
                if left == 2:
                    if swapped:
                        _mix_once(there, here)
                    else:
                        _mix_once(here, there)
                elif swapped:
                    _mix(there, here)
                else:
                    _mix(here, there)
                left //= 4
                swapped = not swapped
            if swapped:
                for k in range(block):
                    here[k] = there[k]
        for j in range(width):
            result[i, j] = a[j] * scale


@compiled
def _product(x: NDArray[np.float64], matrix: NDArray[np.float64], result: NDArray[np.float64]) -> None:
    for i in range(len(x)):
        row = result[i]
        for k in range(x.shape[1]):
            value = x[i, k]
            for j in range(matrix.shape[1]):
                row[j] += value * matrix[k, j]


def product(x: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Product of float64[n, p] and float64[p, d], in which a row's bits do not depend on the rows beside it.

    BLAS adds up in an order that depends on the shape of the whole: a row by itself may give another last bit, and
    so another code.
    """
    result = np.zeros((len(x), matrix.shape[1]))
    _product(np.ascontiguousarray(x, np.float64), np.ascontiguousarray(matrix, np.float64), result)
    return result
