"""What the tests against imbalanced-learn share: labelled rows, equality in every form of table, its own checks."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from imblearn.utils.estimator_checks import estimator_checks_generator
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.datasets import make_classification


def labelled(
    rows: int, features: int, weights: list[float], seed: int, apart: float = 0.4
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows of classes with these shares, `apart` from each other."""
    x, y = make_classification(
        n_samples=rows,
        n_features=features,
        n_informative=4,
        n_classes=len(weights),
        weights=weights,
        class_sep=apart,
        n_clusters_per_class=1,
        random_state=seed,
    )
    return np.asarray(x), np.asarray(y)


def same(a: Any, b: Any) -> None:
    """Equal values, of the same types, in the same form."""
    assert type(a) is type(b)
    if issparse(a):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.toarray(), b.toarray())
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    elif isinstance(a, pd.Series):
        pd.testing.assert_series_equal(a, b)
    else:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def checks(*samplers: Any) -> list[Any]:
    """imbalanced-learn's estimator checks of some samplers, to parametrize a test with."""
    pairs: list[Any] = [pair for sampler in samplers for pair in estimator_checks_generator(sampler)]
    return [pytest.param(e, check, id=f"{e}-{getattr(check, 'func', check).__name__}") for e, check in pairs]
