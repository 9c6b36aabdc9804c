"""Permutation p-values against exact tails, SciPy's own tests, and uniformity where nothing is to be found.

Seeds are fixed: a tolerance is in standard errors of what is drawn, and a test passes or fails always.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from tasks.screen.draws import TABULATED, hypergeometric, logarithms, word
from tasks.screen.permutation import PermutationP, adjust, permutation_p

NEVER = 1 << 62
"""More exceedances than there are permutations: no early stop."""


def test_words_are_splitmix64() -> None:
    stream = np.zeros(1, dtype=np.uint64)
    # The generator's published first words from 0.
    assert [int(word(stream)) for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def drawn_counts(good: int, bad: int, drawn: int, times: int) -> NDArray[np.int64]:
    stream = np.array([good * 31 + bad * 7 + drawn], dtype=np.uint64)
    factorials, _ = logarithms()
    return np.array([hypergeometric(good, bad, drawn, stream, factorials) for _ in range(times)], dtype=np.int64)


HALVES = [
    (good, bad, drawn)
    for total in (11, 60, 1_000, TABULATED - 1, TABULATED, 10**7, 10**8)
    for good in (1, 5, total // 16, total // 2)
    for drawn in (3, total // 10, total // 2, total - total // 3, total - 2)
    for bad in (total - good,)
    if good
]


@pytest.mark.parametrize(("good", "bad", "drawn"), [*HALVES, *[(bad, good, drawn) for good, bad, drawn in HALVES[::7]]])
def test_draws_are_hypergeometric(good: int, bad: int, drawn: int) -> None:
    """Chi-square over cells of at least 20 expected draws: both methods, both forms of the logarithms, all halves."""
    times = 4_000
    found = drawn_counts(good, bad, drawn, times)
    law: Any = stats.hypergeom(good + bad, good, drawn)
    lowest, highest = max(0, drawn - bad), min(good, drawn)
    assert found.min() >= lowest
    assert found.max() <= highest
    edges = np.unique(law.ppf(np.linspace(0, 1, 25)[1:-1]).astype(np.int64))
    expected = times * np.diff(law.cdf(edges), prepend=0.0, append=1.0)
    observed = np.bincount(np.searchsorted(edges, found, side="left"), minlength=len(expected))
    kept = expected >= 20
    assert observed[expected < 1e-9].sum() == 0
    pooled_observed = np.append(observed[kept], observed[~kept].sum())
    pooled_expected = np.append(expected[kept], expected[~kept].sum())
    known = pooled_expected > 0.5
    if known.sum() > 1:
        chi2 = ((pooled_observed - pooled_expected)[known] ** 2 / pooled_expected[known]).sum()
        assert stats.chi2.sf(chi2, known.sum() - 1) > 1e-5


@pytest.mark.parametrize("share", [2, 16, 1_000])
def test_draws_from_two_to_the_forty(share: int) -> None:
    """Where SciPy's own logarithms are too coarse: the normal limit, whose error is below 1e-5 here."""
    n = 1 << 40
    good, drawn = n // share, n // 3
    variance = drawn * (good / n) * (1 - good / n) * (n - drawn) / (n - 1)
    scaled = (drawn_counts(good, n - good, drawn, 20_000) - drawn * (good / n)) / np.sqrt(variance)
    assert stats.kstest(scaled, "norm").pvalue > 1e-4
    few = drawn_counts(12, n - 12, drawn, 20_000)  # a binomial count but for 1e-11
    few_of: Any = stats.binom(12, drawn / n)
    expected = 20_000 * few_of.pmf(np.arange(13))
    observed = np.bincount(few, minlength=13)
    kept = expected > 5
    assert stats.chi2.sf(((observed - expected) ** 2 / expected)[kept].sum(), kept.sum()) > 1e-4


def one(table: Any, permutations: int, seed: int = 0, key: int = 0, exceedances: int = NEVER) -> tuple[float, int]:
    tables = np.array([table], dtype=np.int64)
    found = permutation_p(tables, permutations, seed, np.array([key], dtype=np.uint64), exceedances)
    return float(found.p_value[0]), int(found.drawn[0])


def close(found: float, exact: float, permutations: int) -> bool:
    return abs(found - exact) <= 4.5 * np.sqrt(exact * (1 - exact) / permutations) + 1 / permutations


