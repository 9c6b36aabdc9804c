"""Classes of strings: known texts, random ones, hostile ones, and no trace of what labels are held against."""

import ipaddress
import re
import time
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.extract.layout import STRING_CLASSES
from tasks.extract.strings import BASE64, PATTERNS, joined, string_classes, unsigned


def classes(*texts: str | bytes) -> dict[str, int]:
    """Classes of some texts, apart from each other in a file."""
    data = b"\0\1".join(t.encode() if isinstance(t, str) else t for t in texts) + b"\0"
    counts = string_classes(np.frombuffer(data, dtype=np.uint8))
    return {name: int(count) for name, count in zip(STRING_CLASSES, counts, strict=True) if count}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org/a?b=c", {"url": 1}),
        ("see ftp://ftp.example.org and http://[::1]:80/", {"url": 2, "ipv6": 1}),
        ("://example.org and c://x", {}),
        ("listen on 192.168.0.1:8080 and 10.0.0.255", {"ipv4": 2}),
        ("version 1.2.3.4.5 or 256.1.1.1 or 1.2.3", {}),
        ("01.2.3.4 and a1.2.3.4", {}),
        ("fe80::1 and ::1 and 2001:db8:0:0:0:0:0:1", {"ipv6": 3}),
        ("std::vector<int>::size_type at 12:34:56", {}),
        ("mail jane.doe+x@mail.example.org, please", {"email": 1}),
        ("printf@@GLIBC_2.2.5 and user@localhost", {}),
        (r"HKEY_LOCAL_MACHINE\Software\Vendor\Key", {"registry_key": 1}),
        (r"reg add HKLM\SYSTEM\CurrentControlSet", {"registry_key": 1}),
        (r"Software\Microsoft\Windows", {"registry_key": 1}),
        (r"C:\Windows\System32\kernel32.dll", {"windows_path": 1}),
        (r"open \\server\share\file and %TEMP%\x.tmp", {"windows_path": 2}),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6:/etc/passwd", {"posix_path": 2}),
        ("</html></body> a/b/c and/or 1//2", {}),
        ("/tmp", {}),
        ("../src/module/file.c:12", {"source_path": 1}),
        ("/build/include/x.hpp", {"source_path": 1, "posix_path": 1}),
        (r"D:\work\src\main.cpp", {"windows_path": 1, "source_path": 1}),
        ("resource/x.c and src/x", {}),
        ("{6B29FC40-CA47-1067-B31D-00DD010662DA}", {"guid": 1}),
        ("6B29FC40-CA47-1067-B31D-00DD010662DAA", {}),
        ("TG9yZW0gaXBzdW0gZG9sb3Igc2l0IGFtZXQsIGNvbnNlY3Rl", {"base64": 1}),
        ("TG9yZW0gaXBzdW0gZG9sb3Igc2l0IGFtZXQsIGNvbnNlYw==", {"base64": 1}),
        ("a" * 200, {}),
        ("https://example.org/a".encode("utf-16-le"), {"url": 1, "wide": 1}),
        (r"HKEY_CURRENT_USER\Software\X".encode("utf-16-le"), {"registry_key": 1, "wide": 1}),
    ],
)
def test_known_texts(text: str | bytes, expected: dict[str, int]) -> None:
    assert classes(text) == expected
    assert classes(b"other text", text, b"and more") == expected


def test_every_class_is_tested_above_and_has_a_dimension() -> None:
    assert set(STRING_CLASSES) == {*PATTERNS, "base64", "wide"}


@given(
    st.lists(st.ip_addresses(v=4), max_size=5),
    st.lists(st.ip_addresses(v=6), max_size=5),
    st.lists(st.uuids(), max_size=5),
)
def test_what_the_standard_library_writes_is_found(
    four: list[ipaddress.IPv4Address], six: list[ipaddress.IPv6Address], guids: list[uuid.UUID]
) -> None:
    # "::" is shorter than a string; an IPv4 address may be written at the end of an IPv6 one.
    six = [address for address in six if len(str(address)) >= 5 and "." not in str(address)]
    found = classes(*map(str, four), *map(str, six), *map(str, guids))
    assert found.get("ipv4", 0) == len(four)
    assert found.get("ipv6", 0) == len(six)
    assert found.get("guid", 0) == len(guids)


