"""`binmill evaluate`: nothing of test in fitting, equal reports from equal data, and verdicts that are true."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from flows.evaluate import evaluate, write
from flows.evaluation_rows import held_out
from flows.recipes import check_recipe
from flows.show_evaluation import console_report
from schemas.errors import DatasetError, QueryError, RecipeError
from schemas.recipe import Evaluation
from tasks.evaluate.curves import platt, platted
from tasks.evaluate.plot import evaluation_plot
from tasks.query.dataset import Dataset, open_dataset
from tasks.query.verify import verify
from tests.conftest import Mill
from tests.tasks.rebalance.peers import labelled

QUICK = {"models": [{"name": "logistic"}], "draws": 200}
FEATURES = [f"f{i}" for i in range(6)]


def table_of(x: NDArray[np.float64], labels: NDArray[Any], path: Path, **more: Any) -> Path:
    frame: dict[str, Any] = {f"f{i}": x[:, i].astype(np.float32) for i in range(x.shape[1])}
    pq.write_table(pa.table(frame | more | {"label": labels}), path)
    return path


def recipe_over(table: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "rows",
        "sources": [{"kind": "table", "path": str(table), "label_column": "label"}],
        "label": {"origin": "column"},
        "split": {"train": 0.5, "validation": 0.2, "test": 0.3},
        "screening": {"estimator": "binned"},
        "rebalancing": {"method": "none"},
        "binarizing": {"dimensions": 2, "iterations": 1, "methods": ["median"]},
        "publishing": {"shard_files": 4},
        "evaluation": QUICK,
        "seed": 3,
        **changes,
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = labelled(1500, 6, [0.88, 0.12], 3, 0.6)
    return table_of(x, np.array(["common", "rare"])[y], tmp_path_factory.mktemp("table") / "two.parquet")


@pytest.fixture(scope="module")
def two(table: Path, mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, validation rows, the train table over-sampled; only read."""
    root = tmp_path_factory.mktemp("two") / "dataset"
    mill(recipe_over(table, rebalancing={"method": "smote", "under": "random", "target": 0.5}), root)
    return root


@pytest.fixture(scope="module")
def three(mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, no validation rows, a column of names, missing values; only read."""
    folder = tmp_path_factory.mktemp("three")
    x, y = labelled(1200, 6, [0.75, 0.17, 0.08], 5, 0.6)
    x[::9, 2] = np.nan
    x[5, 3] = np.inf
    flag = (np.abs(x[:, 0]) * 3).astype(np.int64) % 4
    path = table_of(x, np.array(["a", "b", "c"])[y], folder / "three.parquet", flag=flag)
    mill(
        recipe_over(
            path,
            split={"train": 0.7, "validation": 0.0, "test": 0.3},
            rebalancing={"method": "smote-nc", "nominal": ["flag"], "missing": "mean"},
        ),
        folder / "dataset",
    )
    return folder / "dataset"


@pytest.fixture(scope="module")
def report(two: Path) -> dict[str, Any]:
    return evaluate(open_dataset(two), models=["logistic", "tree"])


def frames(root: Path, *tables: str) -> Any:
    paths = [path for table in tables for path in open_dataset(root).paths(table)]
    found: Any = pd.concat([pq.ParquetFile(path).read().to_pandas() for path in paths])
    return found[~found["is_synthetic"].astype(bool)].sort_values("sample_id", ignore_index=True)


def lines(report: dict[str, Any], model: int = 0) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in report["models"][model]["treatments"]}


def test_no_treatment_is_scikit_learn_on_the_real_rows_of_train(two: Path, report: dict[str, Any]) -> None:
    """Rows, features and labels come right through: the numbers are those of a few lines of scikit-learn."""
    train, held, test = frames(two, "train", "train_dropped"), frames(two, "validation"), frames(two, "test")
    scaler = StandardScaler().fit(train[FEATURES].to_numpy(dtype=np.float64))
    x, v, t = (scaler.transform(rows[FEATURES].to_numpy(dtype=np.float64)) for rows in (train, held, test))
    yes = (test["label"] == "rare").to_numpy()
    for name, weights in (("none", None), ("class weights", "balanced")):
        model = LogisticRegression(max_iter=1000, class_weight=weights).fit(x, train["label"])
        p = model.predict_proba(t)[:, 1]
        again = platted(p, *platt((held["label"] == "rare").to_numpy(), model.predict_proba(v)[:, 1]))
        found = {key: value["value"] for key, value in lines(report)[name]["measures"].items()}
        assert found["roc_auc"] == pytest.approx(roc_auc_score(yes, p), abs=1e-4)
        assert found["average_precision"] == pytest.approx(average_precision_score(yes, p), abs=1e-3)
        assert found["brier"] == pytest.approx(brier_score_loss(yes, p), abs=1e-4)
        assert found["brier_recalibrated"] == pytest.approx(brier_score_loss(yes, again), abs=1e-4)


def test_rows_of_each_treatment(two: Path, report: dict[str, Any]) -> None:
    real = Counter(frames(two, "train", "train_dropped")["label"])
    made = Counter(pd.concat([pq.read_table(p).to_pandas() for p in open_dataset(two).paths("train")])["label"])
    few, many = real["rare"], real["common"]
    middle = round((few * many) ** 0.5)
    assert {name: line["rows"] for name, line in lines(report).items()} == {
        "none": real,
        "class weights": real,
        "under-sampling": {"common": few, "rare": few},
        "SMOTE": {"common": many, "rare": many},
        "SMOTE + under-sampling": {"common": middle, "rare": middle},
        "as made": made,
    }
    assert report["positive"] == "rare"
    assert report["rows"]["test"] == Counter(frames(two, "test")["label"])


def changed(root: Path, target: Path, name: str, change: Any) -> Dataset:
    """A copy of a dataset, of one of whose tables the shards were changed behind the manifest's back."""
    for path in sorted(root.rglob("*")):
        place = target / path.relative_to(root)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    for path in open_dataset(target).paths(name):
        pq.write_table(change(pq.ParquetFile(path).read()), path)
    return open_dataset(target)


def with_column(rows: Any, name: str, values: Any) -> Any:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))


