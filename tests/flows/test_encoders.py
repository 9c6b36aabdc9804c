"""Encoders: texts made vectors by an installed package's entry point; binmill's own, held to its oracle."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.index import index_recipe
from flows.recipes import check_recipe
from flows.search import Text, neighbours
from schemas.errors import BinmillError, QueryError, RecipeError, SourceError
from tasks.binarize import encoders, minilm
from tasks.query.codes import CodeIndex
from tasks.query.dataset import Dataset, open_dataset
from tasks.query.sql import query
from tasks.query.verify import verify
from tests.conftest import Mill

MODULE = '''
import hashlib
import numpy as np

class Letters:
    """Counts of letters, at norm 1."""
    version, digest, dimensions = "1", "0" * 64, 26
    calls = 0

    def encode(self, text):
        Letters.calls += 1
        found = np.array([text.lower().count(chr(97 + i)) for i in range(26)], np.float32)
        return found / max(1.0, float(np.linalg.norm(found)))

class Broken(Letters):
    def encode(self, text):
        return np.full(26, np.nan, np.float32) if "bad" in text else np.zeros(25, np.float32)

def wrong():
    raise OSError("its model is gone")
'''
WORDS = ["cat", "tack", "act", "dog", "god", "zebra", "quartz", "jinx", "lynx", "sphinx"]
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in ("one", "two", "three")]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with three encoders, as pip would leave it."""
    site = tmp_path / "site"
    (site / "letters-1.dist-info").mkdir(parents=True)
    (site / "letters-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1\n")
    (site / "letters-1.dist-info" / "entry_points.txt").write_text(
        "[binmill.encoders]\nletters = letters_of_the_test:Letters\nbroken = letters_of_the_test:Broken\n"
        "wrong = letters_of_the_test:wrong\nno = letters_of_the_test:hashlib.sha256\n"
    )
    (site / "letters_of_the_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    encoders.load_encoder.cache_clear()
    yield site
    encoders.load_encoder.cache_clear()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    table = pa.table({"id": [f"t{i}" for i in range(len(TEXTS))], "text": TEXTS, "n": range(len(TEXTS))})
    pq.write_table(table, tmp_path / "texts.parquet", row_group_size=64)
    return tmp_path / "texts.parquet"


def made(mill: Mill, paths: list[Path], output: Path, encoder: str = "letters", **more: Any) -> Dataset:
    recipe = index_recipe(paths, output, {"rescoring": True}, ["text"], encoder=encoder, **more).model_dump(mode="json")
    output.mkdir(exist_ok=True)
    mill(recipe, output)
    return open_dataset(output)


def test_texts_are_found_by_texts(mill: Mill, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.binarize.texts.ROWS", 100)
    index = made(mill, [texts], tmp_path / "index", id_column="id")
    found = neighbours(index, Text("zebra zebra one"), 3).to_pylist()
    assert TEXTS[int(found[0]["sample_id"][1:])] == "zebra zebra one"
    assert [f for _, fs in verify(index) for f in fs] == []
    # The codes are those of the encoder's own vectors.
    import letters_of_the_test  # pyright: ignore[reportMissingImports]

    vectors = np.stack([letters_of_the_test.Letters().encode(text) for text in TEXTS])
    binarizer = CodeIndex(index).binarizer
    codes = query(index, f"SELECT sample_id, {binarizer.method} AS code FROM codes").to_pylist()
    wanted = binarizer.encode(vectors).codes
    assert len(codes) == len(TEXTS)
    assert all(row["code"] == bytes(wanted[int(row["sample_id"][1:])]) for row in codes)
    # Nothing is encoded twice, nor when a file is appended.
    calls = letters_of_the_test.Letters.calls
    mill(index.manifest.recipe, index.root)
    assert letters_of_the_test.Letters.calls == calls
    more = tmp_path / "more.csv"
    more.write_text("id,text\nnew,wax wax\n")
    recipe = index_recipe([more], index.root, {}, ["text"], "id", append=True).model_dump(mode="json")
    mill(recipe, index.root)
    assert letters_of_the_test.Letters.calls == calls + 1
    grown = open_dataset(index.root)
    assert neighbours(grown, Text("wax wax"), 1).to_pylist()[0]["sample_id"] == "new"


def test_the_cut_into_parts_does_not_show(
    mill: Mill, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[set[str]] = []
    for rows in (64, 100_000):
        monkeypatch.setattr("tasks.binarize.texts.ROWS", rows)
        index = made(mill, [texts], tmp_path / f"index{rows}")
        digests.append({shard.sha256 for shard in index.manifest.shards()})
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("encoder", "problem"),
    [
        ("unheard-of", "no encoder 'unheard-of' is installed"),
        ("wrong", "its model is gone"),
        ("no", "is no encoder"),
        ("broken", r"\(25,\)"),
    ],
)
def test_encoders_that_fail_are_named(mill: Mill, texts: Path, tmp_path: Path, encoder: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        made(mill, [texts], tmp_path / "index", encoder)
    if encoder == "unheard-of":
        assert "letters" in caught.value.remedy
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_texts_that_are_none_are_named(mill: Mill, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), tmp_path / "holes.parquet")
    with pytest.raises(SourceError, match="row 1 has no text"):
        made(mill, [tmp_path / "holes.parquet"], tmp_path / "index")
    recipe = index_recipe([tmp_path / "holes.parquet"], tmp_path / "other", {}, ["n"], encoder="letters").model_dump(
        mode="json"
    )
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match="no text"):
        mill(recipe, tmp_path / "other")
    source = {"kind": "vectors", "path": "x.parquet", "encoder": "letters"}
    with pytest.raises(RecipeError, match="one column"):
        check_recipe({"name": "x", "sources": [source], "label": {"origin": "none"}}, "test")


def test_a_query_is_encoded_by_the_model_of_the_index(
    mill: Mill, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made(mill, [texts], tmp_path / "index")
    import letters_of_the_test  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(letters_of_the_test.Letters, "version", "2")
    with pytest.raises(QueryError, match="made by letters 1"):
        neighbours(index, Text("cat"), 1)
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    mill(index_recipe([tmp_path / "plain.npy"], tmp_path / "plain", {}).model_dump(mode="json"), tmp_path / "plain")
    done = CliRunner().invoke(app, ["search", str(tmp_path / "plain"), "--text", "cat"])
    assert isinstance(done.exception, BinmillError)
    assert "not made from texts" in str(done.exception)


# First components as sentence-transformers 6.2.0 on PyTorch 2.13.0 gives them for the same files.
ORACLE = {
    "Which native modules were written in Rust?": [-0.127492, 0.011834, -0.071189, 0.090002, 0.040878, -0.010374],
    "a": [-0.036433, 0.034703, -0.04596, 0.034326, -0.080823, 0.032839],
    "": [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951, 0.010292],
    "Ünïcode: 漢字 and emoji 🦀, mixed": [-0.018464, -0.018972, 0.043233, -0.007537, -0.001923, -0.09462],
    "the quick brown fox " * 200: [-0.034471, -0.033787, 0.000185, -0.02553, -0.038856, 0.017229],
    "tar.gz -> .so; ELF64 (x86-64) \x00 NUL": [0.010307, 0.101849, -0.036564, -0.036563, 0.092115, -0.047956],
}


@pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None, reason="the model's package (deploy/minilm.txt) is not installed"
)
def test_minilm_is_sentence_transformers() -> None:
    model = minilm.load()
    for text, wanted in ORACLE.items():
        found = model.encode(text)
        assert found.dtype == np.float32
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
        assert found[:6] == pytest.approx(wanted, abs=2e-6)
    near, far = (model.encode(t) for t in ("programs compiled by rustc", "a recipe for pancakes"))
    asked = model.encode("Which native modules were written in Rust?")
    assert asked @ near > asked @ far + 0.3


def test_without_its_model_minilm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_here")
    with pytest.raises(RecipeError, match="not installed") as caught:
        minilm.load()
    assert "deploy/minilm.txt" in caught.value.remedy


def test_tensors_are_read_as_they_are_written(tmp_path: Path) -> None:
    """The container of the weights: a header of places, then numbers."""
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    header = json.dumps({"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}})
    data = len(header).to_bytes(8, "little") + header.encode() + values.tobytes()
    assert np.array_equal(minilm.tensors(data)["w"], values)
