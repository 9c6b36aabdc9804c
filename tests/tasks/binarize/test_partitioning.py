"""Cells: even sizes on uneven data, borders as wide as asked for, and a curve that counts what it says."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from schemas.errors import DatasetError
from tasks.binarize.partitioning import partition, probes
from tasks.codes.cells import MOST_CELLS, cells_from_table
from tasks.codes.rescore import exact_top_k


def uneven(rows: int = 4000, dimensions: int = 12) -> NDArray[np.float32]:
    """Half of the rows about one centre, the others about nineteen."""
    random = np.random.default_rng(0)
    centres = 2 * random.standard_normal((20, dimensions))
    own = np.where(random.random(rows) < 0.5, 0, random.integers(1, 20, rows))
    return (centres[own] + 0.5 * random.standard_normal((rows, dimensions))).astype(np.float32)


def test_sizes_are_even_where_those_of_k_means_are_not() -> None:
    x = uneven()
    cells = partition(x, 32, 0.5)
    theirs = np.bincount(KMeans(32, random_state=0).fit_predict(x), minlength=32)
    assert cells.rows.sum() == 4000
    assert cells.rows.max() < 1.5 * 4000 / 32 < theirs.max()
    own, _, _ = cells.members(x)
    # Fits add up by BLAS, members row by row: but for roundings they agree.
    assert np.abs(np.bincount(own, minlength=32) - cells.rows).max() <= 2


@pytest.mark.parametrize("copies", [0.0, 0.3, 0.8, 2.0])
def test_rows_have_as_many_copies_as_asked_for(copies: float) -> None:
    x = uneven()
    cells = partition(x, 32, copies)
    own, rows, others = cells.members(x)
    assert len(rows) / len(x) == pytest.approx(copies, abs=0.01)
    assert (own[rows] != others).all()
    assert np.bincount(rows, minlength=1).max(initial=0) < MOST_CELLS
    # A row alone is in the same cells.
    for row in range(0, 4000, 400):
        alone = cells.members(x[row : row + 1])
        assert alone[0] == own[row]
        assert alone[2].tolist() == others[rows == row].tolist()


def test_the_curve_is_that_of_a_direct_count() -> None:
    x = uneven(3000)
    base, queries = x[:2900], x[2900:]
    cells = partition(base, 16, 0.6)
    exact, _ = exact_top_k(queries, base, 7)
    own, rows, others = cells.members(base)
    held: list[set[int]] = [{int(c)} for c in own]
    for row, cell in zip(rows, others, strict=True):
        held[row].add(int(cell))
    near = cells.nearest(queries, 16)
    curve: list[dict[str, Any]] = probes(cells, queries, base, exact)
    assert [line["probes"] for line in curve] == [1, 2, 3, 4, 6, 8, 12, 16]
    for line in curve:
        sets = [set(n[: int(line["probes"])].tolist()) for n in near]
        found = [bool(held[e] & s) for s, es in zip(sets, exact, strict=True) for e in es]
        assert line["recall"] == pytest.approx(np.mean(found))
        sizes = [sum(len(h & s) for h in held) for s in sets[:10]]
        assert line["read"] == pytest.approx(np.mean(sizes) / len(base), rel=0.3)
    assert curve[-1]["recall"] == 1


def test_few_rows_equal_rows_and_one_cell() -> None:
    assert len(partition(uneven(40), 100, 1.0).centroids) == 2
    one = partition(uneven(5), 3, 1.0)
    assert (len(one.centroids), one.border) == (1, 0.0)
    same = partition(np.ones((200, 3), np.float32), 4, 0.5)
    assert same.rows.sum() == 200
    assert len(same.members(np.ones((3, 3), np.float32))[0]) == 3
    empty = one.members(np.empty((0, 12), np.float32))
    assert [len(part) for part in empty] == [0, 0, 0]


def test_cells_survive_their_table_and_damage_is_named() -> None:
    cells = partition(uneven(), 8, 0.5)
    table = cells.table()
    again = cells_from_table(table)
    assert np.array_equal(again.centroids, cells.centroids)
    assert np.array_equal(again.offsets, cells.offsets)
    assert again.border == cells.border
    for damaged in (table.slice(1), table.slice(0, 0), table.drop(["offset"])):
        with pytest.raises(DatasetError, match="not fitted cells"):
            cells_from_table(damaged)
