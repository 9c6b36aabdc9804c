"""Kernelised hashing's features: how near a vector is to each anchor."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

Floats = NDArray[np.float32]


@compiled
def _squared(x: Floats, anchors: Floats, result: Floats, gamma: float) -> None:
    d = x.shape[1]
    whole = d - d % 4
    for i in range(len(x)):
        for j in range(len(anchors)):
            a = b = c = e = 0.0
            for k in range(0, whole, 4):
                a += (np.float64(x[i, k]) - anchors[j, k]) ** 2
                b += (np.float64(x[i, k + 1]) - anchors[j, k + 1]) ** 2
                c += (np.float64(x[i, k + 2]) - anchors[j, k + 2]) ** 2
                e += (np.float64(x[i, k + 3]) - anchors[j, k + 3]) ** 2
            for k in range(whole, d):
                a += (np.float64(x[i, k]) - anchors[j, k]) ** 2
            result[i, j] = math.exp(-gamma * ((a + b) + (c + e)))


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

    def __call__(self, x: Floats) -> Floats:
        """float32[n, d] to float32[n, m]. What is not finite counts as the anchors' mean. A row by itself: no BLAS."""
        finite = np.isfinite(x)
        if not finite.all():
            x = np.where(finite, x, self.anchors.mean(axis=0, dtype=np.float64).astype(np.float32))
        result = np.empty((len(x), len(self.anchors)), np.float32)
        _squared(np.ascontiguousarray(x), self.anchors, result, self.gamma)
        return result
