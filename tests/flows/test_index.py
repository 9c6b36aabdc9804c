"""Indexes: files of vectors without labels, coded and searched; files appended later change nothing that is there."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from flows.adapt import adapt
from flows.apply import apply
from flows.index import index_recipe
from flows.search import neighbours
from schemas.errors import BinmillError, QueryError, RecipeError, SourceError
from tasks.binarize.fitting import fit
from tasks.query.codes import CodeIndex
from tasks.query.dataset import Dataset, open_dataset
from tasks.query.sql import query
from tasks.query.trace import trace
from tasks.query.verify import verify
from tests.conftest import Mill


def vectors(rows: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((8, 24))
    return (centres[random.integers(0, 8, rows)] + 0.4 * random.standard_normal((rows, 24))).astype(np.float32)


ONE, TWO = vectors(900, 1), vectors(400, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    np.save(folder / "one.npy", ONE)
    table = pa.table({"id": [f"it's {i}" for i in range(400)], "v": list(TWO)})
    pq.write_table(
        table.cast(pa.schema([("id", pa.string()), ("v", pa.list_(pa.float32(), 24))])), folder / "two.parquet"
    )
    np.save(folder / "three.npy", TWO)
    return folder


def made(mill: Mill, paths: list[Path], output: Path, settings: dict[str, Any] | None = None, **more: Any) -> Dataset:
    recipe = index_recipe(paths, output, settings or {}, **more).model_dump(mode="json")
    recipe["publishing"] |= {"shard_files": 2}
    output.mkdir(exist_ok=True)
    mill(recipe, output)
    return open_dataset(output)


@pytest.fixture(scope="module")
def index(mill: Mill, folder: Path) -> Dataset:
    settings = {"cells": 12, "rescoring": True, "methods": ["residual", "itq"], "planes": 4}
    return made(mill, [folder / "one.npy", folder / "three.npy"], folder / "both", settings)


def test_codes_are_those_of_the_rows_and_say_whose_they_are(index: Dataset) -> None:
    rows = query(index, "SELECT * FROM codes JOIN sources USING (source_id)").to_pylist()
    assert len(rows) == 1300
    fitted = {m: CodeIndex(index, m).binarizer for m in ("residual", "itq")}
    for name, x in (("one.npy", ONE), ("three.npy", TWO)):
        mine = sorted((row for row in rows if row["filename"] == name), key=lambda row: row["row"])
        assert [row["row"] for row in mine] == list(range(len(x)))
        for method, binarizer in fitted.items():
            assert [row[method] for row in mine] == [bytes(code) for code in binarizer.encode(x).codes]
    row = rows[5]
    link = next(link for link in trace(index, row["sample_id"]).links if link.table == "codes")
    assert link.values["row"] == row["row"]
    assert [f for _, fs in verify(index) for f in fs] == []
    assert len(query(index, "SELECT DISTINCT sample_id FROM codes")) == 1300
    assert "binmill search . --vectors" in (index.root / "README.md").read_text(encoding="utf-8")


def test_an_id_that_names_two_rows_is_refused(mill: Mill, folder: Path) -> None:
    kind = pa.schema([("id", pa.string()), ("v", pa.list_(pa.float32(), 24))])
    for name, ids in (("same.parquet", ["a", "b", "a"]), ("again.parquet", ["c", "it's 7"])):
        pq.write_table(pa.table({"id": ids, "v": list(TWO[: len(ids)])}).cast(kind), folder / name)
    with pytest.raises(RecipeError, match=r"'a' names more than one row: same.parquet, row 0, and same.parquet, row 2"):
        made(mill, [folder / "two.parquet", folder / "same.parquet"], folder / "twice", id_column="id")
    with pytest.raises(RecipeError, match=r"'it's 7' .* two.parquet, row 7"):
        made(mill, [folder / "two.parquet", folder / "again.parquet"], folder / "twice", id_column="id")
    assert not (folder / "twice" / "manifest.json").exists()


def test_a_file_that_is_appended_changes_nothing_that_is_there(mill: Mill, folder: Path, index: Dataset) -> None:
    output = folder / "grown"
    settings = {"cells": 12, "rescoring": True, "methods": ["residual", "itq"], "planes": 4}
    alone = made(mill, [folder / "one.npy"], output, settings)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    grown = made(mill, [folder / "three.npy"], output, append=True)
    assert {path: path.stat().st_mtime_ns for path in times if path.exists()} == times
    assert grown.manifest.fitted == alone.manifest.fitted
    assert {shard.path for shard in alone.manifest.tables["codes"]} < {
        shard.path for shard in grown.manifest.tables["codes"]
    }
    # And it is what both files at once give.
    assert grown.manifest.digest == index.manifest.digest


def test_hits_are_the_nearest_vectors(index: Dataset) -> None:
    both = np.concatenate([ONE, TWO])
    asked = vectors(40, 3)
    exact = ((asked[:, None] - both[None]) ** 2).sum(axis=2).argsort(axis=1)[:, :10]
    sql = (
        "SELECT sample_id, row + CASE filename WHEN 'one.npy' THEN 0 ELSE 900 END AS n "
        "FROM codes JOIN sources USING (source_id)"
    )
    codes = query(index, sql).to_pylist()
    number = {row["sample_id"]: row["n"] for row in codes}
    opened = CodeIndex(index, "residual")
    for recall, least in ((None, 0.9), (0.9, 0.8)):
        hits = opened.search(asked, 10, recall=recall)
        found = np.mean([len({number[i] for i in ids} & set(e)) for ids, e in zip(hits.ids, exact, strict=True)]) / 10
        assert found > least
    measured = {row["method"]: row for row in query(index, "SELECT * FROM fitted_recall").to_pylist()}
    assert measured["residual"]["queries"] == 180
    assert measured["residual"]["base"] == 720
    assert measured["residual"]["rescored"] > 0.95


def test_search_by_vectors_by_row_and_under_a_condition(index: Dataset, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", TWO[[7, 3]])
    table = neighbours(index, tmp_path / "q.npy", 2, "residual")
    assert table.schema.names[:2] == ["query", "distance"]
    rows = table.to_pylist()
    assert [(row["query"], row["filename"], row["row"]) for row in rows[::2]] == [
        (0, "three.npy", 7),
        (1, "three.npy", 3),
    ]
    again = neighbours(index, rows[0]["sample_id"][:20], 2, "residual")
    assert again.to_pylist()[0]["row"] == 7
    assert "query" not in again.schema.names
    other = neighbours(index, tmp_path / "q.npy", 5, where="filename = 'one.npy' AND row < 100").to_pylist()
    assert {row["filename"] for row in other} == {"one.npy"}
    assert max(row["row"] for row in other) < 100
    np.save(tmp_path / "wide.npy", np.zeros((2, 25), np.float32))
    with pytest.raises(QueryError, match="25 components, wanted are 24"):
        neighbours(index, tmp_path / "wide.npy", 2)
    with pytest.raises(QueryError, match="no such file"):
        neighbours(index, tmp_path / "none.npy", 2)
    with pytest.raises(QueryError, match="index of vectors"):
        list(apply(index, [folder / "one.npy"]))


def test_ids_of_a_column_and_principal_components(mill: Mill, folder: Path, tmp_path: Path) -> None:
    settings = {"embedding": "pca", "dimensions": 8, "methods": ["median"]}
    made_index = made(mill, [folder / "two.parquet"], tmp_path / "ids", settings, id_column="id")
    opened = CodeIndex(made_index)
    assert opened.binarizer.dimensions == 8
    assert set(query(made_index, "SELECT sample_id FROM codes").column(0).to_pylist()) == {
        f"it's {i}" for i in range(400)
    }
    found = neighbours(made_index, folder / "three.npy", 1)
    assert found.num_rows == 400
    assert sum(row["row"] == row["query"] for row in found.to_pylist()) > 50  # eight bits tell few rows apart
    with pytest.raises(QueryError, match="keeps no vectors"):
        neighbours(made_index, "it's 17", 2)


def test_what_cannot_be_indexed_is_said(mill: Mill, folder: Path, index: Dataset, tmp_path: Path) -> None:
    def fails(kind: type[BinmillError], match: str, *paths: Path, **more: Any) -> None:
        with pytest.raises(kind, match=match):
            made(mill, list(paths), tmp_path / "wrong", **more)

    np.save(tmp_path / "narrow.npy", ONE[:, :5])
    np.save(tmp_path / "copy.npy", ONE)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    pq.write_table(pa.table({"id": ["a", None], "x": [1.0, 2.0], "text": ["a", "b"]}), tmp_path / "gap.parquet")
    one = folder / "one.npy"
    fails(RecipeError, "of 5 components, one.npy of 24", one, tmp_path / "narrow.npy")
    fails(RecipeError, "the same bytes", one, tmp_path / "copy.npy")
    fails(RecipeError, "read from .npy, Parquet or Arrow", tmp_path / "a.csv")
    fails(RecipeError, "not there", tmp_path / "nothing.npy")
    fails(SourceError, "not numbers", tmp_path / "gap.parquet")
    fails(SourceError, "no column 'name'", one, id_column="name")
    fails(SourceError, "no value in 'id'", tmp_path / "gap.parquet", columns=["x"], id_column="id")
    with pytest.raises(RecipeError, match="has this file already"):
        index_recipe([one], index.root, {}, append=True)
    with pytest.raises(RecipeError, match="keeps its settings"):
        index_recipe([one], index.root, {"bits": 3}, append=True)
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        index_recipe([one], tmp_path / "nowhere", {}, append=True)
    mixed = index_recipe([one], tmp_path, {}).model_dump(mode="json")
    mixed["label"] = {"origin": "column"}
    with pytest.raises(RecipeError, match="goes with sources of vectors"):
        mill(mixed, tmp_path / "wrong")


@pytest.mark.parametrize("method", ["residual", "itq"])
def test_a_new_models_vectors_search_old_codes(index: Dataset, folder: Path, tmp_path: Path, method: str) -> None:
    random = np.random.default_rng(4)
    turn = np.linalg.qr(random.standard_normal((40, 40)))[0][:24]

    def newer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return (2 * x @ turn + 0.3 + 0.02 * random.standard_normal((len(x), 40))).astype(np.float32)

    np.save(tmp_path / "new.npy", newer(ONE))
    asked = vectors(50, 5)
    np.save(tmp_path / "asked.npy", newer(asked))
    np.save(tmp_path / "old.npy", asked)
    learned = adapt(index, tmp_path / "new.npy", method=method)
    assert (learned.rows, learned.asked, learned.searched) == (720, 180, 900)
    assert learned.found > (0.95 if method == "residual" else 0.3)
    learned.binarizer.save(tmp_path / "b.parquet")
    place = tmp_path / "b.parquet"
    before = neighbours(index, tmp_path / "old.npy", 10, method, rescore=0).to_pylist()
    after = neighbours(index, tmp_path / "asked.npy", 10, binarizer=place).to_pylist()
    pairs = {(row["query"], row["sample_id"]) for row in before} & {(row["query"], row["sample_id"]) for row in after}
    assert len(pairs) > (0.7 if method == "residual" else 0.3) * 500
    # By id the same rows are known, in any order, with others among them that the index has not.
    ids = query(index, "SELECT sample_id, row FROM codes JOIN sources USING (source_id) WHERE filename = 'one.npy'")
    x = newer(ONE)
    named = pa.table({"id": ids.column(0), "v": [x[row] for row in ids.column(1).to_pylist()]})
    named = pa.concat_tables([named, pa.table({"id": ["stranger"], "v": [x[0]]})])
    kinds = pa.schema([("id", pa.string()), ("v", pa.list_(pa.float32(), 40))])
    pq.write_table(named.cast(kinds), tmp_path / "named.parquet")
    again = adapt(index, tmp_path / "named.parquet", id_column="id", method=method)
    assert again.searched == 900
    assert again.found == pytest.approx(learned.found, abs=0.1)
    for wrong, match in (
        ("three.npy", "three.npy has 400"), ("none.npy", "no such file"),
    ):  # fmt: skip
        with pytest.raises(QueryError, match=match):
            adapt(index, tmp_path / "new.npy", of=wrong)
    with pytest.raises(QueryError, match="wanted are 40"):
        neighbours(index, tmp_path / "old.npy", 10, binarizer=place)
    with pytest.raises(QueryError, match="another model's vectors"):
        neighbours(index, ids.column(0)[0].as_py(), 10, binarizer=place)
    with pytest.raises(QueryError, match="no vectors to rescore"):
        CodeIndex(index, binarizer=learned.binarizer).search(x[:1], rescore=4)
    other = fit(method, ONE[:, :8])
    with pytest.raises(QueryError, match="not for these codes"):
        CodeIndex(index, binarizer=other)
