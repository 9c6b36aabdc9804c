"""Datasets as wholes: committed, verified, bit-identical, resumed, and read by others."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from schemas.errors import DatasetError, QueryError, SourceError, ToleranceError, WorkerError
from tasks.build import InProcess
from tasks.fanout import local_executor, remote_executor
from tasks.ingest import index
from tasks.items import Item, Receipt
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tasks.query.trace import resolve_id, trace
from tasks.query.verify import verify
from tests.conftest import Mill, dask_scheduler, free_port, recipe_of


def problems(root: Path) -> list[str]:
    return [f"{f.where}: {f.problem}" for _, found in verify(open_dataset(root)) for f in found]


class Shuffled(InProcess):
    """Runs items in another order."""

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        order = np.random.default_rng(4).permutation(len(items))
        yield from super().run(root, [items[i] for i in order])


class Killed(InProcess):
    """Stops a run after some items, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        for item in items:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield from super().run(root, [item])


def test_a_dataset_verifies_and_a_second_run_computes_nothing(small: Path, corpus: Path, mill: Mill) -> None:
    assert problems(small) == []
    before = (small / "manifest.json").read_bytes()
    again = mill(recipe_of(corpus), small)
    assert again.run["computed"] == 0
    assert (small / "manifest.json").read_bytes() == before


