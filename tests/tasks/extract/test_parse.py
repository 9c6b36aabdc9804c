"""From bytes to a row and vectors: hostile files are rows, and no feature sees what labels are held against."""

import importlib.metadata
import struct
from pathlib import Path
from typing import Any

import lief
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.extract.elf
from schemas.tables import BINARIES
from tasks.extract.layout import BINMILL as GROUPS
from tasks.extract.parse import Extracted, extract, unparsed
from tasks.extract.similarity import SIGNATURES

MACHO = tuple(map(bytes.fromhex, ("cefaedfe", "cffaedfe", "feedface", "feedfacf", "cafebabe", "cafebabf")))
BYTE_GROUPS = ("general", "histogram", "byteentropy", "strings")


def check(found: Extracted, size: int) -> dict[str, Any]:
    """What holds of every file's row and vectors."""
    row = found.row
    assert row["size"] == size
    assert set(row) <= {*BINARIES.names, *SIGNATURES}
    assert pa.Table.from_pylist([row], BINARIES).num_rows == 1
    assert (row["parse_error"] is None) == (row["parse_status"] == "ok")
    assert list(found.vectors) == list(GROUPS)
    for group, names in GROUPS.items():
        vector = found.vectors[group]
        assert vector.shape == (len(names),)
        assert vector.dtype == np.float32
        assert np.isfinite(vector).all()
    assert found.vectors["general"][2] == (row["parse_status"] in {"ok", "partial"})
    if row["parse_status"] == "error":
        assert not any(found.vectors[group].any() for group in GROUPS if group not in BYTE_GROUPS)
    return row


def value(found: Extracted, name: str) -> float:
    group = name.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0]
    return float(found.vectors[group][GROUPS[group].index(name)])


def test_what_is_neither_says_how_it_begins() -> None:
    row = check(extract(b"This is not a program"), 21)
    assert row["parse_status"] == "error"
    assert row["parse_error"] == "not a PE, ELF or Mach-O file: begins with b'This is not a pr'"
    assert check(extract(b""), 0)["parse_error"] == "empty file"


