"""Licences as SPDX expressions, from what a package says of itself."""

import hashlib
import re
from collections.abc import Sequence
from email.parser import HeaderParser
from functools import cache
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "zlib/libpng License": "Zlib",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
}
"""Trove classifiers that stand for one licence. "BSD License" names a family; its commonest member is meant."""

FREE_TEXT = {
    "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
    "apache 2": "Apache-2.0", "apache-2": "Apache-2.0", "apache software license": "Apache-2.0",
    "mit license": "MIT", "the mit license": "MIT", "bsd": "BSD-3-Clause", "new bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause", "bsd 3-clause": "BSD-3-Clause", "3-clause bsd": "BSD-3-Clause",
    "bsd-3-clause license": "BSD-3-Clause", "psf": "PSF-2.0", "isc license": "ISC", "mpl 2.0": "MPL-2.0",
}  # fmt: skip
"""What authors write into `License` where an expression belongs."""


DEBIAN = {
    "expat": "MIT", "zlib": "Zlib", "freebsd": "BSD-2-Clause", "artistic": "Artistic-1.0", "psf-2": "PSF-2.0",
    "apache-2": "Apache-2.0", "artistic-2": "Artistic-2.0", "mpl-2": "MPL-2.0", "cc0": "CC0-1.0",
    "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "perl": "(GPL-1.0-or-later OR Artistic-1.0-Perl)", "w3c-software": "W3C", "zope-2.1": "ZPL-2.1",
    "artistic-1": "Artistic-1.0", "bsd-2": "BSD-2-Clause", "bsd-3": "BSD-3-Clause", "bsd-4": "BSD-4-Clause",
    "boost-1.0": "BSL-1.0", "sil-1.1": "OFL-1.1", "edl-1.0": "BSD-3-Clause",
}  # fmt: skip
"""Short names of Debian's copyright format 1.0 that SPDX spells in another way."""

GNU = re.compile(r"(A?GPL|LGPL|GFDL)(-NIV)?-?v?(\d+(?:\.\d+)?)(\+?)", re.IGNORECASE)
EXCEPTIONS = {
    "autoconf": "Autoconf-exception-3.0", "bison": "Bison-exception-2.2", "classpath": "Classpath-exception-2.0",
    "font": "Font-exception-2.0", "gcc": "GCC-exception-3.1", "gcc runtime library": "GCC-exception-3.1",
    "libtool": "Libtool-exception", "llvm": "LLVM-exception", "linux-syscall-note": "Linux-syscall-note",
}  # fmt: skip


MOST_LICENCES = 64
"""Different expressions in one copyright file; with more, nobody looks through it."""

OPENINGS = (
    "permission is hereby granted free of charge", "redistribution and use in source", "permission to use copy modify",
)  # fmt: skip
"""How texts begin after a title."""

TEXTS = {
    "602556cb49dcc20b0835a09d976d5053": "MIT",
    "1c7bcd46090abbf18a78e7dd9d6c4453": "BSD-3-Clause",
    "01a34236e49b418a78c5ff79ccc1be30": "BSD-2-Clause",
    "217da0747cec63a2e734185db11cbaa8": "ISC",
    "67e6c9864a42fc797b7f0244a9e5402d": "Apache-2.0",
    "7f7a609103d49ef139df4ae6d94daa56": "MPL-2.0",
}
"""Digest of a licence's words, owners left out -> SPDX identifier."""


@cache
def _licensing() -> Any:
    return get_spdx_licensing()


def spdx(text: str | None) -> str | None:
    """The SPDX expression a text stands for, in its normal form; None when it stands for none."""
    if not text or len(text) > 200:
        return None
    text = FREE_TEXT.get(text.strip().lower(), text.strip())
    try:
        parsed = _licensing().parse(text, validate=True, strict=True)
    except (ExpressionError, ValueError, TypeError, AttributeError):
        return None
    return None if parsed is None else str(parsed)


def licence(expression: str | None, free_text: str | None, classifiers: Sequence[str]) -> tuple[str | None, str | None]:
    """A package's licence, and which of its metadata fields says so.

    Parameters
    ----------
    expression, free_text, classifiers
        Fields `License-Expression`, `License` and `Classifier` of core metadata; the first that can be read counts.
    """
    if found := spdx(expression):
        return found, "License-Expression"
    if found := spdx(free_text):
        return found, "License"
    names = [c.rsplit(" :: ", 1)[-1] for c in classifiers if c.startswith("License :: ")]
    known = sorted({CLASSIFIERS[name] for name in names if name in CLASSIFIERS})
    if known:
        return " AND ".join(known), "Classifier"
    return None, None