def test_order_workers_and_interruptions_do_not_show(small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    digest = open_dataset(small).manifest.digest
    assert mill(recipe_of(corpus), tmp_path / "shuffled", Shuffled()).digest == digest
    for after in (3, 9, 17):
        with pytest.raises(KeyboardInterrupt):
            mill(recipe_of(corpus), tmp_path / "killed", Killed(after))
        assert not (tmp_path / "killed" / "manifest.json").exists()
    resumed = mill(recipe_of(corpus), tmp_path / "killed")
    assert resumed.digest == digest
    assert 0 < resumed.run["computed"] < sum(1 for _ in (tmp_path / "killed").rglob("*.parquet"))
    assert problems(tmp_path / "killed") == []


@pytest.mark.slow  # test_cluster.py and test_deployment.py show two workers, test_determinism.py four
@pytest.mark.parametrize("workers", [1, 2])
def test_dask_workers_give_the_same_bytes(small: Path, corpus: Path, mill: Mill, tmp_path: Path, workers: int) -> None:
    with local_executor(workers) as executor:
        found = mill(recipe_of(corpus), tmp_path / "dask", executor)
    assert found.digest == open_dataset(small).manifest.digest


@pytest.mark.slow  # the same behind TLS is in test_cluster.py
def test_a_scheduler_that_is_already_there_gives_the_same_bytes(
    small: Path, corpus: Path, mill: Mill, tmp_path: Path
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with dask_scheduler(address), remote_executor(address) as executor:
        assert executor.memory_limit
        found = mill(recipe_of(corpus), tmp_path / "remote", executor)
    assert found.digest == open_dataset(small).manifest.digest
    assert found.run["computed"] > 0


def test_no_scheduler_is_said_so() -> None:
    with pytest.raises(WorkerError, match="no Dask scheduler answers"), remote_executor("tcp://127.0.0.1:9", 1):
        pass


def test_an_item_that_needs_more_memory_than_workers_have_is_refused(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    class Small(InProcess):
        memory_limit = 64 * 2**20

    with pytest.raises(DatasetError, match=r"the largest item needs \d+ MiB, a worker has 64 MiB"):
        mill(recipe_of(corpus), tmp_path / "out", Small())


def test_without_an_index_the_installed_modules_are_used(
    mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "pip_configuration", lambda: index.PipConfiguration(indexes=()))
    rust = ("rpds/*.so", "pydantic_core/*.so", "hypothesis/*.so", "burner_redis/*.so", "pendulum/*.so")
    source = {
        "kind": "pypi",
        "packages": [{"name": "orjson", "version": "1.0", "files": {"orjson-1.0-py3-none-any.whl": "0" * 64}}],
        "members": {"include": ["numpy/*.so", "scipy/spatial/*.so", "markupsafe/*.so", "greenlet/*.so", *rust]},
    }
    label = {"origin": "generator", "rules": [{"match": "maturin*", "label": "rust"}], "default": "c-family"}
    recipe = recipe_of(tmp_path, sources=[source], label=label, tolerance={"share": 0.5})
    with pytest.raises(SourceError, match="no-index"):
        mill(recipe, tmp_path / "refused")
    recipe["sources"] = [source | {"fallback": "installed"}]
    manifest = mill(recipe, tmp_path / "out")
    assert any("native modules installed in this environment" in note for note in manifest.run["notes"])
    assert problems(tmp_path / "out") == []
    counts = query(open_dataset(tmp_path / "out"), "SELECT DISTINCT label FROM train").to_pylist()
    assert {row["label"] for row in counts} == {"rust", "c-family"}


def test_one_changed_byte_is_named_and_mended(small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small, root)
    victim = open_dataset(root).manifest.tables["train"][0].path
    data = bytearray((root / victim).read_bytes())
    data[len(data) // 2] ^= 1
    (root / victim).write_bytes(data)
    assert [p.split(":")[0] for p in problems(root)] == [victim]
    mill(recipe_of(corpus), root)
    assert problems(root) == []


def test_verify_sees_what_is_missing_added_or_edited(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small, root)
    manifest = json.loads((root / "manifest.json").read_text())
    (root / manifest["tables"]["codes"][0]["path"]).unlink()
    shutil.copy(root / manifest["tables"]["test"][0]["path"], root / "tables/test/part-extra.parquet")
    manifest["recipe"]["seed"] = 99
    (root / "manifest.json").write_text(json.dumps(manifest))
    found = problems(root)
    assert any("manifest.json: its digest" in p for p in found)
    assert any("codes" in p and "missing" in p for p in found)
    assert any("part-extra.parquet: not in the manifest" in p for p in found)


def test_verify_recomputes_synthetic_rows(small: Path, tmp_path: Path) -> None:
    """A forger who mends every checksum is still found out by a row that its parents do not give."""
    root = tmp_path / "copy"
    shutil.copytree(small, root)
    manifest = open_dataset(root).manifest
    entry = next(s for s in manifest.tables["train"] if any(pq.read_table(root / s.path)["is_synthetic"].to_pylist()))
    table = pq.ParquetFile(root / entry.path).read()
    column = table.schema.names[2]
    values = table.column(column).to_numpy().copy()
    values[0] += 1
    forged = table.set_column(2, table.schema.field(2), [values])
    pq.write_table(forged, root / entry.path)
    from schemas.manifest import ShardEntry, content_digest
    from tasks.shards import sha256_file

    place = root / entry.path
    new = ShardEntry(path=entry.path, sha256=sha256_file(place), size=place.stat().st_size, rows=entry.rows)
    tables = manifest.tables | {"train": [new if s == entry else s for s in manifest.tables["train"]]}
    mended = manifest.model_copy(
        update={
            "tables": tables,
            "digest": content_digest(manifest.name, manifest.recipe, tables, manifest.fitted),
        }
    )
    (root / "manifest.json").write_text(mended.model_dump_json())
    assert any("not what its parents and gap give" in p for p in problems(root))


def test_a_changed_recipe_recomputes_only_what_depends_on_it(
    small: Path, corpus: Path, mill: Mill, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small, root)
    manifest = mill(recipe_of(corpus, rebalancing={"method": "none"}), root)
    assert manifest.run["computed"] == 0
    assert problems(root) == []
    manifest = mill(recipe_of(corpus, screening={"top": 12}), root)
    steps = {json.loads(line)["stage"] for line in (root / ".binmill/journal.jsonl").read_text().splitlines()}
    assert "extract" in steps
    assert manifest.run["computed"] < 30
    assert not list(root.rglob("*.tmp"))
    listed = {s.path for s in open_dataset(root).manifest.shards()}
    on_disk = {p.relative_to(root).as_posix() for f in ("tables", "fitted") for p in (root / f).rglob("*.parquet")}
    assert on_disk == listed


def test_a_new_file_costs_its_own_extraction_only(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(corpus, grown)
    mill(recipe_of(grown, name="grown"), tmp_path / "out")
    shutil.copy(next((corpus / "other").iterdir()), grown / "zzz-again.so")  # known bytes, after all others
    journal = (tmp_path / "out/.binmill/journal.jsonl").read_text()
    before = {json.loads(line)["key"] for line in journal.splitlines() if '"extract"' in line}
    mill(recipe_of(grown, name="grown"), tmp_path / "out")
    journal = (tmp_path / "out/.binmill/journal.jsonl").read_text()
    assert {json.loads(line)["key"] for line in journal.splitlines() if '"extract"' in line} == before


def test_two_runs_at_once_are_refused(small: Path, corpus: Path, mill: Mill) -> None:
    from tasks.journal import Journal

    with Journal(small, write=True), pytest.raises(DatasetError, match="another run"):
        mill(recipe_of(corpus), small)


def test_others_read_it_without_us(small: Path) -> None:
    rows = sum(s.rows for s in open_dataset(small).manifest.tables["train"])
    assert pads.dataset(small / "tables/train").count_rows() == rows
    assert polars.read_parquet(small / "tables/train/*.parquet").height == rows
    found = duckdb.sql(f"SELECT label, count(*) FROM '{small}/tables/train/*.parquet' GROUP BY ALL").fetchall()
    assert dict(found) == {"science": rows // 2, "other": rows // 2}


def test_train_is_balanced_and_nothing_leaks(small: Path) -> None:
    dataset = open_dataset(small)
    counts = query(dataset, "SELECT label, count(*) AS n FROM train GROUP BY ALL").to_pylist()
    assert len({row["n"] for row in counts}) == 1
    leaks = query(
        dataset,
        "SELECT group_id FROM splits WHERE split IS NOT NULL GROUP BY ALL HAVING count(DISTINCT split) > 1",
    )
    assert leaks.num_rows == 0
    # Every binary with features has a place in exactly one of the tables.
    total = query(dataset, "SELECT count(*) AS n FROM splits WHERE split IS NOT NULL").to_pylist()[0]["n"]
    real = sum(
        query(dataset, f"SELECT count(*) AS n FROM {t} WHERE NOT is_synthetic").to_pylist()[0]["n"]
        for t in ("train", "validation", "test")
    )
    assert real == total == query(dataset, "SELECT count(*) AS n FROM codes").to_pylist()[0]["n"]


def test_screening_equals_sklearn_on_the_published_rows(small: Path) -> None:
    from sklearn.metrics import mutual_info_score

    dataset = open_dataset(small)
    train = query(dataset, "SELECT * FROM train WHERE NOT is_synthetic")
    scores = query(
        dataset, "SELECT feature, mi_binned, edges FROM screening JOIN fitted_bins USING (feature) WHERE selected"
    )
    assert scores.num_rows == 16
    for row in scores.to_pylist():
        bins = np.digitize(train[row["feature"]].to_numpy(), np.array(row["edges"], np.float32))
        assert row["mi_binned"] == pytest.approx(mutual_info_score(bins, train["label"].to_pylist()), abs=1e-12)


def test_trace_leads_from_a_synthetic_row_to_the_archive(small: Path) -> None:
    dataset = open_dataset(small)
    row = query(dataset, "SELECT sample_id, parent_a FROM train WHERE is_synthetic LIMIT 1").to_pylist()[0]
    chain = trace(dataset, resolve_id(dataset, row["sample_id"][:20]))
    assert [link.table for link in chain.links] == ["train"]
    parent = chain.links[0].derived_from[0]
    assert parent.sample_id == row["parent_a"]
    tables = [link.table for link in parent.links]
    assert tables == ["train", "codes", "splits", "labels", "features", "binaries", "observations", "sources"]
    assert all(link.provenance["code"] for link in parent.links)


def test_ids_must_be_known_and_unambiguous(small: Path) -> None:
    dataset = open_dataset(small)
    with pytest.raises(QueryError, match="no row"):
        resolve_id(dataset, "nothing")
    with pytest.raises(QueryError, match="no row"):
        resolve_id(dataset, "")


def test_too_many_failures_stop_the_run_and_keep_the_work(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(corpus, bad)
    for number in range(10):
        (bad / "other" / f"text-{number}.so").write_text(f"not a binary, number {number}")
    with pytest.raises(ToleranceError, match="10 x error: not a PE, ELF or Mach-O file"):
        mill(recipe_of(bad), tmp_path / "out")
    manifest = mill(recipe_of(bad, tolerance={"share": 0.5}), tmp_path / "out")
    assert manifest.summary["failed"] == 10
    assert problems(tmp_path / "out") == []
