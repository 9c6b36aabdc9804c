"""The trained rotation of rabitq and residual: iterative quantisation for codes of several planes.

A code of u planes stands for a point v of a grid; rows are nearest to their points where ‖zR/a − v‖² is least, a being
a row's own step. Each iteration takes the points that are nearest (of equal steps, as the recurrence finds them),
then the rotation that brings rows nearest to their points: the orthogonal Procrustes problem, by one SVD. Neither step
can raise the error. It begins from ITQ's rotation; of one plane it is ITQ on rows of equal length.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.binarize.rotating import ROWS, itq, principal

Doubles = NDArray[np.float64]

STEPS = {1: 1.0, 2: 0.995, 3: 0.586, 4: 0.335}
"""Distance of grid points, in root mean squares, that suits normal components best (Max, 1960); halved for each plane
more."""


def grid_points(y: Doubles, planes: int) -> Doubles:
    """The point of the grid nearest to each component of rows of root mean square 1."""
    step = STEPS.get(planes) or STEPS[4] * 2.0 ** (4 - planes)
    half = 2.0 ** (planes - 1)
    if planes == 1:
        return np.where(y > 0, 1.0, -1.0)
    return step * (np.clip(np.ceil(y / step), 1 - half, half) - 0.5)


def error(y: Doubles, planes: int) -> float:
    """Mean of ‖y − v‖² a component: what training lowers."""
    return float(((y - grid_points(y, planes)) ** 2).mean())


def trained(z: Doubles, width: int, planes: int, seed: int, iterations: int = 50) -> NDArray[np.float32]:
    """The trained rotation.

    Parameters
    ----------
    z
        float64[n, d], centred.
    width
        Bits of a plane, at most d: the principal components that are turned.
    planes
        Of the codes.
    seed
        Of the ITQ that it begins from.
    iterations
        How often.

    Returns
    -------
    float32[d, width]
        Orthonormal columns.
    """
    sample = z if len(z) <= ROWS else z[np.linspace(0, len(z) - 1, ROWS).astype(np.int64)]
    basis = principal(z, width) if width < z.shape[1] else np.eye(z.shape[1])
    rows = unit_rows(sample @ basis)
    rotation = itq(sample @ basis, seed)
    for _ in range(iterations):
        left, _, right = np.linalg.svd(rows.T @ grid_points(rows @ rotation, planes))
        rotation = left @ right
    return np.ascontiguousarray(basis @ rotation, np.float32)


def unit_rows(z: Doubles) -> Doubles:
    """Rows at a root mean square of 1, for a code's grid is in units of its row; rows of zeros are left out."""
    norms = np.sqrt((z**2).mean(axis=1))
    return z[norms > 0] / norms[norms > 0, None]
