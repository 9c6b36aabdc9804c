"""Trace: from any row of any table to archive, member, code, configuration and libraries."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.recipes import check_recipe
from flows.running import source_tree
from flows.stages import SCREENING_ONLY, run_stages
from schemas.errors import QueryError
from schemas.provenance import changes_since
from tasks import build as building
from tasks.build import BESIDE, Build, InProcess, code_digest
from tasks.journal import Journal
from tasks.query.dataset import Dataset, open_dataset
from tasks.query.sql import query
from tasks.query.trace import Trace, trace_row
from tasks.shards import read_provenance
from tests.conftest import Mill, recipe_of

TREE = {"commit": "c" * 40, "dirty": True}


def run(recipe: dict[str, Any], root: Path, tree: dict[str, Any]) -> Dataset:
    """Make a dataset with a checkout that is told."""
    with Journal(root, write=True) as journal:
        checked = check_recipe(recipe, "test")
        build = Build(checked, root, root, root / ".cache", InProcess(), journal)
        run_stages(build, {"tree": tree})
    return open_dataset(root)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> list[Path]:
    """Eight zips of the corpus' modules, of both labels each."""
    base = tmp_path_factory.mktemp("archives")
    found = [base / f"part-{number}.zip" for number in range(8)]
    for number, place in enumerate(found):
        with zipfile.ZipFile(place, "w") as archive:
            for label in ("science", "other"):
                for path in sorted((corpus / label).iterdir())[number::8]:
                    archive.write(path, f"{label}/{path.name}")
    return found


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory, corpus: Path, archives: list[Path]) -> Dataset:
    """A dataset of archives by URL, made by a checkout that was changed."""
    files = [{"url": path.as_uri(), "licence": "MIT"} for path in archives]
    recipe = recipe_of(corpus, sources=[{"kind": "http", "files": files}], dedup={"by": ["sha256"]})
    return run(recipe, tmp_path_factory.mktemp("zipped") / "dataset", TREE)


def sources_of(chain: Trace) -> list[dict[str, Any]]:
    """Rows of `sources` that a chain, or those of its parents, lead to."""
    here = [link.values for link in chain.links if link.table == "sources"]
    above = [row for link in chain.links for parent in link.derived_from for row in sources_of(parent)]
    return here + above + list(chain.learned_from.sources if chain.learned_from else ())


def test_any_row_of_any_table_leads_to_archives_and_code(zipped: Dataset, archives: list[Path]) -> None:
    sums = {hashlib.sha256(path.read_bytes()).hexdigest(): path.as_uri() for path in archives}
    manifest = zipped.manifest
    tables = {name: sum(shard.rows for shard in shards) for name, shards in manifest.tables.items()}
    tables |= {f"fitted_{name}": shard.rows for name, shard in manifest.fitted.items()}
    assert {"train", "codes", "screening", "sources", "observations", "fitted_scaler"} <= tables.keys()
    for table, rows in tables.items():
        for number in {0, rows // 2, rows - 1}:
            chain = trace_row(zipped, f"{table}:{number}")
            assert any(link.table == table for link in chain.links), (table, number)
            for link in chain.links:
                assert link.tree == TREE, (table, number)
                assert link.provenance["code"] == code_digest(link.provenance["stage"])
                assert link.provenance["libraries"]["pyarrow"] == pa.__version__
                assert "zstd_level" in link.provenance["config"]
            ends = sources_of(chain)
            assert ends, (table, number)
            assert all(sums[end["archive_sha256"]] == end["url"] for end in ends)


def test_a_synthetic_row_leads_to_the_members_of_its_parents(zipped: Dataset, archives: list[Path]) -> None:
    row = query(zipped, "SELECT * FROM train WHERE is_synthetic LIMIT 1").to_pylist()[0]
    chain = trace_row(zipped, row["sample_id"][:24])
    parents = chain.links[0].derived_from
    assert [parent.sample_id for parent in parents] == [row["parent_a"], row["parent_b"]]
    for parent in parents:
        places = [link.values for link in parent.links if link.table == "observations"]
        source = next(link.values for link in parent.links if link.table == "sources")
        archive = next(path for path in archives if path.as_uri() == source["url"])
        with zipfile.ZipFile(archive) as opened:  # the bytes are those that the id names
            member = opened.read(places[0]["path_in_source"])
        assert hashlib.sha256(member).hexdigest() == parent.sample_id


def test_what_was_learned_names_the_shards_and_sources_of_train_alone(zipped: Dataset) -> None:
    feature = query(zipped, "SELECT feature FROM screening WHERE rank = 1").to_pylist()[0]["feature"]
    learned = trace_row(zipped, feature).learned_from
    assert learned is not None
    features = {path for path in learned.shards if "/features/" in path}
    assert features == {shard.path for shard in zipped.manifest.tables["features"]}
    wanted = query(
        zipped, "SELECT DISTINCT source_id FROM observations JOIN splits ON sha256 = sample_id WHERE split = 'train'"
    )
    assert {source["source_id"] for source in learned.sources} == set(wanted["source_id"].to_pylist())
    assert learned.states > 10
    # Without the partial states what is known is said, and that more was read.
    copy = zipped.root.with_name("bare")
    shutil.copytree(zipped.root, copy, ignore=shutil.ignore_patterns(".binmill"))
    bare = trace_row(open_dataset(copy), feature).learned_from
    assert bare is not None
    assert bare.states == 0
    assert bare.sources == learned.sources
    assert set(bare.shards) < set(learned.shards)
    assert bare.outside


def test_rows_of_a_table_that_was_only_screened_lead_to_it(mill: Mill, tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(200, 3))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] > 0}), tmp_path / "t.parquet")
    recipe = {
        "name": "t", "sources": [{"kind": "table", "path": str(tmp_path / "t.parquet"), "label_column": "y"}],
        "label": {"origin": "column"},
    }  # fmt: skip
    with Journal(tmp_path / "out", write=True) as journal:
        build = Build(check_recipe(recipe, "t"), tmp_path, tmp_path / "out", tmp_path, InProcess(), journal)
        run_stages(build, {}, SCREENING_ONLY)
    learned = trace_row(open_dataset(tmp_path / "out"), "a").learned_from
    assert learned is not None
    assert learned.sources == ({"kind": "table", "path": str(tmp_path / "t.parquet")},)
    assert hashlib.sha256((tmp_path / "t.parquet").read_bytes()).hexdigest() in learned.outside


