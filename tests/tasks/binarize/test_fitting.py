"""What fitting promises for each method, against definitions and against faiss."""

from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.binarize.fitting import FIT_ROWS, Options, fit, scale_table, with_planes
from tasks.binarize.rotating import itq, principal, quantisation_error, rotated
from tasks.codes.binarizer import METHODS, Binarizer, number
from tasks.codes.packing import unpack, values
from tasks.codes.rotation import FastRotation
from tasks.codes.search import ask, nearest_codes

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def vectors(rows: int, dimensions: int, seed: int = 0) -> Floats:
    """Correlated, off centre, heavy in a few directions: as principal components are."""
    random = np.random.default_rng(seed)
    scale = 1.0 / np.sqrt(np.arange(1, dimensions + 1))
    return (random.standard_normal((rows, dimensions)) * scale + 0.3).astype(np.float32)


def estimated(binarizer: Binarizer, queries: Floats, x: Floats) -> Doubles:
    """Squared distances by the formula in Binarizer's docstring, float64[q, n]."""
    codes, norms, factors = binarizer.encode(x)
    assert norms is not None
    assert factors is not None
    v = values(codes, binarizer.width, binarizer.weights).astype(np.float64)
    q = binarizer.project(queries).astype(np.float64)
    norm, factor = binarizer.tables[0][norms].astype(np.float64), binarizer.tables[1][factors].astype(np.float64)
    return (q**2).sum(axis=1)[:, None] + norm**2 - 2 * (q @ v.T) * factor


def exact(queries: Floats, x: Floats) -> Doubles:
    return ((queries.astype(np.float64)[:, None] - x.astype(np.float64)[None]) ** 2).sum(axis=2)


def recall(found: NDArray[np.int64], distances: NDArray[Any], k: int = 10) -> float:
    true = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return float(np.mean([len(set(a[:k]) & set(b)) / k for a, b in zip(found, true, strict=True)]))


def ranked(distances: NDArray[Any]) -> NDArray[np.int64]:
    return np.argsort(distances, axis=1, kind="stable")


def hamming(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2).astype(np.int64)


