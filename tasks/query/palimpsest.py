"""Whether a model was trained in a dataset's order: its losses on the rows tell (palimpsestic provenance)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv
from scipy.stats import rankdata, t

from schemas.errors import QueryError


@dataclass(frozen=True, slots=True)
class OrderTest:
    """What the losses say.

    Attributes
    ----------
    rows
        Rows of train with a loss.
    correlation
        Spearman's, of place in the order and loss; below 0 where later rows have smaller losses.
    p_value
        How often a model that never saw the order would have so low a correlation: from Student's t.
    p_permutation
        The same from permutations drawn by seed; at least 1 / (permutations + 1).
    """

    rows: int
    correlation: float
    p_value: float
    p_permutation: float


def order_test(
    order: Sequence[str],
    losses: Mapping[str, float],
    reference: Mapping[str, float] | None = None,
    permutations: int = 9999,
    seed: int = 0,
) -> OrderTest:
    """Test whether rows that come later in the order have smaller losses than chance gives.

    Without training in this order, the order is independent of the losses, whatever they are: the p-value then is
    uniform. Rows of `train` that have no loss are left out.

    Parameters
    ----------
    order
        Ids of train in the order that was committed to.
    losses
        Loss of the model on a row, by id.
    reference
        Losses of a model that never saw the dataset: how hard a row is, which is taken off.

    Raises
    ------
    QueryError
        Fewer than 8 rows have a loss, one is not a finite number, or all are the same.
    """
    common = [name for name in order if name in losses and (reference is None or name in reference)]
    values = np.array([losses[name] - (reference[name] if reference else 0) for name in common], np.float64)
    if len(values) < 8:
        raise QueryError(f"losses: {len(values)} rows of train have one, 8 are needed", "give losses by sample_id")
    if not np.isfinite(values).all():
        raise QueryError("losses: one is not a finite number", "leave such rows out")
    ranks = rankdata(values)
    ranks -= ranks.mean()
    if not ranks.any():
        raise QueryError("losses: all are the same", "give each row's own loss")
    place: NDArray[np.float64] = np.arange(len(ranks), dtype=np.float64)
    place -= place.mean()
    norm = float(np.sqrt((ranks @ ranks) * (place @ place)))
    rho = min(max(float(ranks @ place) / norm, -1.0), 1.0)
    below = _draws_below(ranks, place, float(ranks @ place), permutations, seed)
    return OrderTest(len(ranks), rho, _student(rho, len(ranks)), (1 + below) / (1 + permutations))


def _student(rho: float, rows: int) -> float:
    """p-value of a correlation this low, from Student's t."""
    if abs(rho) >= 1:
        return 0.0 if rho < 0 else 1.0
    return float(t.cdf(rho * np.sqrt((rows - 2) / (1 - rho * rho)), rows - 2))


def _draws_below(
    ranks: NDArray[np.float64], place: NDArray[np.float64], seen: float, permutations: int, seed: int
) -> int:
    """How many of the drawn permutations have a product as low as the one that was seen."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    edge = seen + 1e-9 * abs(seen)
    return sum(float(ranks @ generator.permutation(place)) <= edge for _ in range(permutations))


def read_losses(path: Path) -> dict[str, float]:
    """Losses by id, from a CSV or Parquet file with the columns `sample_id` and `loss`.

    Raises
    ------
    QueryError
        The file cannot be read, lacks a column, holds no numbers, or names a row twice.
    """
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise QueryError(f"{path}: cannot be read: {error}", "give a CSV or Parquet file") from error
    if not {"sample_id", "loss"} <= set(table.column_names):
        raise QueryError(f"{path}: no columns sample_id and loss", f"it has {', '.join(table.column_names)}")
    try:
        ids = table.column("sample_id").cast(pa.string()).to_pylist()
        losses = table.column("loss").cast(pa.float64()).to_pylist()
    except pa.ArrowException as error:
        raise QueryError(f"{path}: column loss: {error}", "give a number a row") from error
    found = {name: value for name, value in zip(ids, losses, strict=True) if value is not None}
    if len(set(ids)) != len(ids):
        raise QueryError(f"{path}: a row is named twice", "give one loss a row")
    return found
