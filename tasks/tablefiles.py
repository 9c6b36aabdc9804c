"""The files of a table: which they are, what says that they changed, their digest, and the ids of their rows."""

import hashlib
from pathlib import Path

from schemas.errors import RecipeError
from tasks.shards import sha256_file


def table_files(path: Path) -> list[Path]:
    """The files of a table.

    Raises
    ------
    RecipeError
        There is nothing at the path.
    """
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
    if not path.is_file():
        raise RecipeError(f"sources.path: {path} is not there", "check the path; it is relative to the recipe's file")
    beside = [path.with_suffix(s) for s in (".bim", ".fam")] if path.suffix.lower() == ".bed" else []
    return [path, *(p for p in beside if p.is_file())]


def stamps(path: Path) -> list[list[str | int]]:
    """Name, size and time of change of each file of a table: as long as they are the same, it need not be read."""
    return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in table_files(path)]


def table_digest(path: Path) -> str:
    """SHA-256 of a table: its file's; of several files, of their digests in the order of their names."""
    digests = [sha256_file(p) for p in table_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def row_id(sha256: str, row: int) -> str:
    """Id of a row that has no content of its own: SHA-256 of the table's digest and the row's number, from 0."""
    return hashlib.sha256(f"{sha256}\0{row}".encode()).hexdigest()
