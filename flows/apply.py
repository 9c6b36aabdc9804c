"""New data through a dataset's fitted tables: features, selected columns and codes, as the pipeline writes them."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import BinmillError, QueryError
from schemas.recipe import Features, Recipe, TableSource
from schemas.tables import BINARIES, feature_groups
from tasks.binarize.embedding import Embedding
from tasks.binarize.task import code_columns, load_binarizers, load_embedding
from tasks.build import code_digest, libraries
from tasks.codes.binarizer import Binarizer
from tasks.extract.binding import DIMENSIONS
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import FEATURE_SETS, STRUCTURE
from tasks.query.dataset import Dataset
from tasks.shards import read_provenance, sha256_file
from tasks.tablefiles import row_id
from tasks.tabular import batches, open_table, table_features

BATCH_FILES = 64
"""Files whose vectors are in memory together."""
USABLE = {"ok", "partial"}
"""Parse statuses of a file that has features."""

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a dataset learned from its training split.

    Attributes
    ----------
    names
        The selected features, in the order of the columns of train.
    of_structure
        Whether codes are of the header tree, not of the selected columns.
    """

    names: list[str]
    embedding: Embedding
    binarizers: dict[str, Binarizer]
    of_structure: bool = False

    def columns(self, selected: NDArray[np.float32], trees: NDArray[np.float32] | None = None) -> dict[str, Any]:
        """Selected columns and codes of rows float32[n, p], by name, as Arrow arrays; `trees` are header trees'."""
        found: dict[str, Any] = {
            name: pa.array(np.ascontiguousarray(selected[:, i])) for i, name in enumerate(self.names)
        }
        codes = code_columns(self.binarizers, self.embedding.transform(selected if trees is None else trees))
        return found | {self.free(name): column for name, column in codes.items()}

    def free(self, name: str) -> str:
        """A name for a column that is no feature: with `_` added while a table's feature is called so (`median`)."""
        while name in self.names:
            name += "_"
        return name


def load_fitted(dataset: Dataset) -> Fitted:
    """The fitted tables of a dataset.

    Raises
    ------
    DatasetError
        The dataset has none.
    """
    places = {n: dataset.fitted(n).relative_to(dataset.root).as_posix() for n in ("embedding", "binarizers")}
    names, embedding = load_embedding(dataset.root, places["embedding"])
    of_structure = dataset.manifest.recipe["binarizing"]["embedding"] == STRUCTURE
    if of_structure:
        names = pq.read_table(dataset.fitted("scaler"), columns=["feature"]).column(0).to_pylist()
    return Fitted(names, embedding, load_binarizers(dataset.root, places["binarizers"]), of_structure)


def recipe_of(dataset: Dataset) -> Recipe:
    """The recipe a dataset was made from.

    Raises
    ------
    QueryError
        This binmill does not know the recipe's feature set, or another of its fields; or the set's dimensions are
        not those of the dataset.
    """
    remedy = "use the binmill release that wrote the dataset, or run its recipe again"
    try:
        recipe = Recipe.model_validate(dataset.manifest.recipe)
    except ValueError as error:
        raise QueryError(
            f"{dataset.root}: its recipe is not one that this binmill understands: {error}", remedy
        ) from error
    if not (recipe.is_table or recipe.is_vectors):
        there, here = written_groups(dataset), FEATURE_SETS[recipe.features.set]
        others = [name for name in there.keys() | here.keys() if there.get(name) != here.get(name)]
        if others:
            raise QueryError(
                f"{dataset.root}: {recipe.features.set} has other dimensions in this binmill "
                f"(groups {', '.join(sorted(others))})",
                remedy,
            )
    return recipe


