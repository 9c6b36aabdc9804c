"""Containers in containers, against the tools that made them, and against damage."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import struct
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tasks import archives
from tasks.archives import Member, is_archive, members, nothing, read
from tasks.containers import kind_of
from tasks.unpacking import Budget, Limits, Rewindable

LIMITS = Limits(max_member_bytes=8 << 20, max_total_bytes=32 << 20, max_members=500)
ELF = b"\x7fELF" + bytes(range(200))


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def a_zip(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def a_tar(*files: tuple[str, bytes], style: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def an_ar(*files: tuple[str, bytes], bsd: bool = False) -> bytes:
    table, parts = b"", b""
    for path, data in files:
        name, content = path.encode(), data
        if bsd:
            padded = name + bytes(-len(name) % 4)
            name, content = f"#1/{len(padded)}".encode(), padded + data
        elif len(name) > 15:
            name, table = f"/{len(table)}".encode(), table + name + b"/\n"
        else:
            name += b"/"
        parts += _ar_member(name, content)
    return b"!<arch>\n" + (_ar_member(b"//", table) if table else b"") + parts


def _ar_member(name: bytes, data: bytes) -> bytes:
    header = b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name, 0, 0, 0, 0o644, len(data))
    return header + data + b"\n" * (len(data) % 2)


def a_deb(*files: tuple[str, bytes], pack: Callable[[bytes], bytes] = lzma.compress, suffix: str = "xz") -> bytes:
    return an_ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", gzip.compress(a_tar(("./control", b"Package: x\n")))),
        (f"data.tar.{suffix}", pack(a_tar(*((f"./{name}", data) for name, data in files)))),
    )


FILES = [("usr/bin/tool", ELF * 9), ("usr/lib/a-name-longer-than-sixteen.so.1", ELF), ("empty", b"")]
MAKERS: dict[str, Callable[..., bytes]] = {
    "zip": a_zip,
    "zip, stored": lambda *f: a_zip(*f, method=zipfile.ZIP_STORED),
    "zip, lzma": lambda *f: a_zip(*f, method=zipfile.ZIP_LZMA),
    "tar": a_tar,
    "tar, pax": lambda *f: a_tar(*f, style=tarfile.PAX_FORMAT),
    "tar.gz": lambda *f: gzip.compress(a_tar(*f), mtime=0),
    "tar.bz2": lambda *f: bz2.compress(a_tar(*f)),
    "tar.xz": lambda *f: lzma.compress(a_tar(*f)),
    "tar.zst": lambda *f: zstd(a_tar(*f)),
    "ar": an_ar,
    "ar, BSD": lambda *f: an_ar(*f, bsd=True),
    "deb": a_deb,
    "deb, zstd": lambda *f: a_deb(*f, pack=zstd, suffix="zst"),
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes bytes to a file and returns its path."""

    def write(data: bytes) -> Path:
        (tmp_path / "archive").write_bytes(data)
        return tmp_path / "archive"

    return write


def given(path: Path, limits: Limits = LIMITS, takes: Callable[[str], bool] = archives.everything) -> list[Member]:
    return list(members(path, limits, takes))


def reasons(path: Path, limits: Limits = LIMITS) -> dict[str, str | None]:
    return {m.path: m.reason for m in given(path, limits)}


@pytest.mark.parametrize("maker", MAKERS)
def test_each_container_gives_its_files(maker: str, written: Callable[[bytes], Path]) -> None:
    path = written(MAKERS[maker](*FILES))
    assert is_archive(path)
    assert given(path) == [Member(name, data) for name, data in FILES]
    assert [m.path for m in given(path, takes=lambda name: "bin" in name)] == ["usr/bin/tool"]
    assert list(read(path, ["empty", "none"], LIMITS)) == [Member("empty", b"")]


