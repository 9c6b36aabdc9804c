"""SMOTE and a cleaning: imbalanced-learn, and each row left made again from what it came from."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from imblearn import combine as peer
from imblearn import over_sampling as peer_over
from imblearn import under_sampling as peer_under
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, issparse

from tasks.rebalance import combined as ours
from tasks.rebalance.oversampling import SMOTE
from tasks.rebalance.undersampling import EditedNearestNeighbours, TomekLinks
from tests.tasks.rebalance.peers import checks, labelled, same


def linked(rows: int, features: int, weights: list[float], seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x, y = labelled(rows, features, weights, seed, 0.2)
    # With many features links are rare; some are planted.
    rare, common = (np.flatnonzero(y == label)[:8] for label in (len(weights) - 1, 0))
    x[common] = x[rare] * 1.001
    return x, y


def datasets() -> dict[str, tuple[Any, Any]]:
    few, few_y = linked(300, 8, [0.85, 0.15], 0)
    many, many_y = linked(400, 30, [0.8, 0.2], 1)
    three, three_y = linked(400, 20, [0.6, 0.25, 0.15], 2)
    sparse = np.where(np.abs(many) > 1, many, 0)
    return {
        "few features": (few, few_y),
        "many features": (many, many_y),
        "float32": (many.astype(np.float32), many_y),
        "three classes": (three, three_y),
        "text labels": (three, np.array(["b", "a", "c"], dtype=object)[three_y]),
        "csr": (csr_matrix(sparse), many_y),
        "csr array": (csr_array(sparse), many_y),
        "frame": (pd.DataFrame(many, columns=[f"f{i}" for i in range(30)]), pd.Series(many_y, name="label")),
        "ties": (np.round(few[:, :3] * 2), few_y),
    }


DATA = datasets()


def agree(mine: Any, theirs: Any, data: str) -> None:
    x, y = DATA[data]
    found, expected = mine.fit_resample(x, y), theirs.fit_resample(x, y)
    same(found[0], expected[0])
    same(found[1], expected[1])
    assert len(expected[1]) < len(mine.smote_.gap_)  # something was dropped
    traced(mine, x, y, *found)


def traced(sampler: Any, x: Any, y: Any, rows: Any, labels: Any) -> None:
    """Every row of the output is a row of the input, or lies where its two parents and its gap say."""
    dense, out = (np.asarray(t.toarray() if issparse(t) else t) for t in (x, rows))
    y, labels = np.asarray(y), np.asarray(labels)
    a, b, gap, synthetic = sampler.parent_a_, sampler.parent_b_, sampler.gap_, sampler.is_synthetic_
    assert len(a) == len(b) == len(gap) == len(synthetic) == len(out)
    assert synthetic.any()
    assert not synthetic.all()
    np.testing.assert_array_equal(out[~synthetic], dense[a[~synthetic]])
    made = dense[a[synthetic]] + gap[synthetic, None] * (dense[b[synthetic]] - dense[a[synthetic]])
    np.testing.assert_allclose(out[synthetic], made, rtol=1e-5, atol=1e-5)
    for parent in (a, b):
        np.testing.assert_array_equal(y[parent], labels)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("strategy", ["auto", "not minority"])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", ["SMOTETomek", "SMOTEENN"])
def test_equals_imbalanced_learn(data: str, strategy: str, seed: int, name: str) -> None:
    mine = getattr(ours, name)(sampling_strategy=strategy, random_state=seed, compatible=True)
    theirs = getattr(peer, name)(sampling_strategy=strategy, random_state=seed)
    if strategy == "not minority" and data not in ("three classes", "text labels"):
        return  # two classes: nothing is made
    agree(mine, theirs, data)


@pytest.mark.parametrize("name", ["SMOTETomek", "SMOTEENN"])
def test_shares_and_counts(name: str) -> None:
    for strategy in (0.6, {1: 300}, lambda y: {1: 2 * int((y == 1).sum())}):
        mine = getattr(ours, name)(sampling_strategy=strategy, random_state=1, compatible=True)
        theirs = getattr(peer, name)(sampling_strategy=strategy, random_state=1)
        agree(mine, theirs, "many features")


def test_own_parts() -> None:
    mine = ours.SMOTETomek(
        smote=SMOTE(k_neighbors=2, random_state=3, compatible=True),
        tomek=TomekLinks(sampling_strategy="majority"),
        n_jobs=1,
    )
    theirs = peer.SMOTETomek(
        smote=peer_over.SMOTE(k_neighbors=2, random_state=3),
        tomek=peer_under.TomekLinks(sampling_strategy="majority"),
        n_jobs=1,
    )
    agree(mine, theirs, "three classes")
    assert not hasattr(mine.smote, "sampling_strategy_")
    edited: dict[str, Any] = {"n_neighbors": 5, "kind_sel": "mode"}
    mine = ours.SMOTEENN(random_state=3, compatible=True, enn=EditedNearestNeighbours(**edited))
    theirs = peer.SMOTEENN(random_state=3, enn=peer_under.EditedNearestNeighbours(**edited))
    agree(mine, theirs, "three classes")
    with pytest.raises(ValueError, match="smote"):
        ours.SMOTEENN(smote=TomekLinks()).fit_resample(*DATA["few features"])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("estimator", "check"), checks(ours.SMOTETomek(random_state=0), ours.SMOTEENN(random_state=0)))
def test_estimator_checks_of_imbalanced_learn(estimator: Any, check: Any) -> None:
    check(estimator)
