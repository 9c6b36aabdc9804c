"""Nominal over-sampling against imbalanced-learn, array for array; against the papers' definitions; and its traces."""

import re
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from imblearn import over_sampling
from imblearn.metrics.pairwise import ValueDifferenceMetric
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_array, csr_matrix
from scipy.stats import mode
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from tasks.rebalance import compatible, mixed, oversampling
from tasks.rebalance.nominal import SMOTEN, SMOTENC
from tests.tasks.rebalance.peers import checks, same

peer: Any = over_sampling  # its types are declared as text alone, and so are some of scikit-learn's
one_hot: Any = OneHotEncoder
ordinal: Any = OrdinalEncoder
difference: Any = ValueDifferenceMetric

WORDS = np.array(["b", "ä", "A", "", "zz", "c"], dtype=object)


def rows(n: int, p: int, q: int, seed: int, levels: int = 4) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Continuous columns, then nominal ones that go with them and with the class."""
    random = np.random.default_rng(seed)
    y = random.choice(3, n, p=[0.6, 0.25, 0.15])
    continuous = random.standard_normal((n, p)) * random.uniform(0.5, 3, p) + y[:, None] * 0.5
    nominal = (random.integers(0, levels, (n, q)) + (continuous[:, :1] > 1) + y[:, None]) % levels
    return np.hstack([continuous, nominal.astype(np.float64)]), y


def frame(n: int = 300, seed: int = 7) -> pd.DataFrame:
    """A column of every type that a user's table has."""
    x, _ = rows(n, 5, 3, seed)
    return pd.DataFrame(
        {
            "colour": pd.Categorical(WORDS[x[:, 5].astype(int)], categories=list(WORDS)),
            "height": x[:, 0],
            "age": np.rint(x[:, 1] * 10).astype(np.int64),
            "town": WORDS[x[:, 6].astype(int)].astype(str),
            "weight": x[:, 2].astype(np.float32),
            "small": np.rint(x[:, 3]).astype(np.int8),
            "grade": pd.Categorical(x[:, 7].astype(int), ordered=True),
            "member": x[:, 4] > 0,
        }
    )


MIXED, THREE = rows(400, 5, 3, 0)
TWO = (THREE == 2).astype(np.int64)
NAMED: list[Any] = [0, 3, 6]


def objects() -> NDArray[Any]:
    found = MIXED.astype(object)
    found[:, 5:] = WORDS[MIXED[:, 5:].astype(int)]
    return found


def texts() -> NDArray[Any]:
    found = objects()
    found[:, 0] = [str(v) for v in found[:, 0]]
    return found


DATA: dict[str, tuple[Any, Any, Any]] = {
    "two classes": (MIXED, TWO, [5, 6, 7]),
    "three classes": (MIXED, THREE, [5, 6, 7]),
    "mask": (MIXED, THREE, [False] * 5 + [True] * 3),
    "from the end, out of order": (MIXED, THREE, [-1, 5]),
    "text labels": (MIXED, np.array(["b", "a", "c"], dtype=object)[THREE], [5, 6, 7]),
    "one column per class": (MIXED, np.eye(3, dtype=np.int64)[THREE], [5, 6, 7]),
    "float32": (MIXED.astype(np.float32), THREE, [5, 6, 7]),
    "whole numbers, whose penalty is cut to nothing": (np.rint(MIXED).astype(np.int32), THREE, [5, 6, 7]),
    "whole numbers": (np.rint(MIXED * 9).astype(np.int64), THREE, [5, 6, 7]),
    "ties": (np.rint(MIXED), THREE, [5, 6, 7]),
    "ties, float32": (np.rint(MIXED).astype(np.float32), THREE, [5, 6, 7]),
    "twins": (np.vstack([MIXED, MIXED, MIXED[::-1]]), np.hstack([THREE, THREE, THREE[::-1]]), [5, 6, 7]),
    "far from 0": (MIXED * np.array([1] * 5 + [1] * 3) + np.array([1e6] * 5 + [0] * 3), THREE, [5, 6, 7]),
    "a vote that weighs next to nothing": (MIXED * np.array([1e-10] * 5 + [1] * 3), THREE, [5, 6, 7]),
    "no spread": (MIXED * np.array([1, 1, 0, 0, 0, 1, 1, 1]), THREE, [5, 6, 7]),
    "nothing but 0": (MIXED * np.array([0] * 5 + [1] * 3), THREE, [5, 6, 7]),
    "objects": (objects(), THREE, [5, 6, 7]),
    "objects, numbers written out": (texts(), THREE, [5, 6, 7]),
    "list": (MIXED.tolist(), THREE.tolist(), [5, 6, 7]),
    "csr": (csr_matrix(MIXED), THREE, [5, 6, 7]),
    "csc": (csc_matrix(MIXED), THREE, [5, 6, 7]),
    "csr array": (csr_array(MIXED), THREE, [5, 6, 7]),
    "frame, auto": (frame().drop(columns=["town"]), THREE[:300], "auto"),
    "frame, names": (frame(), pd.Series(THREE[:300], name="label"), ["colour", "town", "grade"]),
    "frame, places": (frame(), THREE[:300], NAMED),
    "frame, mask": (frame(), THREE[:300], [i in NAMED for i in range(8)]),
    "frame of whole numbers": (frame()[["age", "small", "grade"]], THREE[:300], "auto"),
    "frame of truth values": (frame()[["member", "town"]].assign(other=MIXED[:300, 1] > 1), THREE[:300], ["town"]),
}


