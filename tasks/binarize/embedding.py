"""The embedding that is binarized: standardised columns reduced to principal components, or columns as they are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.codes.rotation import product


@dataclass(frozen=True, slots=True)
class Embedding:
    """A fitted map from p columns to d components: the columns as they are, or their principal components.

    Attributes
    ----------
    mean, scale
        float64[p], from train.
    components
        float64[p, d], orthonormal columns, largest variance first; None: the columns as they are.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    components: NDArray[np.float64] | None

    @property
    def dimensions(self) -> int:
        """Components of an embedded row."""
        return len(self.mean) if self.components is None else self.components.shape[1]

    def transform(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n, p] to float32[n, d]. A missing or infinite value counts as the training mean."""
        if self.components is None:
            return np.where(np.isfinite(x), x, self.mean.astype(np.float32))
        standard = (x.astype(np.float64) - self.mean) / self.scale
        standard[~np.isfinite(standard)] = 0.0
        return product(standard, self.components).astype(np.float32)


def principal_components(
    covariance: NDArray[np.float64], dimensions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvectors of the largest eigenvalues of a covariance matrix.

    Parameters
    ----------
    covariance
        float64[p, p], symmetric.
    dimensions
        At most this many components; none with a variance of rounding's size.

    Returns
    -------
    components
        float64[p, d]. The largest loading of each (the first of equals) is positive, so that signs are settled.
    variance
        float64[d], falling.
    """
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values, kind="stable")
    values, vectors = values[order], vectors[:, order]
    rank = int((values > 1e-10 * max(float(values[0]), 1e-300)).sum())
    d = max(1, min(dimensions, rank))
    components = vectors[:, :d].copy()
    largest = np.abs(components).argmax(axis=0)
    components *= np.where(components[largest, np.arange(d)] < 0, -1.0, 1.0)
    return components, np.maximum(values[:d], 0.0)