@pytest.mark.parametrize("outer", MAKERS)
@pytest.mark.parametrize("inner", MAKERS)
def test_any_container_may_lie_in_any_other(outer: str, inner: str, written: Callable[[bytes], Path]) -> None:
    path = written(MAKERS[outer](("before", b"1"), ("in.bin", MAKERS[inner](*FILES)), ("after", b"2")))
    expected = {"before": b"1", "after": b"2"} | {f"in.bin!{name}": data for name, data in FILES}
    assert {m.path: m.data for m in given(path)} == expected
    assert {m.path: m.data for m in read(path, list(expected), LIMITS)} == expected
    assert [m.path for m in members(path, LIMITS, archives.everything, nothing)] == ["before", "in.bin", "after"]


def test_what_is_packed_but_no_archive_is_a_file(written: Callable[[bytes], Path]) -> None:
    plain = {f"a.{pack.__module__}": pack(ELF * 9) for pack in (gzip.compress, bz2.compress, lzma.compress, zstd)}
    plain |= {"text": b"PK is how a zip begins", "short": b"PK\x03\x04", "gz": b"\x1f\x8b", "z": b"\x28\xb5\x2f\xfd"}
    path = written(a_tar(*plain.items()))
    del plain["short"]
    found = {m.path: m.data for m in given(path)}
    assert found.pop("short") is None
    assert found == plain


def test_depth_is_bounded_and_the_deeper_archive_is_a_row(written: Callable[[bytes], Path]) -> None:
    data, name = a_zip(("c.so", ELF)), "c.so"
    for level in range(3):
        data, name = (a_tar, a_zip, an_ar)[level]((f"{level}", data)), f"{level}!{name}"
    path = written(data)
    assert given(path) == [Member("2!1!0", None, "nested archive: deeper than 3")]
    assert given(path, Limits(max_depth=4)) == [Member(name, ELF)]
    assert list(read(path, [name], LIMITS)) == [Member(name, ELF)]
    assert reasons(path, Limits(max_depth=1)) == {"2": "nested archive: deeper than 1"}


def test_bombs_in_archives_are_refused_by_what_all_levels_unpack_to(written: Callable[[bytes], Path]) -> None:
    noise = os.urandom(100_000)
    # Each level is within the ratio of 200, all levels together are not.
    inner = a_tar(*((f"m{i}", noise[:1000] + bytes(90_000)) for i in range(60)))
    bomb = zstd(a_tar(("b.tar.gz", zstd(inner)), *((f"c{i}", zstd(inner)) for i in range(30))))
    found = reasons(written(bomb))
    assert any("bomb" in str(reason) for reason in found.values())
    assert sum(reason is None for reason in found.values()) < 31 * 60
    # The budget of bytes is one for all levels.
    parts = [(f"{i}.zip", a_zip(("x", os.urandom(7 << 20)), method=zipfile.ZIP_STORED)) for i in range(4)]
    path = written(a_zip(*parts, method=zipfile.ZIP_STORED))
    found = reasons(path)
    assert sum(reason is None for reason in found.values()) == 2  # 7 MB twice for each
    assert found["2.zip"] == "decompression bomb: the archive unpacks to more than the limit"
    # Zips in zips are held in memory, all of them within the limit for one file.
    inner = a_zip(("x", os.urandom(5 << 20)), method=zipfile.ZIP_STORED)
    path = written(a_zip(("a.zip", a_zip(("b.zip", inner), ("small", b"1"), method=zipfile.ZIP_STORED))))
    assert "a nested zip larger" in str(reasons(path).pop("a.zip!b.zip"))
    assert reasons(path)["a.zip!small"] is None
    # So is that of members.
    many = a_tar(*((f"m{i}", b"") for i in range(300)))
    found = reasons(written(a_tar(("a.tar", many), ("b.tar", many), ("c", b""))))
    assert found["b.tar"] == found[""] == "decompression bomb: more than 500 members"


def test_an_endless_archive_of_itself_ends(written: Callable[[bytes], Path]) -> None:
    data = b"the end"
    for level in range(40):
        data = gzip.compress(a_tar((f"{level}.tar.gz", data)), mtime=0)
    assert list(reasons(written(data)).values()) == ["nested archive: deeper than 3"]