def agree(mine: Any, theirs: Any, x: Any, y: Any) -> None:
    """Both give the same, or both refuse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = theirs.fit_resample(x, y)
        except (ValueError, TypeError) as refusal:
            with pytest.raises(type(refusal)):
                mine.fit_resample(x, y)
            return
        found = mine.fit_resample(x, y)
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, list):
            assert a == b
        else:
            same(a, b)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("data", DATA)
def test_smotenc_is_imbalanced_learns(data: str, seed: int) -> None:
    x, y, nominal = DATA[data]
    mine, theirs = (
        c(nominal, random_state=seed, **p) for c, p in ((SMOTENC, {"compatible": True}), (peer.SMOTENC, {}))
    )
    agree(mine, theirs, x, y)
    for label, median in theirs.median_std_.items():
        assert mine.median_std_[label] == median
    np.testing.assert_array_equal(mine.categorical_features_, theirs.categorical_features_)
    np.testing.assert_array_equal(mine.continuous_features_, theirs.continuous_features_)


PARAMETERS: list[dict[str, Any]] = [
    {"k_neighbors": 1},
    {"k_neighbors": 11},
    {"k_neighbors": 59},
    {"k_neighbors": 1000},
    {"k_neighbors": NearestNeighbors(n_neighbors=4, metric="manhattan")},
    {"sampling_strategy": "minority"},
    {"sampling_strategy": {1: 300, 2: 300}},
    {"sampling_strategy": "all"},
    {"sampling_strategy": "majority"},
    {"random_state": None},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("data", ["three classes", "ties"])
def test_parameters_mean_what_they_mean_there(data: str, parameters: dict[str, Any]) -> None:
    x, y, nominal = DATA[data]
    chosen = {"random_state": 0, **parameters}
    if chosen["random_state"] is None:  # one stream for all classes
        mine, theirs = (np.random.RandomState(3) for _ in range(2))
        agree(SMOTENC(nominal, random_state=mine, compatible=True), peer.SMOTENC(nominal, random_state=theirs), x, y)
        assert mine.randint(1 << 30) == theirs.randint(1 << 30)
        return
    agree(SMOTENC(nominal, compatible=True, **chosen), peer.SMOTENC(nominal, **chosen), x, y)


def test_an_encoder_of_ones_own() -> None:
    x, y, nominal = DATA["objects"]
    order = [sorted(set(x[:, c]), reverse=True) for c in nominal]
    encoder = one_hot(categories=order, sparse_output=False)
    agree(
        SMOTENC(nominal, categorical_encoder=encoder, random_state=0, compatible=True),
        peer.SMOTENC(nominal, categorical_encoder=encoder, random_state=0),
        x,
        y,
    )
    short = one_hot(categories=[values[1:] for values in order], handle_unknown="ignore")
    for wrong in (OneHotEncoder(drop="first"), OneHotEncoder(min_frequency=0.3), short):
        with pytest.raises(ValueError, match="one column per category"):
            SMOTENC(nominal, categorical_encoder=wrong).fit_resample(x, y)


NOMINAL: dict[str, tuple[Any, Any]] = {
    "numbers": (MIXED[:, 5:].astype(np.int64), THREE),
    "floats": (MIXED[:, 5:], TWO),
    "objects": (objects()[:, 5:], THREE),
    "texts": (objects()[:, 5:].astype(str), np.array(["b", "a", "c"], dtype=object)[THREE]),
    "many values": (np.rint(MIXED * 3).astype(np.int64), THREE),
    "many classes": (np.rint(MIXED).astype(np.int64), np.r_[np.repeat(np.arange(12), 25), np.repeat(12, 100)]),
    "one column": (MIXED[:, 5:6].astype(str), THREE),
    "csr": (csr_matrix(MIXED[:, 5:]), THREE),
    "csc": (csc_matrix(MIXED[:, 5:]), THREE),
    "frame": (frame()[["colour", "town", "grade"]], pd.Series(THREE[:300], name="label")),
    "frame of texts": (frame()[["town", "colour"]].astype(str), THREE[:300]),
    "one column per class": (MIXED[:, 5:], np.eye(3, dtype=np.int64)[THREE]),
}


@pytest.mark.parametrize(
    "parameters", [{}, {"k_neighbors": 1}, {"k_neighbors": 20}, {"sampling_strategy": "all"}], ids=str
)
@pytest.mark.parametrize("data", NOMINAL)
def test_smoten_is_imbalanced_learns(data: str, parameters: dict[str, Any]) -> None:
    x, y = NOMINAL[data]
    chosen = {"random_state": 1, **parameters}
    agree(SMOTEN(compatible=True, **chosen), peer.SMOTEN(**chosen), x, y)


def test_smoten_with_a_search_and_an_encoder_of_ones_own() -> None:
    x, y = NOMINAL["objects"]
    chosen: dict[str, Any] = {
        "k_neighbors": NearestNeighbors(n_neighbors=4),
        "categorical_encoder": ordinal(dtype=np.int32, categories=[list(WORDS[::-1])] * x.shape[1]),
        "random_state": 0,
    }
    agree(SMOTEN(compatible=True, **chosen), peer.SMOTEN(**chosen), x, y)


def traced(sampler: Any, x: pd.DataFrame, y: NDArray[Any], out: pd.DataFrame, labels: NDArray[Any]) -> None:
    """Every row made is what its parents, its gap and the votes of its parent's neighbours say."""
    n = len(x)
    pd.testing.assert_frame_equal(out.iloc[:n], x)
    np.testing.assert_array_equal(sampler.is_synthetic_, np.arange(len(out)) >= n)
    a, b, gap = sampler.parent_a_, sampler.parent_b_, sampler.gap_
    np.testing.assert_array_equal(a[:n], np.arange(n))
    np.testing.assert_array_equal(b[:n], np.arange(n))
    assert not gap[:n].any()
    assert ((gap[n:] >= 0) & (gap[n:] < 1)).all()
    continuous = x.iloc[:, sampler.continuous_features_]
    for row in range(n, len(out)):
        own = np.flatnonzero(y == labels[row])
        voters = sampler.neighbors_[labels[row]][np.searchsorted(own, a[row])]
        assert y[a[row]] == y[b[row]] == labels[row]
        assert b[row] in voters
        assert a[row] not in voters
        assert set(y[voters]) == {labels[row]}
        for column in continuous:
            base, other = float(x[column].iloc[a[row]]), float(x[column].iloc[b[row]])
            made = base + gap[row] * (other - base)
            found = out[column].iloc[row]
            kind = x[column].dtype.kind
            if kind == "b":
                assert found == (made > 0.5)
            else:
                assert found == (np.rint(made) if kind == "i" else x[column].dtype.type(made))
        for column in x.columns[sampler.categorical_features_]:
            counts = x[column].iloc[voters].value_counts()
            best = set(counts.index[counts == counts.max()])
            assert out[column].iloc[row] == min(best)


