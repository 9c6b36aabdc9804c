"""A disk that is full, and calls that fail: a clear error, no lie in a manifest, and run again, the same bytes."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BinmillError, DatasetError
from tasks.query.dataset import open_dataset
from tasks.query.verify import verify
from tests.conftest import Mill, recipe_of
from tests.flows.test_crash import lies

FAULTS: dict[str, tuple[Any, str, int]] = {
    "rename": (Path, "replace", errno.EIO),
    "flush": (os, "fsync", errno.ENOSPC),
    "folder": (Path, "rename", errno.EIO),
    "remove": (Path, "unlink", errno.EIO),
}
"""Calls that fail once: the function and what it says."""
MOMENTS = 3
"""Of each, spread over the run from the first call to the last."""


@pytest.fixture(scope="module")
def changed(corpus: Path, small: Path, mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Another recipe over a dataset that is there, and what it ends with when nothing fails."""
    root = tmp_path_factory.mktemp("changed") / "data"
    recipe = recipe_of(corpus, screening={"top": 8}, binarizing={"dimensions": 6, "iterations": 5})
    shutil.copytree(small, root)
    digest = mill(recipe, root).digest
    return {"recipe": recipe, "digest": digest, "root": root, "before": size_of(small), "after": size_of(root)}


def size_of(folder: Path) -> int:
    """Bytes on disk, whole pages of 4 KiB; what is linked twice counts once."""
    files = {place.stat().st_ino: place.stat().st_size for place in folder.rglob("*") if place.is_file()}
    return sum(-(-size // 4096) * 4096 for size in files.values())


def good(root: Path, digest: str, manifest: Any) -> None:
    """The dataset is as if nothing had failed."""
    assert manifest.digest == digest
    assert [found for _, wrong in verify(open_dataset(root)) for found in wrong] == []
    left = [p for p in root.rglob("*") if p.name.endswith(".tmp") or p.name == ".unfinished"]
    assert left == [], "an orphan was left"


def counting(function: Callable[..., Any], calls: list[int], at: int, code: int) -> Callable[..., Any]:
    """The function, but that its call number `at` fails; -1: none does."""

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] - 1 == at:
            raise OSError(code, os.strerror(code), str(args[0]))
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_fails_is_named_and_costs_only_time(
    fault: str, changed: dict[str, Any], small: Path, mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, code = FAULTS[fault]
    function = getattr(owner, name)

    def run(root: Path, at: int) -> int:
        shutil.copytree(small, root)
        calls = [0]
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, counting(function, calls, at, code))
            mill(changed["recipe"], root)
        return calls[0]

    calls = run(tmp_path / "whole", -1)
    assert calls > 0
    felt: list[DatasetError] = []
    for at in sorted({round(m * (calls - 1) / (MOMENTS - 1)) for m in range(MOMENTS)}):
        root = tmp_path / f"at-{at}"
        try:
            run(root, at)
        except DatasetError as error:
            felt.append(error)
        assert lies(root) == []
        good(root, changed["digest"], mill(changed["recipe"], root))
    assert felt or fault == "remove", "no fault was felt"
    for error in felt:
        assert os.strerror(code) in error.problem
        assert "run again" in error.remedy


@contextlib.contextmanager
def disk(place: Path, size: int) -> Generator[None]:
    """A file system of its own, of so many bytes."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="mount is not installed")
def test_a_full_disk_is_named_and_costs_only_time(
    changed: dict[str, Any], small: Path, mill: Mill, tmp_path: Path
) -> None:
    spare = 200 << 10  # folders, and both forms of what is replaced
    grown = changed["after"] - changed["before"]
    felt: list[BinmillError] = []
    for number, share in enumerate((0.2, 0.8)):
        place = tmp_path / f"disk-{number}"
        with disk(place, changed["before"] + spare + int(share * grown)):
            shutil.copytree(small, place / "data")
            try:
                mill(changed["recipe"], place / "data")
            except BinmillError as error:
                felt.append(error)
            assert lies(place / "data") == []
            subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
            good(place / "data", changed["digest"], mill(changed["recipe"], place / "data"))
    assert felt, "no disk was full"
    for error in felt:
        assert os.strerror(errno.ENOSPC) in error.problem
        assert "free disk space" in error.remedy