def copyright_licence(text: str) -> tuple[str | None, str | None]:
    """The licence of a Debian package, from its copyright file in the machine-readable format 1.0 (DEP-5).

    All licences that its `Files` paragraphs name hold together; those of `debian/` alone are of the packaging,
    not of what is packaged.

    Returns
    -------
    expression
        SPDX expression; None when it cannot be told.
    problem
        Why it cannot be told.
    """
    # Such a file is many headers with a blank line between two.
    paragraphs = [HeaderParser().parsestr(part.lstrip("\n")) for part in re.split(r"\n[ \t]*\n", text)]
    if not paragraphs or "copyright-format" not in (paragraphs[0]["Format"] or ""):
        return None, "free text"
    found: dict[str, None] = {}
    for paragraph in paragraphs[1:]:
        files = (paragraph["Files"] or "").split()
        if not files or all(name.startswith("debian/") for name in files):
            continue
        short = " ".join((paragraph["License"] or "").split("\n", 1)[0].split())
        expression = debian_spdx(short)
        if expression is None or len(found) >= MOST_LICENCES:
            return None, f"no SPDX expression for '{short[:60]}'"
        found[expression] = None
    if not found:
        return None, "no paragraph says so"
    return conjunction(list(found)), None


def debian_spdx(short: str) -> str | None:
    """The SPDX expression of a short name in Debian's format, as `GPL-2+ or Artistic, and BSD-3-clause`."""
    if len(short) > 200:
        return None
    # What stands between two commas belongs together.
    first, *rest = re.split(r"\s*,\s*(and|or)\s+", short, flags=re.IGNORECASE)
    text = _debian_group(first)
    for joint, group in zip(rest[::2], rest[1::2], strict=True):
        text = f"({text}) {joint.upper()} ({_debian_group(group)})"
    return spdx(text)


def _debian_group(text: str) -> str:
    parts = re.split(r"\s+(and|or)\s+", text.strip(), flags=re.IGNORECASE)
    return " ".join(part.upper() if at % 2 else _debian_name(part) or "unknown" for at, part in enumerate(parts))


def _debian_name(name: str) -> str | None:
    plain, _, exception = name.strip().partition(" with ")
    exception = re.sub(r"\s+exception$", "", exception.strip().lower())
    if exception and exception not in EXCEPTIONS:
        return None
    if match := GNU.fullmatch(plain):
        family, niv, version, later = match[1].upper(), match[2], match[3], match[4]
        version = version if "." in version else f"{version}.0"
        kept = "-no-invariants" if niv else ""
        found = spdx(f"{family}-{version}{kept}-{'or-later' if later else 'only'}")
    else:
        found = spdx(DEBIAN.get(plain.lower(), plain))
    return f"{found} WITH {EXCEPTIONS[exception]}" if found and exception else found


def conjunction(names: Sequence[str]) -> str | None:
    """The licences that all hold, as one expression; None when one of them is unknown."""
    found = [spdx(name) for name in names]
    if not found or None in found:
        return None
    return str(_licensing().parse(" AND ".join(f"({name})" for name in sorted({*map(str, found)}))).simplify())


def _plain_text(text: str) -> str:
    """The words of a licence's text without what differs from copy to copy: owners, years, title, list marks."""
    owner = re.compile(r"\W*(portions )?(copyright \W*(c\W|\d|©)|\(c\)|©|all rights reserved)", re.IGNORECASE)
    kept = " ".join(line for line in text.splitlines() if not owner.match(line))
    plain = " ".join(re.findall(r"[a-z0-9]+", kept.lower()))
    plain = re.sub(r"\b[1-4a-d] (?=redistributions|neither)", "", plain)
    plain = re.sub(r"neither the name of .{1,120}? nor the names of (its|other|any)", "neither name nor", plain)
    plain = re.sub(r"copyright (holders|holder|owners|owner)( (and|or) contributors)?", "copyright holder", plain)
    terms, _, appendix = plain.partition(" end of terms and conditions")
    if not appendix or (appendix.startswith(" appendix how to apply") and len(appendix.split()) < 190):
        plain = terms
    for opening in OPENINGS:
        title, found, rest = plain.partition(opening)
        if found and len(title.split()) <= 8:
            return opening + rest
    return plain


def text_licence(text: str) -> str | None:
    """The SPDX expression of a licence file: by its `SPDX-License-Identifier`, or as the text of a licence we know.

    A text with one word more or less is not known; nor is that of the GPL, which does not say whether later
    versions hold.
    """
    said = re.findall(r"SPDX-License-Identifier:[ \t]*([^\n]{1,200})", text)
    if said:
        return spdx(said[0].strip().removesuffix("*/").removesuffix("-->").strip()) if len(set(said)) == 1 else None
    return TEXTS.get(hashlib.sha256(_plain_text(text[: 1 << 18]).encode()).hexdigest()[:32])
