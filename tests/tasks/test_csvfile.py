"""CSV: types that hold for the whole file, whatever block a value stands in, and nothing lost on the way."""

import csv
import datetime as dt
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecipeError, SourceError
from tasks import csvfile
from tasks.blocks import blocks, outcome_of
from tasks.columns import features_of
from tasks.tabular import open_table, record_batches, staged


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "BLOCK_BYTES", 64)


def read(path: Path) -> Any:
    table = open_table(path)
    schema, batches = staged(table)
    return pa.Table.from_batches(list(batches), schema)


def lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.usefixtures("small_blocks")
def test_a_type_that_changes_late_holds_for_the_whole(tmp_path: Path) -> None:
    rows = [f"{i},{i},{i},true,2024-01-01,,2024-01-01" for i in range(100)]
    rows += ["1.5,x,9223372036854775808,false,2024-01-01 10:00:00,7,never", "NA,?,.,<NA>,None,nan,"]
    found = read(lines(tmp_path / "t.csv", "float,text,big,bool,time,late,odd", *rows))
    kinds = [pa.float64(), pa.string(), pa.float64(), pa.bool_(), pa.timestamp("s"), pa.int64(), pa.string()]
    assert found.schema.types == kinds
    assert found.num_rows == 102
    assert found.column("float").to_pylist() == [*map(float, range(100)), 1.5, None]
    assert found.column("text").to_pylist() == [*map(str, range(100)), "x", None]
    assert found.column("big").to_pylist() == [*map(float, range(100)), 2.0**63, None]
    assert found.column("time").to_pylist()[99:] == [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 10), None]
    assert found.column("late").to_pylist() == [*[None] * 100, 7, None]
    assert found.column("odd").to_pylist()[100:] == ["never", None]


TEXTS = st.text(st.sampled_from('ab"\n,;\r é0'), max_size=6)


@pytest.mark.usefixtures("small_blocks")
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=40), st.sampled_from([",", ";", "\t"]))
def test_quoted_text_goes_through(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], delimiter: str) -> None:
    # Python's writer is the reference; a text that Arrow would take for a number or for missing is kept apart.
    rows = [(f"x{a}", f"y{b}") for a, b in rows]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows([("p", "q q"), *rows])
    path = tmp_path_factory.mktemp("quoted") / "t.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    found = read(path)
    assert found.schema.names == ["p", "q q"]
    assert list(zip(*found.to_pydict().values(), strict=True)) == rows


@given(st.integers(1, 3_000), st.integers(0, 2**32))
def test_numbers_are_those_that_polars_reads(tmp_path_factory: pytest.TempPathFactory, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = polars.DataFrame({"x": rng.normal(size=40), "i": rng.integers(-size, size, 40), "b": rng.random(40) > 0.5})
    path = tmp_path_factory.mktemp("polars") / "t.csv"
    frame.write_csv(path)
    assert read(path).to_pydict() == polars.read_csv(path).to_dict(as_series=False) == frame.to_dict(as_series=False)


def test_packed_tab_separated_and_latin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "BLOCK_BYTES", 8)
    text = "größe\tb\r\n1\tx\r\n2\té\r\n"
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "latin.csv").write_bytes(text.encode("latin-1"))
    for name in ("t.tsv.gz", "bom.csv", "latin.csv"):
        assert read(tmp_path / name).to_pydict() == {"größe": [1, 2], "b": ["x", "é"]}


def test_names_that_stand_twice_are_told_apart(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.csv", "a,a,,a#2,a,y", "1,2,3,4,5,6")
    assert read(path).to_pydict() == {"a": [1], "a#3": [2], "c2": [3], "a#2": [4], "a#4": [5], "y": [6]}
    table = open_table(path)
    (block,) = blocks(table, features_of(table, "y")[0], 0, 1)
    assert block.values[:, 0].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(RecipeError, match="more than one column 'a'"):
        features_of(table, "a")
    with pytest.raises(RecipeError, match="more than one column 'a'"):
        outcome_of(table, "a", 0, 1)


def test_a_wide_table_is_staged_as_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tabular.PACK_BEYOND", 4)
    monkeypatch.setattr(csvfile, "BLOCK_BYTES", 100)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 5))
    rows = [",".join([*(f"{v!r}" for v in row), str(i), "", "ab"[i % 2]]) for i, row in enumerate(x.tolist())]
    path = lines(tmp_path / "t.csv", "a,b,c,d,e,f,none,y", *rows)
    found = read(path)
    assert found.schema.names == ["y", "numbers"]
    pq.write_table(found, tmp_path / "t.parquet", row_group_size=7)
    table = open_table(tmp_path / "t.parquet")
    features, apart = features_of(table, "y")
    assert ([f.name for f in features], apart) == (["a", "b", "c", "d", "e", "f", "none"], {})
    values = np.concatenate([b.values for b in blocks(table, features, 0, 50, 20)], axis=1)
    assert np.array_equal(values[:5], x.T.astype(np.float32))
    assert np.array_equal(values[5], np.arange(50))
    assert np.isnan(values[6]).all()
    assert outcome_of(table, "f", 3, 5).to_pylist() == [3, 4]
    assert outcome_of(table, "y", 3, 5).to_pylist() == ["b", "a"]
    direct = open_table(path)
    again = np.concatenate([b.values for b in blocks(direct, features_of(direct, "y")[0], 0, 50, 20)], axis=1)
    assert np.array_equal(again, values, equal_nan=True)


@given(st.integers(0, 60), st.integers(0, 60))
def test_rows_from_the_middle(tmp_path_factory: pytest.TempPathFactory, one: int, two: int) -> None:
    path = lines(tmp_path_factory.mktemp("middle") / "t.csv", "a,b", *(f"{i},x{i}" for i in range(50)))
    start, stop = sorted((one, two))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csvfile, "BLOCK_BYTES", 32)
        found = [r for b in record_batches(open_table(path), ["b"], start, stop, 9) for r in b.column(0).to_pylist()]
    assert found == [f"x{i}" for i in range(50)][start:stop]


def test_what_is_no_csv_is_refused(tmp_path: Path) -> None:
    cases = {
        "empty": (b"", "the table is empty"),
        "lines": (b"\n\n\n", "the table is empty"),
        "utf16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        "ragged": (b"a,b\n1,2\n3\n", "after row 0: .*2"),
        "open": (b'a,b\n1,"2\n3,4\n', "quote is not closed"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / f"{name}.csv").write_bytes(data)
        with pytest.raises(SourceError, match=message):
            open_table(tmp_path / f"{name}.csv")
    (tmp_path / "head.csv").write_bytes(b"a,b\n")
    table = open_table(tmp_path / "head.csv")
    assert (table.rows, table.schema.names) == (0, ["a", "b"])
    assert list(staged(table)[1]) == []
    (tmp_path / "bad.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 no")
    with pytest.raises(SourceError, match="cannot be read"):
        open_table(tmp_path / "bad.csv.gz")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csvfile, "BLOCK_BYTES", 16)
        try:
            table = open_table(path)
            rows = sum(batch.num_rows for batch in staged(table)[1])
        except SourceError:
            return
    assert rows == table.rows
