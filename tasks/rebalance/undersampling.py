"""Under-sampling in imbalanced-learn's form: random, NearMiss, Tomek links, edited nearest neighbours.

All four only choose rows: `sample_indices_` says which, the classes in sorted order and within one as the method
yields them. The choice equals imbalanced-learn's for the same `random_state`; memory is bounded by blocks of rows.
"""

import numbers
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from tasks.rebalance.sampler import Sampler, take

TILE = 256
"""Rows scikit-learn multiplies at once: blocks that are whole tiles have its distances to the last bit."""

BLOCK = 4 * TILE * max(16, os.cpu_count() or 1)
"""Least rows to a block. With fewer than four tiles a thread scikit-learn shares the work out another way, and may
then return another of several equally near rows."""

BLOCK_BYTES = 128 << 20
"""Distances and indices of one block, where a query wants the whole minority. Smaller blocks are slower."""

_UNDER: dict[str, list[Any]] = {
    "sampling_strategy": [
        Interval(numbers.Real, 0, 1, closed="right"),
        StrOptions({"auto", "majority", "not minority", "not majority", "all"}),
        Mapping,
        callable,
    ]
}
_CLEAN: dict[str, list[Any]] = {"sampling_strategy": [*_UNDER["sampling_strategy"][:2], list, callable]}
_NEIGHBORS: list[Any] = [
    Interval(numbers.Integral, 1, None, closed="left"),
    HasMethods(["kneighbors", "kneighbors_graph"]),
]


def _finder(neighbors: Any, n_jobs: int | None, itself: int = 0) -> Any:
    # A fresh neighbour search; `itself` is 1 where each query row is its own first neighbour.
    if isinstance(neighbors, numbers.Integral):
        return NearestNeighbors(n_neighbors=int(neighbors) + itself, n_jobs=n_jobs)
    finder: Any = clone(neighbors)
    return finder.set_params(n_jobs=n_jobs)


def blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Cut row numbers into blocks of `size`, the last of up to twice as many: none is shorter but an only one.

    Parameters
    ----------
    rows
        int64[n].
    size
        Least rows to a block, 1 or more.

    Yields
    ------
    int64[m]
        At least one block, in order.
    """
    count = max(1, len(rows) // size)
    for i in range(count):
        yield rows[i * size : None if i == count - 1 else (i + 1) * size]


def _by_class(
    y: NDArray[Any], targets: Mapping[Any, int], choose: Callable[[Any, NDArray[np.int64]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    # The rows kept: of a targeted class those that `choose(label, its rows)` returns, of another all.
    kept: list[NDArray[np.int64]] = []
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        kept.append(choose(label, rows) if label in targets else rows)
    return np.concatenate(kept)


class _Selector(Sampler):
    """A sampler that keeps some rows and changes none."""

    _sampling_type = "under-sampling"
    sample_indices_: NDArray[np.int64]

    def _select(self, x: Any, y: NDArray[Any]) -> NDArray[np.int64]:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.sampler_tags.sample_indices = True
        return tags

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        self.sample_indices_ = self._select(x, y)
        return take(x, self.sample_indices_), y[self.sample_indices_]


class RandomUnderSampler(_Selector):
    """Keep rows of each targeted class at random.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows to keep of each class, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    replacement : bool, default=False
        Whether a row may be drawn more than once.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to keep of each targeted class.
    sample_indices_ : int64[n]
        The input row of each output row: classes in sorted order; within a targeted one as drawn, else as given.
    """

    _raw_rows = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _UNDER | {
        "random_state": ["random_state"],
        "replacement": ["boolean"],
    }

    def __init__(self, *, sampling_strategy: Any = "auto", random_state: Any = None, replacement: bool = False) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.replacement = replacement

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = True  # rows are moved, never looked into
        return tags

    def _select(self, x: Any, y: NDArray[Any]) -> NDArray[np.int64]:
        stream = check_random_state(self.random_state)

        def choose(label: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
            return rows[stream.choice(len(rows), size=self.sampling_strategy_[label], replace=self.replacement)]

        return _by_class(y, self.sampling_strategy_, choose)


class NearMiss(_Selector):
    """Keep the rows nearest to the minority (Mani and Zhang, 2003).

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows to keep of each class, in imbalanced-learn's forms.
    version : {1, 2, 3}, default=1
        1 keeps the rows with the least mean distance to their nearest minority rows, 2 to their farthest. 3 first
        keeps, of the class, the `n_neighbors_ver3` rows nearest to each minority row, then of these the ones with
        the greatest mean distance to their nearest minority rows; there may be fewer than asked for, with a warning.
    n_neighbors : int or estimator, default=3
        Minority rows in the mean, or a neighbour search with `kneighbors` that holds their number.
    n_neighbors_ver3 : int or estimator, default=3
        Rows kept for each minority row in the first step of version 3.
    n_jobs : int or None, default=None
        Passed to the neighbour search.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to keep of each targeted class.
    nn_, nn_ver3_ : estimator
        The neighbour searches; the second for version 3 only.
    sample_indices_ : int64[n]
        The input row of each output row: classes in sorted order; within a targeted one best first, equal ones as
        given.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _UNDER | {
        "version": [Interval(numbers.Integral, 1, 3, closed="both")],
        "n_neighbors": _NEIGHBORS,
        "n_neighbors_ver3": _NEIGHBORS,
        "n_jobs": [numbers.Integral, None],
    }

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        version: int = 1,
        n_neighbors: Any = 3,
        n_neighbors_ver3: Any = 3,
        n_jobs: int | None = None,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.version = version
        self.n_neighbors = n_neighbors
        self.n_neighbors_ver3 = n_neighbors_ver3
        self.n_jobs = n_jobs

    def _far(self, x: Any, rows: NDArray[np.int64], minority: int) -> NDArray[Any]:
        # Sum of each row's distances to its nearest (version 2: farthest) minority rows.
        k = self.nn_.n_neighbors
        wanted = minority if self.version == 2 else k
        size = max(TILE, min(BLOCK, BLOCK_BYTES // (16 * wanted) // TILE * TILE))
        parts = [
            self.nn_.kneighbors(take(x, block), n_neighbors=wanted)[0][:, -k:].sum(axis=1)
            for block in blocks(rows, size)
        ]
        return np.concatenate(parts)

    def _select(self, x: Any, y: NDArray[Any]) -> NDArray[np.int64]:
        labels, first, counts = np.unique(y, return_index=True, return_counts=True)
        # Of several smallest classes the one met first.
        smallest = np.lexsort((first, counts))[0]
        minority = take(x, np.flatnonzero(y == labels[smallest]))
        self.nn_ = _finder(self.n_neighbors, self.n_jobs).fit(minority)
        if self.version == 3:
            self.nn_ver3_ = _finder(self.n_neighbors_ver3, self.n_jobs)

        def choose(label: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
            wanted = self.sampling_strategy_[label]
            if self.version == 3:
                rows = rows[np.unique(self.nn_ver3_.fit(take(x, rows)).kneighbors(minority, return_distance=False))]
            far = self._far(x, rows, int(counts[smallest]))
            if len(rows) < wanted:
                warnings.warn(
                    f"NearMiss: {wanted} rows of class '{label}' were asked for, but only {len(rows)} can be chosen "
                    "from; all of them are kept. Ask for fewer, or raise n_neighbors_ver3.",
                    stacklevel=2,
                )
            return rows[np.argsort(-far if self.version == 3 else far, kind="stable")[:wanted]]

        return _by_class(y, self.sampling_strategy_, choose)


class TomekLinks(_Selector):
    """Drop the rows of the targeted classes that are in a Tomek link (Tomek, 1976).

    Two rows of different classes form a link if each is the other's nearest neighbour.

    Parameters
    ----------
    sampling_strategy : str, list or callable, default="auto"
        Classes to drop rows of, in imbalanced-learn's forms.
    n_jobs : int or None, default=None
        Passed to the neighbour search.

    Attributes
    ----------
    sampling_strategy_ : dict
        Its keys are the targeted classes.
    sample_indices_ : int64[n]
        The input row of each output row, rising.
    """

    _sampling_type = "clean-sampling"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _CLEAN | {"n_jobs": [numbers.Integral, None]}

    def __init__(self, *, sampling_strategy: Any = "auto", n_jobs: int | None = None) -> None:
        self.sampling_strategy = sampling_strategy
        self.n_jobs = n_jobs

    @staticmethod
    def is_tomek(y: NDArray[Any], nn_index: NDArray[np.int64], class_type: Any) -> NDArray[np.bool_]:
        """Which rows are in a link and of a class to drop rows of.

        Parameters
        ----------
        y
            Label of each row.
        nn_index
            int64[n], the nearest other row of each.
        class_type
            The classes to drop rows of.

        Returns
        -------
        bool[n]
        """
        mutual = nn_index[nn_index] == np.arange(len(y))
        return mutual & (y[nn_index] != y) & np.isin(y, list(class_type))

    def _select(self, x: Any, y: NDArray[Any]) -> NDArray[np.int64]:
        # With duplicates a row may come second, after its copy; then it has no link.
        near = _finder(1, self.n_jobs, itself=1).fit(x).kneighbors(x, return_distance=False)[:, 1]
        return np.flatnonzero(~self.is_tomek(y, near, self.sampling_strategy_))


class EditedNearestNeighbours(_Selector):
    """Drop the rows of the targeted classes whose neighbours are of another class (Wilson, 1972).

    Parameters
    ----------
    sampling_strategy : str, list or callable, default="auto"
        Classes to drop rows of, in imbalanced-learn's forms.
    n_neighbors : int or estimator, default=3
        Neighbours looked at, or a neighbour search for one more, as a row is its own first neighbour.
    kind_sel : {"all", "mode"}, default="all"
        "all" keeps a row if all its neighbours are of its class, "mode" if their most frequent class (of several
        the smallest) is.
    n_jobs : int or None, default=None
        Passed to the neighbour search.

    Attributes
    ----------
    sampling_strategy_ : dict
        Its keys are the targeted classes.
    nn_ : estimator
        The neighbour search.
    sample_indices_ : int64[n]
        The input row of each output row: classes in sorted order, within one rising.
    """

    _sampling_type = "clean-sampling"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _CLEAN | {
        "n_neighbors": _NEIGHBORS,
        "kind_sel": [StrOptions({"all", "mode"})],
        "n_jobs": [numbers.Integral, None],
    }

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        n_neighbors: Any = 3,
        kind_sel: str = "all",
        n_jobs: int | None = None,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.n_neighbors = n_neighbors
        self.kind_sel = kind_sel
        self.n_jobs = n_jobs

    def _select(self, x: Any, y: NDArray[Any]) -> NDArray[np.int64]:
        self.nn_ = _finder(self.n_neighbors, self.n_jobs, itself=1).fit(x)
        labels, codes = np.unique(y, return_inverse=True)

        def agrees(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
            near = codes[self.nn_.kneighbors(take(x, rows), return_distance=False)[:, 1:]]
            if self.kind_sel == "mode":
                # Votes first, then the smaller label: one number orders both.
                votes = np.stack([(near == near[:, [j]]).sum(axis=1) for j in range(near.shape[1])], axis=1)
                winner = (votes * len(labels) - near).argmax(axis=1)
                near = np.take_along_axis(near, winner[:, None], axis=1)
            return (near == codes[rows[:, None]]).all(axis=1)

        def choose(label: Any, rows: NDArray[np.int64]) -> NDArray[np.int64]:
            return rows[np.concatenate([agrees(block) for block in blocks(rows, BLOCK)])]

        return _by_class(y, self.sampling_strategy_, choose)
