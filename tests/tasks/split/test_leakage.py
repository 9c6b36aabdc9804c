"""What splits share, against a count of every pair."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.split.duplicates import Kind, sizes, together
from tasks.split.leakage import BETWEEN, exposure
from tasks.split.near import Pairs


def kind_of(values: list[int | None], block: int) -> Kind:
    """Samples at places on a line, near by how far they are apart."""
    n = len(values)
    first = np.array([-1 if v is None else values.index(v) for v in values], dtype=np.int32)

    def pairs(limit: int) -> Iterator[Pairs]:
        found = [
            (i, j, abs(a - b))
            for i, a in enumerate(values)
            for j, b in enumerate(values)
            if a is not None and b is not None and first[i] == i < j == first[j] and abs(a - b) <= limit
        ]
        for start in range(0, len(found), block):
            a, b, distance = np.array(found[start : start + block], dtype=np.int32).T
            yield Pairs(b.copy(), a.copy(), distance.copy())

    assert n == len(first)
    return Kind("line", first, pairs)


VALUES = st.lists(st.tuples(st.none() | st.integers(0, 60), st.sampled_from([-1, 0, 0, 1, 2])), min_size=1, max_size=40)


@given(VALUES, st.integers(1, 20), st.integers(0, 9))
def test_every_pair_and_row_is_counted_once(samples: list[tuple[int | None, int]], block: int, own: int) -> None:
    values, split = [v for v, _ in samples], np.array([s for _, s in samples], dtype=np.int8)
    limits = [0, 2, 5]
    found = exposure(kind_of(values, block), split, limits, own)
    near = [
        (i, j, abs(a - b))
        for i, a in enumerate(values)
        for j, b in enumerate(values)
        if a is not None and b is not None and 0 <= split[i] < split[j]
    ]
    for k, (earlier, later) in enumerate(BETWEEN):
        for m, limit in enumerate(limits):
            between = [(i, j) for i, j, d in near if (split[i], split[j]) == (earlier, later) and d <= limit]
            assert found.pairs[m, k] == len(between)
            assert found.rows[m, k] == len({j for _, j in between})
    assert set(np.flatnonzero(found.leaks).tolist()) == {j for _, j, d in near if d <= own}


def test_clusters_chain_and_kinds_join() -> None:
    line = kind_of([0, 10, None, 2, 4, 10, 50], 2).clusters(2)
    assert line.tolist() == [0, 1, -1, 0, 0, 1, 6]
    other = np.array([0, 1, 1, 3, 4, 5, -1], dtype=np.int32)
    assert together([line, other], 7).tolist() == [0, 1, 1, 0, 0, 1, 6]
    assert together([], 3).tolist() == [0, 1, 2]
    assert sizes(line) == {"clusters": 2, "samples": 5, "largest": 3}


@pytest.mark.parametrize("limit", [0, 5])
def test_no_values_no_clusters(limit: int) -> None:
    kind = kind_of([None, None], 1)
    assert kind.clusters(limit).tolist() == [-1, -1]
    assert sizes(kind.clusters(limit)) == {"clusters": 0, "samples": 0, "largest": 0}
    assert not exposure(kind, np.array([0, 2], dtype=np.int8), [limit], limit).leaks.any()
