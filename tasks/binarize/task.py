"""The binarize stage: an embedding of the selected features, bit codes of it, and how well they keep neighbours."""

import hashlib
import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import SPLITS, codes_schema
from tasks.binarize.distances import exact_top_k, hamming_top_k, rabitq_top_k, recall
from tasks.binarize.embedding import Embedding, principal_components
from tasks.binarize.methods import Binarizer, fit_itq, fit_median, fit_rabitq
from tasks.binarize.rotation import unpack
from tasks.build import Build
from tasks.items import Item, Receipt, Step, Workplace
from tasks.shards import Shard, fitted_path, read_shard, table_path

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
BINARIZERS: Any = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("dimension", pa.int32(), nullable=False),
        pa.field("shift", pa.float64(), nullable=False),
        pa.field("rotation", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Fitted binarizers: row (method, i) holds shift[i] and rotation[i, :]."""
RECALL: Any = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("distance", pa.string(), nullable=False),
        pa.field("bits", pa.int32(), nullable=False),
        pa.field("bytes", pa.int32(), nullable=False),
        pa.field("k", pa.int32(), nullable=False),
        pa.field("queries", pa.int32(), nullable=False),
        pa.field("base", pa.int32(), nullable=False),
        pa.field("recall", pa.float64(), nullable=False),
    ]
)


def build(build: Build) -> None:
    """Plan and compute the embedding, the codes of every example, and their recall."""
    recipe = build.recipe
    options = recipe.binarizing
    scaler = build.shards("screen.scale", "scaler")[0]
    by_split = {split: build.shards("screen.apply", split) for split in SPLITS}
    train = by_split["train"]
    config = {
        "methods": list(options.methods),
        "dimensions": options.dimensions,
        "iterations": options.iterations,
        "seed": recipe.seed,
    }
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
    paths = {shard.table: shard.path for shard in fitted}
    items: list[Item] = []
    for split, shards in by_split.items():
        for n, shard in enumerate(shards, 1):
            items.append(
                build.item(
                    "binarize", "encode", f"{split}, shard {n} of {len(shards)}",
                    config={"split": split, "methods": list(options.methods)},
                    inputs=[shard.sha256, *(s.sha256 for s in fitted)],
                    args={"split": split, "methods": list(options.methods), "examples": shard.path} | paths,
                    weight=shard.rows, memory=32 * p * shard.rows + 256 * 2**20,
                )
            )  # fmt: skip
    build.compute(items)
    asking = [*by_split["validation"], *by_split["test"]]
    config = {"k": options.neighbors, "methods": list(options.methods), "seed": recipe.seed}
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
    covariance = np.stack([np.asarray(row) for row in scaler.column("covariance").to_pylist()])
    components, variance = principal_components(covariance, args["dimensions"])
    embedding = Embedding(scaler.column("mean").to_numpy(), scaler.column("scale").to_numpy(), components, variance)
    _, rows = sample_rows(place.root, args["train"], FIT_ROWS, args["seed"], "fit")
    vectors = embedding.transform(rows)
    fitters = {
        "median": lambda: fit_median(vectors),
        "itq": lambda: fit_itq(vectors, args["seed"], args["iterations"]),
        "rabitq": lambda: fit_rabitq(vectors, args["seed"]),
    }
    table = pa.Table.from_pylist(
        [
            {
                "feature": name,
                "mean": embedding.mean[i],
                "scale": embedding.scale[i],
                "components": components[i],
            }
            for i, name in enumerate(scaler.column("feature").to_pylist())
        ],
        EMBEDDING,
    )
    fitted = [fitters[method]() for method in args["methods"]]
    binarizers = pa.Table.from_pylist(
        [
            {"method": b.method, "dimension": i, "shift": b.shift[i], "rotation": b.rotation[i]}
            for b in fitted
            for i in range(len(b.shift))
        ],
        BINARIZERS,
    )
    shards = [
        place.write(fitted_path("embedding", key), EMBEDDING, [table]),
        place.write(fitted_path("binarizers", key), BINARIZERS, [binarizers]),
    ]
    return place.receipt(shards, dimensions=components.shape[1])


def load_embedding(root: Path, path: str) -> tuple[list[str], Embedding]:
    """A fitted embedding and the names of the columns it takes."""
    table = read_shard(root, path)
    components = np.stack([np.asarray(row) for row in table.column("components").to_pylist()])
    return table.column("feature").to_pylist(), Embedding(
        table.column("mean").to_numpy(), table.column("scale").to_numpy(), components, np.zeros(0)
    )


def load_binarizers(root: Path, path: str) -> dict[str, Binarizer]:
    """The fitted binarizers by method."""
    table = read_shard(root, path)
    found: dict[str, Binarizer] = {}
    for method in dict.fromkeys(table.column("method").to_pylist()):
        rows = [row for row in table.to_pylist() if row["method"] == method]
        found[method] = Binarizer(
            method, np.array([r["shift"] for r in rows]), np.stack([np.asarray(r["rotation"]) for r in rows])
        )
    return found


def _fitted(place: Workplace) -> tuple[Embedding, dict[str, Binarizer]]:
    _, embedding = load_embedding(place.root, place.item.args["embedding"])
    return embedding, load_binarizers(place.root, place.item.args["binarizers"])


def encode(place: Workplace) -> Receipt:
    """Codes of the examples of one shard."""
    args = place.item.args
    embedding, binarizers = _fitted(place)
    table = read_shard(place.root, args["examples"])
    vectors = embedding.transform(feature_matrix(table))
    columns: list[Any] = [
        table.column("sample_id"),
        pa.array([args["split"]] * len(vectors), pa.string()),
        *code_columns({method: binarizers[method] for method in args["methods"]}, vectors).values(),
    ]
    schema = codes_schema(tuple(args["methods"]), vectors.shape[1])
    shard = place.write(table_path("codes", place.item.key), schema, [pa.Table.from_arrays(columns, schema=schema)])
    return place.receipt([shard], rows=len(vectors))


def code_columns(binarizers: dict[str, Binarizer], vectors: NDArray[np.float32]) -> dict[str, Any]:
    """The code columns of embedded rows float32[n, d], by name: Arrow arrays as the codes table has them."""
    columns: dict[str, Any] = {}
    for method, binarizer in binarizers.items():
        columns[method] = _fixed_binary(binarizer.encode(vectors))
        if method == "rabitq":
            norm, factor = binarizer.factors(vectors)
            columns |= {"rabitq_norm": pa.array(norm), "rabitq_factor": pa.array(factor)}
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
    if len(asking) and len(base_rows):
        queries, base = embedding.transform(asking), embedding.transform(base_rows)
        k = min(args["k"], len(base))
        exact, _ = exact_top_k(queries, base, k)
        for method in args["methods"]:
            found, size = _search(binarizers[method], queries, base, k)
            rows.append(
                {
                    "method": method, "distance": "estimated L2" if method == "rabitq" else "Hamming",
                    "bits": base.shape[1], "bytes": size, "k": k, "queries": len(queries), "base": len(base),
                    "recall": recall(found, exact),
                }
            )  # fmt: skip
    table = pa.Table.from_pylist(rows, RECALL)
    return place.receipt([place.write(fitted_path("recall", place.item.key), RECALL, [table])])


def _search(
    binarizer: Binarizer, queries: NDArray[np.float32], base: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], int]:
    """Neighbours by code, and bytes a row that takes."""
    codes = binarizer.encode(base)
    if binarizer.method != "rabitq":
        return hamming_top_k(binarizer.encode(queries), codes, k)[0], codes.shape[1]
    norms, factors = binarizer.factors(base)
    signs = np.where(unpack(codes, base.shape[1]), np.float32(1), np.float32(-1))
    return rabitq_top_k(binarizer.project(queries), signs, norms, factors, k)[0], codes.shape[1] + 8


def nearest(root: Path, codes: list[Shard], binarizer: Binarizer, vector: NDArray[np.float32], k: int) -> Any:
    """The k rows of a dataset nearest to one vector, shard by shard: an Arrow table, nearest first.

    Parameters
    ----------
    vector
        float32[d], embedded.
    """
    method = binarizer.method
    query = vector[None, :]
    best: list[dict[str, Any]] = []
    for shard in codes:
        columns = ["sample_id", "split", method]
        if method == "rabitq":
            columns += ["rabitq_norm", "rabitq_factor"]
        table = read_shard(root, shard.path, columns)
        width = table.schema.field(method).type.byte_width
        flat = b"".join(table.column(method).to_pylist())
        packed = np.frombuffer(flat, dtype=np.uint8).reshape(-1, width)
        if method == "rabitq":
            signs = np.where(unpack(packed, len(vector)), np.float32(1), np.float32(-1))
            scalars = (table.column(n).to_numpy() for n in ("rabitq_norm", "rabitq_factor"))
            ids, distances = rabitq_top_k(binarizer.project(query), signs, *scalars, k)
        else:
            ids, distances = hamming_top_k(binarizer.encode(query), packed, k)
        found = table.take(pa.array(ids[0])).select(["sample_id", "split"]).to_pylist()
        best += [row | {"distance": float(d)} for row, d in zip(found, distances[0], strict=True)]
        best = sorted(best, key=lambda row: (row["distance"], row["sample_id"]))[:k]
    schema = pa.schema([("sample_id", pa.string()), ("split", pa.string()), ("distance", pa.float64())])
    return pa.Table.from_pylist(best, schema)


STEPS: dict[str, Step] = {"fit": fit, "encode": encode, "recall": measure_recall}