def g_statistic(table: NDArray[np.int64]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        return float(2 * np.nansum(table * np.log(table / expected)))


@pytest.mark.parametrize(
    "table",
    [
        [[3, 1], [1, 3]], [[10, 2], [4, 9]], [[30, 12], [25, 28]], [[200, 5], [180, 1]], [[4, 996], [15, 985]],
        [[40_000, 39_500], [39_300, 40_100]], [[2, 60_000], [14, 100_000]], [[1, 10**8], [6, 10**8]],
    ],
)  # fmt: skip
def test_two_by_two_is_the_exact_tail(table: list[list[int]]) -> None:
    """The hypergeometric probability of all tables with these margins that are as extreme in G."""
    (a, b), (c, d) = table
    row, column, n = a + b, a + c, a + b + c + d
    law: Any = stats.hypergeom(n, row, column)
    spread = int(12 * law.std()) + 40
    near = np.arange(max(0, row + column - n, int(law.mean()) - spread), min(row, column, int(law.mean()) + spread) + 1)
    g = np.array([g_statistic(np.array([[x, row - x], [column - x, n - row - column + x]])) for x in near])
    exact = law.pmf(near)[g >= g_statistic(np.array(table)) * (1 - 1e-7)].sum()
    assert close(one(table, 40_000)[0], exact, 40_000)


def test_balanced_two_by_two_is_fishers_exact_test() -> None:
    for cell in (16, 19, 22, 26):
        table = [[cell, 32 - cell], [32 - cell, cell]]
        exact: Any = stats.fisher_exact(table)
        assert close(one(table, 40_000)[0], float(exact.pvalue), 40_000)


def mutual_information(classes: int, bins: int, x: NDArray[np.int64]) -> Any:
    def of_many(y: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        y = np.moveaxis(y, axis, -1)
        code = x * classes + y.astype(np.int64)
        counts = np.stack([(code == k).sum(axis=-1) for k in range(bins * classes)], axis=-1)
        return (counts * np.log(np.maximum(counts, 1))).sum(axis=-1)

    return of_many


@pytest.mark.parametrize(("n", "bins", "classes", "noise"), [(60, 4, 3, 0.7), (900, 2, 3, 0.96)])
def test_agrees_with_scipys_permutation_test(n: int, bins: int, classes: int, noise: float) -> None:
    """Small tables are shuffled and larger ones drawn cell by cell; SciPy shuffles the rows themselves."""
    random = np.random.default_rng(n)
    x = random.integers(0, bins, n)
    y = np.where(random.random(n) < noise, random.integers(0, classes, n), x % classes)
    reference: Any = stats.permutation_test(
        (y,), mutual_information(classes, bins, x), permutation_type="pairings", alternative="greater",
        vectorized=True, n_resamples=4_000, batch=500, rng=np.random.default_rng(1),
    )  # fmt: skip
    table = np.zeros((bins, classes), dtype=np.int64)
    np.add.at(table, (x, y), 1)
    assert 0.01 < reference.pvalue < 0.9
    assert close(one(table, 40_000)[0], reference.pvalue, 3_600)


@pytest.mark.parametrize("n", [20_000, TABULATED * 2, 10**8, 1 << 40])
@pytest.mark.parametrize("shape", [(2, 2), (8, 3)])
def test_large_tables_have_chi_squares_p(n: int, shape: tuple[int, int]) -> None:
    """With large counts G is chi-square: the p-values of tables of independent margins, of which none is special."""
    random = np.random.default_rng(n + shape[0])
    rows, columns = random.dirichlet(np.full(shape[0], 20)), random.dirichlet(np.full(shape[1], 20))
    for _ in range(3):
        table = random.multinomial(n, np.outer(rows, columns).ravel()).reshape(shape)
        reference: Any = stats.chi2_contingency(
            table, lambda_="pearson" if n > 1e9 else "log-likelihood", correction=False
        )
        assert close(one(table, 4_000)[0], reference.pvalue, 3_000)


@pytest.mark.parametrize(("n", "shape"), [(120, (5, 3)), (2_000, (3, 2))])
def test_null_p_values_are_uniform(n: int, shape: tuple[int, int]) -> None:
    """P(p <= a) = a at values that the sequential p-value takes, within 4 standard errors over 3 000 null columns."""
    random = np.random.default_rng(n)
    x, y = random.integers(0, shape[0], n), random.integers(0, shape[1], n)
    tables = np.zeros((3_000, *shape), dtype=np.int64)
    for table in tables:
        np.add.at(table, (x, random.permutation(y)), 1)
    found = permutation_p(tables, 399, 5, np.arange(3_000, dtype=np.uint64), 20)
    assert found.drawn.min() >= 20
    assert found.drawn.mean() < 150
    for level in (4 / 400, 16 / 400, 20 / 200, 20 / 80, 20 / 40):
        # A hair more for ties, of which a table as large as these has few.
        assert abs((found.p_value <= level + 1e-12).mean() - level) < 4 * np.sqrt(level * (1 - level) / 3_000) + 0.002


def test_stops_at_the_exceedances() -> None:
    p, drawn = one([[50, 52], [49, 51]], 10_000, exceedances=10)
    assert p == 10 / drawn
    assert drawn < 100
    assert one([[50, 0], [0, 50]], 999, exceedances=10) == (1 / 1000, 999)


@pytest.mark.parametrize("total", [30, 200])
def test_tables_equal_but_for_their_order_are_as_extreme(total: int) -> None:
    """Every table with these margins has the same counts: floating point must not tell them apart."""
    table = np.zeros((total, 3), dtype=np.int64)
    table[np.arange(total), np.arange(total) * 2 % 3] = 1
    assert one(table, 500)[0] == 1.0


def test_without_information() -> None:
    tables = np.zeros((4, 3, 2), dtype=np.int64)
    tables[1, 1] = [5, 7]
    tables[2, :, 1] = [5, 7, 9]
    tables[3, 1, 0] = 1
    found = permutation_p(tables, 100, 0, np.zeros(4, dtype=np.uint64))
    np.testing.assert_array_equal(found.p_value, [np.nan, 1, 1, 1])
    assert not found.drawn.any()


def test_refuses_what_makes_no_test() -> None:
    table = np.ones((1, 2, 2), dtype=np.int64)
    with pytest.raises(ValueError, match="at least one"):
        permutation_p(table, 0, 0, np.zeros(1, dtype=np.uint64))
    with pytest.raises(ValueError, match="keys"):
        permutation_p(table, 10, 0, np.zeros(2, dtype=np.uint64))


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.int64,
        st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4)),
        elements=st.one_of(st.integers(0, 20), st.integers(0, 10**6)),
    ),
    st.integers(0, 2**64 - 1),
    st.randoms(use_true_random=False),
)
def test_a_columns_p_is_its_own(tables: NDArray[np.int64], seed: int, random: Any) -> None:
    """Whatever the block, its order, and the bins and classes of padding."""
    p = len(tables)
    keys = np.array([random.getrandbits(64) for _ in range(p)], dtype=np.uint64)
    together = permutation_p(tables, 60, seed, keys)
    order = np.array(random.sample(range(p), p))
    wide = np.zeros((p, tables.shape[1] + 3, tables.shape[2] + 2), dtype=np.int64)
    wide[:, 1 : 1 + tables.shape[1], 2:] = tables[order]
    for other in (permutation_p(wide, 60, seed, keys[order]), alone(tables[order], seed, keys[order])):
        np.testing.assert_array_equal(other.p_value, together.p_value[order])
        np.testing.assert_array_equal(other.drawn, together.drawn[order])


