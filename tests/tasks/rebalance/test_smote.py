"""SMOTE's kernels against brute force, for ties, outliers and values that are not finite; draws that are pinned."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import kstest
from sklearn.neighbors import NearestNeighbors

from tasks.rebalance.search import neighbors
from tasks.rebalance.smote import draws, sampling_targets

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)

PINNED = ([477, 834, 984], [1, 4, 1], [0.7554017457512863, 0.410781770087826, 0.9452958694217638])


def brute_force(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    squared = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize(("target", "added"), [(1.0, 93), (0.5, 43), (0.07, 0), (0.08, 1)])
def test_exactly_the_rows_asked_for(target: float, added: int) -> None:
    assert sampling_targets({"b": 7, "a": 100}, target) == {"a": 0, "b": added}
    assert sampling_targets({}, target) == {}


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(7, 40), st.integers(1, 5)), elements=st.integers(-2, 2)),
    st.integers(1, 6),
)
def test_many_ties_are_settled_by_row_number(x: NDArray[np.float64], k: int) -> None:
    assert np.array_equal(neighbors(x, k), brute_force(x, k))


@pytest.mark.parametrize("columns", [3, 40])
def test_continuous_rows_and_an_outlier(columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal((400, columns))
    near = neighbors(x, 5)
    assert np.array_equal(near, brute_force(x, 5))
    theirs = NearestNeighbors(n_neighbors=6).fit(x).kneighbors(x, return_distance=False)[:, 1:]
    assert np.array_equal(near, theirs)
    x[0] = 1e6  # the matrix product's distances lose nine digits
    assert np.array_equal(neighbors(x, 5), brute_force(x, 5))


def test_duplicates_in_the_order_of_their_numbers() -> None:
    near = neighbors(np.ones((50, 3)), 4)
    assert near[0].tolist() == [1, 2, 3, 4]
    assert near[2].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("k", [0, 4])
def test_too_few_rows_for_k(k: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        neighbors(np.zeros((4, 2)), k)


@settings(deadline=None)
@given(st.integers(0, 2**40), st.text(max_size=5), st.lists(st.integers(0, 200), max_size=6), st.integers(1, 200))
def test_draws_have_the_same_bits_in_any_chunks(seed: int, label: str, cuts: list[int], rows: int) -> None:
    whole = draws(seed, label, 0, 200, rows, 5)
    parts = [draws(seed, label, a, b, rows, 5) for a, b in itertools.pairwise([0, *sorted(cuts), 200])]
    for i, values in enumerate(whole):
        assert np.concatenate([part[i] for part in parts]).tobytes() == values.tobytes()


def test_draws_are_pinned() -> None:
    """Datasets made before stay reproducible only while these numbers stand."""
    assert tuple(v.tolist() for v in draws(7, "malware", 1_000_000, 1_000_003, 1000, 5)) == PINNED


def test_gaps_are_uniform_and_classes_independent() -> None:
    gap = draws(1, "a", 0, 50_000, 10, 5)[2]
    assert kstest(gap, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(gap, draws(1, "b", 0, 50_000, 10, 5)[2])[0, 1]) < 0.02
    assert abs(np.corrcoef(gap[1:], gap[:-1])[0, 1]) < 0.02