def test_nothing_of_test_is_in_fitting(two: Path, report: dict[str, Any], tmp_path: Path) -> None:
    """Other labels and values in test change what is measured, and not a bit of what models are fitted to."""

    def other(rows: Any) -> Any:
        labels = np.random.default_rng(1).permutation(rows.column("label").to_pylist())
        wild = with_column(rows, "f0", rows.column("f0").to_numpy() * 1e3 + 7)
        return with_column(wild, "label", labels)

    again = evaluate(changed(two, tmp_path / "test", "test", other), models=["logistic", "tree"])
    for model in range(2):
        for name, line in lines(again, model).items():
            assert line["fitted_on"] == lines(report, model)[name]["fitted_on"]
            assert line["measures"] != lines(report, model)[name]["measures"]
    # The same of validation, but for what is recalibrated.
    held = evaluate(changed(two, tmp_path / "held", "validation", other), models=["logistic"])
    for name, line in lines(held).items():
        before = lines(report)[name]
        assert line["fitted_on"] == before["fitted_on"]
        for key, found in line["measures"].items():
            assert (found == before["measures"][key]) == ("recalibrated" not in key), key
    # And the check can fail: a change of train is seen.
    seen = evaluate(changed(two, tmp_path / "train", "train", other), models=["logistic"])
    assert lines(seen)["none"]["fitted_on"] != lines(report)["none"]["fitted_on"]


def test_a_row_of_train_in_test_is_refused(two: Path, tmp_path: Path) -> None:
    stolen = pq.ParquetFile(open_dataset(two).paths("train")[0]).read().column("sample_id")[0].as_py()

    def put(rows: Any) -> Any:
        return with_column(rows, "sample_id", [stolen, *rows.column("sample_id").to_pylist()[1:]])

    with pytest.raises(DatasetError, match="stand in train"):
        evaluate(changed(two, tmp_path / "a", "test", put))
    with pytest.raises(DatasetError, match="synthetic"):
        evaluate(
            changed(two, tmp_path / "b", "test", lambda rows: with_column(rows, "is_synthetic", [True] * len(rows)))
        )


