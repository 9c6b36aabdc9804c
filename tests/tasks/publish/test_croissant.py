"""croissant.json: accepted by MLCommons' own validator, whose loader reads every table through it."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlcroissant
import pyarrow.dataset as pads
import pytest

from flows.recipes import check_recipe
from schemas.errors import RecipeError
from tasks.query.dataset import open_dataset
from tasks.query.verify import verify
from tests.conftest import Mill, recipe_of

# What rdflib and pandas, which mlcroissant reads JSON-LD and Parquet with, say of calls in it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]

ABOUT = {
    "title": "Small modules",
    "version": "1.2.0",
    "creators": [{"name": "Ada Lovelace", "url": "https://example.org/ada"}, {"name": "Mills", "kind": "organization"}],
    "licence": "cc-by-4.0",
    "url": "https://example.org/small",
    "citation": "@misc{small, title={Small modules}}",
    "published": "2026-11-26",
}


@pytest.fixture(scope="module")
def described(small: Path, corpus: Path, mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset, told more of; nothing is computed for that."""
    root = tmp_path_factory.mktemp("described") / "dataset"
    shutil.copytree(small, root)
    recipe = recipe_of(corpus)
    again = mill({**recipe, "publishing": {**recipe["publishing"], **ABOUT}}, root)
    assert again.run["computed"] == 0
    return root


def test_the_validator_accepts_it(described: Path, small: Path) -> None:
    for root, warned in ((described, False), (small, True)):
        command = [Path(sys.executable).with_name("mlcroissant"), "validate", "--jsonld", root / "croissant.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Done." in done.stderr
        # What a recipe leaves out is recommended, not required.
        assert ("warning(s)" in done.stderr) == warned


def test_every_table_loads_and_is_the_tables(described: Path) -> None:
    loader = mlcroissant.Dataset(jsonld=described / "croissant.json")
    manifest = open_dataset(described).manifest
    names = {record.uuid for record in loader.metadata.record_sets}
    assert names == {*manifest.tables, *(f"fitted_{name}" for name in manifest.fitted)}
    for table in ("splits", "train", "screening", "codes"):
        rows = [_plain(row) for row in loader.records(table)]
        truth = pads.dataset(described / "tables" / table).to_table()
        assert len(rows) == truth.num_rows
        wanted = [_plain(row) for row in truth.to_pylist()]
        assert sorted(rows, key=str) == sorted(wanted, key=str)
    for name in sorted(names):
        assert next(iter(itertools.islice(loader.records(name), 1))), name


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A record of either reader: names without the table, texts as bytes, null for NaN."""
    return {unquote(name.split("/", 1)[-1]): _cell(row[name]) for name in sorted(row)}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return [_cell(cell) for cell in value]
    return value.encode() if isinstance(value, str) else round(value, 5) if isinstance(value, float) else value


def test_it_tells_who_made_it_and_under_what_licence(described: Path, small: Path) -> None:
    about = mlcroissant.Dataset(jsonld=described / "croissant.json").metadata
    assert (about.name, about.version, about.url) == ("Small modules", "1.2.0", ABOUT["url"])
    assert about.license == ["https://spdx.org/licenses/CC-BY-4.0"]
    assert [type(by).__name__ for by in about.creators] == ["Person", "Organization"]
    assert str(about.date_published)[:10] == "2026-11-26"
    assert about.cite_as == ABOUT["citation"]
    plain = json.loads((small / "croissant.json").read_text(encoding="utf-8"))
    assert plain["license"] == ["unknown"]  # a folder states none
    assert plain["isBasedOn"] == [{"@type": "CreativeWork", "name": "1 sources under unknown", "license": "unknown"}]
    card = (described / "README.md").read_text(encoding="utf-8")
    assert "- Licence: CC-BY-4.0" in card
    assert "@misc{small" in card
    assert "datePublished" not in plain  # no clock enters


def test_it_is_one_of_the_datasets_files(described: Path, tmp_path: Path) -> None:
    assert [f for _, found in verify(open_dataset(described)) for f in found] == []
    shutil.copytree(described, tmp_path / "changed")
    path = tmp_path / "changed" / "croissant.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Ada", "Eve"), encoding="utf-8")
    found = [f.where for _, found in verify(open_dataset(tmp_path / "changed")) for f in found]
    assert found == ["croissant.json"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", "1.2", "publishing.version"),
        ("licence", "CC-BY", "not an SPDX licence identifier"),
        ("url", "file:///etc", "publishing.url"),
        ("published", "soon", "publishing.published"),
    ],
)
def test_wrong_descriptions_are_refused(corpus: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(recipe_of(corpus, publishing={key: value}), "test")
