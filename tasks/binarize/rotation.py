"""Random rotations that only the seed decides."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled


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
    key = np.frombuffer(hashlib.sha256(f"{seed}\0binarize\0{name}".encode()).digest()[:16], dtype="<u8")
    normals = np.random.Generator(np.random.Philox(key=key)).standard_normal((dimensions, dimensions))
    q, r = np.linalg.qr(normals)
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def pack(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """bool[n, d] to uint8[n, ceil(d / 8)], first bit lowest; the last byte is filled with zeros."""
    return np.packbits(bits, axis=1, bitorder="little")


def unpack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    """uint8[n, ceil(bits / 8)] to bool[n, bits]."""
    return np.unpackbits(codes, axis=1, count=bits, bitorder="little").astype(bool)


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
