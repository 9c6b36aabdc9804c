"""Reading tables: any cut into ranges of rows gives the whole, from every format."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecipeError, SourceError
from schemas.recipe import TableSource
from tasks.tabular import batches, open_table, table_features

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
    np.save(root / "t.npy", np.column_stack([x, np.arange(ROWS) % 2]))
    return {path.suffix: path for path in root.iterdir()}


def source(path: Path) -> TableSource:
    return TableSource(kind="table", path=str(path), label_column="c3" if path.suffix == ".npy" else "y")


@given(st.sampled_from([".parquet", ".arrow", ".csv", ".npy"]), st.lists(st.integers(0, ROWS), max_size=4))
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
    for suffix in (".parquet", ".arrow", ".csv"):
        part = next(batches(open_table(files[suffix]), source(files[suffix]), 0, 14))
        assert np.isnan(part.features[:, 1]).tolist() == [i % 7 == 0 for i in range(14)]
        assert set(part.features[:, 2]) <= {0.0, 1.0}
        assert part.labels[:2] == ["bad", "good"]
    part = next(batches(open_table(files[".npy"]), source(files[".npy"]), 0, 4))
    assert part.labels == ["0", "1", "0", "1"]


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
