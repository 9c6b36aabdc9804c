"""Estimated distances against the sums that define them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.codes import hamming
from tasks.codes.binarizer import Binarizer, Encoded
from tasks.codes.estimate import estimated_top_k, query_planes, symmetric_top_k
from tasks.codes.packing import pack, unpack, values
from tasks.codes.search import ask, information, nearest_codes

Floats = NDArray[np.float32]
TABLES = np.stack([np.r_[0, np.geomspace(0.5, 2, 255)], np.r_[0, np.geomspace(0.03, 0.2, 255)]]).astype(np.float32)


def codes_of(n: int, width: int, planes: int, seed: int) -> Encoded:
    random = np.random.default_rng(seed)
    packed = [pack(random.random((n, width)) < 0.5) for _ in range(planes)]
    norms, factors = (random.integers(90, 160, n, dtype=np.uint8) for _ in range(2))
    return Encoded(np.concatenate(packed, axis=1), norms, factors)


def stands_for(rows: Encoded, width: int, planes: int) -> NDArray[np.float64]:
    return values(rows.codes, width, np.float32(2.0) ** -np.arange(planes, dtype=np.float32)).astype(np.float64)


def estimates(projected: Floats, rows: Encoded, planes: int) -> NDArray[np.float64]:
    """Every query's estimate of every row's squared distance, as defined."""
    asked = projected.astype(np.float64)
    norms, factors = TABLES[0, rows.norms].astype(np.float64), TABLES[1, rows.factors].astype(np.float64)
    inner = asked @ stands_for(rows, projected.shape[1], planes).T
    return (asked**2).sum(axis=1)[:, None] + norms**2 - 2 * factors * inner


def scalars(rows: Encoded) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    assert rows.norms is not None
    assert rows.factors is not None
    return rows.norms, rows.factors


@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 4), st.integers(0, 7), st.integers(0, 9))
def test_estimates_are_those_of_the_definition(n: int, width: int, planes: int, q: int, seed: int) -> None:
    rows = codes_of(n, width, planes, seed)
    projected = np.random.default_rng(seed).standard_normal((q, width)).astype(np.float32)
    ids, squared = estimated_top_k(projected, rows.codes, planes, *scalars(rows), TABLES, 10)
    direct = estimates(projected, rows, planes)
    assert ids.shape == squared.shape == (q, min(10, n))
    np.testing.assert_allclose(squared, np.take_along_axis(direct, ids, axis=1), rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in ids)
    assert (np.diff(squared, axis=1) >= 0).all()


@pytest.mark.parametrize("planes", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("width", [50, 64, 384])
@pytest.mark.parametrize("q", [1, 12])
def test_few_of_the_nearest_are_missed(planes: int, width: int, q: int) -> None:
    rows = codes_of(20_000, width, planes, 3)
    projected = np.random.default_rng(4).standard_normal((q, width)).astype(np.float32)
    ids, _ = estimated_top_k(projected, rows.codes, planes, *scalars(rows), TABLES, 10)
    direct = np.argsort(estimates(projected, rows, planes), axis=1)[:, :10]
    shared = [len(np.intersect1d(a, b)) for a, b in zip(ids, direct, strict=True)]
    assert sum(shared) >= 0.97 * direct.size


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 4), st.integers(1, 7), st.integers(0, 9))
def test_codes_against_codes(n: int, width: int, planes: int, q: int, seed: int) -> None:
    rows, asked = codes_of(n, width, planes, seed), codes_of(q, width, planes, seed + 1)
    found = symmetric_top_k((asked.codes, *scalars(asked)), (rows.codes, *scalars(rows)), planes, width, TABLES, 10)
    factors = [TABLES[1, r.factors].astype(np.float64) for r in (asked, rows)]
    norms = [TABLES[0, r.norms].astype(np.float64) for r in (asked, rows)]
    inner = stands_for(asked, width, planes) @ stands_for(rows, width, planes).T
    direct = norms[0][:, None] ** 2 + norms[1] ** 2 - 2 * factors[0][:, None] * factors[1] * inner
    ids, squared = found
    np.testing.assert_allclose(squared, np.take_along_axis(direct, ids, axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(squared, np.sort(direct, axis=1)[:, :10], rtol=1e-4, atol=1e-4)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = codes_of(5000, 70, 2, 0)
    projected = np.random.default_rng(0).standard_normal((6, 70)).astype(np.float32)
    alone = estimated_top_k(projected, rows.codes, 2, *scalars(rows), TABLES, 10)
    monkeypatch.setattr(hamming, "LEAST", 100)
    for threads in (2, 5):
        together = estimated_top_k(projected, rows.codes, 2, *scalars(rows), TABLES, 10, threads=threads)
        assert np.array_equal(alone[0], together[0])
        assert np.array_equal(alone[1], together[1])


@given(st.integers(1, 5), st.integers(1, 100), st.integers(1, 8), st.integers(0, 9))
def test_queries_are_rounded_to_half_a_step(q: int, width: int, bits: int, seed: int) -> None:
    projected = np.random.default_rng(seed).standard_normal((q, width)).astype(np.float32)
    projected[0] = 0
    planes, step = query_planes(projected, bits)
    packed = planes.view(np.uint8).reshape(q, bits, -1)
    signs = [2.0 * unpack(np.ascontiguousarray(packed[:, b]), width) - 1 for b in range(bits)]
    back = step[:, None] / 2 * sum(2.0**b * sign for b, sign in enumerate(signs))
    assert (abs(back - projected) <= step[:, None] / 2 * 1.001 + 1e-6).all()
    assert step[0] == 0


def test_a_binarizers_codes_are_searched_by_their_distance() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((500, 24)).astype(np.float32)
    tables = np.stack([np.arange(256), np.arange(256)]).astype(np.float32)
    zero = np.zeros(24, np.float32)
    signs = Binarizer("sign", "axes", 24, 24, 1, False, zero, None, tables)
    ids, distances = nearest_codes(signs, ask(signs, x[:5]), signs.encode(x), 3)
    assert ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (distances[:, 0] == 0).all()


def test_information_is_that_of_two_by_two_tables() -> None:
    from sklearn.metrics import mutual_info_score

    random = np.random.default_rng(0)
    bits = random.random((2, 6, 2, 21)) < 0.4
    bits[1, 0], bits[1, 1] = bits[0, 0], ~bits[0, 1]
    blank = np.zeros((2, 256), np.float32)
    binarizer = Binarizer("residual", "axes", 21, 21, 2, True, np.zeros(21, np.float32), None, blank)
    one, other = (np.concatenate([pack(part[:, p]) for p in range(2)], axis=1) for part in bits)
    flat = bits.reshape(2, 6, -1)
    expected = [mutual_info_score(a, b) for a, b in zip(*flat, strict=True)]
    np.testing.assert_allclose(information(binarizer, one, other), expected, atol=1e-12)
