"""`binmill screen`: any table, any number of rows and columns, the same scores however it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mutual_info_score

import tasks.screen.source
from flows.recipes import table_recipe
from flows.stages import SCREENING_ONLY, run_stages
from schemas.errors import RecipeError, SourceError
from schemas.manifest import Manifest
from tasks.build import Build, Executor, InProcess
from tasks.fanout import local_executor
from tasks.journal import Journal
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tasks.query.verify import verify
from tasks.shards import read_shard

ROWS = 1500


def screened(
    table: Path, outcome: str, root: Path, executor: Executor | None = None, /, *, seed: int = 0, **options: Any
) -> tuple[Manifest, list[dict[str, Any]]]:
    """Screen without Prefect: the manifest, and the table `screening`; computed items and notes in `run`."""
    exclude, only = options.pop("exclude", []), options.pop("only", [])
    recipe = table_recipe(table, outcome, "screening", options, [], exclude, only, seed)
    with Journal(root, write=True) as journal:
        build = Build(
            recipe=recipe, base=table.parent, root=root, cache=root / ".cache",
            executor=executor or InProcess(), journal=journal,
        )  # fmt: skip
        manifest = run_stages(build, {}, SCREENING_ONLY)
        computed = sum(count.items - count.present for count in build.counts)
    manifest = manifest.model_copy(update={"run": {"computed": computed, "notes": build.notes}})
    return manifest, read_shard(root, manifest.tables["screening"][0].path).to_pylist()


def columns() -> dict[str, Any]:
    """Columns of every kind, three classes, a quantity, and everything that makes other screeners fall over."""
    random = np.random.default_rng(7)
    y = random.integers(0, 3, ROWS)
    linear = (random.standard_normal(ROWS) + y).astype(np.float32)
    spotted = linear.copy()
    spotted[::7] = np.nan
    infinite = linear.copy()
    infinite[::50], infinite[1::50] = np.inf, -np.inf
    return {
        "linear": linear,
        "square": ((y - 1.0) * random.standard_normal(ROWS) * 3).astype(np.float32),
        "noise": random.standard_normal(ROWS).astype(np.float32),
        "few": random.poisson(1.0 + y).astype(np.int16),
        "bit": random.random(ROWS) < 0.1 + 0.2 * y,
        "text": pa.array([["red", "green", "blue", "grey", None][k] for k in (y + random.integers(0, 3, ROWS))]),
        "spotted": spotted,
        "infinite": infinite,
        "again": linear,
        "huge": linear.astype(np.float64) * 1e300,
        "tiny": linear.astype(np.float64) * 1e-300,
        "time": 1_700_000_000 + np.round(linear.astype(np.float64) * 10).astype(np.int64),
        "constant": np.full(ROWS, 3.5),
        "missing": pa.nulls(ROWS, pa.float32()),
        "class": pa.array([["p", "q", "r"][k] for k in y]),
        "quantity": y + random.standard_normal(ROWS),
    }


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screen") / "everything.parquet"
    pq.write_table(pa.table(columns()), path, row_group_size=200)
    return path


@pytest.fixture
def tall(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have tables read by parts of so many rows, as those beyond 65 536 rows are."""

    def cut(rows: int) -> None:
        monkeypatch.setattr(tasks.screen.source, "SHORT_ROWS", 1)
        monkeypatch.setattr(tasks.screen.source, "PART_BYTES", rows * 4 * 15)

    return cut


ALL_AT_ONCE: dict[str, Any] = {"permutations": 99, "stability": 10, "redundancy": "jmi", "top": 6, "candidates": 10}


@pytest.mark.parametrize("outcome", ["class", "quantity"])
@pytest.mark.parametrize("estimator", ["auto", "knn"])
def test_parts_of_any_size_give_the_same_bits(
    everything: Path, tmp_path: Path, tall: Callable[[int], None], outcome: str, estimator: str
) -> None:
    options: dict[str, Any] = ALL_AT_ONCE | {"estimator": estimator, "sample": 700}
    _, whole = screened(everything, outcome, tmp_path / "whole", **options)
    for rows in (400, 1000):
        tall(rows)
        _, parts = screened(everything, outcome, tmp_path / f"parts-{rows}", **options)
        assert parts == whole
    assert len(whole) == 15
    assert sum(row["selected"] for row in whole) == 6


