"""Nearest-neighbour information against scikit-learn's without its noise, closed forms, and brute force on ties."""

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import digamma
from scipy.stats import norm
from sklearn.preprocessing import scale

from tasks.screen.knn import ksg, ross

plain: Any = importlib.import_module("sklearn.feature_selection._mutual_info")
Array = NDArray[Any]

HOSTILE = st.floats(width=32, allow_nan=True, allow_infinity=True)


def drawn(name: str, rows: int, random: np.random.Generator) -> Array:
    kinds = {
        "normal": lambda: random.standard_normal(rows),
        "skewed": lambda: random.lognormal(0, 2, rows),
        "far": lambda: random.standard_cauchy(rows),
        "two blobs": lambda: np.where(random.random(rows) < 0.5, 1e4, 0) + random.standard_normal(rows),
        "tiny": lambda: random.standard_normal(rows) * 1e-38,
        "huge": lambda: random.uniform(-3e36, 3e36, rows),
        "counts": lambda: random.poisson(3, rows).astype(float),
        "half zero": lambda: random.standard_normal(rows) * (random.random(rows) < 0.5),
    }
    return kinds[name]().astype(np.float32)


SMOOTH = ["normal", "skewed", "far", "tiny", "huge"]
TIED = ["counts", "half zero", "two blobs"]


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("name", [*SMOOTH, *TIED])
def test_classes_are_scikit_learns(name: str, k: int) -> None:
    random = np.random.default_rng(k)
    for classes, rows in ((2, 2000), (5, 300), (40, 150)):
        labels = (random.random(rows) ** 2 * classes).astype(np.int32)
        x = drawn(name, rows, random) * (1 + labels).astype(np.float32)
        assert ross(x[None], labels, classes, k)[0] == pytest.approx(slowly_by_class(x, labels, k), abs=1e-9)
        # scikit-learn compares squares: of whole numbers below 2^24 they are exact, and so are its counts.
        x = np.rint(x / np.abs(x).max() * np.float32(2**23)).astype(np.float32)
        expected = plain._compute_mi_cd(x.astype(np.float64), labels, k)
        assert ross(x[None], labels, classes, k)[0] == pytest.approx(expected, abs=1e-9)


def slowly_by_class(x: Array, labels: Array, k: int) -> float:
    """Ross's estimate from all distances."""
    sizes = np.bincount(labels)
    kept = sizes[labels] > 1
    x, labels = x[kept].astype(np.float64), labels[kept]
    distance = np.abs(x[:, None] - x)
    within = np.sort(np.where(labels[:, None] == labels, distance, np.inf), axis=1)
    nearest = np.minimum(k, sizes[labels] - 1)
    limit = np.nextafter(within[np.arange(len(x)), nearest], 0)[:, None]  # place 0 is the row itself
    near = (distance <= limit).sum(axis=1)
    terms = digamma(nearest) - digamma(sizes[labels]) - digamma(near)
    return max(0.0, float(digamma(len(x)) + terms.mean()))


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_quantity_is_scikit_learns(name: str, k: int) -> None:
    random = np.random.default_rng(k)
    for rows in (50, 2000):
        x = drawn(name, rows, random).astype(np.float64)
        y = x / np.abs(x).max() + 0.3 * random.standard_normal(rows)
        expected = plain._compute_mi_cc(scale(x, with_mean=False), scale(y, with_mean=False), k)
        assert ksg(x.astype(np.float32)[None], y, k)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("name", TIED)
def test_equal_distances_of_both_axes_are_scikit_learns(name: str, k: int) -> None:
    # Dividing by the standard deviation rounds equal distances apart; of equal deviations none needs dividing.
    random = np.random.default_rng(k)
    x = drawn(name, 800, random)
    y = np.where(random.random(800) < 0.5, x, x[::-1]).astype(np.float64)
    x, y = np.concatenate([x, y.astype(np.float32)]), np.concatenate([y, x.astype(np.float64)])
    expected = plain._compute_mi_cc(x.astype(np.float64), y, k)
    assert ksg(x[None], y, k)[0] == pytest.approx(expected, abs=1e-9)


