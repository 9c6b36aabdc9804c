"""SMOTE against imbalanced-learn, and the promises of its draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE

from tasks.rebalance.smote import draws, interpolate, neighbors, sampling_targets


def test_rows_equal_imbalanced_learns_given_its_draws() -> None:
    rng = np.random.default_rng(0)
    minority = rng.normal(size=(40, 7)).astype(np.float64)
    majority = rng.normal(size=(100, 7)) + 5
    x, y = np.concatenate([majority, minority]), np.array([0] * 100 + [1] * 40)
    resampled, _ = SMOTE(k_neighbors=5, random_state=11).fit_resample(x, y)
    # imbalanced-learn draws, from this state: places in the neighbour table, then gaps.
    state = np.random.RandomState(11)
    places = state.randint(low=0, high=40 * 5, size=60)
    gaps = state.uniform(size=(60, 1))[:, 0]
    near = neighbors(minority, 5)
    parent, slot = np.divmod(places, 5)
    ours = interpolate(minority.astype(np.float32)[parent], minority.astype(np.float32)[near[parent, slot]], gaps)
    np.testing.assert_allclose(ours, resampled[140:], rtol=1e-5, atol=1e-6)


def test_duplicates_may_be_neighbours_but_never_oneself() -> None:
    x = np.concatenate([np.zeros((8, 2)), np.ones((3, 2))])
    near = neighbors(x, 3)
    assert near.shape == (11, 3)
    assert not (near == np.arange(11)[:, None]).any()
    assert (near[:8] < 8).all()


@given(st.integers(0, 2**62), st.text(max_size=8), st.integers(1, 500), st.integers(1, 9), st.data())
def test_draws_do_not_depend_on_chunks(seed: int, label: str, rows: int, k: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 200))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=3))), n]
    whole = draws(seed, label, 0, n, rows, k)
    parts = [draws(seed, label, a, b, rows, k) for a, b in zip(cuts, cuts[1:], strict=False)]
    for i, column in enumerate(whole):
        assert np.array_equal(np.concatenate([part[i] for part in parts]), column)
    parent, slot, gap = whole
    assert ((parent >= 0) & (parent < rows)).all()
    assert ((slot >= 0) & (slot < k)).all()
    assert ((gap >= 0) & (gap < 1)).all()


def test_draws_are_uniform_and_differ_between_classes() -> None:
    parent, slot, gap = draws(1, "a", 0, 60_000, 10, 3)
    assert np.bincount(parent, minlength=10).min() > 5_600
    assert np.bincount(slot, minlength=3).min() > 19_300
    assert gap.mean() == pytest.approx(0.5, abs=0.01)
    assert not np.array_equal(gap, draws(1, "b", 0, 60_000, 10, 3)[2])


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 10_000), min_size=1, max_size=5), st.floats(0.01, 1))
def test_exactly_the_number_asked_for(counts: dict[str, int], target: float) -> None:
    added = sampling_targets(counts, target)
    for label, count in counts.items():
        assert count + added[label] == max(count, round(target * max(counts.values())))


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), st.floats(0, 0.999))
def test_synthetic_values_lie_between_their_parents(a: float, b: float, gap: float) -> None:
    value = interpolate(np.array([[a]], np.float32), np.array([[b]], np.float32), np.array([gap]))[0, 0]
    assert min(a, b) <= value <= max(a, b)
