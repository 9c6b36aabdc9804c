"""Rebalancing. The samplers, in imbalanced-learn's form, are at hand: `from tasks.rebalance import SMOTE`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.rebalance.borderline import SVMSMOTE, BorderlineSMOTE
    from tasks.rebalance.clustered import KMeansSMOTE
    from tasks.rebalance.combined import SMOTEENN, SMOTETomek
    from tasks.rebalance.nominal import SMOTEN, SMOTENC
    from tasks.rebalance.oversampling import ADASYN, SMOTE, RandomOverSampler
    from tasks.rebalance.undersampling import EditedNearestNeighbours, NearMiss, RandomUnderSampler, TomekLinks

__all__ = [
    "ADASYN",
    "SMOTE",
    "SMOTEENN",
    "SMOTEN",
    "SMOTENC",
    "SVMSMOTE",
    "BorderlineSMOTE",
    "EditedNearestNeighbours",
    "KMeansSMOTE",
    "NearMiss",
    "RandomOverSampler",
    "RandomUnderSampler",
    "SMOTETomek",
    "TomekLinks",
]

_MODULES = ("oversampling", "borderline", "clustered", "nominal", "undersampling", "combined")


def __getattr__(name: str) -> Any:
    # scikit-learn takes a second to import: only who asks for a sampler waits for it.
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"tasks.rebalance.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'tasks.rebalance' has no attribute '{name}'")
