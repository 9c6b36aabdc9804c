"""SMOTE, then a cleaning of what it gives, in imbalanced-learn's form (Batista et al., 2003 and 2004)."""

import numbers
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, StrOptions

from tasks.rebalance.oversampling import SMOTE
from tasks.rebalance.sampler import Sampler
from tasks.rebalance.undersampling import EditedNearestNeighbours, TomekLinks

_STRATEGY: list[Any] = [
    Interval(numbers.Real, 0, 1, closed="right"),
    StrOptions({"auto", "minority", "not minority", "not majority", "all"}),
    Mapping,
    callable,
]


def _fresh(given: Any, own: Any) -> Any:
    # What the user gave stays as it is: a clone is fitted.
    return own if given is None else clone(given)


class _Cleaned(Sampler):
    """SMOTE followed by a sampler that only drops rows; where each row left came from."""

    _sampling_type = "over-sampling"
    smote_: SMOTE
    is_synthetic_: NDArray[np.bool_]
    parent_a_: NDArray[np.int64]
    parent_b_: NDArray[np.int64]
    gap_: NDArray[np.float64]

    def __init__(
        self, *, sampling_strategy: Any, random_state: Any, smote: SMOTE | None, n_jobs: int | None, compatible: bool
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.random_state = random_state
        self.smote = smote
        self.n_jobs = n_jobs
        self.compatible = compatible

    def _cleaner(self) -> Any:
        # The second sampler, made anew.
        raise NotImplementedError

    def _resample(self, x: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        own = SMOTE(
            sampling_strategy=self.sampling_strategy, random_state=self.random_state, compatible=self.compatible
        )
        self.smote_ = _fresh(self.smote, own)
        cleaner = self._cleaner()
        x, y = cleaner.fit_resample(*self.smote_.fit_resample(x, y))
        kept = cleaner.sample_indices_
        for name in ("is_synthetic_", "parent_a_", "parent_b_", "gap_"):
            setattr(self, name, getattr(self.smote_, name)[kept])
        return x, y


class SMOTETomek(_Cleaned):
    """SMOTE, then the rows of all classes that are in a Tomek link dropped.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class after SMOTE, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    smote : SMOTE or None, default=None
        Used instead of a `SMOTE` with the parameters given here.
    tomek : TomekLinks or None, default=None
        Used instead of `TomekLinks(sampling_strategy="all")`.
    n_jobs : int or None, default=None
        Passed to the neighbour search of the cleaning, unless `tomek` is given.
    compatible : bool, default=False
        Have `SMOTE` draw, round and settle ties as imbalanced-learn does.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows asked of SMOTE for each targeted class.
    smote_, tomek_ : estimator
        The samplers used.
    is_synthetic_ : bool[n]
        Whether each output row was made.
    parent_a_, parent_b_ : int64[n]
        The input rows each output row lies between; a real row is both.
    gap_ : float64[n]
        Where between them, in [0, 1); 0 for a real row.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "sampling_strategy": _STRATEGY,
        "random_state": ["random_state"],
        "smote": [SMOTE, None],
        "tomek": [TomekLinks, None],
        "n_jobs": [numbers.Integral, None],
        "compatible": ["boolean"],
    }
    tomek_: TomekLinks

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        smote: SMOTE | None = None,
        tomek: TomekLinks | None = None,
        n_jobs: int | None = None,
        compatible: bool = False,
    ) -> None:
        super().__init__(
            sampling_strategy=sampling_strategy,
            random_state=random_state,
            smote=smote,
            n_jobs=n_jobs,
            compatible=compatible,
        )
        self.tomek = tomek

    def _cleaner(self) -> TomekLinks:
        own = TomekLinks(sampling_strategy="all", n_jobs=self.n_jobs)
        self.tomek_ = _fresh(self.tomek, own)
        return self.tomek_


class SMOTEENN(_Cleaned):
    """SMOTE, then the rows of all classes whose neighbours are of another class dropped.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        Rows of each class after SMOTE, in imbalanced-learn's forms.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    smote : SMOTE or None, default=None
        Used instead of a `SMOTE` with the parameters given here.
    enn : EditedNearestNeighbours or None, default=None
        Used instead of `EditedNearestNeighbours(sampling_strategy="all")`.
    n_jobs : int or None, default=None
        Passed to the neighbour search of the cleaning, unless `enn` is given.
    compatible : bool, default=False
        Have `SMOTE` draw, round and settle ties as imbalanced-learn does.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows asked of SMOTE for each targeted class.
    smote_, enn_ : estimator
        The samplers used.
    is_synthetic_ : bool[n]
        Whether each output row was made.
    parent_a_, parent_b_ : int64[n]
        The input rows each output row lies between; a real row is both.
    gap_ : float64[n]
        Where between them, in [0, 1); 0 for a real row.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "sampling_strategy": _STRATEGY,
        "random_state": ["random_state"],
        "smote": [SMOTE, None],
        "enn": [EditedNearestNeighbours, None],
        "n_jobs": [numbers.Integral, None],
        "compatible": ["boolean"],
    }
    enn_: EditedNearestNeighbours

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        smote: SMOTE | None = None,
        enn: EditedNearestNeighbours | None = None,
        n_jobs: int | None = None,
        compatible: bool = False,
    ) -> None:
        super().__init__(
            sampling_strategy=sampling_strategy,
            random_state=random_state,
            smote=smote,
            n_jobs=n_jobs,
            compatible=compatible,
        )
        self.enn = enn

    def _cleaner(self) -> EditedNearestNeighbours:
        own = EditedNearestNeighbours(sampling_strategy="all", n_jobs=self.n_jobs)
        self.enn_ = _fresh(self.enn, own)
        return self.enn_
