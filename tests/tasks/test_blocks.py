"""Blocks of features: every format, subset, range and size of batch gives what reading the whole gives."""

import itertools
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.blocks import affine, blocks, outcome_of, ranges
from tasks.columns import Feature, categories, codebook, features_of, merge_categories
from tasks.tabular import Table, open_table, ranges_of_rows

ROWS = 700
MIXED = ["mixed.parquet", "mixed.arrow", "packed.arrow", "files", "arrows"]
MATRICES = ["c.npy", "f.npy", "swapped.npy", "floats.parquet", "list.parquet", "list.arrow"]


def mixed() -> Any:
    rng = np.random.default_rng(4)
    x = rng.normal(size=ROWS)
    gaps = np.arange(ROWS) % 7 == 3
    whole = rng.integers(-50, 50, ROWS)
    words = np.array(["red", "green", "", "blau", "żółty"])[rng.integers(0, 5, ROWS)]
    lists = pa.array(x.repeat(3).astype(np.float32), mask=np.arange(3 * ROWS) % 11 == 0)
    return pa.table(
        {
            "f32": pa.array(x.astype(np.float32)),
            "f32n": pa.array(x.astype(np.float32), mask=gaps),
            "f64": pa.array(np.where(gaps, [np.inf, -np.inf, np.nan, 1e300, 1e-310, -0.0, 1e38][3], x)),
            "f16": pa.array(x.astype(np.float16)),
            "i8": pa.array(whole.astype(np.int8)),
            "i64n": pa.array(whole * 2**50 + 1, mask=gaps),
            "u64": pa.array(np.uint64(2**64 - 1) - whole.astype(np.uint8)),
            "bool": pa.array(x > 0, mask=gaps),
            "decimal": pa.array([None if g else Decimal(int(w)) / 8 for g, w in zip(gaps, whole, strict=True)]),
            "date": pa.array(whole.astype(np.int32), pa.date32()),
            "time": pa.array(whole + 1_700_000_000_000_000, pa.timestamp("us", "UTC"), mask=gaps),
            "null": pa.nulls(ROWS),
            "coded": pa.array(whole // 20).dictionary_encode(),
            "text": pa.array(words, mask=gaps),
            "large": pa.array(words, pa.large_string()),
            "dictionary": pa.array(words, mask=gaps).dictionary_encode(),
            "list": pa.FixedSizeListArray.from_arrays(lists, 3),
            "bytes": pa.array([b"x"] * ROWS),
            "ragged": pa.array([[1.0]] * ROWS),
            "a.b": pa.array(x),
            "a": pa.array(-x),
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("blocks")
    table = mixed()
    pq.write_table(table, root / "mixed.parquet", row_group_size=130)
    pyarrow.feather.write_feather(table, str(root / "mixed.arrow"), compression="uncompressed", chunksize=77)
    pyarrow.feather.write_feather(table, str(root / "packed.arrow"), compression="zstd", chunksize=400)
    (root / "files").mkdir()
    (root / "arrows").mkdir()
    for i, (low, high) in enumerate([(0, 100), (100, 100), (100, 650), (650, ROWS)]):
        pq.write_table(table.slice(low, high - low), root / "files" / f"part-{i}.parquet", row_group_size=300)
        part = str(root / "arrows" / f"part-{i}.feather")
        pyarrow.feather.write_feather(table.slice(low, high - low), part, compression="uncompressed")
    matrix = np.random.default_rng(5).normal(size=(ROWS, 70)).astype(np.float32)
    matrix[::9, 5] = np.nan
    matrix[3, 6] = np.inf
    np.save(root / "c.npy", matrix)
    np.save(root / "f.npy", np.asfortranarray(matrix))
    np.save(root / "swapped.npy", matrix.astype(">f8"))
    columns = {f"c{i}": matrix[:, i].copy() for i in range(70)}
    pq.write_table(pa.table(columns), root / "floats.parquet", row_group_size=90)
    names = "\n".join(columns)
    field = pa.field("v", pa.list_(pa.float32(), 70), metadata={"names": names})
    lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), 70)
    whole = pa.Table.from_arrays([lists], schema=pa.schema([field]))
    pq.write_table(whole, root / "list.parquet", row_group_size=123)
    pyarrow.feather.write_feather(whole, str(root / "list.arrow"), compression="uncompressed", chunksize=200)
    return root


def plain(array: Any) -> list[float]:
    """Reference: a column as Python has it, in float64."""
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.int32() if pa.types.is_date32(array.type) else pa.int64())
    return [np.nan if v is None else float(v) for v in array.to_pylist()]


