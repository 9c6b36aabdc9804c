"""SMOTE with nominal columns in imbalanced-learn's form: SMOTENC (some of them nominal) and SMOTEN (all of them).

By default the rows made are binmill's: draws keyed by the class and the row's number, whole numbers rounded, equally
near rows in the order of their numbers, and of equally common values the first in the encoder's order.
`compatible=True` gives, for the same `random_state`, imbalanced-learn's result array for array.
"""

import numbers
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from sklearn.utils import check_array, check_random_state
from sklearn.utils._indexing import _get_column_indices  # pyright: ignore[reportPrivateUsage]
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.sparsefuncs import mean_variance_axis
from sklearn.utils.validation import validate_data

from tasks.rebalance.compatible import certain_neighbors, drawn_votes, partitioned
from tasks.rebalance.mixed import class_shares, mixed_neighbors, penalty_of, vdm, vdm_neighbors, vote
from tasks.rebalance.oversampling import OVER, SEARCH, Drawn, Interpolating, between, need, without
from tasks.rebalance.plan import Plan, copies, pooled
from tasks.rebalance.sampler import SPARSE, not_finite, settled

ENCODER: list[Any] = [HasMethods(["fit_transform", "inverse_transform"]), None]
"""What an encoder of nominal columns may be."""
SEARCH_MIB = 16
"""Working memory of scikit-learn's search for the rows that are left to it."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """Rows, their continuous and nominal columns apart."""

    continuous: NDArray[Any]
    """[n, p], of the type that imbalanced-learn would compute in."""
    codes: NDArray[np.int32]
    """[n, q], places in the encoder's categories."""
    sizes: list[int]
    """Categories of each nominal column."""

    def encoded(self, own: NDArray[np.int64], unit: Any) -> Any:
        """Some rows as one sparse matrix, `unit` in the column of each category that a row has."""
        starts = np.cumsum([0, *self.sizes])
        codes = self.codes[own]
        data = np.full(codes.size, unit, dtype=self.continuous.dtype)
        ends = np.arange(len(own) + 1) * codes.shape[1]
        marks = sparse.csr_matrix((data, (codes + starts[:-1]).ravel(), ends), shape=(len(own), int(starts[-1])))
        left: Any = sparse.csr_matrix(self.continuous[own])
        return sparse.hstack([left, marks], format="csr", dtype=self.continuous.dtype)


@dataclass(frozen=True, slots=True)
class Voted(Drawn):
    """Synthetic rows whose nominal values are known."""

    votes: NDArray[np.int32] = field(kw_only=True)
    """[len(a), q], codes."""


