"""A dataset of another feature set: the stages after extraction never ask which one it is."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.apply import apply
from schemas.tables import feature_groups
from tasks.extract.layout import EMBER2024_CORE
from tasks.query.dataset import open_dataset
from tests.benchmarks.ember_baseline import vector
from tests.conftest import Mill, recipe_of
from tests.wheels import WINDOWS_WHEELS, fetched


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory, windows_programs: list[Path]) -> Path:
    """A folder of PE files: `library/` and `program/`, and one file that is none."""
    root = tmp_path_factory.mktemp("windows")
    wheels = fetched(WINDOWS_WHEELS, tmp_path_factory.mktemp("wheels"), (".pyd", ".dll"))
    if not wheels:
        pytest.skip("no package index in reach: no libraries for Windows")
    for label, files in (("program", windows_programs), ("library", wheels[:30])):
        (root / label).mkdir()
        for number, path in enumerate(files):
            shutil.copy(path, root / label / f"{number:02d}-{path.name}")
    (root / "library" / "no-program.dll").write_bytes(b"MZ" + bytes(100))
    return root


def test_a_dataset_of_ember_vectors(windows: Path, mill: Mill, tmp_path: Path) -> None:
    recipe = recipe_of(windows, features={"set": "ember2024-core@1"}, tolerance={"share": 0.2})
    mill(recipe, tmp_path)
    dataset = open_dataset(tmp_path)
    files = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in windows.rglob("*") if p.is_file()}
    rows = 0
    for path in dataset.paths("features"):
        table = pq.read_table(path)
        assert feature_groups(table.schema) == EMBER2024_CORE
        assert table.schema.metadata[b"feature_set"] == b"ember2024-core@1"
        for row in table.to_pylist():
            for group, values in vector(files[row["sample_id"]].read_bytes()).items():
                np.testing.assert_allclose(row[group], values, rtol=1e-6, atol=0)
            rows += 1
    assert rows == len(files) - 1
    applied = {row["sample_id"]: row for table in apply(dataset, sorted(files.values())) for row in table.to_pylist()}
    for path in dataset.paths("codes"):
        for row in pq.read_table(path).to_pylist():
            if row["sample_id"] in files:
                assert all(applied[row["sample_id"]][name] == value for name, value in row.items() if name != "split")
    columns = pq.read_schema(dataset.paths("train")[0]).names
    named = {name for names in EMBER2024_CORE.values() for name in names}
    assert len(named & set(columns)) == recipe["screening"]["top"]
