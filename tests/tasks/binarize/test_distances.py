"""Search against faiss and brute force: distances, ids, and the order of ties."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.binarize.distances import BLOCK_ROWS, exact_top_k, hamming_top_k, rabitq_top_k, recall
from tasks.binarize.methods import fit_rabitq
from tasks.binarize.rotation import unpack


def all_distances(queries: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.unpackbits(queries[:, None] ^ codes[None], axis=2).sum(axis=2, dtype=np.int64)


@settings(deadline=None)
@given(
    st.integers(1, 20).flatmap(
        lambda width: st.tuples(
            hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(width))),
            hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(width))),
        )
    ),
    st.integers(1, 50),
)
def test_hamming_is_brute_force_by_distance_then_row(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]], k: int) -> None:
    queries, codes = pair
    ids, distances = hamming_top_k(queries, codes, k)
    expected = all_distances(queries, codes)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    assert np.array_equal(ids, order)
    assert np.array_equal(distances, np.take_along_axis(expected, order, axis=1))


@pytest.mark.parametrize("bits", [8, 64, 72, 256])
def test_hamming_is_faiss(bits: int) -> None:
    random = np.random.default_rng(bits)
    codes = random.integers(0, 256, (2 * BLOCK_ROWS + 77, bits // 8), dtype=np.uint8)
    queries = random.integers(0, 256, (9, bits // 8), dtype=np.uint8)
    index = faiss.IndexBinaryFlat(bits)
    index.add(codes)
    theirs, their_ids = index.search(queries, 20)
    ids, distances = hamming_top_k(queries, codes, 20)
    assert np.array_equal(distances, theirs)
    for a, b, d in zip(ids, their_ids, distances, strict=True):
        certain = d < d[-1]  # ties at the last place are anyone's
        assert set(a[certain]) == set(b[: certain.sum()])


def test_hamming_at_its_limits() -> None:
    codes = np.zeros((3, 2), dtype=np.uint8)
    ids, distances = hamming_top_k(codes[:1], codes, 10)
    assert ids.tolist() == [[0, 1, 2]]
    assert distances.tolist() == [[0, 0, 0]]
    assert hamming_top_k(codes[:1], codes[:0], 5)[0].shape == (1, 0)
    assert hamming_top_k(codes[:0], codes, 2)[0].shape == (0, 2)
    readonly = np.frombuffer(bytes(32), dtype=np.uint8).reshape(4, 8)
    assert hamming_top_k(readonly[:1], readonly, 1)[0].tolist() == [[0]]
    full = np.full((1, 8), 255, dtype=np.uint8)
    assert hamming_top_k(full, readonly, 1)[1].tolist() == [[64]]


def test_exact_search_is_brute_force() -> None:
    random = np.random.default_rng(2)
    base, queries = (random.standard_normal((n, 12)).astype(np.float32) for n in (300, 130))
    squared = ((queries[:, None].astype(np.float64) - base[None]) ** 2).sum(axis=2)
    ids, distances = exact_top_k(queries, base, 7)
    order = np.argsort(squared, axis=1, kind="stable")[:, :7]
    np.testing.assert_allclose(distances, np.take_along_axis(squared, order, axis=1), rtol=1e-5)
    assert np.array_equal(ids, order)


def test_equal_rows_stand_in_the_order_of_their_numbers() -> None:
    base = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    ids, _ = exact_top_k(np.eye(3, dtype=np.float32)[:1], base, 6)
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_rabitq_finds_most_neighbours_and_estimates_their_distance() -> None:
    random = np.random.default_rng(5)
    base, queries = (random.standard_normal((n, 96)).astype(np.float32) for n in (1500, 40))
    binarizer = fit_rabitq(base, 1)
    signs = np.where(unpack(binarizer.encode(base), 96), np.float32(1), np.float32(-1))
    norms, factors = binarizer.factors(base)
    ids, estimates = rabitq_top_k(binarizer.project(queries), signs, norms, factors, len(base))
    exact_ids, _ = exact_top_k(queries, base, 10)
    true = ((queries[:, None].astype(np.float64) - base[ids]) ** 2).sum(axis=2)
    assert abs((estimates - true).mean() / true.mean()) < 0.01
    assert recall(ids[:, :100], exact_ids) > 0.9
    hamming = recall(hamming_top_k(binarizer.encode(queries), binarizer.encode(base), 10)[0], exact_ids)
    assert recall(ids[:, :10], exact_ids) > hamming


def test_recall() -> None:
    exact = np.array([[1, 2, 3], [4, 5, 6]])
    assert recall(exact[:, ::-1], exact) == 1
    assert recall(np.array([[1, 9, 8], [7, 5, 4]]), exact) == 0.5
    assert np.isnan(recall(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64)))
