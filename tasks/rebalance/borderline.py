"""SMOTE near the border between classes, in imbalanced-learn's form: Borderline-SMOTE and SVM-SMOTE."""

import numbers
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.svm import SVC
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from tasks.rebalance.oversampling import OVER, SEARCH, Drawn, Interpolating, around, need, search_for, without
from tasks.rebalance.plan import Plan, danger, pooled, two_sides
from tasks.rebalance.sampler import take


class _Bordering(Interpolating):
    """Base of the two: how many of a row's `m_neighbors` are of other classes."""

    m_neighbors: Any
    nn_m_: Any

    def _begin(self) -> None:
        super()._begin()
        self.nn_m_ = search_for(self.m_neighbors)

    def _others(self, x: Any, y: NDArray[Any], rows: NDArray[np.int64], label: Any) -> NDArray[np.int64]:
        # int64[len(rows)]: neighbours of other classes. `nn_m_` is fitted to x where it is used.
        m = self.nn_m_.n_neighbors - 1
        need("all", len(y), m, "m_neighbors")
        if self.compatible:
            near = self.nn_m_.fit(x).kneighbors(take(x, rows), return_distance=False)[:, 1:]
        elif sparse.issparse(x) or not isinstance(self.m_neighbors, numbers.Integral):
            near = without(self.nn_m_.fit(x).kneighbors(x[rows], return_distance=False), rows, np.arange(len(y)))
        else:
            near = around(x, rows, np.arange(len(y)), m)
        return (y[near] != label).sum(axis=1)


