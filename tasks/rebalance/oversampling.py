"""Over-sampling in imbalanced-learn's form: copies, SMOTE and ADASYN; where each row came from is kept.

By default the rows made are binmill's: draws keyed by the class and the row's number, exactly as many rows as asked
for, whole numbers rounded, equally near rows in the order of their numbers. `compatible=True` gives, for the same
`random_state`, imbalanced-learn's result array for array.
"""

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.sparsefuncs import mean_variance_axis

from tasks.rebalance.plan import Plan, by_difficulty, copies, pooled
from tasks.rebalance.sampler import Sampler, settled, take
from tasks.rebalance.search import nearest, neighbors

CHUNK_BYTES = 256 << 10
"""Values of synthetic rows that are computed at once: some arrays of these fit into a processor's second cache."""

OVER: dict[str, list[Any]] = {
    "sampling_strategy": [
        Interval(numbers.Real, 0, 1, closed="right"),
        StrOptions({"auto", "minority", "not minority", "not majority", "all"}),
        Mapping,
        callable,
    ],
    "random_state": ["random_state"],
    "compatible": ["boolean"],
}
"""What the parameters that every over-sampler has may be."""

SEARCH: list[Any] = [
    Interval(numbers.Integral, 1, None, closed="left"),
    HasMethods(["kneighbors", "kneighbors_graph"]),
]
"""What a number of neighbours may be: or a search that holds it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Synthetic rows of one class: a + step · twist · (b - a), not made yet."""

    label: Any
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    step: NDArray[np.float64]
    twist: NDArray[np.float64] | None = None

    def gap(self) -> NDArray[np.float64]:
        """Where each row lies between its parents."""
        return self.step if self.twist is None else self.step * self.twist


