"""Moments of shards are the moments of the whole; principal components have settled signs."""

import statistics
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.binarize.embedding import Embedding, principal_components
from tasks.moments import Moments, moments


def matrix(rows: int = 1000, columns: int = 5, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((columns, columns))
    x = random.standard_normal((rows, columns)) @ mixing + 3
    x[: rows // 2] += 2  # shards differ, so that a merge that forgets their means is seen
    return x.astype(np.float32)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 16])
def test_merged_shards_are_numpys_covariance(parts: int) -> None:
    x = matrix()
    merged = Moments.merge([moments(part) for part in np.array_split(x, parts)])
    mean, scale = merged.scaler()
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale, wide.std(axis=0), rtol=1e-12)
    correlation = merged.correlation()
    np.testing.assert_allclose(correlation, np.corrcoef(wide.T), atol=1e-12)
    assert np.array_equal(correlation, correlation.T)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(width=32)),
    st.lists(st.integers(0, 30), max_size=4),
    st.randoms(use_true_random=False),
)
def test_mean_and_deviation_are_exact_however_rows_are_cut(
    x: NDArray[np.float32], cuts: list[int], mix: Random
) -> None:
    order = list(range(len(x)))
    mix.shuffle(order)
    parts = [moments(part) for part in np.split(x[order], sorted(cuts))]
    mean, scale = Moments.merge(parts).scaler()
    for c in range(2):
        values = [Fraction(float(v)) for v in x[:, c] if np.isfinite(v)]
        if values:
            middle = sum(values) / len(values)
            assert mean[c] == float(middle)
            variance = sum((v - middle) ** 2 for v in values) / len(values)
            assert scale[c] == (pytest.approx(statistics.pstdev(values), rel=1e-14) if variance else 1)
    whole = Moments.merge(parts).exact.whole
    assert whole.tolist() == [all(float(v).is_integer() for v in column if np.isfinite(v)) for column in x.T]


def test_the_tree_is_fixed() -> None:
    parts = [moments(part) for part in np.array_split(matrix(), 7)]
    assert Moments.merge(parts).products.tobytes() == Moments.merge(list(parts)).products.tobytes()


def test_state_survives_arrow() -> None:
    found = moments(matrix())
    back = Moments.from_table(found.to_table())
    assert back.products.tobytes() == found.products.tobytes()
    assert back.mean.tobytes() == found.mean.tobytes()


def test_missing_infinite_and_constant_columns_leave_the_others_alone() -> None:
    x = matrix()
    odd = x.copy()
    odd[:, 2] = np.nan
    odd[:, 3] = 0.1
    odd[::3, 4] = np.inf
    found, plain = moments(odd), moments(x)
    mean, scale = found.scaler()
    assert np.array_equal(mean[:2], plain.scaler()[0][:2])
    assert np.array_equal(scale[:2], plain.scaler()[1][:2])
    assert scale[[2, 3]].tolist() == [1, 1]
    assert np.isfinite(found.correlation()).all()


def test_merged_shards_with_missing_values_are_the_whole() -> None:
    x = matrix()
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    whole, merged = moments(x), Moments.merge([moments(x[:500]), moments(x[500:])])
    np.testing.assert_allclose(merged.correlation(), whole.correlation(), atol=1e-9)


@pytest.mark.parametrize("dimensions", [1, 3, 9])
def test_principal_components_are_scikit_learns_with_settled_signs(dimensions: int) -> None:
    from sklearn.decomposition import PCA

    x = matrix(columns=9).astype(np.float64)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    components, variance = principal_components(np.cov(standard.T, bias=True), dimensions)
    peer = PCA(dimensions, svd_solver="full").fit(standard)
    np.testing.assert_allclose(
        abs(components.T @ np.transpose(np.asarray(peer.components_))), np.eye(dimensions), atol=1e-6
    )
    np.testing.assert_allclose(variance, np.asarray(peer.explained_variance_) * (len(x) - 1) / len(x), rtol=1e-9)
    assert (components[abs(components).argmax(axis=0), np.arange(dimensions)] > 0).all()


def test_a_missing_value_counts_as_the_training_mean() -> None:
    x = matrix()
    mean, scale = moments(x).scaler()
    embedding = Embedding(mean, scale, np.eye(5))
    odd = x[:2].copy()
    odd[0, 1], odd[1, 3] = np.nan, np.inf
    found = embedding.transform(odd)
    assert found[0, 1] == found[1, 3] == 0
    np.testing.assert_allclose(found[0, 0], (x[0, 0] - mean[0]) / scale[0], rtol=1e-6)
