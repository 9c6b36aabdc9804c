"""Archives from adversaries, made here; and what honest ones give."""

import bz2
import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.archives import Limits, Member, is_archive, members, read, read_file, unsafe

LIMITS = Limits(max_member_bytes=8 << 20, max_total_bytes=32 << 20, max_members=500)


def everything(path: Path, limits: Limits = LIMITS) -> list[Member]:
    return list(members(path, limits, lambda _: True))


def reasons(path: Path, limits: Limits = LIMITS) -> dict[str, str | None]:
    return {m.path: m.reason for m in everything(path, limits)}


def zipped(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_give_their_members(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as archive:
        for name, data in (("a/b.so", b"1" * 10), ("c.txt", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert is_archive(path)
    assert everything(path) == [Member("a/b.so", b"1" * 10), Member("c.txt", b"")]
    assert list(read(path, ["c.txt"], LIMITS)) == [Member("c.txt", b"")]


def test_zips_give_what_is_wanted(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.whl", [("a.so", b"x"), ("dir/", b""), ("b.txt", b"y")])
    assert is_archive(path)
    assert list(members(path, LIMITS, lambda name: name.endswith(".so"))) == [Member("a.so", b"x")]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "a\\b", "a/..", "x\ny", "\x7f", ""])
def test_paths_that_lead_out_are_unsafe(name: str) -> None:
    assert unsafe(name)


@given(st.lists(st.text("abc._-", min_size=1).filter(lambda p: p not in {".", ".."}), min_size=1))
def test_plain_paths_are_safe(parts: list[str]) -> None:
    assert unsafe("/".join(parts)) is None


def test_devices_escapes_and_duplicates_are_rows_even_when_not_wanted_and_links_when_wanted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (
            ("s", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("d", tarfile.CHRTYPE),
            ("../e", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = {m.path: m.reason for m in members(tmp_path / "a.tar", LIMITS, lambda path: path in {"s", "h"})}
    assert {k: (v or "").split(":")[0] for k, v in found.items()} == {
        "s": "link", "h": "link", "d": "device", "../e": "unsafe path",
    }  # fmt: skip
    assert {m.path for m in members(tmp_path / "a.tar", LIMITS, lambda _: False)} == {"d", "../e"}
    link = zipfile.ZipInfo("s")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped(tmp_path / "b.zip", [(link, b"/etc/passwd"), ("twice", b"1"), ("twice", b"2")])
    rows = everything(tmp_path / "b.zip")
    assert [(m.path, m.data, (m.reason or "").split(":")[0]) for m in rows] == [
        ("s", None, "link"), ("twice", b"1", ""), ("twice", None, "duplicate member"),
    ]  # fmt: skip


def test_bombs_are_refused_by_size_ratio_and_lies(tmp_path: Path) -> None:
    zeros = bytes(6 << 20)
    assert "too many times" in str(reasons(zipped(tmp_path / "ratio.zip", [("z", zeros)]))["z"])
    large = zipped(tmp_path / "large.zip", [("z", os.urandom(9 << 20))], zipfile.ZIP_STORED)
    assert "limit for one file" in str(reasons(large)["z"])
    # A header that says 100 bytes for six megabytes.
    lying = zipped(tmp_path / "lying.zip", [("z", os.urandom(1 << 20) + bytes(2 << 20))])
    data = bytearray(lying.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 100)
    data[22:26] = struct.pack("<I", 100)
    lying.write_bytes(data)
    assert reasons(lying)["z"] is not None
    total = zipped(tmp_path / "total.zip", [(f"m{i}", os.urandom(7 << 20)) for i in range(6)], zipfile.ZIP_STORED)
    assert "archive unpacks to more" in str(list(reasons(total).values())[-1])
    many = zipped(tmp_path / "many.zip", [(f"m{i}", b"") for i in range(600)])
    assert everything(many)[-1].reason == "decompression bomb: more than 500 members"
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(_tar("z", bytes(20 << 20))))
    assert "bomb" in str(everything(tmp_path / "bomb.tar.gz")[-1].reason)
    (tmp_path / "bomb.tar.bz2").write_bytes(bz2.compress(_tar("z", bytes(7 << 20))))
    assert "bomb" in str(everything(tmp_path / "bomb.tar.bz2")[-1].reason)


def _tar(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("a", b"A" * 100), ("b", b"B" * 100)], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 10)  # b now begins inside a
    path.write_bytes(data)
    assert reasons(path)["b"] == "decompression bomb: members overlap"


def test_encrypted_and_corrupt_members_are_rows(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("a", b"A" * 100)], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    secret = bytearray(data)
    secret[6] |= 1
    secret[directory + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    assert reasons(tmp_path / "secret.zip") == {"a": "encrypted member"}
    data[40] ^= 1
    (tmp_path / "crc.zip").write_bytes(data)
    assert str(reasons(tmp_path / "crc.zip")["a"]).startswith("corrupt member")


def test_folders_are_read_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/out").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "real/pipe")
    zipped(tmp_path / "real/z.zip", [("in.so", b"2"), ("../out", b"3")])
    wanted = ["real/a", "link/a", "real/out", "real/pipe", "real/none", "../x", "real/z.zip!in.so", "real/z.zip!../out"]
    found = {m.path: m.data or str(m.reason).split(":")[0] for m in read(tmp_path, wanted, LIMITS)}
    assert found == {
        "real/a": b"1", "link/a": "unreadable", "real/out": "link", "real/pipe": "not a regular file",
        "real/none": "unreadable", "../x": "unsafe path", "real/z.zip!in.so": b"2", "real/z.zip!../out": "unsafe path",
    }  # fmt: skip
    assert "too large" in str(read_file(tmp_path, "real/a", 0).reason)