@cache
def corpus() -> tuple[Floats, Floats, Doubles]:
    x = vectors(3100, 64)
    return x[:100], x[100:], exact(x[:100], x[100:])


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(METHODS), st.integers(1, 40), st.integers(1, 20), st.integers(1, 3), st.data())
def test_any_bits_of_any_dimensions(method: str, rows: int, d: int, planes: int, data: st.DataObject) -> None:
    """Any sizes, constant columns, missing and infinite values: codes of the size asked for, or an error."""
    random = np.random.default_rng(data.draw(st.integers(0, 5)))
    x = random.standard_normal((rows, d)).astype(np.float32)
    x[:, random.random(d) < 0.3] = 2.5
    x[random.random(x.shape) < 0.1] = data.draw(st.sampled_from([np.nan, np.inf, 3e38, 1e-45, 0.0]))
    planes = planes if method == "residual" else 1
    bits = data.draw(st.none() | st.integers(1, 60).map(lambda n: n * planes))
    rotation = data.draw(st.sampled_from([None, "axes", "random", "itq"]))
    limit = {"sign": d, "median": d, "itq": d, "simhash": 10**9, "selected": 10**9, "kernel": 10**9}.get(
        method, 10**9 if rotation in {None, "random"} else d
    )
    if method == "kernel" and rotation in {"axes", "itq"}:
        limit = min(rows, 8)
    options = Options(rotation, planes=planes, iterations=3, anchors=8)
    width = (bits // planes) if bits is not None else (limit if method == "kernel" and limit < d else d)
    if width > limit:
        with pytest.raises(RecipeError, match="at most"):
            fit(method, x, bits=bits, options=options)
        return
    if bits is None and method == "kernel":
        bits = width
    binarizer = fit(method, x, bits=bits, options=options)
    assert (binarizer.method, binarizer.dimensions, binarizer.planes) == (method, d, planes)
    assert binarizer.bits == (bits if bits is not None else planes * d)
    codes, norms, factors = binarizer.encode(x)
    assert codes.shape == (rows, planes * -(-binarizer.width // 8))
    for scalar in (norms, factors):
        assert (scalar is not None) == (method in {"rabitq", "residual"})
        assert scalar is None or scalar.shape == (rows,)
    assert np.isfinite(binarizer.project(x)).all()
    assert (np.diff(binarizer.tables) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_decided_by_vectors_and_seed(method: str, tmp_path: Path) -> None:
    x = vectors(300, 12)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(method, x, seed=seed).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert (a == c) == (method in {"sign", "median"})


@pytest.mark.parametrize("method", METHODS)
def test_encoding_agrees_with_the_projection_row_by_row(method: str) -> None:
    x = vectors(200, 21)
    binarizer = fit(method, x, seed=3)
    codes = binarizer.encode(x).codes
    assert np.array_equal(unpack(codes[:, : -(-binarizer.width // 8)], binarizer.width), binarizer.project(x) > 0)
    for i in range(0, 200, 23):
        assert np.array_equal(binarizer.encode(x[i : i + 1]).codes[0], codes[i])


def test_sign_bits_are_signs_and_median_bits_are_balanced() -> None:
    x = vectors(1000, 12)
    assert np.array_equal(unpack(fit("sign", x).encode(x).codes, 12), x > 0)
    median = fit("median", x)
    assert unpack(median.encode(x).codes, 12).sum(axis=0).tolist() == [500] * 12
    # Fewer bits are those of the widest columns: the first ones, of falling variance.
    assert np.array_equal(unpack(fit("sign", x, bits=3).encode(x).codes, 3), x[:, :3] > 0)


@pytest.mark.parametrize("bits", [1, 16, 40, 64])
def test_simhash_rotations_are_orthogonal(bits: int) -> None:
    matrix = fit("simhash", vectors(50, 16), bits=bits).matrix
    assert matrix is not None
    for start in range(0, bits, 16):
        part = matrix[:, start : start + 16].astype(np.float64)
        np.testing.assert_allclose(part.T @ part, np.eye(part.shape[1]), atol=1e-6)


def test_simhash_tells_the_angle() -> None:
    """E[H] / D = angle / π (Charikar, STOC 2002); of 4096 bits the deviation is below 0.5 / 64."""
    x = vectors(30, 32)
    binarizer = fit("simhash", x, bits=4096)
    z = (x - binarizer.shift).astype(np.float64)
    z /= np.sqrt((z**2).sum(axis=1, keepdims=True))
    angle = np.arccos(np.clip(z @ z.T, -1, 1))
    codes = binarizer.encode(x).codes
    share = hamming(codes, codes) / 4096
    assert abs(np.pi * share - angle).max() < np.pi * 4.5 * 0.5 / 64
    assert abs((np.pi * share - angle).mean()) < 0.01


def test_itq_rotates_and_its_error_never_rises() -> None:
    z = vectors(2000, 24).astype(np.float64)
    z -= z.mean(axis=0)
    errors: list[float] = []
    for iterations in range(30):
        rotation = itq(z, 1, iterations)
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(24), atol=1e-12)
        errors.append(quantisation_error(z @ rotation))
    assert (np.diff(errors) <= 1e-7 * errors[0]).all()
    assert errors[-1] < 0.99 * errors[0]


@pytest.mark.parametrize("width", [5, 24])
def test_itq_quantises_as_well_as_faiss(width: int) -> None:
    x = vectors(3000, 24)
    centred = x - x.mean(axis=0)
    peer = faiss.ITQTransform(24, width, width < 24)
    peer.itq.max_iter = 50
    # faiss' transform normalises rows after centring; so do these, that both see the same.
    unit = (centred / np.sqrt((centred**2).sum(axis=1, keepdims=True))).astype(np.float32)
    peer.train(unit)
    theirs = peer.apply(unit)
    z = unit.astype(np.float64) - unit.mean(axis=0, dtype=np.float64)
    matrix = np.asarray(rotated("itq", z, width, 0))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(width), atol=1e-5)

    def error(y: Any) -> float:
        # Cosine to the signs: what the rotation can change.
        wide = np.asarray(y, np.float64)
        return 1 - float(np.abs(wide).sum() / np.sqrt(wide.size * (wide**2).sum()))

    assert error(z @ matrix) < error(theirs) * 1.03


def test_principal_components_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    z = vectors(500, 9).astype(np.float64)
    z -= z.mean(axis=0)
    theirs = np.asarray(PCA(4).fit(z).components_)
    np.testing.assert_allclose(abs(theirs @ principal(z, 4)), np.eye(4), atol=1e-9)


@pytest.mark.parametrize("bits", [20, 32, 50])
def test_rabitq_is_unbiased_over_rotations(bits: int) -> None:
    """Mean over rotations of f·⟨v, q'⟩ is ⟨y, q'⟩'s mean, within four standard errors (Gao and Long, 2024)."""
    x, query = vectors(40, 32), vectors(1, 32, seed=9)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    inner = centred @ (query[0] - x.mean(axis=0, dtype=np.float64))
    estimates: list[Doubles] = []
    for seed in range(400):
        binarizer = fit("rabitq", x, seed=seed, bits=bits)
        codes, scalars = binarizer.measure(x)
        v = values(codes, bits, binarizer.weights)
        estimates.append(scalars[1] * (v.astype(np.float64) @ binarizer.project(query)[0]))
    mean, spread = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(400)
    assert (abs(mean - inner) < 4 * spread).all()


def test_rabitq_error_is_within_its_bound() -> None:
    """|error| <= 1.9·σ·‖q − c‖ for at least the share of a normal's mass within 1.9 deviations, 94.3 %."""
    d = 64
    x, queries = vectors(500, d), vectors(100, d, seed=4)
    binarizer = fit("rabitq", x, seed=8)
    y, q = binarizer.project(x).astype(np.float64), binarizer.project(queries).astype(np.float64)
    norm = np.sqrt((y**2).sum(axis=1))
    inner = (norm[None] ** 2 + (q**2).sum(axis=1)[:, None] - estimated(binarizer, queries, x)) / 2
    error = abs(inner - q @ y.T)
    ratio = np.maximum(norm**2 * d / abs(y).sum(axis=1) ** 2 - 1, 0)
    sigma = norm * np.sqrt(ratio / (d - 1))
    bound = 1.9 * sigma[None, :] * np.sqrt((q**2).sum(axis=1))[:, None]
    assert (error <= bound).mean() > 0.943
    np.testing.assert_allclose(binarizer.measure(x)[1][1], norm**2 / abs(y).sum(axis=1), rtol=0.005)


def test_rabitq_recalls_what_faiss_does() -> None:
    queries, base, true = corpus()
    ours = recall(ranked(estimated(fit("rabitq", base, seed=1), queries, base)), true)
    turn = faiss.RandomRotationMatrix(64, 64)
    turn.init(5)
    index = faiss.IndexPreTransform(turn, faiss.IndexRaBitQ(64, faiss.METRIC_L2))
    index.train(base)
    index.add(base)
    theirs = recall(index.search(queries, 10)[1], true)
    assert ours > theirs - 0.03
    assert ours > 0.25


def test_each_plane_more_tells_more() -> None:
    queries, base, true = corpus()
    errors: list[float] = []
    recalls: list[float] = []
    for planes in (1, 2, 3, 4):
        binarizer = fit("residual", base, options=Options(planes=planes))
        found = estimated(binarizer, queries, base)
        errors.append(float(np.sqrt((((found - true) / true) ** 2).mean())))
        recalls.append(recall(ranked(found), true))
    assert (np.array(errors[1:]) < 0.6 * np.array(errors[:-1])).all()
    assert (np.diff(recalls) > 0.05).all()


def test_the_steps_of_residual_are_the_best_uniform_quantisers_of_a_normal() -> None:
    """Max (1960): the steps 0.9957, 0.5860 and 0.3352 of 4, 8 and 16 levels; a step is 2a / 2^(planes − 1)."""
    x = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    for planes, step in ((2, 0.9957), (3, 0.5860), (4, 0.3352)):
        found = fit("residual", x, options=Options(planes=planes)).step * 2 / 2 ** (planes - 1)
        assert abs(found / step - 1) < 0.05


@pytest.mark.parametrize("rotation", ["axes", "random", "itq"])
def test_planes_are_added_as_fitting_would(rotation: str) -> None:
    x = vectors(300, 16)
    one = fit("rabitq", x, bits=10, seed=2, options=Options(rotation, iterations=4))
    two = fit("residual", x, bits=30, seed=2, options=Options(rotation, planes=3, iterations=4))
    assert with_planes(one, x, 3).table().equals(two.table())


def test_itq_prefixes_and_frames_keep_products() -> None:
    z = vectors(500, 20).astype(np.float64)
    z -= z.mean(axis=0)
    for kind, width in (("itq", 20), ("random", 20), ("random", 33), ("random", 90)):
        made = rotated(kind, z, width, 0, 5)
        assert made is not None
        matrix = made.matrix() if isinstance(made, FastRotation) else made
        np.testing.assert_allclose(matrix.astype(np.float64) @ matrix.T, np.eye(20), atol=1e-5)
    short = rotated("itq", z, 6, 0, 5)
    assert short is not None
    np.testing.assert_allclose((z @ short).var(axis=0).sum(), (z @ principal(z, 6)).var(axis=0).sum(), rtol=1e-5)


def test_bits_on_low_rank_vectors_are_better_kernelised_than_by_sign() -> None:
    random = np.random.default_rng(0)
    x = np.abs(random.standard_normal((1200, 4)) @ random.standard_normal((4, 40))).astype(np.float32)
    true = exact(x[:50], x[50:])
    found = {}
    for method in ("sign", "kernel"):
        binarizer = fit(method, x[50:], bits=32)
        found[method] = recall(ranked(hamming(binarizer.encode(x[:50]).codes, binarizer.encode(x[50:]).codes)), true)
    assert found["kernel"] > found["sign"] + 0.1


@given(st.lists(st.floats(0, 1e30), max_size=40))
def test_tables_of_scalars_rise(scalars: list[float]) -> None:
    table = scale_table(np.array(scalars))
    assert table[0] == 0
    assert (np.diff(table) > 0).all()


def test_scalars_are_kept_within_half_a_percent() -> None:
    x = np.exp(np.random.default_rng(0).normal(0, 0.2, 5000))
    table = scale_table(x)
    off = abs(table[number(x, table)] / x - 1)
    assert np.quantile(off, 0.99) < 0.005


def test_what_cannot_be_is_refused_with_a_remedy() -> None:
    x = vectors(20, 4)
    wrong: list[tuple[str, Floats, dict[str, Any], str]] = [
        ("magic", x, {}, "unknown"),
        ("sign", x[:0], {}, "no vectors"),
        ("sign", x[:, :0], {}, "no vectors"),
        ("sign", x[0], {}, "no vectors"),
        ("itq", x, {"bits": 5}, "at most 4 bits"),
        ("rabitq", x, {"bits": 0}, "positive multiple"),
        ("residual", x, {"bits": 7}, "positive multiple"),
        ("residual", x, {"options": Options(planes=9)}, "ask for 1 to 8"),
        ("rabitq", x, {"options": Options(rotation="sideways")}, "one of axes, random, itq"),
    ]
    for method, rows, more, text in wrong:
        with pytest.raises(RecipeError, match=text):
            fit(method, rows, **more)


def test_more_rows_than_are_fitted_on_are_thinned_evenly() -> None:
    x = np.zeros((2 * FIT_ROWS, 1), np.float32)
    x[::2] = 1
    x[1] = 1e6  # among the rows left out
    assert fit("rabitq", x).shift[0] <= 1


def test_rare_short_rows_are_not_near_to_every_query() -> None:
    """Their scalars lie far outside the others': numbers of a byte must not lift them up."""
    random = np.random.default_rng(0)
    x = random.standard_normal((4000, 64)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    short = np.arange(0, 4000, 2000)
    x[short] *= np.float32(0.05)
    queries = (x[1:4000:40] + 0.05 * random.standard_normal((100, 64))).astype(np.float32)
    for planes in (1, 2):
        binarizer = fit("residual", x, options=Options("random", planes=planes))
        asked, rows = ask(binarizer, queries), binarizer.encode(x)
        found, squared = nearest_codes(binarizer, asked, rows, 10)
        codes, (norms, factors) = binarizer.measure(x)
        projected = binarizer.project(queries).astype(np.float64)
        inner = projected @ values(codes, binarizer.width, binarizer.weights).T
        exact = (projected**2).sum(axis=1)[:, None] + norms**2 - 2 * factors * inner
        best = np.argsort(exact, axis=1)[:, :10]
        shared = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, best, strict=True)]) / 10
        assert shared > 0.95
        np.testing.assert_allclose(squared[:, 0], exact.min(axis=1), atol=0.03)
        assert abs(int(np.isin(found, short).sum()) - int(np.isin(best, short).sum())) <= 5