def test_every_row_made_is_recomputed_from_its_parents() -> None:
    x, y = frame(), THREE[:300]
    x["colour"] = x["colour"].cat.remove_unused_categories()
    sampler = SMOTENC(NAMED, random_state=3)
    out, labels = sampler.fit_resample(x, y)
    assert np.unique(labels, return_counts=True)[1].tolist() == [np.bincount(y).max()] * 3
    traced(sampler, x, y, out, labels)


@pytest.mark.parametrize("data", DATA)
def test_types_and_numbers_asked_for_are_kept(data: str) -> None:
    x, y, nominal = DATA[data]
    sampler = SMOTENC(nominal, random_state=0)
    out, labels = sampler.fit_resample(x, y)
    if data != "csr array":  # which of the two scikit-learn makes of it is its user's setting
        assert type(out) is type(x)
    if isinstance(x, pd.DataFrame):
        pd.testing.assert_series_equal(out.dtypes, x.dtypes)
    elif isinstance(x, np.ndarray) and x.dtype.kind != "U":
        assert out.dtype == x.dtype
    counts = pd.DataFrame(np.asarray(labels).reshape(len(labels), -1)).value_counts()
    assert counts.nunique() == 1
    assert sampler.is_synthetic_.sum() == len(labels) - len(y)


