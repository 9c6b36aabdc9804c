"""CodeIndex: a dataset's codes searched straight from Parquet, against all rows by brute force."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from flows.search import embedded, neighbours
from schemas.errors import QueryError
from tasks.binarize.rows import feature_matrix
from tasks.codes.packing import values
from tasks.codes.search import information
from tasks.query import codes as codes_module
from tasks.query.codes import CodeIndex
from tasks.query.dataset import Dataset, open_dataset
from tasks.query.sql import query
from tasks.query.verify import verify
from tasks.shards import mapped, read_shard
from tests.conftest import Mill

METHODS = ["sign", "simhash", "itq", "rabitq", "residual"]


@pytest.fixture(scope="module")
def dataset(mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Vectors about twelve centres, in several shards; with int8 vectors beside the codes."""
    folder = tmp_path_factory.mktemp("vectors")
    random = np.random.default_rng(0)
    label = random.integers(0, 3, 1500)
    centres = random.standard_normal((12, 20))
    x = (centres[label * 4 + random.integers(0, 4, 1500)] + 0.4 * random.standard_normal((1500, 20))).astype(np.float32)
    polars.DataFrame({"v": x, "kind": label.astype(str)}).write_parquet(folder / "v.parquet")
    recipe = {
        "name": "vectors",
        "sources": [{"kind": "table", "path": str(folder / "v.parquet"), "label_column": "kind"}],
        "label": {"origin": "column"},
        "screening": {"top": 20, "max_q": 1.0},
        "binarizing": {"embedding": "columns", "methods": METHODS, "rescoring": True},
        "publishing": {"shard_files": 2, "row_group_rows": 100},
    }
    mill(recipe, folder / "out")
    return open_dataset(folder / "out")


