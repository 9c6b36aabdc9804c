"""Over-sampling against imbalanced-learn, array for array; and what binmill's own way promises beyond it."""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from imblearn import over_sampling as peer
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_array, csr_matrix, issparse
from sklearn.cluster import KMeans
from sklearn.impute import SimpleImputer
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from tasks.rebalance import borderline, clustered, oversampling
from tasks.rebalance.plan import shares
from tasks.rebalance.sampler import settled
from tests.tasks.rebalance.peers import checks, labelled, same

OURS: dict[str, Any] = {
    "RandomOverSampler": oversampling.RandomOverSampler,
    "SMOTE": oversampling.SMOTE,
    "ADASYN": oversampling.ADASYN,
    "BorderlineSMOTE": borderline.BorderlineSMOTE,
    "SVMSMOTE": borderline.SVMSMOTE,
    "KMeansSMOTE": clustered.KMeansSMOTE,
}
LENIENT: dict[str, dict[str, Any]] = {"KMeansSMOTE": {"cluster_balance_threshold": 0.05}}
"""Parameters without which a method has nothing to work with on these data."""


def datasets() -> dict[str, tuple[Any, Any]]:
    few, few_y = labelled(300, 8, [0.8, 0.2], 0)
    many, many_y = labelled(400, 30, [0.8, 0.2], 1)
    three, three_y = labelled(500, 20, [0.5, 0.3, 0.2], 2)
    sparse = np.where(np.abs(many) > 0.5, many, 0)
    return {
        "few features": (few, few_y),
        "many features": (many, many_y),
        "float32": (many.astype(np.float32), many_y),
        "whole numbers": (np.rint(many * 40).astype(np.int32), many_y),
        "three classes": (three, three_y),
        "text labels": (three, np.array(["b", "a", "c"], dtype=object)[three_y]),
        "csr": (csr_matrix(sparse), many_y),
        "csr array": (csr_array(sparse), many_y),
        "csc": (csc_matrix(sparse), many_y),
        "frame": (pd.DataFrame(few, columns=[f"f{i}" for i in range(8)]), pd.Series(few_y, name="label")),
        "ties": (np.round(few[:, :3] * 2), few_y),
        "one column per class": (three, np.eye(3, dtype=np.int64)[three_y]),
    }


DATA = datasets()


def traced(sampler: Any, x: Any, y: Any, rows: Any, labels: Any, *, foreign: bool = False) -> None:
    """The input comes first; every other row lies where its two parents and its gap say."""
    dense, out = (np.asarray(t.toarray() if issparse(t) else t) for t in (x, rows))
    y, labels = (np.asarray(v).argmax(axis=1) if np.ndim(v) > 1 else np.asarray(v) for v in (y, labels))
    a, b, gap, synthetic = sampler.parent_a_, sampler.parent_b_, sampler.gap_, sampler.is_synthetic_
    n = len(y)
    assert len(a) == len(b) == len(gap) == len(synthetic) == len(out) == len(labels)
    assert not synthetic[:n].any()
    assert synthetic[n:].all()
    np.testing.assert_array_equal(out[:n], dense)
    np.testing.assert_array_equal(a[:n], np.arange(n))
    np.testing.assert_array_equal(y[a], labels)
    if not foreign:
        np.testing.assert_array_equal(y[b], labels)
    wide = dense.astype(np.float64)
    made = wide[a[n:]] + gap[n:, None] * (wide[b[n:]] - wide[a[n:]])
    if sampler.compatible:
        np.testing.assert_allclose(out[n:], made, rtol=1e-5, atol=1.0 if dense.dtype.kind == "i" else 1e-5)
    else:
        np.testing.assert_array_equal(out[n:], settled(made, dense.dtype))