def test_whole_numbers_of_an_object_array_stay_whole() -> None:
    x, y = objects(), THREE
    x[:, 1] = np.rint(MIXED[:, 1] * 10).astype(int)
    out, _ = SMOTENC([5, 6, 7], random_state=0).fit_resample(x, y)
    assert {type(v) for v in out[:, 1]} == {int}
    assert {type(v) for v in out[:, 0]} == {float}
    assert {type(v) for v in out[:, 6]} == {str}


def test_types_of_frames_that_may_miss_values_are_kept() -> None:
    x = pd.DataFrame(
        {
            "age": pd.array(np.rint(MIXED[:, 0] * 10).astype(int), dtype="Int16"),
            "member": pd.array(MIXED[:, 1] > 0, dtype="boolean"),
            "height": pd.array(MIXED[:, 2], dtype="Float32"),
            "children": pd.Series(np.rint(MIXED[:, 3] * 3).astype(int).tolist(), dtype=object),
            "town": pd.array(WORDS[MIXED[:, 5].astype(int)], dtype="string"),
        }
    )
    out, _ = SMOTENC(["town"], random_state=0).fit_resample(x, THREE)
    pd.testing.assert_series_equal(out.dtypes, x.dtypes)
    assert out["age"].iloc[400:].nunique() > 10
    assert {type(v) for v in out["children"]} <= {int, np.int64}
    x.loc[2, "age"] = pd.NA
    with pytest.raises(ValueError, match=r"'age'.*SimpleImputer"):
        SMOTENC(["town"]).fit_resample(x, THREE)


def test_missing_values_are_named_and_a_missing_category_is_one() -> None:
    x, y = frame(), THREE[:300]
    x.loc[3, "height"] = np.nan
    with pytest.raises(ValueError, match=r"'height'.*SimpleImputer"):
        SMOTENC(NAMED).fit_resample(x, y)
    x = frame()
    x.loc[::3, "colour"] = None
    out, _ = SMOTENC(NAMED, random_state=0).fit_resample(x, y)
    assert out["colour"].dtype == x["colour"].dtype
    assert out["colour"].iloc[300:].isna().any()
    with pytest.raises(ValueError, match="missing"):
        SMOTEN().fit_resample(x[["colour", "town"]], y)


def test_columns_that_do_not_fit() -> None:
    for columns, other in (([5, 6], "SMOTEN"), ([0, 1], "SMOTE")):
        picked = MIXED[:, columns]
        with pytest.raises(ValueError, match=f"use {other}"):
            SMOTENC([0, 1] if columns[0] == 5 else np.zeros(2, bool)).fit_resample(picked, TWO)
    with pytest.raises(ValueError, match="strings"):
        SMOTENC([5, 6, 7]).fit_resample(objects().astype(str), TWO)
    with pytest.raises(ValueError, match="pandas"):
        SMOTENC("auto").fit_resample(MIXED, TWO)
    with pytest.raises(ValueError, match="k_neighbors=5 needs at least 6"):
        SMOTENC([5]).fit_resample(MIXED[:100], np.arange(100) > 96)
    with pytest.raises(ValueError, match="k_neighbors=5 needs at least 6"):
        SMOTEN().fit_resample(MIXED[:100, 5:], np.arange(100) > 96)


def test_a_larger_demand_begins_with_the_smaller() -> None:
    x, y, nominal = DATA["three classes"]
    less, more = (SMOTENC(nominal, random_state=4, sampling_strategy={2: n}).fit_resample(x, y)[0] for n in (100, 200))
    np.testing.assert_array_equal(less, more[: len(less)])


