"""Permutation p-values of contingency tables, exact whatever the counts, and the correction for many tests."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.screen.draws import logarithms, permute

EXCEEDANCES = 10
"""Draws as extreme as the observed table after which a column is known to be unremarkable: its p-value then has a
standard error of at most a third of itself."""


@dataclass(frozen=True, slots=True)
class PermutationP:
    """Permutation p-values of p columns.

    Attributes
    ----------
    p_value
        float64[p], not below 1 / (1 + permutations); 1 for a constant column or a single class, NaN for an empty
        table.
    drawn
        int64[p]; random tables drawn for the column.
    """

    p_value: NDArray[np.float64]
    drawn: NDArray[np.int64]


def permutation_p(
    tables: NDArray[np.int64],
    permutations: int,
    seed: int,
    keys: NDArray[np.uint64],
    exceedances: int = EXCEEDANCES,
) -> PermutationP:
    """Test each column's independence of the outcome by random tables with the column's own margins.

    The statistic is G. Drawing stops at `exceedances` tables as extreme as the observed one, and then
    p = exceedances / drawn; else p = (1 + exceeding) / (1 + permutations): Besag and Clifford's sequential
    Monte-Carlo p-values (Biometrika 78, 1991), which are exact at any number of permutations, and cheap for the
    many columns that tell nothing.

    A column's result depends on its table, its key and the seed alone.

    Parameters
    ----------
    tables
        int64[p, bins, classes]; exact for totals up to 2^40.
    permutations
        Most tables drawn for a column.
    seed
        Any integer; its low 64 bits count.
    keys
        uint64[p]; the column's own stream of randomness, such as a hash of its name.
    exceedances
        At `permutations` + 1 or more, drawing never stops early.

    Raises
    ------
    ValueError
        If a count is not positive or there is not one key for each table.
    """
    if permutations < 1 or exceedances < 1:
        raise ValueError(f"{permutations} permutations and {exceedances} exceedances: at least one of each is needed")
    if len(keys) != len(tables):
        raise ValueError(f"{len(keys)} keys do not go with {len(tables)} tables")
    found = PermutationP(np.empty(len(tables), dtype=np.float64), np.empty(len(tables), dtype=np.int64))
    permute(
        np.ascontiguousarray(tables),
        permutations,
        exceedances,
        np.uint64(seed & 0xFFFFFFFFFFFFFFFF),
        keys,
        *logarithms(),
        found.p_value,
        found.drawn,
    )
    return found


def adjust(p: NDArray[np.float64], method: Literal["bh", "by"]) -> NDArray[np.float64]:
    """False-discovery rates of p-values, float64[p]; NaN stays NaN and is no test.

    "bh" is Benjamini and Hochberg (1995), for independent or positively dependent tests; "by" is Benjamini and
    Yekutieli (2001), for any dependence.
    """
    from scipy.stats import false_discovery_control  # takes a second to import

    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested], method=method)
    return q
