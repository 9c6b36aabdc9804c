"""Search by bit codes, straight from a dataset's Parquet files: what is plain in them is mapped, not read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute

from schemas.errors import QueryError
from tasks.codes.binarizer import Binarizer, Encoded, from_table
from tasks.codes.hamming import merge
from tasks.codes.rescore import rescored
from tasks.codes.search import Asked, ask, distance, information, nearest_codes
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.shards import mapped, read_shard

pc: Any = compute  # its functions are made at import, unseen by type checkers

Floats = NDArray[np.float32]

RESCORED = 4
"""Rows that are looked closer at for each one wanted."""
QUERIES = 1024
"""Queries whose results are held at once."""


class Hits(NamedTuple):
    """The k nearest rows of each of q queries, nearest first; fewer than k found: None, infinity and NaN at the end.

    Attributes
    ----------
    ids
        object[q, k], `sample_id` of each.
    distances
        float32[q, k]: bits that differ (Hamming), or squared Euclidean distances, estimated or (rescored) of int8
        vectors.
    information
        float64[q, k], mutual information of the query's bits and the row's, nats a bit: a label, not a ranking.
    splits
        object[q, k], of each row.
    """

    ids: NDArray[np.object_]
    distances: Floats
    information: NDArray[np.float64]
    splits: NDArray[np.object_]


@dataclass(frozen=True)
class _Part:
    """Codes of one row group."""

    path: Path
    group: int
    start: int
    """Number of its first row, over all parts."""
    rows: int
    method: str
    widths: dict[str, int] = field(repr=False)

    def _bytes(self, column: str, width: int) -> NDArray[np.uint8]:
        found = mapped(self.path, self.group, column, width)
        if found is None:
            array = self._read([column]).column(column).combine_chunks()
            start = array.offset * width
            found = np.frombuffer(array.buffers()[1], np.uint8)[start : start + self.rows * width]
        return found.reshape(self.rows, width)

    def _read(self, columns: Sequence[str]) -> Any:
        return pq.ParquetFile(self.path).read_row_group(self.group, columns=list(columns)).combine_chunks()

    @cached_property
    def encoded(self) -> Encoded:
        """Codes, and their scalars."""
        codes = self._bytes(self.method, self.widths[self.method])
        if f"{self.method}_norm" not in self.widths:
            return Encoded(codes, None, None)
        table = self._read([f"{self.method}_norm", f"{self.method}_factor"])
        return Encoded(codes, *(table.column(i).to_numpy() for i in range(2)))

    @cached_property
    def vectors(self) -> tuple[NDArray[np.int8], Floats]:
        """The embedding as int8, and its scales."""
        small = self._bytes("vector", self.widths["vector"]).view(np.int8)
        return small, self._bytes("vector_scale", 4).view(np.float32)[:, 0]

    @cached_property
    def about(self) -> Any:
        """Arrow table of `sample_id` and `split`."""
        return self._read(["sample_id", "split"])


def _width(kind: Any) -> int:
    return kind.byte_width if pa.types.is_fixed_size_binary(kind) else 0


class CodeIndex:
    """The codes of a dataset, ready to be searched. Opening it reads no codes.

    Parameters
    ----------
    dataset
        With a table `codes`.
    method
        Binarizer whose codes are searched; None: the one whose measured recall is best.
    threads
        Row groups that are searched at once. Results do not depend on it.

    Attributes
    ----------
    binarizer
        The fitted binarizer: `binarizer.dimensions` is what a query has.
    keeps_vectors
        Whether rows can be rescored by int8 vectors.
    rows
        Rows with codes.

    Raises
    ------
    QueryError
        The dataset has no codes, or none of this method.
    """

    def __init__(self, dataset: Dataset, method: str | None = None, *, threads: int = 1) -> None:
        self.dataset, self.threads = dataset, threads
        shards = dataset.manifest.tables.get("codes", [])
        if not shards or "binarizers" not in dataset.manifest.fitted:
            raise QueryError(
                f"{dataset.root}: the dataset has no bit codes", "make them with a recipe's section 'binarizing'"
            )
        place = dataset.fitted("binarizers").relative_to(dataset.root).as_posix()
        table = read_shard(dataset.root, place)
        methods: list[str] = table.column("method").to_pylist()
        measured = dataset.manifest.summary.get("recall") or []
        best: str = max(measured, key=lambda row: row["recall"])["method"] if measured else methods[0]
        self.method = method or (best if best in methods else methods[0])
        if self.method not in methods:
            raise QueryError(f"--method {method}: not in this dataset", f"choose from {', '.join(methods)}")
        self.binarizer: Binarizer = from_table(table, self.method)
        self._parts: list[_Part] = []
        start = 0
        for shard in shards:
            file = pq.ParquetFile(dataset.root / shard.path)
            widths = {f.name: _width(f.type) for f in file.schema_arrow}
            if widths.get(self.method) != self.binarizer.bytes:
                raise QueryError(
                    f"{dataset.root / shard.path}: {self.method} has {widths.get(self.method)} bytes, the fitted "
                    f"binarizer makes {self.binarizer.bytes}",
                    f"find the damage: binmill verify {dataset.root}",
                )
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                self._parts.append(_Part(dataset.root / shard.path, group, start, rows, self.method, widths))
                start += rows
        self.rows = start
        self.keeps_vectors = all("vector" in part.widths for part in self._parts)

    @property
    def distance(self) -> str:
        """What a hit's distance is, in words."""
        return distance(self.binarizer)

    def search(self, queries: Floats, k: int = 10, *, rescore: int | None = None, where: str | None = None) -> Hits:
        """The k nearest rows to each query.

        Parameters
        ----------
        queries
            float32[q, d], embedded as the dataset's rows are.
        k
            Rows wanted.
        rescore
            Rank this many times k rows by their int8 vectors; 0: none; None: 4 where the dataset keeps vectors.
        where
            An SQL condition (DuckDB) on the columns of `codes`, `labels`, `splits` and `binaries`, as
            "format = 'pe'": only rows that meet it are searched.

        Raises
        ------
        QueryError
            Queries of another dimension, a condition that cannot be answered, or no vectors to rescore by.
        """
        if queries.ndim != 2 or queries.shape[1] != self.binarizer.dimensions:
            raise QueryError(
                f"queries of shape {queries.shape}: the embedding has {self.binarizer.dimensions} dimensions",
                "embed them as the dataset's rows are: flows.search.embedded",
            )
        if rescore is None:
            rescore = RESCORED if self.keeps_vectors else 0
        if rescore and not self.keeps_vectors:
            raise QueryError(
                f"{self.dataset.root}: keeps no vectors to rescore by", "set binarizing.rescoring: true in its recipe"
            )
        allowed = None if where is None else self._allowed(where)
        found = [
            self._found(np.ascontiguousarray(queries[i : i + QUERIES], np.float32), k, rescore, allowed)
            for i in range(0, len(queries), QUERIES)
        ]
        empty = np.empty((0, k))
        return Hits(*(np.concatenate(c) for c in zip(*found, strict=True))) if found else Hits(
            empty.astype(object), empty.astype(np.float32), empty, empty.astype(object)
        )  # fmt: skip

    def _found(self, queries: Floats, k: int, rescore: int, allowed: list[NDArray[np.int64]] | None) -> Hits:
        asked = ask(self.binarizer, queries)
        wanted = max(1, k * max(1, rescore))

        def search(number: int) -> tuple[NDArray[np.int64], Floats]:
            return self._in_part(number, asked, wanted, None if allowed is None else allowed[number])

        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            parts = list(pool.map(search, range(len(self._parts))))
        nothing = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        ids, distances = merge([nothing, *parts], wanted)
        if rescore:
            ids, distances = self._rescored(queries, ids, k)
        return self._hits(asked, ids[:, :k], distances[:, :k], k)

    def _in_part(
        self, number: int, asked: Asked, k: int, some: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], Floats]:
        part = self._parts[number]
        if some is not None and not len(some):
            return np.empty((len(asked.codes), 0), np.int64), np.empty((len(asked.codes), 0), np.float32)
        rows = part.encoded
        if some is not None:
            norms, factors = (None if array is None else array[some] for array in rows[1:])
            rows = Encoded(rows.codes[some], norms, factors)
        ids, distances = nearest_codes(self.binarizer, asked, rows, k)
        return part.start + (ids if some is None else some[ids]), distances

    def _rescored(self, queries: Floats, ids: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], Floats]:
        # Candidates' vectors, gathered: few rows of large parts.
        some, places = np.unique(ids, return_inverse=True)
        vectors, scales = np.empty((len(some), self.binarizer.dimensions), np.int8), np.empty(len(some), np.float32)
        for part, rows in self._by_part(some):
            small, scale = part.vectors
            vectors[rows], scales[rows] = small[some[rows] - part.start], scale[some[rows] - part.start]
        near, squared = rescored(queries, places.reshape(ids.shape).astype(np.int64), vectors, scales, k)
        return some[near], squared

    def _by_part(self, ids: NDArray[np.int64]) -> list[tuple[_Part, NDArray[np.int64]]]:
        """Parts, and the places in `ids` of the rows that are theirs."""
        starts = np.array([part.start for part in self._parts])
        owner = np.searchsorted(starts, ids, side="right") - 1
        return [(self._parts[o], np.flatnonzero(owner == o)) for o in np.unique(owner) if o >= 0]

    def _hits(self, asked: Asked, ids: NDArray[np.int64], distances: Floats, k: int) -> Hits:
        shape = (len(ids), k)
        names, splits = np.full(shape, None, dtype=object), np.full(shape, None, dtype=object)
        far, shared = np.full(shape, np.inf, dtype=np.float32), np.full(shape, np.nan)
        far[:, : ids.shape[1]] = distances
        flat = ids.ravel()
        query, slot = np.divmod(np.arange(flat.size), max(1, ids.shape[1]))
        for part, places in self._by_part(flat):
            rows = flat[places] - part.start
            about = part.about.take(pa.array(rows))
            at = query[places], slot[places]
            names[at] = about.column("sample_id").to_pylist()
            splits[at] = about.column("split").to_pylist()
            shared[at] = information(self.binarizer, asked.codes[query[places]], part.encoded.codes[rows])
        return Hits(names, far, shared, splits)

    def _allowed(self, where: str) -> list[NDArray[np.int64]]:
        """Rows of each part that meet an SQL condition."""
        tables = self.dataset.manifest.tables
        joined = "codes"
        columns = "codes.sample_id, codes.split"
        for table, key in (("labels", "sample_id"), ("binaries", "sha256"), ("splits", "sample_id")):
            if tables.get(table):
                joined += f" LEFT JOIN {table} ON {table}.{key} = codes.sample_id"
                columns += f", {table}.* EXCLUDE ({key}{', split' if table == 'splits' else ''})"
        sql = f"WITH rows AS (SELECT {columns} FROM {joined}) SELECT DISTINCT sample_id FROM rows WHERE ({where}\n)"
        try:
            met = query(self.dataset, sql).column("sample_id").combine_chunks()
        except QueryError as error:
            raise QueryError(f"--where {where}: {error.problem}", error.remedy) from error
        return [np.flatnonzero(pc.is_in(part.about.column("sample_id"), met).to_numpy()) for part in self._parts]
