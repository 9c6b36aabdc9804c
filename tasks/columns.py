"""The columns of a table as features: numbers, categories and their codes, and what is neither."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.tabular import BATCH_ROWS, Table, plain_texts, record_batches

CATEGORIES = 255
"""Values of a category that have a code each; the rest share the next one."""
DISTINCT = 1 << 16
"""A column of more different texts than this is an identifier: it is not counted."""
BESIDE_BED = ("phenotype", "sex")
"""Columns of a .fam that can be outcomes."""

CATEGORY_COUNTS: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
"""How often each value of a category occurs; one row with a null value when there are more than DISTINCT."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a table.

    Attributes
    ----------
    name, column
        Its own name and its column's.
    place
        Index in a list column, or None.
    storage
        Whether values are numbers or texts.
    wide64
        Numbers that float32 may not hold: see `ranges`.
    """

    name: str
    column: str
    place: int | None
    storage: Literal["number", "category"]
    wide64: bool


def features_of(
    table: Table, outcome: str | None, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[list[Feature], dict[str, str]]:
    """The features of a table, and the columns that are none with the reason why.

    Parameters
    ----------
    table
        An open table.
    outcome
        Column (or feature) that is predicted and therefore no feature; None for none.
    exclude, only
        Columns or features to leave out; when given, the only ones to take.

    Returns
    -------
    features
        In the table's order. A fixed-size list is a feature for each place, named as its field's metadata says.
    apart
        Reason by column, for those that hold neither numbers nor texts.

    Raises
    ------
    RecipeError
        A name is not there, or stands for several columns, or no feature is left.
    """
    features: list[Feature] = []
    apart: dict[str, str] = {}
    known: set[str] = set(table.schema.names)
    out, taken = {outcome, *exclude}, set(only)
    for name, kind in zip(table.schema.names, table.schema.types, strict=True):
        if pa.types.is_fixed_size_list(kind) and kind_of(kind.value_type) in NUMBERS:
            wide = kind_of(kind.value_type) == "wide"
            places = _place_names(table, name, kind.list_size)
            known.update(places)
            if name in out:
                continue
            features += [
                Feature(place, name, i, "number", wide)
                for i, place in enumerate(places)
                if place not in out and (not taken or name in taken or place in taken)
            ]
            continue
        if name in out or (taken and name not in taken):
            continue
        found = kind_of(kind)
        if found in NUMBERS:
            features.append(Feature(name, name, None, "number", found == "wide"))
        elif found == "text":
            features.append(Feature(name, name, None, "category", False))
        else:
            apart[name] = found
    if table.format == "bed":
        known.update(BESIDE_BED)
        apart |= {name: "a column of the .fam, no variant" for name in BESIDE_BED if name not in out}
    repeated = repeated_names(table)
    for field, names in (("outcome", [outcome] if outcome else []), ("exclude", exclude), ("only", only)):
        for name in names:
            check_name(table, field, name, known, repeated)
    counts: dict[str, int] = {}
    for feature in features:
        counts[feature.name] = counts.get(feature.name, 0) + 1
    if len(counts) < len(features):
        twice = next(name for name, count in counts.items() if count > 1)
        raise RecipeError(
            f"{table.path.name}: '{twice}' names a column and a place of a list column",
            "rename one of them, or leave the list column out",
        )
    if not features:
        raise RecipeError(
            f"{table.path.name}: no feature column is left"
            + (f" ('{next(iter(apart))}': {next(iter(apart.values()))})" if apart else ""),
            "give a table with columns of numbers or texts beside the outcome",
        )
    return features, apart


def repeated_names(table: Table) -> set[str]:
    """Names that more than one column of the file has."""
    return {own for own, which in table.spelled.values() if which == 1}


def check_name(table: Table, field: str, name: str, known: set[str], repeated: set[str]) -> None:
    """Refuse a name that is not known, or that more than one column of the file has."""
    if name not in known:
        near = get_close_matches(name, list(known)[:10_000], 3)
        raise RecipeError(
            f"{field}: {table.path.name} has no column '{name}'",
            f"its columns are {'like ' + ', '.join(near) if near else ', '.join(table.schema.names[:10])}",
        )
    if name in repeated:
        raise RecipeError(f"{field}: {table.path.name} has more than one column '{name}'", "rename them in the table")


NUMBERS = {"narrow", "wide"}
"""Of `kind_of`."""


@lru_cache(maxsize=256)
def kind_of(kind: Any) -> str:
    """`narrow` if float32 holds each value of an Arrow type, `wide` for other numbers, `text`, or why it is neither."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return kind_of(kind.storage_type)
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_null(kind) or types.is_boolean(kind) or kind in {pa.float16(), pa.float32()}:
        return "narrow"
    if types.is_integer(kind):
        return "narrow" if kind.bit_width <= 16 else "wide"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "wide"
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind) or types.is_duration(kind):
        return "wide"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind):
        return f"holds {kind}: only lists of one length (fixed_size_list) of numbers are features"
    return f"holds {kind}: neither numbers nor texts"


