"""Bit selection by information: of many hyperplanes those that tell most about neighbourhood, and differ."""

import numpy as np
from numpy.typing import NDArray

from tasks.binarize.rotating import Doubles, itq, principal
from tasks.codes.rotation import random_rotation, stream

SAMPLE = 4_096
"""Rows whose bits are compared."""
ASKING = 512
"""Rows whose neighbours are sought among the sample."""
NEIGHBOURS = 10


def _entropy(p: Doubles) -> Doubles:
    """Of a bit that is 1 with probability p, nats."""
    q = np.clip(p, 1e-300, 1.0)
    r = np.clip(1 - p, 1e-300, 1.0)
    return -(p * np.log(q) + (1 - p) * np.log(r))


def pairwise_information(bits: NDArray[np.bool_]) -> Doubles:
    """Mutual information of each two columns of bool[n, p], nats, float64[p, p]; the diagonal holds entropies."""
    n = len(bits)
    wide = bits.astype(np.float32)  # counts to 2²⁴ are exact
    both = (wide.T @ wide).astype(np.float64) / n
    one = np.diag(both).copy()
    joint = np.zeros_like(both)
    for share in (both, one[:, None] - both, one[None, :] - both, 1 - one[:, None] - one[None, :] + both):
        joint -= share * np.log(np.clip(share, 1e-300, 1.0))
    single = _entropy(one)
    return np.maximum(single[:, None] + single[None, :] - joint, 0.0)


def relevance(bits: NDArray[np.bool_], near: NDArray[np.int64], far: NDArray[np.int64]) -> Doubles:
    """Mutual information of a bit's agreement and of being neighbours, pairs of both kinds weighing the same.

    Parameters
    ----------
    bits
        bool[n, p].
    near, far
        int64[m, 2], pairs of rows that are neighbours, and pairs drawn at random.

    Returns
    -------
    float64[p]
        Nats, at most log 2.
    """
    a, b = ((bits[pairs[:, 0]] == bits[pairs[:, 1]]).mean(axis=0) for pairs in (near, far))
    return np.maximum(_entropy((a + b) / 2) - (_entropy(a) + _entropy(b)) / 2, 0.0)


def greedy(gain: Doubles, shared: Doubles, count: int) -> NDArray[np.int64]:
    """Columns in the order they are taken: each time the greatest gain less mean information shared with those taken.

    Ties go to the first (mRMR: Peng, Long and Ding, 2005).
    """
    taken: list[int] = []
    left = np.ones(len(gain), dtype=bool)
    redundancy = np.zeros(len(gain))
    for _ in range(min(count, len(gain))):
        score = gain - redundancy / max(len(taken), 1)
        best = int(np.where(left, score, -np.inf).argmax())
        taken.append(best)
        left[best] = False
        redundancy += shared[best]
    return np.array(taken, dtype=np.int64)


def candidates(z: Doubles, count: int, seed: int) -> Doubles:
    """A pool of hyperplanes, float64[d, at least count]: axes, principal components, ITQ, random rotations."""
    d = z.shape[1]
    basis = principal(z, d)
    pool = [np.eye(d), basis, basis @ itq(z[: 4 * SAMPLE] @ basis, seed, 20)]
    while sum(part.shape[1] for part in pool) < count:
        pool.append(random_rotation(seed, f"pool {len(pool)}", d))
    return np.hstack(pool)


def select(z: Doubles, width: int, seed: int, times: int) -> NDArray[np.float32]:
    """The matrix of `width` hyperplanes out of a pool of `times` as many, float32[d, width].

    Parameters
    ----------
    z
        float64[n, d], centred.
    width
        Bits.
    seed
        Of the pool and of the sample.
    times
        Size of the pool for one bit.
    """
    pool = candidates(z, width * max(times, 1), seed)
    random = stream(seed, "selection")
    rows = z[random.permutation(len(z))[:SAMPLE]]
    bits = rows @ pool > 0
    n = len(rows)
    k = min(NEIGHBOURS, n - 1)
    if k < 1:
        return np.ascontiguousarray(pool[:, :width], np.float32)
    asking = np.arange(min(ASKING, n))
    squared = (rows**2).sum(axis=1)[None, :] - 2 * (rows[asking] @ rows.T)
    squared[asking, asking] = np.inf
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :k]
    near = np.stack([np.repeat(asking, k), nearest.ravel()], axis=1)
    shifts = random.integers(1, n, len(near))  # another row
    far = np.stack([near[:, 0], (near[:, 0] + shifts) % n], axis=1)
    chosen = greedy(relevance(bits, near, far), pairwise_information(bits), width)
    return np.ascontiguousarray(pool[:, chosen], np.float32)