@pytest.fixture(scope="module")
def rows(dataset: Dataset) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and vectors of the rows with codes, in the order of the codes."""
    found: dict[str, NDArray[np.float32]] = {}
    for split in ("train", "validation", "test"):
        for path in dataset.paths(split):
            table = read_shard(dataset.root, path.relative_to(dataset.root).as_posix())
            real = ~table.column("is_synthetic").to_numpy()
            samples = np.array(table.column("sample_id").to_pylist())[real]
            found |= dict(zip(samples, feature_matrix(table)[real], strict=True))
    ids = [sample for path in dataset.paths("codes") for sample in pq.read_table(path)["sample_id"].to_pylist()]
    return ids, np.stack([found[sample] for sample in ids])


def test_codes_lie_in_the_file_as_they_are_and_are_mapped(dataset: Dataset) -> None:
    files = {path: pq.ParquetFile(path) for path in dataset.paths("codes")}
    assert max(file.num_row_groups for file in files.values()) > 1
    for path, file in files.items():
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for name in (*METHODS, "vector"):
                width = table.schema.field(name).type.byte_width
                found = mapped(path, group, name, width)
                assert found is not None
                assert [bytes(row) for row in found] == table.column(name).to_pylist()
                assert mapped(path, group, name, width + 1) is None
            scale = mapped(path, group, "vector_scale", 4)
            assert scale is not None
            assert scale.view(np.float32)[:, 0].tolist() == table.column("vector_scale").to_pylist()
            assert mapped(path, group, "sample_id", 64) is None
    assert [f for _, fs in verify(dataset) for f in fs] == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("as_mapped", [True, False])
def test_hits_are_those_of_brute_force(
    method: str,
    as_mapped: bool,
    dataset: Dataset,
    rows: tuple[list[str], NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not as_mapped:
        monkeypatch.setattr(codes_module, "mapped", lambda *_: None)
    ids, vectors = rows
    asked = vectors[::50]
    index = CodeIndex(dataset, method)
    assert index.rows == len(ids) == 1500
    hits = index.search(asked, 10, rescore=0)
    coded = index.binarizer.encode(vectors)
    if index.distance == "Hamming":
        far = np.bitwise_count(index.binarizer.encode(asked).codes[:, None] ^ coded.codes).sum(axis=2)
        order = np.argsort(far, axis=1, kind="stable")[:, :10]
        assert hits.ids.tolist() == np.array(ids, dtype=object)[order].tolist()
        assert np.array_equal(hits.distances, np.take_along_axis(far, order, axis=1))
        shared = information(
            index.binarizer, index.binarizer.encode(asked[:1]).codes.repeat(10, 0), coded.codes[order[0]]
        )
        assert np.array_equal(hits.information[0], shared)
    else:
        projected, binarizer = index.binarizer.project(asked).astype(np.float64), index.binarizer
        norms, factors = (binarizer.tables[i][places].astype(np.float64) for i, places in enumerate(coded[1:]))
        inner = projected @ values(coded.codes, binarizer.width, binarizer.weights).T.astype(np.float64)
        far = (projected**2).sum(axis=1)[:, None] + norms**2 - 2 * factors * inner
        np.testing.assert_allclose(hits.distances, np.sort(far, axis=1)[:, :10], rtol=1e-4, atol=1e-3)
    closer = index.search(asked, 10)
    assert (np.diff(closer.distances, axis=1) >= 0).all()
    # A row's int8 vector is nearest to the row; but of many rows with its code, not all are looked at.
    itself = closer.ids[:, 0] == np.array(ids, dtype=object)[::50]
    same = (coded.codes[::50, None] == coded.codes).all(axis=2).sum(axis=1)
    if index.distance == "Hamming":
        assert (itself | (same > 40)).all()
    assert itself.mean() > 0.7
    assert (closer.distances[itself, 0] < 0.01).all()


def test_threads_and_batches_change_nothing(
    dataset: Dataset, rows: tuple[list[str], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rows[1][:30]
    alone = CodeIndex(dataset, "residual").search(asked, 7)
    monkeypatch.setattr(codes_module, "QUERIES", 4)
    together = CodeIndex(dataset, "residual", threads=3).search(asked, 7)
    assert alone.ids.tolist() == together.ids.tolist()
    assert np.array_equal(alone.distances, together.distances)


def test_only_rows_that_meet_the_condition(dataset: Dataset, rows: tuple[list[str], NDArray[np.float32]]) -> None:
    index = CodeIndex(dataset, "rabitq")
    met = query(dataset, "SELECT sample_id FROM labels JOIN splits USING (sample_id) WHERE label='2' AND split='test'")
    wanted = set(met.column(0).to_pylist())
    hits = index.search(rows[1][:5], 1500, rescore=0, where="label = '2' AND split = 'test'")
    for names, far in zip(hits.ids, hits.distances, strict=True):
        assert {name for name in names if name is not None} == wanted
        assert np.isfinite(far).sum() == len(wanted)
    assert set(hits.splits[0][: len(wanted)]) == {"test"}
    none = index.search(rows[1][:1], 3, where="label = 'unheard of'")
    assert none.ids.tolist() == [[None] * 3]
    for wrong in ("nothing = 1", "true) UNION SELECT 'x' --", "label = '1'; DROP TABLE codes"):
        with pytest.raises(QueryError, match="--where"):
            index.search(rows[1][:1], 3, where=wrong)


def test_the_card_shows_recall_and_its_plot(dataset: Dataset) -> None:
    measured = query(dataset, "SELECT * FROM fitted_recall").to_pylist()
    assert [row["method"] for row in measured] == METHODS
    assert all(row["rescored"] >= row["recall"] for row in measured)
    card = (dataset.root / "README.md").read_text(encoding="utf-8")
    assert "](codes.svg)" in card
    assert all(f"| {row['recall']:.3f} | {row['rescored']:.3f} |" in card for row in measured)
    plot = (dataset.root / "codes.svg").read_text(encoding="utf-8")
    assert all(method in plot for method in METHODS)
    assert "codes.svg" in dataset.manifest.files


def test_what_cannot_be_searched_is_said(dataset: Dataset, mill: Mill, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="20 dimensions"):
        CodeIndex(dataset).search(np.zeros((1, 3), np.float32))
    with pytest.raises(QueryError, match="choose from sign, simhash"):
        CodeIndex(dataset, "magic")
    empty = CodeIndex(dataset).search(np.zeros((0, 20), np.float32), 4)
    assert empty.ids.shape == empty.distances.shape == (0, 4)


def test_neighbours_of_a_row_are_shown_with_their_labels(
    dataset: Dataset, rows: tuple[list[str], NDArray[np.float32]]
) -> None:
    ids, vectors = rows
    assert np.array_equal(embedded(dataset, ids[3])[0], vectors[3])
    table = neighbours(dataset, ids[3][:20], 4, "residual", where="split <> 'validation'")
    assert table.column("split").to_pylist().count("validation") == 0
    assert table.schema.names[:3] == ["distance", "information", "label"]
    assert None not in table.column("label").to_pylist()


def test_auto_measures_and_says_what(mill: Mill, dataset: Dataset, tmp_path: Path) -> None:
    recipe: dict[str, Any] = dict(dataset.manifest.recipe)
    recipe["binarizing"] = {"embedding": "columns", "methods": ["auto"], "budget": 10}
    mill(recipe, tmp_path / "auto")
    made = open_dataset(tmp_path / "auto")
    choice = query(made, "SELECT * FROM fitted_choice").to_pylist()
    chosen = [row for row in choice if row["chosen"]]
    assert len(chosen) == 1
    assert all(row["bytes"] <= 10 for row in choice)
    best = max(row["recall"] for row in choice)
    assert chosen[0]["recall"] >= best - 0.005
    assert not [row for row in choice if row["bytes"] < chosen[0]["bytes"] and row["recall"] >= best - 0.005]
    index = CodeIndex(made)
    assert (index.method, index.binarizer.planes) == (chosen[0]["method"], chosen[0]["planes"])
    assert not index.keeps_vectors
    with pytest.raises(QueryError, match="no vectors to rescore by"):
        index.search(np.zeros((1, 20), np.float32), rescore=4)


@pytest.fixture(scope="module")
def celled(dataset: Dataset, mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same rows, their codes stored by cell."""
    recipe: dict[str, Any] = dict(dataset.manifest.recipe)
    recipe["binarizing"] = recipe["binarizing"] | {"cells": 24, "copies": 1.0}
    place = tmp_path_factory.mktemp("cells") / "out"
    mill(recipe, place)
    return open_dataset(place)


