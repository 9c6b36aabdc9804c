"""`binmill rebalance` on 5 000 000 x 100 rows with 200 000 in the smaller class: wall time, memory of all processes."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tests.benchmarks.bench_screen_large import GIB, READ, SCRATCH, measured
from tests.benchmarks.report import Measurement

ROWS, SMALL, COLUMNS, FILES = 5_000_000, 200_000, 100, 20
FACTORS = 10
"""What correlates the columns, so that neighbours are nearer than others."""
MOST_GIB = 3


def make() -> Path:
    """The folder of the table's Parquet files; made unless it is there. The same values on every machine."""
    folder = SCRATCH / f"rebalance-{ROWS}x{COLUMNS}"
    if folder.is_dir():
        return folder
    being_made = folder.with_suffix(".part")
    shutil.rmtree(being_made, ignore_errors=True)
    being_made.mkdir(parents=True)
    mixing = np.random.default_rng(ROWS).standard_normal((FACTORS, COLUMNS), dtype=np.float32)
    rows, small = ROWS // FILES, SMALL // FILES
    for n in range(FILES):
        random = np.random.default_rng([ROWS, n])
        rare = random.permutation(rows) < small
        x = random.standard_normal((rows, FACTORS), dtype=np.float32) @ mixing
        x += random.standard_normal((rows, COLUMNS), dtype=np.float32)
        x[rare] += np.float32(0.3)
        columns = [pa.array(np.ascontiguousarray(column)) for column in x.T]
        table = pa.table(
            [*columns, pa.array(np.where(rare, "rare", "common"))], [*(f"f{j}" for j in range(COLUMNS)), "y"]
        )
        pq.write_table(table, being_made / f"part-{n:02}.parquet", use_dictionary=False, compression="none")
    being_made.rename(folder)
    return folder


def run() -> list[Measurement]:
    """Rebalance the table anew, and count what was made."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder, result = make(), SCRATCH / "rebalanced"
    read = min(measured([sys.executable, "-c", READ, str(folder)])[0] for _ in range(2))
    shutil.rmtree(result, ignore_errors=True)
    command = [sys.executable, "-m", "flows.cli", "rebalance", str(folder), "--label", "y", "-o", str(result)]
    seconds, memory = measured(command)
    counted = query(open_dataset(result), "SELECT label, count(*) AS n FROM train GROUP BY ALL", None).to_pylist()
    assert {row["label"]: row["n"] for row in counted} == dict.fromkeys(("common", "rare"), ROWS - SMALL)
    written = sum(shard.size for shard in open_dataset(result).manifest.shards())
    shutil.rmtree(result)
    return [
        Measurement(
            "rebalance, SMOTE, 1 worker", f"{ROWS:,} ({SMALL:,}) x {COLUMNS}", seconds, floor=read,
            note=f"floor: pyarrow reads the files; {written / GIB:.2f} GiB written; at most {memory.text()}, "
            f"allowed {MOST_GIB}",
        )
    ]  # fmt: skip
