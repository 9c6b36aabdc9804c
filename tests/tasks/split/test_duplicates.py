"""Near-duplicates planted across projects: kept together where the recipe says so, counted where it does not."""

import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.recipes import check_recipe
from flows.stages import STAGES
from schemas.tables import SPLITS
from tasks.build import Build, InProcess
from tasks.items import Receipt
from tasks.journal import Journal
from tests.conftest import Mill, recipe_of
from tests.tasks.split.test_near import plain_distance

PLANTED = 14


@pytest.fixture(scope="module")
def planted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, with changed copies of some files: another project each, other bytes and features."""
    root = tmp_path_factory.mktemp("planted") / "corpus"
    shutil.copytree(corpus, root)
    rng = np.random.default_rng(5)
    for path in sorted((corpus / "science").iterdir())[:PLANTED]:
        data = bytearray(path.read_bytes())
        for place in rng.integers(len(data) // 2, len(data), 40).tolist():
            data[place] ^= 1
        (root / "science" / f"copy-{path.name}").write_bytes(bytes(data + b"\0" * 64))
    return root


def split_of(corpus: Path, root: Path, **changes: Any) -> tuple[Receipt, list[dict[str, Any]], list[str], Any]:
    """Run the stages up to the split: its receipt, its rows, what was noted, and the binaries."""
    with Journal(root, write=True) as journal:
        build = Build(
            recipe=check_recipe(recipe_of(corpus, **changes), "test"),
            base=root, root=root, cache=root / ".cache", executor=InProcess(), journal=journal,
        )  # fmt: skip
        for name, stage in STAGES:
            stage(build)
            if name == "split":
                break
        receipt = build.receipts["split.splits"][0]
        paths = [root / shard.path for shard in build.shards("extract.features", "binaries")]
    rows = [row for shard in receipt.shards for row in pq.ParquetFile(root / shard.path).read().to_pylist()]
    binaries = pa.concat_tables([pq.ParquetFile(path).read(["sha256", "tlsh"]) for path in paths])
    return receipt, rows, build.notes, binaries


def counts(receipt: Receipt, kind: str, limit: float | None) -> dict[tuple[str, str], tuple[int, int]]:
    found = [line for line in receipt.facts["leakage"] if (line["kind"], line["limit"]) == (kind, limit)]
    return {(line["earlier"], line["later"]): (line["rows"], line["pairs"]) for line in found}


def test_planted_near_duplicates_are_kept_together_or_counted(planted: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    receipt, rows, _, binaries = split_of(planted, root, dedup={"by": ["sha256", "features"]})
    digest = dict(zip(binaries["sha256"].to_pylist(), binaries["tlsh"].to_pylist(), strict=True))
    split = {row["sample_id"]: row["split"] for row in rows}
    near = [(a, b) for a, b in combinations(split, 2) if plain_distance(digest[a], digest[b]) <= 30]
    torn = [pair for pair in near if split[pair[0]] != split[pair[1]]]
    assert len(torn) >= 3, "the planted copies all fell into the split of their originals"
    # Off: counted in the report, marked in the rows, and clustered all the same.
    place = {name: i for i, name in enumerate(SPLITS)}
    later = {max(pair, key=lambda sample: place[split[sample]]) for pair in torn}
    assert {row["sample_id"] for row in rows if "tlsh" in row["leaks"]} == later
    found = counts(receipt, "tlsh", 30)
    assert sum(pairs for _, pairs in found.values()) == len(torn)
    for earlier, behind in found:
        between = [p for p in torn if {split[p[0]], split[p[1]]} == {earlier, behind}]
        ends = {sample for pair in between for sample in pair if split[sample] == behind}
        assert found[earlier, behind] == (len(ends), len(between))
    assert any("strings" in row["leaks"] for row in rows)
    cluster = {row["sample_id"]: row["tlsh_cluster"] for row in rows}
    assert all(cluster[a] == cluster[b] <= min(a, b) for a, b in near)
    assert all(row["cluster_id"] == row["features_cluster"] for row in rows)
    # On: no pair is torn, and nothing of these kinds is left to count.
    receipt, rows, _, _ = split_of(planted, root, dedup={"by": ["sha256", "features", "tlsh", "imports", "strings"]})
    split = {row["sample_id"]: row["split"] for row in rows}
    group = {row["sample_id"]: row["group_id"] for row in rows}
    assert all(split[a] == split[b] and group[a] == group[b] for a, b in near)
    whole = [line for line in receipt.facts["leakage"] if line["kept_whole"]]
    assert {line["kind"] for line in whole} == {"sha256", "project", "features", "tlsh", "imports", "strings"}
    assert all(line["rows"] == 0 and not line["pairs"] for line in whole)
    assert not any({"features", "tlsh", "imports", "strings"} & set(row["leaks"]) for row in rows)
    for row in rows:
        kinds = ("features", "tlsh", "imports", "strings")
        assert row["cluster_id"] <= min(row[f"{kind}_cluster"] or row["sample_id"] for kind in kinds)


def test_neither_shards_nor_their_order_show_in_the_clusters(planted: Path, tmp_path: Path) -> None:
    _, rows, _, _ = split_of(planted, tmp_path / "a", publishing={"shard_files": 20})
    _, other, _, _ = split_of(planted, tmp_path / "b", publishing={"shard_files": 7})
    key = lambda row: row["sample_id"]  # noqa: E731
    assert sorted(rows, key=key) == sorted(other, key=key)


def test_a_giant_cluster_is_told_of(planted: Path, tmp_path: Path) -> None:
    _, _, notes, _ = split_of(planted, tmp_path / "out", dedup={"by": ["tlsh"], "tlsh_distance": 300})
    assert any("'tlsh' joins most of them" in note for note in notes)


def test_card_and_manifest_show_what_is_shared(small: Path) -> None:
    text = (small / "README.md").read_text(encoding="utf-8")
    assert "## Duplicates and leakage" in text
    assert "| near bytes (TLSH distance) | 30 | 0 | 0 | 0 | yes |" in text
    assert "| near imports (Jaccard index, by MinHash) | 0.9 |" in text


def test_tables_have_no_near_duplicates(mill: Mill, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    x[50:] = x[:10]
    pq.write_table(pa.table({f"c{i}": x[:, i] for i in range(3)} | {"y": [0, 1] * 30}), tmp_path / "t.parquet")
    source = {"kind": "table", "path": str(tmp_path / "t.parquet"), "label_column": "y"}
    recipe = recipe_of(tmp_path, sources=[source], label={"origin": "column"}, dedup={"by": ["features", "tlsh"]})
    manifest = mill(recipe | {"screening": {"top": 3}, "binarizing": {"dimensions": 2}}, tmp_path / "out")
    found = manifest.summary["duplicates"]
    assert found["clusters"] == {key: {"clusters": 10, "samples": 20, "largest": 2} for key in ("all", "features")}
    assert {line["kind"] for line in found["leakage"]} == {"sha256", "project", "features"}