def test_a_row_group_has_one_cell_and_border_rows_are_in_several(celled: Dataset) -> None:
    fitted = query(celled, "SELECT * FROM fitted_cells ORDER BY cell").to_pylist()
    assert len(fitted) == 24
    assert max(row["rows"] for row in fitted) < 2.5 * 1500 * 0.8 / 24
    for table in ("codes", "borders"):
        for path in celled.paths(table):
            file = pq.ParquetFile(path)
            cells = [set(file.read_row_group(g, ["cell"])["cell"].to_pylist()) for g in range(file.num_row_groups)]
            assert all(len(cell) == 1 for cell in cells)
            assert len(set.union(*cells)) == len(cells)
    rows = query(celled, "SELECT count(*) AS n, count(DISTINCT sample_id) AS different FROM codes").to_pylist()
    assert rows == [{"n": 1500, "different": 1500}]
    copies = query(celled, "SELECT count(*) AS n FROM borders").to_pylist()[0]["n"]
    assert 1200 < copies < 1800  # asked for: one a row on average
    # A copy is its row, in another cell; `place` is its row in the shard of the same name.
    for path in celled.paths("borders"):
        border, whole = pq.read_table(path), pq.read_table(path.parent.parent / "codes" / path.name)
        same = whole.take(border["place"])
        for name in ("sample_id", "split", *METHODS, "rabitq_norm", "rabitq_factor"):
            assert border[name].to_pylist() == same[name].to_pylist(), name
        assert all(a != b for a, b in zip(border["cell"].to_pylist(), same["cell"].to_pylist(), strict=True))
        pairs = list(zip(border["cell"].to_pylist(), border["place"].to_pylist(), strict=True))
        assert len(set(pairs)) == len(pairs)
    assert [f for _, fs in verify(celled) for f in fs] == []


def test_cells_are_those_of_their_definition(celled: Dataset, rows: tuple[list[str], NDArray[np.float32]]) -> None:
    fitted = query(celled, "SELECT * FROM fitted_cells ORDER BY cell").to_pylist()
    centroids = np.array([row["centroid"] for row in fitted])
    ids, vectors = rows
    far = ((vectors[:, None, :].astype(np.float64) - centroids) ** 2).sum(axis=2) + [row["offset"] for row in fitted]
    own = {row["sample_id"]: row["cell"] for row in query(celled, "SELECT sample_id, cell FROM codes").to_pylist()}
    assert [own[i] for i in ids] == far.argmin(axis=1).tolist()
    near = {
        (ids[r], c) for r, c in zip(*np.nonzero(far <= far.min(axis=1)[:, None] + fitted[0]["border"]), strict=True)
    }
    stored = query(
        celled, "SELECT sample_id, cell FROM codes UNION ALL SELECT sample_id, cell FROM borders"
    ).to_pylist()
    kept = {(row["sample_id"], row["cell"]) for row in stored}
    assert kept <= near
    counts = {i: sum(name == i for name, _ in kept) for i in {i for i, _ in near - kept}}
    assert set(counts.values()) <= {8}  # no row is in more


