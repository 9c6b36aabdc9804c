"""Nearest rows to files, rows or vectors, by their bit codes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flows.apply import Fitted, load_fitted, recipe_of, selected_values
from schemas.errors import BinmillError, QueryError
from schemas.recipe import VectorsSource
from schemas.tables import SPLITS
from tasks.binarize.encoders import encoded, identity
from tasks.binarize.rows import feature_matrix, structures
from tasks.binarize.vectors import open_vectors
from tasks.codes.binarizer import Binarizer, load
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import STRUCTURE
from tasks.query.codes import CodeIndex
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.query.trace import resolve_id
from tasks.shards import find_rows, read_provenance


@dataclass(frozen=True, slots=True)
class Text:
    """Words that ask of an index of texts."""

    words: str


def neighbours(
    dataset: Dataset,
    like: str | Path | Text,
    k: int,
    method: str | None = None,
    *,
    rescore: int | None = None,
    where: str | None = None,
    threads: int = 1,
    recall: float | None = None,
    binarizer: Path | None = None,
) -> Any:
    """The k nearest rows to each of what asks, nearest first, with what is known of them: an Arrow table.

    Parameters
    ----------
    like
        Path of a file, or id of a row (or its beginning); a file goes before. A `Path`: a table of vectors, each of
        which asks; its hits have its number in `query`. A `Text`: words, for the encoder that the index was made with.
    method
        Binarizer; by default the one whose measured recall is best.
    rescore, where, threads, recall
        As of `CodeIndex`.
    binarizer
        What `binmill adapt` wrote: vectors that ask are another model's than the rows'.

    Raises
    ------
    QueryError
        Neither a file nor a row; or the method is not in the dataset.
    """
    own = None if binarizer is None else load(binarizer)
    if own is not None and not isinstance(like, Path):
        raise QueryError("--binarizer: it takes another model's vectors", "ask with --vectors FILE")
    index = CodeIndex(dataset, method, threads=threads, binarizer=own)
    if isinstance(like, Text):
        queries = _of_text(dataset, like.words)
    else:
        queries = _of_vectors(dataset, like, own) if isinstance(like, Path) else embedded(dataset, like)
    hits = index.search(queries, k, rescore=rescore, where=where, recall=recall)
    rows = [
        {"query": n, "sample_id": sample, "split": split, "distance": float(far), "information": float(shared)}
        for n, found in enumerate(zip(*hits, strict=True))
        for sample, far, shared, split in zip(*found, strict=True)
        if sample is not None
    ]
    table = _with_labels(dataset, rows, index.method) if "labels" in dataset.manifest.tables else _with_places(
        dataset, rows, index.method
    )  # fmt: skip
    if not isinstance(like, Path):
        return table
    return table.add_column(0, "query", pa.array([row["query"] for row in rows], pa.int64()))


def embedded(dataset: Dataset, like: str) -> NDArray[np.float32]:
    """A file or a row as a query: float32[1, d], embedded as the dataset's rows are."""
    if recipe_of(dataset).is_vectors:
        return _of_index(dataset, like)
    fitted = load_fitted(dataset)
    path = Path(like)
    row = _of_file(dataset, path, fitted) if path.is_file() else _of_row(dataset, like, fitted)
    return fitted.embedding.transform(row[None, :])


def _of_text(dataset: Dataset, words: str) -> NDArray[np.float32]:
    """Words as a query, by the very encoder that made the index."""
    first = recipe_of(dataset).sources[0]
    if not isinstance(first, VectorsSource) or first.encoder is None:
        raise QueryError(
            f"--text: {dataset.name} was not made from texts by an encoder",
            "index texts: binmill index FILE --column TEXT --encoder minilm; or ask with --vectors FILE",
        )
    made, now = read_provenance(dataset.paths("sources")[0])["config"]["encoder"], identity(first.encoder)
    if made != now:
        raise QueryError(
            f"--text: the index was made by {first.encoder} {made['version']} ({made['digest'][:12]}), "
            f"installed is {now['version']} ({now['digest'][:12]})",
            "install that one, or make the index again",
        )
    return load_fitted(dataset).embedding.transform(encoded(first.encoder, words)[None, :])


