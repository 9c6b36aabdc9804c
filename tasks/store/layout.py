"""Where a dataset's parts stand in an object store.

A folder's manifest is replaced by a rename, and the files for people beside it in the same moment or so. A store has no
rename, and whoever reads it must not find one run's manifest beside another's files. So what a manifest lists stands
under names that say its content, and only the manifest itself is replaced, by a conditional put:

    manifest.json                          the commit point
    tables/..., fitted/...                 shards; their names carry the key of what made them
    .binmill/files/<sha256>                README.md, recipe.yaml, plots, ... as the manifest lists them
    .binmill/journal/<manifest sha256>     receipts, with which another machine goes on
    .binmill/attested/<manifest sha256>/   the statement of provenance, and its signature
    .binmill/work/...                      partial states
    README.md, ...                         the same again for people who look into the bucket; written last
"""

from pathlib import PurePosixPath

from schemas.errors import DatasetError

SHARDS = ("tables/", "fitted/", ".binmill/work/")


def file_name(sha256: str) -> str:
    """Name of the object that holds a file beside the manifest."""
    return f".binmill/files/{sha256}"


def journal_name(manifest_sha256: str) -> str:
    """Name of the object that holds the receipts of the run that wrote a manifest."""
    return f".binmill/journal/{manifest_sha256}"


def attested_name(manifest_sha256: str, name: str) -> str:
    """Name of the object that holds a file of `ATTESTED` of a manifest."""
    return f".binmill/attested/{manifest_sha256}/{name}"


def inside(name: str) -> str:
    """A name from a stranger's manifest or journal, if it stays inside a dataset's folder.

    Raises
    ------
    DatasetError
        It leads outside.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or "\0" in name:
        raise DatasetError(f"{name!r}: a name that leads outside the dataset", "do not trust this dataset")
    return name