@pytest.mark.parametrize("method", ["sign", "rabitq", "residual"])
def test_reading_every_cell_is_reading_all_rows(
    method: str,
    dataset: Dataset,
    celled: Dataset,
    rows: tuple[list[str], NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = rows[1][::20]
    index, plain = CodeIndex(celled, method), CodeIndex(dataset, method)
    everywhere, before = index.search(asked, 10), plain.search(asked, 10)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_cells_for", lambda _: 24)
        all_cells = index.search(asked, 10, recall=1.0)
    assert everywhere.ids.tolist() == all_cells.ids.tolist()
    assert np.array_equal(everywhere.distances, all_cells.distances)
    # Of codes alone many are equally near: ties go by row number, however few ask and however they are cut.
    plainly = index.search(asked, 10, rescore=0)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_cells_for", lambda _: 24)
        for size in (1, 3, len(asked)):
            batches = [index.search(asked[i : i + size], 10, rescore=0, recall=1.0) for i in range(0, len(asked), size)]
            assert np.concatenate([hits.ids for hits in batches]).tolist() == plainly.ids.tolist()
    assert np.array_equal(everywhere.distances, before.distances) or method == "sign"  # ties go by row number
    some = index.search(asked, 10, recall=0.5, rescore=0)
    for names in some.ids:
        found = [name for name in names if name is not None]
        assert len(set(found)) == len(found)
    threaded = CodeIndex(celled, method, threads=3).search(asked, 10, recall=0.5, rescore=0)
    assert threaded.ids.tolist() == some.ids.tolist()
    one = [index.search(asked[i : i + 1], 10, recall=0.5, rescore=0).ids[0].tolist() for i in range(10)]
    assert one == some.ids[:10].tolist()


def test_a_recall_asked_for_is_reached_on_rows_that_were_not_measured(
    celled: Dataset, rows: tuple[list[str], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = CodeIndex(celled, "residual")
    assert [p["probes"] for p in index.probes] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert index.probes[-1]["recall"] == 1.0
    assert all(a["recall"] <= b["recall"] and a["read"] < b["read"] for a, b in itertools.pairwise(index.probes))
    ids, vectors = rows
    random = np.random.default_rng(1)
    asked = (vectors[::10] + 0.1 * random.standard_normal(vectors[::10].shape)).astype(np.float32)
    exact = np.array(ids)[((vectors[None] - asked[:, None]) ** 2).sum(axis=2).argsort(axis=1)[:, :10]]
    read: list[int] = []
    nearest = codes_module.nearest_codes
    monkeypatch.setattr(
        codes_module,
        "nearest_codes",
        lambda b, a, r, k: read.append(len(r.codes) * len(a.codes)) or nearest(b, a, r, k),
    )
    for wanted in (0.8, 0.95):
        read.clear()
        hits = index.search(asked, 10, recall=wanted)
        found = np.mean([len(set(a) & set(b)) for a, b in zip(hits.ids, exact, strict=True)]) / 10
        every = index.search(asked, 10)
        limit = np.mean([len(set(a) & set(b)) for a, b in zip(every.ids, exact, strict=True)]) / 10
        assert found >= wanted * limit - 0.03
        row = next(p for p in index.probes if p["recall"] >= wanted)
        assert row["probes"] < 24
        read.clear()
        index.search(asked, 10, recall=wanted)
        assert sum(read) == pytest.approx(row["read"] * len(asked) * 1500, rel=0.2)


def test_cells_and_a_condition_together(celled: Dataset, rows: tuple[list[str], NDArray[np.float32]]) -> None:
    index = CodeIndex(celled, "itq")
    met = query(celled, "SELECT sample_id FROM splits WHERE split = 'test'").column(0).to_pylist()
    hits = index.search(rows[1][:20], 5, recall=0.7, where="split = 'test'")
    assert {name for names in hits.ids for name in names if name is not None} <= set(met)
    assert set(hits.splits.ravel()) - {None} == {"test"}
    table = neighbours(celled, rows[0][3][:20], 4, "residual", recall=0.9)
    assert table.num_rows == 4


def test_a_recall_without_cells_is_an_error(dataset: Dataset, celled: Dataset) -> None:
    with pytest.raises(QueryError, match=r"binarizing\.cells"):
        CodeIndex(dataset).search(np.zeros((1, 20), np.float32), recall=0.9)
    with pytest.raises(QueryError, match="not a share"):
        CodeIndex(celled).search(np.zeros((1, 20), np.float32), recall=1.5)
