"""Bit selection, each step against its definition or scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from tasks.binarize.fitting import Options, fit
from tasks.binarize.selection import greedy, pairwise_information, relevance, select


@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 99))
def test_information_of_pairs_is_scikit_learns(n: int, p: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    bits = random.random((n, p)) < random.random(p)
    found = pairwise_information(bits)
    for i in range(p):
        for j in range(p):
            assert found[i, j] == pytest.approx(mutual_info_score(bits[:, i], bits[:, j]), abs=1e-9)


@given(st.integers(2, 40), st.integers(1, 200), st.integers(0, 99))
def test_relevance_is_information_of_agreement_and_nearness(n: int, m: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    bits = random.random((n, 4)) < random.random(4)
    near, far = random.integers(0, n, (2, m, 2))
    found = relevance(bits, near, far)
    pairs = np.concatenate([near, far])
    for j in range(4):
        agree = bits[pairs[:, 0], j] == bits[pairs[:, 1], j]
        assert found[j] == pytest.approx(mutual_info_score(agree, np.arange(2 * m) < m), abs=1e-9)


def slowly(gain: NDArray[np.float64], shared: NDArray[np.float64], count: int) -> list[int]:
    taken: list[int] = []
    while len(taken) < min(count, len(gain)):
        left = [j for j in range(len(gain)) if j not in taken]
        taken.append(max(left, key=lambda j: (gain[j] - (np.mean(shared[taken, j]) if taken else 0), -j)))
    return taken


@given(st.integers(1, 12), st.integers(0, 14), st.integers(0, 99))
def test_greedy_takes_the_best_that_is_left(p: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Whole numbers that up to 12 divide: equal scores are equal, however they are added up.
    gain = (random.integers(0, 9, p) * 840).astype(np.float64)
    shared = (random.integers(0, 9, (p, p)) * 27720).astype(np.float64)
    assert greedy(gain, shared, count).tolist() == slowly(gain, shared, count)


def test_of_a_pool_the_telling_bits_are_taken() -> None:
    """Two columns say where a row's cluster lies, the others are noise of the same size."""
    random = np.random.default_rng(0)
    centres = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    x = np.hstack([centres[random.integers(0, 4, 2000)] + 0.05 * random.standard_normal((2000, 2)),
                   0.05 * random.standard_normal((2000, 6))])  # fmt: skip
    matrix = select(x, 2, 0, 4)
    share = (matrix[:2] ** 2).sum(axis=0) / (matrix**2).sum(axis=0)
    assert (share > 0.9).all()
    # And they are not the same bit twice.
    assert pairwise_information(x @ matrix > 0)[0, 1] < 0.1


def test_selected_bits_come_from_the_pool_without_repeats() -> None:
    x = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)
    for bits in (1, 10, 64):
        matrix = fit("selected", x, bits=bits, options=Options(pool=1)).matrix
        assert matrix is not None
        assert matrix.shape == (10, bits)
        np.testing.assert_allclose((matrix**2).sum(axis=0), 1, rtol=1e-5)
        assert len(np.unique(matrix, axis=1).T) == bits
