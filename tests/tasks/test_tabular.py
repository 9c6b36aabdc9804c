"""Reading tables: any cut into ranges of rows gives the whole, from every format."""

import gzip
import io
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BinmillError, RecipeError, SourceError
from schemas.recipe import TableSource
from tasks.blocks import blocks, outcome_of, ranges
from tasks.columns import categories, codebook, features_of
from tasks.tabular import Table, batches, open_table, table_features

ROWS = 1_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3))
    table = pa.table(
        {
            "a": x[:, 0],
            "b": pa.array([None if i % 7 == 0 else int(v * 100) for i, v in enumerate(x[:, 1])]),
            "c": x[:, 2] > 0,
            "y": pa.array([["bad", "good"][i % 2] for i in range(ROWS)]),
        }
    )
    pq.write_table(table, root / "t.parquet", row_group_size=130)
    pyarrow.feather.write_feather(table, str(root / "t.arrow"), compression="uncompressed", chunksize=77)
    pyarrow.csv.write_csv(table, str(root / "t.csv"))
    with pa.OSFile(str(root / "t.arrows"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=77)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(root / "t.ipc"), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=200)
    np.save(root / "t.npy", np.column_stack([x, np.arange(ROWS) % 2]))
    return {path.suffix: path for path in root.iterdir()}


def source(path: Path) -> TableSource:
    return TableSource(kind="table", path=str(path), label_column="c3" if path.suffix == ".npy" else "y")


@given(
    st.sampled_from([".parquet", ".arrow", ".arrows", ".ipc", ".csv", ".npy"]),
    st.lists(st.integers(0, ROWS), max_size=4),
)
def test_any_ranges_make_the_whole(files: dict[str, Path], suffix: str, cuts: list[int]) -> None:
    table = open_table(files[suffix])
    assert table.rows == ROWS
    ends = [0, *sorted(cuts), ROWS]
    wanted = source(files[suffix])
    whole = list(batches(table, wanted, 0, ROWS))
    parts = [p for a, b in itertools.pairwise(ends) for p in batches(table, wanted, a, b)]
    matrix = np.concatenate([p.features for p in parts])
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, np.concatenate([p.features for p in whole]), equal_nan=True)
    assert [v for p in parts for v in p.labels] == [v for p in whole for v in p.labels]
    assert matrix.shape == (ROWS, 3)


def test_nulls_are_nan_booleans_numbers_and_labels_text(files: dict[str, Path]) -> None:
    for suffix in (".parquet", ".arrow", ".arrows", ".ipc", ".csv"):
        part = next(batches(open_table(files[suffix]), source(files[suffix]), 0, 14))
        assert np.isnan(part.features[:, 1]).tolist() == [i % 7 == 0 for i in range(14)]
        assert set(part.features[:, 2]) <= {0.0, 1.0}
        assert part.labels[:2] == ["bad", "good"]
    part = next(batches(open_table(files[".npy"]), source(files[".npy"]), 0, 4))
    assert part.labels == ["0", "1", "0", "1"]


def test_columns_that_are_excluded_are_no_features(files: dict[str, Path]) -> None:
    table, path = open_table(files[".parquet"]), str(files[".parquet"])
    choices: list[dict[str, Any]] = [
        {"exclude": ("b",)}, {"columns": ("a", "c")}, {"columns": ("a", "b", "c"), "exclude": ("b",)},
    ]  # fmt: skip
    for choice in choices:
        wanted = TableSource(kind="table", path=path, label_column="y", **choice)
        assert table_features(table, wanted) == ["a", "c"]
        assert next(batches(table, wanted, 0, 3)).features.shape == (3, 2)


