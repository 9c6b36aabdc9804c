"""Damaged files: each is a row, the same in any order and company, and no worker is lost. `make fuzz` has thousands."""

from pathlib import Path

import psutil
import pytest

from schemas.tables import PARSE_STATUS
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import FEATURE_SETS
from tasks.extract.parse import Extracted
from tests.tasks.extract.fuzz import DAMAGES, LARGEST_SEED, mutants, small_macho

COUNT = 300


@pytest.fixture(scope="module")
def seeds(
    native_modules: list[Path],
    compiled_files: dict[str, Path],
    windows_programs: list[Path],
    request: pytest.FixtureRequest,
) -> dict[str, list[bytes]]:
    """A few real files of each format."""
    try:
        apple: list[Path] = request.getfixturevalue("macos_files")
    except pytest.skip.Exception:
        apple = []
    smaller = [path for path in (*native_modules, *apple) if path.stat().st_size <= LARGEST_SEED]
    native = [path for path in smaller if path not in apple]
    return {
        "elf": [path.read_bytes() for path in (*native[::20], *compiled_files.values())],
        "macho": [small_macho(), *(path.read_bytes() for path in smaller if path in apple)],
        "pe": [path.read_bytes() for path in windows_programs],
    }


def test_what_is_damaged_was_whole(seeds: dict[str, list[bytes]]) -> None:
    with IsolatedParser(60, 1024) as parser:
        for name, files in seeds.items():
            for _, found in parser.extract_all(enumerate(files)):
                assert (found.row["format"], found.row["parse_status"]) == (name, "ok")


def test_mutants_are_many_and_repeatable(seeds: dict[str, list[bytes]]) -> None:
    found = list(mutants(seeds, COUNT))
    assert found == list(mutants(seeds, COUNT))
    assert {(m.format, m.damage) for m in found} == {(f, d.__name__) for f in seeds for d in DAMAGES}
    whole = {data for files in seeds.values() for data in files}
    assert sum(m.data in whole for m in found) < COUNT // 10
    assert len({m.data for m in found}) > COUNT * 9 // 10


@pytest.mark.parametrize("feature_set", FEATURE_SETS)
def test_each_damaged_file_is_a_row_in_any_company(seeds: dict[str, list[bytes]], feature_set: str) -> None:
    files = [mutant.data for mutant in mutants(seeds, COUNT)]
    with IsolatedParser(60, 1024, feature_set, cpu_s=20) as parser:
        alone = [found for _, found in parser.extract_all(enumerate(files))]
        assert parser.extract(seeds["elf"][0]).row["parse_status"] == "ok"
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    backwards: list[Extracted] = []
    with IsolatedParser(60, 1024, feature_set, cpu_s=20, processes=2) as parser:
        for number, found in parser.extract_all(enumerate(reversed(files))):
            backwards.append(found)
            _, *parsing = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
            assert len(parsing) == 2, "a worker is lost"
            if number % 50 == 10:
                parsing[number // 50 % 2].kill()
        assert parser.deaths >= COUNT // 50
    assert len(alone) == len(backwards) == COUNT
    for data, ours, theirs in zip(files, alone, reversed(backwards), strict=True):
        assert ours.row["parse_status"] in PARSE_STATUS
        assert (ours.row["parse_status"] == "ok") == (ours.row["parse_error"] is None)
        assert ours.row["size"] == len(data)
        assert ours.row == theirs.row
        assert list(ours.vectors) == list(FEATURE_SETS[feature_set])
        for group, vector in ours.vectors.items():
            assert vector.tobytes() == theirs.vectors[group].tobytes(), group
