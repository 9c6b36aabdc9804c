"""The door to vector instructions: the sums are the ones that its documentation says, to the bit."""

import platform
from typing import Any, cast

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.codes.hamming import FAR, _scans, places  # pyright: ignore[reportPrivateUsage]
from tasks.jit import CHAINS, LANES, compiled, lane_sums, wide_vectors


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


@compiled
def wide(a: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    wide_vectors()
    for i in range(len(a)):
        found[i] = np.ceil(a[i] * np.float32(3.0)) - a[i]


def test_wide_vectors_change_no_bit() -> None:
    a = np.random.default_rng(0).standard_normal(1001).astype(np.float32)
    found = np.empty_like(a)
    wide(a, found)
    assert found.tobytes() == (np.ceil(a * np.float32(3.0)) - a).tobytes()
    anew: Any = numba.njit(wide.py_func)  # pyright: ignore[reportFunctionMemberAccess] # what is cached has no LLVM code
    anew(a, found)
    (code,) = anew.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in code


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="gathers of x86 are meant")
def test_loops_do_not_become_gathers() -> None:
    """LLVM believes them to be fast on some processors, where one query by Hamming distance took five times as long."""
    kernel = cast("Any", numba.njit(cast("Any", _scans(4)[1]).py_func))
    codes = np.random.default_rng(0).integers(0, 2**63, (500, 4)).astype(np.uint64)
    near, far = np.full((places(4), 1), -1, np.int64), np.full((places(4), 1), FAR)
    kernel(codes[77], codes, near, far)
    assert near.ravel()[far.argmin()] == 77
    assert not any("\tvpgather" in text for text in kernel.inspect_asm().values())