def test_numbers_beyond_float32_are_infinite(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([[1e300, 1.0], [-1e300, 0.0]]))
    wanted = TableSource(kind="table", path="", label_column="c1")
    part = next(batches(open_table(tmp_path / "t.npy"), wanted, 0, 2))
    assert part.features[:, 0].tolist() == [np.inf, -np.inf]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    with pytest.raises(SourceError, match="cannot be read"):
        open_table(tmp_path / "pickled.npy")
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(SourceError, match=r"format '\.xlsx'"):
        open_table(tmp_path / "t.xlsx")
    (tmp_path / "t.parquet").write_bytes(b"no")
    with pytest.raises(SourceError, match="cannot be read"):
        open_table(tmp_path / "t.parquet")
    pq.write_table(pa.table({"label": [1.0], "y": [1]}), tmp_path / "r.parquet")
    with pytest.raises(RecipeError, match="binmill's own tables"):
        table_features(open_table(tmp_path / "r.parquet"), source(tmp_path / "r.parquet"))


def test_what_has_no_numbers_or_twice_a_name_is_refused(tmp_path: Path) -> None:
    texts = pa.array([["a", "b"]], pa.list_(pa.string(), 2))
    clash = {"v": pa.array([[1.0]], pa.list_(pa.float32(), 1)), "v[0]": [2.0]}
    for columns, message in (({"v": texts}, "holds fixed_size_list"), (clash, r"two features 'v\[0\]'")):
        pq.write_table(pa.table(columns | {"y": [1]}), tmp_path / "t.parquet")
        with pytest.raises(RecipeError, match=message):
            table_features(open_table(tmp_path / "t.parquet"), source(tmp_path / "t.parquet"))


def test_labels_are_named_by_their_own_value(tmp_path: Path) -> None:
    """Whatever else stands in the rows that are read with it."""
    columns = {
        "float": ([1.0, -0.0, None, float("nan"), 1.5, 1e300], ["1", "0", None, None, "1.5", "1e+300"]),
        "bool": ([True, False, None] * 2, ["1", "0", None] * 2),
        "int": ([2**60 + 1, -1, None] * 2, ["1152921504606846977", "-1", None] * 2),
        "bytes": ([b"a", b"\xff", None] * 2, ["a", "\ufffd", None] * 2),
        "coded": (pa.array(["a", "b", None] * 2).dictionary_encode(), ["a", "b", None] * 2),
    }
    table = pa.table({name: values for name, (values, _) in columns.items()} | {"x": np.arange(6.0)})
    pq.write_table(table, tmp_path / "t.parquet")
    for name, (_, wanted) in columns.items():
        recipe = TableSource(kind="table", path="", label_column=name, columns=("x",))
        for rows in (1, 2, 6):
            parts = [batches(open_table(tmp_path / "t.parquet"), recipe, i, i + rows) for i in range(0, 6, rows)]
            assert [label for part in parts for p in part for label in p.labels] == wanted


@pytest.mark.parametrize(("rows", "columns"), [(40, 3_000), (70_000, 3)])
def test_wide_and_tall_are_what_duckdb_reads(tmp_path: Path, rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    names = [f"v{i}" for i in range(columns)]
    table = pa.table(dict(zip(names, [pa.array(c, from_pandas=True) for c in np.ascontiguousarray(x.T)], strict=True)))
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=max(7, rows // 5))
    pyarrow.csv.write_csv(table, str(tmp_path / "t.csv"))
    start, stop = rows // 3, rows - 5
    for name in ("t.parquet", "t.csv"):
        path = tmp_path / name
        kind = "parquet" if name == "t.parquet" else "csv"
        sql = f"select * from read_{kind}('{path}') limit {stop - start} offset {start}"
        found: Any = duckdb.sql(sql).fetchnumpy()
        wanted = np.array([np.ma.filled(found[n].astype(np.float32), np.nan) for n in names])
        opened = open_table(path)
        features = features_of(opened, None)[0]
        read = np.concatenate([b.values for b in blocks(opened, features, start, stop, 9_999)], axis=1)
        assert np.array_equal(read, wanted, equal_nan=True)
        assert np.array_equal(read, x[start:stop].T, equal_nan=True)


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def several_arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.ones((2, 2)))
    return out.getvalue()


def npy_of_shape(shape: str) -> bytes:
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no whole array"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "reading array header"),
        (npy(np.ones((20, 2)))[:-8], "greater than file size"),
        (several_arrays(), "several arrays"),
        (npy(np.ones(3)), r"its shape is \(3,\)"),
        (npy(np.array(1.0)), r"its shape is \(\)"),
        (npy(np.ones((3, 2, 2))), "its shape is"),
        (npy(np.zeros((4, 2), [("a", "f8")])), "its shape is"),
        (npy(np.ones((3, 2), complex)), "'c' holds complex128, not numbers or texts"),
        (npy(np.zeros(4, [("a", "f8"), ("deep", [("x", "f8")])])), "'deep' holds"),
        *[(npy_of_shape(s), "cannot be read") for s in ("(2**3, 2)", "(-1, 2)", "(1e3, 2)", "(True, 2)", "(")],
        *[(npy_of_shape(s), "cannot be read") for s in ("(4611686018427387904, 4)", "(18446744073709551616, 2)")],
    ],
)
def test_arrays_that_are_no_tables_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.npy").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_table(tmp_path / "t.npy")