def slowly(x: Array, y: Array, k: int) -> float:
    """Kraskov's first estimate from all distances."""
    dx = np.abs(x[:, None] - x) / x.std()
    dy = np.abs(y[:, None] - y) / y.std()
    both = np.maximum(dx, dy)
    np.fill_diagonal(both, np.inf)
    k = min(k, len(x) - 1)
    limit = np.nextafter(np.sort(both, axis=1)[:, k - 1], 0)[:, None]
    near = digamma((dx <= limit).sum(axis=1)) + digamma((dy <= limit).sum(axis=1))
    return max(0.0, float(digamma(len(x))) + float(digamma(k)) - float(near.mean()))


@given(
    hnp.arrays(np.int8, st.integers(3, 60), elements=st.integers(-4, 4)),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_ties_are_as_by_brute_force(values: Array, k: int, seed: int) -> None:
    x = values.astype(np.float32)
    y = np.random.default_rng(seed).permutation(values).astype(np.float64)
    if np.ptp(x) == 0:
        assert ksg(x[None], y, k)[0] == 0
    else:
        assert ksg(x[None], y, k)[0] == pytest.approx(slowly(x.astype(np.float64), y, k), abs=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, -0.99])
def test_a_bivariate_normal(rho: float) -> None:
    random = np.random.default_rng(5)
    y = random.standard_normal(20_000)
    x = rho * y + np.sqrt(1 - rho**2) * random.standard_normal(20_000)
    found = ksg(x.astype(np.float32)[None], y)[0]
    assert found == pytest.approx(-0.5 * np.log1p(-(rho**2)), abs=0.02 if abs(rho) < 0.95 else 0.04)


@pytest.mark.parametrize("distance", [1.0, 2.0])
def test_two_normals(distance: float) -> None:
    def integrand(t: float) -> float:
        f, g = float(norm.pdf(t)), float(norm.pdf(t - distance))
        return 0.5 * (f * np.log(2 * f / (f + g)) + g * np.log(2 * g / (f + g)))

    random = np.random.default_rng(6)
    labels = random.integers(0, 2, 20_000).astype(np.int32)
    x = (random.standard_normal(20_000) + distance * labels).astype(np.float32)
    assert ross(x[None], labels, 2)[0] == pytest.approx(quad(integrand, -8, 10)[0], abs=0.02)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(0, 30)), elements=HOSTILE), st.data())
@settings(deadline=None)
def test_no_values_fail_and_none_depends_on_order_or_neighbours(x: Array, data: st.DataObject) -> None:
    rows = x.shape[1]
    y = data.draw(hnp.arrays(np.float32, rows, elements=st.floats(-(2.0**99), 2.0**99, width=32))).astype(np.float64)
    labels = data.draw(hnp.arrays(np.int32, rows, elements=st.integers(0, 2)))
    order = np.array(data.draw(st.permutations(range(rows))), dtype=np.int64)
    of_classes, of_quantity = ross(x, labels, 3), ksg(x, y)
    for found in (of_classes, of_quantity):
        assert ((found >= 0) | np.isnan(found)).all()
    for j in range(len(x)):
        there = np.isfinite(x[j])
        alone = ross(x[j : j + 1][:, there], labels[there], 3), ksg(x[j : j + 1][:, there], y[there])
        np.testing.assert_array_equal([of_classes[j], of_quantity[j]], np.concatenate(alone))
        constant = there.any() and np.ptp(x[j][there]) == 0
        assert not constant or not of_quantity[j] > 0
    np.testing.assert_array_equal(ross(x[:, order], labels[order], 3), of_classes)
    np.testing.assert_array_equal(ksg(x[:, order], y[order]), of_quantity)


def test_nothing_to_compare_has_no_value() -> None:
    x = np.array([[1, 2, 3], [1, np.nan, np.nan], [np.nan] * 3], dtype=np.float32)
    assert np.isnan(ross(x, np.arange(3, dtype=np.int32), 3)).all()  # every class of one row
    assert np.isnan(ksg(x, np.arange(3.0))).tolist() == [False, True, True]
