"""Hamming search against counting one by one, and against faiss."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.codes import hamming
from tasks.codes.hamming import FEW, GROUP, STREAM, UNROLLED, hamming_top_k, merge, ranges, words

Codes = NDArray[np.uint8]


def counted(queries: Codes, codes: Codes, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The k nearest by (distance, row number), each pair by itself."""
    differing = np.bitwise_count(queries[:, None, :] ^ codes[None, :, :]).sum(axis=2, dtype=np.int64)
    order = np.argsort(differing, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(differing, order, axis=1)


def few_values(seed: int, rows: int, width: int, values: int) -> Codes:
    """Codes of few values: many ties."""
    return np.random.default_rng(seed).integers(0, values, (rows, width), dtype=np.uint8)


@given(
    st.integers(0, 400), st.integers(0, 40), st.integers(0, 2 * FEW), st.integers(1, 30), st.sampled_from([2, 5, 256]),
    st.integers(0, 9),
)  # fmt: skip
def test_the_nearest_are_those_counted(n: int, width: int, q: int, k: int, values: int, seed: int) -> None:
    codes, queries = few_values(seed, n, width, values), few_values(seed + 1, q, width, values)
    ids, distances = hamming_top_k(queries, codes, k)
    expected = counted(queries, codes, k)
    assert ids.shape == distances.shape == (q, min(k, n))
    assert np.array_equal(ids, expected[0])
    assert np.array_equal(distances, expected[1])


@pytest.mark.parametrize("width", [8, 24, 136, 8 * UNROLLED, 8 * UNROLLED + 8])
@pytest.mark.parametrize("rows", [1, GROUP - 1, GROUP, 2 * STREAM + 1, 2100])
@pytest.mark.parametrize("q", [1, FEW, FEW + 1, 9])
def test_ends_of_groups_and_blocks(width: int, rows: int, q: int) -> None:
    codes, queries = few_values(0, rows, width, 3), few_values(1, q, width, 3)
    ids, distances = hamming_top_k(queries, codes, 12)
    expected = counted(queries, codes, 12)
    assert np.array_equal(ids, expected[0])
    assert np.array_equal(distances, expected[1])


@pytest.mark.parametrize("q", [2, 20])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(q: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, queries = few_values(0, 3000, 4, 3), few_values(1, q, 4, 3)
    alone = hamming_top_k(queries, codes, 15)
    monkeypatch.setattr(hamming, "LEAST", 100)
    assert len(ranges(3000, threads)) == threads
    together = hamming_top_k(queries, codes, 15, threads=threads)
    assert np.array_equal(alone[0], together[0])
    assert np.array_equal(alone[1], together[1])


@pytest.mark.parametrize("bits", [64, 256, 384, 1024])
@pytest.mark.parametrize("q", [1, 40])
def test_as_faiss_finds(bits: int, q: int) -> None:
    random = np.random.default_rng(bits)
    codes = random.integers(0, 256, (20_000, bits // 8), dtype=np.uint8)
    queries = random.integers(0, 256, (q, bits // 8), dtype=np.uint8)
    index = faiss.IndexBinaryFlat(bits)
    index.add(codes)
    their_distances, their_ids = index.search(queries, 25)
    ids, distances = hamming_top_k(queries, codes, 25)
    assert np.array_equal(distances, their_distances)
    for own, other, far in zip(ids, their_ids, distances, strict=True):
        nearer = far < far[-1]  # ties of the last place are settled by row number here
        assert set(own[nearer]) == set(other[nearer])


@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 20))
def test_words_are_planes_filled_up(n: int, planes: int, size: int) -> None:
    codes = few_values(n, n, planes * size, 256)
    found = words(codes, planes).view(np.uint8).reshape(n, planes, -(-size // 8) * 8)
    assert np.array_equal(found[:, :, :size].reshape(n, planes * size), codes)
    assert not found[:, :, size:].any()


@given(st.lists(st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 3)), max_size=6), min_size=1, max_size=4))
def test_merge_orders_by_value_and_id(lists: list[list[tuple[int, int]]]) -> None:
    parts = [
        (np.array([[i for i, _ in pairs]], dtype=np.int64).reshape(1, -1), np.array([[float(v) for _, v in pairs]]))
        for pairs in lists
    ]
    pairs = [pair for some in lists for pair in some]
    expected = sorted(pairs, key=lambda pair: (pair[0] < 0, pair[1], pair[0]))[:5]
    ids, values = merge(parts, 5)
    assert list(zip(ids[0].tolist(), values[0].tolist(), strict=True)) == expected