def between(x: Any, drawn: Drawn, *, truncate: bool, into: NDArray[Any] | None = None) -> Any:
    """Make rows.

    Parameters
    ----------
    x
        [n, p], dense or sparse.
    drawn
        Which rows, and where between them.
    truncate
        Compute the difference in x's own type and cut off what does not fit the result's, as imbalanced-learn does;
        else compute in float64, and round whole numbers.
    into
        Where dense rows are written; else into a new array.

    Returns
    -------
    [len(drawn.a), p]
        Of x's type and form.
    """
    if sparse.issparse(x):
        other: Any = x[drawn.b] - x[drawn.a]
        for factor in (drawn.twist, drawn.step):
            if factor is not None:
                other = type(x)(other.multiply(factor[:, None]))
        made: Any = type(x)(x[drawn.a] + other)
        if not truncate:
            made.data = settled(made.data, x.dtype)
        return made.astype(x.dtype)
    out = np.empty((len(drawn.a), x.shape[1]), dtype=x.dtype) if into is None else into
    rows = max(1, CHUNK_BYTES // (8 * max(1, x.shape[1])))
    for start in range(0, len(out), rows):
        part = slice(start, start + rows)
        base, other = x[drawn.a[part]], x[drawn.b[part]]
        if not truncate:
            base, other = base.astype(np.float64, copy=False), other.astype(np.float64, copy=False)
        other = other - base
        if drawn.twist is not None:
            other *= drawn.twist[part, None]
        made = base + drawn.step[part, None] * other
        out[part] = made.astype(x.dtype) if truncate else settled(made, x.dtype)
    return out


class OverSampler(Sampler):
    """Base of the samplers that put rows between rows; a subclass says between which."""

    random_state: Any
    compatible: bool
    is_synthetic_: NDArray[np.bool_]
    parent_a_: NDArray[np.int64]
    parent_b_: NDArray[np.int64]
    gap_: NDArray[np.float64]

    def _begin(self) -> None:
        """Make the estimators that are used, before the first class."""

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        """Between which rows `count` rows of a class are to lie: binmill's way."""
        raise NotImplementedError

    def _theirs(self, x: Any, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        """Draw as imbalanced-learn does."""
        raise NotImplementedError

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _drawn(self, x: Any, y: NDArray[Any]) -> list[Drawn]:
        found: list[Drawn] = []
        seed = 0 if self.compatible else self._seed()
        for label, count in self.sampling_strategy_.items():
            if count == 0:
                continue
            if self.compatible:
                found += self._theirs(x, y, label, count)
            else:
                found.append(Drawn(label, *self._plan(x, y, label, count).rows(seed, str(label), 0, count)))
        return found

    def _remember(self, rows: int, drawn: list[Drawn]) -> None:
        # Where each row of the output came from.
        every = np.arange(rows)
        made = sum(len(part.a) for part in drawn)
        self.is_synthetic_ = np.repeat([False, True], [rows, made])
        self.parent_a_ = np.concatenate([every, *(part.a for part in drawn)])
        self.parent_b_ = np.concatenate([every, *(part.b for part in drawn)])
        self.gap_ = np.concatenate([np.zeros(rows), *(part.gap() for part in drawn)])

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        self._begin()
        drawn = self._drawn(x, y)
        self._remember(len(y), drawn)
        labels = np.concatenate([y, *(np.full(len(part.a), part.label, dtype=y.dtype) for part in drawn)])
        if sparse.issparse(x):
            made = [between(x, part, truncate=self.compatible) for part in drawn]
            return sparse.vstack([x, *made], format=x.format), labels
        rows = np.empty((len(labels), x.shape[1]), dtype=x.dtype)
        rows[: len(y)] = x
        start = len(y)
        for part in drawn:
            between(x, part, truncate=self.compatible, into=rows[start : start + len(part.a)])
            start += len(part.a)
        return rows, labels


def search_for(wanted: Any, itself: int = 1) -> Any:
    """A fresh neighbour search for so many neighbours, and the row itself; or a clone of the user's."""
    return NearestNeighbors(n_neighbors=int(wanted) + itself) if isinstance(wanted, numbers.Integral) else clone(wanted)


def need(label: Any, rows: int, k: int, name: str = "k_neighbors") -> None:
    """Refuse a class with too few rows for its neighbours."""
    if rows <= k:
        raise ValueError(
            f"class '{label}' has {rows} rows, {name}={k} needs at least {k + 1}: "
            f"lower {name}, or name the other classes in sampling_strategy"
        )


class Interpolating(OverSampler):
    """Base of the SMOTE family: the `k_neighbors` of a row."""

    k_neighbors: Any
    nn_k_: Any

    def _begin(self) -> None:
        self.nn_k_ = search_for(self.k_neighbors)

    def _partners(
        self, x: Any, own: NDArray[np.int64], label: Any, among: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        # The k nearest of the rows `among` (else of the rows `own`) to each of the rows `own`, itself left out.
        k = self.nn_k_.n_neighbors - 1
        pool = own if among is None else among
        need(label, len(pool), k)
        if not len(own):
            return np.empty((0, k), dtype=np.int64)
        if sparse.issparse(x) or not isinstance(self.k_neighbors, numbers.Integral):
            found = self.nn_k_.fit(take(x, pool)).kneighbors(take(x, own), return_distance=False)
            return pool[without(found, own, pool)]
        if among is None:
            return own[neighbors(np.asarray(x[own], dtype=np.float64), k)]
        return around(x, own, pool, k)

    def _uniform(
        self,
        parents: NDArray[np.int64],
        near: NDArray[np.int64],
        label: Any,
        count: int,
        step: float = 1.0,
    ) -> Drawn:
        # imbalanced-learn's draws: the place in the neighbour table, then the step.
        stream = check_random_state(self.random_state)
        places = stream.randint(low=0, high=near.size, size=count)
        steps = step * stream.uniform(size=count)
        row, slot = np.divmod(places, near.shape[1])
        return Drawn(label, parents[row], near[row, slot], steps)


def without(found: NDArray[np.int64], own: NDArray[np.int64], pool: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of k + 1 places found in `pool` for each row of `own`, k: the row itself left out, else the last."""
    itself = pool[found] == own[:, None]
    last = np.where(itself.any(axis=1), itself.argmax(axis=1), found.shape[1] - 1)
    keep = np.arange(found.shape[1])[None, :] != last[:, None]
    return found[keep].reshape(len(found), -1)


def around(x: Any, own: NDArray[np.int64], pool: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k nearest of the rows `pool` to each of the rows `own`, itself left out; exact, ties by row number."""
    wide = [np.asarray(x[rows], dtype=np.float64) for rows in (own, pool)]
    return nearest(wide[0], wide[1], pool, k, exclude=own)[1]


class RandomOverSampler(OverSampler):
    """Repeat rows of each targeted class, drawn with replacement.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    shrinkage : float, dict or None, default=None
        Width of a smoothed bootstrap, for all classes or by class: normal noise of Scott's width times this is added
        to each copy (Menardi and Torelli, 2014). None: plain copies, of rows of any type.
    compatible : bool, default=False
        Draw as imbalanced-learn does.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    sample_indices_ : int64[n]
        The input row of each output row.
    shrinkage_ : dict or None
        Width of each class's noise.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`; a copy is of one row, so both parents are that row and the gap is 0.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {
        "shrinkage": [Interval(numbers.Real, 0, None, closed="left"), dict, None]
    }
    sample_indices_: NDArray[np.int64]
    shrinkage_: dict[Any, float] | None

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        shrinkage: float | dict[Any, float] | None = None,
        compatible: bool = False,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.shrinkage = shrinkage
        self.compatible = compatible

    _raw_rows = True

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = True
        tags.sampler_tags.sample_indices = True
        return tags

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        return copies(np.flatnonzero(y == label), count)

    def _widths(self) -> dict[Any, float] | None:
        given = self.shrinkage
        if given is None:
            return None
        if not isinstance(given, dict):
            return dict.fromkeys(self.sampling_strategy_, float(given))
        if missing := set(self.sampling_strategy_) - set(given):
            raise ValueError(f"`shrinkage` should contain a factor for each class resampled; missing: {missing}")
        if low := {label: width for label, width in given.items() if width < 0}:
            raise ValueError(f"The shrinkage factor needs to be >= 0. Got {low}")
        return given

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        widths = self.shrinkage_ = self._widths()
        if widths is not None:
            try:
                x = check_array(x, accept_sparse=True)
            except ValueError as error:
                raise ValueError(
                    "When shrinkage is not None, X needs to contain only numerical data: noise is added to it"
                ) from error
        stream = check_random_state(self.random_state)
        made: list[Any] = []
        drawn: list[Drawn] = [] if self.compatible else self._drawn(x, y)
        for label, count in self.sampling_strategy_.items():
            own = np.flatnonzero(y == label)
            if self.compatible:  # one stream for rows and noise of all classes
                rows = stream.choice(own, size=count, replace=True)
                drawn.append(Drawn(label, rows, rows, np.zeros(count)))
            elif count:
                rows = next(part.a for part in drawn if part.label == label)
            else:
                continue
            if widths is not None:
                made.append(_noisy(x, own, rows, widths[label], stream))
        self._remember(len(y), drawn)
        self.sample_indices_ = self.parent_a_
        labels = y[self.parent_a_]
        if widths is not None:
            stacked: Any = sparse.vstack([x, *made], format=x.format) if sparse.issparse(x) else np.vstack([x, *made])
            return stacked, labels
        rows = take(x, self.parent_a_)
        return (rows.reset_index(drop=True) if hasattr(rows, "iloc") else rows), labels


def _noisy(x: Any, own: NDArray[np.int64], rows: NDArray[np.int64], width: float, stream: Any) -> Any:
    # Copies of `rows` with normal noise, as wide as Scott's rule says for n rows of p columns (Menardi, Torelli).
    n, p = x.shape
    constant = (4 / ((p + 2) * n)) ** (1 / (p + 4))
    variance: Any = mean_variance_axis  # scikit-learn declares no types
    spread = np.sqrt(variance(x[own], axis=0)[1]) if sparse.issparse(x) else np.std(x[own], axis=0)
    noise = stream.randn(len(rows), p).dot(np.diagflat(width * constant * spread))
    made: Any = noise + x[rows]
    return sparse.csr_matrix(made, dtype=x.dtype) if sparse.issparse(x) else made


class SMOTE(Interpolating):
    """Synthetic rows between a row and one of its nearest neighbours in its class (Chawla et al., 2002).

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    k_neighbors : int or estimator, default=5
        Neighbours of a row to draw from, or a neighbour search for one more, as a row is its own first neighbour.
    compatible : bool, default=False
        Draw, round and settle ties as imbalanced-learn does.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    nn_k_ : estimator
        The neighbour search, where it is scikit-learn's or the user's.
    is_synthetic_ : bool[n]
        Whether each output row was made.
    parent_a_, parent_b_ : int64[n]
        The input rows each output row lies between; a real row is both.
    gap_ : float64[n]
        Where between them, in [0, 1): a + gap · (b - a); 0 for a real row.

    References
    ----------
    Chawla, Bowyer, Hall, Kegelmeyer: SMOTE, JAIR 16 (2002).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {"k_neighbors": SEARCH}

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        k_neighbors: Any = 5,
        compatible: bool = False,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.k_neighbors = k_neighbors
        self.compatible = compatible

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        own = np.flatnonzero(y == label)
        return pooled([(own, self._partners(x, own, label), count)])

    def _theirs(self, x: Any, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        own = np.flatnonzero(y == label)
        near = self.nn_k_.fit(take(x, own)).kneighbors(take(x, own), return_distance=False)[:, 1:]
        return [self._uniform(own, own[near], label, count)]


class ADASYN(OverSampler):
    """SMOTE with more rows where the neighbours are of other classes (He et al., 2008).

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms; exactly so many (imbalanced-learn's own rounds
        each row's share, and with `compatible` so do we).
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    n_neighbors : int or estimator, default=5
        Neighbours looked at, or a neighbour search for one more, as a row is its own first neighbour.
    compatible : bool, default=False
        Draw, round and settle ties as imbalanced-learn does.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    nn_ : estimator
        The neighbour search, where it is scikit-learn's or the user's.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`.

    References
    ----------
    He, Bai, Garcia, Li: ADASYN, IJCNN 2008.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {"n_neighbors": SEARCH}
    nn_: Any

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        n_neighbors: Any = 5,
        compatible: bool = False,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.n_neighbors = n_neighbors
        self.compatible = compatible

    def _begin(self) -> None:
        self.nn_ = search_for(self.n_neighbors)
        self._stream = check_random_state(self.random_state)

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        own, k = np.flatnonzero(y == label), self.nn_.n_neighbors - 1
        need(label, len(own), k, "n_neighbors")
        every = np.arange(len(y))
        if sparse.issparse(x) or not isinstance(self.n_neighbors, numbers.Integral):
            all_near = without(self.nn_.fit(x).kneighbors(x[own], return_distance=False), own, every)
            near = own[without(self.nn_.fit(x[own]).kneighbors(x[own], return_distance=False), own, own)]
        else:
            all_near = around(x, own, every, k)
            near = own[neighbors(np.asarray(x[own], dtype=np.float64), k)]
        plan = by_difficulty((y[all_near] != label).sum(axis=1), near, count)
        return Plan(own[plan.parents], plan.near, plan.scale, plan.starts, plan.stops)

    def _theirs(self, x: Any, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        own, k = np.flatnonzero(y == label), self.nn_.n_neighbors - 1
        near = self.nn_.fit(x).kneighbors(take(x, own), return_distance=False)[:, 1:]
        ratio = (y[near] != label).sum(axis=1) / k
        if not ratio.sum():
            raise RuntimeError(
                f"no row of class '{label}' has a neighbour of another class, and ADASYN goes by these; "
                "use SMOTE instead"
            )
        given = np.rint(ratio / ratio.sum() * count).astype(int)
        made = int(given.sum())
        if not made:
            raise ValueError("No samples will be generated with the provided ratio settings.")
        near = own[self.nn_.fit(take(x, own)).kneighbors(take(x, own), return_distance=False)[:, 1:]]
        row = np.repeat(np.arange(len(own)), given)
        slot = self._stream.choice(k, size=made)
        return [Drawn(label, own[row], near[row, slot], self._stream.uniform(size=(made, 1))[:, 0])]