def reference(table: Any, feature: Feature) -> NDArray[np.float32]:
    column = table.column(feature.column)
    if feature.place is not None:
        rows = [[None] * 3 if row is None else row for row in column.to_pylist()]
        column = pa.array([row[feature.place] for row in rows], pa.float64())
    with np.errstate(over="ignore"):
        return np.array(plain(column)).astype(np.float32)


def cut(draw: Callable[[Any], Any]) -> tuple[int, int, int]:
    start, stop = sorted((draw(st.integers(0, ROWS)), draw(st.integers(0, ROWS))))
    return start, stop, draw(st.sampled_from([1 << 20, 500, 130, 64, 7]))


def gathered(table: Table, features: list[Feature], start: int, stop: int, rows: int, **kwargs: Any) -> Any:
    """The values of all blocks side by side, which must follow each other without gaps."""
    found, place = [np.empty((len(features), 0), np.float32)], start
    for block in blocks(table, features, start, stop, rows, **kwargs):
        assert block.first == place
        assert block.values.flags.c_contiguous
        assert block.values.dtype == np.float32
        assert 0 < block.values.shape[1] <= rows
        place += block.values.shape[1]
        found.append(block.values)
    assert place == max(start, stop)
    return np.concatenate(found, axis=1)


@given(st.data())
def test_mixed_columns(root: Path, data: st.DataObject) -> None:
    table = open_table(root / data.draw(st.sampled_from(MIXED)))
    features, apart = features_of(table, None)
    assert set(apart) == {"bytes", "ragged"}
    assert {f.name for f in features if f.storage == "category"} == {"text", "large", "dictionary"}
    numbers = [f for f in features if f.storage == "number"]
    assert len(numbers) == 18
    some = data.draw(st.lists(st.sampled_from(numbers), min_size=1, unique=True))
    start, stop, rows = cut(data.draw)
    wanted = np.array([reference(mixed(), feature) for feature in some])[:, start:stop]
    assert np.array_equal(gathered(table, some, start, stop, rows), wanted, equal_nan=True)


@given(st.data())
def test_matrices(root: Path, data: st.DataObject) -> None:
    matrix = np.load(root / "c.npy").T
    table = open_table(root / data.draw(st.sampled_from(MATRICES)))
    features, _ = features_of(table, None)
    assert [f.name for f in features] == [f"c{i}" for i in range(70)]
    places = data.draw(st.one_of(st.just(range(70)), st.lists(st.integers(0, 69), min_size=1, unique=True)))
    start, stop, rows = cut(data.draw)
    found = gathered(table, [features[i] for i in places], start, stop, rows)
    assert np.array_equal(found, matrix[list(places), start:stop], equal_nan=True)


@given(st.data())
def test_extremes_of_ranges_are_those_of_the_whole(root: Path, data: st.DataObject) -> None:
    table = open_table(root / data.draw(st.sampled_from([*MIXED, "c.npy", "f.npy"])))
    features = [f for f in features_of(table, None)[0] if f.storage == "number"]
    ends = [0, *sorted(data.draw(st.lists(st.integers(0, ROWS), max_size=3))), ROWS]
    parts = [ranges(table, features, a, b, 50) for a, b in itertools.pairwise(ends)]
    minimum, maximum = np.min([p[0] for p in parts], axis=0), np.max([p[1] for p in parts], axis=0)
    source = mixed() if table.format != "npy" else pa.table(dict(enumerate_columns(np.load(table.path))))
    for feature, low, high in zip(features, minimum, maximum, strict=True):
        if feature.place is None:
            values = np.array(plain(source.column(feature.column)))
            values = values[np.isfinite(values)]
            assert (low, high) == ((values.min(), values.max()) if len(values) else (np.inf, -np.inf))


def enumerate_columns(matrix: NDArray[Any]) -> list[tuple[str, Any]]:
    return [(f"c{i}", pa.array(column)) for i, column in enumerate(matrix.T)]