def alone(tables: NDArray[np.int64], seed: int, keys: NDArray[np.uint64]) -> PermutationP:
    each = [permutation_p(tables[i : i + 1], 60, seed, keys[i : i + 1]) for i in range(len(tables))]
    return PermutationP(np.concatenate([e.p_value for e in each]), np.concatenate([e.drawn for e in each]))


def test_seeds_and_keys_are_streams_of_their_own() -> None:
    table = [[30, 22, 25], [20, 28, 25]]
    assert one(table, 999, 1, 2) == one(table, 999, 1, 2)
    values = {one(table, 999, seed, key)[0] for seed, key in [(1, 2), (2, 1), (1, 3), (0, 0), (-1, 0), (0, 2**64 - 1)]}
    assert len(values) > 3


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.one_of(st.floats(0, 1), st.just(np.nan))))
def test_adjust_is_the_definition_without_the_missing(p: NDArray[np.float64]) -> None:
    tested = np.flatnonzero(~np.isnan(p))
    ordered = np.sort(p[tested])
    m = len(tested)
    for method, factor in (("bh", 1.0), ("by", sum(1 / k for k in range(1, m + 1)))):
        q = adjust(p, method)  # pyright: ignore[reportArgumentType]
        assert (np.isnan(q) == np.isnan(p)).all()
        for j in tested:
            # The least m·p/rank over all p-values that are not smaller.
            ratios = [v * m * factor / (i + 1) for i, v in enumerate(ordered) if v >= p[j]]
            assert q[j] == pytest.approx(min(1.0, *ratios), rel=1e-12)