def test_headers_that_make_parsers_hold_much_are_refused(written: Callable[[bytes], Path]) -> None:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 3 << 20
    data = long_name.tobuf() + b"a" * (3 << 20) + a_tar(("x", b""))
    assert "extended header" in str(reasons(written(data))[""])
    negative = bytearray(a_tar(("x", b"1")))
    negative[124:136] = b"\xff" * 11 + b"\x00"
    header = negative[:148] + b" " * 8 + negative[156:512]
    negative[148:156] = b"%06o\0 " % sum(header)
    assert "negative size" in str(reasons(written(bytes(negative)))[""])
    crowd = a_zip(*((f"{i}", b"") for i in range(501)))
    assert reasons(written(crowd)) == {"": "decompression bomb: more than 500 members"}
    long_comments = io.BytesIO()
    with zipfile.ZipFile(long_comments, "w") as archive:
        for number in range(20):
            info = zipfile.ZipInfo(str(number))
            info.comment = b"c" * 60_000
            archive.writestr(info, b"")
    assert "directory" in str(reasons(written(long_comments.getvalue()))[""])


def test_a_zip_member_without_a_name_is_a_row(written: Callable[[bytes], Path]) -> None:
    data = a_zip(("a", b"1"), ("b", b"2")).replace(b"PK\x01\x02", b"PK\x01\x02", 1)
    directory = data.index(b"PK\x01\x02")
    nameless = bytearray(data)
    nameless[directory + 28 : directory + 30] = b"\0\0"  # its name has no bytes, one byte of comment
    nameless[directory + 32 : directory + 34] = b"\1\0"
    found = given(written(bytes(nameless)))
    assert found[0] == Member("", None, "unsafe path: empty, or with control characters")
    assert found[1] == Member("b", b"2")


def test_names_with_the_mark_are_not_mistaken(tmp_path: Path) -> None:
    inner = a_zip(("b.so", b"nested"), ("x!y.so", b"marked"))
    (tmp_path / "a.zip").write_bytes(inner)
    (tmp_path / "a.zip!b.so").write_bytes(b"real")
    (tmp_path / "odd!.zip").write_bytes(inner)
    (tmp_path / "plain!name").write_bytes(b"plain")
    wanted = ["a.zip!b.so", "a.zip!x!y.so", "odd!.zip!b.so", "odd!.zip!x!y.so", "plain!name", "none!x"]
    found = {m.path: m.data for m in read(tmp_path, wanted, LIMITS)}
    assert found == {
        "a.zip!b.so": b"real", "a.zip!x!y.so": b"marked", "odd!.zip!b.so": b"nested", "odd!.zip!x!y.so": b"marked",
        "plain!name": b"plain", "none!x": None,
    }  # fmt: skip
    path = tmp_path / "t.tar"
    path.write_bytes(a_tar(("a.zip", inner), ("a.zip!b.so", b"real")))
    assert [(m.path, m.data) for m in given(path)] == [
        ("a.zip!b.so", b"nested"), ("a.zip!x!y.so", b"marked"), ("a.zip!b.so", None),
    ]  # fmt: skip
    assert [m.data for m in read(path, ["a.zip!b.so"], LIMITS)] == [b"nested"]


def test_names_that_are_not_text_are_found_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.so")
    (tmp_path / "a.tar").write_bytes(a_tar((name, b"1")))
    (tmp_path / name).write_bytes(b"2")
    assert given(tmp_path / "a.tar") == [Member("caf\\udce9.so", b"1")]
    wanted = ["caf\\udce9.so", "a.tar!caf\\udce9.so"]
    assert {m.path: m.data for m in read(tmp_path, wanted, LIMITS)} == {wanted[0]: b"2", wanted[1]: b"1"}