def test_rows_that_are_not_there_are_refused(zipped: Dataset) -> None:
    for what in ("train:99999", "nothing:0", "fitted_nothing:0", "no-such-feature", ""):
        with pytest.raises(QueryError):
            trace_row(zipped, what)


def test_a_journal_that_leads_elsewhere_is_not_followed(zipped: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "dataset"
    shutil.copytree(zipped.root, copy)
    journal = copy / ".binmill" / "journal.jsonl"
    stray = tmp_path / "stray.parquet"
    shutil.copy(zipped.paths("train")[0], stray)
    wanted = read_provenance(zipped.fitted("scaler"))["inputs"]
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        for shard in line["shards"]:
            if shard["sha256"] in wanted and shard["path"].startswith(".binmill"):
                shard["path"] = ".binmill/work/../../../stray.parquet"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    learned = trace_row(open_dataset(copy), "fitted_scaler:0").learned_from
    assert learned is not None
    assert set(wanted) & set(learned.outside)


def test_the_commit_that_made_the_shards_stays_when_another_runs(zipped: Dataset, corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(zipped.root, root)
    recipe = zipped.manifest.recipe | {"publishing": zipped.manifest.recipe["publishing"] | {"title": "Another"}}
    again = run(recipe, root, {"commit": "d" * 40, "dirty": False})
    assert again.manifest.digest != zipped.manifest.digest
    assert again.manifest.run["tree"]["commit"] == "d" * 40
    assert trace_row(again, "train:0").links[0].tree == TREE


def test_the_checkout_is_known_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "checkout"
    (repository / "flows").mkdir(parents=True)
    (repository / "flows" / "dataset.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", repository, *command], check=True)
    monkeypatch.setattr("flows.running.__file__", str(repository / "flows" / "running.py"))
    found = source_tree()
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    (repository / "flows" / "dataset.py").write_text("x = 1\n")
    assert source_tree() == found | {"dirty": True}


def test_the_command_shows_commit_libraries_and_archive(
    zipped: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in ("codes:0", "screening:0"):
        monkeypatch.setattr("sys.argv", ["binmill", "trace", str(zipped.root), row])
        with pytest.raises(SystemExit, match="0"):
            main()
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "commit cccccccccccc (changed)" in shown
        assert f"pyarrow {pa.__version__}" in shown
        assert "archives0/part-" in shown.replace(" ", "")


def test_what_changed_between_two_records_is_said(zipped: Dataset) -> None:
    record = read_provenance(zipped.paths("codes")[0])
    assert changes_since(record, record) == {}
    # What a run would write has tuples where JSON has lists.
    assert changes_since(record, record | {"inputs": tuple(record["inputs"])}) == {}
    other = record | {
        "code": "f" * 64, "seed": 7, "config": record["config"] | {"zstd_level": 9},
        "inputs": ["0" * 64, *record["inputs"][1:]], "libraries": record["libraries"] | {"numpy": "3.0"},
    }  # fmt: skip
    found = changes_since(record, other)
    assert list(found) == ["code", "config", "inputs", "libraries", "seed"]
    assert found["config"] == "zstd_level: 3 → 9"
    assert found["inputs"] == "1 new, 1 gone"
    assert found["libraries"] == f"numpy: {np.__version__} → 3.0"
    assert changes_since(record, record | {"inputs": record["inputs"][::-1]}) == {"inputs": "in another order"}


def test_code_that_decides_only_where_work_is_done_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(building.__file__).parent
    for name in ("tasks", "schemas"):
        shutil.copytree(here.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(building, "__file__", str(tmp_path / "tasks" / "build.py"))
    assert all((tmp_path / "tasks" / name).is_file() for name in BESIDE)

    def digest_after(path: str) -> str:
        place = tmp_path / path
        text = place.read_text(encoding="utf-8")
        place.write_text(text + "\n# another\n", encoding="utf-8")
        code_digest.cache_clear()
        found = code_digest("screen")
        place.write_text(text, encoding="utf-8")
        code_digest.cache_clear()
        return found

    code_digest.cache_clear()
    before = code_digest("screen")
    assert all(digest_after(f"tasks/{name}") == before for name in BESIDE)
    assert digest_after("tasks/publish/task.py") == before
    assert digest_after("tasks/shards.py") != before
    assert digest_after("tasks/screen/task.py") != before
