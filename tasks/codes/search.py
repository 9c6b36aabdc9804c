"""Nearest codes by the distance that a binarizer's codes have: Hamming, or estimated Euclidean."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.codes.binarizer import Binarizer, Encoded
from tasks.codes.estimate import estimated_top_k
from tasks.codes.hamming import hamming_top_k
from tasks.codes.packing import unpack

Floats = NDArray[np.float32]


class Asked(NamedTuple):
    """Queries as codes are compared with them.

    Attributes
    ----------
    codes
        uint8[q, bytes].
    projected
        float32[q, width] where distances are estimated, else None.
    """

    codes: NDArray[np.uint8]
    projected: Floats | None


def ask(binarizer: Binarizer, queries: Floats) -> Asked:
    """Queries float32[q, d], ready to be compared with codes."""
    return Asked(binarizer.encode(queries).codes, binarizer.project(queries) if binarizer.estimates else None)


def distance(binarizer: Binarizer) -> str:
    """Name of the distance that codes have."""
    return "estimated L2" if binarizer.estimates else "Hamming"


def nearest_codes(
    binarizer: Binarizer, asked: Asked, rows: Encoded, k: int, *, threads: int = 1
) -> tuple[NDArray[np.int64], Floats]:
    """The k rows nearest to each query by their codes.

    Returns
    -------
    ids
        int64[q, min(k, n)], ordered by (distance, row number).
    distances
        float32[q, min(k, n)]: bits that differ, or estimated squared distances.
    """
    if asked.projected is None:
        ids, bits = hamming_top_k(asked.codes, rows.codes, k, threads=threads)
        return ids, bits.astype(np.float32)
    assert rows.norms is not None
    assert rows.factors is not None
    return estimated_top_k(
        asked.projected, rows.codes, binarizer.planes, rows.norms, rows.factors, binarizer.tables, k, threads=threads
    )


def information(binarizer: Binarizer, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mutual information of pairs of codes, each taken as draws of a bit, nats a bit: 0 to log 2.

    A label for people: it ranks as the Hamming distance does, but does not see whether bits agree or are opposed.

    Parameters
    ----------
    one, other
        uint8[n, bytes], packed.

    Returns
    -------
    float64[n]
    """
    size = -(-binarizer.width // 8)
    pairs: list[list[NDArray[np.bool_]]] = []
    for codes in (one, other):
        planes = [codes[:, i * size : (i + 1) * size] for i in range(binarizer.planes)]
        pairs.append([unpack(np.ascontiguousarray(plane), binarizer.width) for plane in planes])
    a, b = (np.concatenate(planes, axis=1) for planes in pairs)
    joint = np.stack([(x & y).mean(axis=1) for x in (~a, a) for y in (~b, b)], axis=1).reshape(-1, 2, 2)
    apart = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * np.log(joint / apart), 0.0)
    return np.maximum(terms.sum(axis=(1, 2)), 0.0)
