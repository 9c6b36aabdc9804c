"""Classes of strings: how many URLs, addresses, paths, identifiers ... stand in an executable's text.

The text is every run of five or more printable characters (0x20 to 0x7f), of one byte each or of two (UTF-16, in
which Windows keeps its text), in the order in which the runs end, joined by line feeds. Each class is a pattern or
two, each run once over the text; its feature is the number of matches. To be linear whatever the text:

- a pattern begins with one certain character, and looks at what stands before it over a fixed width only;
- repetitions are possessive or bounded, so that nothing is tried twice;
- a try that fails ends before the next one begins, or after a bounded length.

What compilers leave behind as their signature is blanked first: labels are held against it, and no feature may be
made of it. For the same reason a source path is known by its folders; its extension is not looked at.
"""

import re

import numpy as np
from numpy.typing import NDArray

from tasks.extract.layout import STRING_CLASSES
from tasks.jit import compiled

SHORTEST = 5
BASE64 = 40
"""Characters of the shortest base64 run."""

Patterns = tuple[re.Pattern[bytes], ...]


def _patterns(*patterns: str) -> Patterns:
    return tuple(re.compile(pattern.encode(), re.ASCII | re.VERBOSE) for pattern in patterns)


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP = "[0-9A-Fa-f]{1,4}+"
_NAME = r"[\w.+@~\#%=,-]"
_ROOTS = (
    "HKLM", "HKCU", "HKCR", "HKU", "HKCC", "HKEY_LOCAL_MACHINE", "HKEY_CURRENT_USER", "HKEY_CLASSES_ROOT",
    "HKEY_USERS", "HKEY_CURRENT_CONFIG",
)  # fmt: skip
_FOLDERS = ("src", "source", "sources", "include", "inc")


def _after(*alternatives: str, outside: str = r"\w.") -> str:
    """Any of some fixed-width texts stands before this place, and before it none of the characters `outside`."""
    return "(?:" + "|".join(rf"(?<=[^{outside}]{text})" for text in alternatives) + ")"


def _source(separator: str) -> str:
    folders = _after(*(folder + separator for folder in _FOLDERS))
    extension = "|".join(rf"(?<=\w\.\w{{{n}}})" for n in range(1, 5))
    # The whole path matches, with an extension or without: to try again from its next folder would be quadratic.
    return rf"{separator}{folders}(?:{_NAME}++{separator})*+{_NAME}*+(?P<counts>{extension})?+"


PATTERNS: dict[str, Patterns] = {
    # A scheme has two letters or more; a Windows drive has one.
    "url": _patterns(r"://(?<=[A-Za-z][A-Za-z0-9+.-]://)[\w.~\[%-][\w.~:\[%-]"),
    "ipv4": _patterns(
        rf"\.{_after('[0-9][.]', '[1-9][0-9][.]', '1[0-9][0-9][.]', '2[0-4][0-9][.]', '25[0-5][.]')}"
        rf"(?:{_OCTET}\.){{2}}{_OCTET}(?![\w]|\.\w)"
    ),
    "ipv6": _patterns(
        rf":(?<=[^\w:.]:):{_GROUP}(?::{_GROUP}){{0,6}}+(?![\w:])",
        ":"
        + _after(*(f"[0-9A-Fa-f]{{{n}}}:" for n in range(1, 5)), outside=r"\w:.")
        + rf"(?:(?:{_GROUP}:){{6}}{_GROUP}|(?:{_GROUP}:){{0,5}}+:(?:{_GROUP}(?::{_GROUP}){{0,5}}+)?+)(?![\w:])",
    ),
    "email": _patterns(r"@(?<=[\w.+%-]@)(?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24}+(?![\w@-])"),
    # Its root, as it is written in code, files and scripts; or one of the two great branches.
    "registry_key": _patterns(
        r"\\(?i:"
        + _after(
            *(root + r"\\" for root in _ROOTS),
            *(root + r":\\" for root in _ROOTS),
            r"SOFTWARE\\",
            r"SYSTEM\\",
        )
        + r")[\w{%][^\n]*+"
    ),
    # A drive; a share; a folder that a variable names.
    "windows_path": _patterns(
        r""":(?<=[^\w][A-Za-z]:)[\\/][\w$%.~][^\n:*?"<>|]*+""",
        r"\\(?<=[^\w:\\]\\)\\[\w.$?-]++\\[\w$]",
        r"\\(?<=\w%\\)\w",
    ),
    "posix_path": _patterns(rf"/(?<=[^\w./\\%)\]}}<>*-]/){_NAME}++/{_NAME}++(?:/{_NAME}++)*+"),
    "guid": _patterns(r"-(?<=[^\w][0-9A-Fa-f]{8}-)(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?!\w)"),
    "source_path": _patterns(_source("/"), _source(r"\\")),
}

