"""Nearest rows to a file or to a row, by their bit codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.apply import load_fitted, recipe_of, selected_values
from schemas.errors import QueryError
from schemas.tables import SPLITS
from tasks.binarize.task import feature_matrix, nearest
from tasks.extract.isolation import IsolatedParser
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.query.trace import resolve_id
from tasks.shards import Shard, find_rows


def neighbours(dataset: Dataset, like: str, k: int, method: str | None = None) -> Any:
    """The k nearest rows, nearest first, with their labels: an Arrow table.

    Parameters
    ----------
    like
        Path of a file, or id of a row (or its beginning); a file goes before.
    method
        Binarizer; by default the one whose measured recall is best.

    Raises
    ------
    QueryError
        Neither a file nor a row; or the method is not in the dataset.
    """
    fitted = load_fitted(dataset)
    binarizers = fitted.binarizers
    method = method or _best(dataset) or next(iter(binarizers))
    if method not in binarizers:
        raise QueryError(f"--method {method}: not in this dataset", f"choose from {', '.join(binarizers)}")
    path = Path(like)
    row = _of_file(dataset, path, fitted.names) if path.is_file() else _of_row(dataset, like)
    vector = fitted.embedding.transform(row[None, :])[0]
    codes = [Shard(s.path, s.sha256, s.size, s.rows) for s in dataset.manifest.tables.get("codes", [])]
    found = nearest(dataset.root, codes, binarizers[method], vector, k)
    return _with_labels(dataset, found, method)


def _best(dataset: Dataset) -> str | None:
    rows = dataset.manifest.summary.get("recall") or []
    return max(rows, key=lambda row: row["recall"])["method"] if rows else None


def _of_file(dataset: Dataset, path: Path, names: list[str]) -> NDArray[np.float32]:
    """Selected features of a file, extracted as the pipeline does."""
    recipe = recipe_of(dataset)
    options = recipe.features
    if recipe.is_table:
        raise QueryError(f"--like {path}: this dataset is made from a table", "give the id of a row")
    if path.stat().st_size > options.max_file_mib * 2**20:
        raise QueryError(f"--like {path}: larger than features.max_file_mib", "give a smaller file")
    with IsolatedParser.of(options) as parser:
        extracted = parser.extract(path.read_bytes())
    if extracted.row["parse_status"] not in {"ok", "partial"}:
        raise QueryError(f"--like {path}: {extracted.row['parse_error']}", "give a PE, ELF or Mach-O file")
    return selected_values(extracted.vectors, names, options.set)


def _of_row(dataset: Dataset, like: str) -> NDArray[np.float32]:
    sample = resolve_id(dataset, like)
    for split in SPLITS:
        for path in dataset.paths(split):
            table = find_rows(path, "sample_id", sample)
            if table.num_rows:
                return feature_matrix(table)[0]
    raise QueryError(
        f"--like {like}: row {sample[:16]}… has no place in train, validation or test",
        f"see why: binmill trace {dataset.root} {sample[:16]}",
    )


def _with_labels(dataset: Dataset, found: Any, method: str) -> Any:
    """Add each hit's label, and where it was first found."""
    ids = ", ".join(f"'{sample}'" for sample in found.column("sample_id").to_pylist())
    if not ids:
        return found
    labels = {
        r["sample_id"]: r
        for r in query(dataset, f"SELECT sample_id, label FROM labels WHERE sample_id IN ({ids})").to_pylist()
    }
    places: dict[str, str] = {}
    if dataset.manifest.tables.get("observations"):
        sql = (
            "SELECT sha256, min(coalesce(s.filename, s.name) || '/' || path_in_source) AS place "
            "FROM observations JOIN sources s USING (source_id) "
            f"WHERE s.status = 'ok' AND sha256 IN ({ids}) GROUP BY ALL"
        )
        places = {r["sha256"]: r["place"] for r in query(dataset, sql).to_pylist()}
    rows = [
        {
            "distance": row["distance"], "label": labels[row["sample_id"]]["label"], "split": row["split"],
            "sample_id": row["sample_id"], "found_in": places.get(row["sample_id"]), "method": method,
        }
        for row in found.to_pylist()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)
