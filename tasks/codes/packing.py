"""Bits in bytes: how codes are laid out."""

import numpy as np
from numpy.typing import NDArray


def pack(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """bool[n, w] to uint8[n, ceil(w / 8)], first bit lowest; the last byte is filled with zeros."""
    return np.packbits(bits, axis=1, bitorder="little")


def unpack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    """uint8[n, ceil(bits / 8)] to bool[n, bits]."""
    return np.unpackbits(codes, axis=1, count=bits, bitorder="little").astype(bool)


def values(codes: NDArray[np.uint8], width: int, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What codes of several planes stand for: v = Σ weights[i]·(2·bit − 1), float32[n, width].

    Parameters
    ----------
    codes
        uint8[n, planes * ceil(width / 8)], plane after plane.
    width
        Bits of a plane.
    weights
        float32[planes].
    """
    size = -(-width // 8)
    total = np.zeros((len(codes), width), dtype=np.float32)
    for i, weight in enumerate(weights):
        bits = unpack(codes[:, i * size : (i + 1) * size], width)
        total += np.where(bits, weight, -weight)
    return total