def test_equal_data_gives_an_equal_report(two: Path, table: Path, mill: Mill, tmp_path: Path) -> None:
    """Also from other shards; and the dataset is as it was: verify finds nothing and a second run computes nothing."""
    recipe = recipe_over(table, rebalancing={"method": "smote", "under": "random", "target": 0.5})
    mill(recipe, tmp_path / "d")
    mill(recipe | {"publishing": {"shard_files": 2}}, tmp_path / "small")
    reports = [evaluate(open_dataset(root)) for root in (two, tmp_path / "d", tmp_path / "small")]
    texts = [json.dumps({k: v for k, v in r.items() if k != "digest"}) for r in reports]
    assert texts[0] == texts[1] == texts[2]
    folder = tmp_path / "d" / "evaluation"
    write(reports[1], folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"evaluation.json", "evaluation.png"}
    assert [f for _, found in verify(open_dataset(tmp_path / "d")) for f in found] == []
    assert mill(recipe, tmp_path / "d").run["computed"] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_another_way_to_evaluate_makes_no_other_dataset(two: Path, table: Path, mill: Mill, tmp_path: Path) -> None:
    recipe = recipe_over(table, rebalancing={"method": "smote", "under": "random", "target": 0.5})
    first = mill(recipe, tmp_path)
    other = mill(recipe | {"evaluation": {"models": [{"name": "knn", "parameters": {"n_neighbors": 9}}]}}, tmp_path)
    assert (other.digest, other.run["computed"]) == (first.digest, 0)
    assert other.recipe["evaluation"]["models"][0]["parameters"] == {"n_neighbors": 9}
    assert [f for _, found in verify(open_dataset(tmp_path)) for f in found] == []
    found = evaluate(open_dataset(tmp_path))
    assert found["models"][0]["name"] == "knn"
    assert lines(found)["class weights"]["reason"] == "nearest neighbours take no weights"
    assert "measures" in lines(found)["SMOTE"]


def test_where_smote_cannot_help_it_says_so(mill: Mill, tmp_path: Path) -> None:
    """Two normal clouds of one covariance: a logistic model is the truth, and its ranking cannot be bettered."""
    stream = np.random.default_rng(0)
    y = (stream.random(4000) < 0.1).astype(np.int64)
    x = stream.standard_normal((4000, 5)) + 0.8 * y[:, None]
    path = table_of(x, np.array(["common", "rare"])[y], tmp_path / "rows.parquet")
    mill(recipe_over(path), tmp_path / "d")
    report = evaluate(open_dataset(tmp_path / "d"))
    assert report["verdict"]["helps"] == "no"
    assert report["verdict"]["text"].startswith("SMOTE does not help")
    smote = next(e for e in report["verdict"]["each"] if e["treatment"] == "SMOTE")
    assert smote["better"] == []
    assert {"brier", "calibration_error"} <= set(smote["worse"])  # 10 % are taken for 50 %
    assert "no difference shown: " in smote["text"]
    measures = lines(report)["SMOTE"]["measures"]
    assert measures["brier"]["differences"]["none"]["value"] > 0.05
    assert abs(measures["brier_recalibrated"]["differences"]["none"]["value"]) < 0.002  # which a curve mends
    assert "as made" not in lines(report)  # nothing was


def test_where_it_helps_it_says_so(mill: Mill, tmp_path: Path) -> None:
    """Few rare rows on a ring about the others: a nearest-neighbour vote of 25 misses them until there are more."""
    stream = np.random.default_rng(4)
    y = (stream.random(3000) < 0.04).astype(np.int64)
    angle, far = stream.random(3000) * 6.2832, np.where(y, 2.2 + stream.random(3000) * 0.3, stream.random(3000) * 3)
    x = np.column_stack([far * np.cos(angle), far * np.sin(angle)])
    path = table_of(x, np.array(["common", "rare"])[y], tmp_path / "rows.parquet")
    recipe = recipe_over(path)
    recipe["evaluation"] = {"models": [{"name": "knn", "parameters": {"n_neighbors": 5}}], "draws": 300}
    mill(recipe, tmp_path / "d")
    report = evaluate(open_dataset(tmp_path / "d"))
    combined = next(e for e in report["verdict"]["each"] if e["treatment"] == "SMOTE + under-sampling")
    assert "roc_auc" in combined["better"]
    assert report["verdict"]["helps"] in {"yes", "mixed"}


