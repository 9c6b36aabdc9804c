"""Random rotations that only the seed decides, and a product whose rows do not depend on each other."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled


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
