"""PLINK 1 genotypes: a .bed file with its .bim (variants) and .fam (people) beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import RecipeError, SourceError

MAGIC = b"\x6c\x1b"
FAM_FIELDS, BIM_FIELDS = 6, 6


@dataclass(frozen=True, slots=True)
class Bed:
    """A .bed that is whole: how many people it has, and its variants' ids as the .bim has them."""

    path: Path
    people: int
    variants: list[str]


def open_bed(path: Path) -> Bed:
    """Check a .bed against its .bim and .fam.

    Raises
    ------
    SourceError
        A file is missing, damaged, or not of the size that the others ask for.
    """
    variants = [row[1] for row in _rows(path.with_suffix(".bim"), BIM_FIELDS, "variant")]
    people = len(_rows(path.with_suffix(".fam"), FAM_FIELDS, "person"))
    with path.open("rb") as file:
        head = file.read(3)
        size = file.seek(0, 2)
    if head[:2] != MAGIC or head[2:] not in {b"\x00", b"\x01"}:
        raise SourceError(f"{path}: its first bytes are {head.hex(' ')}, not 6c 1b 01", "give a PLINK 1 .bed file")
    if head[2] == 0:
        raise SourceError(
            f"{path}: byte 3 is 0: genotypes stand by person, not by variant",
            "convert it with `plink --make-bed`, which writes them by variant",
        )
    wanted = 3 + len(variants) * ((people + 3) // 4)
    if size != wanted:
        raise SourceError(
            f"{path}: {size:,} bytes, where {len(variants):,} variants in the .bim and {people:,} people in the .fam"
            f" make {wanted:,}",
            "give the .bim and .fam that were written with the .bed, and copy it again if it is cut short",
        )
    return Bed(path, people, variants)


def _rows(path: Path, fields: int, what: str) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror or error}", "a .bed needs its .bim and .fam beside it"
        ) from error
    rows = [line.split() for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != fields:
            raise SourceError(
                f"{path}: {what} {number:,} has {len(row)} fields, not {fields}", "give the file as PLINK 1 wrote it"
            )
    return rows


def read_fam(bed: Bed, column: str, start: int, stop: int) -> Any:
    """A column of the .fam.

    Parameters
    ----------
    bed
        An open file.
    column
        `phenotype`: -9 is missing, and where all others are 0, 1 (control) and 2 (case), so is 0. `sex`: 1 (male) or
        2 (female), anything else is missing.
    start, stop
        People.

    Returns
    -------
    pyarrow.Array
        float64, or int64 when all are whole numbers.

    Raises
    ------
    RecipeError
        There is no such column.
    """
    if column not in {"phenotype", "sex"}:
        raise RecipeError(f"{bed.path.name}: no column '{column}'", "a .fam has the outcomes 'phenotype' and 'sex'")
    rows = _rows(bed.path.with_suffix(".fam"), FAM_FIELDS, "person")
    values = np.array([_number(row[4 if column == "sex" else 5]) for row in rows], np.float64)
    if column == "sex":
        values[(values != 1) & (values != 2)] = np.nan
    else:
        values[values == -9] = np.nan
        if np.isin(values[~np.isnan(values)], [0, 1, 2]).all():
            values[values == 0] = np.nan
    there = values[~np.isnan(values)]
    whole = bool((there == np.trunc(there)).all() and (np.abs(there) < 2**53).all())
    return pa.array(values[start:stop], pa.int64() if whole else pa.float64(), from_pandas=True)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # NA and the like
        return float("nan")


def read_variants(bed: Bed, places: NDArray[np.intp], start: int, stop: int) -> NDArray[np.float32]:
    """How often each of some people has the first allele of each of some variants.

    Parameters
    ----------
    bed
        An open file.
    places
        intp[k], of the variants.
    start, stop
        People.

    Returns
    -------
    NDArray[np.float32]
        float32[k, stop - start]: 0, 1 or 2 copies of allele 1 of the .bim; NaN where missing.

    Raises
    ------
    SourceError
        The library bed-reader is not installed.
    """
    try:
        from bed_reader import open_bed as reader
    except ImportError as error:
        raise SourceError(
            f"{bed.path}: PLINK files are read with bed-reader", "pip install 'binmill[plink]'"
        ) from error
    # The properties are known, and need not be read again.
    names = ["fid", "iid", "father", "mother", "sex", "pheno", "chromosome", "sid", "cm_position", "bp_position"]
    apart: Any = dict.fromkeys([*names, "allele_1", "allele_2"])
    file: Any = reader(bed.path, bed.people, len(bed.variants), properties=apart, num_threads=1)
    with file:
        return file.read((slice(start, stop), places), dtype="float32", order="F").T
