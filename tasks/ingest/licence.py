"""Licences as SPDX expressions, from what a package says of itself."""

from collections.abc import Sequence
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
