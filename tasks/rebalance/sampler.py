"""What all samplers share: imbalanced-learn's interface (`fit_resample`) on scikit-learn's base alone.

A user's data frame, list or sparse matrix comes back as what it was, its columns with the types they had.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.preprocessing import label_binarize
from sklearn.utils import InputTags, Tags, TargetTags, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from tasks.rebalance.strategy import Kind, resolve

SPARSE = ["csr", "csc"]


@dataclass(slots=True)
class SamplerTags:
    """What only a sampler has."""

    sample_indices: bool = False
    """Whether `sample_indices_` names the input row of each output row."""


@dataclass(slots=True)
class FrameTags(InputTags):
    """scikit-learn's input tags, and one that imbalanced-learn's checks read."""

    dataframe: bool = True


@dataclass(slots=True)
class AllTags(Tags):
    """scikit-learn's tags with a sampler's."""

    sampler_tags: SamplerTags | None = None


def take(x: Any, rows: NDArray[np.int64]) -> Any:
    """Rows of an array, a sparse matrix or a data frame."""
    return x.iloc[rows] if hasattr(x, "iloc") else x[rows]


def by_class(y: NDArray[Any]) -> dict[Any, int]:
    """Rows of each class, in the order of the labels."""
    labels, counts = np.unique(y, return_counts=True)
    return dict(zip(labels, counts.tolist(), strict=True))


def settled(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """Computed values in the type of their column.

    Whole numbers are rounded, a half to the even one; of a boolean the nearer parent's value is taken, at half way
    False.

    Parameters
    ----------
    values
        Floating point, of any shape.
    kind
        Type of the column.

    Returns
    -------
    array of `kind`
    """
    if kind.kind == "b":
        return values > 0.5
    if kind.kind in "iu":
        return np.rint(values).astype(kind)
    return values.astype(kind, copy=False)


class Sampler(OneToOneFeatureMixin, BaseEstimator):
    """Base of all samplers. A subclass says what it does with checked rows in `_resample`."""

    _estimator_type: ClassVar[str] = "sampler"
    _sampling_type: ClassVar[Kind] = "over-sampling"
    _raw_rows: ClassVar[bool] = False
    """Whether rows are only moved, never looked into: then they may hold anything, and a frame stays one."""
    sampling_strategy: Any
    sampling_strategy_: dict[Any, int]
    n_features_in_: int

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        raise NotImplementedError

    def _truncates(self) -> bool:
        # Whether computed values of whole-number columns are cut off, as imbalanced-learn does.
        return bool(getattr(self, "compatible", False))

    def _rows(self, X: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        # X and y, checked; of the forms that `_resample` expects.
        check: Any = validate_data
        if self._raw_rows:
            if len(y) < 1:
                raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
            rows: Any = X
            if not hasattr(X, "iloc"):
                checked: Any = check_array
                rows = checked(X, dtype=None, accept_sparse=SPARSE, ensure_all_finite=False)
            return check(self, X=rows, y=y, skip_check_array=True)
        try:
            return check(self, X=X, y=y, accept_sparse=SPARSE)
        except ValueError as error:
            if "NaN" in str(error) or "infinity" in str(error):
                raise ValueError(not_finite(X, str(error))) from error
            raise

    def _checked(self, X: Any, y: Any) -> tuple[Any, NDArray[Any], bool]:
        one_vs_all = type_of_target(y) == "multilabel-indicator"
        if one_vs_all and (np.asarray(y).sum(axis=1) > 1).any():
            # The wording that imbalanced-learn's checks look for.
            raise ValueError(
                "Imbalanced-learn currently supports binary, multiclass and binarized encoded multiclasss targets. "
                "Multilabel and multioutput targets are not supported."
            )
        labels = np.asarray(y).argmax(axis=1) if one_vs_all else column_or_1d(y)
        x, labels = self._rows(X, labels)
        self.sampling_strategy_ = resolve(labels, by_class(labels), self.sampling_strategy, self._sampling_type)
        return x, labels, one_vs_all

    def fit(self, X: Any, y: Any) -> "Sampler":
        """Check the input and work out how many rows of each class are wanted; `fit_resample` does the work.

        Parameters
        ----------
        X
            Rows: an array, data frame, list or sparse matrix of shape (n, p).
        y
            n labels.

        Returns
        -------
        Sampler
            Itself, with `sampling_strategy_`.
        """
        self._validate_params()
        self._checked(X, y)
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Resample a data set.

        Parameters
        ----------
        X
            Rows: an array, data frame, list or sparse matrix of shape (n, p).
        y
            n labels; or one column of 0 and 1 for each class.

        Returns
        -------
        X_resampled, y_resampled
            In the form and types of X and y.

        Raises
        ------
        ValueError
            Values are missing, there is one class only, or the strategy does not fit the classes.
        """
        self._validate_params()
        check_classification_targets(y)
        x, labels, one_vs_all = self._checked(X, y)
        rows, classes = self._resample(x, labels)
        binary = label_binarize(classes, classes=np.unique(labels)) if one_vs_all else classes
        out, target = _as_given(rows, X, self._truncates()), _as_given(binary, y, truncate=False)
        if hasattr(out, "index") and hasattr(target, "iloc") and not isinstance(out, list):
            target.index = out.index
        return out, target

    def __sklearn_tags__(self) -> Any:
        return AllTags(
            estimator_type="sampler",
            target_tags=TargetTags(required=True),
            input_tags=FrameTags(sparse=True),
            sampler_tags=SamplerTags(),
        )


def not_finite(X: Any, problem: str) -> str:
    """The error's text with the columns that have missing or infinite values, and what to do about them."""
    names = list(getattr(X, "columns", []))
    if hasattr(X, "iloc"):
        values: Any = X.to_numpy(dtype=np.float64, na_value=np.nan)  # pandas' own NA is no number
    else:
        values = X.data if issparse(X) else np.asarray(X, dtype=np.float64)
    where = ""
    if not issparse(X):
        columns = np.flatnonzero(~np.isfinite(values).all(axis=0))
        shown = ", ".join(f"'{names[c]}'" if names else str(c) for c in columns[:10])
        more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
        where = f" Columns with such values: {shown}{more}."
    return (
        f"{problem.splitlines()[0]}{where} Fill them before resampling (in a pipeline, by SimpleImputer, "
        "so that the filling is learned from the training rows alone), or leave the columns out."
    )


def _as_given(value: Any, given: Any, truncate: bool) -> Any:
    """An array (or sparse matrix, or frame) in the form that the user's had."""
    form = type(given).__name__
    if form == "list":
        return value.tolist()
    if form == "Series":
        import pandas as pd

        return pd.Series(value, dtype=given.dtype, name=given.name)
    if form != "DataFrame":
        return value
    import pandas as pd

    if issparse(value):
        return pd.DataFrame.sparse.from_spmatrix(value, columns=given.columns).astype(given.dtypes)
    if isinstance(value, pd.DataFrame):  # rows that were moved keep their index
        return value.astype(given.dtypes)
    frame: Any = pd.DataFrame(value, columns=given.columns)
    if not truncate and getattr(value.dtype, "kind", "O") == "f":
        for place, kind in enumerate(given.dtypes):
            whole = getattr(kind, "kind", "O")
            if whole in "iub":
                column: Any = settled(value[:, place], np.dtype("bool" if whole == "b" else np.float64))
                frame.isetitem(place, column if whole == "b" else np.rint(column))
    return frame.astype(given.dtypes)
