"""`binmill rebalance`: any table, its types kept, the same rows however it is cut, each computed again."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import tasks.rebalance.rebalancing
from flows.recipes import check_recipe, table_recipe
from flows.stages import rebalancing_stages, run_stages
from schemas.errors import BinmillError
from schemas.manifest import Manifest
from tasks.build import Build, Executor, InProcess
from tasks.fanout import local_executor
from tasks.journal import Journal
from tasks.query.dataset import open_dataset
from tasks.query.synthetic import wrong_rows
from tasks.query.trace import trace
from tasks.query.verify import verify
from tests.tasks.rebalance.test_rebalance_stage import Shuffled

ROWS = 600
FIXED = ["sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap"]


def columns(*, names: bool = True) -> dict[str, Any]:
    """Columns of every type that a training table may have, and a label of three classes."""
    random = np.random.default_rng(5)
    y = random.choice(3, ROWS, p=[0.75, 0.18, 0.07])
    found: dict[str, Any] = {
        "double": pa.array(random.standard_normal(ROWS) * 1e-9 + y),
        "float": pa.array((random.standard_normal(ROWS) + y).astype(np.float32)),
        "half": pa.array(random.standard_normal(ROWS).astype(np.float16)),
        "int64": pa.array(random.integers(-(2**62), 2**62, ROWS)),
        "uint8": pa.array(random.integers(0, 256, ROWS).astype(np.uint8)),
        "int16": pa.array((random.integers(-5, 5, ROWS) + y).astype(np.int16)),
        "flag": pa.array(random.random(ROWS) < 0.3 + 0.2 * y),
        "list": pa.FixedSizeListArray.from_arrays(pa.array(random.random(2 * ROWS).astype(np.float32)), 2),
    }
    if names:
        kinds = np.array(["elf", "pe", "macho", "ä|\n"])[random.choice(4, ROWS)]
        found["text"] = pa.array([None if i % 37 == 0 else text for i, text in enumerate(kinds.tolist())])
        found["category"] = pa.array(kinds.tolist()).dictionary_encode()
        found["code"] = pa.array(random.integers(0, 5, ROWS))
    found["class"] = pa.array(np.array(["many", "some", "rare"])[y].tolist())
    return found


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers alone."""
    path = tmp_path_factory.mktemp("numbers") / "rows.parquet"
    pq.write_table(pa.table(columns(names=False)), path, row_group_size=100)
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers and names."""
    path = tmp_path_factory.mktemp("mixed") / "rows.parquet"
    pq.write_table(pa.table(columns()), path, row_group_size=100)
    return path


def rebalanced(
    table: Path, root: Path, executor: Executor | None = None, /, *, shard_files: int = 512, **options: Any
) -> Manifest:
    """Rebalance without Prefect."""
    label, exclude, only = options.pop("label", "class"), options.pop("exclude", []), options.pop("only", [])
    recipe = table_recipe(table, label, "rebalancing", {"method": "auto"} | options, [], exclude, only, 3).model_dump(
        mode="json"
    )
    recipe["publishing"]["shard_files"] = shard_files
    with Journal(root, write=True) as journal:
        checked = check_recipe(recipe, "test")
        build = Build(
            recipe=checked, base=table.parent, root=root, cache=root / ".cache",
            executor=executor or InProcess(), journal=journal,
        )  # fmt: skip
        manifest = run_stages(build, {}, rebalancing_stages(checked))
        computed = sum(count.items - count.present for count in build.counts)
    return manifest.model_copy(update={"run": {"computed": computed, "notes": build.notes}})


def read(root: Path, name: str = "train") -> Any:
    """A table of the result, in the order of its ids."""
    tables = [pq.ParquetFile(path).read() for path in open_dataset(root).paths(name)]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks().sort_by("sample_id")


def problems(root: Path) -> list[str]:
    return [f"{f.where}: {f.problem}" for _, found in verify(open_dataset(root)) for f in found]


NUMBERS: dict[str, dict[str, Any]] = {
    "smote": {},
    "beyond": {"method": "svm-smote"},
    "borderline": {"method": "borderline-2", "clean": "tomek"},
    "adasyn": {"method": "adasyn", "under": "random", "under_target": {"many": 300}},
    "clusters": {"method": "kmeans-smote", "target": 0.5},
    "weighed": {"weights": "mi", "clean": "enn", "clean_classes": "all"},
    "nearmiss": {"method": "none", "under": "nearmiss-3"},
}
NAMES: dict[str, dict[str, Any]] = {
    "mixed": {"nominal": ["code"]},
    "names": {"method": "smoten", "target": {"rare": 300}},
    "copies": {"method": "random", "under": "random", "target": 0.6},
}


@pytest.mark.parametrize("name", [*NUMBERS, *NAMES])
def test_the_same_rows_and_types_however_the_table_is_cut(
    name: str, numbers: Path, mixed: Path, tmp_path: Path
) -> None:
    table, options = (numbers, NUMBERS[name]) if name in NUMBERS else (mixed, NAMES[name])
    whole = rebalanced(table, tmp_path / "whole", **options)
    rebalanced(table, tmp_path / "cut", Shuffled(), shard_files=1, **options)
    assert problems(tmp_path / "whole") == problems(tmp_path / "cut") == []
    assert len(open_dataset(tmp_path / "cut").paths("train")) > len(open_dataset(tmp_path / "whole").paths("train"))
    for part in whole.tables:
        if part in {"train", "train_dropped", "voters"}:
            assert read(tmp_path / "cut", part).equals(read(tmp_path / "whole", part))
    train, given = read(tmp_path / "whole"), pq.read_table(table)
    for field in given.schema:
        if field.name not in {"class", "list"}:
            assert train.schema.field(field.name).type == field.type
    assert train.schema.field("list[1]").type == pa.float32()
    again = rebalanced(table, tmp_path / "whole", **options)
    assert again.run["computed"] == 0
    assert again.digest == whole.digest


def test_rows_that_were_there_are_as_they_were(mixed: Path, tmp_path: Path) -> None:
    rebalanced(mixed, tmp_path)
    found = read(tmp_path).filter(~pc.field("is_synthetic"))
    given = pq.read_table(mixed)
    names = ["double", "int64", "flag", "text", "category"]

    def sorted_rows(table: Any) -> Any:
        frame = table.select(names).to_pandas()
        frame["category"] = frame["category"].astype(str)
        return frame.sort_values("double", ignore_index=True)

    pd.testing.assert_frame_equal(sorted_rows(found), sorted_rows(given), check_exact=True)


def test_new_rows_lie_between_their_parents_in_the_columns_own_precision(numbers: Path, tmp_path: Path) -> None:
    rebalanced(numbers, tmp_path)
    train = read(tmp_path).to_pandas().set_index("sample_id")
    counts = Counter(train["label"])
    assert len(set(counts.values())) == 1
    made = train[train["is_synthetic"]]
    a, b = train.loc[made["parent_a"]], train.loc[made["parent_b"]]
    assert (a["label"].to_numpy() == made["label"].to_numpy()).all()
    gap = made["gap"].to_numpy()
    for name in ("double", "float", "half", "int64", "uint8", "int16", "flag", "list[0]"):
        x, y = (np.asarray(part[name]).astype(np.float64) for part in (a, b))
        exact = x + gap * (y - x)
        values = np.asarray(made[name])
        if values.dtype.kind == "f":
            np.testing.assert_array_equal(values, exact.astype(values.dtype))
        else:
            np.testing.assert_array_equal(values.astype(np.float64), np.rint(exact))
    assert (made["double"].to_numpy() != made["double"].to_numpy().astype(np.float32)).all()


def test_names_are_the_commonest_of_the_neighbours(mixed: Path, tmp_path: Path) -> None:
    manifest = rebalanced(mixed, tmp_path, nominal=["code"])
    assert manifest.summary["balance"]["after"]["train"] == dict.fromkeys(("many", "rare", "some"), 460)
    train = read(tmp_path).to_pandas().set_index("sample_id")
    voters = dict(zip(*(read(tmp_path, "voters").column(n).to_pylist() for n in ("sample_id", "voters")), strict=True))
    made = train[train["is_synthetic"]]
    seen: set[Any] = set()
    for name in ("text", "category", "code"):
        for parent, value in zip(made["parent_a"], made[name], strict=True):
            votes = Counter(None if pd.isna(v) else v for v in train.loc[voters[parent], name])
            best = [v for v, n in votes.items() if n == max(votes.values())]
            expected = min(best, key=lambda v: (v is None, v))
            assert (None if pd.isna(value) else value) == expected
            seen.add(expected)
    assert len(seen) >= 8


def test_a_forged_name_is_found(mixed: Path, tmp_path: Path) -> None:
    rebalanced(mixed, tmp_path)
    dataset = open_dataset(tmp_path)
    path = next(p for p in dataset.paths("train") if pq.read_table(p, columns=["is_synthetic"])[0][0].as_py())
    rows = pq.ParquetFile(path).read()
    texts = rows.column("text").to_pylist()
    texts[7] = "elf" if texts[7] != "elf" else "pe"
    pq.write_table(rows.set_column(rows.schema.get_field_index("text"), "text", pa.array(texts)), path)
    assert [problem.split(":")[0] for _, problem in wrong_rows(dataset)] == [
        f"row {rows.column('sample_id')[7].as_py()}"
    ]


def test_every_format_gives_the_same_rows(mixed: Path, tmp_path: Path) -> None:
    """What a CSV can say, said by CSV, Parquet, Arrow and a folder: the same values but for the ids."""
    table = pq.read_table(mixed).select(["double", "float", "int64", "uint8", "flag", "text", "class"])
    kinds = {"float": pa.float64(), "uint8": pa.int64()}
    table = table.cast(pa.schema([pa.field(f.name, kinds.get(f.name, f.type)) for f in table.schema]))
    table = table.set_column(5, "text", table.column("text").fill_null("none"))
    folder = tmp_path / "parts"
    folder.mkdir()
    paths = [tmp_path / "rows.csv", tmp_path / "rows.parquet", tmp_path / "rows.arrow", folder]
    pyarrow.csv.write_csv(table, paths[0])
    pq.write_table(table, paths[1])
    pyarrow.feather.write_feather(table, paths[2])
    pq.write_table(table.slice(0, 200), folder / "a.parquet")
    pq.write_table(table.slice(200), folder / "b.parquet")
    real: list[Any] = []
    for number, path in enumerate(paths):
        manifest = rebalanced(path, tmp_path / str(number), shard_files=2)
        assert problems(tmp_path / str(number)) == []
        assert manifest.summary["inputs"] == ROWS
        found = read(tmp_path / str(number))
        assert Counter(found.column("label").to_pylist()) == {"many": 460, "some": 460, "rare": 460}
        real.append(found.filter(~pc.field("is_synthetic")).drop(FIXED).sort_by("double"))
    assert all(found.equals(real[0]) for found in real[1:])


def test_an_array(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((200, 4))
    values[:, 3] = np.arange(200) % 5 == 0
    np.save(tmp_path / "rows.npy", values)
    rebalanced(tmp_path / "rows.npy", tmp_path / "out", label="c3")
    train = read(tmp_path / "out")
    assert Counter(train.column("label").to_pylist()) == {"0": 160, "1": 160}
    assert train.schema.field("c0").type == pa.float64()


def test_many_small_classes_are_gathered_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    y = np.concatenate([np.repeat(np.arange(30), 8), np.zeros(40, int)])
    table = pa.table({"a": random.standard_normal(len(y)), "b": random.random(len(y)) < 0.5, "y": y})
    pq.write_table(table, tmp_path / "t.parquet")
    found: list[Any] = []
    for number, rows in enumerate((1, 100, 10**6)):
        monkeypatch.setattr(tasks.rebalance.rebalancing, "GATHERED_ROWS", rows)
        root = tmp_path / str(number)
        rebalanced(tmp_path / "t.parquet", root, label="y", k_neighbors=3)
        found.append(read(root))
        made = json.loads((root / "manifest.json").read_text())["summary"]["balance"]["after"]["train"]
        assert made == {str(label): 48 for label in sorted(map(str, range(30)))}
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_workers_make_the_same_dataset(mixed: Path, tmp_path: Path) -> None:
    one = rebalanced(mixed, tmp_path / "one", shard_files=1)
    with local_executor(2, None) as executor:
        two = rebalanced(mixed, tmp_path / "two", executor, shard_files=1)
    assert one.digest == two.digest


def test_missing_values(numbers: Path, tmp_path: Path) -> None:
    table = pq.read_table(numbers)
    holes = [None if i % 9 == 0 else v for i, v in enumerate(table.column("uint8").to_pylist())]
    flags = [None if i % 11 == 0 else v for i, v in enumerate(table.column("flag").to_pylist())]
    table = table.set_column(4, "uint8", pa.array(holes, pa.uint8())).set_column(6, "flag", pa.array(flags))
    path = tmp_path / "holes.parquet"
    pq.write_table(table, path)
    with pytest.raises(BinmillError, match=r"rebalancing\.missing: .* uint8 in 67 rows, flag in 55 rows"):
        rebalanced(path, tmp_path / "error")
    for way, gone in (("mean", 0), ("keep", 1)):
        rebalanced(path, tmp_path / way, missing=way)
        assert problems(tmp_path / way) == []
        made = read(tmp_path / way).filter(pc.field("is_synthetic"))
        assert made.schema.field("uint8").type == pa.uint8()
        assert (made.column("uint8").null_count > 0) == bool(gone)


def test_rows_without_a_label_are_told_of(numbers: Path, tmp_path: Path) -> None:
    table = pq.read_table(numbers)
    labels = [None if i < 12 else v for i, v in enumerate(table.column("class").to_pylist())]
    path = tmp_path / "rows.parquet"
    pq.write_table(table.set_column(table.num_columns - 1, "class", pa.array(labels)), path)
    manifest = rebalanced(path, tmp_path / "out", shard_files=1)
    assert manifest.run["notes"] == ["12 rows have no value in column 'class' and are left out"]
    assert sum(manifest.summary["balance"]["before"]["train"].values()) == ROWS - 12


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "adasyn"}, r"rebalancing\.method: columns 'text', 'category' hold no numbers"),
        ({"clean": "tomek"}, r"rebalancing\.clean: columns 'text', 'category' hold no numbers"),
        ({"under": "nearmiss-1"}, r"rebalancing\.under: columns 'text', 'category' hold no numbers"),
        ({"label": "clas"}, r"sources\.label_column: rows.parquet has no column 'clas'"),
        ({"exclude": ["none"]}, r"sources\.exclude: rows.parquet has no column 'none'"),
        ({"only": ["class"]}, "has no feature column"),
        ({"method": "smote-nc", "weights": "mi"}, "weights: it goes by distances"),
        ({"target": {"rare": 3}}, r"rebalancing\.target"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], problem: str, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(BinmillError, match=problem):
        rebalanced(mixed, tmp_path, **options)


def test_columns_that_no_row_can_be_made_of(tmp_path: Path) -> None:
    when = pa.array([0, 1, 2, 3], pa.timestamp("s"))
    pq.write_table(pa.table({"when": when, "x": [1, 2, 3, 4], "y": [0, 0, 0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(BinmillError, match=r"column 'when' of t.parquet holds timestamp") as refusal:
        rebalanced(tmp_path / "t.parquet", tmp_path / "out", label="y")
    assert "exclude 'when'" in refusal.value.remedy


def test_nominal_without_a_column_and_all_names(numbers: Path, tmp_path: Path) -> None:
    manifest = rebalanced(numbers, tmp_path / "a", method="smote-nc", nominal=["nothing*"])
    assert len(manifest.run["notes"]) == 2
    assert "so smote-nc is smote" in manifest.run["notes"][1]
    manifest = rebalanced(numbers, tmp_path / "b", only=["flag", "uint8"], nominal=["flag", "uint8"])
    assert problems(tmp_path / "b") == []
    made = read(tmp_path / "b").filter(pc.field("is_synthetic"))
    assert made.column("parent_a").equals(made.column("parent_b"))


def test_trace_finds_parents_and_the_row_of_the_table(numbers: Path, tmp_path: Path) -> None:
    rebalanced(numbers, tmp_path)
    dataset, train = open_dataset(tmp_path), read(tmp_path)
    made = train.filter(pc.field("is_synthetic")).slice(0, 1).to_pylist()[0]
    link = trace(dataset, made["sample_id"]).links[0]
    assert [parent.sample_id for parent in link.derived_from] == [made["parent_a"], made["parent_b"]]
    parent = link.derived_from[0].links[0]
    row = train.filter(pc.field("sample_id") == made["parent_a"]).to_pylist()[0]
    assert pq.read_table(numbers).column("int64")[parent.values["row"]].as_py() == row["int64"]


@pytest.mark.prefect
def test_the_command(mixed: Path, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "binmill"), "rebalance", str(mixed), "--label", "class", "--json",
        "--target", "{rare: 400, some: 300}", "--nominal", "code", "--set", "k_neighbors=3", "-o", str(tmp_path / "o"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["summary"]["balance"]["after"]["train"] == {"many": 460, "rare": 400, "some": 300}
    assert problems(tmp_path / "o") == []
    recipe = open_dataset(tmp_path / "o").manifest.recipe["rebalancing"]
    assert recipe["k_neighbors"] == 3
    assert recipe["nominal"] == ["code"]