def written_groups(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Groups of a dataset's features table, and the names of their dimensions."""
    return feature_groups(pq.read_schema(dataset.paths("features")[0]))


def differences(dataset: Dataset) -> list[str]:
    """Code and libraries that are not those which made a dataset; empty when new rows are like its own to the bit."""
    found: list[str] = []
    for stage, table in (("extract", "features"), ("binarize", "codes")):
        for path in dataset.paths(table)[:1]:
            made = read_provenance(path)
            if made["code"] != code_digest(stage):
                found.append(f"the code of stage {stage}")
            now = libraries(stage)
            found += [
                f"{name} {version} (now {now.get(name, 'gone')})"
                for name, version in made["libraries"].items()
                if now.get(name) != version
            ]
    return list(dict.fromkeys(found))


def selected_values(vectors: Vectors, names: Sequence[str], feature_set: str) -> NDArray[np.float32]:
    """The named dimensions of one file's vectors, float32[p]."""
    place = {name: (group, i) for group, dims in FEATURE_SETS[feature_set].items() for i, name in enumerate(dims)}
    return np.array([vectors[place[name][0]][place[name][1]] for name in names], dtype=np.float32)


def apply(dataset: Dataset, paths: Sequence[Path], *, features: bool = False) -> Iterator[Any]:
    """Rows of new files (for a dataset made from a table: of new tables), as Arrow tables of some rows each.

    Parameters
    ----------
    paths
        Files; of a table dataset, tables with its feature columns (a label column is not needed).
    features
        Add the whole vectors, a column `features.<group>` for each group.

    Yields
    ------
    pyarrow.Table
        `file`, `sample_id`, the columns of `binaries` (not for a table), the selected columns as in `train`, the
        codes as in `codes`. A file that could not be read or parsed is a row with a reason and nulls.

    Raises
    ------
    QueryError
        A path is no file, or the dataset's recipe is unknown to this binmill.
    """
    for path in paths:
        if not path.is_file():
            raise QueryError(f"{path}: no such file", "name files; a folder's are FOLDER/*")
    recipe, fitted = recipe_of(dataset), load_fitted(dataset)
    if recipe.is_vectors:
        raise QueryError(
            f"{dataset.root}: an index of vectors has no features for new files",
            "append vectors: binmill index FILE --append, or ask with them: binmill search --vectors",
        )
    if recipe.is_table:
        every = written_groups(dataset) if features else {}
        for path in paths:
            yield from _table_rows(path, fitted, every)
        return
    with IsolatedParser.of(recipe.features, structure=fitted.of_structure) as parser:
        for start in range(0, len(paths), BATCH_FILES):
            yield _file_rows(paths[start : start + BATCH_FILES], parser, recipe.features, fitted, features)


def _file_rows(paths: Sequence[Path], parser: IsolatedParser, options: Features, fitted: Fitted, features: bool) -> Any:
    rows: list[dict[str, Any]] = []
    found: list[Vectors | None] = []
    for path in paths:
        row, vectors = _extracted(path, parser, options)
        rows.append({"file": _text(path)} | row)
        found.append(vectors)
    parsed = [i for i, vectors in enumerate(found) if vectors is not None]
    usable = [vectors for vectors in found if vectors is not None]
    chosen = [selected_values(vectors, fitted.names, options.set) for vectors in usable]
    trees = None
    if fitted.of_structure:
        trees = np.stack([v[STRUCTURE] for v in usable]) if usable else np.zeros((0, DIMENSIONS), np.float32)
    columns = fitted.columns(np.stack(chosen) if chosen else np.zeros((0, len(fitted.names)), np.float32), trees)
    if features:
        for group, names in FEATURE_SETS[options.set].items():
            matrix = np.stack([v[group] for v in usable]) if usable else np.zeros((0, len(names)), np.float32)
            columns[f"features.{group}"] = _vectors(matrix)
    # Row i of the result is row where[i] of the columns; null where nothing was parsed.
    where = np.full(len(paths), -1, dtype=np.int64)
    where[parsed] = np.arange(len(parsed))
    take = pa.array(where, mask=where < 0)
    about = pa.schema([pa.field("file", pa.string()), *_nullable(BINARIES)])
    table = pa.Table.from_pylist(rows, about)
    for name, column in columns.items():
        table = table.append_column(name, column.take(take))
    return table.rename_columns(["sample_id" if name == "sha256" else name for name in table.schema.names])


def _nullable(schema: Any) -> list[Any]:
    return [field.with_nullable(True) for field in schema]


def _extracted(path: Path, parser: IsolatedParser, options: Features) -> tuple[dict[str, Any], Vectors | None]:
    unread: dict[str, Any] = {"parse_status": "error", "parser": "none"}
    try:
        size = path.stat().st_size
        if size > options.max_file_mib * 2**20:
            reason = f"larger than features.max_file_mib ({options.max_file_mib} MiB)"
            return unread | {"size": size, "parse_error": reason}, None
        data = path.read_bytes()
    except OSError as error:
        return unread | {"parse_error": f"unreadable: {error.strerror}"}, None
    extracted = parser.extract(data)
    row = {name: value for name, value in extracted.row.items() if name in BINARIES.names}
    vectors = extracted.vectors if row["parse_status"] in USABLE else None
    return {"sha256": hashlib.sha256(data).hexdigest()} | row, vectors


def _table_rows(path: Path, fitted: Fitted, every: dict[str, tuple[str, ...]]) -> Iterator[Any]:
    """Rows of a new table. Its label column, if it has one, is not read.

    Parameters
    ----------
    every
        Groups whose whole vectors are wanted too.
    """
    wanted = list(dict.fromkeys([*fitted.names, *(name for names in every.values() for name in names)]))
    names: list[str] = []
    try:
        table = open_table(path)
        columns = [_column_of(name, table.schema.names) for name in wanted]
        present = tuple(dict.fromkeys(column for column in columns if column is not None))
        # A source names a label column; a feature column stands in, since no label is used here.
        source = TableSource(kind="table", path=str(path), label_column=(*present, "")[0], columns=present)
        names = table_features(table, source) if present else []
    except BinmillError as error:
        raise QueryError(f"{path}: {error.problem}", error.remedy) from error
    missing = set(wanted) - set(names)
    if missing:
        raise QueryError(
            f"{path}: no column for {len(missing)} of {len(wanted)} features, as '{min(missing)}'",
            "give a table with the feature columns that the dataset was made from",
        )
    if not table.rows:
        raise QueryError(f"{path}: the table has no rows", "give a table with rows")
    index = [names.index(name) for name in fitted.names]
    whole = {group: [names.index(name) for name in dims] for group, dims in every.items()}
    digest, row = sha256_file(path), 0
    for part in batches(table, source, 0, table.rows):
        ids = [row_id(digest, row + i) for i in range(len(part.features))]
        row += len(ids)
        about = {fitted.free("file"): pa.array([_text(path)] * len(ids)), "sample_id": pa.array(ids)}
        columns = about | fitted.columns(np.ascontiguousarray(part.features[:, index]))
        for group, places in whole.items():
            columns[f"features.{group}"] = _vectors(part.features[:, places])
        yield pa.table(columns)


def _vectors(matrix: NDArray[np.float32]) -> Any:
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def _text(path: Path) -> str:
    """A path for people and tables: bytes of its name that are not text are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _column_of(name: str, columns: Sequence[str]) -> str | None:
    """The table's column that a feature is of: itself, or the list column that it is a place of."""
    found = name if name in columns else name.rpartition("[")[0]
    return found if found in columns else None


def parsed_rows(table: Any) -> int:
    """How many rows of a table that `apply` gave have codes."""
    if "parse_status" not in table.schema.names:
        return int(table.num_rows)
    return sum(status in USABLE for status in table.column("parse_status").to_pylist())


def json_row(row: dict[str, Any]) -> str:
    """A row as one line of JSON: codes are hexadecimal; JSON has no NaN or infinity, so these are null."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            plain[name] = [_finite(v) for v in cast("list[Any]", value)]
        else:
            plain[name] = value.hex() if isinstance(value, bytes) else _finite(value)
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def brief(table: Any) -> Any:
    """What of `apply`'s rows fits a terminal: which file, whether it parsed, its codes."""
    wanted = ("file", "sample_id", "format", "parse_status", "parse_error")
    codes = [field.name for field in table.schema if pa.types.is_fixed_size_binary(field.type)]
    return table.select([name for name in wanted if name in table.schema.names] + codes)


class Writer:
    """Writes `apply`'s tables to one file, as they come; beside its place, and renamed at the end.

    Parameters
    ----------
    path
        `.parquet`; or `.csv` or `.jsonl`, in which codes are hexadecimal. None: nothing is written.
    features
        Whether the tables hold whole vectors.

    Raises
    ------
    QueryError
        Another suffix; a folder that is not there; or whole vectors for a `.csv` file.
    """

    def __init__(self, path: Path | None, *, features: bool = False) -> None:
        self.path = path
        if path is not None and path.suffix not in {".parquet", ".csv", ".jsonl"}:
            raise QueryError(f"--output {path}: the format is not known", "name a .parquet, .csv or .jsonl file")
        if path is not None and not path.parent.is_dir():
            raise QueryError(f"--output {path}: there is no folder {path.parent}", "make it first")
        if path is not None and path.suffix == ".csv" and features:
            raise QueryError("--features: a .csv file cannot hold vectors", "write a .parquet or .jsonl file")
        self._file: Any = None
        self._writer: Any = None
        self._part = None if path is None else path.with_name(f".{path.name}.part")

    def __enter__(self) -> "Writer":
        if self._part is not None:
            self._file = self._part.open("wb")
        return self

    def write(self, table: Any) -> None:
        """Add rows."""
        if self.path is None:
            return
        if self.path.suffix == ".jsonl":
            self._file.writelines(json_row(row).encode() + b"\n" for row in table.to_pylist())
            return
        if self.path.suffix == ".csv":
            table = _as_text(table)
        if self._writer is None:
            kind = pq.ParquetWriter if self.path.suffix == ".parquet" else pacsv.CSVWriter
            self._writer = kind(self._file, table.schema)
        self._writer.write_table(table)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._file is not None and self.path is not None and self._part is not None:
            self._file.close()
            if kind is None:
                self._part.replace(self.path)
            else:
                self._part.unlink(missing_ok=True)


def _as_text(table: Any) -> Any:
    """Codes as hexadecimal, which a CSV file can hold."""
    for i, field in enumerate(table.schema):
        if pa.types.is_fixed_size_binary(field.type):
            values = [None if code is None else code.hex() for code in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(values, pa.string()))
    return table