def test_three_classes_names_and_no_validation(three: Path) -> None:
    report = evaluate(open_dataset(three))
    assert report["positive"] == "c"
    assert report["rows"]["recalibrated_on"] == "train"
    assert any("there is no validation split" in note for note in report["notes"])
    assert any("SMOTE-NC stands in for SMOTE: 1 of 7" in note for note in report["notes"])
    real = Counter(frames(three, "train")["label"])
    fit, held = report["rows"]["train"], report["rows"]["recalibration"]
    assert {label: fit[label] + held[label] for label in real} == real
    assert held["c"] == pytest.approx(0.2 * real["c"], abs=2)
    for line in lines(report).values():
        assert line["reason"] is None
        assert 0.5 < line["measures"]["macro_roc_auc"]["value"] < 1
        for found in line["measures"].values():
            assert found["low"] <= found["high"]
    other = evaluate(open_dataset(three), positive="a")
    assert other["positive"] == "a"
    assert lines(other)["none"]["measures"]["roc_auc"] != lines(report)["none"]["measures"]["roc_auc"]
    assert (
        lines(other)["none"]["measures"]["macro_roc_auc"]["value"]
        == lines(report)["none"]["measures"]["macro_roc_auc"]["value"]
    )
    with pytest.raises(QueryError, match="--positive d"):
        evaluate(open_dataset(three), positive="d")
    with pytest.raises(QueryError, match="--sweep"):
        evaluate(open_dataset(three), positive="a", sweep=True)


def test_what_is_held_out_of_train_is_no_parent_of_what_stays(three: Path) -> None:
    dataset = open_dataset(three)
    train: Any = pa.concat_tables([pq.ParquetFile(path).read() for path in dataset.paths("train")])
    kept, held, dropped = held_out(dataset, train, ["a", "b", "c"], 3)
    gone = set(held.column("sample_id").to_pylist())
    assert len(gone) > 100
    assert not any(held.column("is_synthetic").to_pylist())
    for name in ("sample_id", "parent_a", "parent_b"):
        assert not gone & set(kept.column(name).to_pylist())
    assert dropped == train.num_rows - kept.num_rows - held.num_rows > 50
    of = pd.concat([pq.read_table(path).to_pandas() for path in dataset.paths("splits")]).set_index("sample_id")
    rows = kept.select(["sample_id", "is_synthetic"]).to_pylist()
    stays = {row["sample_id"] for row in rows if not row["is_synthetic"]}
    assert not set(of.loc[list(gone), "group_id"]) & set(of.loc[list(stays), "group_id"])


def test_rows_are_capped_by_a_draw_that_is_told(table: Path, mill: Mill, tmp_path: Path) -> None:
    recipe = recipe_over(table, rebalancing={"method": "smote"})
    recipe["evaluation"] = {**QUICK, "rows": 200, "recalibration": "isotonic"}
    mill(recipe, tmp_path)
    report = evaluate(open_dataset(tmp_path))
    assert {split: sum(report["rows"][split].values()) for split in ("train", "recalibration", "test")} == {
        "train": 200, "recalibration": 200, "test": 200,
    }  # fmt: skip
    assert sum("(evaluation.rows)" in note for note in report["notes"]) == 3
    made = sum(lines(report)["as made"]["rows"].values())
    whole = sum(s.rows for s in open_dataset(tmp_path).manifest.tables["train"])
    assert made / whole == pytest.approx(200 / len(frames(tmp_path, "train")), rel=0.15)


def test_sweep_and_picture(two: Path) -> None:
    report = evaluate(open_dataset(two), models=["tree"], sweep=True)
    sweep = report["sweep"]
    assert sweep["model"] == "tree"
    assert len(sweep["rows"]) == len(sweep["true_positive_rate"]) > 80
    hull = sweep["hull_false_positive_rate"], sweep["hull_true_positive_rate"]
    above = np.interp(sweep["false_positive_rate"], *hull) - np.array(sweep["true_positive_rate"])
    assert (above[np.array(sweep["false_positive_rate"]) > 0] > -1e-9).all()
    picture = evaluation_plot(report)
    assert picture == evaluation_plot(json.loads(json.dumps(report)))
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20]) == 1350


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"models": [{"name": "os.system"}]}, "models[0].name"),
        ({"models": [{"name": "logistic", "parameters": {"max_itr": 9}}]}, "did you mean 'max_iter'?"),
        ({"models": [{"name": "forest", "parameters": {"random_state": 1}}]}, "no such parameter to set"),
        ({"models": [{"name": "tree", "parameters": {"max_depth": -4}}]}, "'max_depth' parameter"),
        ({"models": []}, "at least one model"),
        ({"models": [{"name": "tree"}, {"name": "tree"}]}, "only once"),
        ({"model": []}, "did you mean 'models'?"),
    ],
)
def test_a_wrong_section_is_refused_by_name(section: dict[str, Any], says: str, table: Path) -> None:
    with pytest.raises(RecipeError) as refusal:
        check_recipe(recipe_over(table, evaluation=section), "r")
    assert says in refusal.value.problem