class SMOTENC(Interpolating):
    """SMOTE for rows with continuous and nominal columns (Chawla et al., 2002, section 6.1).

    Two rows are as far apart as their continuous columns, and for each nominal column that differs the square of
    the median of the class's standard deviations is added to the squared distance. A synthetic row lies between its
    parents; its nominal values are the commonest among the k neighbours of `parent_a_`.

    Parameters
    ----------
    categorical_features : "auto" or array-like of int, str or bool
        The nominal columns: their places, names or a mask; "auto": a data frame's columns of type category.
    categorical_encoder : estimator or None, default=None
        One-hot encoder with a column for each category; None: scikit-learn's. Its `categories_` order the values.
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    k_neighbors : int or estimator, default=5
        Neighbours of a row to draw from, or a neighbour search for one more, as a row is its own first neighbour;
        a search is given one-hot columns, sparse, scaled so that Euclidean distance is the one above.
    compatible : bool, default=False
        Draw, cut off and settle ties as imbalanced-learn does. Nominal values that are equally common are then
        drawn anew for each row.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    nn_k_ : estimator
        The neighbour search, where it is scikit-learn's or the user's.
    categorical_encoder_ : estimator
        The fitted encoder.
    categorical_features_, continuous_features_ : int64
        Places of the columns.
    median_std_ : dict
        The median of the standard deviations of each class that rows are added to.
    neighbors_ : dict
        Of each such class int64[m, k]: of its rows in their order, the row numbers of those that vote.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`.

    References
    ----------
    Chawla, Bowyer, Hall, Kegelmeyer: SMOTE, JAIR 16 (2002).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {
        "k_neighbors": SEARCH,
        "categorical_features": ["array-like", StrOptions({"auto"})],
        "categorical_encoder": ENCODER,
    }
    _raw_rows: ClassVar[bool] = True
    categorical_encoder_: Any
    categorical_features_: NDArray[np.int64]
    continuous_features_: NDArray[np.int64]
    median_std_: dict[Any, float]
    neighbors_: dict[Any, NDArray[np.int64]]

    def __init__(
        self,
        categorical_features: Any,
        *,
        categorical_encoder: Any = None,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        k_neighbors: Any = 5,
        compatible: bool = False,
    ) -> None:
        self.categorical_features = categorical_features
        self.categorical_encoder = categorical_encoder
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.k_neighbors = k_neighbors
        self.compatible = compatible

    def _begin(self) -> None:
        super()._begin()
        self.median_std_, self.neighbors_ = {}, {}

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        self._begin()
        self._find_columns(x)
        mixed = self._split(x.toarray() if sparse.issparse(x) else x)
        drawn = self._drawn(mixed, y)
        self._remember(len(y), drawn)
        labels = [y, *(np.full(len(part.a), part.label, dtype=y.dtype) for part in drawn)]
        return self._joined(x, mixed, self._new_columns(mixed, y, drawn)), np.concatenate(labels)

    def _find_columns(self, x: Any) -> None:
        p = x.shape[1]
        if isinstance(self.categorical_features, str):
            if not hasattr(x, "iloc"):
                raise ValueError(
                    "When `categorical_features='auto'`, the input data should be a pandas.DataFrame. "
                    f"Got {type(x)} instead: name the nominal columns."
                )
            named = [i for i, kind in enumerate(x.dtypes) if getattr(kind, "name", "") == "category"]
        else:
            named = _get_column_indices(x, self.categorical_features)
        self.categorical_features_ = np.array(named, dtype=np.int64)
        self.continuous_features_ = np.setdiff1d(np.arange(p), self.categorical_features_)
        if self.categorical_features_.size == p:
            raise ValueError(
                "SMOTE-NC is not designed to work only with categorical features. It requires some numerical "
                "features: use SMOTEN."
            )
        if not self.categorical_features_.size:
            raise ValueError(
                "SMOTE-NC is not designed to work only with numerical features. It requires some categorical "
                "features: use SMOTE."
            )

    def _split(self, x: Any) -> Mixed:
        numbers_of, nominal = (_columns(x, c) for c in (self.continuous_features_, self.categorical_features_))
        check: Any = check_array
        try:
            continuous = check(numbers_of, accept_sparse=SPARSE)
        except ValueError as error:
            if "NaN" in str(error) or "infinity" in str(error):
                raise ValueError(not_finite(numbers_of, str(error))) from error
            raise
        continuous = continuous.toarray() if sparse.issparse(continuous) else continuous
        given: Any = self.categorical_encoder
        one_hot: Any = OneHotEncoder  # scikit-learn declares its dtype as float64 alone
        encoder: Any = one_hot(handle_unknown="ignore", dtype=np.float32) if given is None else clone(given)
        marks: Any = sparse.csr_matrix(encoder.fit_transform(nominal))
        sizes = [len(values) for values in encoder.categories_]
        if marks.shape[1] != sum(sizes) or marks.nnz != nominal.shape[0] * len(sizes):
            raise ValueError(
                "SMOTENC requires a one-hot encoding with one column per category: the categorical_encoder gives "
                f"{marks.shape[1]} columns for {sum(sizes)} categories, and {marks.nnz} ones for "
                f"{nominal.shape[0] * len(sizes)} values. Do not let it drop columns, merge infrequent categories or "
                "leave out values"
            )
        self.categorical_encoder_ = encoder
        marks.sort_indices()
        codes = marks.indices.reshape(len(continuous), -1) - np.cumsum([0, *sizes[:-1]])
        return Mixed(continuous, codes.astype(np.int32), sizes)

    def _plan(self, x: Mixed, y: NDArray[Any], label: Any, count: int) -> Plan:
        own, k = np.flatnonzero(y == label), self.nn_k_.n_neighbors - 1
        need(label, len(own), k)
        wide = x.continuous[own].astype(np.float64)
        penalty = self.median_std_[label] = penalty_of(wide)
        if isinstance(self.k_neighbors, numbers.Integral):
            near = own[mixed_neighbors(wide, x.codes[own], penalty, k)]
        else:
            rows = x.encoded(own, penalty / np.sqrt(2))
            near = own[without(self.nn_k_.fit(rows).kneighbors(rows, return_distance=False), own, own)]
        self.neighbors_[label] = near
        return pooled([(own, near, count)])

    def _theirs(self, x: Mixed, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        own, k = np.flatnonzero(y == label), self.nn_k_.n_neighbors - 1
        need(label, len(own), k)
        moments: Any = mean_variance_axis  # scikit-learn declares no types
        median = self.median_std_[label] = np.median(np.sqrt(moments(sparse.csr_matrix(x.continuous[own]), axis=0)[1]))
        # What stands for a category is in the type of the continuous columns: whole numbers cut it off.
        unit = np.asarray(median / np.sqrt(2)).astype(x.continuous.dtype)
        near = self.neighbors_[label] = own[self._theirs_near(x, own, unit)]
        drawn = self._uniform(own, near, label, count)
        stream = check_random_state(self.random_state)
        place = np.searchsorted(own, drawn.a)
        weight = unit if median else unit.dtype.type(1)
        votes = [drawn_votes(x.codes[:, c][near], place, size, weight, stream) for c, size in enumerate(x.sizes)]
        return [Voted(label, drawn.a, drawn.b, drawn.step, votes=np.column_stack(votes))]

    def _theirs_near(self, x: Mixed, own: NDArray[np.int64], unit: Any) -> NDArray[np.int64]:
        # What scikit-learn's search of the one-hot rows finds. It goes by rounded distances, and between equal ones
        # by how it partitions: where that could matter it is asked, elsewhere there is one answer.
        k = self.nn_k_.n_neighbors - 1
        near, certain = np.empty((len(own), k), dtype=np.int64), np.zeros(len(own), dtype=bool)
        if isinstance(self.k_neighbors, numbers.Integral):
            rounding = float(np.finfo(np.float32).eps) if x.continuous.dtype == np.float32 else 0.0
            wide = x.continuous[own].astype(np.float64)
            near, certain = certain_neighbors(wide, x.codes[own], np.sqrt(2) * float(unit), k, rounding)
        if not certain.all():
            rows = x.encoded(own, unit)
            with config_context(working_memory=SEARCH_MIB):
                near[~certain] = self.nn_k_.fit(rows).kneighbors(rows[~certain], return_distance=False)[:, 1:]
        return near

    def _new_columns(self, x: Mixed, y: NDArray[Any], drawn: list[Drawn]) -> list[NDArray[Any]]:
        # Of each column the values of the rows made: continuous ones as computed, in float64 where x has booleans.
        source = x.continuous.astype(np.float64) if x.continuous.dtype.kind == "b" else x.continuous
        made = np.concatenate([source[:0], *(between(source, part, truncate=self.compatible) for part in drawn)])
        votes = [x.codes[:0]]
        for part in drawn:
            if isinstance(part, Voted):
                votes.append(part.votes)
            else:
                place = np.searchsorted(np.flatnonzero(y == part.label), part.a)
                votes.append(vote(x.codes, self.neighbors_[part.label])[place])
        named = np.concatenate(votes)
        columns = dict(zip(self.continuous_features_.tolist(), made.T, strict=True))
        for i, column in enumerate(self.categorical_features_.tolist()):
            columns[column] = self.categorical_encoder_.categories_[i][named[:, i]]
        return [columns[c] for c in sorted(columns)]

    def _joined(self, x: Any, mixed: Mixed, new: list[NDArray[Any]]) -> Any:
        # The input and the rows made, in the input's form and types.
        rows = x.toarray() if sparse.issparse(x) else x
        if not self.compatible:
            for c in self.continuous_features_:
                new[c] = _rounded(new[c], _columns(rows, c))
        if hasattr(x, "iloc"):
            import pandas as pd

            added = [pd.Series(values).astype(x.dtypes.iloc[c]) for c, values in enumerate(new)]
            columns = [pd.concat([x.iloc[:, c], values], ignore_index=True) for c, values in enumerate(added)]
            frame = pd.concat(columns, axis=1)
            frame.columns = x.columns
            return frame
        n = len(rows)
        out = np.empty((n + len(new[0]), len(new)), dtype=rows.dtype)
        out[:n] = rows
        if self.compatible:
            out[:n, self.continuous_features_] = mixed.continuous
        for c, values in enumerate(new):
            out[n:, c] = values
        if not sparse.issparse(x):
            return out
        again = type(x)(out)
        return again.tocsr() if self.compatible else again

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.string = True
        return tags


def _columns(x: Any, places: Any) -> Any:
    return x.iloc[:, places] if hasattr(x, "iloc") else x[:, places]


def _rounded(values: NDArray[Any], column: Any) -> NDArray[Any]:
    # Values computed for a column: whole numbers or truth values where it has these, be it as objects.
    kind = getattr(column.dtype, "kind", "O")
    if kind == "O":
        kind = np.asarray(column.tolist()).dtype.kind
    types = {"b": np.dtype(np.bool_), "i": np.dtype(np.int64), "u": np.dtype(np.uint64)}
    return settled(values, types.get(kind, values.dtype))


@dataclass(frozen=True, slots=True)
class Named:
    """Rows of nominal columns."""

    codes: NDArray[np.int32]
    """[n, q], places in the encoder's categories."""
    shares: list[NDArray[np.float64]]
    """As `class_shares` gives them."""