def agree(name: str, data: str, **parameters: Any) -> None:
    x, y = DATA[data]
    mine = OURS[name](compatible=True, **parameters)
    theirs = getattr(peer, name)(**parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = theirs.fit_resample(x, y)
        except Exception as error:  # whichever kind: ours must be of the same
            if "matmul" in str(error):
                return  # it cannot do Borderline-2 on sparse matrices
            with pytest.raises(type(error)):
                mine.fit_resample(x, y)
            return
        found = mine.fit_resample(x, y)
    same(found[0], expected[0])
    same(found[1], expected[1])
    assert dict(mine.sampling_strategy_) == dict(theirs.sampling_strategy_)
    if parameters.get("shrinkage") is None:
        traced(mine, x, y, *found, foreign=parameters.get("kind") == "borderline-2")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("strategy", ["auto", "minority", "not minority", "all"])
@pytest.mark.parametrize("name", OURS)
def test_equals_imbalanced_learn(name: str, strategy: str, data: str) -> None:
    for seed in (0, 11):
        agree(name, data, sampling_strategy=strategy, random_state=seed, **LENIENT.get(name, {}))


@pytest.mark.parametrize(
    "strategy", [0.7, 0.01, {1: 200}, {1: 1000}, {1: 3}, {9: 5}, lambda y: {1: 2 * int((y == 1).sum())}]
)
@pytest.mark.parametrize("name", OURS)
def test_ratios_counts_and_callables(name: str, strategy: Any) -> None:
    agree(name, "many features", sampling_strategy=strategy, random_state=3, **LENIENT.get(name, {}))


@pytest.mark.parametrize("data", ["few features", "many features", "float32", "three classes", "csr", "ties"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("RandomOverSampler", {"shrinkage": 0.5}),
        ("RandomOverSampler", {"shrinkage": {0: 1, 1: 0.2, 2: 3}}),
        ("RandomOverSampler", {"shrinkage": {7: 1}}),
        ("RandomOverSampler", {"shrinkage": {1: -1, 2: 0, 0: 0}}),
        ("SMOTE", {"k_neighbors": 1}),
        ("SMOTE", {"k_neighbors": NearestNeighbors(n_neighbors=4, metric="manhattan")}),
        ("SMOTE", {"k_neighbors": 5000}),
        ("ADASYN", {"n_neighbors": 9}),
        ("BorderlineSMOTE", {"kind": "borderline-2"}),
        ("BorderlineSMOTE", {"kind": "borderline-2", "k_neighbors": 9, "m_neighbors": 4}),
        ("BorderlineSMOTE", {"m_neighbors": NearestNeighbors(n_neighbors=8, metric="manhattan")}),
        ("SVMSMOTE", {"svm_estimator": SVC(kernel="linear", C=0.1), "out_step": 0.9}),
        ("KMeansSMOTE", {"kmeans_estimator": 1}),
        ("KMeansSMOTE", {"kmeans_estimator": KMeans(3, random_state=0), "density_exponent": 2.0}),
        ("KMeansSMOTE", {"cluster_balance_threshold": 0.99}),
    ],
)
def test_parameters(name: str, parameters: dict[str, Any], data: str) -> None:
    agree(name, data, random_state=5, **parameters)


@pytest.mark.parametrize("name", OURS)
def test_a_shared_stream_of_random_numbers(name: str) -> None:
    x, y = DATA["three classes"]
    extra = LENIENT.get(name, {})
    streams = [np.random.RandomState(4) for _ in range(2)]
    mine = OURS[name](compatible=True, random_state=streams[0], **extra)
    theirs = getattr(peer, name)(random_state=streams[1], **extra)
    for _ in range(2):
        same(mine.fit_resample(x, y)[0], theirs.fit_resample(x, y)[0])


@pytest.mark.parametrize("name", [*OURS, "borderline-2"])
@pytest.mark.parametrize("data", DATA)
def test_binmills_own_way(name: str, data: str) -> None:
    """Exactly the rows asked for, each traceable, the same at each call, types kept."""
    x, y = DATA[data]
    kind: dict[str, Any] = {"kind": name} if name == "borderline-2" else LENIENT.get(name, {})
    make = OURS["BorderlineSMOTE" if name == "borderline-2" else name]
    sampler = make(random_state=9, **kind)
    rows, labels = sampler.fit_resample(x, y)
    wanted = np.asarray(labels).argmax(axis=1) if data == "one column per class" else labels
    assert len(set(Counter(wanted).values())) == 1
    assert type(rows) is type(x)
    traced(sampler, x, y, rows, labels, foreign=name == "borderline-2")
    again = make(random_state=9, **kind).fit_resample(x, y)[0]
    same(rows, again)
    n = x.shape[0]
    gap = sampler.gap_[n:]
    if name == "SVMSMOTE":
        assert ((gap > -0.5) & (gap < 1)).all()
    elif name == "RandomOverSampler":
        assert not gap.any()
    else:
        assert ((gap >= 0) & (gap < 1)).all()
        assert len(np.unique(gap)) > 0.9 * len(gap)
    if name == "borderline-2" and data != "one column per class":
        other = np.asarray(y)[sampler.parent_b_[n:]] != np.asarray(labels)[n:]
        assert other.any()
        assert (gap[other] < 0.5).all()


def test_each_class_has_its_own_stream() -> None:
    """Rows of one class do not change when another class is asked for too."""
    x, y = DATA["three classes"]
    both = oversampling.SMOTE(random_state=2).fit_resample(x, y)
    one = oversampling.SMOTE(random_state=2, sampling_strategy={2: int((y == 0).sum())}).fit_resample(x, y)
    np.testing.assert_array_equal(both[0][len(y) :][both[1][len(y) :] == 2], one[0][len(y) :])


@pytest.mark.parametrize(("rare", "asked"), [(896, 896), (100, 1), (100, 7)])
def test_adasyn_and_kmeans_give_exactly_what_is_asked(rare: int, asked: int) -> None:
    x, y = labelled(rare * 4, 6, [3 / 4, 1 / 4], 5)
    want = {1: int((y == 1).sum()) + asked}
    for sampler in (
        oversampling.ADASYN(random_state=0, sampling_strategy=want),
        clustered.KMeansSMOTE(random_state=0, sampling_strategy=want, cluster_balance_threshold=0.0),
    ):
        sampler.fit_resample(x, y)
        assert sampler.is_synthetic_.sum() == asked


def test_integers_are_rounded_and_booleans_voted() -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(
        {
            "real": rng.normal(size=200),
            "count": rng.integers(0, 255, 200).astype(np.uint8),
            "flag": rng.random(200) < 0.5,
        }
    )
    y = np.repeat([0, 1], [150, 50])
    sampler = oversampling.SMOTE(random_state=1)
    rows = sampler.fit_resample(x, y)[0]
    assert dict(rows.dtypes) == dict(x.dtypes)
    a, b, gap = sampler.parent_a_[200:], sampler.parent_b_[200:], sampler.gap_[200:]
    wide = x["count"].to_numpy().astype(np.float64)
    np.testing.assert_array_equal(rows["count"][200:], np.rint(wide[a] + gap * (wide[b] - wide[a])))
    flag = x["flag"].to_numpy()
    np.testing.assert_array_equal(rows["flag"][200:], np.where(gap < 0.5, flag[a], flag[b]) & (flag[a] | flag[b]))


def test_a_table_of_booleans() -> None:
    x = np.random.default_rng(0).random((100, 6)) < 0.4
    y = np.repeat([0, 1], [70, 30])
    sampler = oversampling.SMOTE(random_state=0)
    rows = sampler.fit_resample(x, y)[0]
    assert rows.dtype == bool
    a, b = x[sampler.parent_a_], x[sampler.parent_b_]
    assert ((rows == a) | (rows == b)).all()


def test_missing_values_name_the_columns_and_the_remedy() -> None:
    x = pd.DataFrame(DATA["few features"][0], columns=[f"f{i}" for i in range(8)])
    x.loc[3, "f2"] = np.nan
    x.loc[5, "f6"] = np.inf
    y = DATA["few features"][1]
    with pytest.raises(ValueError, match=r"'f2', 'f6'.*SimpleImputer"):
        oversampling.SMOTE().fit_resample(x, y)
    filled = SimpleImputer().fit_transform(x.replace(np.inf, np.nan))
    assert oversampling.SMOTE().fit_resample(filled, y)[0].shape[0] > 300


def test_rows_of_any_type_are_copied() -> None:
    x = pd.DataFrame(
        {"text": list("abcdefgh"), "when": pd.date_range("2020", periods=8), "n": [None, 1, 2.5] + [0.0] * 5}
    )
    y = ["a"] * 6 + ["b"] * 2
    sampler = oversampling.RandomOverSampler(random_state=0)
    rows, labels = sampler.fit_resample(x, y)
    assert Counter(labels) == {"a": 6, "b": 6}
    assert dict(rows.dtypes) == dict(x.dtypes)
    pd.testing.assert_frame_equal(rows, x.iloc[sampler.sample_indices_].reset_index(drop=True))


def test_too_few_rows_and_nothing_to_go_by() -> None:
    x, y = DATA["few features"]
    few = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:4]])
    with pytest.raises(ValueError, match="class '1' has 4 rows, k_neighbors=5 needs at least 6: lower k_neighbors"):
        oversampling.SMOTE().fit_resample(x[few], y[few])
    apart = np.concatenate([x[:100], x[:30] + 1000])
    label = np.repeat([0, 1], [100, 30])
    with pytest.raises(ValueError, match="use SMOTE instead"):
        oversampling.ADASYN().fit_resample(apart, label)
    with pytest.raises(ValueError, match="use SMOTE, or raise m_neighbors"):
        borderline.BorderlineSMOTE().fit_resample(apart, label)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1e6)), st.integers(0, 10_000))
def test_shares_add_up_and_are_near_their_weights(weights: NDArray[np.float64], count: int) -> None:
    if not weights.sum():
        weights[0] = 1
    found = shares(weights, count)
    assert found.sum() == count
    assert (np.abs(found - weights / weights.sum() * count) < 1 + 1e-6 * count).all()


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(20, 40), st.integers(1, 4)), elements=st.integers(-3, 3)),
    st.integers(7, 10),
    st.integers(0, 2**31),
)
def test_any_table_with_ties(x: NDArray[np.float64], rare: int, seed: int) -> None:
    y = np.repeat([0, 1], [len(x) - rare, rare])
    sampler = oversampling.SMOTE(random_state=seed)
    rows, labels = sampler.fit_resample(x, y)
    traced(sampler, x, y, rows, labels)


@pytest.mark.parametrize(
    ("estimator", "check"),
    checks(
        *(
            make(random_state=0, compatible=way)
            for name, make in OURS.items()
            for way in (False, True)
            if name != "KMeansSMOTE"
        ),
        *(
            clustered.KMeansSMOTE(random_state=0, cluster_balance_threshold=0.0, kmeans_estimator=1, compatible=way)
            for way in (False, True)
        ),
    ),
)
def test_estimator_checks_of_imbalanced_learn(estimator: Any, check: Any) -> None:
    check(estimator)
