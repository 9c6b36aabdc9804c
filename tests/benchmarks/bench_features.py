"""Whole feature sets on real files: megabytes per CPU second by group and format, peak memory, and the plain baseline.

Baseline: `ember_baseline`, the same groups with pefile, scikit-learn's FeatureHasher and `re`.
"""

import multiprocessing
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pefile
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.extract import binmill
from tasks.extract.bytestats import byte_statistics
from tasks.extract.elf import read_elf
from tasks.extract.ember import HEADER_GROUPS
from tasks.extract.headers import Headers
from tasks.extract.macho import read_macho
from tasks.extract.parse import extract
from tasks.extract.pe import read_pe
from tasks.extract.pefacts import pe_facts
from tasks.extract.similarity import minhash, string_keys, tlsh
from tests.benchmarks import ember_baseline
from tests.benchmarks.report import Measurement
from tests.wheels import MACOS_WHEELS, WINDOWS_WHEELS, fetched

LARGEST = 3_000_000
ELF_FILES = 60
REPEATS = 3

Files = list[bytes]


def cpu_time(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median CPU seconds, after one call to warm up."""
    function()
    times: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _each(function: Callable[..., object], *arguments: list[Any]) -> None:
    for values in zip(*arguments, strict=True):
        function(*values)


def _memory(name: str) -> int:
    """A line of this process' memory status, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


def _peak(function: Callable[[bytes], object], files: Files, answer: Any) -> None:
    function(files[0])
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak: it may be that of the parent, before exec
    before = _memory("VmRSS")
    for data in files:
        function(data)
    answer.put((before, _memory("VmHWM")))


def peak_memory(function: Callable[[bytes], object], files: Files) -> str:
    """Peak memory of a process of its own that does all files, and what it is above the memory before them."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak, args=(function, files, answer))
    process.start()
    before, peak = answer.get()
    process.join()
    return f"peak {peak / 1024:.0f} MiB, of which files {(peak - before) / 1024:.0f}"


def _line(name: str, files: Files, ours: float, theirs: float | None = None, note: str = "") -> Measurement:
    size = sum(map(len, files)) / 1e6
    rate = f"{size / ours:,.0f} MB per CPU s"
    return Measurement(
        name, f"{len(files)} files, {size:.0f} MB", ours, "pefile, sklearn, re" if theirs else None, theirs,
        note=f"{rate}; {note}" if note else rate,
    )  # fmt: skip


def _byte_groups(data: bytes) -> None:
    ember_baseline.entropy(data)
    np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    ember_baseline.byte_entropy(data)
    ember_baseline.strings(data)


def _ember(files: Files) -> list[Measurement]:
    name = "ember2024-core, PE"
    ours = partial(extract, feature_set="ember2024-core@1")
    for data in files:
        for group, values in ember_baseline.vector(data).items():
            assert np.allclose(ours(data).vectors[group], values, rtol=1e-6, atol=0), f"{group} differs"
    views = [np.frombuffer(data, np.uint8) for data in files]
    facts = [pe_facts(data) for data in files]
    parsed: list[Any] = [pefile.PE(data=data) for data in files]
    plain = {
        "header": ember_baseline.header, "imports": ember_baseline.imports, "exports": ember_baseline.exports,
        "datadirectories": ember_baseline.directories, "richheader": ember_baseline.rich,
    }  # fmt: skip
    found = [
        _line(
            f"{name}: whole", files, cpu_time(partial(_each, ours, files)),
            cpu_time(partial(_each, ember_baseline.vector, files), 1),
            f"{peak_memory(ours, files)}; baseline {peak_memory(ember_baseline.vector, files)}",
        ),
        _line(
            f"{name}: byte groups", files, cpu_time(partial(_each, byte_statistics, views)),
            cpu_time(partial(_each, _byte_groups, files), 1),
        ),
        _line(
            f"{name}: parse", files, cpu_time(partial(_each, pe_facts, files)),
            cpu_time(partial(_each, partial(pefile.PE, None), files), 1),
        ),
    ]  # fmt: skip
    for group, vector in HEADER_GROUPS.items():
        theirs = (
            partial(_each, ember_baseline.section, parsed, files)
            if group == "section"
            else partial(_each, plain[group], parsed)
        )
        found.append(
            _line(f"{name}: {group}", files, cpu_time(partial(_each, vector, facts, views)), cpu_time(theirs, 1))
        )
    return found


def _similarity(view: NDArray[np.uint8]) -> None:
    tlsh(view)
    minhash(string_keys(view))


def _binmill(name: str, files: Files) -> list[Measurement]:
    ours = partial(extract, feature_set="binmill@1")
    read: Callable[[bytes], Headers | None] = {"PE": read_pe, "ELF": read_elf, "Mach-O": read_macho}[name]
    pairs = [(found, np.frombuffer(data, np.uint8)) for data in files if (found := read(data)) is not None]
    views = [np.frombuffer(data, np.uint8) for data in files]
    headers, bodies = [found for found, _ in pairs], [body for _, body in pairs]
    parts: dict[str, Callable[[], None]] = {
        "byte groups": partial(_each, byte_statistics, views),
        "parse": partial(_each, read, files),
        "TLSH, MinHash of strings": partial(_each, _similarity, views),
    } | {group: partial(_each, vector, headers, bodies) for group, vector in binmill.HEADER_GROUPS.items()}
    whole = cpu_time(partial(_each, ours, files))
    found = [_line(f"binmill, {name}: whole", files, whole, note=peak_memory(ours, files))]
    return found + [_line(f"binmill, {name}: {part}", files, cpu_time(work)) for part, work in parts.items()]


def run() -> list[Measurement]:
    """Measure on members of pinned wheels (PE, Mach-O) and this environment's modules (ELF)."""
    paths = sysconfig.get_paths()
    modules = sorted(p for p in Path(paths["platlib"]).rglob("*.so") if p.stat().st_size < LARGEST)
    elf = modules[:: max(1, len(modules) // ELF_FILES)][:ELF_FILES]
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        pe = fetched(WINDOWS_WHEELS, Path(folder), (".pyd", ".dll", ".exe"))
        macho = fetched(MACOS_WHEELS, Path(folder), (".so", ".dylib"))
        files = {
            name: [path.read_bytes() for path in found if path.stat().st_size < LARGEST]
            for name, found in (("PE", pe), ("ELF", elf), ("Mach-O", macho))
            if found  # none of PE and Mach-O where no index is in reach
        }
        return [
            *(_ember(files["PE"]) if "PE" in files else ()),
            *(line for name, contents in files.items() for line in _binmill(name, contents)),
        ]
