"""Under-sampling: imbalanced-learn, the papers' definitions by brute force, and properties of what is kept."""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from imblearn import under_sampling as peer
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_array, csr_matrix
from sklearn.neighbors import NearestNeighbors

from tasks.rebalance import undersampling as ours
from tests.tasks.rebalance.peers import checks, labelled, same


def datasets() -> dict[str, tuple[Any, Any]]:
    few, few_y = labelled(400, 8, [0.85, 0.15], 0, 0.6)  # few features: scikit-learn takes a tree
    many, many_y = labelled(700, 30, [0.8, 0.2], 1, 0.6)  # many: blocks of matrix products
    three, three_y = labelled(600, 20, [0.6, 0.25, 0.15], 2, 0.6)
    sparse = np.where(np.abs(many) > 1, many, 0)
    names = [f"f{i}" for i in range(30)]
    return {
        "few features": (few, few_y),
        "many features": (many, many_y),
        "float32": (many.astype(np.float32), many_y),
        "three classes": (three, three_y),
        "text labels": (three, np.array(["b", "a", "c"], dtype=object)[three_y]),
        "csr": (csr_matrix(sparse), many_y),
        "csr array": (csr_array(sparse.astype(np.float32)), many_y),
        "csc": (csc_matrix(sparse), many_y),
        "frame": (pd.DataFrame(many, columns=names), pd.Series(many_y, name="label")),
        "ties": (np.round(few[:, :2]), few_y),
        "ties, wide": (np.round(many[:, :18] / 4), many_y),
        "integers": (np.round(few * 3).astype(np.int64), few_y),
        "equal classes": (few, np.arange(len(few_y)) // 3 % 2),
    }


DATA = datasets()
UNDER = ["auto", "majority", "not minority", "not majority", "all"]


def agree(name: str, data: str, **parameters: Any) -> Any:
    """Both samplers with these parameters give the same, or both refuse."""
    x, y = DATA[data]
    mine, theirs = getattr(ours, name)(**parameters), getattr(peer, name)(**parameters)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            expected = theirs.fit_resample(x, y)
        except ValueError as refusal:
            with pytest.raises(type(refusal)):
                mine.fit_resample(x, y)
            return mine
        wanted = len([w for w in raised if w.category is UserWarning])
        raised.clear()
        found = mine.fit_resample(x, y)
        assert len([w for w in raised if w.category is UserWarning]) == wanted
    np.testing.assert_array_equal(mine.sample_indices_, theirs.sample_indices_)
    assert dict(mine.sampling_strategy_) == dict(theirs.sampling_strategy_)
    same(found[0], expected[0])
    same(found[1], expected[1])
    return mine


def half(y: NDArray[Any]) -> dict[Any, int]:
    return {label: max(1, n // 2) for label, n in Counter(y.tolist()).items()}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("strategy", [*UNDER, 0.7, half])
@pytest.mark.parametrize(("seed", "replacement"), [(0, False), (7, True)])
def test_random_equals_imbalanced_learn(data: str, strategy: Any, seed: int, replacement: bool) -> None:
    agree("RandomUnderSampler", data, sampling_strategy=strategy, random_state=seed, replacement=replacement)


def test_random_takes_a_stream_and_leaves_it_where_imbalanced_learn_does() -> None:
    x, y = DATA["three classes"]
    a, b = np.random.RandomState(3), np.random.RandomState(3)
    ours.RandomUnderSampler(random_state=a).fit_resample(x, y)
    peer.RandomUnderSampler(random_state=b).fit_resample(x, y)
    assert a.randint(1 << 30) == b.randint(1 << 30)


@pytest.mark.parametrize("strategy", [{0: 50, 1: 20}, {0: 1}, {0: 10**6}, {5: 3}])
@pytest.mark.parametrize("name", ["RandomUnderSampler", "NearMiss"])
def test_targets_by_class(name: str, strategy: dict[int, int]) -> None:
    agree(name, "many features", sampling_strategy=strategy, **({"random_state": 1} if name.startswith("R") else {}))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("strategy", [*UNDER, 0.7, half])
def test_near_miss_equals_imbalanced_learn(data: str, version: int, strategy: Any) -> None:
    agree("NearMiss", data, version=version, sampling_strategy=strategy)


@pytest.mark.parametrize("data", ["few features", "three classes", "csr", "ties"])
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("n_neighbors", [1, 2, 12, 10**4])
def test_near_miss_neighbours(data: str, version: int, n_neighbors: int) -> None:
    agree("NearMiss", data, version=version, n_neighbors=n_neighbors)
    agree("NearMiss", data, version=version, n_neighbors_ver3=n_neighbors)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_near_miss_takes_a_neighbour_search(version: int) -> None:
    finder = NearestNeighbors(n_neighbors=4, metric="manhattan")
    agree("NearMiss", "three classes", version=version, n_neighbors=finder, n_neighbors_ver3=finder, n_jobs=2)
    assert not hasattr(finder, "n_samples_fit_")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("strategy", [*UNDER, [1], [0, 1], [9], ["a", "c"]])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("TomekLinks", {}),
        ("EditedNearestNeighbours", {}),
        ("EditedNearestNeighbours", {"kind_sel": "mode"}),
    ],
)
def test_cleaning_equals_imbalanced_learn(data: str, strategy: Any, name: str, parameters: dict[str, Any]) -> None:
    if data == "text labels" and parameters:
        pytest.skip("imbalanced-learn's mode takes numbers only; the next test covers this")
    agree(name, data, sampling_strategy=strategy, **parameters)


def test_mode_of_text_labels_is_that_of_their_order() -> None:
    x, y = DATA["text labels"]
    numbers = np.unique(y, return_inverse=True)[1]
    text = ours.EditedNearestNeighbours(kind_sel="mode", sampling_strategy="all")
    number = peer.EditedNearestNeighbours(kind_sel="mode", sampling_strategy="all")
    text.fit_resample(x, y)
    number.fit_resample(x, numbers)
    np.testing.assert_array_equal(text.sample_indices_, number.sample_indices_)


@pytest.mark.parametrize("data", ["few features", "three classes", "csr", "ties", "ties, wide"])
@pytest.mark.parametrize("kind", ["all", "mode"])
@pytest.mark.parametrize("n_neighbors", [1, 2, 7, NearestNeighbors(n_neighbors=5, metric="manhattan"), 10**4])
def test_edited_neighbours(data: str, kind: str, n_neighbors: Any) -> None:
    agree("EditedNearestNeighbours", data, kind_sel=kind, n_neighbors=n_neighbors, sampling_strategy="all", n_jobs=1)


@pytest.mark.parametrize("data", ["many features", "float32", "three classes", "csr", "few features", "ties, wide"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_blocks_change_nothing(data: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "BLOCK", ours.TILE)
    monkeypatch.setattr(ours, "BLOCK_BYTES", 1)
    agree("NearMiss", data, version=version)
    if not data.startswith("ties"):  # among ties scikit-learn's choice depends on the size of a block
        agree("EditedNearestNeighbours", data)


def test_blocks_of_many_rows_with_ties() -> None:
    # Rows enough for two blocks: scikit-learn's choice among equally near rows must be that of one query.
    rows = 2 * ours.BLOCK + 1000
    x = np.random.default_rng(0).integers(0, 2, (rows + 300, 16)).astype(np.float32)
    finder = NearestNeighbors(n_neighbors=3).fit(x[rows:])
    blocks = [finder.kneighbors(x[block], return_distance=False) for block in ours.blocks(np.arange(rows), ours.BLOCK)]
    assert len(blocks) == 2
    np.testing.assert_array_equal(np.concatenate(blocks), finder.kneighbors(x[:rows], return_distance=False))


@given(rows=st.integers(0, 50), size=st.integers(1, 20))
def test_blocks_cover_the_rows_and_none_is_short(rows: int, size: int) -> None:
    blocks = list(ours.blocks(np.arange(rows), size))
    assert np.concatenate(blocks).tolist() == list(range(rows))
    assert len(blocks) == 1 or all(size <= len(b) < 2 * size for b in blocks)


@pytest.mark.parametrize(
    ("estimator", "check"),
    checks(
        ours.RandomUnderSampler(random_state=0),
        ours.NearMiss(),
        ours.NearMiss(version=2),
        ours.TomekLinks(),
        ours.EditedNearestNeighbours(),
        ours.EditedNearestNeighbours(kind_sel="mode"),
    ),
)
def test_estimator_checks_of_imbalanced_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@st.composite
def tables(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows on a line or a plane, no two equal, two or three classes of two rows or more."""
    n = draw(st.integers(12, 40))
    features = draw(st.integers(1, 3))
    cell = draw(arrays(np.int64, (n, features), elements=st.integers(-20, 20)))
    # A first column of distinct primes' roots keeps all distances apart.
    x = cell + np.sqrt(np.arange(2, n + 2))[:, None] * 1e-3 * np.arange(1, features + 1)
    y = draw(arrays(np.int64, n, elements=st.integers(0, draw(st.integers(1, 2)))))
    y[:4] = [0, 0, 1, 1]
    y[4:6] = y.max()
    return x, y


def nearest(x: NDArray[np.float64], k: int) -> NDArray[np.int64] | None:
    """The k nearest other rows of each row by the definition; None if distances tie but for rounding."""
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distance, np.inf)
    order = np.argsort(distance, axis=1)
    ranked = np.take_along_axis(distance, order, axis=1)
    return None if (np.diff(ranked[:, : k + 1], axis=1) < 1e-9).any() else order[:, :k]


@given(tables())
@settings(deadline=None, max_examples=60)
def test_tomek_links_by_definition(table: tuple[NDArray[np.float64], NDArray[np.int64]]) -> None:
    x, y = table
    near = nearest(x, 1)
    if near is None:
        return
    links = {i for i, (j,) in enumerate(near.tolist()) if near[j, 0] == i and y[i] != y[j]}
    for strategy, dropped in (("all", links), ([0], {i for i in links if y[i] == 0})):
        sampler = ours.TomekLinks(sampling_strategy=strategy)
        kept_x, kept_y = sampler.fit_resample(x, y)
        assert sampler.sample_indices_.tolist() == [i for i in range(len(x)) if i not in dropped]
        assert (kept_x == x[sampler.sample_indices_]).all()
        assert (kept_y == y[sampler.sample_indices_]).all()


@given(tables(), st.sampled_from(["all", "mode"]), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_edited_neighbours_by_definition(
    table: tuple[NDArray[np.float64], NDArray[np.int64]], kind: str, k: int
) -> None:
    x, y = table
    near = nearest(x, k)
    if near is None:
        return
    expected: list[int] = []
    for label in sorted(set(y.tolist())):
        for i in np.flatnonzero(y == label).tolist():
            around = y[near[i]].tolist()
            most = min(around, key=lambda a: (-around.count(a), a))
            if (set(around) == {label}) if kind == "all" else (most == label):
                expected.append(i)
    sampler = ours.EditedNearestNeighbours(n_neighbors=k, kind_sel=kind, sampling_strategy="all")
    if not expected:
        return
    kept_x, _ = sampler.fit_resample(x, y)
    assert sampler.sample_indices_.tolist() == expected
    assert (kept_x == x[expected]).all()


@given(tables(), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=60)
def test_random_keeps_rows_and_counts(
    table: tuple[NDArray[np.float64], NDArray[np.int64]], seed: int, replacement: bool
) -> None:
    x, y = table
    wanted = half(y)
    sampler = ours.RandomUnderSampler(sampling_strategy=wanted, random_state=seed, replacement=replacement)
    kept_x, kept_y = sampler.fit_resample(x, y)
    index = sampler.sample_indices_
    assert (kept_x == x[index]).all()
    assert (kept_y == y[index]).all()
    assert dict(Counter(kept_y.tolist())) == wanted
    assert (np.diff(kept_y) >= 0).all()
    assert replacement or len(set(index.tolist())) == len(index)


@given(tables(), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=60)
def test_near_miss_keeps_the_nearest(table: tuple[NDArray[np.float64], NDArray[np.int64]], version: int) -> None:
    x, y = table
    if min(Counter(y.tolist()).values()) < 3:
        return
    sampler = ours.NearMiss(version=version)
    kept_x, kept_y = sampler.fit_resample(x, y)
    counts = Counter(y.tolist())
    least = min(counts.values())
    assert set(Counter(kept_y.tolist()).values()) == {least}
    assert (kept_x == x[sampler.sample_indices_]).all()
    minority = min(dict.fromkeys(y.tolist()), key=lambda label: counts[label])
    to = np.sort(np.sqrt(((x[:, None] - x[None, y == minority]) ** 2).sum(axis=2)), axis=1)
    far = (to[:, :3] if version == 1 else to[:, -3:]).mean(axis=1)
    for label in set(counts) - {minority}:
        kept = sampler.sample_indices_[kept_y == label]
        out = np.setdiff1d(np.flatnonzero(y == label), kept)
        assert (np.diff(far[kept]) > -1e-9).all()
        assert len(out) == 0 or far[kept].max() <= far[out].min() + 1e-9
