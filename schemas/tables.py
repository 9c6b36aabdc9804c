"""Arrow schemas of the tables of a dataset. A row's identity is a content hash in hexadecimal."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

SPLITS = ("train", "validation", "test")

PARSE_STATUS = ("ok", "partial", "error", "timeout", "crash", "oom")

SOURCES: Any = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.string()),
        pa.field("filename", pa.string()),
        pa.field("url", pa.string()),
        pa.field("archive_sha256", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("licence_source", pa.string()),
        pa.field("generator", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One place data came from. `status` is ok, or failed or excluded (by its licence) with a reason; `licence` is an SPDX
expression."""

OBSERVATIONS: Any = pa.schema(
    [
        pa.field("sha256", pa.string()),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("path_in_source", pa.string(), nullable=False),
        pa.field("project", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One place where one file was found. `status` is ok, or refused with a reason (then `sha256` is null)."""

BINARIES: Any = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("format", pa.string()),
        pa.field("machine", pa.string()),
        pa.field("bits", pa.int8()),
        pa.field("endianness", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("stripped", pa.bool_()),
        pa.field("has_debug_info", pa.bool_()),
        pa.field("build_id", pa.string()),
        pa.field("compiler_banner", pa.string()),
        pa.field("compiler_evidence", pa.string()),
        pa.field("linker_version", pa.string()),
        pa.field("build_time", pa.int64()),
        pa.field("minimum_os", pa.string()),
        pa.field("slices", pa.int32()),
        pa.field("import_hash", pa.string()),
        pa.field("rich_hash", pa.string()),
        pa.field("no_execute", pa.bool_()),
        pa.field("position_independent", pa.bool_()),
        pa.field("relro", pa.string()),
        pa.field("stack_canary", pa.bool_()),
        pa.field("control_flow", pa.bool_()),
        pa.field("signed", pa.bool_()),
        pa.field("sections", pa.int32()),
        pa.field("imported_symbols", pa.int32()),
        pa.field("exported_symbols", pa.int32()),
        pa.field("entropy", pa.float64()),
        pa.field("tlsh", pa.string()),
        pa.field("parse_status", pa.string(), nullable=False),
        pa.field("parse_error", pa.string()),
        pa.field("parser", pa.string(), nullable=False),
        pa.field("parser_version", pa.string(), nullable=False),
    ]
)
"""One distinct file.

`format` is pe, elf, macho or null. `compiler_evidence` names languages seen in the bytes. `build_id` is ELF's, the
GUID of a PE file's debug information, or a Mach-O file's UUID. `build_time` is what the linker wrote (seconds since
1970; a hash in reproducible builds). `slices` counts the executables in a fat Mach-O file: size, entropy and digests
are the file's, all else is of one slice: x86-64, else ARM64, else the first. `import_hash` is pefile's imphash,
`rich_hash` its hash of the Rich header. Hardening is null where it was not read; `relro` is none, partial or full,
and null for PE and object files.
"""

LABELS: Any = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("declared", pa.string()),
        pa.field("observed", pa.string()),
        pa.field("agrees", pa.bool_()),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One label. `label` is null with a `reason` when the row cannot be used; `agrees` is null when unchecked."""

SPLIT: Any = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("features_cluster", pa.string(), nullable=False),
        pa.field("tlsh_cluster", pa.string()),
        pa.field("imports_cluster", pa.string()),
        pa.field("strings_cluster", pa.string()),
        pa.field("project", pa.string(), nullable=False),
        pa.field("leaks", pa.list_(pa.string()), nullable=False),
    ]
)
"""One sample's place. `split` is null for a sample without a label or without features.

A cluster's id is the smallest id of its samples; `cluster_id` joins the kinds that `dedup.by` names. A cluster of
one kind is null where there is nothing to compare. `leaks` names what a sample of validation or test shares with a
split before it (train, validation, test): kinds of duplicate, `project`, `build_id`, `archive`.
"""

SCREENING: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("estimator", pa.string()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("missing", pa.int64(), nullable=False),
        pa.field("infinite", pa.int64(), nullable=False),
        pa.field("bins", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("mi", pa.float64()),
        pa.field("mi_corrected", pa.float64()),
        pa.field("g", pa.float64()),
        pa.field("dof", pa.int32()),
        pa.field("p_value", pa.float64()),
        pa.field("p_permutation", pa.float64()),
        pa.field("q_value", pa.float64()),
        pa.field("q_by", pa.float64()),
        pa.field("mi_binned", pa.float64()),
        pa.field("mi_kde", pa.float64()),
        pa.field("mi_knn", pa.float64()),
        pa.field("mi_pearson", pa.float64()),
        pa.field("pearson", pa.float64()),
        pa.field("stability", pa.float64()),
        pa.field("redundancy", pa.float64()),
        pa.field("rank", pa.int32()),
        pa.field("selected", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One feature's score; information in nats.

`kind` is binary, discrete (at most as many values as bins), continuous, categorical, constant or missing.
`score` is what features are ranked by; `mi` is the value of the `estimator` that it rests on, `mi_corrected` less its
bias. `g`, `dof` and `p_value` are of the contingency table (p of G over its mean across shuffles of the outcome; of the
correlation where the recipe's estimator is pearson);
`q_value` is Benjamini and Hochberg's, `q_by` Benjamini and Yekutieli's, over `p_permutation` where that was drawn.
`mi_...` are the estimators beside each other; `pearson` is the correlation (for more than two classes the
correlation ratio). `stability` is the share of subsamples in which the feature was among the best; `redundancy` the
criterion's value when the feature was chosen. `reason` says why a score is 0 or null.
"""


def features_schema(feature_set: str, groups: dict[str, tuple[str, ...]], structure: int = 0) -> Any:
    """One sample's vector: `sample_id` and a `fixed_size_list<float32>[d]` column per feature group.

    With `structure`, a last column of that name and so many numbers: the embedding of the header tree, no features.

    The set's name and version stand in the schema's metadata under `feature_set`; the names of a group's
    dimensions, joined by newlines, in the field's metadata under `names`.
    """
    return pa.schema(
        [pa.field("sample_id", pa.string(), nullable=False)]
        + [
            pa.field(
                group,
                pa.list_(pa.field("item", pa.float32()), len(names)),
                nullable=False,
                metadata={"names": "\n".join(names)},
            )
            for group, names in groups.items()
        ]
        + (
            [pa.field("structure", pa.list_(pa.field("item", pa.float32()), structure), nullable=False)]
            if structure
            else []
        ),
        metadata={"feature_set": feature_set},
    )


def feature_groups(schema: Any) -> dict[str, tuple[str, ...]]:
    """The groups of a features table and the names of their dimensions, from its schema."""
    return {
        field.name: tuple(field.metadata[b"names"].decode().split("\n"))
        for field in schema
        if field.metadata and b"names" in field.metadata
    }


def examples_schema(selected: Sequence[str], types: Sequence[Any] | None = None) -> Any:
    """One example ready for a model: a column per feature (float32 if not said else), and where it came from."""
    kinds = [pa.float32()] * len(selected) if types is None else types
    return pa.schema(
        [pa.field("sample_id", pa.string(), nullable=False), pa.field("label", pa.string(), nullable=False)]
        + [pa.field(name, kind) for name, kind in zip(selected, kinds, strict=True)]
        + [
            pa.field("is_synthetic", pa.bool_(), nullable=False),
            pa.field("parent_a", pa.string()),
            pa.field("parent_b", pa.string()),
            pa.field("gap", pa.float64()),
        ]
    )


DROPPED_BY: Any = pa.field("dropped_by", pa.string(), nullable=False)
"""What `train_dropped` has beyond an example's columns: the rule that left it out, `random`, `nearmiss-1`, ...,
`tomek` or `enn`."""

VOTERS: Any = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("voters", pa.list_(pa.string()), nullable=False),
    ]
)
"""One real row of train whose synthetic rows take, in columns of names, the commonest value of its neighbours: which
these are. Of equally common values the first in order counts. The schema's metadata names these columns under
`nominal`, one to a line."""


def codes_schema(
    codes: Mapping[str, int],
    estimated: Collection[str] = (),
    dimensions: int = 0,
    *,
    cells: bool = False,
    numbered: bool = False,
) -> Any:
    """One sample's bit codes: `fixed_size_binary` for each method, plane after plane, each packed little-endian.

    Parameters
    ----------
    codes
        Bytes of a code by method.
    estimated
        Methods whose distances are estimated: each row has two numbers more, which the method's tables in the fitted
        table `binarizers` translate: the norm of the centred vector, and RaBitQ's factor f = ‖y‖² / ⟨y, v⟩.
    dimensions
        Components of the embedding where it is kept for rescoring: `vector` holds them as int8, to be multiplied by
        `vector_scale`. 0: it is not.
    cells
        Whether rows are stored by cell, of the fitted table `cells`: a row group has one.
    numbered
        Whether rows are those of a file of vectors: `source_id` and `row` say which.
    """
    fields = [pa.field("sample_id", pa.string(), nullable=False), pa.field("split", pa.string())]
    if numbered:
        fields.append(pa.field("source_id", pa.string(), nullable=False))
        fields.append(pa.field("row", pa.int64(), nullable=False))
    if cells:
        fields.append(pa.field("cell", pa.int32(), nullable=False))
    for method, size in codes.items():
        fields.append(pa.field(method, pa.binary(size), nullable=False))
        if method in estimated:
            fields.append(pa.field(f"{method}_norm", pa.uint8(), nullable=False))
            fields.append(pa.field(f"{method}_factor", pa.uint8(), nullable=False))
    if dimensions:
        fields.append(pa.field("vector", pa.binary(dimensions), nullable=False))
        fields.append(pa.field("vector_scale", pa.float32(), nullable=False))
    return pa.schema(fields)


def borders_schema(codes: Mapping[str, int], estimated: Collection[str] = ()) -> Any:
    """A copy of a row of `codes` in another cell that it is nearly in.

    `place` is the row's number in the shard of `codes` that has the same name.
    """
    schema = codes_schema(codes, estimated, cells=True)
    return schema.insert(3, pa.field("place", pa.int32(), nullable=False))