_PATH = rb"[\w.+@~:/\\=-]"
_BACK = 512
"""Characters before `.cargo/registry` that may belong to its path."""
_BEFORE_PATH = re.compile(rb"[^\w.+@~:/\\=-]", re.ASCII)
_REGISTRY = re.compile(rb"\.cargo[/\\]registry[/\\]" + _PATH + rb"*+", re.ASCII)
_SIGNATURES = (
    re.compile(rb"/rustc/[0-9a-f]{40}" + _PATH + rb"*+", re.ASCII),
    re.compile(rb"Go build ID: [^\n]*+"),
    re.compile(rb" version (?:(?<=clang version )|(?<=rustc version )|(?<=Swift version ))[^\n]*+"),
)
_RUN_OF_BASE64 = b"1" * BASE64
_ALPHABET = bytes(0x31 if chr(c).isascii() and (chr(c).isalnum() or chr(c) in "+/") else 0x0A for c in range(256))


@compiled
def _collect(data: NDArray[np.uint8], text: NDArray[np.uint8]) -> tuple[int, int]:
    """Write the runs and a line feed after each to `text`; returns its length, and how many runs were UTF-16."""
    n = len(data)
    length = 0
    run = 0  # printable bytes before this one
    wide = 0  # characters of the UTF-16 run that ends before them
    wides = 0
    for i in range(n + 1):
        value = data[i] if i < n else np.uint8(1)
        if np.uint8(value - np.uint8(0x20)) < np.uint8(0x60):
            run += 1
            continue
        if run == 1 and value == 0:
            wide += 1
            run = 0
            continue
        if wide >= SHORTEST:
            for j in range(wide):
                text[length] = data[i - run - 2 * (wide - j)]
                length += 1
            text[length] = 0x0A
            length += 1
            wides += 1
        wide = 0
        if run >= SHORTEST:
            for j in range(i - run, i):
                text[length] = data[j]
                length += 1
            text[length] = 0x0A
            length += 1
        run = 0
    return length, wides


def joined(data: NDArray[np.uint8]) -> tuple[bytes, int]:
    """Printable runs of uint8[n], each after a line feed; and how many of them were UTF-16."""
    text = np.empty(len(data) + 2, dtype=np.uint8)
    text[0] = 0x0A
    length, wides = _collect(data, text[1:])
    return text[: length + 1].tobytes(), wides


def string_classes(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Count the classes of strings in uint8[n]: float32, in the order of `STRING_CLASSES`."""
    text, wides = joined(data)
    text = unsigned(text)
    counts = {name: sum(_count(pattern, text) for pattern in patterns) for name, patterns in PATTERNS.items()}
    counts |= {"base64": _base64(text), "wide": wides}
    return np.array([counts[name] for name in STRING_CLASSES], dtype=np.float32)


def unsigned(text: bytes) -> bytes:
    """The text without what compilers leave behind as their signature."""
    for pattern in _SIGNATURES:
        text = pattern.sub(b"\n", text)
    kept: list[bytes] = []
    end = 0
    for match in _REGISTRY.finditer(text):
        before = text[max(end, match.start() - _BACK) : match.start()]
        outside = _BEFORE_PATH.search(before[::-1])
        start = match.start() - (outside.start() if outside else len(before))
        kept += (text[end:start], b"\n")
        end = match.end()
    return b"".join((*kept, text[end:])) if kept else text


def _count(pattern: re.Pattern[bytes], text: bytes) -> int:
    """Matches; where the pattern has a group, those in which it took part."""
    return sum(match.lastindex is not None or not pattern.groups for match in pattern.finditer(text))


def _base64(text: bytes) -> int:
    """Runs of the alphabet with letters of both cases and digits, padded to whole groups of four characters."""
    alphabet = text.translate(_ALPHABET)
    found = end = 0
    while (start := alphabet.find(_RUN_OF_BASE64, end)) >= 0:
        end = alphabet.find(b"\n", start)
        run = text[start:end]
        padding = 2 if text[end : end + 2] == b"==" else text[end : end + 1] == b"="
        found += (len(run) + padding) % 4 == 0 and not (
            run.isalpha() or run.isdigit() or run.islower() or run.isupper()
        )
    return found
