"""Packing, and what each binarizer promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.binarize.embedding import Embedding
from tasks.binarize.methods import Binarizer, fit_itq, fit_median, fit_rabitq, quantisation_error
from tasks.binarize.rotation import pack, product, random_rotation, unpack
from tasks.binarize.task import code_columns


def vectors(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """Correlated, off centre, heavy in a few directions: as principal components are."""
    random = np.random.default_rng(seed)
    scale = 1.0 / np.arange(1, dimensions + 1)
    return (random.standard_normal((rows, dimensions)) * scale + 0.3).astype(np.float32)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(0, 9), st.integers(1, 200))))
def test_unpacked_bits_are_the_bits_packed(bits: NDArray[np.bool_]) -> None:
    codes = pack(bits)
    assert codes.dtype == np.uint8
    assert codes.shape == (len(bits), -(-bits.shape[1] // 8))
    assert np.array_equal(unpack(codes, bits.shape[1]), bits)


def test_first_bit_is_lowest_and_the_tail_is_zero() -> None:
    assert pack(np.array([[True] + [False] * 7 + [True]])).tolist() == [[1, 1]]


@pytest.mark.parametrize("dimensions", [1, 2, 17, 64])
def test_rotations_are_orthogonal_and_decided_by_seed_and_name(dimensions: int) -> None:
    rotation = random_rotation(5, "itq", dimensions)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(dimensions), atol=1e-12)
    assert np.array_equal(rotation, random_rotation(5, "itq", dimensions))
    if dimensions > 1:
        assert not np.allclose(rotation, random_rotation(6, "itq", dimensions))
        assert not np.allclose(rotation, random_rotation(5, "rabitq", dimensions))


@pytest.mark.parametrize("dimensions", [3, 8, 21])
@pytest.mark.parametrize("method", ["median", "itq", "rabitq"])
def test_codes_are_signs_of_the_projection(method: str, dimensions: int) -> None:
    x = vectors(500, dimensions)
    binarizer = fitted(method, x)
    codes = binarizer.encode(x)
    assert codes.shape == (500, -(-dimensions // 8))
    assert np.array_equal(unpack(codes, dimensions), binarizer.project(x) > 0)
    # A row's code depends on the row alone, up to rounding at zero: no batch statistics enter.
    assert np.array_equal(binarizer.encode(x[10:20]), codes[10:20])


def fitted(method: str, x: NDArray[np.float32]) -> Binarizer:
    return {
        "median": lambda: fit_median(x),
        "itq": lambda: fit_itq(x, 3, 20),
        "rabitq": lambda: fit_rabitq(x, 3),
    }[method]()


def test_median_bits_are_balanced() -> None:
    x = vectors(1000, 12)
    assert unpack(fit_median(x).encode(x), 12).sum(axis=0).tolist() == [500] * 12


def test_itq_rotates_and_its_error_never_rises() -> None:
    x = vectors(2000, 24)
    errors: list[float] = []
    for iterations in range(0, 30, 3):
        binarizer = fit_itq(x, 1, iterations)
        np.testing.assert_allclose(binarizer.rotation.T @ binarizer.rotation, np.eye(24), atol=1e-12)
        errors.append(quantisation_error(binarizer.project(x)))
    assert (np.diff(errors) <= 1e-9 * errors[0]).all()
    assert errors[-1] < errors[0]


def test_rabitq_is_unbiased_over_rotations() -> None:
    """Mean over rotations of f·⟨s, R(q − c)⟩ is ⟨y, q − c⟩, within four standard errors (Gao and Long, 2024)."""
    x = vectors(40, 32)
    query = vectors(1, 32, seed=9)
    centre = x.astype(np.float64).mean(axis=0)
    exact = (x - centre) @ (query[0] - centre)
    estimates: list[NDArray[np.float64]] = []
    for seed in range(400):
        binarizer = fit_rabitq(x, seed)
        signs = np.where(unpack(binarizer.encode(x), 32), 1.0, -1.0)
        estimates.append(binarizer.factors(x)[1] * (signs @ binarizer.project(query)[0]))
    mean, spread = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(400)
    assert (abs(mean - exact) < 4 * spread).all()


def test_rabitq_error_is_within_its_bound() -> None:
    """|error| <= 1.9·σ·‖q − c‖ for at least the share of a normal's mass within 1.9 deviations, 94.3 %."""
    d = 64
    x, queries = vectors(500, d), vectors(100, d, seed=4)
    binarizer = fit_rabitq(x, 8)
    y, q = binarizer.project(x), binarizer.project(queries)
    norm, factor = binarizer.factors(x)
    signs = np.where(y > 0, 1.0, -1.0)
    error = abs((q @ signs.T) * factor - q @ y.T)
    ratio = np.maximum(norm.astype(np.float64) ** 2 * d / abs(y).sum(axis=1) ** 2 - 1, 0)
    sigma = norm * np.sqrt(ratio / (d - 1))
    bound = 1.9 * sigma[None, :] * np.sqrt((q**2).sum(axis=1))[:, None]
    assert (error <= bound).mean() > 0.943
    np.testing.assert_allclose(factor, norm**2 / abs(y).sum(axis=1), rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["median", "itq", "rabitq"]), st.integers(1, 5))
def test_a_constant_corpus_does_not_fail(method: str, rows: int) -> None:
    x = np.full((rows, 4), 2.5, dtype=np.float32)
    binarizer = fitted(method, x)
    assert binarizer.encode(x).shape == (rows, 1)
    norm, factor = binarizer.factors(x)
    assert np.isfinite(norm).all()
    assert np.isfinite(factor).all()


@given(st.integers(1, 300), st.integers(1, 140), st.integers(1, 40), st.integers(0, 5), st.data())
def test_rows_do_not_depend_on_the_rows_beside_them(p: int, d: int, rows: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal((rows, p)) * np.exp(3 * random.standard_normal(p))).astype(np.float32)
    x[random.random(x.shape) < 0.02] = np.nan
    # Columns that cancel leave nothing but rounding: another order of adding up shows also in float32.
    x, components = np.hstack([x, x]), random.standard_normal((p, d))
    embedding = Embedding(np.ones(2 * p), np.full(2 * p, 3.0), np.vstack([components, -components]), np.zeros(d))
    vectors = embedding.transform(x)
    shift, turn = vectors.astype(np.float64).mean(axis=0), random_rotation(seed, "rabitq", d)
    binarizers = {m: Binarizer(m, shift, np.eye(d) if m == "median" else turn) for m in ("median", "itq", "rabitq")}
    cuts = sorted(data.draw(st.sets(st.integers(0, rows), max_size=4)) | {0, rows})
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    assert np.concatenate([embedding.transform(x[part]) for part in parts]).tobytes() == vectors.tobytes()
    # Before the sign is taken, where a last bit would hide.
    for binarizer in binarizers.values():
        projected = binarizer.project(vectors)
        assert np.concatenate([binarizer.project(vectors[part]) for part in parts]).tobytes() == projected.tobytes()
    together = code_columns(binarizers, vectors)
    assert set(together) == {"median", "itq", "rabitq", "rabitq_norm", "rabitq_factor"}
    found = [code_columns(binarizers, vectors[part]) for part in parts]
    for name, column in together.items():
        assert [v for columns in found for v in columns[name].to_pylist()] == column.to_pylist()


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_the_product_is_the_product_of_matrices(n: int, p: int, d: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Column order, as a slice of a table may have.
    x, matrix = np.asfortranarray(random.standard_normal((n, p))), random.standard_normal((d, p)).T
    np.testing.assert_allclose(product(x, matrix), x @ matrix, rtol=1e-12, atol=1e-12)
