"""Files that were damaged on purpose, and what the isolated parser makes of them: `make fuzz COUNT=10000`."""

import collections
import os
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from schemas.tables import PARSE_STATUS
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import FEATURE_SETS
from tests.wheels import MACOS_WHEELS, WINDOWS_WHEELS, fetched

HEADER_BYTES = 1024
LARGEST_SEED = 400_000
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged file: what it was, what was done to it, its bytes."""

    format: str
    damage: str
    data: bytes


def truncated(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """Cut off, half the time within the headers."""
    return data[: dice.randrange(dice.choice([min(4 * HEADER_BYTES, len(data)), len(data)]))]


def flipped(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """With some bits flipped, half the time in the header alone."""
    damaged = bytearray(data)
    end = dice.choice([min(HEADER_BYTES, len(data)), len(data)])
    for _ in range(2 ** dice.randrange(8)):
        damaged[dice.randrange(end)] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def spliced(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """With the beginning of another file."""
    end = dice.choice([16, 64, 256, HEADER_BYTES, 4 * HEADER_BYTES])
    return other[:end] + data[end:]


def overwritten(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """With some numbers, aligned as a header's are, at the edge of their range."""
    damaged = bytearray(data)
    end = dice.choice([min(HEADER_BYTES, len(data)), len(data)])
    for _ in range(dice.randint(1, 8)):
        size = dice.choice([1, 2, 4, 8])
        at = dice.randrange(end) // size * size
        value = dice.choice([*EXTREMES, len(data)]) % 2 ** (8 * size)
        damaged[at : at + size] = value.to_bytes(size, dice.choice(["little", "big"]))
    return bytes(damaged[: len(data)])


DAMAGES: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (truncated, flipped, spliced, overwritten)


def mutants(seeds: dict[str, list[bytes]], count: int, seed: int = 0) -> Iterator[Mutant]:
    """Damage files of each format in turn, in each way in turn; the same ones for the same seeds."""
    formats = sorted(seeds)
    everything = [data for name in formats for data in seeds[name]]
    for number in range(count):
        dice = random.Random(f"{seed} {number}")
        name = formats[number % len(formats)]
        damage = DAMAGES[number // len(formats) % len(DAMAGES)]
        data = damage(dice.choice(seeds[name]), dice.choice(everything), dice)
        yield Mutant(name, damage.__name__, data)


def small_macho() -> bytes:
    """A Mach-O library of one segment, one section and one symbol: the format is tested also without an index."""
    text, names = b"\xc3" * 16, b"\0_function\0"
    symbol_at = 4096 + len(text)
    section = struct.pack("<16s16sQQIIIIIIII", b"__text", b"__TEXT", 4096, 16, 4096, 4, 0, 0, 0x80000400, 0, 0, 0)
    commands = [
        struct.pack("<II16sQQQQIIII", 0x19, 152, b"__TEXT", 0, 8192, 0, symbol_at, 5, 5, 1, 0) + section,
        struct.pack("<IIIIII", 2, 24, symbol_at, 1, symbol_at + 16, len(names)),
        struct.pack("<II16s", 0x1B, 24, bytes(range(16))),
        struct.pack("<IIIIII", 0xD, 48, 24, 2, 1, 1) + b"/usr/lib/a.dylib".ljust(24, b"\0"),
    ]
    body = b"".join(commands)
    header = struct.pack("<8I", 0xFEEDFACF, 0x01000007, 3, 6, len(commands), len(body), 0x85, 0)
    symbols = struct.pack("<IBBHQ", 1, 0x0F, 1, 0, 4096)
    return (header + body).ljust(4096, b"\0") + text + symbols + names


def found_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Real files of each format: of this environment, and of wheels when an index is in reach."""
    paths = sysconfig.get_paths()
    native = sorted(Path(paths["platlib"]).rglob("*.so"))
    object_file = folder / "empty.o"
    subprocess.run(["gcc", "-g", "-c", "-xc", "-", "-o", str(object_file)], input=b"int main;", check=True)
    windows = sorted(Path(paths["purelib"]).glob("pip/_vendor/distlib/*.exe"))
    windows += fetched(WINDOWS_WHEELS, folder, (".pyd", ".dll", ".exe"))
    return {
        "elf": [object_file.read_bytes(), *_smaller(native)],
        "macho": [small_macho(), *_smaller(fetched(MACOS_WHEELS, folder, (".so", ".dylib")))],
        "pe": _smaller(windows),
    }


def _smaller(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths if 0 < path.stat().st_size <= LARGEST_SEED]


def main() -> None:
    """Parse COUNT mutants with each feature set in turn and print what became of them."""
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        seeds = found_seeds(Path(folder))
    console = Console(width=120 if not sys.stdout.isatty() else None)
    print("files that were damaged:", ", ".join(f"{len(files)} {name}" for name, files in seeds.items()))
    for feature_set in FEATURE_SETS:
        _report(console, seeds, count, feature_set)


def _report(console: Console, seeds: dict[str, list[bytes]], count: int, feature_set: str) -> None:
    tally: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    reasons: collections.Counter[str] = collections.Counter()
    start = time.monotonic()
    with IsolatedParser(60, 1024, feature_set, cpu_s=10, processes=os.cpu_count() or 1) as parser:
        for mutant, found in parser.extract_all((m, m.data) for m in mutants(seeds, count)):
            status = found.row["parse_status"]
            assert status in PARSE_STATUS
            assert found.row["size"] == len(mutant.data)
            tally[mutant.format, mutant.damage][status] += 1
            if status in {"crash", "oom", "timeout"}:
                reasons[f"{mutant.format}: {found.row['parse_error']}"] += 1
        seconds = time.monotonic() - start
        deaths = parser.deaths
        good = parser.extract(seeds["elf"][-1]).row["parse_status"]
    table = Table(title=f"{feature_set}, {count:,} files", title_justify="left", box=None, header_style="dim")
    for column in ("format", "damage", *PARSE_STATUS):
        table.add_column(column, justify="left" if column in {"format", "damage"} else "right")
    for (name, damage), counts in sorted(tally.items()):
        table.add_row(name, damage, *(f"{counts[status]:,}" for status in PARSE_STATUS))
    console.print(table)
    rows = sum(counts.total() for counts in tally.values())
    console.print(f"{rows:,} rows, {deaths} children lost, {seconds:.1f} s, {rows / seconds:.0f} files/s")
    for reason, times in reasons.most_common(12):
        console.print(f"{times} x {reason}", markup=False)
    assert rows == count, "a file has no row"
    assert good == "ok", "the parser does not go on"


if __name__ == "__main__":
    main()