@given(st.lists(st.one_of(
    st.binary(max_size=20),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), max_size=12).map(str.encode),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), max_size=12).map(lambda t: t.encode("utf-16-le")),
), max_size=12))  # fmt: skip
def test_runs_are_those_of_a_plain_search(parts: list[bytes]) -> None:
    data = b"".join(parts)
    text, wides = joined(np.frombuffer(data, dtype=np.uint8))
    runs = text.split(b"\n")[1:-1]
    plain = re.findall(rb"[\x20-\x7f]{5,}", data)
    # A character of two bytes is a run of one byte and a zero.
    wide = [run.replace(b"\0", b"") for run in re.findall(rb"(?<![\x20-\x7f])(?:[\x20-\x7f]\0){5,}", data)]
    assert sorted(runs) == sorted(plain + wide)
    assert wides == len(wide)


SIGNATURES = [
    "/rustc/0123456789abcdef0123456789abcdef01234567/library/core/src/fmt/mod.rs",
    "/home/me/.cargo/registry/src/index.crates.io-6f17d22bba15001f/memchr-2.7.4/src/arch/x.rs",
    r"C:\Users\me\.cargo\registry\src\index.crates.io-6f17d22bba15001f\memchr-2.7.4\src\lib.rs",
    'Go build ID: "abcdefghijABCDEFGHIJ/abcdefghijABCDEFGHIJ/abcdefghij0123456789/abcdefghijABCDEFGHIJ"',
    "clang version 19.1.0 (https://github.com/llvm/llvm-project.git 3f43d80)",
    "rustc version 1.80.0 (051478957 2024-07-21)",
    "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0",
    "Linker: LLD 19.1.0",
]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_no_class_sees_what_labels_are_held_against(signature: str) -> None:
    assert classes(signature) == {}
    assert classes("/usr/share/x", signature, "../src/a.c") == {"posix_path": 1, "source_path": 1}
    # Texts may stand side by side with nothing between them, as in Rust's read-only data.
    assert classes(f"see https://example.org {signature}") == {"url": 1}


def test_a_source_path_does_not_tell_its_language() -> None:
    found = [classes(f"../src/module/file.{extension}") for extension in ("c", "rs", "go", "cpp", "zig", "pas")]
    assert found == [{"source_path": 1}] * 6


HOSTILE = [
    "a", "1.", "1.1.1.", "a.b@c-d.", "@", "a@", "@a.", "@a.a.a.a.", ":", "::", "a:", "1:", "1:1:1:1:1:1:1:", "://", "a://",
    "/", "/a", "//", "a/", "src/", "src/a.", "src\\", "src/src\\", "include/a", "\\", "\\\\", "\\a", "%\\", "C:\\",
    "HKLM\\", "Software\\", "-", "a-", "00000000-", "00000000-0000-", "A1b2" * 10, " version ", "clang version ",
    "Go build ID: ", ".cargo/registry/", ".cargo/registry", "/rustc/",
    "/rustc/0123456789abcdef0123456789abcdef01234567/",
]  # fmt: skip


def seconds(data: bytes) -> float:
    best = float("inf")
    view = np.frombuffer(data, dtype=np.uint8)
    for _ in range(3):
        begin = time.process_time()
        string_classes(view)
        best = min(best, time.process_time() - begin)
    return best


@pytest.mark.parametrize("unit", HOSTILE)
def test_twice_the_text_takes_no_more_than_about_twice_the_time(unit: str) -> None:
    """Four doublings: what is quadratic would take 256 times as long, what is linear 16 times."""
    small, large = ((unit * (size // len(unit))).encode() for size in (1 << 15, 1 << 19))
    assert seconds(large) < 60 * max(seconds(small), 1e-3)


def test_no_repetition_stands_within_an_unbounded_one_that_can_give_back() -> None:
    """What is unbounded is possessive: `*+` or `++`."""
    for name, patterns in PATTERNS.items():
        for pattern in patterns:
            plain = re.sub(rb"\\.|\[\^?\]?(?:\\.|[^]])*\]", b"x", pattern.pattern)
            plain = re.sub(rb"\{\d+(?:,\d+)?\}\+?|\?\+?", b"", plain)
            for quantifier in re.findall(rb"[*+]+|\{\d+,\}\+?", plain):
                assert quantifier in {b"*+", b"++"}, (name, quantifier)


def test_base64_of_exactly_the_shortest_length() -> None:
    run = "Ab1/" * (BASE64 // 4)
    assert classes(run) == {"base64": 1}
    assert classes(run[:-4]) == {}
    assert classes(run[:-1]) == {}


def test_unsigned_keeps_the_rest() -> None:
    text = b"\nbefore\nx /home/me/.cargo/registry/src/a.rs y\nafter\n"
    assert unsigned(text) == b"\nbefore\nx \n y\nafter\n"
    assert unsigned(text * 3) == unsigned(text) * 3
