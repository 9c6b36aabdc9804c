"""The embedding: rows by themselves, columns as they are; and codes of it, a row at a time or all at once."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.binarize.embedding import Embedding
from tasks.binarize.fitting import fit
from tasks.binarize.task import code_columns
from tasks.codes.rotation import product


@given(st.integers(1, 300), st.integers(1, 140), st.integers(1, 40), st.integers(0, 5), st.data())
def test_rows_do_not_depend_on_the_rows_beside_them(p: int, d: int, rows: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal((rows, p)) * np.exp(3 * random.standard_normal(p))).astype(np.float32)
    x[random.random(x.shape) < 0.02] = np.nan
    # Columns that cancel leave nothing but rounding: another order of adding up shows also in float32.
    x, components = np.hstack([x, x]), random.standard_normal((p, d))
    embedding = Embedding(np.ones(2 * p), np.full(2 * p, 3.0), np.vstack([components, -components]))
    vectors = embedding.transform(x)
    binarizers = {method: fit(method, vectors, seed=seed) for method in ("median", "itq", "rabitq", "residual")}
    cuts = sorted(data.draw(st.sets(st.integers(0, rows), max_size=4)) | {0, rows})
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    assert np.concatenate([embedding.transform(x[part]) for part in parts]).tobytes() == vectors.tobytes()
    together = code_columns(binarizers, vectors, rescoring=True)
    scalars = {f"{method}_{name}" for method in ("rabitq", "residual") for name in ("norm", "factor")}
    assert set(together) == {*binarizers, *scalars, "vector", "vector_scale"}
    found = [code_columns(binarizers, vectors[part], rescoring=True) for part in parts]
    for name, column in together.items():
        assert [v for columns in found for v in columns[name].to_pylist()] == column.to_pylist()


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_the_product_is_the_product_of_matrices(n: int, p: int, d: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Column order, as a slice of a table may have.
    x, matrix = np.asfortranarray(random.standard_normal((n, p))), random.standard_normal((d, p)).T
    np.testing.assert_allclose(product(x, matrix), x @ matrix, rtol=1e-12, atol=1e-12)


def test_columns_as_they_are_but_for_what_is_missing() -> None:
    x = np.array([[1.5, np.nan], [-3.25, 7.0], [np.inf, 2.0]], dtype=np.float32)
    embedding = Embedding(np.array([10.0, 20.0]), np.array([3.0, 3.0]), None)
    assert embedding.dimensions == 2
    assert embedding.transform(x).tolist() == [[1.5, 20.0], [-3.25, 7.0], [10.0, 2.0]]
