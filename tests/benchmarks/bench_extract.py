"""Extraction: byte groups against NumPy and `re`, hashing against scikit-learn, isolation, headers against pefile."""

import itertools
import re
import statistics
import sysconfig
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pefile
import psutil
from numpy.typing import NDArray
from sklearn.feature_extraction import FeatureHasher
from threadpoolctl import threadpool_limits

from tasks.extract.bytestats import byte_statistics
from tasks.extract.hashing import hashed
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import FEATURE_SETS
from tasks.extract.parse import extract
from tasks.extract.pe import read_pe
from tests.benchmarks.report import Measurement, median_time

MEGABYTES = 32
FILES = 40
THIRD = 3
DIRECTORIES = [pefile.DIRECTORY_ENTRY[f"IMAGE_DIRECTORY_ENTRY_{name}"] for name in ("IMPORT", "EXPORT")]
STRING = re.compile(rb"[\x20-\x7f]{5,}")


def plain(data: bytes) -> list[NDArray[np.float32]]:
    """The byte groups as one would write them with NumPy and `re`: a pass for each."""
    view = np.frombuffer(data, dtype=np.uint8)
    counts = np.bincount(view, minlength=256)
    table = np.zeros((16, 16))
    high = view >> 4
    for start in range(0, len(view) - 2047, 1024):
        c = np.bincount(high[start : start + 2048], minlength=16)
        p = c[c > 0].astype(np.float32) / np.float32(2048)
        table[min(15, int(np.sum(-p * np.log2(p)) * np.float32(2) * 2))] += c
    strings = STRING.findall(data)
    characters = np.bincount(np.frombuffer(b"".join(strings), dtype=np.uint8) - 0x20, minlength=96)
    return [
        (counts / len(view)).astype(np.float32),
        (table.reshape(-1) / table.sum()).astype(np.float32),
        (characters / characters.sum()).astype(np.float32),
    ]


def _byte_groups(name: str, data: bytes) -> Measurement:
    view, words = np.frombuffer(data, dtype=np.uint8), np.frombuffer(data, dtype=np.uint64)
    ours, theirs = byte_statistics(view), plain(data)
    same = zip((ours.histogram, ours.byteentropy, ours.strings[3:99]), theirs, strict=True)
    assert all(np.array_equal(a, b) for a, b in same), "byte groups differ from NumPy's"
    seconds, read = median_time(partial(byte_statistics, view)), median_time(words.sum)
    return Measurement(
        f"byte groups, {name}", f"{len(data) / 1e6:.0f} MB", seconds,
        "NumPy and re", median_time(partial(plain, data), 3), read,
        f"{len(data) / 1e6 / seconds:.0f} MB/s; floor: one read, {len(data) / 1e6 / read:,.0f} MB/s",
    )  # fmt: skip


def _hash_theirs(hasher: FeatureHasher, tokens: list[str]) -> NDArray[np.float64]:
    return hasher.transform([tokens]).toarray()[0]


def _hashing(count: int) -> Measurement:
    tokens = [f"library.dll:a_symbol_{i}" for i in range(count)]
    encoded = [token.encode() for token in tokens]
    hasher = FeatureHasher(512, input_type="string")
    ours, theirs = partial(hashed, encoded, None, 512), partial(_hash_theirs, hasher, tokens)
    assert np.array_equal(ours(), theirs()), "hashes differ from scikit-learn's"
    return Measurement(
        "hashing", f"{count:,} tokens into 512", median_time(ours), "sklearn FeatureHasher", median_time(theirs)
    )


def _processor_time() -> float:
    """Seconds of processor time that this process and its descendants took so far."""
    process = psutil.Process()
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def _in_turn(a: Callable[[], object], b: Callable[[], object], rounds: int) -> tuple[float, float, float, float]:
    """Median seconds of two functions that take turns, so that both see the machine's moods; and processor time."""
    a()
    b()
    taken: list[list[float]] = []
    for _ in range(rounds):
        marks: list[tuple[float, float]] = [(time.perf_counter(), _processor_time())]
        for function in (a, b):
            function()
            marks.append((time.perf_counter(), _processor_time()))
        taken.append([y - x for before, after in itertools.pairwise(marks) for x, y in zip(before, after, strict=True)])
    wall_a, cpu_a, wall_b, cpu_b = zip(*taken, strict=True)
    return statistics.median(wall_a), statistics.median(wall_b), sum(cpu_a), sum(cpu_b)


def _isolation(name: str, files: list[bytes], feature_set: str, rounds: int) -> Measurement:
    """Extraction in a child beside the same in this process, which is its floor."""
    total = sum(len(data) for data in files)

    def direct() -> None:
        for data in files:
            extract(data, feature_set)

    with IsolatedParser(600, 4096, feature_set) as parser:

        def isolated() -> None:
            for _ in parser.extract_all(enumerate(files)):
                pass

        floor, ours, cpu_floor, cpu_ours = _in_turn(direct, isolated, rounds)
        assert parser.deaths == 0, "a child was lost"
    return Measurement(
        f"isolated {feature_set}, {name}", f"{len(files)} files, {total / 1e6:.0f} MB", ours, floor=floor,
        note=f"{ours / floor - 1:+.0%} time, {cpu_ours / cpu_floor - 1:+.0%} processor time; floor: in this process",
    )  # fmt: skip


def _pefile_all(files: list[bytes]) -> list[int]:
    """Headers, imports and exports, as ours; pefile's default would parse resources and relocations as well."""
    numbers: list[int] = []
    for data in files:
        pe: Any = pefile.PE(data=data, fast_load=True)
        pe.parse_data_directories(directories=DIRECTORIES)
        # No close(): it collects garbage in the whole process, which takes 20 times as long as the parse.
        numbers.append(sum(len(library.imports) for library in pe.DIRECTORY_ENTRY_IMPORT))
    return numbers


def _lief_all(files: list[bytes]) -> list[int]:
    headers = [read_pe(data) for data in files]
    return [len(h.imports) if h is not None else -1 for h in headers]


def run() -> list[Measurement]:
    """Measure on this environment's native modules and pip's launchers for Windows."""
    paths = sysconfig.get_paths()
    modules = sorted(p for p in Path(paths["platlib"]).rglob("*.so") if p.stat().st_size < 3_000_000)
    files = [path.read_bytes() for path in modules[:: max(1, len(modules) // FILES)][:FILES]]
    every = [path.read_bytes() for path in sorted(Path(paths["platlib"]).rglob("*.so*"))[::THIRD]]
    launchers = [path.read_bytes() for path in sorted(Path(paths["purelib"]).glob("pip/_vendor/distlib/*.exe"))]
    size = MEGABYTES << 20
    code = b"".join(path.read_bytes() for path in modules)
    real = (code * (size // len(code) + 1))[:size]
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    with threadpool_limits(1):
        found = [_byte_groups("native modules", real), _byte_groups("random bytes", noise)]
        found += [_hashing(count) for count in (100, 10_000)]
        for feature_set in FEATURE_SETS:
            found.append(_isolation("small modules", files, feature_set, 11))
            found.append(_isolation("modules of all sizes", every, feature_set, 3))
        assert _lief_all(launchers) == _pefile_all(launchers), "imports differ from pefile's"
        found.append(
            Measurement(
                "PE headers and imports", f"{len(launchers)} launchers", median_time(partial(_lief_all, launchers)),
                "pefile", median_time(partial(_pefile_all, launchers)),
            )
        )  # fmt: skip
    return found
