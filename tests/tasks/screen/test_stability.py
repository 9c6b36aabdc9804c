"""Stability selection against tables summed and scored by hand, and against what is known of its chances."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from tasks.screen import stability as module
from tasks.screen.scores import score
from tasks.screen.stability import expected_false, frequency, halves, subsample_scores

TABLES = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 5), st.integers(0, 7), st.integers(1, 4), st.integers(1, 3)),
    elements=st.integers(0, 30),
)
SEEDS = st.integers(0, 2**64 - 1)


def stability(tables: NDArray[np.int64], subsamples: int, top: int, seed: int) -> NDArray[np.float64]:
    """Shares of subsamples, as the engine computes them from its tables."""
    return frequency(subsample_scores(tables, subsamples, seed), top)


@given(st.integers(0, 33), st.integers(0, 20), SEEDS)
def test_halves_are_complementary_pairs(buckets: int, subsamples: int, seed: int) -> None:
    chosen = halves(buckets, subsamples, seed)
    assert chosen.shape == (subsamples, buckets)
    assert (chosen.sum(axis=1) == buckets // 2).all()
    for one, other in zip(chosen[::2], chosen[1::2], strict=False):
        assert not (one & other).any()
    np.testing.assert_array_equal(halves(buckets, subsamples, seed), chosen)
    # More subsamples go on from the same ones.
    np.testing.assert_array_equal(halves(buckets, subsamples + 3, seed)[:subsamples], chosen)


def test_halves_are_drawn_evenly() -> None:
    """Each bucket half of the time, each pair of buckets together as often as by chance; seeds differ."""
    buckets, pairs = 16, 20_000
    chosen = halves(buckets, 2 * pairs, 1)[::2].astype(np.float64)
    assert np.abs(chosen.mean(axis=0) - 0.5).max() < 4.5 * 0.5 / math.sqrt(pairs)
    together = (chosen.T @ chosen)[np.triu_indices(buckets, 1)] / pairs
    expected = 0.5 * (buckets / 2 - 1) / (buckets - 1)
    assert np.abs(together - expected).max() < 4.5 * math.sqrt(expected * (1 - expected) / pairs)
    first = [halves(64, 2, seed).tobytes() for seed in (*range(20), 2**64 - 2, 2**64 - 1)]
    assert len(set(first)) == 22


@given(TABLES, st.integers(0, 6), SEEDS)
def test_scores_are_those_of_summed_tables(tables: NDArray[np.int64], subsamples: int, seed: int) -> None:
    found = subsample_scores(tables, subsamples, seed)
    assert found.shape == (len(tables), subsamples)
    for s, inside in enumerate(halves(tables.shape[1], subsamples, seed)):
        summed = np.zeros((len(tables), *tables.shape[2:]), dtype=np.int64)
        for bucket in np.flatnonzero(inside):
            summed += tables[:, bucket]
        np.testing.assert_array_equal(found[:, s], score(summed).mi_corrected)


def test_scores_are_scikit_learns_less_the_bias() -> None:
    """Rows written out: plug-in information, and Miller and Madow's (cells - 1) / 2n of each of the entropies."""
    random = np.random.default_rng(2)
    tables = random.poisson(random.gamma(0.7, 6, (6, 10, 5, 3)))
    found = subsample_scores(tables, 8, 9)
    for s, inside in enumerate(halves(10, 8, 9)):
        for j in range(6):
            rows = [
                cell
                for bucket in np.flatnonzero(inside)
                for cell in np.ndindex(5, 3)
                for _ in range(tables[j, bucket][cell])
            ]
            x, y = [b for b, _ in rows], [c for _, c in rows]
            extra = (len(set(x)) - 1) + (len(set(y)) - 1) - (len(set(rows)) - 1)
            expected = max(float(mutual_info_score(x, y)) + extra / (2 * len(rows)), 0.0)
            assert found[j, s] == pytest.approx(expected, abs=1e-12)
    assert (found > 0.02).any()


