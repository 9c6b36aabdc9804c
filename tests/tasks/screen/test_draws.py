"""Random numbers of rows against uniformity; the generator's ends, which `test_permutation` does not draw.

Seeds are fixed: a test passes or fails always.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from tasks.screen.draws import TABULATED, hypergeometric, logarithms, sample_keys

N = 1 << 18
SEEDS = [0, 1, 2, 1 << 32, (1 << 64) - 1]
MASK = (1 << 64) - 1


def ids_of(n: int, first: int = 0, step: int = 1) -> NDArray[np.uint64]:
    return np.arange(n, dtype=np.uint64) * np.uint64(step) + np.uint64(first)


def chi_square(observed: NDArray[np.int64]) -> float:
    found: Any = stats.chisquare(observed)
    return float(found.pvalue)


def splitmix64(state: int) -> int:
    """The first word from a state, as published, in integers of any size."""
    z = state + 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


@given(st.integers(0, MASK), hnp.arrays(np.uint64, st.integers(0, 20)))
def test_keys_are_words_of_the_published_generator(seed: int, ids: NDArray[np.uint64]) -> None:
    """A word of the seed, added to the id, is mixed into the state of which the key is the first word."""

    def key(row: int) -> int:
        z = row + splitmix64(seed) & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return splitmix64(z ^ z >> 31)

    found = sample_keys(seed, ids)
    assert found.dtype == np.uint64
    assert found.tolist() == [key(row) for row in ids.tolist()]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("first", "step"), [(0, 1), (1 << 40, 1), (0, 1 << 32), (7, 16)])
def test_every_four_bits_are_uniform(seed: int, first: int, step: int) -> None:
    keys = sample_keys(seed, ids_of(N, first, step))
    p = [
        chi_square(np.bincount((keys >> np.uint64(s) & np.uint64(15)).astype(np.int64), minlength=16))
        for s in range(61)
    ]
    assert min(p) > 1e-6
    assert chi_square(np.bincount((keys & np.uint64(15)).astype(np.int64), minlength=16)) > 1e-3
    assert len(np.unique(keys)) == N  # each step of the mixing can be undone: no two rows have one key


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.97])
def test_as_many_are_below_a_threshold_as_should(seed: int, share: float) -> None:
    """In all and in each 64th of the rows: how a subsample of the rows is taken."""
    below = sample_keys(seed, ids_of(N)) < np.uint64(int(share * 2.0**64))
    assert stats.binomtest(int(below.sum()), N, share).pvalue > 1e-3
    parts = below.reshape(64, -1).sum(axis=1)
    size = N // 64
    statistic = ((parts - size * share) ** 2).sum() / (size * share * (1 - share))
    assert 1e-4 < stats.chi2.sf(statistic, 64) < 1 - 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_are_uniform_as_numbers(seed: int) -> None:
    assert stats.kstest(sample_keys(seed, ids_of(50_000)) / 2.0**64, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lag", [1, 2, 16, 1024])
def test_neighbouring_rows_are_uncorrelated(seed: int, lag: int) -> None:
    keys = sample_keys(seed, ids_of(N))
    u = keys / 2.0**64
    assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4.5 / math.sqrt(N)
    # Not only the numbers: each pair of low four bits is as frequent as any.
    low = (keys & np.uint64(15)).astype(np.int64)
    assert chi_square(np.bincount(low[:-lag] * 16 + low[lag:], minlength=256)) > 1e-4
    # Half of all the bits differ.
    flips = np.bitwise_count(keys[:-lag] ^ keys[lag:]).astype(np.int64)
    assert abs(flips.mean() - 32) < 4.5 * 4 / math.sqrt(N)


def test_seeds_give_streams_that_know_nothing_of_each_other() -> None:
    ids = ids_of(N)
    streams = [sample_keys(seed, ids) for seed in (*range(8), 1 << 63, MASK)]
    for a in range(len(streams)):
        for b in range(a):
            assert not (streams[a] == streams[b]).any()
            u, v = streams[a] / 2.0**64, streams[b] / 2.0**64
            assert abs(np.corrcoef(u, v)[0, 1]) < 4.5 / math.sqrt(N)
    # Nor is a stream another's, some rows further on.
    assert not np.isin(streams[0], streams[1]).any()


@given(st.integers(0, MASK), hnp.arrays(np.uint64, st.integers(0, 40)), st.randoms(use_true_random=False))
def test_a_rows_key_is_its_own(seed: int, ids: NDArray[np.uint64], random: Any) -> None:
    keys = sample_keys(seed, ids)
    order = np.array(random.sample(range(len(ids)), len(ids)), dtype=np.int64)
    np.testing.assert_array_equal(sample_keys(seed, ids[order]), keys[order])
    for i in range(len(ids)):
        assert sample_keys(seed, ids[i : i + 1])[0] == keys[i]
    np.testing.assert_array_equal(sample_keys(seed, np.repeat(ids, 2)[::2]), keys)  # a view with gaps


def drawn(good: int, bad: int, few: int, times: int, seed: int) -> NDArray[np.int64]:
    stream = np.array([seed], dtype=np.uint64)
    factorials, _ = logarithms()
    return np.array([hypergeometric(good, bad, few, stream, factorials) for _ in range(times)], dtype=np.int64)


@pytest.mark.parametrize(
    ("good", "bad", "few"),
    [
        (2, 3, 2), (3, 2, 3), (1, 1, 1), (4, 4, 4), (6, 3, 7), (10, 1, 5), (1, 30, 29), (9, 30, 12),
        (3, TABULATED, 40_000), (30, 9, 25), (9, 30, 25), (4, TABULATED, 120_000),
    ],
)  # fmt: skip
def test_every_value_of_a_small_draw_is_as_likely_as_it_should_be(good: int, bad: int, few: int) -> None:
    """Value by value, the unlikely ones together: no cells that could hide a swap of neighbours."""
    times = 20_000
    law: Any = stats.hypergeom(good + bad, good, few)
    found = Counter(drawn(good, bad, few, times, 5).tolist())
    values = range(max(0, few - bad), min(good, few) + 1)
    assert set(found) <= set(values)
    expected = {v: times * float(law.pmf(v)) for v in values}
    likely = [v for v in values if expected[v] >= 5]
    rest = times - sum(expected[v] for v in likely)
    cells = [(found[v], expected[v]) for v in likely]
    if rest > 1:
        cells.append((times - sum(found[v] for v in likely), rest))
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    assert stats.chi2.sf(statistic, max(len(cells) - 1, 1)) > 1e-4


@pytest.mark.parametrize("total", [1_000, 200_000, 10**9])
def test_wide_draws_have_their_mean_and_spread(total: int) -> None:
    """By ratio of uniforms, whose hat could cut a tail off that no chi-square of the middle shows."""
    times = 20_000
    law: Any = stats.hypergeom(total, total // 3, total // 2)
    found = drawn(total // 3, total - total // 3, total // 2, times, 77)
    scaled = (found - law.mean()) / law.std()
    assert abs(scaled.mean()) < 4.5 / math.sqrt(times)
    assert abs(scaled.var() - 1) < 4.5 * math.sqrt(2 / times)
    for beyond in (2.0, 3.0):
        low = float(law.cdf(math.floor(law.mean() - beyond * law.std())))
        high = float(law.sf(math.ceil(law.mean() + beyond * law.std()) - 1))
        for share, observed in (
            (low, (found <= math.floor(law.mean() - beyond * law.std())).sum()),
            (high, (found >= math.ceil(law.mean() + beyond * law.std())).sum()),
        ):
            assert stats.binomtest(int(observed), times, share).pvalue > 1e-4


@given(st.integers(0, 2_000), st.integers(0, 2_000), st.data())
def test_draws_stay_in_their_bounds(good: int, bad: int, data: st.DataObject) -> None:
    few = data.draw(st.integers(0, good + bad))
    found = drawn(good, bad, few, 8, data.draw(st.integers(0, MASK)))
    assert found.min() >= max(0, few - bad)
    assert found.max() <= min(good, few)


def test_there_is_nothing_to_draw() -> None:
    for good, bad, few, value in [(0, 0, 0, 0), (0, 9, 4, 0), (9, 0, 4, 4), (5, 8, 0, 0), (5, 8, 13, 5)]:
        assert set(drawn(good, bad, few, 5, 1).tolist()) == {value}
