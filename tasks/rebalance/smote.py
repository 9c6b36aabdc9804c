"""SMOTE (Chawla, Bowyer, Hall and Kegelmeyer, 2002): how many rows it makes, and its draws.

Draws are counter-based: the i-th synthetic row of a class depends on the seed, the class and i alone.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

WORDS = 4
"""64-bit words of randomness for each row: one block of Philox4x64."""


def sampling_targets(counts: dict[str, int], target: float) -> dict[str, int]:
    """How many rows to add to each class.

    Parameters
    ----------
    counts
        Rows of each class in train.
    target
        Size to bring each smaller class to, as a share of the largest.

    Returns
    -------
    dict
        Exactly `round(target * largest) - count`, never below 0.
    """
    largest = max(counts.values(), default=0)
    return {label: max(0, round(target * largest) - n) for label, n in sorted(counts.items())}


def draws(
    seed: int, label: str, start: int, stop: int, rows: int | NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Parent, neighbour slot and gap of synthetic rows `start` to `stop` of a class.

    Philox4x64 (Salmon et al., 2011) keyed by SHA-256 of (seed, class); row i takes counter block i, so any cut
    into chunks gives the same draws. `rows` may be an array: each row's own number to draw from.

    Returns
    -------
    parent
        int64[stop - start], in [0, rows).
    slot
        int64[stop - start], in [0, k).
    gap
        float64[stop - start], in [0, 1).
    """
    key = np.frombuffer(hashlib.sha256(f"{seed}\0rebalance\0{label}".encode()).digest()[:16], dtype="<u8")
    stream = np.random.Philox(key=key).advance(start)
    words = stream.random_raw((stop - start) * WORDS).reshape(-1, WORDS)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    parent = np.minimum((unit[:, 0] * rows).astype(np.int64), rows - 1)
    slot = np.minimum((unit[:, 1] * k).astype(np.int64), k - 1)
    return parent, slot, unit[:, 2]
