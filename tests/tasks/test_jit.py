"""The door to vector instructions: the sums are the ones that its documentation says, to the bit."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.jit import CHAINS, LANES, compiled, lane_sums


@compiled
def sums(a: NDArray[np.float32], b: NDArray[np.float32], size: int) -> tuple[float, ...]:
    return lane_sums(a, b, size)


@pytest.mark.parametrize("size", [0, 8, 16, 24, 32, 40, 56, 64, 96, 104, 384, 1000])
def test_lane_sums_are_added_up_in_their_order(size: int) -> None:
    random = np.random.default_rng(size)
    a, b = random.standard_normal((2, size + 3)).astype(np.float32)
    chains = np.zeros((CHAINS, LANES))
    for k in range(size):
        chains[k // LANES % CHAINS, k % LANES] += np.float64(a[k]) * np.float64(b[k])
    expected = (chains[0] + chains[2]) + (chains[1] + chains[3])
    assert np.array(sums(a, b, size)).tobytes() == expected.tobytes()
