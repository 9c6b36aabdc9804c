"""What all tests share: hypothesis' patience, a machine's real binaries, and a small corpus of them."""

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from flows.recipes import check_recipe
from flows.stages import run_stages
from schemas.manifest import Manifest
from tasks.build import Build, Executor, InProcess
from tasks.journal import Journal

settings.register_profile(
    "binmill", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("binmill")

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def native_modules() -> list[Path]:
    """Native modules of the environment the tests run in, the smaller ones, sorted."""
    site = Path(sysconfig.get_paths()["platlib"])
    found = sorted(p for p in site.rglob("*.so") if p.is_file() and p.stat().st_size < 3_000_000)
    assert len(found) > 40, "the test environment has too few native modules"
    return found


@pytest.fixture(scope="session")
def windows_programs() -> list[Path]:
    """The launchers for Windows (x86, x64, ARM64) inside pip."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = sorted(site.glob("pip/_vendor/distlib/*.exe"))
    assert found, "this environment's pip has no launchers for Windows"
    return found


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, native_modules: list[Path]) -> Path:
    """A folder of real modules: `science/` (of NumPy, SciPy, scikit-learn) and fewer in `other/`."""
    root = tmp_path_factory.mktemp("corpus")
    science = [p for p in native_modules if {"numpy", "scipy", "sklearn"} & set(p.parts)][:48]
    other = [p for p in native_modules if not {"numpy", "scipy", "sklearn", "pyarrow"} & set(p.parts)][:16]
    for label, files in (("science", science), ("other", other)):
        (root / label).mkdir()
        for number, path in enumerate(files):
            shutil.copy(path, root / label / f"{number:02d}-{path.name}")
    return root


def recipe_of(corpus: Path, **changes: Any) -> dict[str, Any]:
    """A small recipe over a folder whose first folders are the labels."""
    return {
        "name": "small",
        "sources": [{"kind": "directory", "path": str(corpus), "project": "file"}],
        "label": {"origin": "first-folder"},
        "screening": {"top": 16},
        "binarizing": {"dimensions": 8, "iterations": 5},
        "publishing": {"shard_files": 20},
        **changes,
    }


Mill = Callable[..., Manifest]


@pytest.fixture(scope="session")
def mill() -> Mill:
    """Run a recipe in a plain loop, without Prefect; returns the manifest."""

    def run(recipe: dict[str, Any], root: Path, executor: Executor | None = None) -> Manifest:
        with Journal(root, write=True) as journal:
            build = Build(
                recipe=check_recipe(recipe, "test"),
                base=root,
                root=root,
                cache=root / ".cache",
                executor=executor or InProcess(),
                journal=journal,
            )
            manifest = run_stages(build, {"notes": build.notes})
            computed = sum(count.items - count.present for count in build.counts)
            return manifest.model_copy(update={"run": {"computed": computed, "notes": build.notes}})

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, corpus: Path, mill: Mill) -> Path:
    """A committed dataset of the small corpus; tests only read it."""
    root = tmp_path_factory.mktemp("small") / "dataset"
    mill(recipe_of(corpus), root)
    return root