def _of_vectors(dataset: Dataset, path: Path, own: Binarizer | None) -> NDArray[np.float32]:
    """Vectors of a file, embedded: float32[n, d]; as they are for a binarizer of their own.

    Columns that the index read are taken where the file has them.
    """
    if not path.exists():
        raise QueryError(f"--vectors {path}: no such file", "give a .npy, Parquet or Arrow file of vectors")
    recipe, embedding = recipe_of(dataset), load_fitted(dataset).embedding
    first = recipe.sources[0]
    own_columns = isinstance(first, VectorsSource) and first.encoder is None and path.suffix != ".npy"
    columns = first.columns if isinstance(first, VectorsSource) and own_columns else ()
    try:
        vectors = open_vectors(path, columns)
    except BinmillError as error:
        raise QueryError(f"--vectors {error.problem}", "name its columns as those of the index") from error
    wanted = len(embedding.mean) if own is None else own.dimensions
    if len(vectors.names) != wanted:
        raise QueryError(
            f"--vectors {path}: {len(vectors.names)} components, wanted are {wanted}",
            "give vectors of the rows' model; or another's, with what 'binmill adapt' learned (--binarizer)",
        )
    asked = vectors.range(0, vectors.table.rows)
    return embedding.transform(asked) if own is None else asked


def _of_index(dataset: Dataset, like: str) -> NDArray[np.float32]:
    """The vector of a row of an index, from its int8 copy."""
    sample = resolve_id(dataset, like)
    for path in dataset.paths("codes"):
        if "vector" not in pq.read_schema(path).names:
            raise QueryError(
                f"--like {like}: {dataset.root} keeps no vectors of its rows",
                "ask with --vectors FILE, or index with --rescoring",
            )
        table = find_rows(path, "sample_id", sample, ["vector", "vector_scale"])
        if table.num_rows:
            small = np.frombuffer(table.column("vector")[0].as_py(), np.int8).astype(np.float32)
            return small[None, :] * np.float32(table.column("vector_scale")[0].as_py())
    raise QueryError(f"--like {like}: no such row", "ask with --vectors FILE")


def _of_file(dataset: Dataset, path: Path, fitted: Fitted) -> NDArray[np.float32]:
    """Selected features of a file, or its header tree, extracted as the pipeline does."""
    recipe = recipe_of(dataset)
    options = recipe.features
    if recipe.is_table:
        raise QueryError(f"--like {path}: this dataset is made from a table", "give the id of a row")
    if path.stat().st_size > options.max_file_mib * 2**20:
        raise QueryError(f"--like {path}: larger than features.max_file_mib", "give a smaller file")
    with IsolatedParser.of(options, structure=fitted.of_structure) as parser:
        extracted = parser.extract(path.read_bytes())
    if extracted.row["parse_status"] not in {"ok", "partial"}:
        raise QueryError(f"--like {path}: {extracted.row['parse_error']}", "give a PE, ELF or Mach-O file")
    if fitted.of_structure:
        return extracted.vectors[STRUCTURE]
    return selected_values(extracted.vectors, fitted.names, options.set)


def _of_row(dataset: Dataset, like: str, fitted: Fitted) -> NDArray[np.float32]:
    sample = resolve_id(dataset, like)
    for table in ("features",) if fitted.of_structure else SPLITS:
        for path in dataset.paths(table):
            found = find_rows(path, "sample_id", sample, ["structure"] if fitted.of_structure else None)
            if found.num_rows:
                return (structures if fitted.of_structure else feature_matrix)(found)[0]
    raise QueryError(
        f"--like {like}: row {sample[:16]}… has no place in train, validation or test",
        f"see why: binmill trace {dataset.root} {sample[:16]}",
    )


def _with_places(dataset: Dataset, found: list[dict[str, Any]], method: str) -> Any:
    """Each hit with its file and its number there: an Arrow table."""
    ids = ", ".join("'" + row["sample_id"].replace("'", "''") + "'" for row in found) or "''"
    sql = f"SELECT sample_id, filename, row FROM codes JOIN sources USING (source_id) WHERE sample_id IN ({ids})"
    places = {r["sample_id"]: r for r in query(dataset, sql).to_pylist()}
    schema = pa.schema(
        [
            ("distance", pa.float64()), ("information", pa.float64()), ("sample_id", pa.string()),
            ("filename", pa.string()), ("row", pa.int64()), ("method", pa.string()),
        ]
    )  # fmt: skip
    return pa.Table.from_pylist([row | places[row["sample_id"]] | {"method": method} for row in found], schema)


def _with_labels(dataset: Dataset, found: list[dict[str, Any]], method: str) -> Any:
    """Each hit with its label, and where it was first found: an Arrow table."""
    schema = pa.schema(
        [
            ("distance", pa.float64()), ("information", pa.float64()), ("label", pa.string()), ("split", pa.string()),
            ("sample_id", pa.string()), ("found_in", pa.string()), ("method", pa.string()),
        ]
    )  # fmt: skip
    if not found:
        return pa.Table.from_pylist([], schema)
    ids = ", ".join(f"'{row['sample_id']}'" for row in found)
    labels = {
        r["sample_id"]: r["label"]
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
        row | {"label": labels[row["sample_id"]], "found_in": places.get(row["sample_id"]), "method": method}
        for row in found
    ]
    return pa.Table.from_pylist(rows, schema)
