"""A sheet to draw on: matplotlib without a trace in the process, the settings or the home directory.

Places on a sheet are points (1/72 inch) from its upper left corner, and nothing is laid out by the size of a text:
a reader's browser sets text in fonts of its own.
"""

import io
import os
import sys
import tempfile
import threading
import unicodedata
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, RULE = "#1A1A1A", "#5C5C5C", "#D8D8D8"

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "binmill",
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
}
_drawing = threading.Lock()


@contextmanager
def drawing() -> Generator[None]:
    """While sheets are made, drawn on and written: the one door to matplotlib.

    Neither a user's settings nor glyphs that matplotlib's font lacks (browsers have them) show in a picture. Settings
    and filters of warnings belong to the process, so that one thread draws at a time, and both are put back.
    """
    with _drawing:
        if "matplotlib.font_manager" not in sys.modules:
            _import_fonts()
        import matplotlib

        settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"} | _SETTINGS
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            yield


def prepare() -> None:
    """Import what drawing needs beside what else is done: it takes a second."""
    if "matplotlib.font_manager" not in sys.modules and not _drawing.locked():
        threading.Thread(target=_prepare, daemon=True).start()


def _prepare() -> None:
    with _drawing:
        _import_fonts()
        Sheet(1, 1)


def _import_fonts() -> None:
    # The first import leaves a list of the machine's fonts in the home directory, unless told another.
    told = os.environ.get("MPLCONFIGDIR")
    with tempfile.TemporaryDirectory(prefix="binmill-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            import matplotlib.font_manager  # noqa: F401  # pyright: ignore[reportUnusedImport]
        finally:
            if told is None:
                del os.environ["MPLCONFIGDIR"]
            else:
                os.environ["MPLCONFIGDIR"] = told


class Sheet:
    """A white page of `width` x `height` points, made, drawn on and written within `drawing`."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        FigureCanvasSVG(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Axes whose frame is there."""
        place = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def text(self, left: float, baseline: float, text: str, **style: Any) -> None:
        """Text whose baseline is there."""
        style = {"va": "baseline"} | style
        self.figure.text(left / self.width, 1 - baseline / self.height, text, **style)

    def note(self, left: float, baseline: float, text: str, **style: Any) -> None:
        """Small, soft text."""
        self.text(left, baseline, text, **({"color": SOFT, "size": 7.5} | style))

    def heading(self, left: float, baseline: float, heading: str, *lines: str) -> None:
        """A panel's name, and what to say of it."""
        self.text(left, baseline, heading, size=9.5, weight="bold")
        for number, line in enumerate(lines, 1):
            self.note(left, baseline + 1 + 11 * number, line)

    def dot(self, x: float, y: float, *, face: str, edge: str) -> None:
        """A dot with its middle there."""
        from matplotlib.lines import Line2D

        style: Any = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 1, "linestyle": "none"}
        place = ([x / self.width], [1 - y / self.height])
        self.figure.add_artist(Line2D(*place, marker="o", markersize=5.5, **style))

    def svg(self, title: str) -> bytes:
        """The sheet, as SVG that refers to nothing outside itself and has the same bytes each time."""
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": "binmill", "Title": printable(title)}
        self.figure.savefig(buffer, format="svg", metadata=metadata)
        return buffer.getvalue()

    def png(self, title: str) -> bytes:
        """The sheet, as pixels (two to a point); the same bytes each time, of one release of matplotlib."""
        buffer = io.BytesIO()
        metadata = {"Software": "binmill", "Title": printable(title)}
        self.figure.savefig(buffer, format="png", dpi=144, metadata=metadata)
        return buffer.getvalue()


def plain(*axes: Any) -> None:
    """Ticks of an axis labelled 0.05 and 1,000: never by powers or an offset."""
    from matplotlib.ticker import FuncFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def root_ticks(axis: Any, largest: float, gap: float) -> None:
    """Ticks at 0 and at 1, 2 and 5 times powers of ten, on a square-root axis from 0 to `largest`.

    Parameters
    ----------
    gap
        Least distance between ticks, as a share of the axis's length.
    """
    ticks: list[float] = []
    below = 1.0 + gap
    top = int(np.floor(np.log10(largest)))
    for power in range(top, top - 5, -1):
        for digit in (5, 2, 1):
            place = np.sqrt(digit * 10.0**power / largest)
            if gap <= place <= min(below - gap, 1.0):
                ticks.append(float(f"{digit}e{power}"))
                below = place
    axis.set_ticks([0.0, *reversed(ticks)])
    axis.set_ticks([], minor=True)
    plain(axis)


def printable(text: str) -> str:
    """Text on one line: no control characters (which XML forbids) and none that turn the direction of writing."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def cells(text: str) -> int:
    """Columns that a text takes where letters have one width: East Asian ones take two, marks on letters none."""
    return sum(map(_cells, text))


def shortened(name: str, most: int) -> str:
    """A name in at most so many columns, its middle left out: beginnings and ends tell names apart."""
    name = printable(name)
    if cells(name) <= most:
        return name
    tail = (most - 1) * 2 // 5
    return f"{_taken(name, most - 1 - tail)}…{_taken(name[::-1], tail)[::-1]}"


def _cells(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")


def _taken(text: str, room: int) -> str:
    for end, character in enumerate(text):
        room -= _cells(character)
        if room < 0:
            return text[:end]
    return text


def number(value: float) -> str:
    """A number, not below 0, to three digits; to one where it needs a power of ten."""
    if value == 0:
        return "0"
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= value < 999.5 else f"{value:.0e}".replace("e-0", "e-")


def probability(value: float) -> str:
    """As `number`; below 1e-300, where doubles end, no more than that."""
    return "<1e-300" if value < 1e-300 else number(value)
