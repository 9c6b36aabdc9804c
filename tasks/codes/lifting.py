"""Kernelised hashing's features: how near a vector is to each anchor."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

Floats = NDArray[np.float32]

COLUMNS = 128
"""Anchors that a vector is held against at once: their sums are vector instructions, and stay in the first cache."""


@compiled
def _squared(x: Floats, turned: Floats, sums: Floats, result: Floats) -> None:  # pragma: no cover - compiled
    """Squared distances, two rows at a time; each sum goes in the order of the components, whatever is beside it."""
    n, d = x.shape
    even = d - d % 2
    for start in range(0, n, 2):
        other = min(start + 1, n - 1)
        x0, x1, sum0, sum1 = x[start], x[other], sums[0], sums[1]
        for block in range(len(turned)):
            anchors = turned[block]
            for j in range(COLUMNS):
                sum0[j] = np.float32(0)
                sum1[j] = np.float32(0)
            for k in range(0, even, 2):
                p0, q0, p1, q1 = x0[k], x0[k + 1], x1[k], x1[k + 1]
                for j in range(COLUMNS):
                    a, b = anchors[k, j], anchors[k + 1, j]
                    c, e, f, g = p0 - a, q0 - b, p1 - a, q1 - b
                    sum0[j] += c * c + e * e
                    sum1[j] += f * f + g * g
            for k in range(even, d):
                for j in range(COLUMNS):
                    c, f = x0[k] - anchors[k, j], x1[k] - anchors[k, j]
                    sum0[j] += c * c
                    sum1[j] += f * f
            first = block * COLUMNS
            for j in range(min(COLUMNS, result.shape[1] - first)):
                result[start, first + j] = sum0[j]
                result[other, first + j] = sum1[j]


@dataclass(frozen=True, slots=True, eq=False)
class Lift:
    """exp(−γ‖x − aⱼ‖²) for anchors aⱼ: rows of the training data (Kulis and Grauman, ICCV 2009; Liu and others, 2012).

    Attributes
    ----------
    anchors
        float32[m, d].
    gamma
        1 over squared distance.
    """

    anchors: Floats
    gamma: float
    _turned: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        m, d = self.anchors.shape
        turned = np.zeros((-(-m // COLUMNS), COLUMNS, d), np.float32)
        turned.reshape(-1, d)[:m] = self.anchors
        object.__setattr__(self, "_turned", np.ascontiguousarray(turned.transpose(0, 2, 1)))

    def __call__(self, x: Floats) -> Floats:
        """float32[n, d] to float32[n, m]. What is not finite counts as the anchors' mean. A row by itself: no BLAS."""
        finite = np.isfinite(x)
        if not finite.all():
            x = np.where(finite, x, self.anchors.mean(axis=0, dtype=np.float64).astype(np.float32))
        result = np.empty((len(x), len(self.anchors)), np.float32)
        with np.errstate(over="ignore"):  # an infinite distance is a feature of 0
            _squared(np.ascontiguousarray(x), self._turned, np.empty((2, COLUMNS), np.float32), result)
            return np.exp(np.float32(-self.gamma) * result)
