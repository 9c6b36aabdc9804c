"""Earlier datasets of a folder: kept whole, readable, bounded; and the difference of two."""

import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.plan import plan_dataset
from flows.recipes import check_recipe
from flows.stores import opened
from schemas.errors import DatasetError
from tasks.query.diff import diff
from tasks.query.sql import query
from tasks.query.verify import verify
from tasks.versions import keep, prune, version_at, versions
from tests.conftest import Mill, recipe_of

COUNT = "SELECT count(*) n FROM binaries"


@pytest.fixture(scope="module")
def grown(corpus: Path, mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A dataset of a part of the corpus, then with another source, then screened otherwise."""
    root = tmp_path_factory.mktemp("grown")
    first, second = root / "first", root / "second"
    for label in ("science", "other"):
        (first / label).mkdir(parents=True)
        (second / label).mkdir(parents=True)
        files = sorted((corpus / label).iterdir())
        for number, path in enumerate(files):
            shutil.copy(path, (second if number % 4 == 3 else first) / label / path.name)
    recipe = recipe_of(first)
    more = recipe | {"sources": [*recipe["sources"], recipe["sources"][0] | {"path": str(second)}]}
    fewer = more | {"screening": {"top": 8}}
    manifests = [mill(r, root / "data") for r in (recipe, more, fewer)]
    return {"root": root / "data", "recipes": (recipe, more, fewer), "manifests": manifests}


def test_earlier_versions_are_datasets_that_verify(grown: dict[str, Any]) -> None:
    there = versions(grown["root"])
    assert [v.manifest.digest for v in there] == [m.digest for m in reversed(grown["manifests"])]
    assert [v.current for v in there] == [True, False, False]
    for version in there:
        dataset = opened(grown["root"], version.manifest.digest[:10])
        assert dataset.root == version.root
        assert [found for _, wrong in verify(dataset) for found in wrong] == []
        rows = sum(shard.rows for shard in version.manifest.tables["binaries"])
        assert query(dataset, COUNT).to_pylist() == [{"n": rows}]
        # Others read it without binmill, as any dataset.
        found = duckdb.sql(f"SELECT count(*) FROM '{version.root}/tables/binaries/*.parquet'").fetchone()
        assert found == (rows,)
    assert opened(grown["root"], "previous").manifest.digest == grown["manifests"][1].digest


def test_what_versions_share_is_on_disk_once(grown: dict[str, Any]) -> None:
    now, before, _ = versions(grown["root"])
    shared = {s.path for s in now.manifest.shards()} & {s.path for s in before.manifest.shards()}
    assert any(path.startswith("tables/features") for path in shared)
    for path in shared:
        assert (now.root / path).samefile(before.root / path)


def test_a_source_more_computes_only_what_depends_on_it(grown: dict[str, Any]) -> None:
    first, more, fewer = grown["manifests"]
    for table in ("binaries", "features", "observations"):
        assert {s.path for s in first.tables[table]} < {s.path for s in more.tables[table]}
    # Another number of features to keep: nothing before the selection is computed.
    for table in ("binaries", "features", "labels", "splits"):
        assert more.tables[table] == fewer.tables[table]
    assert more.tables["screening"] != fewer.tables["screening"]


def test_plan_says_what_and_why(grown: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(grown["root"], root)
    fewer = grown["recipes"][2]

    def planned(recipe: dict[str, Any]) -> Any:
        return plan_dataset(check_recipe(recipe, "test"), root, root, root / ".cache")

    assert planned(fewer).finished
    less = planned(fewer | {"screening": {"top": 5}})
    assert not less.finished
    assert any("screening" in why or "top: 8 → 5" in why for why in less.why), less.why
    assert less.later == ("rebalance", "binarize")
    other = tmp_path / "other"
    (other / "science").mkdir(parents=True)
    shutil.copy(next((tmp_path / "data").rglob("*.parquet")), other / "science" / "not-a-binary")
    source = fewer["sources"][0] | {"path": str(other)}
    new = planned(fewer | {"sources": [*fewer["sources"], source]})
    assert new.counts[-1].stage == "ingest"
    assert new.counts[-1].items - new.counts[-1].present == 1
    assert list(new.why) == ["new or changed inputs"], new.why
    shard = next(s for s in grown["manifests"][2].tables["features"])
    (root / shard.path).unlink()
    damaged = planned(fewer)
    assert damaged.counts[-1].stage == "extract"
    assert damaged.why == {"its shard is missing or damaged": 1}
    never = plan_dataset(check_recipe(fewer, "test"), root, tmp_path / "never", root / ".cache")
    assert list(never.why) == ["never computed here"]


def test_diff_explains_a_source_more(grown: dict[str, Any]) -> None:
    first, more = (opened(grown["root"], m.digest[:12]) for m in grown["manifests"][:2])
    found = diff(first, more)
    assert not found.same
    assert [line.partition(":")[0] for line in found.recipe] == ["sources"]
    tables = {change.table: change for change in found.tables}
    old, new = (sum(s.rows for s in m.tables["binaries"]) for m in grown["manifests"][:2])
    assert (tables["binaries"].before, tables["binaries"].after) == (old, new)
    # Held against DuckDB's own difference of the two tables.
    paths = [f"'{d.root}/tables/binaries/*.parquet'" for d in (first, more)]
    added = duckdb.sql(f"SELECT sha256 FROM {paths[1]} EXCEPT SELECT sha256 FROM {paths[0]}").fetchall()
    assert (tables["binaries"].gone, tables["binaries"].new) == (0, len(added))
    assert set(tables["binaries"].new_such_as) <= {row[0] for row in added}
    assert tables["binaries"].changed == 0
    moved = duckdb.sql(
        f"SELECT count(*) FROM '{first.root}/tables/splits/*.parquet' a JOIN '{more.root}/tables/splits/*.parquet' b "
        "USING (sample_id) WHERE a.split IS DISTINCT FROM b.split"
    ).fetchone()
    assert moved is not None
    assert sum(move.rows for move in found.splits) == moved[0]
    assert found.labels == ()
    assert found.scores
    back = diff(more, first)
    assert {c.table: (c.gone, c.new, c.changed) for c in back.tables} == {
        c.table: (c.new, c.gone, c.changed) for c in found.tables
    }


def test_diff_explains_another_setting(grown: dict[str, Any]) -> None:
    found = diff(opened(grown["root"], "previous"), opened(grown["root"]))
    assert found.recipe == ("screening.top: 16 → 8",)
    assert {change.table for change in found.tables} >= {"screening", "train"}
    assert not {"binaries", "features", "labels", "splits"} & {change.table for change in found.tables}
    gone = [s for s in found.scores if s.selected_before and not s.selected_after]
    assert len(gone) == 8
    assert all(s.mi_before == s.mi_after for s in gone)
    train = next(change for change in found.tables if change.table == "train")
    assert len(train.columns_gone) == 8
    assert any("top" in text for changes in found.steps.values() for text in changes.values())


def test_diff_sees_a_changed_label(grown: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(grown["root"], root, ignore=shutil.ignore_patterns(".binmill"))
    shard = grown["manifests"][2].tables["labels"][0]
    table = pq.read_table(root / shard.path)
    labels = table.column("label").to_pylist()
    labels[0] = "wrong"
    changed = table.set_column(table.schema.get_field_index("label"), table.schema.field("label"), [labels])
    record = pq.read_metadata(root / shard.path).metadata
    pq.write_table(changed.replace_schema_metadata(record), root / shard.path)
    text = (root / "manifest.json").read_text().replace(shard.sha256, "0" * 64)
    (root / "manifest.json").write_text(text)
    found = diff(opened(grown["root"]), opened(root))
    assert [(m.after, m.rows) for m in found.labels] == [("wrong", 1)]
    assert found.labels[0].such_as == table.column("sample_id")[0].as_py()
    change = next(c for c in found.tables if c.table == "labels")
    assert (change.gone, change.new, change.changed) == (0, 0, 1)


def test_a_dataset_is_the_same_as_itself(small: Path) -> None:
    found = diff(opened(small), opened(small))
    assert found.same
    assert (found.recipe, found.tables, found.scores, dict(found.steps)) == ((), (), (), {})


def test_versions_are_bounded_and_pruned(grown: dict[str, Any], tmp_path: Path, mill: Mill) -> None:
    root = tmp_path / "data"
    shutil.copytree(grown["root"], root)
    recipe = grown["recipes"][2]
    mill(recipe | {"screening": {"top": 7}, "publishing": recipe["publishing"] | {"keep_versions": 2}}, root)
    assert [v.manifest.digest for v in versions(root)][1:] == [m.digest for m in grown["manifests"][:0:-1]]
    assert len(prune(root, 1)) == 1
    assert len(versions(root)) == 2
    assert prune(root, 1) == []
    prune(root, 0)
    assert [v.current for v in versions(root)] == [True]


def test_going_back_and_forth_keeps_each_once(grown: dict[str, Any], tmp_path: Path, mill: Mill) -> None:
    root = tmp_path / "data"
    shutil.copytree(grown["root"], root)
    digests = [m.digest for m in grown["manifests"]]
    mill(grown["recipes"][1], root)
    assert [v.manifest.digest for v in versions(root)] == [digests[1], digests[2], digests[0]]
    mill(grown["recipes"][2], root)
    assert [v.manifest.digest for v in versions(root)] == [digests[2], digests[1], digests[0]]


def test_keep_versions_is_not_part_of_what_a_dataset_is(grown: dict[str, Any], tmp_path: Path, mill: Mill) -> None:
    root = tmp_path / "data"
    shutil.copytree(grown["root"], root)
    recipe = grown["recipes"][2]
    found = mill(recipe | {"publishing": recipe["publishing"] | {"keep_versions": 9}}, root)
    assert found.digest == grown["manifests"][2].digest
    assert len(versions(root)) == 3


def test_a_damaged_dataset_is_not_kept(grown: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(grown["root"], root)
    manifest = versions(root)[0].manifest
    (root / manifest.tables["features"][0].path).unlink()
    assert not keep(root, manifest)
    assert len(versions(root)) == 3
    assert not list((root / ".binmill/versions").glob(".*"))


def test_without_hard_links_files_are_copied(
    grown: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise PermissionError("no hard links here")

    root = tmp_path / "data"
    shutil.copytree(grown["root"], root)
    monkeypatch.setattr(os, "link", no_links)
    assert keep(root, versions(root)[0].manifest)
    kept = max((root / ".binmill/versions").iterdir())
    assert [found for _, wrong in verify(opened(kept)) for found in wrong] == []


def test_unknown_versions_are_named(grown: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="no such version") as found:
        version_at(grown["root"], "ffffffffff")
    assert grown["manifests"][0].digest[:12] in found.value.remedy
    with pytest.raises(DatasetError, match="no such version"):
        version_at(grown["root"], "")