def test_an_archive_is_left_when_all_is_found(
    written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(gzip.compress(a_tar(("first", ELF), ("second", os.urandom(6 << 20)), ("third", ELF))))
    given_bytes: list[int] = []
    original = Budget.spend

    def spend(self: Budget, count: int) -> None:
        given_bytes.append(count)
        original(self, count)

    monkeypatch.setattr(Budget, "spend", spend)
    assert [m.path for m in read(path, ["first"], LIMITS)] == ["first"]
    assert 0 < sum(given_bytes) <= 2 << 20
    given_bytes.clear()
    path = written(a_zip(("first", ELF), ("second", os.urandom(6 << 20))))
    assert [m.path for m in read(path, ["first"], LIMITS)] == ["first"]
    assert sum(given_bytes) == len(ELF)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_static_libraries_as_ar_lists_them(tmp_path: Path, native_modules: list[Path]) -> None:
    ar = tool("ar")
    for number, module in enumerate(native_modules[:4]):
        (tmp_path / ("m" * (5 + 6 * number) + ".o")).write_bytes(module.read_bytes()[: 1001 + number])
    (tmp_path / "again").mkdir()
    (tmp_path / "again/mmmmm.o").write_bytes(b"another of this name")
    objects = [*sorted(tmp_path.glob("*.o")), tmp_path / "again/mmmmm.o"]
    subprocess.run([ar, "qcD", tmp_path / "lib.a", *objects], check=True)
    listed = subprocess.run([ar, "t", tmp_path / "lib.a"], capture_output=True, text=True, check=True).stdout.split()
    found = given(tmp_path / "lib.a")
    assert [m.path.partition("#")[0] for m in found] == listed
    assert found[-1].path == "mmmmm.o#2"
    assert [m.data for m in found] == [path.read_bytes() for path in objects]
    subprocess.run([ar, "qcDT", tmp_path / "thin.a", *objects], check=True)
    assert reasons(tmp_path / "thin.a") == {"": "thin archive: its members are other files"}


def test_packages_as_dpkg_deb_lists_them(tmp_path: Path, native_modules: list[Path]) -> None:
    dpkg = tool("dpkg-deb")
    root = tmp_path / "root"
    for name, data in (
        ("DEBIAN/control", b"Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"),
        ("usr/bin/tool", native_modules[0].read_bytes()),
        ("usr/lib/" + "n" * 150 + ".so", native_modules[1].read_bytes()),
        ("usr/share/doc/demo/copyright", b"free text"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "usr/lib/link.so").symlink_to("n.so")
    for packing in ("xz", "gzip", "zstd", "none"):
        package = tmp_path / f"{packing}.deb"
        command = [dpkg, "--root-owner-group", f"-Z{packing}", "-b", root, package]
        subprocess.run(command, check=True, capture_output=True)
        plain = subprocess.run([dpkg, "--fsys-tarfile", package], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(plain)) as theirs:
            expected = {
                m.name.removeprefix("./"): hashlib.sha256(theirs.extractfile(m).read()).hexdigest()  # pyright: ignore[reportOptionalMemberAccess]
                for m in theirs
                if m.isreg()
            }
        found = given(package)
        assert len(expected) == 3
        assert {m.path: hashlib.sha256(m.data).hexdigest() for m in found if m.data is not None} == expected
        assert {m.path: m.reason for m in found if m.data is None} == {"usr/lib/link.so": "link: not followed"}
        assert [m for m in given(package, takes=lambda path: "link" not in path) if m.data is None] == []


def test_tars_as_tar_lists_them(tmp_path: Path) -> None:
    tar = tool("tar")
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/x").write_bytes(ELF)
    (tmp_path / "d" / ("long" * 24)).write_bytes(b"long")
    with (tmp_path / "d/sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "d/s").symlink_to("e/x")
    for style in ("gnu", "pax", "ustar"):
        command = [tar, "-C", tmp_path, f"--format={style}", "--sparse", "-cf", tmp_path / "t.tar", "d"]
        subprocess.run(command[:4] + command[5:] if style == "ustar" else command, check=True)
        lines = subprocess.run([tar, "-tf", tmp_path / "t.tar"], capture_output=True, text=True, check=True).stdout
        found = given(tmp_path / "t.tar")
        assert [m.path for m in found] == [line for line in lines.splitlines() if not line.endswith("/")]
        for member in found:
            if member.path != "d/s":
                assert member.data == (tmp_path / member.path).read_bytes()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy with a truncation, flipped bits, overwritten numbers, or a part that is moved or repeated."""
    broken = bytearray(data or b"empty")
    choice = rng.randrange(6)
    if choice == 0:
        return bytes(broken[: rng.randrange(len(broken))])
    if choice == 5:
        start, length, to = rng.randrange(len(broken)), rng.randrange(1, 600), rng.randrange(len(broken))
        broken[to:to] = broken[start : start + length]
        return bytes(broken)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(broken))
        if choice == 1:
            broken[at] ^= 1 << rng.randrange(8)
        elif choice == 2:
            broken[at] = rng.choice(b"\0\xff0/ \n-")
        elif choice == 3:
            broken[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1, len(broken)]))
        else:
            del broken[at : min(at + rng.randrange(1, 60), len(broken) - 1)]
    return bytes(broken)


NESTS = {
    name: maker(
        ("a/tool", ELF * 9), ("in.bin", inner(("c.so", ELF), ("../out", b"x"))), ("b", random.Random(1).randbytes(40))
    )
    for (name, maker), inner in zip(
        MAKERS.items(), [*list(MAKERS.values())[5:], *list(MAKERS.values())[:5]], strict=True
    )
}


@pytest.mark.parametrize("maker", MAKERS)
def test_no_damage_raises_and_limits_hold(maker: str, written: Callable[[bytes], Path]) -> None:
    rng = random.Random(maker)
    limits = Limits(max_member_bytes=1 << 16, max_total_bytes=1 << 18, max_members=50)
    whole = NESTS[maker]
    rows = 0
    for _ in range(400):
        data = damaged(damaged(whole, rng) if rng.random() < 0.3 else whole, rng)
        if not data:
            continue
        path = written(data)
        is_archive(path)
        total = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = given(path, limits)
        for member in found:
            assert (member.data is None) != (member.reason is None)
            member.path.encode()
            if member.data is not None:
                assert archives.unsafe(member.path.replace("\\udc", "")) is None
                assert len(member.data) <= limits.max_member_bytes
                total += len(member.data)
        rows += len(found)
        assert total <= limits.max_total_bytes
        good = [m.path for m in found if m.data is not None]
        assert len(set(good)) == len(good)
        again = {m.path: m.data for m in read(path, good, limits)}
        assert again == {m.path: m.data for m in found if m.data is not None}
    assert rows > 300


@pytest.mark.parametrize("error", [IndexError, KeyError, struct.error, TypeError, AssertionError, RecursionError])
def test_any_exception_of_a_parser_is_a_row(
    error: type[Exception], written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(a_zip(("a", b"1"), ("b", b"2")))

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", fail)
        assert reasons(path) == dict.fromkeys("ab", f"corrupt member: {error.__name__}")
    monkeypatch.setattr(zipfile.ZipFile, "infolist", fail)
    assert reasons(path) == {"": f"unreadable archive: {error.__name__}"}


def test_a_stream_can_be_read_again_until_it_is_settled() -> None:
    stream = Rewindable(io.BytesIO(bytes(range(100))))
    assert stream.read(10) == bytes(range(10))
    stream.rewind()
    assert stream.read(4) + stream.read(10) + stream.read(2) == bytes(range(12))
    assert stream.settled().read(12) == bytes(range(12))
    assert stream.read(-1) == bytes(range(12, 100))
    assert stream.read(5) == b""
    endless = Rewindable(io.BytesIO(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (3 << 20)))  # a name that does not end
    assert kind_of(endless) is None
    assert endless.kept < 3 << 20