@pytest.mark.parametrize("outcome", ["class", "quantity"])
def test_a_copy_by_columns_gives_the_same_bits(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    _, rows = screened(everything, outcome, tmp_path / "read", **ALL_AT_ONCE)
    monkeypatch.setattr(tasks.screen.source, "DEAR_COLUMNS", 5)
    monkeypatch.setattr(tasks.screen.source, "GATHERED", 7)
    manifest, copied = screened(everything, outcome, tmp_path / "copied", **ALL_AT_ONCE)
    assert copied == rows
    assert any((tmp_path / "copied" / ".binmill").rglob("*gathered*"))
    again, _ = screened(everything, outcome, tmp_path / "copied", **ALL_AT_ONCE)
    assert (again.digest, again.run["computed"]) == (manifest.digest, 0)


@pytest.mark.parametrize("outcome", ["class", "quantity"])
def test_no_column_depends_on_its_neighbours(everything: Path, tmp_path: Path, outcome: str) -> None:
    together = {"index", "q_value", "q_by", "stability", "redundancy", "rank", "selected"}
    options: dict[str, Any] = {"permutations": 99, "top": 20}
    _, rows = screened(everything, outcome, tmp_path / "all", **options)
    for row in rows:
        _, alone = screened(everything, outcome, tmp_path / row["feature"], **options, only=[row["feature"]])
        assert len(alone) == 1
        for name in set(row) - together:
            assert alone[0][name] == row[name], (row["feature"], name)


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_dataset(
    everything: Path, tmp_path: Path, tall: Callable[[int], None]
) -> None:
    tall(400)
    alone, _ = screened(everything, "class", tmp_path / "alone", **ALL_AT_ONCE)
    for workers in (1, 2):
        with local_executor(workers) as executor:
            found, _ = screened(everything, "class", tmp_path / f"{workers}", executor, **ALL_AT_ONCE)
        assert found.digest == alone.digest
    again, _ = screened(everything, "class", tmp_path / "alone", **ALL_AT_ONCE)
    assert again.run["computed"] == 0


@pytest.mark.parametrize("outcome", ["class", "quantity"])
def test_every_kind_of_column_has_a_score_or_a_reason(everything: Path, tmp_path: Path, outcome: str) -> None:
    manifest, rows = screened(everything, outcome, tmp_path / "out", top=20)
    by_name = {row["feature"]: row for row in rows}
    assert {name: row["kind"] for name, row in by_name.items() if name not in {"class", "quantity"}} == {
        "linear": "continuous", "square": "continuous", "noise": "continuous", "few": "discrete", "bit": "binary",
        "text": "categorical", "spotted": "continuous", "infinite": "continuous", "again": "continuous",
        "huge": "continuous", "tiny": "continuous", "time": "continuous", "constant": "constant",
        "missing": "missing",
    }  # fmt: skip
    assert by_name["missing"]["score"] is None
    assert by_name["missing"]["reason"] == "all values missing"
    assert by_name["constant"]["score"] == 0
    assert by_name["constant"]["reason"] == "constant"
    for row in rows:
        assert (row["reason"] is None) == (row["kind"] not in {"constant", "missing"})
        assert row["n"] + row["missing"] == ROWS
        if row["reason"] is None:
            assert row["score"] is not None
            assert row["mi_binned"] > 0
    assert by_name["spotted"]["missing"] == len(range(0, ROWS, 7))
    assert by_name["infinite"]["infinite"] == 2 * ROWS // 50
    # Equal columns have equal scores, scaled ones as well, and times keep what float32 would lose.
    same = ("score", "mi_binned", "mi_kde", "mi_pearson", "p_value")
    assert [by_name["again"][name] for name in same] == [by_name["linear"][name] for name in same]
    for name in ("huge", "tiny", "time"):
        assert by_name[name]["mi_binned"] == pytest.approx(by_name["linear"]["mi_binned"], rel=0.1)
        assert by_name[name]["mi_kde"] == pytest.approx(by_name["linear"]["mi_kde"], rel=0.02)
        assert by_name[name]["pearson"] == pytest.approx(by_name["linear"]["pearson"], rel=0.01)
    assert by_name["noise"]["rank"] > by_name["linear"]["rank"]
    if outcome == "class":
        assert by_name["square"]["score"] > 10 * by_name["noise"]["score"]
    dataset = open_dataset(tmp_path / "out")
    assert [finding for _, found in verify(dataset) for finding in found] == []
    assert (tmp_path / "out" / "screening.svg").read_bytes().startswith(b"<?xml")
    assert manifest.run["notes"] == []


def test_scores_are_those_of_other_libraries(everything: Path, tmp_path: Path) -> None:
    _, rows = screened(everything, "class", tmp_path / "class")
    dataset = open_dataset(tmp_path / "class")
    edges = {r["feature"]: r["edges"] for r in query(dataset, "SELECT feature, edges FROM fitted_bins").to_pylist()}
    data = columns()
    labels = data["class"].to_pylist()
    for row in rows:
        if row["feature"] in {"linear", "square", "noise", "few", "bit"}:
            values = np.asarray(data[row["feature"]]).astype(np.float32)
            bins = np.digitize(values, np.array(edges[row["feature"]], dtype=np.float32))
            assert row["mi_binned"] == pytest.approx(mutual_info_score(bins, labels), abs=1e-12)
        if row["feature"] == "text":
            known = [(v, label) for v, label in zip(data["text"].to_pylist(), labels, strict=True) if v is not None]
            assert row["mi_binned"] == pytest.approx(mutual_info_score(*zip(*known, strict=True)), abs=1e-12)
    _, rows = screened(everything, "quantity", tmp_path / "quantity")
    for row in rows:
        if row["feature"] in {"linear", "noise", "huge"}:
            expected: Any = pearsonr(np.asarray(data[row["feature"]], dtype=np.float64), data["quantity"])
            assert row["pearson"] == pytest.approx(expected.statistic, abs=1e-6)


def test_every_format_gives_the_same_scores(tmp_path: Path) -> None:
    numbers = {k: v for k, v in columns().items() if k in {"linear", "few", "spotted", "square"}}
    numbers["label"] = np.asarray(columns()["quantity"]) > 1
    table = pa.table(
        {name: pa.array(np.asarray(v).astype(np.float64), from_pandas=True) for name, v in numbers.items()}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    pyarrow.feather.write_feather(table, tmp_path / "t.arrow", compression="uncompressed")
    np.save(tmp_path / "t.npy", np.stack([column.to_numpy() for column in table.columns], axis=1))
    (tmp_path / "folder").mkdir()
    for part, start in enumerate(range(0, ROWS, 400)):
        pq.write_table(table.slice(start, 400), tmp_path / "folder" / f"{part}.parquet")
    found = {}
    for name in ("t.parquet", "t.csv", "t.arrow", "t.npy", "folder"):
        outcome = "c4" if name == "t.npy" else "label"
        _, rows = screened(tmp_path / name, outcome, tmp_path / f"out-{name}")
        found[name] = [(row["kind"], row["score"], row["mi_kde"], row["pearson"], row["q_value"]) for row in rows]
        assert [row["feature"] for row in rows] == (
            ["c0", "c1", "c2", "c3"] if name == "t.npy" else table.column_names[:4]
        )
    assert all(rows == found["t.parquet"] for rows in found.values())


def test_a_wide_table_in_one_list_column(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((300, 1300)).astype(np.float32)
    y = x[:, 700] + 0.3 * random.standard_normal(300)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 1300)
    pq.write_table(pa.table({"voxels": lists, "age": y}), tmp_path / "wide.parquet", row_group_size=64)
    pq.write_table(pa.table({f"voxels[{i}]": x[:, i] for i in range(1300)} | {"age": y}), tmp_path / "columns.parquet")
    _, rows = screened(tmp_path / "wide.parquet", "age", tmp_path / "out", max_q=0.01)
    _, same = screened(tmp_path / "columns.parquet", "age", tmp_path / "out2", max_q=0.01)
    best = min(rows, key=lambda row: row["rank"])
    assert (best["feature"], best["group"], best["index"]) == ("voxels[700]", "voxels", 700)
    assert [row["feature"] for row in rows if row["selected"]] == ["voxels[700]"]
    assert [row | {"group": ""} for row in rows] == [row | {"group": ""} for row in same]


def test_genotypes_of_plink(tmp_path: Path) -> None:
    bed_reader = pytest.importorskip("bed_reader")
    random = np.random.default_rng(5)
    genotypes = random.integers(0, 3, (400, 30)).astype(np.float32)
    genotypes[random.random(genotypes.shape) < 0.02] = np.nan
    phenotype = np.where(np.nan_to_num(genotypes[:, 4]) + random.random(400) > 1.5, 2, 1)
    bed_reader.to_bed(
        tmp_path / "g.bed",
        genotypes,
        properties={"pheno": [str(v) for v in phenotype], "sid": [f"rs{i}" for i in range(30)]},
    )
    _, rows = screened(tmp_path / "g.bed", "phenotype", tmp_path / "out", max_q=0.01)
    assert len(rows) == 30
    assert [row["feature"] for row in rows if row["selected"]] == ["rs4"]
    assert {row["kind"] for row in rows} == {"discrete"}
    for j in (4, 7):
        there = ~np.isnan(genotypes[:, j])
        expected = mutual_info_score(genotypes[there, j], phenotype[there])
        assert rows[j]["mi_binned"] == pytest.approx(expected, abs=1e-12)
        assert rows[j]["missing"] == (~there).sum()


def test_rows_without_an_outcome_are_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal(500)
    y = np.where(random.random(500) < 0.2, np.nan, x + random.standard_normal(500))
    pq.write_table(pa.table({"x": x, "y": pa.array(y, from_pandas=True)}), tmp_path / "t.parquet")
    there = ~np.isnan(y)
    pq.write_table(pa.table({"x": x[there], "y": y[there]}), tmp_path / "there.parquet")
    _, some = screened(tmp_path / "t.parquet", "y", tmp_path / "a")
    _, alone = screened(tmp_path / "there.parquet", "y", tmp_path / "b")
    assert some[0]["n"] == there.sum()
    assert some == alone


@pytest.mark.parametrize(
    ("estimator", "without"),
    [("binned", set()), ("kde", {"text"}), ("knn", {"text"}), ("pearson", {"text"}), ("sparse", None)],
)
@pytest.mark.parametrize("outcome", ["class", "quantity"])
def test_each_estimator_ranks_by_itself(
    everything: Path, tmp_path: Path, estimator: str, without: set[str] | None, outcome: str
) -> None:
    _, rows = screened(everything, outcome, tmp_path / "out", estimator=estimator)
    by_name = {row["feature"]: row for row in rows}
    usable = {"bit"} if without is None else set(by_name) - without - {"missing", "constant", "class", "quantity"}
    for name in usable:
        assert by_name[name]["estimator"] == estimator
        assert by_name[name]["mi"] is not None
        assert by_name[name]["reason"] is None
    assert by_name["constant"]["score"] == 0
    for name in set(by_name) - usable - {"constant", "class", "quantity"}:
        assert by_name[name]["score"] is None
        assert by_name[name]["reason"]
        assert not by_name[name]["selected"]
    if estimator != "sparse":
        assert by_name["linear"]["score"] > 0.03 > by_name["noise"]["score"]


def test_selection_by_rank_by_q_and_by_share(everything: Path, tmp_path: Path) -> None:
    def names(**options: Any) -> list[str]:
        _, rows = screened(everything, "class", tmp_path / json.dumps(options), exclude=["quantity"], **options)
        return [row["feature"] for row in sorted(rows, key=lambda row: row["rank"] or 99) if row["selected"]]

    every = names(top=99)
    assert "noise" in every
    assert "noise" not in names(top=99, max_q=0.001)
    assert names(top=3) == every[:3]
    half = names(top=99, share=0.5)
    assert half == every[: len(half)]
    assert 0 < len(half) < len(every)
    spread = names(top=4, redundancy="mrmr")
    # `linear` is there seven times in one dress or another: one is enough for some places.
    assert spread != names(top=4)


def test_bandwidth_kernel_and_binning_take_effect(everything: Path, tmp_path: Path) -> None:
    def value(name: str, **options: Any) -> float:
        place = tmp_path / json.dumps(options)
        return next(r[name] for r in screened(everything, "class", place, **options)[1] if r["feature"] == "linear")

    by_kde = [
        value("mi_kde", **options)
        for options in ({}, {"bandwidth": "scott"}, {"bandwidth": "isj"}, {"bandwidth": 0.05}, {"kernel": "box"})
    ]
    assert len(set(by_kde)) == 5
    assert max(by_kde) - min(by_kde) < 0.3
    assert value("mi_binned") != value("mi_binned", binning="uniform")


def test_what_changes_decides_what_is_computed_again(
    everything: Path, tmp_path: Path, tall: Callable[[int], None]
) -> None:
    tall(400)
    first, _ = screened(everything, "class", tmp_path / "out")
    changed, _ = screened(everything, "class", tmp_path / "out", top=3)
    assert changed.run["computed"] < first.run["computed"] / 2
    other, _ = screened(everything, "quantity", tmp_path / "out")
    assert other.run["computed"] > changed.run["computed"]


def test_columns_that_are_no_features_are_told(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    lists = pa.array([[1, 2], [3]] * 100)
    names = pa.array([f"row {i}" for i in range(200)])
    pq.write_table(
        pa.table({"lists": lists, "x": random.standard_normal(200), "id": names, "y": random.integers(0, 2, 200)}),
        tmp_path / "t.parquet",
    )
    manifest, rows = screened(tmp_path / "t.parquet", "y", tmp_path / "out", exclude=["id"])
    assert [row["feature"] for row in rows] == ["x"]
    assert len(manifest.run["notes"]) == 1
    assert "'lists' is no feature" in manifest.run["notes"][0]


@pytest.mark.parametrize(
    ("data", "outcome", "options", "problem"),
    [
        ({"x": [1.0, 2.0], "y": [1, 1]}, "y", {}, "two classes"),
        ({"x": [1.0, 2.0], "y": [1.5, 1.5]}, "y", {"outcome": "continuous"}, "no two different values"),
        ({"x": [1.0, 2.0], "y": ["a", "b"]}, "y", {"outcome": "continuous"}, "not numbers"),
        ({"x": [1.0, 2.0], "y": [1, 2]}, "z", {}, "no column 'z'"),
        ({"y": [1, 2]}, "y", {}, "feature"),
        ({"x": list(range(300)), "y": [str(i) for i in range(300)]}, "y", {}, "300 classes"),
        ({"x": pa.array([], pa.float32()), "y": pa.array([], pa.int8())}, "y", {}, "no rows"),
    ],
)
def test_what_cannot_be_screened_says_why(
    tmp_path: Path, data: dict[str, Any], outcome: str, options: dict[str, Any], problem: str
) -> None:
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    with pytest.raises((RecipeError, SourceError), match=problem) as error:
        screened(tmp_path / "t.parquet", outcome, tmp_path / "out", **options)
    assert error.value.remedy


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not there"):
        screened(tmp_path / "nothing.parquet", "y", tmp_path / "out")