def _place_names(table: Table, column: str, width: int) -> list[str]:
    metadata = table.schema.field(column).metadata or {}
    names = metadata.get(b"names", b"").decode(errors="replace").split("\n")
    usable = len(names) == width == len(set(names)) and all(names)
    return names if usable else [f"{column}[{i}]" for i in range(width)]


def categories(table: Table, features: Sequence[Feature], start: int, stop: int, batch_rows: int = BATCH_ROWS) -> Any:
    """How often each text occurs in rows `start` to `stop` of categories; numbers among the features are passed over.

    Returns
    -------
    pyarrow.Table
        Of schema CATEGORY_COUNTS, sorted by feature and value; missing values are not counted.
    """
    wanted = [feature for feature in features if feature.storage == "category"]
    found: list[Any] = []
    pending = 0
    names = list(dict.fromkeys(feature.column for feature in wanted))
    for batch in record_batches(table, names, start, stop, batch_rows) if wanted else ():
        for feature in wanted:
            counts = plain_texts(batch.column(feature.column)).drop_null().value_counts()
            found.append(_counted(feature.name, counts.field("values"), counts.field("counts")))
            pending += len(counts)
        if pending > 4 * DISTINCT:
            found = [merge_categories(found)]
            pending = found[0].num_rows // 2
    return merge_categories(found)


def _counted(name: str, values: Any, counts: Any) -> Any:
    return pa.table([pa.array([name] * len(values), pa.string()), values, counts], schema=CATEGORY_COUNTS)


def merge_categories(parts: Sequence[Any]) -> Any:
    """Counts of ranges together: the same table whatever the ranges and their order."""
    if not parts:
        return CATEGORY_COUNTS.empty_table()
    whole = pa.concat_tables(parts).group_by(["feature", "value"]).aggregate([("count", "sum")])
    whole = whole.rename_columns({"count_sum": "count"}).select(CATEGORY_COUNTS.names).cast(CATEGORY_COUNTS)
    distinct = whole.group_by(["feature"]).aggregate([([], "count_all"), ("value", "count")]).to_pylist()
    # Whether a column has too many texts does not depend on the ranges: one range with too many is enough.
    many = [row["feature"] for row in distinct if row["count_all"] > DISTINCT or row["value_count"] < row["count_all"]]
    if many:
        kept = [_counted(name, pa.nulls(1, pa.string()), pa.array([0])) for name in many]
        whole = pa.concat_tables([whole.filter(~pc.field("feature").isin(many)), *kept])
    return whole.sort_by([("feature", "ascending"), ("value", "ascending")]).combine_chunks()


def codebook(merged: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Texts with a code each, from merged counts.

    Parameters
    ----------
    merged
        Of `merge_categories`.

    Returns
    -------
    codes
        Texts by category's name, for `blocks`: the most frequent 255, equal ones in their order as UTF-8 bytes.
        A column without any text is not among them.
    apart
        Reason by name, for columns of too many different texts.
    """
    codes: dict[str, Any] = {}
    apart: dict[str, str] = {}
    ordered = merged.sort_by([("feature", "ascending"), ("count", "descending"), ("value", "ascending")])
    start = 0
    for run in ordered.column("feature").value_counts().to_pylist():
        name, rows = run["values"], run["counts"]
        values = ordered.column("value").slice(start, min(rows, CATEGORIES)).combine_chunks()
        if values.null_count:
            apart[name] = f"more than {DISTINCT:,} different texts: an identifier, no category"
        else:
            codes[name] = values
        start += rows
    return codes, apart


def encode(texts: Any, values: Any) -> NDArray[np.float32]:
    """Codes of texts: a text's place among `values`, their number for any other, NaN where missing."""
    plain = plain_texts(texts)
    places = pc.call_function("index_in", [plain], pc.SetLookupOptions(value_set=values))
    found = places.fill_null(len(values)).to_numpy(zero_copy_only=False).astype(np.float32)
    if plain.null_count:
        found[plain.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return found
