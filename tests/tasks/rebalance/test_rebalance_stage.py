"""The stage over shards: every method, any cut of rows and order of work, each row computed again from its parents."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from schemas.errors import BinmillError, RecipeError
from tasks.build import InProcess
from tasks.items import Item, Receipt
from tasks.query.dataset import open_dataset
from tasks.query.verify import verify
from tasks.rebalance import approximate
from tasks.rebalance.borderline import BorderlineSMOTE
from tasks.rebalance.nominal import SMOTEN, SMOTENC
from tasks.rebalance.oversampling import ADASYN, SMOTE, RandomOverSampler
from tasks.rebalance.undersampling import EditedNearestNeighbours, NearMiss, TomekLinks
from tests.conftest import Mill
from tests.tasks.rebalance.peers import labelled

COLUMNS = 6
OVER = ["random", "smote", "borderline-1", "borderline-2", "adasyn", "kmeans-smote", "svm-smote"]
UNDER = ["random", "nearmiss-1", "nearmiss-2", "nearmiss-3"]


class Shuffled(InProcess):
    """Runs items in another order."""

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        order = np.random.default_rng(4).permutation(len(items))
        yield from super().run(root, [items[i] for i in order])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 500 rows; one column of whole numbers, one of 0 and 1."""
    x, y = labelled(500, COLUMNS, [0.6, 0.25, 0.15], 3)
    frame: dict[str, Any] = {f"f{i}": x[:, i].astype(np.float32) for i in range(4)}
    frame["count"] = np.rint(x[:, 4] * 10).astype(np.float32)
    frame["flag"] = (x[:, 5] > 0).astype(np.float32)
    frame["label"] = np.array(["many", "some", "rare"])[y]
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    pq.write_table(pa.table(frame), path)
    return path