def test_a_search_of_ones_own_finds_what_ours_does() -> None:
    x, y, nominal = DATA["three classes"]
    exact, asked = (SMOTENC(nominal, random_state=4, k_neighbors=k) for k in (5, NearestNeighbors(n_neighbors=6)))
    np.testing.assert_array_equal(exact.fit_resample(x, y)[0], asked.fit_resample(x, y)[0])
    for label, near in exact.neighbors_.items():
        np.testing.assert_array_equal(near, asked.neighbors_[label])


def naive(x: NDArray[np.float64], codes: NDArray[np.int32], penalty: float, k: int) -> NDArray[np.int64]:
    """The k nearest by definition, with exact ties in the order of row numbers."""
    squared = np.zeros((len(x), len(x)))
    for column in x.T:
        squared += (column[:, None] - column[None, :]) ** 2
    squared += penalty**2 * (codes[:, None, :] != codes[None, :, :]).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1, kind="stable")[:, :k]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 60).flatmap(
        lambda n: st.tuples(
            arrays(np.float64, (n, 3), elements=st.integers(-3, 3) | st.floats(-1e3, 1e3, width=16)),
            arrays(np.int32, (n, 4), elements=st.integers(0, 2)),
        )
    ),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.integers(1, 7),
)
def test_neighbors_are_those_of_the_definition(table: Any, penalty: float, k: int) -> None:
    x, codes = table
    np.testing.assert_array_equal(mixed.mixed_neighbors(x, codes, penalty, k), naive(x, codes, penalty, k))


@pytest.mark.parametrize("levels", [3, 300, 70_000])
def test_neighbors_across_tiles(levels: int) -> None:
    random = np.random.default_rng(0)
    x, codes = random.standard_normal((2500, 4)), random.integers(0, levels, (2500, 3)).astype(np.int32)
    codes[::2] = codes[0]
    np.testing.assert_array_equal(mixed.mixed_neighbors(x, codes, 1.5, 5), naive(x, codes, 1.5, 5))
    rounded = np.rint(x)
    np.testing.assert_array_equal(mixed.mixed_neighbors(rounded, codes, 1.5, 5), naive(rounded, codes, 1.5, 5))


def test_ties_that_rounding_hides_are_settled_among_all_rows() -> None:
    random = np.random.default_rng(0)
    x = np.asarray(1000.3 + 0.1 * random.integers(0, 2, (400, 8)), dtype=np.float64)
    codes = random.integers(0, 2, (400, 2)).astype(np.int32)
    found = mixed.candidates(x, codes, 0.1, 5 + 1 + mixed.SPARE)
    first = found.index[:, :5]  # before that: not those of the definition
    assert (first != naive(x, codes, 0.1, 5)).any()
    np.testing.assert_array_equal(mixed.mixed_neighbors(x, codes, 0.1, 5), naive(x, codes, 0.1, 5))


def test_more_nominal_columns_than_a_byte_counts() -> None:
    random = np.random.default_rng(1)
    x, codes = random.standard_normal((300, 2)), random.integers(0, 2, (300, 600)).astype(np.int32)
    codes[150:] = 1 - codes[:150]  # rows that differ in every column
    np.testing.assert_array_equal(mixed.mixed_neighbors(x, codes, 1.0, 20), naive(x, codes, 1.0, 20))


