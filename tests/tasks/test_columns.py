"""Columns of every Arrow type as features, names that trip, and counts of texts however the rows are cut."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecipeError
from tasks.blocks import outcome_of
from tasks.columns import CATEGORY_COUNTS, categories, codebook, encode, features_of, merge_categories
from tasks.tabular import Table, open_table

TEXTS = ["b", None, "", "b", "ż\0", "B"]
N = len(TEXTS)

NARROW = {
    "null": pa.nulls(N),
    "bool": pa.array([True, None, False] * 2),
    **{str(t): pa.array([1, None, 3] * 2, t) for t in (pa.int8(), pa.int16(), pa.uint8(), pa.uint16())},
    "half": pa.array(np.arange(N, dtype=np.float16)),
    "float": pa.array([1.0, None, float("nan")] * 2, pa.float32()),
    "coded float": pa.array([1.0, None, 2.0] * 2, pa.float32()).dictionary_encode(),
}
WIDE = {
    **{str(t): pa.array([1, None, 3] * 2, t) for t in (pa.int32(), pa.int64(), pa.uint32(), pa.uint64())},
    "double": pa.array([1.0, None, -float("inf")] * 2),
    "decimal128": pa.array([Decimal("1.25"), None, Decimal("-3.50")] * 2),
    "decimal256": pa.array([Decimal(10) ** 50, None, Decimal(1)] * 2, pa.decimal256(60, 2)),
    "date32": pa.array([date(2020, 1, 2), None, date(1960, 1, 1)] * 2, pa.date32()),
    "date64": pa.array([date(2020, 1, 2), None, date(1960, 1, 1)] * 2, pa.date64()),
    "time32": pa.array([time(1, 2), None, time(23)] * 2, pa.time32("ms")),
    "time64": pa.array([time(1, 2), None, time(23)] * 2, pa.time64("us")),
    "timestamp": pa.array([datetime(2020, 1, 2), None, datetime(1960, 1, 1)] * 2, pa.timestamp("ms")),
    "timestamp with a zone": pa.array([0, None, 1 << 60] * 2, pa.timestamp("us", "Europe/Warsaw")),
    "duration": pa.array([timedelta(3), None, timedelta(-1)] * 2),
    "coded whole": pa.array([1, None, 2] * 2, pa.int64()).dictionary_encode(),
}
TEXT = {
    "string": pa.array(TEXTS, pa.string()),
    "large": pa.array(TEXTS, pa.large_string()),
    "coded": pa.array(TEXTS).dictionary_encode(),
    "coded large": pa.array(TEXTS, pa.large_string()).dictionary_encode(),
    "json": pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(TEXTS, pa.string())),
}
NEITHER = {
    "binary": pa.array([b"x"] * N),
    "large binary": pa.array([b"x"] * N, pa.large_binary()),
    "fixed binary": pa.array([b"xy"] * N, pa.binary(2)),
    "coded binary": pa.array([b"x"] * N).dictionary_encode(),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * N, pa.binary(16))),
    "list": pa.array([[1.0], None, [2.0, 3.0]] * 2),
    "large list": pa.array([[1], None, [2, 3]] * 2, pa.large_list(pa.int64())),
    "list of texts": pa.array([["a"], None, ["b", "c"]] * 2),
    "struct": pa.array([{"x": 1.0}] * N),
    "map": pa.array([[("k", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    "pairs of texts": pa.array([["a", "b"]] * N, pa.list_(pa.string(), 2)),
    "matrix": pa.array([[[1.0], [2.0]]] * N, pa.list_(pa.list_(pa.float64(), 1), 2)),
}
# What Arrow files alone can hold.
ONLY_ARROW_TEXT = {
    "view": pa.array(TEXTS, pa.string_view()),
    "coded view": pa.DictionaryArray.from_arrays(
        pa.array([0, None, 1, 0, 2, 3], pa.uint8()), pa.array(["b", "", "ż\0", "B"], pa.string_view())
    ),
    "coded with a null": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 0, 3, 4], pa.int8()), pa.array(["b", None, "", "ż\0", "B"])
    ),
}
ONLY_ARROW_NEITHER = {
    "binary view": pa.array([b"x"] * N, pa.binary_view()),
    "list view": pa.array([[1.0]] * N, pa.list_view(pa.float64())),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, N], pa.int32()), pa.array([1.0, 2.0])),
    "interval": pa.array([pa.MonthDayNano([1, 2, 3])] * N),
    "union": pa.UnionArray.from_sparse(pa.array([0, 1] * 3, pa.int8()), [pa.array(range(N)), pa.array(["x"] * N)]),
}

Write = Callable[[Any, Path], Table]


def parquet(table: Any, folder: Path) -> Table:
    pq.write_table(table, folder / "t.parquet", row_group_size=4)
    return open_table(folder / "t.parquet")


def arrow(table: Any, folder: Path) -> Table:
    with pa.OSFile(str(folder / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return open_table(folder / "t.arrow")


FORMATS = pytest.mark.parametrize("write", [parquet, arrow])


def names_of(
    table: Table, outcome: str | None = None, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> list[str]:
    return [feature.name for feature in features_of(table, outcome, exclude, only)[0]]


def asked(field: str, name: str) -> dict[str, Any]:
    """What `features_of` is given for a name in one of its fields."""
    return {"outcome": name if field == "outcome" else None, **({} if field == "outcome" else {field: [name]})}


@FORMATS
def test_every_type_is_a_number_a_category_or_apart(tmp_path: Path, write: Write) -> None:
    text, neither = dict(TEXT), dict(NEITHER)
    if write is arrow:
        text |= ONLY_ARROW_TEXT
        neither |= ONLY_ARROW_NEITHER
    table = write(pa.table(NARROW | WIDE | text | neither), tmp_path)
    features, apart = features_of(table, None)
    assert [f.name for f in features] == [*NARROW, *WIDE, *text]
    assert all(f.column == f.name and f.place is None for f in features)
    wide = {f.name for f in features if f.storage == "number" and f.wide64}
    assert {f.name for f in features if f.storage == "category"} == set(text)
    # What a file gives back may be of another type than what was written, never of a narrower one.
    assert wide == set(WIDE)
    assert list(apart) == list(neither)
    assert all(reason.startswith("holds ") for reason in apart.values())
    assert "only lists of one length" in apart["list"]
    assert "only lists of one length" in apart["large list"]
    # All texts are counted alike, whatever they are held in.
    counted = categories(table, features, 0, N)
    assert counted.schema == CATEGORY_COUNTS
    expected = Counter(t for t in TEXTS if t is not None)
    for name in text:
        rows = [row for row in counted.to_pylist() if row["feature"] == name]
        assert [(r["value"], r["count"]) for r in rows] == sorted(expected.items())
    codes, none = codebook(counted)
    assert none == {}
    for name, array in text.items():
        assert codes[name].to_pylist() == ["b", "", "B", "ż\0"]
        found = encode(array, codes[name])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [0, np.nan, 1, 0, 3, 2])
        np.testing.assert_array_equal(encode(array.slice(2, 3), codes[name]), [1, 0, 3])


@FORMATS
@pytest.mark.parametrize(
    ("kind", "wide"),
    [(pa.float32(), False), (pa.int16(), False), (pa.bool_(), False), (pa.float64(), True), (pa.int32(), True)],
)
def test_a_list_is_a_feature_for_each_place(tmp_path: Path, write: Write, kind: Any, wide: bool) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array([1, 0, 1] * N, pa.int8()).cast(kind), 3)
    names = {b"names": "left\nw[0]\nź".encode()}
    schema = pa.schema([("v", lists.type), pa.field("w", lists.type, metadata=names), ("x", pa.float64())])
    table = write(pa.table([lists, lists, pa.array([1.0] * N)], schema=schema), tmp_path)
    features, apart = features_of(table, None)
    assert apart == {}
    assert [(f.name, f.column, f.place) for f in features] == [
        ("v[0]", "v", 0), ("v[1]", "v", 1), ("v[2]", "v", 2),
        ("left", "w", 0), ("w[0]", "w", 1), ("ź", "w", 2), ("x", "x", None),
    ]  # fmt: skip
    assert [f.wide64 for f in features] == [wide] * 6 + [True]
    assert {f.storage for f in features} == {"number"}
    assert names_of(table, "v", ["w[0]"]) == ["left", "ź", "x"]
    assert names_of(table, "v[1]", ["w"]) == ["v[0]", "v[2]", "x"]
    assert names_of(table, "x", only=["v", "ź"]) == ["v[0]", "v[1]", "v[2]", "ź"]
    assert names_of(table, "x", ["v[0]"], only=["v"]) == ["v[1]", "v[2]"]
    assert categories(table, features, 0, N).num_rows == 0


@pytest.mark.parametrize(
    ("width", "names"),
    [(1, None), (1, b""), (2, b"a"), (2, b"a\na"), (2, b"a\n"), (2, b"a\nb\nc"), (2, b"\xff\n\xfe"), (3, b"\n\n")],
)
def test_names_of_places_that_cannot_be(tmp_path: Path, width: int, names: bytes | None) -> None:
    """Too few, twice the same, or none: the places have numbers instead."""
    lists = pa.array([[1.0] * width] * N, pa.list_(pa.float32(), width))
    field = pa.field("v", lists.type, metadata=None if names is None else {b"names": names})
    table = arrow(pa.table([lists], schema=pa.schema([field])), tmp_path)
    assert names_of(table) == [f"v[{i}]" for i in range(width)]


def test_a_list_without_places_is_no_feature(tmp_path: Path) -> None:
    table = arrow(pa.table({"v": pa.array([[]] * N, pa.list_(pa.float32(), 0)), "x": [1.0] * N}), tmp_path)
    assert names_of(table) == ["x"]


def test_a_place_with_a_columns_name_is_refused(tmp_path: Path) -> None:
    table = arrow(pa.table({"v": pa.array([[1.0]] * N, pa.list_(pa.float32(), 1)), "v[0]": [1.0] * N}), tmp_path)
    with pytest.raises(RecipeError, match=r"'v\[0\]' names a column and a place"):
        features_of(table, None)
    assert names_of(table, None, ["v"]) == ["v[0]"]


@FORMATS
def test_repeated_names_are_told_apart_but_not_asked_for(tmp_path: Path, write: Write) -> None:
    columns = [pa.array([float(i)] * N) for i in range(5)]
    table = write(pa.table([*columns, pa.array(TEXTS)], names=["a", "b", "a", "a#2", "", "b"]), tmp_path)
    features, _ = features_of(table, None)
    names = [f.name for f in features]
    assert len(set(names)) == 6
    assert names[0] == "a"
    assert names[3] == "a#2"
    for field, name in itertools.product(("outcome", "exclude", "only"), "ab"):
        with pytest.raises(RecipeError, match=f"^{field}: .* more than one column '{name}'"):
            features_of(table, **asked(field, name))
    # By the name it was given the second one can be had, and it is the second one's texts that are counted.
    assert names_of(table, "a#2", ["c4"]) == [names[0], names[1], names[2], names[5]]
    counted = categories(table, features, 0, N)
    assert set(counted.column("feature").to_pylist()) == {names[5]}
    assert counted.column("count").to_pylist() == [1, 1, 2, 1]


HOSTILE = [
    "a.b",
    "a",
    " a",
    "a,b",
    '"',
    "''; DROP TABLE x; --",
    "x" * 5_000,
    "%s{0}",
    "żółw",
    "\t",
    "\u202e",
    "#2",
    "😀",
]


@FORMATS
def test_hostile_names_are_names(tmp_path: Path, write: Write) -> None:
    table = write(pa.table([pa.array([f"{i}", None, "x"] * 2) for i in range(len(HOSTILE))], names=HOSTILE), tmp_path)
    features, apart = features_of(table, None)
    assert [f.name for f in features] == HOSTILE
    assert apart == {}
    codes, _ = codebook(categories(table, features, 0, N))
    assert {name: values.to_pylist() for name, values in codes.items()} == {
        name: sorted([str(i), "x"]) for i, name in enumerate(HOSTILE)
    }
    for i, name in enumerate(HOSTILE):
        rest = HOSTILE[:i] + HOSTILE[i + 1 :]
        assert names_of(table, name) == rest
        assert names_of(table, None, [name]) == rest
        assert names_of(table, None, only=[name]) == [name]


def test_names_that_are_not_there_are_refused_with_those_near(tmp_path: Path) -> None:
    table = arrow(pa.table({"colour": [1.0], "size": [2.0], "inner": [[1.0]]}), tmp_path)
    for field in ("outcome", "exclude", "only"):
        with pytest.raises(RecipeError, match=f"^{field}: t.arrow has no column 'color'") as caught:
            features_of(table, **asked(field, "color"))
        assert "colour" in str(caught.value)
    with pytest.raises(RecipeError, match="no column 'qqq'") as caught:
        features_of(table, "qqq")
    assert "colour, size, inner" in str(caught.value)
    # Not even a name that stands apart is unknown.
    assert names_of(table, "inner") == ["colour", "size"]
    assert features_of(table, None, ["inner"])[1] == {}


def test_no_feature_left_is_refused_with_the_reason(tmp_path: Path) -> None:
    table = arrow(pa.table({"y": [1.0], "inner": [[1.0]]}), tmp_path)
    with pytest.raises(RecipeError, match=r"no feature column is left \('inner': holds list"):
        features_of(table, "y")
    for more in (asked("exclude", "inner"), asked("only", "y")):
        with pytest.raises(RecipeError) as caught:
            features_of(table, **more | {"outcome": "y"})
        assert caught.value.problem == "t.arrow: no feature column is left"


@FORMATS
def test_texts_that_are_not_utf8_are_texts(tmp_path: Path, write: Write) -> None:
    """A file may say of any bytes that they are text; what they say is read as Python does."""
    raw = [b"\xff\xfe", b"a", b"\xff\xfe", None, b"\xc3"]
    plain = pa.array(raw)
    bad = pa.StringArray.from_buffers(len(raw), plain.buffers()[1], plain.buffers()[2], plain.buffers()[0], 1)
    table = write(pa.table({"t": bad}), tmp_path)
    features, _ = features_of(table, None)
    codes, apart = codebook(merge_categories([categories(table, features, a, a + 1) for a in range(5)]))
    assert apart == {}
    assert codes["t"].to_pylist() == [(b"\xff\xfe").decode(errors="replace"), "a", (b"\xc3").decode(errors="replace")]
    for array in (bad, bad.cast(pa.large_string()), bad.dictionary_encode()):
        np.testing.assert_array_equal(encode(array, codes["t"]), [0, 1, 0, np.nan, 2])
    assert outcome_of(table, "t", 1, 5).to_pylist() == ["a", codes["t"][0].as_py(), None, codes["t"][2].as_py()]


ALPHABET = st.one_of(st.none(), st.sampled_from(["", "a", "A", "ż", "z", "\0", "aa"]), st.text(max_size=3))


@st.composite
def rows_of_texts(draw: st.DrawFn) -> dict[str, list[str | None]]:
    n = draw(st.integers(0, 30))
    return {
        name: draw(st.lists(ALPHABET, min_size=n, max_size=n)) for name in ("p", "", "q")[: draw(st.integers(1, 3))]
    }


def counted_by_hand(columns: dict[str, list[str | None]], most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in sorted(columns, key=str.encode):
        counts = Counter(t for t in columns[name] if t is not None)
        if len(counts) > most:
            rows.append({"feature": name, "value": None, "count": 0})
        else:
            rows += [{"feature": name, "value": t, "count": counts[t]} for t in sorted(counts, key=str.encode)]
    return rows


def part_of(columns: dict[str, list[str | None]], start: int, stop: int) -> Any:
    """Counts of a range as they come, neither merged nor sorted."""
    rows = [
        {"feature": name, "value": t, "count": c}
        for name, texts in columns.items()
        for t, c in Counter(t for t in texts[start:stop] if t is not None).items()
    ]
    return pa.Table.from_pylist(rows, schema=CATEGORY_COUNTS)


@given(rows_of_texts(), st.data(), st.sampled_from([2, 5, 1 << 16]))
def test_parts_in_any_order_and_grouping_are_the_whole(
    columns: dict[str, list[str | None]], data: st.DataObject, most: int
) -> None:
    n = len(next(iter(columns.values())))
    ends = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=5))), n]
    parts = data.draw(st.permutations([part_of(columns, a, b) for a, b in itertools.pairwise(ends)]))
    at = data.draw(st.integers(0, len(parts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.columns.DISTINCT", most)
        whole = merge_categories([part_of(columns, 0, n)])
        assert whole.schema == CATEGORY_COUNTS
        assert whole.to_pylist() == counted_by_hand(columns, most)
        assert merge_categories(parts).equals(whole)
        assert merge_categories([merge_categories(parts[:at]), merge_categories(parts[at:])]).equals(whole)
        assert merge_categories([whole]).equals(whole)
        codes, apart = codebook(whole)
    distinct = {name: {t for t in texts if t is not None} for name, texts in columns.items()}
    assert set(apart) == {name for name, texts in distinct.items() if len(texts) > most}
    assert set(codes) == {name for name, texts in distinct.items() if 0 < len(texts) <= most}
    for name, values in codes.items():
        texts = columns[name]
        order = sorted(distinct[name], key=lambda t: (-texts.count(t), t.encode()))
        assert values.to_pylist() == order
        wanted = [np.nan if t is None else order.index(t) for t in texts]
        np.testing.assert_array_equal(encode(pa.array(texts, pa.string()), values), wanted)


@given(rows_of_texts(), st.integers(1, 9), st.sampled_from([1, 3, 1 << 16]))
def test_counting_a_file_is_counting_its_rows(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[str | None]], batch_rows: int, most: int
) -> None:
    """With few texts allowed, merging halfway does not change what comes out."""
    folder = tmp_path_factory.mktemp("counted")
    named = {f"n{name}": texts for name, texts in columns.items()}  # a column without a name would be given one
    table = arrow(pa.table({name: pa.array(texts, pa.string()) for name, texts in named.items()}), folder)
    features, _ = features_of(table, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.columns.DISTINCT", most)
        found = categories(table, features, 0, table.rows, batch_rows)
        assert found.to_pylist() == counted_by_hand(named, most)
        some = categories(table, features, 2, 7, batch_rows)
        assert some.to_pylist() == counted_by_hand({k: v[2:7] for k, v in named.items()}, most)


def test_what_has_no_code_shares_the_next() -> None:
    values = pa.array(["b", "a"])
    np.testing.assert_array_equal(encode(pa.array(["a", "c", None, "b", ""]), values), [1, 2, np.nan, 0, 2])
    assert encode(pa.array([], pa.string()), values).shape == (0,)
    np.testing.assert_array_equal(encode(pa.nulls(2, pa.large_string()), values), [np.nan, np.nan])
    # Nothing counted: all are "any other".
    np.testing.assert_array_equal(encode(pa.array(["a", None]), pa.array([], pa.string())), [0, np.nan])


def test_the_most_frequent_have_codes() -> None:
    texts = [f"t{i:03}" for i in range(300) for _ in range(1 + (i % 3 == 0) + 2 * (i % 50 == 0))]
    codes, apart = codebook(merge_categories([part_of({"t": list(reversed(texts))}, 0, len(texts))]))
    assert apart == {}
    ordered = [t for t, _ in sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))]
    assert codes["t"].to_pylist() == ordered[:255]
    np.testing.assert_array_equal(
        encode(pa.array([ordered[0], ordered[254], ordered[255], "new"]), codes["t"]), [0, 254, 255, 255]
    )