DAYS = np.array([["2020-01-01", "1969-12-31"], ["NaT", "2021-01-01"]], "M8[D]")


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (DAYS, [[18262, np.nan], [-1, 18628]]),
        (np.asfortranarray(DAYS), [[18262, np.nan], [-1, 18628]]),
        (np.array([[1, 2], [3, 4]], ">m8[s]"), [[1, 3], [2, 4]]),
        (np.array([["b", "a"], ["b", "c"]]), [[0, 0], [0, 1]]),
        (np.ones((2, 2), np.float16), [[1, 1], [1, 1]]),
        (
            np.array([(1.5, "x", 3), (2.5, "x", 4)], [("a\n", ">f8"), ("t", ">U3"), ("i", "<u8")]),
            [[1.5, 2.5], [0, 0], [3, 4]],
        ),
    ],
)
def test_arrays_of_times_texts_and_fields(tmp_path: Path, array: Any, values: list[list[float]]) -> None:
    np.save(tmp_path / "t.npy", array)
    table = open_table(tmp_path / "t.npy")
    assert np.array_equal(everything_in(table), values, equal_nan=True)


def everything_in(table: Table) -> Any:
    """Go through a table as the screening of it does: extremes, texts, the outcome, values."""
    features, _ = features_of(table, None)
    codes, _ = codebook(categories(table, features, 0, table.rows))
    ranges(table, features, 0, table.rows)
    read = [b.values for b in blocks(table, features, 0, table.rows, 16, codes=codes)]
    for name in table.schema.names[:4]:
        assert len(outcome_of(table, name, 0, table.rows)) == table.rows
    found = np.concatenate([np.empty((len(features), 0), np.float32), *read], axis=1)
    assert found.shape[1] == table.rows
    return found


def damaged_table() -> Any:
    rng = np.random.default_rng(1)
    n = 40
    return pa.table(
        {
            "f": rng.normal(size=n),
            "i": pa.array(rng.integers(0, 99, n), mask=rng.random(n) < 0.2),
            "s": pa.array(np.array(["red", "greenish"])[rng.integers(0, 2, n)], mask=rng.random(n) < 0.2),
            "d": pa.array(np.array(["x", "yy"])[rng.integers(0, 2, n)]).dictionary_encode(),
            "l": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=2 * n)), 2),
        }
    )


def ipc(new: Callable[..., Any], compression: str | None = None) -> bytes:
    sink, table = io.BytesIO(), damaged_table()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=15)
    return sink.getvalue()


def parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(damaged_table(), sink, row_group_size=15, **options)
    return sink.getvalue()


