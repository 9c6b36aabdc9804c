"""The same recipe, the same bytes: in another process, checkout, order of hashes, and for more workers than items."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.fanout import local_executor
from tasks.query.dataset import open_dataset
from tests.conftest import Mill, recipe_of

ROOT = Path(__file__).parent.parent.parent
RUN = """
import json, pathlib, sys
import flows, tests.conftest
assert str(pathlib.Path(flows.__file__).resolve()).startswith(sys.argv[3]), "another checkout was imported"
from flows.recipes import check_recipe
from flows.stages import run_stages
from tasks.build import Build, InProcess
from tasks.journal import Journal

recipe, root = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
with Journal(root, write=True) as journal:
    build = Build(check_recipe(recipe, "x"), root, root, root / ".cache", InProcess(), journal)
    print(run_stages(build, {}).digest)
"""


def shards(root: Path) -> dict[str, str]:
    return {shard.path: shard.sha256 for shard in open_dataset(root).manifest.shards()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git keeps of this checkout, in another place; numba's cache and all else is made anew."""
    place = tmp_path_factory.mktemp("elsewhere") / "checkout"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "flows", "tasks", "schemas", "tests/conftest.py", "pyproject.toml"],
        capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return place


@pytest.mark.parametrize("hash_seed", ["1", pytest.param("4242", marks=pytest.mark.slow)])
def test_a_second_checkout_and_another_hash_seed(
    small: Path, corpus: Path, checkout: Path, tmp_path: Path, hash_seed: str
) -> None:
    recipe = json.dumps(recipe_of(corpus))
    environment = os.environ | {
        "PYTHONPATH": str(checkout), "PYTHONHASHSEED": hash_seed, "NUMBA_CACHE_DIR": str(checkout / ".numba"),
        "PYTHONDONTWRITEBYTECODE": "1", "TZ": "Pacific/Chatham", "LC_ALL": "C",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, recipe, str(tmp_path / "out"), str(checkout)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == open_dataset(small).manifest.digest
    assert shards(tmp_path / "out") == shards(small)


def test_four_workers(small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    with local_executor(4) as executor:
        found = mill(recipe_of(corpus), tmp_path / "dask", executor)
    assert found.digest == open_dataset(small).manifest.digest
    assert shards(tmp_path / "dask") == shards(small)