def recipe_of(table: Path, *, rows: int = 512, **rebalancing: Any) -> dict[str, Any]:
    """A recipe over the table, with at most about `rows` rows to a shard."""
    return {
        "name": "rows",
        "sources": [{"kind": "table", "path": str(table), "label_column": "label"}],
        "label": {"origin": "column"},
        "split": {"train": 0.8, "validation": 0.0, "test": 0.2},
        "screening": {"estimator": "binned", "top": COLUMNS},
        "rebalancing": rebalancing,
        "binarizing": {"dimensions": 2, "iterations": 2, "methods": ["median"]},
        "publishing": {"shard_files": max(1, rows // 128)},
        "seed": 7,
    }


def read(root: Path, name: str) -> Any:
    """A table of the dataset as a data frame (whose declared types say too little), by id."""
    dataset = open_dataset(root)
    tables = [pq.ParquetFile(path).read() for path in dataset.paths(name)] if dataset.manifest.tables.get(name) else []
    frame = pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame({"sample_id": [], "label": []})
    return frame.sort_values("sample_id", ignore_index=True)


def problems(root: Path) -> list[str]:
    return [f"{f.where}: {f.problem}" for _, found in verify(open_dataset(root)) for f in found]


def features(frame: Any) -> NDArray[np.float32]:
    return frame[["f0", "f1", "f2", "f3", "count", "flag"]].to_numpy(dtype=np.float32)


def real(root: Path) -> Any:
    """All real rows of train, by id."""
    frames = [read(root, name) for name in ("train", "train_dropped")]
    rows = pd.concat([frame[frame["is_synthetic"] == False] for frame in frames if len(frame)])  # noqa: E712
    return rows.sort_values("sample_id", ignore_index=True)


def standard(root: Path, frame: Any) -> NDArray[np.float64]:
    """Rows standardised as the stage does."""
    scaler = pq.read_table(root / open_dataset(root).manifest.fitted["scaler"].path).to_pandas().set_index("feature")
    names = ["f0", "f1", "f2", "f3", "count", "flag"]
    return (features(frame).astype(np.float64) - scaler.loc[names, "mean"].to_numpy()) * (
        1 / scaler.loc[names, "scale"].to_numpy()
    )


SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in OVER},
    **{f"under {name}": {"method": "none", "under": name} for name in UNDER},
    "tomek": {"method": "none", "clean": "tomek", "clean_classes": "all"},
    "enn": {"method": "none", "clean": "enn"},
    "smote and tomek": {"method": "smote", "clean": "tomek"},
    "smote and enn": {"method": "smote", "clean": "enn"},
    "smote and fewer": {"method": "smote", "target": 0.5, "under": "random", "under_target": 0.8},
    "names": {"method": "smote-nc", "nominal": ["flag", "cou*"]},
    "names alone": {"method": "smoten"},
    "weighed": {"method": "smote", "weights": "mi"},
    "all of it": {"method": "borderline-2", "target": 0.7, "under": "nearmiss-1", "clean": "tomek", "weights": "mi"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_rows_whatever_the_shards_and_the_order(name: str, table: Path, mill: Mill, tmp_path: Path) -> None:
    """512 rows in one shard, and in four that are worked on in another order: the same examples; each verifies."""
    found: list[dict[str, Any]] = []
    for number, (rows, executor) in enumerate(((512, None), (128, Shuffled()))):
        root = tmp_path / str(number)
        mill(recipe_of(table, rows=rows, **SETTINGS[name]), root, executor)
        assert problems(root) == []
        found.append({t: read(root, t) for t in ("train", "train_dropped", "test")})
    assert (
        len(open_dataset(tmp_path / "1").paths("train")) > len(open_dataset(tmp_path / "0").paths("train"))
        or "under" in name
    )
    for other in found[1:]:
        for t, frame in found[0].items():
            pd.testing.assert_frame_equal(frame, other[t], check_exact=True)


@pytest.mark.parametrize("method", OVER)
def test_exactly_the_rows_asked_for_from_parents_in_train(method: str, table: Path, mill: Mill, tmp_path: Path) -> None:
    mill(recipe_of(table, rows=128, method=method), tmp_path)
    train = read(tmp_path, "train")
    assert len(set(Counter(train["label"]).values())) == 1
    synthetic, rows = train[train["is_synthetic"]], real(tmp_path).set_index("sample_id")
    a, b = rows.loc[synthetic["parent_a"]], rows.loc[synthetic["parent_b"]]
    assert (a["label"].to_numpy() == synthetic["label"].to_numpy()).all()
    if method != "borderline-2":
        assert (b["label"].to_numpy() == synthetic["label"].to_numpy()).all()
    x, y = (features(part).astype(np.float64) for part in (a, b))
    made = (x + synthetic["gap"].to_numpy()[:, None] * (y - x)).astype(np.float32)
    made[:, 4:] = np.rint(made[:, 4:])
    np.testing.assert_array_equal(features(synthetic), made)
    assert set(synthetic["flag"]) <= {0.0, 1.0}
    assert len(set(synthetic["sample_id"])) == len(synthetic)


PEERS: dict[str, Any] = {
    "random": RandomOverSampler(random_state=7),
    "smote": SMOTE(random_state=7),
    "adasyn": ADASYN(random_state=7),
    "borderline-1": BorderlineSMOTE(random_state=7),
    "borderline-2": BorderlineSMOTE(random_state=7, kind="borderline-2"),
}


@pytest.mark.parametrize("method", PEERS)
def test_as_the_class_over_standardised_rows(method: str, table: Path, mill: Mill, tmp_path: Path) -> None:
    """The stage and `fit_resample` on all of train, in the order of ids, name the same parents and gaps."""
    mill(recipe_of(table, rows=128, method=method), tmp_path)
    rows, train = real(tmp_path), read(tmp_path, "train")
    sampler = PEERS[method]
    labels = sampler.fit_resample(standard(tmp_path, rows), rows["label"].to_numpy())[1]
    made = pd.DataFrame(
        {
            "label": labels[len(rows) :],
            "parent_a": rows["sample_id"].to_numpy()[sampler.parent_a_[len(rows) :]],
            "parent_b": rows["sample_id"].to_numpy()[sampler.parent_b_[len(rows) :]],
            "gap": sampler.gap_[len(rows) :],
        }
    )
    synthetic = train[train["is_synthetic"]][list(made.columns)]
    order = ["label", "gap", "parent_a", "parent_b"]
    pd.testing.assert_frame_equal(
        synthetic.sort_values(order, ignore_index=True), made.sort_values(order, ignore_index=True), check_dtype=False
    )


@pytest.mark.parametrize("method", ["smote-nc", "smoten"])
def test_names_as_the_class_of_it(method: str, table: Path, mill: Mill, tmp_path: Path) -> None:
    """Parents, and the names that their neighbours vote for, are those of `fit_resample` on all of train."""
    names = {"nominal": ["flag", "count"]} if method == "smote-nc" else {}
    mill(recipe_of(table, rows=128, method=method, **names), tmp_path)
    rows, train = real(tmp_path), read(tmp_path, "train")
    x = standard(tmp_path, rows)
    raw = features(rows)
    if method == "smote-nc":
        x[:, 4:] = raw[:, 4:]
        sampler: Any = SMOTENC([4, 5], random_state=7)
    else:
        x, sampler = raw.astype(np.float64), SMOTEN(random_state=7)
    made, labels = sampler.fit_resample(x, rows["label"].to_numpy())
    first = 4 if method == "smote-nc" else 0
    expected = pd.DataFrame(made[len(rows) :, first:], columns=["f0", "f1", "f2", "f3", "count", "flag"][first:])
    expected["label"] = labels[len(rows) :]
    ids = rows["sample_id"].to_numpy()
    for name in ("parent_a", "parent_b"):
        expected[name] = ids[getattr(sampler, f"{name}_")[len(rows) :]]
    expected["gap"] = sampler.gap_[len(rows) :]
    synthetic = train[train["is_synthetic"]][list(expected.columns)]
    order = ["label", "gap", "parent_a", "parent_b", *expected.columns[: 6 - first]]
    pd.testing.assert_frame_equal(
        synthetic.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True),
        check_dtype=False,
    )  # fmt: skip


def parted(root: Path) -> tuple[NDArray[np.float64], NDArray[Any], set[str], list[str]]:
    rows = real(root)
    return (
        standard(root, rows),
        rows["label"].to_numpy(),
        set(read(root, "train")["sample_id"]),
        rows["sample_id"].tolist(),
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_near_miss_is_the_class_of_it(version: int, table: Path, mill: Mill, tmp_path: Path) -> None:
    wanted = {"many": 45, "some": 20}
    mill(recipe_of(table, rows=128, method="none", under=f"nearmiss-{version}", under_target=wanted), tmp_path)
    x, y, stays, ids = parted(tmp_path)
    sampler = NearMiss(version=version, sampling_strategy=wanted)
    sampler.fit_resample(x, y)
    assert stays == {ids[i] for i in sampler.sample_indices_}
    assert set(read(tmp_path, "train_dropped")["dropped_by"]) == {f"nearmiss-{version}"}


@pytest.mark.parametrize(
    ("clean", "classes"), [("tomek", "all"), ("tomek", "not minority"), ("enn", "not minority"), ("enn", "all")]
)
def test_cleaning_is_the_class_of_it(clean: str, classes: str, table: Path, mill: Mill, tmp_path: Path) -> None:
    mill(recipe_of(table, rows=128, method="none", clean=clean, clean_classes=classes), tmp_path)
    x, y, stays, ids = parted(tmp_path)
    sampler: Any = TomekLinks if clean == "tomek" else EditedNearestNeighbours
    sampler = sampler(sampling_strategy=classes)
    sampler.fit_resample(x, y)
    assert 0 < len(stays) < len(ids)
    assert stays == {ids[i] for i in sampler.sample_indices_}


def test_random_under_sampling_is_uniform_and_keeps_what_it_says(table: Path, mill: Mill, tmp_path: Path) -> None:
    manifest = mill(recipe_of(table, method="none", under="random", under_target={"many": 60, "some": 10}), tmp_path)
    kept = Counter(read(tmp_path, "train")["label"])
    counts = Counter(real(tmp_path)["label"])
    assert kept == {"many": 60, "some": 10, "rare": counts["rare"]}
    assert manifest.summary["balance"]["after"]["train"] == dict(sorted(kept.items()))
    assert manifest.summary["balance"]["before"]["train"] == dict(sorted(counts.items()))


def test_combined_as_chawla_did(table: Path, mill: Mill, tmp_path: Path) -> None:
    mill(recipe_of(table, target=0.5, under="random", under_target=0.8), tmp_path)
    before, after = Counter(real(tmp_path)["label"]), Counter(read(tmp_path, "train")["label"])
    half = round(0.5 * before["many"])
    assert after == {"rare": half, "some": max(before["some"], half), "many": round(half / 0.8)}


def test_weights_change_who_is_near(table: Path, mill: Mill, tmp_path: Path) -> None:
    """Neighbours under weights are the nearest of columns multiplied by the root of their relative information."""
    mill(recipe_of(table, weights="mi"), tmp_path)
    rows = real(tmp_path)
    scores = (
        pq.read_table(open_dataset(tmp_path).paths("screening")[0]).to_pandas().set_index("feature")["mi_corrected"]
    )
    weight = scores.loc[["f0", "f1", "f2", "f3", "count", "flag"]].clip(lower=0).to_numpy()
    x = standard(tmp_path, rows) * np.sqrt(weight / weight.mean())
    train = read(tmp_path, "train")
    for label in ("some", "rare"):
        own = np.flatnonzero(rows["label"] == label)
        near = NearestNeighbors(n_neighbors=6).fit(x[own]).kneighbors(x[own])[0]
        at = {sample: i for i, sample in enumerate(rows["sample_id"].iloc[own])}
        made = train[train["is_synthetic"] & (train["label"] == label)]
        a, b = ([at[sample] for sample in made[name]] for name in ("parent_a", "parent_b"))
        assert (np.linalg.norm(x[own][a] - x[own][b], axis=1) <= near[a, -1] * (1 + 1e-9)).all()


def test_an_approximate_search_says_what_it_found(
    table: Path, mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "SMALL", 20)
    monkeypatch.setattr(approximate, "MOST", 1.0)
    manifest = mill(recipe_of(table, search="ivf", recall=0.7), tmp_path)
    assert problems(tmp_path) == []
    rows, train, told = real(tmp_path), read(tmp_path, "train"), manifest.summary["neighbours_found"]
    assert set(told) == {"some", "rare"}
    assert "searched approximately" in (tmp_path / "README.md").read_text()
    x = standard(tmp_path, rows)
    for label, recall in told.items():
        assert 0.6 < recall <= 1
        own = np.flatnonzero(rows["label"] == label)
        near = NearestNeighbors(n_neighbors=6).fit(x[own]).kneighbors(x[own])[1][:, 1:]
        ids = rows["sample_id"].to_numpy()[own]
        pairs = {(ids[i], ids[j]) for i, line in enumerate(near) for j in line}
        made = train[train["is_synthetic"] & (train["label"] == label)]
        found = [(a, b) in pairs for a, b in zip(made["parent_a"], made["parent_b"], strict=True)]
        assert np.mean(found) > recall - 0.1


def test_missing_values(table: Path, mill: Mill, tmp_path: Path) -> None:
    frame = pq.read_table(table).to_pandas()
    frame.loc[::7, "f1"] = np.nan
    frame.loc[3, "f2"] = np.inf
    path = tmp_path / "holes.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    with pytest.raises(
        RecipeError, match=r"rebalancing.missing: of .* rows of train values are missing.*f1 in"
    ) as refusal:
        mill(recipe_of(path), tmp_path / "error")
    assert "missing: mean" in refusal.value.remedy
    for way in ("mean", "keep"):
        root = tmp_path / way
        mill(recipe_of(path, missing=way), root)
        assert problems(root) == []
        train = read(root, "train")
        assert train[~train["is_synthetic"]]["f1"].isna().any()
        assert train[train["is_synthetic"]]["f1"].isna().any() == (way == "keep")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"target": {"none such": 5}}, "target"),
        ({"target": {"rare": 1}}, "target"),
        ({"under": "random", "under_target": {"many": 10**6}}, "under_target"),
        ({"under": "random", "under_target": {"rare": 3}}, "under_target"),
        ({"clean": "tomek", "clean_classes": ["x"]}, "clean_classes"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    settings: dict[str, Any], field: str, table: Path, mill: Mill, tmp_path: Path
) -> None:
    with pytest.raises(BinmillError, match=rf"rebalancing\.{field}"):
        mill(recipe_of(table, **settings), tmp_path)


def test_a_forged_row_is_found(table: Path, mill: Mill, tmp_path: Path) -> None:
    from tasks.query.synthetic import wrong_rows

    mill(recipe_of(table, method="borderline-2"), tmp_path)
    dataset = open_dataset(tmp_path)
    path = next(p for p in dataset.paths("train") if pq.read_table(p, columns=["is_synthetic"])[0][0].as_py())
    rows = pq.read_table(path)
    gap = rows.column("gap").to_numpy().copy()
    gap[4] = gap[4] / 2 + 1e-3
    pq.write_table(rows.set_column(rows.schema.get_field_index("gap"), "gap", pa.array(gap)), path)
    found = list(wrong_rows(dataset))
    assert [problem.split(":")[0] for _, problem in found] == [f"row {rows.column('sample_id')[4].as_py()}"]
