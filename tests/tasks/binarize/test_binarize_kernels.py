"""Codes and distances against faiss and direct computation; what each binarizer promises."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from tasks.binarize.distances import exact_top_k, hamming_top_k, rabitq_top_k, recall
from tasks.binarize.embedding import Embedding, principal_components
from tasks.binarize.methods import fit_itq, fit_median, fit_rabitq, quantisation_error
from tasks.binarize.rotation import pack, random_rotation, unpack
from tasks.moments import Moments, moments


def vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d))).astype(np.float32)


@given(hnp.arrays(bool, st.tuples(st.integers(0, 20), st.integers(1, 70))))
def test_unpack_undoes_pack(bits: np.ndarray) -> None:
    codes = pack(bits)
    assert codes.shape == (len(bits), -(-bits.shape[1] // 8))
    assert np.array_equal(unpack(codes, bits.shape[1]), bits)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 100))
def test_hamming_equals_direct_count(width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (60, width)).astype(np.uint8)
    queries = rng.integers(0, 4, (3, width)).astype(np.uint8)
    ids, distances = hamming_top_k(queries, codes, k)
    direct = np.unpackbits(queries[:, None, :] ^ codes[None, :, :], axis=2).sum(axis=2)
    order = np.lexsort((np.broadcast_to(np.arange(60), direct.shape), direct), axis=1)[:, :k]
    assert np.array_equal(ids, order)
    assert np.array_equal(distances, np.take_along_axis(direct, order, axis=1))


def test_hamming_equals_faiss() -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 256, (20_000, 32), dtype=np.uint8)
    queries = rng.integers(0, 256, (17, 32), dtype=np.uint8)
    index = faiss.IndexBinaryFlat(256)
    index.add(codes)
    expected, faiss_ids = index.search(queries, 10)
    ids, distances = hamming_top_k(queries, codes, 10)
    assert np.array_equal(distances, expected)
    for q in range(17):  # ids are the same up to ties at the last distance
        inside = distances[q] < distances[q, -1]
        assert set(ids[q, inside]) == set(faiss_ids[q, expected[q] < expected[q, -1]])


def test_exact_neighbours_equal_faiss() -> None:
    base, queries = vectors(3_000, 16), vectors(20, 16, seed=0)[:20]
    index = faiss.IndexFlatL2(16)
    index.add(base)
    _, expected = index.search(queries, 5)
    assert np.array_equal(exact_top_k(queries, base, 5)[0], expected)


def test_median_bits_are_balanced() -> None:
    x = vectors(1_001, 12)
    share = unpack(fit_median(x).encode(x), 12).mean(axis=0)
    assert share == pytest.approx(0.5, abs=0.001)


def test_itq_is_a_rotation_and_never_worse_with_more_iterations() -> None:
    x = vectors(400, 16)
    errors = []
    for iterations in (1, 2, 5, 10, 50):
        found = fit_itq(x, seed=3, iterations=iterations)
        np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(16), atol=1e-10)
        errors.append(quantisation_error(found.project(x)))
    assert all(later <= earlier + 1e-6 for earlier, later in zip(errors, errors[1:], strict=False))


def test_random_rotation_is_orthogonal_and_keyed() -> None:
    r = random_rotation(1, "a", 24)
    np.testing.assert_allclose(r.T @ r, np.eye(24), atol=1e-12)
    assert np.array_equal(r, random_rotation(1, "a", 24))
    assert not np.array_equal(r, random_rotation(2, "a", 24))
    assert not np.array_equal(r, random_rotation(1, "b", 24))


def test_rabitq_estimate_is_unbiased_and_within_its_bound() -> None:
    d = 64
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(200, d)).astype(np.float32), rng.normal(size=(1, d)).astype(np.float32)
    exact = ((q - x) ** 2).sum(axis=1)
    errors, inside = [], []
    for seed in range(40):
        b = fit_rabitq(x, seed)
        norms, factors = b.factors(x)
        signs = np.where(unpack(b.encode(x), d), np.float32(1), np.float32(-1))
        ids, distances = rabitq_top_k(b.project(q), signs, norms, factors, 200)
        estimate = np.empty(200)
        estimate[ids[0]] = distances[0]
        errors.append(estimate - exact)
        # |err of the inner product| <= 1.9 sigma ‖q − c‖ for 94 % of rows (a normal's share); distances: twice that.
        y = b.project(x)
        one, two = np.abs(y).sum(axis=1), (y**2).sum(axis=1)
        sigma = np.sqrt(two) * np.sqrt((two * d / one**2 - 1) / (d - 1))
        bound = 2 * 1.9 * sigma * np.sqrt((b.project(q) ** 2).sum())
        inside.append(np.abs(errors[-1]) <= bound)
    assert np.mean(inside) > 0.93
    bias = np.mean(errors)
    assert abs(bias) < 4 * np.std(errors) / np.sqrt(40 * 200) + 0.05 * np.std(errors)


def test_embedding_equals_sklearns_pca() -> None:
    x = vectors(500, 10)
    parts = Moments.merge([moments(part) for part in np.array_split(x, 7)])
    mean, scale = parts.scaler()
    components, variance = principal_components(parts.correlation(), 4)
    scaler = StandardScaler().fit(x.astype(np.float64))
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-9)
    np.testing.assert_allclose(scale, scaler.scale_, rtol=1e-9)
    pca = PCA(4, svd_solver="full").fit(scaler.transform(x.astype(np.float64)))
    np.testing.assert_allclose(np.abs(pca.components_ @ components), np.eye(4), atol=1e-7)
    np.testing.assert_allclose(variance * 500 / 499, pca.explained_variance_, rtol=1e-7)
    embedded = Embedding(mean, scale, components, variance).transform(x)
    assert embedded.dtype == np.float32
    assert embedded.mean(axis=0) == pytest.approx(0, abs=1e-4)


def test_embedding_takes_missing_for_the_mean() -> None:
    x = vectors(100, 6)
    x[::3, 2] = np.nan
    x[:, 5] = 7  # constant
    found = moments(x)
    mean, scale = found.scaler()
    assert mean[2] == pytest.approx(np.nanmean(x[:, 2], dtype=np.float64))
    assert scale[5] == 1
    components, variance = principal_components(found.correlation(), 6)
    assert np.isfinite(Embedding(mean, scale, components, variance).transform(x)).all()


def test_recall_counts_what_was_found() -> None:
    assert recall(np.array([[1, 2, 3]]), np.array([[3, 9, 1]])) == pytest.approx(2 / 3)
