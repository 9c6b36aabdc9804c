"""Inverted lists against an exact search and faiss, at a size at which they are used."""

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.rebalance import approximate as module
from tasks.rebalance.approximate import approximate
from tasks.rebalance.search import neighbors

ROWS, K = 4_000, 5


@pytest.fixture(autouse=True)
def _at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 100)
    monkeypatch.setattr(module, "MOST", 1.0)


@pytest.fixture(scope="module")
def blobs() -> NDArray[np.float64]:
    random = np.random.default_rng(0)
    return 1.5 * random.standard_normal((40, 12))[random.integers(0, 40, ROWS)] + random.standard_normal((ROWS, 12))


def found(near: NDArray[np.int64], true: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each row's true neighbours that was found."""
    return np.array([len(set(a) & set(b)) / len(b) for a, b in zip(near.tolist(), true.tolist(), strict=True)])


@pytest.mark.parametrize("recall", [0.7, 0.9, 0.99])
def test_measured_recall_is_that_of_other_rows(blobs: NDArray[np.float64], recall: float) -> None:
    near, measured = approximate(blobs, K, recall, 3)
    share = found(near, neighbors(blobs, K))
    fresh = share[np.random.default_rng(99).choice(ROWS, 1000, replace=False)]
    error = 4 * share.std() * np.sqrt(2 / 1000)
    assert abs(fresh.mean() - measured) <= error
    assert measured >= recall - error
    assert share.mean() < 1  # else nothing was left out, and nothing tested


def test_rows_found_are_sorted_and_others(blobs: NDArray[np.float64]) -> None:
    near, _ = approximate(blobs, K, 0.9, 3)
    distance = ((blobs[near] - blobs[:, None]) ** 2).sum(axis=2)
    assert (np.diff(distance, axis=1) >= -1e-12 * distance[:, 1:]).all()
    assert (near != np.arange(ROWS)[:, None]).all()
    assert all(len(set(line)) == K for line in near.tolist())
    index = faiss.IndexFlatL2(12)
    index.add(blobs.astype(np.float32))
    theirs = index.search(blobs.astype(np.float32), K + 1)[1][:, 1:]
    assert found(near, theirs).mean() >= 0.88


def test_same_rows_for_a_seed_whatever_the_threads(blobs: NDArray[np.float64]) -> None:
    with threadpool_limits(1):
        alone = approximate(blobs, K, 0.8, 5)
    with threadpool_limits(3):
        again = approximate(blobs, K, 0.8, 5)
    np.testing.assert_array_equal(again[0], alone[0])
    assert again[1] == alone[1]
    assert (approximate(blobs, K, 0.8, 6)[0] != alone[0]).any()


def test_equal_rows_come_by_number() -> None:
    near, measured = approximate(np.repeat(np.eye(6) * 9, 100, axis=0), K, 0.9, 0)
    np.testing.assert_array_equal(near[:2], [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(near[100], [101, 102, 103, 104, 105])
    assert measured == 1


def test_cells_with_too_few_rows_are_made_up_for(monkeypatch: pytest.MonkeyPatch, blobs: NDArray[np.float64]) -> None:
    monkeypatch.setattr(module, "_cells_needed", lambda *_: 1)  # pyright: ignore[reportUnknownLambdaType]
    near, measured = approximate(blobs, 40, 0.9, 0)
    assert near.min() >= 0
    assert measured < 1
    small = np.concatenate([blobs, 1e3 + np.eye(12)[:3]])  # a cell of three
    np.testing.assert_array_equal(approximate(small, 40, 0.9, 0)[0][-3:], neighbors(small, 40)[-3:])


def test_all_rows_are_searched_where_cells_gain_nothing(
    monkeypatch: pytest.MonkeyPatch, blobs: NDArray[np.float64]
) -> None:
    monkeypatch.setattr(module, "MOST", 0.12)
    noise = np.random.default_rng(1).standard_normal((ROWS, 30))
    near, measured = approximate(noise, K, 0.99, 0)
    np.testing.assert_array_equal(near, neighbors(noise, K))
    assert measured == 1
    assert approximate(blobs, K, 1.0, 0)[1] == 1
    monkeypatch.setattr(module, "SMALL", ROWS)
    near, measured = approximate(blobs, K, 0.5, 0)
    np.testing.assert_array_equal(near, neighbors(blobs, K))
    assert measured == 1
