"""The header tree and its embedding: orthogonal maps, near trees near, the same bits; whole datasets of it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.cli import app
from flows.recipes import check_recipe
from schemas.errors import RecipeError
from tasks.extract.binding import DIMENSIONS, embedding, unbind
from tasks.extract.elf import read_elf
from tasks.extract.isolation import IsolatedParser
from tasks.extract.parse import extract
from tasks.extract.tree import header_tree
from tests.conftest import recipe_of

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def likeness(a: Any, b: Any) -> float:
    x, y = (embedding(tree).astype(np.float64) for tree in (a, b))
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@given(TREES)
def test_any_tree_has_a_vector_of_norm_one_a_component_or_none(tree: Any) -> None:
    vector = embedding(tree)
    assert vector.shape == (DIMENSIONS,)
    assert vector.dtype == np.float32
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    assert norm == 0 or abs(norm - 32) < 0.1


@given(st.dictionaries(st.text(max_size=5), LEAVES, min_size=2, max_size=6), st.randoms())
def test_neither_the_order_of_keys_nor_of_a_list_shows(tree: dict[str, Any], random: Any) -> None:
    keys = list(tree)
    random.shuffle(keys)
    assert np.array_equal(embedding(tree), embedding({key: tree[key] for key in keys}))
    values = list(tree.values())
    before = embedding(values)
    random.shuffle(values)
    assert np.array_equal(before, embedding(values))


@given(st.text(max_size=8), TREES, TREES)
def test_a_key_is_an_orthogonal_map_and_is_undone(key: str, one: Any, other: Any) -> None:
    """Inner products of what stands under one key are those of the values; unbinding gives the value back."""
    x, y = embedding(one), embedding(other)
    bound_x, bound_y = embedding({key: one}), embedding({key: other})
    assert np.allclose(unbind(bound_x, key), x, atol=3e-3 + np.abs(x) * 2e-3)
    assert float(bound_x @ bound_y) == pytest.approx(float(x @ y), abs=2.0)


def test_bits_are_these_on_every_machine() -> None:
    tree = {"a": [1, 2.5, "x", None], "b": {"c": True, "d": -7, "é": [{"e": 1 << 70}]}}
    digest = hashlib.sha256(embedding(tree).astype("<f4").tobytes()).hexdigest()
    assert digest == "e01a6a266b9043c396fe6e098eed8164ea3b309b8132dcd6c67f4f579f17ed84"


def test_what_stood_under_a_key_is_found_among_others() -> None:
    """A member is read out of an object of 20 by unbinding, among 1 000 candidates."""
    tree = {f"key{i}": f"value{i}" for i in range(20)}
    candidates = np.array([embedding(f"value{i}") for i in range(1000)])
    vector = embedding(tree)
    for i in range(20):
        assert int((candidates @ unbind(vector, f"key{i}")).argmax()) == i


def test_texts_are_orthogonal_and_near_numbers_near() -> None:
    atoms = np.array([embedding(f"word{i}") for i in range(200)]) / 32
    off = (atoms @ atoms.T)[~np.eye(200, dtype=bool)]
    assert np.abs(off).max() < 6 / np.sqrt(DIMENSIONS)
    assert abs(off.mean()) < 0.005
    steps = [likeness(1000, 1000 << n) for n in range(4)]
    assert steps == sorted(steps, reverse=True)
    assert likeness(1000, 1010) > 0.97
    assert abs(likeness(1000, -1000)) < 0.2
    assert likeness(7, 7.0) == pytest.approx(1)
    assert likeness(0.25, 0.26) > 0.97
    assert likeness(0, 1) < likeness(1000, 1001)


@given(st.integers(0, 2**32), st.integers(1, 15))
def test_the_more_leaves_differ_the_farther(seed: int, changed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = {f"k{i}": {"name": f"n{rng.integers(10**9)}", "size": int(rng.integers(1, 10**6))} for i in range(16)}
    likes: list[float] = []
    for count in (0, changed, 16):
        other = {key: dict(value) for key, value in tree.items()}
        for key in list(other)[:count]:
            other[key]["name"] = "another"
        likes.append(likeness(tree, other))
    assert likes[0] == pytest.approx(1)
    assert likes[0] > likes[1] > likes[2] - 0.05
    # Each changed name takes about half of one sixteenth away.
    assert likes[1] == pytest.approx(1 - changed / 32, abs=0.12)


def test_the_tree_names_no_compiler_and_not_the_file(native_modules: list[Path]) -> None:
    headers = read_elf(native_modules[0].read_bytes())
    assert headers is not None
    text = json.dumps(header_tree(headers))
    assert ".comment" not in text
    assert headers.build_id is None or headers.build_id not in text
    assert headers.comment is None or headers.comment not in text


def test_the_isolated_parser_gives_the_same(native_modules: list[Path]) -> None:
    data = [path.read_bytes() for path in native_modules[:3]] + [b"no program"]
    with IsolatedParser(60, 2048, structure=True) as parser:
        for one in data:
            here, there = extract(one, structure=True), parser.extract(one)
            assert here.vectors.keys() == there.vectors.keys()
            assert all(np.array_equal(here.vectors[group], there.vectors[group]) for group in here.vectors)
    assert not extract(b"no program", structure=True).vectors["structure"].any()
    assert "structure" not in extract(data[0]).vectors


def test_modules_of_one_project_are_near(native_modules: list[Path]) -> None:
    """The nearest other module is of the same package, far more often than one at random would be."""
    packages: list[str] = []
    vectors: list[Any] = []
    for path in native_modules[:: max(1, len(native_modules) // 120)]:
        headers = read_elf(path.read_bytes())
        if headers is not None:
            packages.append(path.parts[path.parts.index("site-packages") + 1])
            vectors.append(embedding(header_tree(headers)))
    near = np.array(vectors) @ np.array(vectors).T
    np.fill_diagonal(near, -np.inf)
    names = np.array(packages)
    hit = (names[near.argmax(axis=1)] == names).mean()
    chance = np.mean([((names == name).sum() - 1) / (len(names) - 1) for name in names])
    assert hit > max(2 * chance, 0.5)


def test_a_dataset_of_structures(
    corpus: Path, small: Path, mill: Callable[..., Any], tmp_path: Path, native_modules: list[Path]
) -> None:
    recipe = recipe_of(corpus, binarizing={"embedding": "structure", "dimensions": 16, "methods": ["sign", "rabitq"]})
    manifest = mill(recipe, tmp_path / "trees")
    before = json.loads((small / "manifest.json").read_bytes())
    assert manifest.tables["screening"][0].rows == before["tables"]["screening"][0]["rows"], "a tree is no feature"
    ids: dict[str, int] = {}
    for split in ("train", "validation", "test"):
        for shard in manifest.tables[split]:
            table = pq.read_table(tmp_path / "trees" / shard.path, columns=["sample_id", "is_synthetic"])
            ids |= dict(zip(*(table.column(i).to_pylist() for i in range(2)), strict=True))
    coded = {
        sample
        for shard in manifest.tables["codes"]
        for sample in pq.read_table(tmp_path / "trees" / shard.path).column("sample_id").to_pylist()
    }
    assert coded == {sample for sample, made in ids.items() if not made}
    # A file that was in the corpus finds itself, by the row's id and by the file's bytes.
    runner = CliRunner()
    sample = min(coded)
    file = next(p for p in corpus.rglob("*.so") if hashlib.sha256(p.read_bytes()).hexdigest() == sample)
    for like in (sample, str(file)):
        done = runner.invoke(app, ["search", str(tmp_path / "trees"), "--like", like, "-k", "3", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[0]["sample_id"] == sample
        assert json.loads(done.stdout)[0]["distance"] < json.loads(done.stdout)[2]["distance"]
    # New files get the codes of the pipeline, to the bit.
    shutil.copy(file, tmp_path / "new.so")
    done = runner.invoke(
        app, ["apply", str(tmp_path / "trees"), str(tmp_path / "new.so"), "-o", str(tmp_path / "new.parquet")]
    )
    assert done.exit_code == 0, done.output
    made = pq.read_table(tmp_path / "new.parquet").to_pylist()[0]
    for shard in manifest.tables["codes"]:
        for row in pq.read_table(tmp_path / "trees" / shard.path).to_pylist():
            if row["sample_id"] == sample:
                assert all(made[name] == value for name, value in row.items() if name != "split")


def test_tables_have_no_header_trees(tmp_path: Path) -> None:
    recipe = {
        "name": "t",
        "sources": [{"kind": "table", "path": "t.csv", "label_column": "y"}],
        "label": {"origin": "column"},
        "binarizing": {"embedding": "structure"},
    }
    with pytest.raises(RecipeError, match="structure"):
        check_recipe(recipe, "test")