class SMOTEN(Interpolating):
    """SMOTE for rows of nominal columns alone (Chawla et al., 2002, section 6.2).

    Two rows are as far apart as the value difference metric says: values are near if the classes are as common among
    the rows that have them. A synthetic row's values are the commonest among its parent and the k nearest rows; it
    lies between no two rows, so `parent_b_` is `parent_a_`.

    Parameters
    ----------
    categorical_encoder : estimator or None, default=None
        Encoder of values as whole numbers; None: scikit-learn's OrdinalEncoder. Its `categories_` order the values.
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    k_neighbors : int or estimator, default=5
        Neighbours of a row, or a search by given distances for one more, as a row is its own first neighbour; a
        search is given all distances within a class at once.
    compatible : bool, default=False
        Draw and settle ties as imbalanced-learn does; where more than k rows are as near as the row itself, the
        row may then be missing from the vote.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    nn_k_ : estimator
        The neighbour search, where it is scikit-learn's or the user's.
    categorical_encoder_ : estimator
        The fitted encoder.
    neighbors_ : dict
        Of each class that rows are added to int64[m, k + 1]: of its rows in their order, the row numbers of those
        that vote.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`; the gap is 0.

    References
    ----------
    Stanfill, Waltz: Toward memory-based reasoning, CACM 29 (1986). Cost, Salzberg, Machine Learning 10 (1993).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {
        "k_neighbors": SEARCH,
        "categorical_encoder": ENCODER,
    }
    categorical_encoder_: Any
    neighbors_: dict[Any, NDArray[np.int64]]

    def __init__(
        self,
        categorical_encoder: Any = None,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        k_neighbors: Any = 5,
        compatible: bool = False,
    ) -> None:
        self.categorical_encoder = categorical_encoder
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.k_neighbors = k_neighbors
        self.compatible = compatible

    def _rows(self, X: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        check: Any = validate_data
        try:
            return check(self, X=X, y=y, dtype=None, accept_sparse=SPARSE)
        except ValueError as error:
            if "NaN" in str(error):
                raise ValueError(
                    f"{str(error).splitlines()[0]} Fill missing values before resampling: a text of their own "
                    "('missing') makes them a value like the others."
                ) from error
            raise

    def _begin(self) -> None:
        super()._begin()
        self.nn_k_.set_params(metric="precomputed")
        self.neighbors_ = {}

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        if sparse.issparse(x):
            rows, labels = self._resample(x.toarray(), y)
            form: Any = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[x.format]
            return form(rows), labels
        self._begin()
        given: Any = self.categorical_encoder
        ordinal: Any = OrdinalEncoder  # scikit-learn declares its dtype as float64 alone
        self.categorical_encoder_ = ordinal(dtype=np.int32) if given is None else clone(given)
        codes = np.asarray(self.categorical_encoder_.fit_transform(x), dtype=np.int32)
        sizes = [len(values) for values in self.categorical_encoder_.categories_]
        classes = np.unique(y, return_inverse=True)[1].astype(np.int64)
        drawn = self._drawn(Named(codes, class_shares(codes, classes, sizes)), y)
        self._remember(len(y), drawn)
        made: list[Any] = [x]
        for part in drawn:
            place = np.searchsorted(np.flatnonzero(y == part.label), part.a)
            votes = vote(codes, self.neighbors_[part.label])[place]
            made.append(self.categorical_encoder_.inverse_transform(votes))
        labels = [y, *(np.full(len(part.a), part.label, dtype=y.dtype) for part in drawn)]
        return np.vstack(made), np.concatenate(labels)

    def _plan(self, x: Named, y: NDArray[Any], label: Any, count: int) -> Plan:
        return copies(self._voters(x, y, label), count)

    def _theirs(self, x: Named, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        own = self._voters(x, y, label)
        parents = own[check_random_state(self.random_state).choice(np.arange(len(own)), size=count, replace=True)]
        return [Drawn(label, parents, parents, np.zeros(count))]

    def _voters(self, x: Named, y: NDArray[Any], label: Any) -> NDArray[np.int64]:
        # Find who votes; the rows of the class are given back.
        own, k = np.flatnonzero(y == label), self.nn_k_.n_neighbors - 1
        need(label, len(own), k)
        if not isinstance(self.k_neighbors, numbers.Integral):
            distance = np.concatenate([part for _, part in vdm(x.codes[own], x.shares)])
            near = self.nn_k_.fit(distance).kneighbors(distance, return_distance=False)
        elif self.compatible:
            near = partitioned(x.codes[own], x.shares, k + 1)
        else:
            near = np.column_stack([np.arange(len(own)), vdm_neighbors(x.codes[own], x.shares, k)])
        self.neighbors_[label] = own[near]
        return own

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags
