"""Vectors in files of any size, without labels: some rows or a range of them, and their ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BinmillError, SourceError
from schemas.recipe import TableSource
from tasks.codes.rotation import stream
from tasks.tablefiles import row_id
from tasks.tabular import Table, batches, open_table, record_batches, table_features, texts

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Vectors:
    """An open table of vectors.

    Attributes
    ----------
    names
        Of the components, in order.
    id_column
        Column of the rows' ids, or None.
    """

    table: Table
    names: list[str]
    id_column: str | None
    _source: TableSource

    def range(self, start: int, stop: int) -> Floats:
        """Rows `start` to `stop`, float32[stop - start, d]."""
        parts = [part.features for part in batches(self.table, self._source, start, stop)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.names)), np.float32)

    def some(self, rows: NDArray[np.int64]) -> Floats:
        """Rows by number, in the order asked for: float32[n, d]. The file is read once, a batch at a time."""
        order = np.argsort(rows, kind="stable")
        wanted, found = rows[order], np.empty((len(rows), len(self.names)), np.float32)
        start = 0
        for part in batches(self.table, self._source, 0, self.table.rows):
            stop = start + len(part.features)
            low, high = np.searchsorted(wanted, (start, stop))
            found[order[low:high]] = part.features[wanted[low:high] - start]
            start = stop
        return found

    def ids(self, start: int, stop: int, sha256: str) -> list[str]:
        """Ids of rows: of their column, or else the SHA-256 of the file's digest and the row's number.

        Raises
        ------
        SourceError
            A row has no id.
        """
        if self.id_column is None:
            return [row_id(sha256, row) for row in range(start, stop)]
        found: list[str] = []
        for batch in record_batches(self.table, [self.id_column], start, stop):
            for text in texts(batch.column(0)):
                if text is None:
                    raise SourceError(
                        f"{self.table.path}: row {start + len(found):,} has no value in '{self.id_column}'",
                        "fill it, or leave id_column out: then rows are named by the file's digest and their number",
                    )
                found.append(text)
        return found


def open_vectors(path: Path, columns: Sequence[str] = (), id_column: str | None = None) -> Vectors:
    """Look at a table of vectors.

    Parameters
    ----------
    columns
        Of numbers, or lists of one length of these; none: all but `id_column`.

    Raises
    ------
    SourceError
        Not a table, without rows, or columns that are no numbers.
    """
    try:
        table = open_table(path)
        every: list[str] = table.schema.names
        if id_column is not None and id_column not in every:
            raise SourceError(f"it has no column '{id_column}'", f"its columns are {', '.join(every[:20])}")
        names = tuple(columns) or tuple(name for name in every if name != id_column)
        # A source of examples names a label column; one of the vectors' stands in, since no label is read here.
        source = TableSource(kind="table", path=str(path), label_column=(*names, "")[0], columns=names)
        found = table_features(table, source)
    except BinmillError as error:
        raise SourceError(
            f"{path}: {error.problem}", f"{error.remedy}; name the vectors' columns (--column)"
        ) from error
    if not table.rows:
        raise SourceError(f"{path}: the table has no rows", "give a table with rows")
    return Vectors(table, found, id_column, source)


def sampled(rows: int, seed: int, base: int, queries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of rows that ask (at most a fifth) and of others that are searched and fitted on, in a random order."""
    asking = min(queries, rows // 5)
    chosen = stream(seed, "rows").choice(rows, min(rows, base + asking), replace=False).astype(np.int64)
    return chosen[:asking], chosen[asking:]


def standardised(x: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """Mean and deviation of each finite component, and the covariance of standardised rows: float64[d], [d], [d, d]."""
    wide = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
    seen = np.isfinite(wide).any(axis=0)
    mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    mean[seen] = np.nanmean(wide[:, seen], axis=0)
    scale[seen] = np.nanstd(wide[:, seen], axis=0)
    scale[scale == 0] = 1.0
    standard = np.nan_to_num((wide - mean) / scale, nan=0.0)
    return mean, scale, standard.T @ standard / max(1, len(x))
