"""Tables of numbers go the same way as executables, from whatever format."""

from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_breast_cancer

from schemas.errors import RecipeError
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tasks.query.verify import verify
from tests.conftest import Mill


@pytest.fixture(scope="module")
def table() -> polars.DataFrame:
    data: Any = load_breast_cancer()
    columns = {name.replace(" ", "_"): data.data[:, i] for i, name in enumerate(data.feature_names)}
    return polars.DataFrame(columns | {"target": data.target})


def recipe(path: Path, **changes: object) -> dict[str, object]:
    return {
        "name": "table",
        "sources": [{"kind": "table", "path": str(path), "label_column": "target"}],
        "label": {"origin": "column", "rules": [{"match": "0", "label": "malignant"}], "default": "benign"},
        "screening": {"top": 10},
        "binarizing": {"dimensions": 8, "iterations": 5},
        **changes,
    }


def test_every_format_gives_the_same_rows(table: polars.DataFrame, mill: Mill, tmp_path: Path) -> None:
    table.write_csv(tmp_path / "t.csv")
    table.write_parquet(tmp_path / "t.parquet", row_group_size=100)
    pyarrow.feather.write_feather(table.to_arrow(), tmp_path / "t.arrow", compression="uncompressed", chunksize=77)
    found = {}
    for name in ("t.csv", "t.parquet", "t.arrow"):
        root = tmp_path / f"out-{name}"
        manifest = mill(recipe(tmp_path / name, publishing={"shard_files": 1}), root)
        dataset = open_dataset(root)
        assert [f for _, fs in verify(dataset) for f in fs] == []
        assert len(manifest.tables["features"]) == 5  # 569 rows, 128 a shard
        scores = query(dataset, "SELECT feature, mi, q_value, rank FROM screening ORDER BY rank").to_pylist()
        counts = query(dataset, "SELECT label, count(*) AS n FROM labels GROUP BY ALL ORDER BY 1").to_pylist()
        assert counts == [{"label": "benign", "n": 357}, {"label": "malignant", "n": 212}]
        found[name] = (scores[0]["feature"], len(scores))
        assert scores[0]["mi"] > 0.3
    assert {count for _, count in found.values()} == {30}


def test_npy_with_a_vector_column_and_groups(mill: Mill, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    x = rng.normal(size=(400, 5)).astype(np.float32)
    x[:, 2] += 2 * y
    np.save(tmp_path / "t.npy", np.column_stack([x, y]))
    source = {"kind": "table", "path": str(tmp_path / "t.npy"), "label_column": "c5"}
    manifest = mill(
        recipe(tmp_path, sources=[source], label={"origin": "column"}, screening={"top": 3}), tmp_path / "npy"
    )
    assert manifest.summary["top_features"][0]["feature"] == "c2"

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 5)
    groups = [f"g{i // 4}" for i in range(400)]
    pq.write_table(pa.table({"v": vectors, "y": y, "g": groups}), tmp_path / "v.parquet")
    source = {"kind": "table", "path": str(tmp_path / "v.parquet"), "label_column": "y", "group_column": "g"}
    mill(recipe(tmp_path, sources=[source], label={"origin": "column"}, screening={"top": 3}), tmp_path / "vec")
    dataset = open_dataset(tmp_path / "vec")
    top = query(dataset, "SELECT feature FROM screening WHERE rank = 1").to_pylist()[0]["feature"]
    assert top == "v[2]"
    torn = query(dataset, "SELECT project FROM splits GROUP BY ALL HAVING count(DISTINCT split) > 1 OR count(*) <> 4")
    assert torn.num_rows == 0


def test_wrong_columns_are_named(table: polars.DataFrame, mill: Mill, tmp_path: Path) -> None:
    table.with_columns(polars.lit("x").alias("text")).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(RecipeError, match=r"column 'text' of t\.parquet holds .*string"):
        mill(recipe(tmp_path / "t.parquet"), tmp_path / "a")
    source = {"kind": "table", "path": str(tmp_path / "t.parquet"), "label_column": "nowhere"}
    with pytest.raises(RecipeError, match="no column 'nowhere'"):
        mill(recipe(tmp_path, sources=[source]), tmp_path / "b")