def test_parameters_are_used(two: Path, report: dict[str, Any]) -> None:
    dataset = open_dataset(two)
    section = Evaluation.model_validate({**QUICK, "models": [{"name": "logistic", "parameters": {"C": 0.001}}]})
    recipe = dataset.manifest.recipe | {"evaluation": section.model_dump(mode="json")}
    other = evaluate(Dataset(dataset.root, dataset.manifest.model_copy(update={"recipe": recipe})))
    assert other["models"][0]["parameters"] == {"C": 0.001}
    assert lines(other)["none"]["fitted_on"] == lines(report)["none"]["fitted_on"]
    assert lines(other)["none"]["measures"]["brier"] != lines(report)["none"]["measures"]["brier"]


def test_command(two: Path, tmp_path: Path) -> None:
    def binmill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "130"},
        )  # fmt: skip

    found = binmill("evaluate", two, "-o", tmp_path / "e", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == json.loads((tmp_path / "e" / "evaluation.json").read_text(encoding="utf-8"))
    assert (tmp_path / "e" / "evaluation.png").read_bytes() == evaluation_plot(json.loads(found.stdout))
    shown = binmill("evaluate", two, "-o", tmp_path / "f", "--model", "tree")
    assert "average precision" in " ".join(shown.stdout.split())
    assert json.loads((tmp_path / "f" / "evaluation.json").read_text())["verdict"]["text"].split(".")[0] in " ".join(
        shown.stdout.split()
    )
    refused = binmill("evaluate", two, "-o", tmp_path / "g", "--model", "magic", "--json")
    assert refused.returncode == 6
    assert json.loads(refused.stderr)["error"] == "QueryError"
    assert not (tmp_path / "g").exists()


def test_of_few_rows_nothing_is_said(mill: Mill, tmp_path: Path) -> None:
    """Three rare rows of test and two of train: no verdict, reasons in place of numbers; still shown and drawn."""
    stream = np.random.default_rng(0)
    y = np.array([1] * 6 + [0] * 60)
    path = table_of(stream.standard_normal((66, 3)), np.array(["common", "[rare]"])[y], tmp_path / "rows.parquet")
    split = {"train": 0.3, "validation": 0.0, "test": 0.7}
    mill(recipe_over(path, split=split), tmp_path / "d")
    report = evaluate(open_dataset(tmp_path / "d"))
    assert report["positive"] == "[rare]"
    assert report["verdict"]["helps"] == "unknown"
    assert "too few" in report["verdict"]["text"]
    assert report["verdict"]["each"] == []
    for width in (60, 90, 160):
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(console_report(report, width))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(cell_len, text.splitlines())) <= width
        assert "[rare] against all others" in text
        assert all(line["name"].split()[0] in text for line in lines(report).values())
    assert evaluation_plot(report).startswith(b"\x89PNG")


def test_a_model_that_cannot_be_fitted_has_a_reason(two: Path) -> None:
    dataset = open_dataset(two)
    section = {**QUICK, "models": [{"name": "logistic", "parameters": {"penalty": "l1", "solver": "lbfgs"}}]}
    recipe = dataset.manifest.recipe | {"evaluation": section}
    report = evaluate(Dataset(dataset.root, dataset.manifest.model_copy(update={"recipe": recipe})))
    assert all("lbfgs" in line["reason"] for line in lines(report).values())
    assert report["verdict"]["helps"] == "unknown"
    assert evaluation_plot(report).startswith(b"\x89PNG")
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(console_report(report, 100))
    assert "lbfgs" in console.file.getvalue()  # type: ignore[attr-defined]