@given(
    st.binary(max_size=3000),
    st.sampled_from([b"", b"MZ", b"\x7fELF", b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x02\x01", *MACHO]),
)
def test_any_bytes_are_a_row(data: bytes, begin: bytes) -> None:
    row = check(extract(begin + data), len(begin + data))
    assert row["parse_status"] != "ok" or begin


@pytest.mark.parametrize("which", ["pie", "shared.so", "object.o", "stripped", "debug"])
def test_a_truncated_elf_is_never_whole(which: str, compiled_files: dict[str, Path]) -> None:
    data = compiled_files[which].read_bytes()
    assert check(extract(data), len(data))["parse_status"] == "ok"
    for sixteenth in range(16):
        cut = data[: len(data) * sixteenth // 16]
        row = check(extract(cut), len(cut))
        assert row["parse_status"] in {"partial", "error"}, sixteenth
    assert check(extract(data[:-1]), len(data) - 1)["parse_status"] in {"partial", "error"}


def test_truncated_modules_and_launchers_are_never_whole(
    native_modules: list[Path], windows_programs: list[Path]
) -> None:
    for path in [*native_modules[::60], *windows_programs]:
        data = path.read_bytes()
        for sixteenth in range(1, 16):
            row = extract(data[: len(data) * sixteenth // 16]).row
            assert row["parse_status"] in {"partial", "error"}, (path, sixteenth)
            assert row["parse_error"].startswith(("truncated", "damaged: ")), row["parse_error"]


@given(
    changes=st.lists(
        st.tuples(st.integers(4, 1500), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), min_size=1, max_size=6
    ),
    which=st.sampled_from(["shared.so", "object.o", "launcher"]),
)
def test_flipped_bytes_are_a_row(
    changes: list[tuple[int, int]], which: str, compiled_files: dict[str, Path], windows_programs: list[Path]
) -> None:
    path = windows_programs[0] if which == "launcher" else compiled_files[which]
    data = bytearray(path.read_bytes())
    for at, byte in changes:
        data[at % len(data)] = byte
    row = check(extract(bytes(data)), len(data))
    assert "the parser failed" not in (row["parse_error"] or "")


def test_a_parser_that_raises_leaves_the_byte_groups(
    monkeypatch: pytest.MonkeyPatch, native_modules: list[Path]
) -> None:
    def fails(data: bytes) -> None:
        raise RuntimeError("no " * 1000)

    data = native_modules[0].read_bytes()
    whole = extract(data)
    monkeypatch.setattr(tasks.extract.elf, "read_elf", fails)
    found = extract(data)
    row = check(found, len(data))
    assert row["parse_error"].startswith("the parser failed: RuntimeError: no no")
    assert len(row["parse_error"]) <= 300
    for group in ("histogram", "byteentropy", "strings"):
        np.testing.assert_array_equal(found.vectors[group], whole.vectors[group])


def test_memory_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(tasks.extract.elf, "read_elf", fails)
    with pytest.raises(MemoryError):
        extract(b"\x7fELF")


def test_unparsed_has_the_byte_groups(native_modules: list[Path]) -> None:
    data = native_modules[0].read_bytes()
    found, whole = unparsed(data, "timeout", "too slow"), extract(data)
    assert (found.row["parse_status"], found.row["parse_error"]) == ("timeout", "too slow")
    np.testing.assert_array_equal(found.vectors["strings"], whole.vectors["strings"])
    assert found.row["entropy"] == whole.row["entropy"]


def test_values_of_a_compiled_program(compiled_files: dict[str, Path]) -> None:
    found = extract(compiled_files["exporting"].read_bytes())
    row = check(found, compiled_files["exporting"].stat().st_size)
    assert (row["format"], row["machine"], row["kind"], row["bits"]) == ("elf", "amd64", "executable", 64)
    assert row["parser"] == "lief"
    assert row["parser_version"] == importlib.metadata.version("lief")
    assert row["compiler_banner"].startswith("GCC: (")
    assert row["compiler_evidence"] is None
    assert row["entropy"] == pytest.approx(float(found.vectors["general"][1]))
    assert value(found, "header.format.elf") == value(found, "header.kind.executable") == 1
    assert value(found, "header.machine.amd64") == value(found, "header.bits64") == 1
    assert value(found, "header.machine.x86") == value(found, "header.format.pe") == 0
    assert value(found, "imports.symbols") == row["imported_symbols"] > 0
    assert value(found, "exports.count") == row["exported_symbols"] >= 5
    assert 0 < value(found, "header.entry.position") < 1
    assert value(found, "sections.writable_executable") == 0


def comment(data: bytes, text: bytes) -> bytes:
    """The same file with another text in `.comment`, of the same length or shorter: the section shrinks."""
    old = b"GCC: ("
    at = data.index(old)
    end = data.index(b"\0", at)
    changed = bytearray(data)
    changed[at:end] = text.ljust(end - at, b"\0")
    binary: Any = lief.ELF.parse(data)
    section = binary.get_section(".comment")
    row = changed.index(struct.pack("<QQ", section.offset, section.size))
    struct.pack_into("<Q", changed, row + 8, len(text) + 1)
    return bytes(changed)


def test_no_group_sees_the_banner(compiled_files: dict[str, Path]) -> None:
    data = compiled_files["stripped"].read_bytes()
    other = comment(data, b"rustc version 1.9")
    a, b = extract(data), extract(other)
    assert a.row["compiler_banner"] != b.row["compiler_banner"] == "rustc version 1.9"
    assert b.row["compiler_evidence"] == "rust"
    assert b.row["parse_status"] == "ok"
    for group in set(GROUPS) - set(BYTE_GROUPS):
        np.testing.assert_array_equal(a.vectors[group], b.vectors[group], err_msg=group)


@pytest.mark.parametrize("separator", [b"/", b"\\"])
def test_evidence_of_rust_in_the_bytes(separator: bytes, windows_programs: list[Path]) -> None:
    data = windows_programs[0].read_bytes()
    path = b"/rustc/" + b"0123456789abcdef0123456789abcdef01234567" + separator
    assert extract(data).row["compiler_evidence"] is None
    assert extract(data + path).row["compiler_evidence"] == "rust"
    assert extract(data + path[:-2]).row["compiler_evidence"] is None
