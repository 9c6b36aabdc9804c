"""verify --rebuild: shards computed again from their inputs, and told from forged ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.rebuild import rebuild
from flows.recipes import check_recipe
from flows.stages import SCREENING_ONLY, rebalancing_stages, run_stages, stages_of
from schemas.errors import BinmillError, DatasetError
from tasks.build import Build, InProcess, code_digest
from tasks.ingest.cache import archive_path
from tasks.journal import Journal
from tasks.query.dataset import open_dataset
from tasks.shards import METADATA_KEY, sha256_file
from tests.conftest import recipe_of


def found(root: Path, count: int, cache: Path | None = None, seed: int = 0) -> dict[str, list[str]]:
    return {
        path: [f.problem for f in problems]
        for path, problems in rebuild(open_dataset(root), count, root, cache or root / ".cache", seed)
    }


def test_every_shard_of_a_dataset_is_the_same_when_computed_again(small: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*") if p.is_file()}
    paths = [shard.path for shard in open_dataset(small).manifest.shards()]
    again = found(small, len(paths))
    assert sorted(again) == sorted(paths)
    assert not any(again.values())
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*") if p.is_file()} == before  # nothing is written there


def test_the_choice_is_by_seed(small: Path) -> None:
    first = list(found(small, 2, seed=3))
    assert first == list(found(small, 2, seed=3))
    assert len(first) == 2
    assert first != list(found(small, 2, seed=4))


def forge(root: Path, table: str) -> str:
    """Change a value of a table and mend every checksum, the journal's too; returns the shard."""
    manifest = json.loads((root / "manifest.json").read_text())
    entry = manifest["tables"][table][0]
    place, old = root / entry["path"], entry["sha256"]
    rows = pq.ParquetFile(place).read()
    record = pq.read_metadata(place).metadata[METADATA_KEY]
    column = rows.schema.get_field_index("split" if table == "codes" else "reason")
    values = rows.column(column).to_pylist()
    values[0] = "forged"
    forged = rows.set_column(column, rows.schema.field(column), [values])
    pq.write_table(forged.replace_schema_metadata({METADATA_KEY: record}), place)
    new = {"sha256": sha256_file(place), "size": place.stat().st_size}
    entry |= new
    (root / "manifest.json").write_text(json.dumps(manifest))
    journal = root / ".binmill" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        for shard in line["shards"]:
            if shard["sha256"] == old:
                shard.update(new)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return entry["path"]


def test_a_forger_who_mends_every_checksum_is_found(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "forged"
    shutil.copytree(small, root)
    path = forge(root, "codes")
    again = found(root, 1000)
    assert [place for place, problems in again.items() if problems] == [path]
    assert "computed again, its SHA-256 is" in again[path][0]
    # What was made of a table depends on its bytes: to forge one is to forge all that follows.
    forge(root, "screening")
    with pytest.raises(DatasetError, match="1 new, 1 gone"):
        found(root, 1)


def test_without_partial_states_that_is_said(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(small, root)
    shutil.rmtree(root / ".binmill")
    with pytest.raises(DatasetError, match="is not kept"):
        found(root, 1)


def test_code_that_is_another_is_said(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.build.code_digest", lambda stage: "f" * 64 if stage == "split" else code_digest(stage))
    with pytest.raises(DatasetError, match=r"split\.\w+ is not what made this dataset: code: .* → ffffffffffff"):
        found(small, 1)


def test_tables_that_were_only_screened_or_rebalanced_are_computed_again(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(200, 3))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] > 0}), tmp_path / "t.parquet")
    recipe = {
        "name": "t", "sources": [{"kind": "table", "path": "t.parquet", "label_column": "y"}],
        "label": {"origin": "column"},
    }  # fmt: skip
    checked = check_recipe(recipe, "t")
    for name, stages in (("screened", SCREENING_ONLY), ("rebalanced", rebalancing_stages(checked))):
        with Journal(tmp_path / name, write=True) as journal:
            run_stages(Build(checked, tmp_path, tmp_path / name, tmp_path, InProcess(), journal), {}, stages)
        dataset = open_dataset(tmp_path / name)
        again = dict(rebuild(dataset, 100, tmp_path, tmp_path))
        assert len(again) == len(dataset.manifest.shards())
        assert not any(again.values())
    (tmp_path / "t.parquet").rename(tmp_path / "gone.parquet")
    with pytest.raises(BinmillError, match=r"t\.parquet"):
        list(rebuild(open_dataset(tmp_path / "screened"), 1, tmp_path, tmp_path))


def test_archives_that_are_gone_are_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a dataset that ends where its files were parsed."""
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "zip", corpus / "other"))
    pinned = {"url": archive.as_uri(), "sha256": sha256_file(archive)}
    checked = check_recipe(recipe_of(corpus, sources=[{"kind": "http", "files": [pinned]}]), "t")
    stages = stages_of(checked)[:2]
    monkeypatch.setattr("flows.rebuild.stages_of", lambda recipe: stages)
    root, cache = tmp_path / "dataset", tmp_path / "cache"
    with Journal(root, write=True) as journal:
        run_stages(Build(checked, tmp_path, root, cache, InProcess(), journal), {}, stages)
    archive.unlink()  # what is in the cache is enough
    again = found(root, 9, cache)
    assert {path.split("/")[1] for path in again} == {"sources", "observations", "binaries", "features"}
    assert not any(again.values())
    archive_path(cache, pinned["sha256"]).unlink()
    with pytest.raises(DatasetError, match=r"its input .* is gone"):
        found(root, 9, cache)


def test_the_command(small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["binmill", "verify", str(small), "--rebuild", "2", "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out)["rebuilt"] == 2
