"""Search by bit codes, straight from a dataset's Parquet files: what is plain in them is mapped, not read."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute

from schemas.errors import QueryError
from tasks.codes.binarizer import Binarizer, Encoded, from_table
from tasks.codes.cells import Cells, cells_from_table
from tasks.codes.hamming import merge
from tasks.codes.rescore import rescored
from tasks.codes.search import Asked, ask, distance, information, nearest_codes
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.shards import mapped, read_shard

pc: Any = compute  # its functions are made at import, unseen by type checkers

Floats = NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")

RESCORED = 4
"""Rows that are looked closer at for each one wanted."""
QUERIES = 1024
"""Queries whose results are held at once."""
FEW = 4
"""Queries of which each is better searched in all of its cells at once than each cell for all that need it."""
SPAN = 65_536
"""Rows of neighbouring row groups that are searched together, where these are smaller."""


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
    """Number of its first row, over all parts; of copies that of the first row of their shard of `codes`."""
    rows: int
    copies: bool
    method: str
    widths: dict[str, int] = field(repr=False)
    footer: Any = field(repr=False)

    def _bytes(self, column: str, width: int) -> NDArray[np.uint8]:
        found = mapped(self.path, self.group, column, width, self.footer)
        if found is None:
            array = self._read([column]).column(column).combine_chunks()
            start = array.offset * width
            found = np.frombuffer(array.buffers()[1], np.uint8)[start : start + self.rows * width]
        return found.reshape(self.rows, width)

    def _read(self, columns: Sequence[str]) -> Any:
        file = pq.ParquetFile(self.path, metadata=self.footer)
        return file.read_row_group(self.group, columns=list(columns)).combine_chunks()

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
    def _places(self) -> NDArray[np.int32]:
        return self._read(["place"]).column(0).to_numpy()

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Number of each row, over all parts."""
        return self.start + (self._places.astype(np.int64) if self.copies else np.arange(self.rows))

    @cached_property
    def about(self) -> Any:
        """Arrow table of `sample_id` and `split`."""
        return self._read(["sample_id", "split"])


def _width(kind: Any) -> int:
    return kind.byte_width if pa.types.is_fixed_size_binary(kind) else 0


def _key(path: str) -> str:
    """What a shard's name has of the work that wrote it."""
    return path.rsplit("/", 1)[1]


def _comparable(new: Binarizer, old: Binarizer) -> Binarizer:
    """A binarizer whose codes are comparable with another's.

    Raises
    ------
    QueryError
        They are not.
    """
    same = (new.width, new.planes, new.estimates) == (old.width, old.planes, old.estimates)
    if not same or not np.array_equal(new.tables, old.tables):
        raise QueryError(
            f"--binarizer: a {new.method} of {new.planes} x {new.width} bits is not for these codes "
            f"({old.planes} x {old.width})",
            "fit it to them: binmill adapt DATASET VECTORS",
        )
    return new


def _joined(several: list[Encoded]) -> Encoded:
    if len(several) == 1:
        return several[0]
    codes, norms, factors = zip(*several, strict=True)
    return Encoded(
        np.concatenate(codes), *(None if part[0] is None else np.concatenate(part) for part in (norms, factors))
    )


