"""Samplers against imbalanced-learn, time and memory: each in a process of its own, one thread, in one run.

Memory is the most that the call added to what the process held before, its result included.
"""

import json
import subprocess
import sys
from typing import Any

from tests.benchmarks.rebalance_case import SETTINGS
from tests.benchmarks.report import Measurement

SLOW = {"SMOTE-20k", "SMOTE-100k", "SMOTEN-10k", "exact-100k", "ivf-100k"}
"""Cases of which imbalanced-learn is run but once."""
COMPATIBLE = {"SMOTE-10k", "SMOTENC-10k", "SMOTEN-10k"}
"""Cases that are also run in the mode that equals imbalanced-learn array for array."""
MIB = 1 << 20


def measured(who: str, case: str, repeats: int) -> dict[str, Any]:
    """Median seconds and peak bytes."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.rebalance_case", who, case, str(repeats)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run() -> list[Measurement]:
    """Measure all cases."""
    found: list[Measurement] = []
    for case, (small, large, columns) in SETTINGS.items():
        peer = measured("peer", case, 1 if case in SLOW else 3)
        name = case.split("-")[0] + (", 0/1 columns" if "ties" in case else "")
        for who in ("ours", "compatible") if case in COMPATIBLE else ("ours",):
            own = measured(who, case, 3)
            note = (
                f"peak {own['peak'] / MIB:.0f} MiB, theirs {peer['peak'] / MIB:.0f}: "
                f"{own['peak'] / max(peer['peak'], 1):.2g} of it"
            )
            if own["recall"] is not None:
                note += f"; recall {own['recall']:.4f}"
            found.append(
                Measurement(
                    name + ("" if who == "ours" else ", compatible"),
                    f"{small:,} ({large:,}) x {columns}" if large else f"{small:,} x {columns}",
                    own["seconds"],
                    "scikit-learn kneighbors" if not large else "imbalanced-learn",
                    peer["seconds"],
                    note=note,
                )
            )
    return found