def test_enormous_values_do_not_overflow() -> None:
    x, codes = MIXED[:60, :5], MIXED[:60, 5:].astype(np.int32)
    penalty = mixed.penalty_of(x)
    np.testing.assert_array_equal(
        mixed.mixed_neighbors(x * 2.0**1000, codes, penalty * 2.0**1000, 5), mixed.mixed_neighbors(x, codes, penalty, 5)
    )
    assert mixed.penalty_of(x * 2.0**1000) == pytest.approx(penalty * 2.0**1000)
    assert penalty == pytest.approx(np.median(x.std(axis=0)))


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, (9, 3), elements=st.integers(0, 4)), st.integers(1, 7), st.integers(0, 99))
def test_votes_are_scipys_mode(codes: NDArray[np.int32], k: int, seed: int) -> None:
    near = np.random.default_rng(seed).integers(0, 9, (12, k))
    np.testing.assert_array_equal(mixed.vote(codes, near), mode(codes[near], axis=1).mode)


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_the_value_difference_metric_is_imbalanced_learns(classes: int) -> None:
    random = np.random.default_rng(classes)
    codes = random.integers(0, 5, (200, 6)).astype(np.int32)
    y = random.integers(0, classes, 200)
    sizes = [5, 5, 5, 5, 5, 7]  # of the last, two that no row has
    shares = mixed.class_shares(codes, y, sizes)
    theirs = difference(n_categories=sizes).fit(codes, y)
    for mine, other in zip(shares, theirs.proba_per_class_, strict=True):
        np.testing.assert_array_equal(mine, other)
    squared = theirs.pairwise(codes)
    np.testing.assert_array_equal(np.concatenate([part for _, part in mixed.vdm(codes, shares)]), squared)
    np.fill_diagonal(squared, np.inf)
    expected = np.argsort(squared, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(mixed.vdm_neighbors(codes, shares, 7), expected)


def test_blocks_of_distances_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def every() -> list[Any]:
        named = [SMOTEN(random_state=0, compatible=c).fit_resample(*NOMINAL["numbers"])[0] for c in (False, True)]
        x, y, nominal = DATA["ties"]
        return named + [SMOTENC(nominal, random_state=0, compatible=c).fit_resample(x, y)[0] for c in (False, True)]

    before = every()
    monkeypatch.setattr(mixed, "BLOCK_BYTES", 1)
    monkeypatch.setattr(mixed, "TILE", 64)
    monkeypatch.setattr(oversampling, "CHUNK_BYTES", 1)
    for a, b in zip(before, every(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_what_any_search_finds_is_certain() -> None:
    x, codes = MIXED[:, :5], MIXED[:, 5:].astype(np.int32)
    near, certain = compatible.certain_neighbors(x, codes, 1.0, 5, 0.0)
    assert certain.all()
    np.testing.assert_array_equal(near, naive(x, codes, 1.0, 5))
    twins = np.vstack([x, x[:1], x[1:2] + 1e-12, x[2:3] + 1e-3]), codes[[*range(400), 0, 1, 2]]
    _, certain = compatible.certain_neighbors(*twins, 1.0, 5, 0.0)
    assert not certain[[0, 1, 400, 401]].any()
    assert certain[[2, 402]].all()
    _, certain = compatible.certain_neighbors(*twins, 1.0, 5, 0.1)
    assert certain.mean() < 0.5
    every = compatible.certain_neighbors(x[:6], codes[:6], 1.0, 5, 0.0)
    assert every[1].all()
    np.testing.assert_array_equal(every[0], naive(x[:6], codes[:6], 1.0, 5))


def test_smoten_rows_are_the_votes_of_a_row_and_its_neighbours() -> None:
    x, y = NOMINAL["objects"]
    sampler = SMOTEN(random_state=2)
    out, labels = sampler.fit_resample(x, y)
    n = len(x)
    np.testing.assert_array_equal(out[:n], x)
    np.testing.assert_array_equal(sampler.parent_a_, sampler.parent_b_)
    for row in range(n, len(out)):
        a = sampler.parent_a_[row]
        own = np.flatnonzero(y == labels[row])
        voters = sampler.neighbors_[labels[row]][np.searchsorted(own, a)]
        assert voters[0] == a
        assert len(set(voters)) == 6
        for column in range(x.shape[1]):
            values, counts = np.unique(x[voters, column], return_counts=True)
            assert out[row, column] == values[counts == counts.max()][0]


def test_memory_is_bounded_by_blocks() -> None:
    random = np.random.default_rng(0)
    x = np.hstack([random.standard_normal((6000, 4)), random.integers(0, 5, (6000, 4))])
    y = np.repeat([0, 1], [3500, 2500])
    for alike in (False, True):
        sampler = SMOTENC([4, 5, 6, 7], random_state=0, compatible=alike)
        sampler.fit_resample(x, y)
        tracemalloc.start()
        sampler.fit_resample(x, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2500 * 2500 * 8 / 4  # a quarter of all distances


# This check asks for a table of one column of texts, which SMOTE-NC is not for: imbalanced-learn's own refuses it too.
ONE_COLUMN = "SMOTENC.*check_samplers_string"


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        case
        for case in checks(
            SMOTENC([0], random_state=0),
            SMOTENC([0], random_state=0, compatible=True),
            SMOTEN(random_state=0),
            SMOTEN(random_state=0, compatible=True),
        )
        if not re.match(ONE_COLUMN, case.id)
    ],
)
def test_estimator_checks_of_imbalanced_learn(estimator: Any, check: Any) -> None:
    check(estimator)