@given(TABLES, SEEDS, st.integers(1, 200))
def test_a_features_scores_are_its_own(tables: NDArray[np.int64], seed: int, cells: int) -> None:
    """Whatever it is scored with, in whatever block."""
    together = subsample_scores(tables, 4, seed)
    for j in range(len(tables)):
        np.testing.assert_array_equal(subsample_scores(tables[j : j + 1], 4, seed)[0], together[j])
    np.testing.assert_array_equal(subsample_scores(tables[::-1], 4, seed), together[::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_CELLS", cells)
        np.testing.assert_array_equal(subsample_scores(tables, 4, seed), together)


def test_without_a_row_there_is_no_score() -> None:
    tables = np.zeros((2, 4, 3, 2), dtype=np.int64)
    tables[0, :, 1] = 5
    found = subsample_scores(tables, 4, 0)
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()
    assert stability(tables, 4, 2, 0).tolist() == [0.0, 0.0]


def test_frequencies_by_hand() -> None:
    nan = math.nan
    scores = np.array(
        [
            [0.9, 0.1, 0.3, 0.0],
            [0.5, 0.1, nan, 0.0],
            [0.5, 0.2, nan, 0.0],
            [nan, 0.1, 0.1, 0.0],
        ]
    )
    assert frequency(scores, 1).tolist() == [0.5, 0.0, 0.25, 0.0]
    assert frequency(scores, 2).tolist() == [0.75, 0.25, 0.25, 0.25]  # of equal ones the lower place
    assert frequency(scores, 9).tolist() == [0.75, 0.5, 0.5, 0.5]
    assert frequency(scores, 0).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert frequency(scores[:, :0], 2).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert frequency(scores[:0], 2).tolist() == []


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 8), st.integers(0, 6)),
        elements=st.one_of(st.sampled_from([0.0, 0.25, 0.5, math.nan]), st.floats(0, 5)),
    ),
    st.integers(0, 9),
)
def test_frequency_counts_those_that_few_are_better_than(scores: NDArray[np.float64], top: int) -> None:
    p, subsamples = scores.shape
    found = frequency(scores, top)
    for j in range(p):
        times = 0
        for s in range(subsamples):
            mine = scores[j, s]
            if mine > 0:
                ahead = sum(bool(scores[i, s] > mine or (scores[i, s] == mine and i < j)) for i in range(p) if i != j)
                times += ahead < top
        assert found[j] == (times / subsamples if subsamples else 0.0)


def planted(seed: int, p: int, informative: int, buckets: int = 32, rows: int = 20) -> NDArray[np.int64]:
    """int64[p, buckets, 3, 2]: the first features depend on the class, the others do not."""
    random = np.random.default_rng(seed)
    even = np.full((3, 2), 1 / 6)
    tilted = np.array([[3, 1], [1, 1], [1, 3]]) / 10
    laws = [tilted if j < informative else even for j in range(p)]
    return np.array([random.multinomial(rows, law.ravel(), buckets).reshape(buckets, 3, 2) for law in laws])


def test_what_is_planted_is_stable_and_noise_is_not() -> None:
    tables = planted(1, 60, 4)
    found = stability(tables, 50, 4, 11)
    assert found[:4].tolist() == [1.0] * 4
    assert found[4:].max() < 0.2
    np.testing.assert_array_equal(found, stability(tables, 50, 4, 11))
    np.testing.assert_array_equal(found, frequency(subsample_scores(tables, 50, 11), 4))
    noise = planted(2, 60, 0)
    assert (stability(noise, 50, 4, 1) != stability(noise, 50, 4, 2)).any()


def test_the_bound_is_the_theorems() -> None:
    # E V <= q^2 / ((2 pi - 1) p), the theorem's own form.
    assert expected_false(1_000, 30, 0.9) == pytest.approx(1.125)
    assert expected_false(200, 10, 0.6) == pytest.approx(2.5)
    assert expected_false(50, 5, 1.0) == pytest.approx(0.5)
    # At one half and below it says nothing: what is left is that shares add up to `top`.
    assert expected_false(1_000, 30, 0.5) == 60
    assert expected_false(1_000, 30, 0.25) == 120
    assert expected_false(100, 30, 0.25) == 100
    assert expected_false(100, 30, 0.0) == 100
    assert expected_false(100, 30, -1.0) == 100
    assert expected_false(10, 10, 0.501) == pytest.approx(10)


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_the_bound_falls_with_the_threshold(p: int, top: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= expected_false(p, top, high) <= expected_false(p, top, low) <= p


def test_noise_keeps_the_bound() -> None:
    """Over 40 tables of noise alone fewer features reach the threshold than the bound says."""
    p, top, threshold = 30, 5, 0.75
    reached = [(stability(planted(seed, p, 0, rows=8), 20, top, seed) >= threshold).sum() for seed in range(40)]
    assert 0 < np.mean(reached) <= expected_false(p, top, threshold)


def test_shares_add_up_to_no_more_than_the_top() -> None:
    for seed, top in itertools.product(range(3), (1, 5, 40)):
        assert stability(planted(seed, 20, 3, buckets=9), 10, top, seed).sum() <= top + 1e-9
