"""bench-codes: what is measured, against counting by hand, and that only times differ between runs."""

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from typer.testing import CliRunner

from flows.bench_codes import METHODS, read_vectors
from flows.cli import app
from schemas.errors import QueryError, RecipeError
from tasks.binarize.benchmark import NOISE, Line, compare, frontier, noise, trials
from tasks.codes.rotation import stream

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def x() -> Floats:
    """Correlated vectors about twenty centres."""
    random = np.random.default_rng(0)
    return (
        random.standard_normal((20, 16))[random.integers(0, 20, 900)] + 0.5 * random.standard_normal((900, 16))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def lines(x: Floats) -> list[Line]:
    return list(compare(x, bits=(16, 48), methods=METHODS, k=5, seed=3))


def test_every_method_and_rotation_is_measured(lines: list[Line]) -> None:
    assert [line.method for line in lines[:2]] == ["float32", "int8"]
    there = {(line.method, line.bits) for line in lines[2:]}
    assert there == {(m, 16) for m in METHODS} | {
        (m, 48) for m in ("simhash", "selected", "kernel", "rabitq", "residual")
    }
    assert {line.rotation for line in lines if line.method == "rabitq" and line.bits == 16} == {"axes", "random", "itq"}
    for line in lines[2:]:
        assert 0 < line.recall <= 1
        assert line.rescored is not None
        assert line.rescored >= line.recall - 0.02
        assert line.noisy[0] > line.noisy[-1] - 0.02
        assert line.flipped is not None
        assert list(line.flipped) == sorted(line.flipped)
        assert line.bytes >= line.bits / 8


def test_recall_is_counted_against_scikit_learn(x: Floats, lines: list[Line]) -> None:
    order = stream(3, "bench").permutation(900)
    queries, base = x[order[:180]], x[order[180:]]
    true = NearestNeighbors(n_neighbors=5).fit(base).kneighbors(queries, return_distance=False)
    bits, own = (part > 0 for part in (base, queries))
    far = (own[:, None] != bits).sum(axis=2)
    near = np.argsort(far, axis=1, kind="stable")[:, :5]
    share = np.mean([len(np.intersect1d(a, b)) for a, b in zip(near, true, strict=True)]) / 5
    assert next(line for line in lines if line.method == "sign").recall == pytest.approx(share)
    assert lines[0].recall == 1


def test_only_times_differ_between_runs(x: Floats, lines: list[Line]) -> None:
    again = list(compare(x, bits=(16, 48), methods=METHODS, k=5, seed=3, threads=2))
    same = {"fit_seconds": None, "encoded": None, "searched": 0.0}
    assert [dataclasses.replace(line, **same) for line in lines] == [
        dataclasses.replace(line, **same) for line in again
    ]


def test_noise_is_as_long_as_it_says(x: Floats) -> None:
    centre = x.mean(axis=0)
    for size in NOISE:
        moved = np.linalg.norm(noise(x, size, 0, centre) - x, axis=1) / np.linalg.norm(x - centre, axis=1)
        assert np.sqrt((moved**2).mean()) == pytest.approx(size, rel=0.05)


def test_the_frontier_is_of_codes_that_none_surpasses() -> None:
    rows = [(8, 0.5), (8, 0.6), (16, 0.6), (16, 0.7), (32, 0.65), (4, 0.1)]
    found = frontier([{"bytes": size, "recall": share, "rescored": 1.0} for size, share in rows])
    assert found == [False, True, False, True, False, True]
    assert frontier([{"bytes": 1, "recall": 1.0, "rescored": None}]) == [False]


def test_wide_codes_are_of_methods_that_make_them() -> None:
    assert {trial.method for trial in trials(4, (64,), METHODS)} == {"simhash", "selected", "kernel", "rabitq"}
    with pytest.raises(RecipeError, match="ask for fewer bits"):
        list(compare(np.ones((60, 4), np.float32), bits=(64,), methods=("sign",)))
    for few in (np.ones((10, 4), np.float32), np.ones((100, 1), np.float32)):
        with pytest.raises(RecipeError, match="rows of 2 dimensions"):
            list(compare(few, bits=(1,), methods=METHODS))


def test_vectors_of_any_table_and_a_sample_in_order(x: Floats, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 16)
    pq.write_table(pa.table({"v": lists, "name": ["a"] * 900}), tmp_path / "x.parquet", row_group_size=70)
    assert np.array_equal(read_vectors(tmp_path / "x.npy", (), 900, 0), x)
    assert np.array_equal(read_vectors(tmp_path / "x.parquet", ("v",), 5000, 0), x)
    some = read_vectors(tmp_path / "x.parquet", ("v",), 100, 0)
    assert np.array_equal(some, read_vectors(tmp_path / "x.npy", (), 100, 0))
    places = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in some]
    assert places == sorted(places)
    assert len(set(places)) == 100
    with pytest.raises(QueryError, match="--column"):
        read_vectors(tmp_path / "x.parquet", (), 100, 0)
    with pytest.raises(QueryError, match="no such file"):
        read_vectors(tmp_path / "y.npy", (), 100, 0)


def test_the_command_shows_a_table_and_writes_a_plot(x: Floats, tmp_path: Path) -> None:
    x = x.copy()
    x[3, 4] = np.nan
    np.save(tmp_path / "x.npy", x)
    arguments = ["bench-codes", str(tmp_path / "x.npy"), "--bits", "16", "--method", "rabitq", "--method", "sign"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "1 rows have missing values" in result.stdout
    report = json.loads((tmp_path / "out" / "codes.json").read_text())
    assert [line["method"] for line in report["lines"]] == ["float32", "int8", "sign", "rabitq", "rabitq", "rabitq"]
    assert pq.read_table(tmp_path / "out" / "codes.parquet").num_rows == 6
    plot = ElementTree.fromstring((tmp_path / "out" / "codes.svg").read_bytes())  # our own
    texts = {"".join(node.itertext()).strip() for node in plot.iter("{http://www.w3.org/2000/svg}text")}
    assert {"sign", "rabitq, axes", "rabitq, random", "rabitq, itq"} <= texts
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["k"] == 10
    wrong = CliRunner().invoke(app, [*arguments, "--method", "magic"])
    assert isinstance(wrong.exception, QueryError)
