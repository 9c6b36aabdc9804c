"""K-means SMOTE, in imbalanced-learn's form: SMOTE within clusters, more of it in sparser ones."""

import math
import numbers
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_chunked
from sklearn.metrics.pairwise import pairwise_distances
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from tasks.rebalance.oversampling import OVER, SEARCH, Drawn, Interpolating
from tasks.rebalance.plan import Plan, pooled, shares, sparsity
from tasks.rebalance.sampler import take


class KMeansSMOTE(Interpolating):
    """SMOTE within the clusters that hold enough of the class, the sparser the more (Last et al., 2017).

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class afterwards, in imbalanced-learn's forms; exactly so many (imbalanced-learn's own rounds
        each cluster's share up, and with `compatible` so do we).
    random_state : int, RandomState instance or None, default=None
        Seed of the draws and of the clustering.
    k_neighbors : int or estimator, default=2
        Neighbours of a row to draw from, or a neighbour search for one more, as a row is its own first neighbour.
    n_jobs : int or None, default=None
        Passed to the distances within clusters.
    kmeans_estimator : int, estimator or None, default=None
        Clusters, or what clusters; None: scikit-learn's `MiniBatchKMeans`.
    cluster_balance_threshold : "auto" or float, default="auto"
        Least share of the class in a cluster to be used; "auto": the class's share of all rows asked for, halved.
    density_exponent : "auto" or float, default="auto"
        What the mean distance is raised to.
    compatible : bool, default=False
        Draw, round and settle ties as imbalanced-learn does.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add to each targeted class.
    kmeans_estimator_, nn_k_ : estimator
        The clustering, and the neighbour search where it is scikit-learn's or the user's.
    cluster_balance_threshold_ : "auto" or float
        As given; minus infinity for a single cluster.
    is_synthetic_, parent_a_, parent_b_, gap_
        As of `SMOTE`.

    References
    ----------
    Last, Douzas, Bacao: Oversampling for imbalanced learning based on K-means and SMOTE, 2017.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OVER | {
        "k_neighbors": SEARCH,
        "n_jobs": [numbers.Integral, None],
        "kmeans_estimator": [HasMethods(["fit", "predict"]), Interval(numbers.Integral, 1, None, closed="left"), None],
        "cluster_balance_threshold": [StrOptions({"auto"}), numbers.Real],
        "density_exponent": [StrOptions({"auto"}), numbers.Real],
    }
    kmeans_estimator_: Any
    cluster_balance_threshold_: Any

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        k_neighbors: Any = 2,
        n_jobs: int | None = None,
        kmeans_estimator: Any = None,
        cluster_balance_threshold: Any = "auto",
        density_exponent: Any = "auto",
        compatible: bool = False,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.k_neighbors = k_neighbors
        self.n_jobs = n_jobs
        self.kmeans_estimator = kmeans_estimator
        self.cluster_balance_threshold = cluster_balance_threshold
        self.density_exponent = density_exponent
        self.compatible = compatible

    def _begin(self) -> None:
        super()._begin()
        if self.kmeans_estimator is None:
            self.kmeans_estimator_ = MiniBatchKMeans(random_state=self.random_state)
        elif isinstance(self.kmeans_estimator, numbers.Integral):
            self.kmeans_estimator_ = MiniBatchKMeans(
                n_clusters=int(self.kmeans_estimator), random_state=self.random_state
            )
        else:
            self.kmeans_estimator_ = clone(self.kmeans_estimator)
        single = getattr(self.kmeans_estimator_, "n_clusters", None) == 1
        self.cluster_balance_threshold_ = -np.inf if single else self.cluster_balance_threshold
        self._clusters: NDArray[np.int64] | None = None

    def _cluster(self, x: Any) -> NDArray[np.int64]:
        if self._clusters is None or self.compatible:  # with a shared stream each class has its own clustering
            self._clusters = np.asarray(self.kmeans_estimator_.fit_predict(x), dtype=np.int64)
        return self._clusters

    def _usable(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Iterator[NDArray[np.int64]]:
        # Rows of the class in each cluster that has enough of them.
        clusters = self._cluster(x)
        least = self.cluster_balance_threshold_
        if least == "auto":
            least = count / sum(self.sampling_strategy_.values()) / 2
        for cluster in np.unique(clusters):
            inside = clusters == cluster
            share = (y[inside] == label).mean()
            if share >= least and share * inside.sum() >= self.nn_k_.n_neighbors:
                yield np.flatnonzero(inside & (y == label))

    def _sparsity(self, rows: Any) -> float:
        n = rows.shape[0]
        exponent = None if self.density_exponent == "auto" else self.density_exponent
        if self.compatible:
            distances: Any = pairwise_distances(rows, metric="euclidean", n_jobs=self.n_jobs)
            np.fill_diagonal(distances, 0)
            total = distances.sum()
        else:  # in bounded memory
            total = sum(float(part.sum()) for part in pairwise_distances_chunked(rows, n_jobs=self.n_jobs))
        return sparsity(total / (n**2 - n), n, exponent)

    def _weighed(
        self, x: Any, y: NDArray[Any], label: Any, count: int
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
        found = list(self._usable(x, y, label, count))
        if not found:
            raise RuntimeError(
                f"No clusters found with sufficient samples of class '{label}'. Lower cluster_balance_threshold or "
                "k_neighbors, or change the number of clusters."
            )
        weights = np.array([self._sparsity(take(x, rows)) for rows in found])
        return found, weights / weights.sum()

    def _plan(self, x: Any, y: NDArray[Any], label: Any, count: int) -> Plan:
        found, weights = self._weighed(x, y, label, count)
        given = shares(weights, count)
        return pooled([(rows, self._partners(x, rows, label), int(n)) for rows, n in zip(found, given, strict=True)])

    def _theirs(self, x: Any, y: NDArray[Any], label: Any, count: int) -> list[Drawn]:
        drawn: list[Drawn] = []
        for rows, weight in zip(*self._weighed(x, y, label, count), strict=True):
            near = self.nn_k_.fit(take(x, rows)).kneighbors(take(x, rows), return_distance=False)[:, 1:]
            drawn.append(self._uniform(rows, rows[near], label, math.ceil(count * weight)))
        return drawn
