"""CodeIndex: a dataset's codes searched straight from Parquet, against all rows by brute force."""

from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from flows.search import embedded, neighbours
from schemas.errors import QueryError
from tasks.binarize.task import feature_matrix
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
