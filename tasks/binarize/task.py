"""The binarize stage: an embedding of the selected features, bit codes of it, and how well they keep neighbours."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import SPLITS, borders_schema, codes_schema
from tasks.binarize import source
from tasks.binarize.choosing import LEAST_ROWS, RESCORED, choose, fit_trained
from tasks.binarize.embedding import Embedding, principal_components
from tasks.binarize.fitting import Options
from tasks.binarize.fitting import fit as fit_binarizer
from tasks.binarize.partitioning import partition, probes
from tasks.binarize.rows import parts, read_part, sample_rows
from tasks.binarize.source import check_ids, opened, ranges
from tasks.binarize.vectors import open_vectors, sampled, standardised
from tasks.build import Build
from tasks.codes.binarizer import BINARIZERS, Binarizer, from_table
from tasks.codes.cells import CELLS, Cells, cells_from_table
from tasks.codes.rescore import exact_top_k, quantise, recall, rescored
from tasks.codes.search import ask, distance, nearest_codes
from tasks.items import Item, Receipt, Step, Workplace
from tasks.shards import Shard, fitted_path, read_shard, table_path

FIT_ROWS = 65_536
"""Rows of train that rotations and thresholds are fitted on: those with the smallest keyed hash of their id."""
BASE_ROWS = 100_000
"""Rows of train that recall is measured against."""
QUERY_ROWS = 1_000
"""Rows of validation and test that ask."""

DIMENSIONS = 1024
"""Numbers that a header tree is bound into, as `features` has them."""

EMBEDDING: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("components", pa.list_(pa.float64()), nullable=False),
    ]
)
CHOICE: Any = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("rotation", pa.string(), nullable=False),
        pa.field("bits", pa.int32(), nullable=False),
        pa.field("planes", pa.int32(), nullable=False),
        pa.field("bytes", pa.int32(), nullable=False),
        pa.field("recall", pa.float64(), nullable=False),
        pa.field("rescored", pa.float64(), nullable=False),
        pa.field("chosen", pa.bool_(), nullable=False),
    ]
)
"""Fitted: what `auto` measured on held-out rows of train."""
RECALL: Any = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("rotation", pa.string(), nullable=False),
        pa.field("distance", pa.string(), nullable=False),
        pa.field("bits", pa.int32(), nullable=False),
        pa.field("bytes", pa.int32(), nullable=False),
        pa.field("k", pa.int32(), nullable=False),
        pa.field("queries", pa.int32(), nullable=False),
        pa.field("base", pa.int32(), nullable=False),
        pa.field("recall", pa.float64(), nullable=False),
        pa.field("rescored", pa.float64(), nullable=False),
    ]
)
"""Fitted: recall@k by code alone, and after the 4k nearest by code are ranked by int8 vectors (d + 4 bytes a row)."""
PROBES: Any = pa.schema(
    [
        pa.field("probes", pa.int32(), nullable=False),
        pa.field("read", pa.float64(), nullable=False),
        pa.field("recall", pa.float64(), nullable=False),
    ]
)
"""Fitted: what reading the nearest cells finds, `read` a share of all rows and `recall` of the exact k neighbours."""


def build(build: Build) -> None:
    """Plan and compute the embedding, the codes of every example, and their recall."""
    by_split = {split: parts(build, split) for split in SPLITS}
    train = by_split["train"]
    inputs = [digest for part in train for digest in part.digests]
    args: dict[str, Any] = {"train": [part.spec for part in train]}
    width = DIMENSIONS
    if build.recipe.binarizing.embedding != "structure":
        scaler = build.shards("screen.scale", "scaler")[0]
        inputs, width = [scaler.sha256, *inputs], scaler.rows
        args["scaler"] = scaler.path
    learned = _Learned(
        inputs, args, min(FIT_ROWS, sum(part.rows for part in train)), width, max(part.rows for part in train)
    )
    fitted = _fit(build, learned)
    items: list[Item] = []
    for split, of in by_split.items():
        for n, part in enumerate(of, 1):
            config = {"split": split, "rescoring": build.recipe.binarizing.rescoring}
            items.append(
                build.item(
                    "binarize", "encode", f"{split}, shard {n} of {len(of)}",
                    config=config, inputs=[*part.digests, *(s.sha256 for s in fitted)],
                    args=config | {"examples": part.spec} | _paths(fitted),
                    weight=part.rows, memory=32 * width * part.rows + 256 * 2**20,
                )
            )  # fmt: skip
    build.compute(items)
    asking = [*by_split["validation"], *by_split["test"]]
    learned.inputs += [digest for part in asking for digest in part.digests]
    learned.args["queries"] = [part.spec for part in asking]
    _recall(build, learned, fitted)


def build_index(build: Build) -> None:
    """Plan and compute the codes of files of vectors; all is learned from the first file."""
    files = opened(build)
    first = files[0]
    width, where = len(first["names"]), {key: first[key] for key in ("path", "columns", "id_column", "rows")}
    learned = _Learned([first["input"]], {"vectors": where}, min(FIT_ROWS, first["rows"]), width, BASE_ROWS)
    fitted = _fit(build, learned)
    items: list[Item] = []
    for file in files:
        for start, stop in ranges(build, file):
            config: dict[str, Any] = {
                "sha256": file["sha256"], "columns": file["columns"], "id_column": file["id_column"],
                "start": start, "stop": stop, "rescoring": build.recipe.binarizing.rescoring,
            }  # fmt: skip
            items.append(
                build.item(
                    "binarize", "rows", f"{file['file']}, rows {start:,} to {stop:,}",
                    config=config, inputs=[file["input"], *(s.sha256 for s in fitted)],
                    args=config | {"path": file["path"]} | _paths(fitted),
                    weight=stop - start, memory=32 * width * (stop - start) + 256 * 2**20,
                )
            )  # fmt: skip
    build.compute(items)
    check_ids(build, files)
    _recall(build, learned, fitted)


@dataclass
class _Learned:
    """What is learned from: digests of the inputs, and arguments that say where they are."""

    inputs: list[str]
    args: dict[str, Any]
    sample: int
    columns: int
    held: int


def _paths(fitted: list[Shard]) -> dict[str, str]:
    return {shard.table: shard.path for shard in fitted}


def _fit(build: Build, learned: _Learned) -> list[Shard]:
    """Fit the embedding, binarizers, and cells where they are asked for."""
    recipe = build.recipe
    options = recipe.binarizing
    config = options.model_dump(mode="json", exclude={"neighbors", "rescoring", "cells", "copies"})
    config |= {"seed": recipe.seed}
    if "auto" in options.methods or options.rotation == "trained":
        config |= {"k": options.neighbors, "rescored": options.rescoring}
    p, sample = learned.columns, learned.sample
    item = build.item(
        "binarize", "fit", "embedding and rotations",
        config=config, inputs=learned.inputs, args=config | learned.args,
        memory=8 * p * (4 * p + 4 * sample) + 4 * p * learned.held + 256 * 2**20,
    )  # fmt: skip
    build.compute([item])
    fitted = [build.shards("binarize.fit", name)[0] for name in ("embedding", "binarizers")]
    if options.cells:
        config = {"cells": options.cells, "copies": options.copies, "seed": recipe.seed}
        item = build.item(
            "binarize", "cells", "cells",
            config=config, inputs=[fitted[0].sha256, *learned.inputs], args=config | learned.args | _paths(fitted),
            memory=16 * p * sample + 4 * p * learned.held + 384 * 2**20,
        )  # fmt: skip
        build.compute([item])
        fitted += build.shards("binarize.cells", "cells")
    return fitted


def _recall(build: Build, learned: _Learned, fitted: list[Shard]) -> None:
    config = {"k": build.recipe.binarizing.neighbors, "seed": build.recipe.seed}
    item = build.item(
        "binarize", "recall", "recall of the codes",
        config=config, inputs=[*learned.inputs, *(s.sha256 for s in fitted)],
        args=config | learned.args | _paths(fitted), memory=8 * BASE_ROWS * 256 + 512 * 2**20,
    )  # fmt: skip
    build.compute([item])


def fit(place: Workplace) -> Receipt:
    """Fit the embedding and each binarizer on real rows of train, or on rows of the first file of vectors."""
    args, key = place.item.args, place.item.key
    rows = _fitting_rows(place)
    if "scaler" not in args:
        mean, scale, covariance = standardised(rows)
        names = [f"structure[{i}]" for i in range(rows.shape[1])] if "train" in args else _components(args)
    else:
        scaler = read_shard(place.root, args["scaler"])
        mean, scale = scaler.column("mean").to_numpy(), scaler.column("scale").to_numpy()
        covariance = np.stack([np.asarray(row) for row in scaler.column("covariance").to_pylist()])
        names = scaler.column("feature").to_pylist()
    components = None
    if args["embedding"] != "columns":
        components, _ = principal_components(covariance, args["dimensions"])
    embedding = Embedding(mean, scale, components)
    vectors = embedding.transform(rows)
    table = pa.Table.from_pylist(
        [
            {
                "feature": name,
                "mean": embedding.mean[i],
                "scale": embedding.scale[i],
                "components": [] if components is None else components[i],
            }
            for i, name in enumerate(names)
        ],
        EMBEDDING,
    )
    options = Options(args["rotation"], planes=args["planes"], iterations=args["iterations"])
    shards = [place.write(fitted_path("embedding", key), EMBEDDING, [table])]
    if args["methods"] == ["auto"] and len(vectors) >= LEAST_ROWS:
        choice = choose(
            vectors, budget=args["budget"], k=args["k"], seed=args["seed"], rescored=args["rescored"],
            iterations=args["iterations"],
        )  # fmt: skip
        measured = [asdict(m) | {"chosen": i == choice.chosen} for i, m in enumerate(choice.measured)]
        shards.append(place.write(fitted_path("choice", key), CHOICE, [pa.Table.from_pylist(measured, CHOICE)]))
        fitted = [choice.binarizer]
    else:  # too few rows to measure on: what is best of most vectors
        methods = ["rabitq" if method == "auto" else method for method in args["methods"]]
        fitted = [_fitted_binarizer(method, vectors, args, options) for method in methods]
    shards.append(place.write(fitted_path("binarizers", key), BINARIZERS, [b.table() for b in fitted]))
    return place.receipt(shards, dimensions=embedding.dimensions)


def _fitted_binarizer(method: str, vectors: NDArray[np.float32], args: dict[str, Any], options: Options) -> Binarizer:
    if options.rotation == "trained":
        if method in {"rabitq", "residual"}:
            k = args["k"]
            return fit_trained(method, vectors, bits=args["bits"], k=k, seed=args["seed"], options=options)[0]
        options = replace(options, rotation=None)
    return fit_binarizer(method, vectors, bits=args["bits"], seed=args["seed"], options=options)


def _components(args: dict[str, Any]) -> list[str]:
    """Names of the components of files of vectors."""
    about = args["vectors"]
    return open_vectors(Path(about["path"]), about["columns"], about["id_column"]).names


def _fitting_rows(place: Workplace) -> NDArray[np.float32]:
    """A sample of the rows that are learned from, before the embedding: float32[n, p]."""
    args = place.item.args
    if "vectors" in args:
        return _sampled_vectors(args, queries=False)[:FIT_ROWS]
    return sample_rows(place.root, args["train"], FIT_ROWS, args["seed"], "fit")[1]


def _sampled_vectors(args: dict[str, Any], *, queries: bool) -> NDArray[np.float32]:
    """Rows of a file that ask, or those that are searched and fitted on; none is both."""
    about = args["vectors"]
    asking, base = sampled(about["rows"], args["seed"], BASE_ROWS, QUERY_ROWS)
    return open_vectors(Path(about["path"]), about["columns"], about["id_column"]).some(asking if queries else base)


def load_embedding(root: Path, path: str) -> tuple[list[str], Embedding]:
    """A fitted embedding and the names of the columns it takes."""
    table = read_shard(root, path)
    components = np.stack([np.asarray(row, dtype=np.float64) for row in table.column("components").to_pylist()])
    return table.column("feature").to_pylist(), Embedding(
        table.column("mean").to_numpy(), table.column("scale").to_numpy(), components if components.shape[1] else None
    )


def load_binarizers(root: Path, path: str) -> dict[str, Binarizer]:
    """The fitted binarizers by method."""
    table = read_shard(root, path)
    return {method: from_table(table, method) for method in table.column("method").to_pylist()}


def _fitted(place: Workplace) -> tuple[Embedding, dict[str, Binarizer]]:
    _, embedding = load_embedding(place.root, place.item.args["embedding"])
    return embedding, load_binarizers(place.root, place.item.args["binarizers"])


def _cells(place: Workplace) -> Cells | None:
    path = place.item.args.get("cells")
    return None if path is None else cells_from_table(read_shard(place.root, path))


def fit_cells(place: Workplace) -> Receipt:
    """Balanced cells of the embedding, fitted on real rows of train."""
    args = place.item.args
    _, embedding = load_embedding(place.root, args["embedding"])
    cells = partition(embedding.transform(_fitting_rows(place)), args["cells"], args["copies"])
    return place.receipt([place.write(fitted_path("cells", place.item.key), CELLS, [cells.table()])])


def encode(place: Workplace) -> Receipt:
    """Codes of the examples of one shard."""
    ids, rows = read_part(place.root, place.item.args["examples"])
    split = pa.array([place.item.args["split"]] * len(ids), pa.string())
    return _write_codes(place, rows, {"sample_id": pa.array(ids, pa.string()), "split": split})


def encode_vectors(place: Workplace) -> Receipt:
    """Codes of some rows of a file of vectors."""
    args = place.item.args
    start, stop = args["start"], args["stop"]
    vectors = open_vectors(Path(args["path"]), args["columns"], args["id_column"])
    columns = {
        "sample_id": pa.array(vectors.ids(start, stop, args["sha256"]), pa.string()),
        "split": pa.nulls(stop - start, pa.string()),
        "source_id": pa.array([args["sha256"][:16]] * (stop - start), pa.string()),
        "row": pa.array(np.arange(start, stop)),
    }
    return _write_codes(place, vectors.range(start, stop), columns)


def _write_codes(place: Workplace, x: NDArray[np.float32], columns: dict[str, Any]) -> Receipt:
    """Codes of rows float32[n, p] beside columns of theirs: in their order, or by cell, each a row group."""
    key, rescoring = place.item.key, place.item.args["rescoring"]
    embedding, binarizers = _fitted(place)
    vectors = embedding.transform(x)
    sizes = {method: b.bytes for method, b in binarizers.items()}
    estimated = [method for method, b in binarizers.items() if b.estimates]
    columns = columns | code_columns(binarizers, vectors, rescoring=rescoring)
    mapped = [*binarizers, *(["vector", "vector_scale"] if rescoring else [])]
    cells = _cells(place)
    schema = codes_schema(
        sizes, estimated, embedding.dimensions if rescoring else 0,
        cells=cells is not None, numbered="source_id" in columns,
    )  # fmt: skip
    if cells is None:
        made = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
        return place.receipt([place.write(table_path("codes", key), schema, [made], raw=mapped)], rows=len(x))
    own, copied, others = cells.members(vectors)
    order = np.argsort(own, kind="stable")
    groups = _by_cell(schema, columns, own[order], order)
    shards = [place.write(table_path("codes", key), schema, groups, raw=mapped, grouped=True)]
    if len(copied):
        places = np.argsort(order)  # of each row among the codes as they are written
        columns["place"] = pa.array(places.astype(np.int32))
        by_cell = np.lexsort((places[copied], others))
        schema = borders_schema(sizes, estimated)
        groups = _by_cell(schema, columns, others[by_cell], copied[by_cell])
        shards.append(place.write(table_path("borders", key), schema, groups, raw=list(binarizers), grouped=True))
    return place.receipt(shards, rows=len(x), copies=len(copied))


def _by_cell(
    schema: Any, columns: Mapping[str, Any], cells: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[Any]:
    """Tables of rows that are in one cell each; `cells` rises."""
    numbers, starts = np.unique(cells, return_index=True)
    for number, start, stop in zip(numbers, starts, [*starts, len(cells)][1:], strict=True):
        some = pa.array(rows[start:stop])
        taken = {name: columns[name].take(some) for name in schema.names if name != "cell"}
        taken["cell"] = pa.array(np.full(stop - start, number, np.int32))
        yield pa.Table.from_arrays([taken[name] for name in schema.names], schema=schema)


def code_columns(
    binarizers: Mapping[str, Binarizer], vectors: NDArray[np.float32], *, rescoring: bool = False
) -> dict[str, Any]:
    """The code columns of embedded rows float32[n, d], by name: Arrow arrays as the codes table has them."""
    columns: dict[str, Any] = {}
    for method, binarizer in binarizers.items():
        encoded = binarizer.encode(vectors)
        columns[method] = _fixed_binary(encoded.codes)
        if binarizer.estimates:
            columns |= {f"{method}_norm": pa.array(encoded.norms), f"{method}_factor": pa.array(encoded.factors)}
    if rescoring:
        small, scales = quantise(vectors)
        columns |= {"vector": _fixed_binary(small.view(np.uint8)), "vector_scale": pa.array(scales)}
    return columns


def _fixed_binary(codes: NDArray[np.uint8]) -> Any:
    buffer = pa.py_buffer(np.ascontiguousarray(codes).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(codes.shape[1]), len(codes), [None, buffer])


def measure_recall(place: Workplace) -> Receipt:
    """Recall@k of each method: rows of validation and test, or held out of a file, ask for their neighbours."""
    args = place.item.args
    embedding, binarizers = _fitted(place)
    if "vectors" in args:
        asking, base_rows = (_sampled_vectors(args, queries=queries) for queries in (True, False))
    else:
        _, asking = sample_rows(place.root, args["queries"], QUERY_ROWS, args["seed"], "queries")
        _, base_rows = sample_rows(place.root, args["train"], BASE_ROWS, args["seed"], "base")
    rows: list[dict[str, Any]] = []
    pruned: list[dict[str, float]] = []
    cells = _cells(place)
    if len(asking) and len(base_rows):
        queries, base = embedding.transform(asking), embedding.transform(base_rows)
        k = min(args["k"], len(base))
        exact, _ = exact_top_k(queries, base, k)
        if cells is not None:
            pruned = probes(cells, queries, base, exact)
        small = quantise(base)
        for method, binarizer in binarizers.items():
            found, _ = nearest_codes(binarizer, ask(binarizer, queries), binarizer.encode(base), RESCORED * k)
            closer, _ = rescored(queries, found, *small, k)
            rows.append(
                {
                    "method": method, "rotation": binarizer.rotation, "distance": distance(binarizer),
                    "bits": binarizer.bits, "bytes": binarizer.stored, "k": k,
                    "queries": len(queries), "base": len(base),
                    "recall": recall(found[:, :k], exact), "rescored": recall(closer, exact),
                }
            )  # fmt: skip
    table = pa.Table.from_pylist(rows, RECALL)
    shards = [place.write(fitted_path("recall", place.item.key), RECALL, [table])]
    if cells is not None:
        curve = pa.Table.from_pylist(pruned, PROBES)
        shards.append(place.write(fitted_path("probes", place.item.key), PROBES, [curve]))
    return place.receipt(shards)


STEPS: dict[str, Step] = {
    "fit": fit, "cells": fit_cells, "encode": encode, "rows": encode_vectors, "recall": measure_recall,
} | source.STEPS  # fmt: skip
