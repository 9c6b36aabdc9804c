"""The binarize stage: an embedding of the selected features, bit codes of it, and how well they keep neighbours."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import SPLITS, borders_schema, codes_schema
from tasks.binarize.choosing import LEAST_ROWS, RESCORED, choose
from tasks.binarize.embedding import Embedding, principal_components
from tasks.binarize.fitting import Options
from tasks.binarize.fitting import fit as fit_binarizer
from tasks.binarize.partitioning import partition, probes
from tasks.build import Build
from tasks.codes.binarizer import BINARIZERS, Binarizer, from_table
from tasks.codes.cells import CELLS, Cells, cells_from_table
from tasks.codes.rescore import exact_top_k, quantise, recall, rescored
from tasks.codes.search import ask, distance, nearest_codes
from tasks.items import Item, Receipt, Step, Workplace
from tasks.shards import fitted_path, read_shard, table_path

FIT_ROWS = 65_536
"""Rows of train that rotations and thresholds are fitted on: those with the smallest keyed hash of their id."""
BASE_ROWS = 100_000
"""Rows of train that recall is measured against."""
QUERY_ROWS = 1_000
"""Rows of validation and test that ask."""

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
    recipe = build.recipe
    options = recipe.binarizing
    scaler = build.shards("screen.scale", "scaler")[0]
    by_split = {split: build.shards("screen.apply", split) for split in SPLITS}
    train = by_split["train"]
    config = options.model_dump(mode="json", exclude={"neighbors", "rescoring", "cells", "copies"}) | {
        "seed": recipe.seed
    }
    if "auto" in options.methods:
        config |= {"k": options.neighbors, "rescored": options.rescoring}
    p = scaler.rows
    sample = min(FIT_ROWS, sum(s.rows for s in train))
    memory = 8 * p * (4 * p + 4 * sample) + 4 * p * max(s.rows for s in train) + 256 * 2**20
    build.compute(
        [
            build.item(
                "binarize", "fit", "embedding and rotations",
                config=config,
                inputs=[s.sha256 for s in (scaler, *train)],
                args=config | {"scaler": scaler.path, "train": [s.path for s in train]},
                memory=memory,
            )
        ]
    )  # fmt: skip
    fitted = [build.shards("binarize.fit", name)[0] for name in ("embedding", "binarizers")]
    if options.cells:
        config = {"cells": options.cells, "copies": options.copies, "seed": recipe.seed}
        place = {"embedding": fitted[0].path, "train": [s.path for s in train]}
        inputs = [fitted[0].sha256, *(s.sha256 for s in train)]
        memory = 16 * p * sample + 2**25 + 256 * 2**20
        args = config | place
        build.compute(
            [build.item("binarize", "cells", "cells", config=config, inputs=inputs, args=args, memory=memory)]
        )
        fitted += build.shards("binarize.cells", "cells")
    paths = {shard.table: shard.path for shard in fitted}
    items: list[Item] = []
    for split, shards in by_split.items():
        for n, shard in enumerate(shards, 1):
            config = {"split": split, "rescoring": options.rescoring}
            items.append(
                build.item(
                    "binarize", "encode", f"{split}, shard {n} of {len(shards)}",
                    config=config, inputs=[shard.sha256, *(s.sha256 for s in fitted)],
                    args=config | {"examples": shard.path} | paths,
                    weight=shard.rows, memory=32 * p * shard.rows + 256 * 2**20,
                )
            )  # fmt: skip
    build.compute(items)
    asking = [*by_split["validation"], *by_split["test"]]
    config = {"k": options.neighbors, "seed": recipe.seed}
    build.compute(
        [
            build.item(
                "binarize", "recall", "recall of the codes",
                config=config,
                inputs=[s.sha256 for s in (*train, *asking, *fitted)],
                args=config | {"train": [s.path for s in train], "queries": [s.path for s in asking]} | paths,
                memory=8 * BASE_ROWS * 256 + 512 * 2**20,
            )
        ]
    )  # fmt: skip


def sample_rows(
    root: Path, shards: Iterable[str], count: int, seed: int, use: str
) -> tuple[list[str], NDArray[np.float32]]:
    """The `count` rows with the smallest keyed hash of their id, in that order: ids and float32[n, p].

    The sample is the same however rows are cut into shards.
    """
    kept: list[tuple[int, str, NDArray[np.float32]]] = []  # a heap, the largest key first
    for path in shards:
        table = read_shard(root, path)
        matrix = feature_matrix(table)
        for sample, row in zip(table.column("sample_id").to_pylist(), matrix, strict=True):
            key = int.from_bytes(hashlib.sha256(f"{seed}\0{use}\0{sample}".encode()).digest()[:8])
            entry = (-key, sample, row)
            if len(kept) < count:
                heapq.heappush(kept, entry)
            elif entry[0] > kept[0][0]:
                heapq.heapreplace(kept, entry)
    kept.sort(key=lambda entry: (-entry[0], entry[1]))
    ids = [sample for _, sample, _ in kept]
    return ids, np.stack([row for _, _, row in kept]) if kept else np.zeros((0, 0), np.float32)


def feature_matrix(table: Any) -> NDArray[np.float32]:
    """The feature columns of an examples table, float32[n, p]."""
    fixed = {"sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap"}
    names = [name for name in table.schema.names if name not in fixed]
    return np.stack([table.column(n).to_numpy().astype(np.float32) for n in names], axis=1)


def fit(place: Workplace) -> Receipt:
    """Fit the embedding and each binarizer on real rows of train."""
    args, key = place.item.args, place.item.key
    scaler = read_shard(place.root, args["scaler"])
    components = None
    if args["embedding"] == "pca":
        covariance = np.stack([np.asarray(row) for row in scaler.column("covariance").to_pylist()])
        components, _ = principal_components(covariance, args["dimensions"])
    embedding = Embedding(scaler.column("mean").to_numpy(), scaler.column("scale").to_numpy(), components)
    _, rows = sample_rows(place.root, args["train"], FIT_ROWS, args["seed"], "fit")
    vectors = embedding.transform(rows)
    table = pa.Table.from_pylist(
        [
            {
                "feature": name,
                "mean": embedding.mean[i],
                "scale": embedding.scale[i],
                "components": [] if components is None else components[i],
            }
            for i, name in enumerate(scaler.column("feature").to_pylist())
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
        fitted = [fit_binarizer(m, vectors, bits=args["bits"], seed=args["seed"], options=options) for m in methods]
    shards.append(place.write(fitted_path("binarizers", key), BINARIZERS, [b.table() for b in fitted]))
    return place.receipt(shards, dimensions=embedding.dimensions)


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
    _, rows = sample_rows(place.root, args["train"], FIT_ROWS, args["seed"], "fit")
    cells = partition(embedding.transform(rows), args["cells"], args["copies"])
    return place.receipt([place.write(fitted_path("cells", place.item.key), CELLS, [cells.table()])])


def encode(place: Workplace) -> Receipt:
    """Codes of the examples of one shard: in their order, or by cell, each a row group."""
    args, key = place.item.args, place.item.key
    embedding, binarizers = _fitted(place)
    table = read_shard(place.root, args["examples"])
    vectors = embedding.transform(feature_matrix(table))
    sizes = {method: b.bytes for method, b in binarizers.items()}
    estimated = [method for method, b in binarizers.items() if b.estimates]
    dimensions = embedding.dimensions if args["rescoring"] else 0
    columns = code_columns(binarizers, vectors, rescoring=args["rescoring"])
    columns |= {
        "sample_id": table.column("sample_id").combine_chunks(),
        "split": pa.array([args["split"]] * len(vectors), pa.string()),
    }
    mapped = [*binarizers, *(["vector", "vector_scale"] if args["rescoring"] else [])]
    cells = _cells(place)
    if cells is None:
        schema = codes_schema(sizes, estimated, dimensions)
        made = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
        return place.receipt([place.write(table_path("codes", key), schema, [made], raw=mapped)], rows=len(vectors))
    own, copied, others = cells.members(vectors)
    order = np.argsort(own, kind="stable")
    schema = codes_schema(sizes, estimated, dimensions, cells=True)
    groups = _by_cell(schema, columns, own[order], order)
    shards = [place.write(table_path("codes", key), schema, groups, raw=mapped, grouped=True)]
    if len(copied):
        places = np.argsort(order)[copied]  # a row's number among the codes as they are written
        by_cell = np.lexsort((places, others))
        schema = borders_schema(sizes, estimated)
        columns["row"] = pa.array(np.argsort(order).astype(np.int32))
        groups = _by_cell(schema, columns, others[by_cell], copied[by_cell])
        shards.append(place.write(table_path("borders", key), schema, groups, raw=list(binarizers), grouped=True))
    return place.receipt(shards, rows=len(vectors), copies=len(copied))


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
    """Recall@k of each method: rows of validation and test ask for their neighbours among rows of train."""
    args = place.item.args
    embedding, binarizers = _fitted(place)
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


STEPS: dict[str, Step] = {"fit": fit, "cells": fit_cells, "encode": encode, "recall": measure_recall}