WIDE = {
    "seconds": np.int64(1_700_000_000) + np.arange(ROWS),
    "nanoseconds": np.int64(2**62) + np.arange(ROWS),
    "unsigned": np.uint64(2**64 - 1) - np.arange(ROWS).astype(np.uint64),
    "seconds64": 1.7e9 + np.arange(ROWS) / 8,
    "huge": np.where(np.arange(ROWS) % 2, 1e300, -1e300) * (1 + np.arange(ROWS)),
    "vast": np.where(np.arange(ROWS) % 2, 1.7e308, -1.7e308),
    "tiny": 1e-300 * np.arange(ROWS),
    "subnormal": 5e-324 * np.arange(ROWS),
    "constant": np.full(ROWS, 1e300),
    "plain": np.arange(ROWS) / 7,
    "whole": np.arange(ROWS) - 300,
    "none": np.full(ROWS, np.inf),
}


@pytest.mark.parametrize("kind", ["parquet", "npy", "list"])
def test_what_float32_would_lose_is_kept(tmp_path: Path, kind: str) -> None:
    for name, values in WIDE.items():
        path = tmp_path / f"{name}.{'npy' if kind == 'npy' else 'parquet'}"
        if kind == "npy":
            np.save(path, values[:, None])
        elif kind == "parquet":
            pq.write_table(pa.table({"x": values}), path)
        else:
            pq.write_table(pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values), 1)}), path)
        table = open_table(path)
        (feature,), _ = features_of(table, None)
        assert feature.wide64
        shift, factor = affine(*ranges(table, [feature], 0, ROWS, 100))
        found = gathered(table, [feature], 0, ROWS, 99, shift=shift, factor=factor)[0]
        # Python's integers and fractions are exact: the order and the distances of the values are kept.
        exact = [int(v) if values.dtype.kind in "iu" else float(v) for v in values]
        assert np.log2(factor[0]) % 1 == 0
        if name in {"plain", "whole"}:
            assert (shift[0], factor[0]) == (0, 1)
        if name in {"seconds", "nanoseconds", "unsigned", "seconds64"}:
            assert factor[0] == 1
            assert np.array_equal(found, np.array([v - exact[0] for v in exact], np.float64) + float(found[0]))
        if name in {"huge", "vast", "tiny", "subnormal"}:
            assert np.array_equal(found, np.ldexp(values, round(np.log2(factor[0]))).astype(np.float32))
            assert 0.5 <= np.abs(found).max() < 1 or name == "subnormal"
        assert np.isfinite(found).all() == (name != "none")
        if name != "none":
            assert len(set(found)) == len(set(exact))
    assert affine(np.array([np.inf]), np.array([-np.inf]))[1].tolist() == [1.0]


def test_infinite_and_missing_stay_so_when_moved(tmp_path: Path) -> None:
    values = np.array([1.7e9, np.inf, np.nan, -np.inf, 1.7e9 + 1])
    pq.write_table(pa.table({"x": values, "i": pa.array([2**60, None, 2**60 + 1, None, 2**60 + 3])}), tmp_path / "t.pq")
    table = open_table(tmp_path / "t.pq")
    features, _ = features_of(table, None)
    shift, factor = affine(*ranges(table, features, 0, 5))
    found = gathered(table, features, 0, 5, 2, shift=shift, factor=factor)
    assert np.array_equal(found[0], [0, np.inf, np.nan, -np.inf, 1], equal_nan=True)
    assert np.array_equal(found[1], [0, np.nan, 1, np.nan, 3], equal_nan=True)


@given(st.data())
def test_categories_are_counted_alike_however_cut(root: Path, data: st.DataObject) -> None:
    table = open_table(root / data.draw(st.sampled_from(MIXED)))
    features = [f for f in features_of(table, None)[0] if f.storage == "category"]
    ends = [0, *sorted(data.draw(st.lists(st.integers(0, ROWS), max_size=3))), ROWS]
    parts = [categories(table, features, a, b, 60) for a, b in itertools.pairwise(ends)]
    merged = merge_categories(data.draw(st.permutations(parts)))
    for feature in features:
        texts = [t for t in mixed().column(feature.name).to_pylist() if t is not None]
        rows = [r for r in merged.to_pylist() if r["feature"] == feature.name]
        assert {r["value"]: r["count"] for r in rows} == {t: texts.count(t) for t in set(texts)}
    codes, apart = codebook(merged)
    assert apart == {}
    start, stop, rows = cut(data.draw)
    found = gathered(table, features, start, stop, rows, codes=codes)
    for feature, line in zip(features, found, strict=True):
        texts = mixed().column(feature.name).to_pylist()
        order = sorted(set(texts) - {None}, key=lambda t: (-texts.count(t), t.encode()))
        wanted = [np.nan if t is None else order.index(t) for t in texts[start:stop]]
        assert np.array_equal(line, wanted, equal_nan=True)