def _spans(parts: list[_Part]) -> list[list[_Part]]:
    """Neighbouring parts, together as large as one row group is by default."""
    spans: list[list[_Part]] = []
    rows = SPAN
    for part in parts:
        if rows + part.rows > SPAN:
            spans.append([])
            rows = 0
        spans[-1].append(part)
        rows += part.rows
    return spans


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
    binarizer
        For queries of another model, fitted to the codes that are stored (`binmill adapt`). Then no cells are known,
        and nothing can be rescored.

    Attributes
    ----------
    binarizer
        The fitted binarizer: `binarizer.dimensions` is what a query has.
    keeps_vectors
        Whether rows can be rescored by int8 vectors.
    probes
        What reading the nearest cells found among validation and test rows' neighbours in train: rows with `probes`
        (cells), `read` (share of all rows) and `recall`. Empty where the dataset has no cells.
    rows
        Rows with codes.

    Raises
    ------
    QueryError
        The dataset has no codes, or none of this method; or the binarizer is not for these codes.
    """

    def __init__(
        self, dataset: Dataset, method: str | None = None, *, threads: int = 1, binarizer: Binarizer | None = None
    ) -> None:
        self.dataset, self.threads = dataset, threads
        shards = dataset.manifest.tables.get("codes", [])
        if not shards or "binarizers" not in dataset.manifest.fitted:
            raise QueryError(
                f"{dataset.root}: the dataset has no bit codes", "make them with a recipe's section 'binarizing'"
            )
        table = self._fitted("binarizers")
        methods: list[str] = table.column("method").to_pylist()
        measured = dataset.manifest.summary.get("recall") or []
        best: str = max(measured, key=lambda row: row["recall"])["method"] if measured else methods[0]
        if binarizer is not None:
            method = binarizer.method
        self.method = method or (best if best in methods else methods[0])
        if self.method not in methods:
            raise QueryError(f"--method {method}: not in this dataset", f"choose from {', '.join(methods)}")
        self.binarizer: Binarizer = from_table(table, self.method)
        if binarizer is not None:
            self.binarizer = _comparable(binarizer, self.binarizer)
        self._parts: list[_Part] = []
        self._cells: Cells | None = None
        self.probes: list[dict[str, Any]] = []
        self._in_cell: dict[int, list[int]] = {}
        starts: dict[str, int] = {}
        start = 0
        for shard in shards:
            starts[_key(shard.path)] = start
            start += self._add(dataset.place(shard.path), start)
        self.rows = start
        self.keeps_vectors = binarizer is None and all("vector" in part.widths for part in self._parts)
        self._starts = np.array([part.start for part in self._parts])
        self._spans = _spans(self._parts)
        if "cells" in dataset.manifest.fitted and binarizer is None:
            self._cells = cells_from_table(self._fitted("cells"))
            self.probes = self._fitted("probes").to_pylist()
            for shard in dataset.manifest.tables.get("borders", []):
                self._add(dataset.place(shard.path), starts[_key(shard.path)], copies=True)

    def _fitted(self, name: str) -> Any:
        return read_shard(self.dataset.root, self.dataset.fitted(name).relative_to(self.dataset.root).as_posix())

    def about(self, columns: Sequence[str]) -> Any:
        """Columns of `codes` other than codes, of all rows by their number: an Arrow table."""
        files = dict.fromkeys(part.path for part in self._parts if not part.copies)
        return pa.concat_tables([pq.ParquetFile(path).read(list(columns)) for path in files])

    def stored(self, rows: NDArray[np.int64]) -> Encoded:
        """Codes of some rows, by their numbers."""
        codes = np.empty((len(rows), self.binarizer.bytes), np.uint8)
        scalars = np.empty((2, len(rows)), np.uint8)
        for part, places in self._by_part(rows):
            encoded, some = part.encoded, rows[places] - part.start
            codes[places] = encoded.codes[some]
            if encoded.norms is not None and encoded.factors is not None:
                scalars[0, places], scalars[1, places] = encoded.norms[some], encoded.factors[some]
        return Encoded(codes, scalars[0], scalars[1]) if self.binarizer.estimates else Encoded(codes, None, None)

    def _add(self, path: Path, start: int, *, copies: bool = False) -> int:
        """Add a shard's row groups; says how many rows they have."""
        file = pq.ParquetFile(path)
        widths = {f.name: _width(f.type) for f in file.schema_arrow}
        if widths.get(self.method) != self.binarizer.bytes:
            raise QueryError(
                f"{path}: {self.method} has {widths.get(self.method)} bytes, the fitted binarizer makes "
                f"{self.binarizer.bytes}",
                f"find the damage: binmill verify {self.dataset.root}",
            )
        total = 0
        cell = file.schema_arrow.get_field_index("cell")
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            if cell >= 0:
                self._in_cell.setdefault(about.column(cell).statistics.min, []).append(len(self._parts))
            first = start if copies else start + total
            self._parts.append(_Part(path, group, first, about.num_rows, copies, self.method, widths, file.metadata))
            total += about.num_rows
        return total

    @property
    def distance(self) -> str:
        """What a hit's distance is, in words."""
        return distance(self.binarizer)

    def search(
        self,
        queries: Floats,
        k: int = 10,
        *,
        rescore: int | None = None,
        where: str | None = None,
        recall: float | None = None,
    ) -> Hits:
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
            An SQL condition (DuckDB) on `split` and the columns of `labels`, `splits` and `binaries` (of an index:
            `row`, `filename`), as "format = 'pe'": only rows that meet it are searched.
        recall
            Read only as many cells, nearest first, as held this share of the exact neighbours when `probes` was
            measured; None: all rows.

        Raises
        ------
        QueryError
            Queries of another dimension, a condition that cannot be answered, no vectors to rescore by, or no cells.
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
        cells = None if recall is None else self._cells_for(recall)
        allowed = None if where is None else self._allowed(where)
        found = [
            self._found(np.ascontiguousarray(queries[i : i + QUERIES], np.float32), k, rescore, allowed, cells)
            for i in range(0, len(queries), QUERIES)
        ]
        empty = np.empty((0, k))
        return Hits(*(np.concatenate(c) for c in zip(*found, strict=True))) if found else Hits(
            empty.astype(object), empty.astype(np.float32), empty, empty.astype(object)
        )  # fmt: skip

    def _cells_for(self, recall: float) -> int:
        """Cells to be read."""
        if self._cells is None or not self.probes:
            raise QueryError(
                f"{self.dataset.root}: its codes are not in cells, or no recall of them was measured",
                "set binarizing.cells in its recipe, or search all rows: without --recall",
            )
        if not 0 < recall <= 1:
            raise QueryError(f"--recall {recall}: not a share of neighbours", "give a number above 0, at most 1")
        return next(row["probes"] for row in self.probes if row["recall"] >= recall or row is self.probes[-1])

    def _found(
        self, queries: Floats, k: int, rescore: int, allowed: NDArray[np.bool_] | None, cells: int | None
    ) -> Hits:
        asked = ask(self.binarizer, queries)
        wanted = max(1, k * max(1, rescore))
        if cells is None or self._cells is None:
            ids, distances = self._everywhere(asked, wanted, allowed)
        else:
            ids, distances = self._in_cells(asked, self._cells.nearest(queries, cells), wanted, allowed)
        if rescore:
            ids, distances = self._rescored(queries, ids, k)
        return self._hits(asked, ids[:, :k], distances[:, :k], k)

    def _each(self, search: Callable[[T], R], of: Iterable[T]) -> list[R]:
        """Results in order; one thread starts no other, which would take as long as a small search."""
        if self.threads <= 1:
            return [search(part) for part in of]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(search, of))

    def _everywhere(self, asked: Asked, k: int, allowed: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], Floats]:
        found = self._each(lambda parts: self._nearest(parts, asked, k, allowed), self._spans)
        nothing = np.empty((len(asked.codes), 0), np.int64), np.empty((len(asked.codes), 0), np.float32)
        return merge([nothing, *found], k)

    def _in_cells(
        self, asked: Asked, near: NDArray[np.int64], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], Floats]:
        """Search for each query in its cells, int64[q, cells]; a row that is in several of them is found once."""

        def in_cell(cell: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
            return search(np.flatnonzero((near == cell).any(axis=1)), [cell])

        def search(of: NDArray[np.int64], cells: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
            some = Asked(asked.codes[of], None if asked.projected is None else asked.projected[of])
            parts = [self._parts[number] for cell in cells for number in self._in_cell.get(cell, [])]
            ids, distances = self._with_ties(parts, some, k, allowed)
            return np.repeat(of, ids.shape[1]), ids.ravel(), distances.ravel()

        if len(near) <= FEW:
            found = self._each(lambda a: search(np.array([a]), near[a].tolist()), range(len(near)))
        else:
            found = self._each(in_cell, np.unique(near).tolist())
        query, ids, distances = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.lexsort((ids, distances, query))
        query, ids, distances = query[order], ids[order], distances[order]
        # Copies of a row have its code, and so its distance: they lie side by side.
        first = np.append(True, (np.diff(query) != 0) | (np.diff(ids) != 0))[: len(ids)]
        query, ids, distances = query[first], ids[first], distances[first]
        slot = np.arange(len(query)) - np.searchsorted(query, query)
        kept = slot < k
        shape = (len(asked.codes), min(k, int(slot.max(initial=-1)) + 1))
        best = np.full(shape, -1, np.int64), np.full(shape, np.inf, np.float32)
        best[0][query[kept], slot[kept]], best[1][query[kept], slot[kept]] = ids[kept], distances[kept]
        return best

    def _with_ties(
        self, parts: Sequence[_Part], asked: Asked, k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], Floats]:
        """The k nearest different rows and more, with all that are as near as the k-th.

        Rows of several cells do not stand in the order of their numbers, which ties go by, and copies stand among them.
        """
        wanted = 2 * k
        while True:
            ids, distances = self._nearest(parts, asked, wanted, allowed)
            if ids.shape[1] < wanted:
                return ids, distances
            closer = distances < distances[:, -1:]
            if all(len(np.unique(row[near])) >= k for row, near in zip(ids, closer, strict=True)):
                return ids, distances
            wanted *= 2

    def _nearest(
        self, parts: Sequence[_Part], asked: Asked, k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], Floats]:
        """The k nearest rows of some parts, by their numbers over all parts."""
        if not parts:
            return np.empty((len(asked.codes), 0), np.int64), np.empty((len(asked.codes), 0), np.float32)
        rows = _joined([part.encoded for part in parts])
        start, stop = parts[0].start, parts[0].start + sum(part.rows for part in parts)
        numbers: NDArray[np.int64] | None = None
        if any(part.copies for part in parts) or parts[-1].start + parts[-1].rows != stop:
            numbers = np.concatenate([part.numbers for part in parts])
        if allowed is not None:
            some = np.flatnonzero(allowed[start:stop] if numbers is None else allowed[numbers])
            rows = Encoded(rows.codes[some], *(None if array is None else array[some] for array in rows[1:]))
            numbers = start + some if numbers is None else numbers[some]
        if not len(rows.codes):
            return np.empty((len(asked.codes), 0), np.int64), np.empty((len(asked.codes), 0), np.float32)
        ids, distances = nearest_codes(self.binarizer, asked, rows, k)
        return start + ids if numbers is None else numbers[ids], distances

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
        owner = np.searchsorted(self._starts, ids, side="right") - 1
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

    def _allowed(self, where: str) -> NDArray[np.bool_]:
        """Which rows meet an SQL condition."""
        tables = self.dataset.manifest.tables
        joined = "codes"
        columns = "codes.sample_id, codes.split"
        if tables.get("sources") and "source_id" in pq.read_schema(self._parts[0].path).names:
            joined += " LEFT JOIN sources ON sources.source_id = codes.source_id"
            columns += ", codes.source_id, codes.row, sources.filename"
        for table, key in (("labels", "sample_id"), ("binaries", "sha256"), ("splits", "sample_id")):
            if tables.get(table):
                joined += f" LEFT JOIN {table} ON {table}.{key} = codes.sample_id"
                columns += f", {table}.* EXCLUDE ({key}{', split' if table == 'splits' else ''})"
        sql = f"WITH rows AS (SELECT {columns} FROM {joined}) SELECT DISTINCT sample_id FROM rows WHERE ({where}\n)"
        try:
            met = query(self.dataset, sql).column("sample_id").combine_chunks()
        except QueryError as error:
            raise QueryError(f"--where {where}: {error.problem}", error.remedy) from error
        parts = self._parts[: len(self._starts)]
        return np.concatenate([pc.is_in(part.about.column("sample_id"), met).to_numpy() for part in parts])
