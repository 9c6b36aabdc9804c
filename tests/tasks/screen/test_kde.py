"""Density estimates: sums over all values, closed forms of smoothed normals, and the same bits for any cut."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.neighbors import KernelDensity

from tasks.screen.kde import Grid, Kde, class_counts, grid, joint_counts, kde_classes, kde_joint

CELLS = 1024
SQUARE = 128
# scikit-learn's names, and the half width of the kernel of unit variance (a standard deviation for the normal one).
KERNELS: dict[Any, tuple[str, float]] = {
    "gaussian": ("gaussian", 1.0),
    "epanechnikov": ("epanechnikov", math.sqrt(5)),
    "triangular": ("linear", math.sqrt(6)),
    "box": ("tophat", math.sqrt(3)),
    "cosine": ("cosine", 1 / math.sqrt(1 - 8 / math.pi**2)),
    "biweight": ("", math.sqrt(7)),
    "triweight": ("", 3.0),
}
COLUMNS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(0, 40)),
    elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, np.nan, 3e38, -3e38, 1e-40, np.inf]),
)
BANDWIDTHS = st.sampled_from(["silverman", "scott", "isj", 0.3, 1e-300, 1e300])


def grid_of(x: NDArray[Any], cells: int) -> Grid:
    """The grid of float[p, n], as pass 1 would have it."""
    ends = np.zeros((5, len(x)))
    for j, row in enumerate(x.astype(np.float64)):
        known = row[np.isfinite(row)]
        if len(known):
            ends[:, j] = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
    low, q25, median, q75, high = ends
    return grid(low, q25, median, q75, high, cells)


def classes_of(x: NDArray[Any], labels: NDArray[np.int32], bandwidth: Any, kernel: Any = "gaussian") -> Kde:
    on = grid_of(x, CELLS)
    count = int(labels.max(initial=1)) + 1
    return kde_classes(class_counts(x.astype(np.float32), labels, on, count), on, bandwidth, kernel)


def joint_of(x: NDArray[Any], y: NDArray[np.float64], bandwidth: Any, kernel: Any = "gaussian") -> Kde:
    on, y_on = grid_of(x, SQUARE), grid_of(y[None], SQUARE)
    low, step = float(y_on.low[0]), float(y_on.step[0])
    return kde_joint(joint_counts(x.astype(np.float32), y, on, low, step, SQUARE), on, low, step, bandwidth, kernel)


def density(values: NDArray[np.float64], points: NDArray[np.float64], h: float, kernel: str) -> NDArray[np.float64]:
    """Kernel density of values at points: float64[points]."""
    name, extent = KERNELS[kernel]
    if name:
        tree: Any = KernelDensity(kernel=name, bandwidth=h * extent, rtol=0, atol=0).fit(values[:, None])
        return np.exp(tree.score_samples(points[:, None]))
    u = (points[:, None] - values) / (h * extent)
    power, norming = (2, 15 / 16) if kernel == "biweight" else (3, 35 / 32)
    return norming * np.clip(1 - u * u, 0, None).__pow__(power).mean(axis=1) / (h * extent)


def divergence(densities: list[NDArray[np.float64]], shares: list[float], step: float) -> float:
    whole = sum(p * f for p, f in zip(shares, densities, strict=True))
    total = 0.0
    for p, f in zip(shares, densities, strict=True):
        there = f > 0
        total += p * float((f[there] * np.log(f[there] / np.asarray(whole)[there])).sum()) * step
    return total


def summed(x: NDArray[np.float64], labels: NDArray[np.int32], h: NDArray[np.float64], kernel: str) -> float:
    """Information by direct sums over all values, at 4,001 points."""
    points = np.linspace(x.min() - 7 * h.max(), x.max() + 7 * h.max(), 4_001)
    own = [density(x[labels == c], points, float(h[c]), kernel) for c in range(len(h))]
    return divergence(own, [float((labels == c).mean()) for c in range(len(h))], float(points[1] - points[0]))


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_smooth_classes_are_the_direct_sums(kernel: str) -> None:
    even = norm.ppf((np.arange(4_000) + 0.5) / 4_000)
    x = np.concatenate([even[::2] - 0.5, 1.5 * even[::3] + 0.5]).astype(np.float32)
    labels = np.repeat([0, 1], [2_000, 1_334]).astype(np.int32)
    found = classes_of(x[None], labels, "scott", kernel)
    assert found.mi[0] == pytest.approx(
        summed(x.astype(np.float64), labels, found.bandwidth[0], kernel), abs=1e-6 if kernel == "gaussian" else 1e-5
    )


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("bandwidth", ["silverman", 0.15])
def test_random_classes_are_the_direct_sums(kernel: str, bandwidth: Any) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 500).astype(np.int32)
    x = np.where(random.random(500) < 0.3, random.exponential(2, 500), random.standard_normal(500) + labels)
    x = x.astype(np.float32)
    found = classes_of(x[None], labels, bandwidth, kernel)
    expected = summed(x.astype(np.float64), labels, found.bandwidth[0], kernel)
    tolerance = {"gaussian": 1e-5, "box": 2e-3}.get(kernel, 1e-4)
    assert found.mi[0] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("rows", [1_000, 2_000, 5_000])
def test_normal_samples_are_the_direct_sums(rows: int) -> None:
    random = np.random.default_rng(rows)
    labels = (random.random(rows) < 0.4).astype(np.int32)
    x = (random.standard_normal((3, rows)) + 0.8 * labels).astype(np.float32)
    found = classes_of(x, labels, "silverman", "gaussian")
    for j in range(3):
        expected = summed(x[j].astype(np.float64), labels, found.bandwidth[j], "gaussian")
        assert found.mi[j] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "box"])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_plane_is_the_direct_sum(kernel: str, rho: float) -> None:
    random = np.random.default_rng(4)
    y = random.standard_normal(400).astype(np.float32).astype(np.float64)
    x = (rho * y + math.sqrt(1 - rho**2) * random.standard_normal(400)).astype(np.float32)
    found = joint_of(x[None], y, "silverman", kernel)
    axes: list[NDArray[np.float64]] = []
    for values, h in ((x.astype(np.float64), found.bandwidth[0, 0]), (y, found.bandwidth[0, 1])):
        points = np.linspace(values.min() - 6 * h, values.max() + 6 * h, 600)
        each = np.stack([density(values[i : i + 1], points, float(h), kernel) for i in range(400)])
        axes.append(each * (points[1] - points[0]))
    mass = axes[0].T @ axes[1] / 400
    apart = np.outer(mass.sum(axis=1), mass.sum(axis=0))
    there = mass > 0
    expected = float((mass[there] * np.log(mass[there] / apart[there])).sum())
    assert found.mi[0] == pytest.approx(expected, abs=(3e-3 if kernel == "box" else 3e-4))


def normal_counts(shift: float, on: Grid) -> NDArray[np.int64]:
    """What linear binning makes of a normal variable: the mass under each hat is a second difference."""
    points = on.low[0] + on.step[0] * np.arange(-1, on.cells + 1) - shift
    integral = points * norm.cdf(points) + norm.pdf(points)
    return np.rint(np.diff(integral, 2) / on.step[0] * 256e9).astype(np.int64)


@pytest.mark.parametrize(("distance", "known"), [(1.0, 0.1114), (2.0, 0.3368)])
@pytest.mark.parametrize("bandwidth", [0.02, 0.3, 0.8])
def test_two_normal_classes_are_their_closed_form(distance: float, known: float, bandwidth: float) -> None:
    on = Grid(np.array([-9.0]), np.array([18 / 1023]), CELLS)
    counts = np.stack([normal_counts(s * distance / 2, on) for s in (-1, 1)])[None]
    found = kde_classes(counts, on, bandwidth, "gaussian")
    h = found.bandwidth[0, 0]
    assert h == pytest.approx(bandwidth * math.sqrt(1 + distance**2 / 4), rel=1e-3)
    wide = math.sqrt(1 + h * h)  # a normal density smoothed by a normal kernel

    def term(v: float) -> float:
        own = float(norm.pdf(v, distance / 2, wide))
        return own * math.log(2 * own / (own + float(norm.pdf(v, -distance / 2, wide))))

    assert found.mi[0] == pytest.approx(quad(term, -15, 15)[0], abs=1e-6)
    if bandwidth == 0.02:
        assert found.mi[0] == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("bandwidth", [0.15, 0.3])
def test_a_normal_pair_is_its_closed_form(rho: float, bandwidth: float) -> None:
    step = 12 / 127
    points = -6 + step * np.arange(SQUARE)
    u, v = np.meshgrid(points, points, indexing="ij")
    mass = np.exp(-(u * u - 2 * rho * u * v + v * v) / (2 * (1 - rho * rho)))
    counts = np.rint(mass / mass.sum() * 256e9).astype(np.int64)[None]
    on = Grid(np.array([-6.0]), np.array([step]), SQUARE)
    found = kde_joint(counts, on, -6.0, step, bandwidth, "gaussian")
    h = found.bandwidth[0]
    # Linear binning would have widened the density by step²/6, which the kernel makes up for.
    wide = 1 + h * h - step * step / 6
    assert found.mi[0] == pytest.approx(-0.5 * math.log(1 - rho**2 / float(wide.prod())), abs=1e-4)


def test_weights_on_the_grid_are_linear() -> None:
    on = Grid(np.array([0.0]), np.array([1.0]), 4)
    x = np.array([[0.0, 0.25, 1.5, 3.0, 7.0, np.inf, -np.inf, np.nan]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 1, 1, 0, 0], dtype=np.int32)
    assert class_counts(x, labels, on, 2).tolist() == [[[256 + 192 + 256, 64, 0, 0], [0, 128, 128, 3 * 256]]]
    y = np.array([0.0, 0.5, 3.0, 2.25, 9.0, -9.0, 1.0, 1.0])
    table = joint_counts(x, y, on, 0.0, 1.0, 4)[0]
    expected = np.zeros((4, 4))
    for a, b in zip(x[0], y, strict=True):
        if not np.isnan(a):
            hats = [np.clip(1 - np.abs(np.arange(4) - np.clip(v, 0, 3)), 0, None) for v in (float(a), b)]
            expected += 256 * np.outer(*hats)
    np.testing.assert_array_equal(table, expected)


def test_grids_of_values_without_end_or_spread() -> None:
    infinite, zero, tiny = np.array([np.inf]), np.zeros(1), np.full(1, 5e-324)
    assert np.isfinite(grid(-infinite, -infinite, zero, infinite, infinite, CELLS).step).all()
    assert grid(zero, zero, zero, tiny, tiny, CELLS).step[0] == 0
    assert grid(zero, zero, zero, zero, zero, CELLS).step[0] == 0


def test_far_values_count_at_the_ends_of_the_grid() -> None:
    x = np.append(np.linspace(-1, 1, 999), [1e38]).astype(np.float32)[None]
    on = grid_of(x, CELLS)
    assert on.step[0] * (CELLS - 1) < 20
    labels = (x[0] > 0).astype(np.int32)
    assert class_counts(x, labels, on, 2)[0, 1, -1] == 256
    assert classes_of(x, labels, "silverman").mi[0] > 0.4


@given(COLUMNS, BANDWIDTHS, st.sampled_from(list(KERNELS)), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_any_values_have_a_score(x: NDArray[np.float32], bandwidth: Any, kernel: str, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, x.shape[1]).astype(np.int32)
    y = np.random.default_rng(seed).standard_normal(x.shape[1])
    y_some = y if len(y) else np.zeros(1)
    on, y_on = grid_of(x, 64), grid_of(y_some[None], 64)
    low, step = float(y_on.low[0]), float(y_on.step[0])
    for found in (
        kde_classes(class_counts(x, labels, on, 3), on, bandwidth, kernel),  # pyright: ignore[reportArgumentType]
        kde_joint(joint_counts(x, y, on, low, step, 64), on, low, step, bandwidth, kernel),  # pyright: ignore[reportArgumentType]
    ):
        none = np.isnan(x).all(axis=1)
        np.testing.assert_array_equal(np.isnan(found.mi), none)
        np.testing.assert_array_equal(np.isnan(found.expected), none)
        for values in (found.mi, found.expected):
            assert (values[~none] >= 0).all()
            assert np.isfinite(values[~none]).all()
        assert (found.bandwidth >= 0).all()


def test_a_column_or_a_class_without_spread_has_no_information() -> None:
    x = np.array([[5, 5, 5, np.nan], [1, 2, 3, 4]], dtype=np.float32)
    assert classes_of(x[:1], np.array([0, 1, 0, 1], dtype=np.int32), "silverman").mi[0] == 0
    assert classes_of(x[1:], np.zeros(4, dtype=np.int32), "silverman").mi[0] == 0
    assert joint_of(x[:1], np.arange(4.0), "silverman").mi[0] == 0
    assert joint_of(x[1:], np.zeros(4), "silverman").mi[0] == 0


@given(COLUMNS, st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_counts_of_parts_add_up(x: NDArray[np.float32], cut: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    n = x.shape[1]
    labels, y = random.integers(0, 2, n).astype(np.int32), random.standard_normal(n)
    order = random.permutation(n)
    on = grid_of(x, 32)
    whole, plane = class_counts(x, labels, on, 2), joint_counts(x, y, on, -2.0, 0.125, 32)
    parts, planes = np.zeros_like(whole), np.zeros_like(plane)
    for rows in (order[cut:], order[:cut]):
        class_counts(x[:, rows], labels[rows], on, 2, into=parts)
        joint_counts(x[:, rows], y[rows], on, -2.0, 0.125, 32, into=planes)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(planes, plane)
    present = 256 * (~np.isnan(x)).sum(axis=1)
    np.testing.assert_array_equal(whole.sum(axis=(1, 2)), present)
    np.testing.assert_array_equal(plane.sum(axis=(1, 2)), present)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["silverman", "isj", 0.4]), st.integers(-30, 30))
@settings(deadline=None, max_examples=15)
def test_scores_do_not_depend_on_neighbours_scale_or_names(seed: int, bandwidth: Any, power: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 300).astype(np.int32)
    y = random.standard_normal(300)
    x = (random.standard_normal((4, 300)) * random.gamma(1, 1, (4, 1)) + 0.3 * labels + y).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    by_class, by_value = classes_of(x, labels, bandwidth), joint_of(x, y, bandwidth)
    for j in (3, 0):
        np.testing.assert_array_equal(classes_of(x[j : j + 1], labels, bandwidth).mi, by_class.mi[j : j + 1])
        np.testing.assert_array_equal(joint_of(x[j : j + 1], y, bandwidth).mi, by_value.mi[j : j + 1])
    scaled = x * np.float32(2.0**power)
    np.testing.assert_array_equal(classes_of(scaled, labels, bandwidth).mi, by_class.mi)
    np.testing.assert_array_equal(joint_of(scaled, y, bandwidth).mi, by_value.mi)
    np.testing.assert_allclose(classes_of(x, (labels + 1) % 3, bandwidth).mi, by_class.mi, rtol=0, atol=1e-12)
    rounded = np.rint(x * 1024) / 1024  # so that a shift is exact
    moved = classes_of(rounded + np.float32(512), labels, bandwidth)
    np.testing.assert_allclose(moved.mi, classes_of(rounded, labels, bandwidth).mi, rtol=0, atol=2e-4)


@pytest.mark.parametrize("rows", [500, 5_000])
def test_what_is_expected_by_chance_is_what_comes_by_chance(rows: int) -> None:
    random = np.random.default_rng(rows)
    count = 100_000 // rows
    for draw in (random.standard_normal, random.random, random.standard_exponential):
        x = draw((count, rows)).astype(np.float32)
        labels = (random.random(rows) < 0.3).astype(np.int32)
        for bandwidth in ("silverman", 0.1):
            found = classes_of(x, labels, bandwidth)
            assert found.mi.mean() == pytest.approx(found.expected.mean(), rel=0.25)
        found = joint_of(x[:40], draw(rows), "silverman")
        assert found.mi.mean() == pytest.approx(found.expected.mean(), rel=0.25)