def test_rare_texts_share_a_code_and_identifiers_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"t{i}" for i in range(300)] + ["t299", None]
    pq.write_table(pa.table({"t": texts, "id": [str(i) for i in range(302)]}), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    features, _ = features_of(table, None)
    codes, apart = codebook(categories(table, features, 0, 302))
    assert codes["t"].to_pylist() == ["t299", *sorted(f"t{i}" for i in range(299))[:254]]
    found = gathered(table, features[:1], 0, 302, 100, codes=codes)[0]
    assert np.isnan(found[301])
    assert found[299] == found[300] == 0
    assert (found == 255).sum() == 300 - 255
    monkeypatch.setattr("tasks.columns.DISTINCT", 301)
    for ends in ([0, 302], [0, 301, 302], [0, 5, 150, 302]):
        parts = [categories(table, features, a, b) for a, b in itertools.pairwise(ends)]
        codes, apart = codebook(merge_categories(parts))
        assert set(codes) == {"t"}
        assert list(apart) == ["id"]
    assert codebook(merge_categories([])) == ({}, {})
    # A column without any text has no codes, and its values are missing.
    pq.write_table(pa.table({"t": pa.nulls(3, pa.string())}), tmp_path / "n.parquet")
    table = open_table(tmp_path / "n.parquet")
    features, _ = features_of(table, None)
    codes, _ = codebook(categories(table, features, 0, 3))
    assert codes == {}
    assert np.isnan(gathered(table, features, 0, 3, 10, codes=codes)).all()


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60))
def test_ranges_of_rows_cover_the_table(pieces: list[int], size: int) -> None:
    table = Table(Path(), "parquet", pa.schema([]), sum(pieces), tuple(files(pieces)), {})
    found = ranges_of_rows(table, size)
    assert [a for a, _ in found] == [0, *[b for _, b in found]][: len(found)]
    assert (found[-1][1] if found else 0) == sum(pieces)
    assert all(0 < b - a < 2 * size for a, b in found)
    ends = set(np.cumsum(pieces).tolist())
    for a, b in found:  # a cut is between pieces, unless the piece is one that fills a range by itself
        if b not in ends:
            assert b - a == size
            assert any(low <= a and b < low + rows for low, rows in zip([0, *np.cumsum(pieces)], pieces, strict=False))


def files(pieces: list[int]) -> list[Any]:
    from tasks.tabular import File

    return [File(Path("a"), 0, tuple(pieces[:5])), File(Path("b"), sum(pieces[:5]), tuple(pieces[5:]))]


def test_outcomes(root: Path) -> None:
    for name in MIXED:
        table = open_table(root / name)
        for column in ("text", "time", "bool", "dictionary", "a.b"):
            found = outcome_of(table, column, 90, 600)
            assert found.to_pylist() == mixed().column(column).to_pylist()[90:600]
            assert len(outcome_of(table, column, 5, 5)) == 0
        with pytest.raises(RecipeError, match="no column 'txt'"):
            outcome_of(table, "txt", 0, 1)
    matrix = np.load(root / "c.npy")
    for name in MATRICES:
        found = outcome_of(open_table(root / name), "c6", 1, 500).to_numpy(zero_copy_only=False)
        assert np.array_equal(found, matrix[1:500, 6])


def test_choosing_features(root: Path) -> None:
    table = open_table(root / "mixed.parquet")
    names = [f.name for f in features_of(table, "text", ["list[1]", "bytes"])[0]]
    assert "text" not in names
    assert [n for n in names if n.startswith("list")] == ["list[0]", "list[2]"]
    assert [f.name for f in features_of(table, "a", only=["list[2]", "a", "f64"])[0]] == ["f64", "list[2]"]
    assert "bytes" not in features_of(table, "text", ["bytes"])[1]
    for wrong in ({"exclude": ["x"]}, {"only": ["x"]}, {"outcome": "x"}):
        with pytest.raises(RecipeError, match="no column 'x'"):
            features_of(table, **({"outcome": None} | wrong))  # pyright: ignore[reportArgumentType]
    with pytest.raises(RecipeError, match="no feature column is left"):
        features_of(table, "a", only=["bytes"])
