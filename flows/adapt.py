"""`binmill adapt`: a new model's vectors made comparable with codes that are stored, so that nothing is coded again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from schemas.errors import BinmillError, QueryError
from tasks.binarize.compatible import compatible
from tasks.binarize.vectors import Vectors, open_vectors, sampled
from tasks.codes.binarizer import Binarizer, Encoded
from tasks.codes.rescore import recall
from tasks.codes.search import ask, nearest_codes
from tasks.query.codes import CodeIndex
from tasks.query.dataset import Dataset
from tasks.query.sql import query

FIT_ROWS = 65_536
"""Rows known in both spaces that are learned from."""
ASKING = 1_000
"""Rows that are held out, to see whether their new vectors find them."""
NEAR = 10


@dataclass(frozen=True, slots=True)
class Adapted:
    """A binarizer of new vectors for old codes, and how far it may be trusted.

    Attributes
    ----------
    rows
        That it was learned from.
    asked, searched
        Rows held out, and the rows that each was looked for among.
    found
        Share of those held out that are among the ten nearest of `searched` to their new vector, by their old code.
    """

    binarizer: Binarizer
    rows: int
    asked: int
    searched: int
    found: float


def adapt(
    dataset: Dataset,
    path: Path,
    *,
    of: str | None = None,
    columns: Sequence[str] = (),
    id_column: str | None = None,
    method: str | None = None,
    seed: int = 0,
) -> Adapted:
    """Fit a binarizer on a new model's vectors of rows whose codes a dataset has.

    Parameters
    ----------
    path
        Vectors by the new model: with an `id_column` of rows of the dataset; else of all rows of one file of an index,
        in their order.
    of
        Name of that file; None: the first that was indexed.
    method
        Binarizer whose codes are searched; None: the one whose measured recall is best.

    Raises
    ------
    QueryError
        No such file, or the vectors are not of the dataset's rows.
    """
    index = CodeIndex(dataset, method)
    try:
        vectors = open_vectors(path, columns, id_column)
    except BinmillError as error:
        raise QueryError(error.problem, error.remedy) from error
    known = _by_id(dataset, vectors, index) if id_column is not None else _by_row(dataset, vectors, index, of)
    there = np.flatnonzero(known >= 0)
    if len(there) < 2 * NEAR:
        raise QueryError(
            f"{path}: {len(there)} of its rows are in {dataset.root}", "give the new vectors of rows that have codes"
        )
    asking, fitting = (there[rows] for rows in sampled(len(there), seed, FIT_ROWS, ASKING))
    chosen = np.concatenate([asking, fitting])
    stored, x = index.stored(known[chosen]), vectors.some(chosen)
    count = len(asking)
    rest = Encoded(stored.codes[count:], *(None if s is None else s[count:] for s in stored[1:]))
    with threadpool_limits(1):
        fitted = compatible(index.binarizer, rest, x[count:])
    near, _ = nearest_codes(fitted, ask(fitted, x[:count]), stored, NEAR)
    found = recall(near, np.arange(count)[:, None])
    return Adapted(fitted, len(fitting), count, len(chosen), found)


def _by_row(dataset: Dataset, vectors: Vectors, index: CodeIndex, of: str | None) -> NDArray[np.int64]:
    """Number in the index of each row of a file of it."""
    if not dataset.manifest.is_index:
        raise QueryError(f"{dataset.root}: not an index of files of vectors", "name rows by their ids: --id-column")
    sources = {row["filename"]: row for row in query(dataset, "SELECT filename, source_id FROM sources").to_pylist()}
    first = dataset.manifest.recipe["sources"][0]["path"].rsplit("/", 1)[-1]
    source = sources.get(of or first)
    if source is None:
        raise QueryError(f"--of {of}: the index has no such file", f"it has {', '.join(sources)}")
    about = index.about(["source_id", "row"])
    mine = np.flatnonzero(np.asarray(about.column("source_id").to_pylist(), object) == source["source_id"])
    if len(mine) != vectors.table.rows:
        raise QueryError(
            f"{vectors.table.path} has {vectors.table.rows:,} rows, {source['filename']} has {len(mine):,}",
            "give a vector for each row of that file, in its order; or name rows by their ids: --id-column",
        )
    return mine[np.argsort(about.column("row").to_numpy()[mine])]


def _by_id(dataset: Dataset, vectors: Vectors, index: CodeIndex) -> NDArray[np.int64]:
    """Number in the index of the row that each vector's id names, -1 of others."""
    places: Any = {name: n for n, name in enumerate(index.about(["sample_id"]).column(0).to_pylist())}
    ids = vectors.ids(0, vectors.table.rows, "")
    return np.array([places.get(name, -1) for name in ids], np.int64)


def table(adapted: Adapted) -> Any:
    """What was learned, as an Arrow table to be shown."""
    return pa.Table.from_pylist(
        [
            {
                "method": adapted.binarizer.method, "dimensions": adapted.binarizer.dimensions,
                "bits": adapted.binarizer.bits, "learned from": adapted.rows, "asked": adapted.asked,
                "among": adapted.searched, f"found in {NEAR}": adapted.found,
            }
        ]
    )  # fmt: skip
