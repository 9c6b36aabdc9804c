"""Random rotations that only the seed decides."""

import hashlib

import numpy as np
from numpy.typing import NDArray


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