class BorderlineSMOTE(_Bordering):
    """SMOTE from the rows whose neighbours are mostly, but not all, of other classes (Han et al., 2005).

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    k_neighbors : int or estimator, default=5
        Neighbours of a row to draw from, or a neighbour search for one more, as a row is its own first neighbour.
    m_neighbors : int or estimator, default=10
        Neighbours that say whether a row is in danger, or a neighbour search for one more.
    kind : {"borderline-1", "borderline-2"}, default="borderline-1"
        Partners from the class only, or from all rows; towards one of another class at most half the way.
    compatible : bool, default=False
        Draw, round and settle ties as imbalanced-learn does; a class without rows in danger is then left as it is.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    nn_k_, nn_m_ : estimator
        The neighbour searches, where they are scikit-learn's or the user's.
    in_danger_indices : dict
        Rows in danger of each class.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`; below 0.5 where the second parent is of another class.

    References
    ----------
    Han, Wang, Mao: Borderline-SMOTE, ICIC 2005.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {
        "k_neighbors": SEARCH,
        "m_neighbors": SEARCH,
        "kind": [StrOptions({"borderline-1", "borderline-2"})],
    }
    in_danger_indices: dict[Any, NDArray[np.int64]]

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        k_neighbors: Any = 5,
        m_neighbors: Any = 10,
        kind: str = "borderline-1",
        compatible: bool = False,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.k_neighbors = k_neighbors
        self.m_neighbors = m_neighbors
        self.kind = kind
        self.compatible = compatible

    def _begin(self) -> None:
        super()._begin()
        self.in_danger_indices = {}

    def _border(self, x: Any, y: NDArray[Any], label: Any, own: NDArray[np.int64]) -> NDArray[np.int64]:
        found = own[danger(self._others(x, y, own, label), self.nn_m_.n_neighbors - 1)]
        if len(found):
            self.in_danger_indices[label] = found
        return found

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        own = np.flatnonzero(y == label)
        rows = self._border(x, y, label, own)
        if not len(rows):
            raise ValueError(
                f"no row of class '{label}' has from half to all but one of its neighbours in other classes, and "
                "Borderline-SMOTE goes by these: use SMOTE, or raise m_neighbors"
            )
        if self.kind == "borderline-1":
            return pooled([(rows, self._partners(x, rows, label, own), count)])
        near = self._partners(x, rows, label, np.arange(len(y)))
        return pooled([(rows, near, count)], np.where(y[near] != label, 0.5, 1.0))

    def _theirs(self, x: Any, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        own = np.flatnonzero(y == label)
        rows = self._border(x, y, label, own)
        if not len(rows):
            return []
        pool = own if self.kind == "borderline-1" else np.arange(len(y))
        near = pool[self.nn_k_.fit(take(x, pool)).kneighbors(take(x, rows), return_distance=False)[:, 1:]]
        drawn = self._uniform(rows, near, label, count)
        if self.kind == "borderline-1":
            return [drawn]
        foreign = y[drawn.b] != label
        twist = np.ones(count)
        twist[foreign] = check_random_state(self.random_state).uniform(0.0, 0.5, size=(foreign.sum(), 1))[:, 0]
        return [Drawn(label, drawn.a, drawn.b, drawn.step, twist)]


class SVMSMOTE(_Bordering):
    """SMOTE from the support vectors of a support vector machine (Nguyen et al., 2011).

    A support vector most of whose neighbours are of other classes gives rows between it and its neighbours, another
    one rows beyond it; one whose neighbours all are of other classes counts as noise and gives none.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    k_neighbors : int or estimator, default=5
        Neighbours of a row to draw from, or a neighbour search for one more, as a row is its own first neighbour.
    m_neighbors : int or estimator, default=10
        Neighbours that say where a support vector lies, or a neighbour search for one more.
    svm_estimator : estimator or None, default=None
        Used instead of scikit-learn's `SVC(gamma="scale")`; it must have `support_` when fitted.
    out_step : float, default=0.5
        How far beyond its parent a row may lie, as a share of the way to the neighbour.
    compatible : bool, default=False
        Draw, round and settle ties as imbalanced-learn does; where all support vectors are of one kind it makes only
        a part of the rows.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    nn_k_, nn_m_, svm_estimator_ : estimator
        The neighbour searches, where they are scikit-learn's or the user's, and the machine.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`; the gap of a row beyond its parent is negative.

    References
    ----------
    Nguyen, Cooper, Kamei: Borderline over-sampling for imbalanced data classification, IJKESDP 3 (2011).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {
        "k_neighbors": SEARCH,
        "m_neighbors": SEARCH,
        "svm_estimator": [HasMethods(["fit", "predict"]), None],
        "out_step": [Interval(numbers.Real, 0, 1, closed="both")],
    }
    svm_estimator_: Any

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        k_neighbors: Any = 5,
        m_neighbors: Any = 10,
        svm_estimator: Any = None,
        out_step: float = 0.5,
        compatible: bool = False,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.k_neighbors = k_neighbors
        self.m_neighbors = m_neighbors
        self.svm_estimator = svm_estimator
        self.out_step = out_step
        self.compatible = compatible

    def _begin(self) -> None:
        super()._begin()
        own = SVC(gamma="scale", random_state=self.random_state)
        self.svm_estimator_ = own if self.svm_estimator is None else clone(self.svm_estimator)
        self._stream = check_random_state(self.random_state)
        self._fitted = False

    def _border(self, x: Any, y: NDArray[Any], label: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # Support vectors of the class in danger, and the safe ones.
        if not self._fitted or self.compatible:  # a machine that draws from a shared stream differs at each fit
            self.svm_estimator_.fit(x, y)
            self._fitted = True
        if not hasattr(self.svm_estimator_, "support_"):
            raise RuntimeError("`svm_estimator` has no `support_` once fitted; use a support vector machine, as SVC")
        support = np.asarray(self.svm_estimator_.support_, dtype=np.int64)
        support = support[y[support] == label]
        others, m = self._others(x, y, support, label), self.nn_m_.n_neighbors - 1
        if not (others < m).any():
            raise ValueError(
                "All support vectors are considered as noise: every neighbour is of another class. SVM-SMOTE does "
                "not fit these data; use another SMOTE variant, or raise m_neighbors"
            )
        risky = danger(others, m)
        return support[risky], support[~risky & (others < m)]

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        own = np.flatnonzero(y == label)
        inside, beyond = self._border(x, y, label)
        groups = [(rows, self._partners(x, rows, label, own)) for rows in (inside, beyond)]
        return two_sides(self._seed(), str(label), groups, count, self.out_step)

    def _theirs(self, x: Any, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        own = np.flatnonzero(y == label)
        inside, beyond = self._border(x, y, label)
        self.nn_k_.fit(take(x, own))
        first = int(self._stream.beta(10, 10) * (count + 1))
        found: list[Drawn] = []
        for rows, n, step in ((inside, first, 1.0), (beyond, count - first, -self.out_step)):
            if len(rows):
                near = own[self.nn_k_.kneighbors(take(x, rows), return_distance=False)[:, 1:]]
                found.append(self._uniform(rows, near, label, n, step))
        return found
