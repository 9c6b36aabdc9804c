"""`binmill apply`: new rows are what the pipeline would have written, to the bit."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.apply import BATCH_FILES, apply, differences, json_row
from flows.cli import app
from schemas.errors import QueryError
from schemas.tables import SPLITS
from tasks.extract.layout import FEATURE_SETS
from tasks.query.dataset import Dataset, open_dataset
from tests.conftest import Mill

Rows = dict[str, dict[str, Any]]


def published(dataset: Dataset, *tables: str) -> Rows:
    """All real rows of some tables, by id."""
    found: Rows = {}
    for table in tables:
        for path in dataset.paths(table):
            for row in pq.read_table(path).to_pylist():
                if not row.get("is_synthetic"):
                    found[row.get("sample_id") or row["sha256"]] = row
    return found


def applied(dataset: Dataset, paths: list[Path], **options: Any) -> Rows:
    return {row["sample_id"]: row for table in apply(dataset, paths, **options) for row in table.to_pylist()}


def check(dataset: Dataset, found: Rows) -> None:
    """Each published row has an equal among those found."""
    for tables in (SPLITS, ("codes",)):
        expected = published(dataset, *tables)
        assert len(expected) > 20
        for sample, row in expected.items():
            for name in set(row) - {"label", "split", "sample_id", "is_synthetic", "parent_a", "parent_b", "gap"}:
                assert found[sample][name] == row[name] or (np.isnan(found[sample][name]) and np.isnan(row[name]))


def test_files_get_the_rows_of_the_pipeline(small: Path, corpus: Path) -> None:
    dataset = open_dataset(small)
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    together = applied(dataset, files, features=True)
    check(dataset, together)
    for table, prefix in (("binaries", ""), ("features", "features.")):
        for sample, row in published(dataset, table).items():
            for name in set(row) - {"sha256", "sample_id"}:
                assert together[sample][prefix + name] == row[name], name
    assert differences(dataset) == []
    # Nor does it matter which files come together: the codes of one by itself are the same.
    for path in files[::9]:
        (row,) = applied(dataset, [path], features=True).values()
        assert row == together[row["sample_id"]]


def test_what_cannot_be_parsed_is_a_row_with_a_reason(small: Path, corpus: Path, tmp_path: Path) -> None:
    good = next(path for path in sorted(corpus.rglob("*.so")))
    (tmp_path / "text.dll").write_text("This is not a program")
    (tmp_path / "empty").touch()
    output = tmp_path / "rows.parquet"
    files = [str(tmp_path / "text.dll"), str(good), str(tmp_path / "empty")]
    result = CliRunner().invoke(app, ["apply", str(small), *files, "-o", str(output)])
    assert result.exit_code == 0, result.output
    rows = pq.read_table(output).to_pylist()
    assert [row["parse_status"] for row in rows] == ["error", "ok", "error"]
    assert [row["file"] for row in rows] == files
    assert rows[0]["parse_error"].startswith("not a PE")
    assert rows[0]["median"] is None
    assert rows[0]["itq"] is None
    assert rows[1]["median"] is not None
    assert [path.name for path in tmp_path.glob(".*")] == []
    result = CliRunner().invoke(app, ["apply", str(small), files[0]])
    assert isinstance(result.exception, QueryError)
    with pytest.raises(QueryError, match="no such file"):
        list(apply(open_dataset(small), [tmp_path / "nothing"]))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_formats_hold_codes_as_hexadecimal(small: Path, corpus: Path, tmp_path: Path, suffix: str) -> None:
    files = [str(path) for path in sorted(corpus.rglob("*.so"))[:3]]
    output = tmp_path / f"rows.{suffix}"
    result = CliRunner().invoke(app, ["apply", str(small), *files, "-o", str(output)])
    assert result.exit_code == 0, result.output
    lines = output.read_text().splitlines()
    rows = list(csv.DictReader(lines)) if suffix == "csv" else [json.loads(line) for line in lines]
    codes = published(open_dataset(small), "codes")
    assert [bytes.fromhex(row["itq"]) for row in rows] == [codes[row["sample_id"]]["itq"] for row in rows]


def test_another_suffix_and_vectors_in_csv_are_refused(small: Path, corpus: Path, tmp_path: Path) -> None:
    file = str(next(iter(sorted(corpus.rglob("*.so")))))
    for arguments in (["-o", str(tmp_path / "rows.xlsx")], ["-o", str(tmp_path / "rows.csv"), "--features"]):
        result = CliRunner().invoke(app, ["apply", str(small), file, *arguments])
        assert isinstance(result.exception, QueryError)
    assert list(tmp_path.iterdir()) == []


def test_rows_as_json_are_one_document_across_batches(small: Path, corpus: Path) -> None:
    files = [str(path) for path in sorted(corpus.rglob("*.so"))] * 2
    assert len(files) > BATCH_FILES
    result = CliRunner().invoke(app, ["apply", str(small), *files, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["file"] for row in rows] == files
    codes = published(open_dataset(small), "codes")
    assert {row["itq"] for row in rows} >= {row["itq"].hex() for row in codes.values()}


def test_json_holds_what_json_can() -> None:
    row = {"a": float("nan"), "b": [1.0, float("-inf")], "c": b"\x01\xff", "d": None, "e": "ü"}
    assert json.loads(json_row(row)) == {"a": None, "b": [1.0, None], "c": "01ff", "d": None, "e": "ü"}
    assert "ü" in json_row(row)


def test_a_set_that_changed_under_its_name_is_refused(
    small: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = dict(FEATURE_SETS["binmill@1"])
    first = next(iter(groups))
    monkeypatch.setitem(FEATURE_SETS, "binmill@1", groups | {first: tuple(reversed(groups[first]))})
    file = next(iter(sorted(corpus.rglob("*.so"))))
    with pytest.raises(QueryError, match=rf"binmill@1 has other dimensions in this binmill \(groups {first}\)"):
        list(apply(open_dataset(small), [file]))
    result = CliRunner().invoke(app, ["search", str(small), "--like", str(file)])
    assert isinstance(result.exception, QueryError)


def test_a_file_that_goes_away_is_a_row(
    small: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # as it was when the command began
    (table,) = apply(open_dataset(small), [tmp_path / "gone.so", min(corpus.rglob("*.so"))])
    assert table.column("parse_status").to_pylist() == ["error", "ok"]
    assert table.column("parse_error").to_pylist()[0] == "unreadable: No such file or directory"


def test_a_dataset_of_other_code_says_so(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.apply.code_digest", lambda stage: "other")
    assert differences(open_dataset(small)) == ["the code of stage extract", "the code of stage binarize"]


def test_tables_get_the_rows_of_the_pipeline(mill: Mill, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    numbers = {f"x{i}": rng.normal(size=400) + (i < 3) * label for i in range(12)}
    vector = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=1600).astype(np.float32)), 4)
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(numbers | {"v": vector, "y": label}), path)
    recipe = {
        "name": "table",
        "sources": [{"kind": "table", "path": str(path), "label_column": "y"}],
        "label": {"origin": "column"},
        "screening": {"top": 14},
        "binarizing": {"dimensions": 8},
    }
    mill(recipe, tmp_path / "dataset")
    dataset = open_dataset(tmp_path / "dataset")
    found = applied(dataset, [path], features=True)
    check(dataset, found)
    for sample, row in published(dataset, "features").items():
        assert found[sample]["features.table"] == row["table"]
    unlabelled = tmp_path / "new.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["y"]), unlabelled)
    assert len(applied(dataset, [unlabelled])) == 400
    pq.write_table(pa.table({"z": [1.0]}), tmp_path / "other.parquet")
    full = pq.read_table(unlabelled)
    short = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(800, np.float32)), 2)
    for wrong, problem in (
        (pa.table({"z": [1.0]}), "no column for"),
        (full.set_column(full.schema.get_field_index("v"), "v", short), "no column for"),
        (full.set_column(0, "x0", pa.array(["text"] * 400)), "holds string, not numbers"),
        (full.slice(0, 0), "no rows"),
    ):
        pq.write_table(wrong, tmp_path / "other.parquet")
        with pytest.raises(QueryError, match=problem):
            list(apply(dataset, [tmp_path / "other.parquet"], features=True))


def test_a_feature_keeps_its_name_and_a_code_makes_way(mill: Mill, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    path = tmp_path / "table.parquet"
    names = ["median", "file", "x"]
    pq.write_table(pa.table({n: rng.normal(size=400) + label for n in names} | {"y": label}), path)
    recipe = {
        "name": "table",
        "sources": [{"kind": "table", "path": str(path), "label_column": "y"}],
        "label": {"origin": "column"},
        "screening": {"top": 3},
        "binarizing": {"dimensions": 3},
    }
    mill(recipe, tmp_path / "dataset")
    dataset = open_dataset(tmp_path / "dataset")
    found = applied(dataset, [path])
    codes = published(dataset, "codes")
    examples = published(dataset, *SPLITS)
    assert examples.keys() == codes.keys() == found.keys()
    for sample, row in examples.items():
        assert {name: found[sample][name] for name in names} == {name: row[name] for name in names}
        assert found[sample]["median_"] == codes[sample]["median"]
        assert found[sample]["file_"] == str(path)