WHOLE = {
    "a.parquet": parquet(),
    "b.parquet": parquet(compression="none", store_schema=False, use_dictionary=False, data_page_version="2.0"),
    "a.arrow": ipc(pa.ipc.new_file),
    "b.arrow": ipc(pa.ipc.new_file, "zstd"),
    "c.arrow": ipc(pa.ipc.new_stream),
    "a.npy": npy(np.random.default_rng(0).normal(size=(9, 3))),
    "b.npy": npy(np.array([(1.5, "x"), (2.5, "é")], [("a", "f8"), ("t", "U3")])),
    "a.csv.gz": gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(200)), mtime=0),
}


@pytest.mark.parametrize("name", list(WHOLE))
@given(st.data())
def test_damaged_files_are_tables_or_errors(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Some bytes changed, those at the end above all (a Parquet or Arrow file is described there), or cut short."""
    content = bytearray(WHOLE[name])
    places = st.integers(0, len(content) - 1) | st.integers(max(0, len(content) - 2_000), len(content) - 1)
    if data.draw(st.booleans()):
        for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=3)):
            content[place] = byte
    else:
        del content[data.draw(places) :]
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(content)
    try:
        everything_in(open_table(path))
    except BinmillError:
        return


def test_undamaged_they_are_all_alike(tmp_path: Path) -> None:
    found: list[Any] = []
    for name in ("a.parquet", "b.parquet", "a.arrow", "b.arrow", "c.arrow"):
        (tmp_path / name).write_bytes(WHOLE[name])
        found.append(everything_in(open_table(tmp_path / name)))
    # Without Arrow's schema in it a Parquet file does not say that its lists are of one length.
    assert [len(one) for one in found] == [6, 4, 6, 6, 6]
    assert all(np.array_equal(other, found[0][: len(other)], equal_nan=True) for other in found)


def test_offsets_and_indices_that_lead_outside_are_refused(tmp_path: Path) -> None:
    """An uncompressed Arrow file is mapped as it is: what it says of its own memory is not believed."""
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array(["qq", "zz"]))
    cases = ((["abc", "def"], (0, 3, 6), (0, 3, 10**9)), (coded, (0, 1, 0), (10**8, 1, 0)))
    for values, said, lie in cases:
        with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink:
            table = pa.table({"t": values})
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        data = (tmp_path / "t.arrow").read_bytes()
        assert data.count(struct.pack("<3i", *said)) == 1
        (tmp_path / "t.arrow").write_bytes(data.replace(struct.pack("<3i", *said), struct.pack("<3i", *lie)))
        opened = open_table(tmp_path / "t.arrow")
        with pytest.raises(SourceError, match=r"t\.arrow: cannot be read"):
            outcome_of(opened, "t", 0, 3)
        with pytest.raises(SourceError, match=r"t\.arrow: cannot be read"):
            categories(opened, features_of(opened, None)[0], 0, 3)


def test_rows_that_a_footer_makes_up_are_missed(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": np.arange(15.0)}), sink, store_schema=False, compression="none")
    data = bytearray(sink.getvalue())
    data[data.rindex(b"\x16\x1e") + 1] += 2  # the row group's rows, in Thrift's zigzag
    (tmp_path / "t.parquet").write_bytes(data)
    table = open_table(tmp_path / "t.parquet")
    assert table.rows == 16
    features, _ = features_of(table, None)
    for rows in (4, 16, 100):
        with pytest.raises(SourceError, match=r"0 to 0 lack 1 of the rows"):
            list(blocks(table, features, 0, 16, rows))
    with pytest.raises(SourceError, match=r"0 to 0 lack 1 of the rows"):
        outcome_of(table, "x", 0, 16)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow", "c.arrow"):
        path = tmp_path / name
        table = pa.table({"name-to-change": [1.0]})
        if name == "a.parquet":
            pq.write_table(table, path)
        else:
            new: Any = pa.ipc.new_file if name == "a.arrow" else pa.ipc.new_stream
            with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
                writer.write_table(table)
        path.write_bytes(path.read_bytes().replace(b"name-to-change", b"name-\xff\xfe-change"))
        with pytest.raises(SourceError, match="utf-8"):
            open_table(path)
