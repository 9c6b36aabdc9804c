"""int8 vectors, exact neighbours, and recall."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codes import rescore
from tasks.codes.rescore import exact_top_k, quantise, recall, rescored


@given(st.integers(0, 20), st.integers(1, 60), st.integers(0, 9))
def test_int8_lies_within_half_a_scale(n: int, d: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal((n, d)) * 10.0 ** random.integers(-6, 6, (n, 1))).astype(np.float32)
    if n:
        x[0] = 0
    small, scales = quantise(x)
    assert small.dtype == np.int8
    assert (abs(small.astype(np.float64) * scales[:, None] - x) <= scales[:, None] * 0.50001).all()
    assert ((abs(small).max(axis=1, initial=0) == 127) | (scales == 0)).all()


def test_what_is_no_number_counts_as_nothing() -> None:
    small, scales = quantise(np.array([[np.nan, 1.0, -np.inf]], dtype=np.float32))
    assert small.tolist() == [[0, 127, 0]]
    assert np.isfinite(scales).all()


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 6), st.integers(1, 8), st.integers(0, 9))
def test_rescoring_ranks_by_the_int8_vectors(n: int, d: int, q: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, queries = (random.standard_normal((m, d)).astype(np.float32) for m in (n, q))
    small, scales = quantise(x)
    candidates = random.integers(-1, n, (q, 12))
    ids, squared = rescored(queries, candidates, small, scales, k)
    whole = small.astype(np.float64) * scales[:, None]
    for a in range(q):
        far = ((queries[a] - whole) ** 2).sum(axis=1)
        expected = sorted((float(far[i]), i) for i in candidates[a] if i >= 0)[:k]
        real = ids[a] >= 0
        assert real.sum() == len(expected)
        np.testing.assert_allclose(squared[a][real], [v for v, _ in expected], rtol=1e-4, atol=1e-5)
        assert np.isinf(squared[a][~real]).all()


@pytest.mark.parametrize("block", [1, 500, 1 << 22])
def test_exact_neighbours_are_faiss(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescore, "BLOCK", block * 33)
    random = np.random.default_rng(0)
    base, queries = random.standard_normal((700, 33)).astype(np.float32), random.standard_normal((9, 33))
    index = faiss.IndexFlatL2(33)
    index.add(base)
    their_distances, their_ids = index.search(queries.astype(np.float32), 8)
    ids, squared = exact_top_k(queries.astype(np.float32), base, 8)
    assert np.array_equal(ids, their_ids)
    np.testing.assert_allclose(squared, their_distances, rtol=1e-4)


@pytest.mark.parametrize("block", [1, 3, 1 << 22])
def test_equal_rows_come_in_the_order_of_their_numbers(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescore, "BLOCK", block)
    base = np.array([[1.0], [0.0], [1.0], [0.0], [1.0], [0.0]], dtype=np.float32)
    ids, _ = exact_top_k(np.zeros((1, 1), np.float32), base, 4)
    assert ids.tolist() == [[1, 3, 5, 0]]
    assert exact_top_k(np.zeros((1, 1), np.float32), base, 9)[0].tolist() == [[1, 3, 5, 0, 2, 4]]


def test_recall_is_the_share_found() -> None:
    exact = np.array([[1, 2], [3, 4]])
    assert recall(np.array([[2, 9, 1], [8, 7, 4]]), exact) == 0.75
    assert np.isnan(recall(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64)))
