"""The architecture, checked: imports point one way, and each heavy library has one door."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.build import SHARED, VALUE_LIBRARIES

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "tasks", "flows")
STAGES = ("ingest", "extract", "label", "split", "screen", "rebalance", "binarize", "publish", "query", "evaluate")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = {i for i in imports(path) if i.split(".")[0] in ROOMS and i.split(".")[0] not in allowed}
    assert not wrong


@pytest.mark.parametrize("path", [p for p in MODULES if "tasks" in p.parts], ids=name)
def test_no_stage_imports_another(path: Path) -> None:
    parts = path.relative_to(ROOT / "tasks").parts
    own = parts[0] if parts[0] in STAGES else None
    others = {i.split(".")[1] for i in imports(path) if i.startswith("tasks.") and i.split(".")[1] in STAGES}
    assert others <= {own}


@pytest.mark.parametrize("stage", VALUE_LIBRARIES)
def test_code_beside_the_stages_counts_for_those_that_use_it(stage: str) -> None:
    used = {
        i.split(".")[1] for path in (ROOT / "tasks" / stage).rglob("*.py") for i in imports(path) if i[:6] == "tasks."
    }
    folders = {folder for folder in used if (ROOT / "tasks" / folder).is_dir()} - set(STAGES)
    assert folders == set(SHARED.get(stage, ()))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_each_library_has_its_door(path: Path) -> None:
    tops = {i.split(".")[0] for i in imports(path)}
    assert "prefect" not in tops or path.relative_to(ROOT).parts[0] == "flows"
    assert not {"distributed", "dask"} & tops or name(path) == "tasks/fanout.py"
    assert "numba" not in tops or name(path) == "tasks/jit.py"


def test_schemas_do_no_io() -> None:
    forbidden = {"os", "pathlib", "io", "shutil", "socket", "subprocess", "requests", "pyarrow.parquet"}
    for path in (ROOT / "schemas").rglob("*.py"):
        assert not forbidden & set(imports(path)), path


def test_packages_are_this_checkouts() -> None:
    for room in ROOMS:
        file = importlib.import_module(room).__file__
        assert file is not None
        assert Path(file).resolve().parent == ROOT / room


def test_no_drawer_for_odds_and_ends() -> None:
    names = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
