"""A dataset is read without binmill: DuckDB, Polars, pandas, PyArrow and Hugging Face datasets say the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PREAMBLE = """
import json, sys, glob
root, cache = sys.argv[1:3]
manifest = json.load(open(f"{root}/manifest.json"))
files = lambda table: sorted(f"{root}/{shard['path']}" for shard in manifest["tables"][table])
feature = next(f["feature"] for f in json.loads(sys.argv[3]))
"""
# Each finds: rows by label of train; sum of the best feature; all codes in order; one vector.
READERS = {
    "duckdb": """
import duckdb, hashlib
labels = dict(duckdb.sql(f"SELECT label, count(*) FROM read_parquet({files('train')}) GROUP BY ALL").fetchall())
total = duckdb.sql(f'SELECT sum("{feature}"::DOUBLE) FROM read_parquet({files("train")})').fetchone()[0]
codes = duckdb.sql(f"SELECT sample_id, rabitq FROM read_parquet({files('codes')}) ORDER BY sample_id").fetchall()
vectors = duckdb.sql(f"SELECT sample_id, histogram FROM read_parquet({files('features')}) ORDER BY sample_id")
vector = vectors.fetchone()[1]
codes = [code for _, code in codes]
""",
    "polars": """
import polars as pl
train = pl.concat([pl.read_parquet(path) for path in files("train")], how="vertical")
labels = dict(train.group_by("label").len().iter_rows())
total = train[feature].cast(pl.Float64).sum()
codes = pl.concat([pl.read_parquet(path) for path in files("codes")]).sort("sample_id")["rabitq"].to_list()
vector = pl.concat([pl.read_parquet(p) for p in files("features")]).sort("sample_id")["histogram"][0].to_list()
""",
    "pandas": """
import pandas as pd
train = pd.concat([pd.read_parquet(path) for path in files("train")])
labels = {k: int(v) for k, v in train["label"].value_counts().items()}
total = float(train[feature].astype("float64").sum())
codes = list(pd.concat([pd.read_parquet(path) for path in files("codes")]).sort_values("sample_id")["rabitq"])
vector = list(pd.concat([pd.read_parquet(p) for p in files("features")]).sort_values("sample_id")["histogram"].iloc[0])
""",
    "pyarrow": """
import pyarrow.compute as pc, pyarrow.dataset as ds, pyarrow as pa
train = ds.dataset(files("train")).to_table()
labels = {row["values"]: row["counts"] for row in pc.value_counts(train["label"]).to_pylist()}
total = pc.sum(train[feature].cast(pa.float64())).as_py()
codes = ds.dataset(files("codes")).to_table().sort_by("sample_id")["rabitq"].to_pylist()
vector = ds.dataset(files("features")).to_table().sort_by("sample_id")["histogram"][0].as_py()
""",
    "datasets": """
import os
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=cache, HF_DATASETS_CACHE=cache)
import collections, datasets
datasets.disable_progress_bars()
load = lambda table: datasets.load_dataset("parquet", data_files=files(table), split="train", cache_dir=cache)
train = load("train")
labels = dict(collections.Counter(train["label"]))
total = float(sum(map(float, train[feature])))
codes = load("codes").sort("sample_id")["rabitq"]
vector = load("features").sort("sample_id")["histogram"][0]
""",
}
ENDING = """
import hashlib, math
assert not {"flows", "tasks", "schemas"} & set(sys.modules), "binmill was imported"
digest = hashlib.sha256(b"".join(bytes(code) for code in codes)).hexdigest()
vector_sum = round(math.fsum(map(float, vector)), 6)
print(json.dumps([sorted(labels.items()), round(total, 6), digest, len(codes), len(vector), vector_sum]))
"""


def read(reader: str, root: Path, cache: Path, features: str) -> Any:
    """What a process says that knows nothing of this checkout."""
    code = PREAMBLE + READERS[reader] + ENDING
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code, str(root), str(cache), features],
        capture_output=True, text=True, check=False, timeout=240, cwd=cache, env={"PATH": "", "HOME": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("reader", [name for name in READERS if name != "pyarrow"])
def test_all_read_the_same(reader: str, small: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    manifest = json.loads((small / "manifest.json").read_bytes())
    screening = pq.read_table(small / manifest["tables"]["screening"][0]["path"]).sort_by("rank").slice(0, 1)
    features = json.dumps([{"feature": screening.column("feature")[0].as_py()}])
    found, wanted = (read(name, small, tmp_path, features) for name in (reader, "pyarrow"))
    assert found == wanted
    rows = sum(shard["rows"] for shard in manifest["tables"]["train"])
    assert sum(count for _, count in found[0]) == rows
    assert found[3] == sum(shard["rows"] for shard in manifest["tables"]["codes"])
    assert found[4] == 256
