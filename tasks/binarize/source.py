"""Files of vectors without labels, coded as they are: what `binmill index` makes.

All is learned from the first file. A file that is appended later gets codes of its own, and nothing is learned again.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import RecipeError
from schemas.recipe import VectorsSource
from schemas.tables import SOURCES
from tasks.binarize.encoders import identity, load_encoder
from tasks.binarize.texts import VECTOR, encode_texts, open_texts, vectors_of_texts
from tasks.binarize.vectors import open_vectors
from tasks.build import Build
from tasks.duck import MEMORY_MIB, connection, view
from tasks.items import Item, Receipt, Step, Workplace
from tasks.shards import table_path
from tasks.tablefiles import stamps, table_digest
from tasks.tabular import ranges_of_rows

FORMATS = ("npy", "parquet", "arrow")


def opened(build: Build) -> list[dict[str, Any]]:
    """Look at each file: path, digest, rows and names of its components, in the recipe's order.

    Raises
    ------
    RecipeError
        A source is named twice, or has other components than the first.
    """
    sources = [source for source in build.recipe.sources if isinstance(source, VectorsSource)]
    paths = [(build.base / source.path).resolve() for source in sources]
    items: list[Item] = []
    for source, path in zip(sources, paths, strict=True):
        config: dict[str, Any] = {
            "source": source.model_dump(mode="json"),
            "files": stamps(path),
        }
        if source.encoder is not None:
            config["encoder"] = identity(source.encoder)
        args = config | {"path": str(path)}
        items.append(build.item("binarize", "open", path.name, config=config, inputs=[], args=args))
    found: list[dict[str, Any]] = [
        receipt.facts | {"columns": list(source.columns), "id_column": source.id_column, "path": str(path)}
        for receipt, source, path in zip(build.compute(items), sources, paths, strict=True)
    ]
    for file in found:
        file |= {"file": Path(file["path"]).name, "input": file["sha256"]}
    for n, file in enumerate(found):
        if len(file["names"]) != len(found[0]["names"]):
            raise RecipeError(
                f"sources: {Path(file['path']).name} has vectors of {len(file['names'])} components, "
                f"{Path(found[0]['path']).name} of {len(found[0]['names'])}",
                "index vectors of one model together",
            )
        for other in found[:n]:
            if file["sha256"] == other["sha256"]:
                raise RecipeError(
                    f"sources: {Path(file['path']).name} holds the same bytes as {Path(other['path']).name}",
                    "name each file once",
                )
    if len({source.encoder for source in sources}) > 1:
        raise RecipeError("sources.encoder: one index, one model", "index what another encoder reads by itself")
    return [
        file if source.encoder is None else file | encode_texts(build, path, source, file["sha256"])
        for file, source, path in zip(found, sources, paths, strict=True)
    ]


def ranges(build: Build, file: dict[str, Any]) -> list[tuple[int, int]]:
    """Rows of a file that a shard each is made of."""
    publishing = build.recipe.publishing
    step = max(1, min(128 * publishing.shard_files, publishing.shard_mib * 2**20 // (4 * len(file["names"]))))
    return ranges_of_rows(open_vectors(Path(file["path"]), file["columns"], file["id_column"]).table, step)


def open_source(place: Workplace) -> Receipt:
    """A file's digest and columns; a row of the table `sources`."""
    source = VectorsSource.model_validate(place.item.args["source"])
    path = Path(place.item.args["path"])
    if source.encoder is None:
        vectors = open_vectors(path, source.columns, source.id_column)
        table, names = vectors.table, vectors.names
        if table.format not in FORMATS:
            raise RecipeError(
                f"sources.path: {path.name} is {table.format}; vectors are read from .npy, Parquet or Arrow",
                "write it as Parquet: duckdb -c \"COPY (FROM 'x.csv') TO 'x.parquet'\"",
            )
    else:
        table = open_texts(path, source)
        names = [f"{VECTOR}[{i}]" for i in range(load_encoder(source.encoder).dimensions)]
    digest = table_digest(path)
    row: dict[str, Any] = dict.fromkeys(SOURCES.names)
    row |= {
        "source_id": digest[:16], "kind": "vectors", "name": path.stem, "filename": path.name,
        "archive_sha256": digest, "status": "ok",
    }  # fmt: skip
    shard = place.write(table_path("sources", place.item.key), SOURCES, [pa.Table.from_pylist([row], SOURCES)])
    return place.receipt([shard], sha256=digest, rows=table.rows, names=names)


def check_ids(build: Build, files: list[dict[str, Any]]) -> None:
    """Make sure that a column of ids names each row of an index once, in all files together.

    Raises
    ------
    RecipeError
        It does not: naming an id, and where it stands.
    """
    codes = build.shards("binarize.rows", "codes")
    if not any(file["id_column"] for file in files):
        return
    names = {file["sha256"][:16]: file["file"] for file in files}
    item = build.item(
        "binarize", "ids", "ids that name a row each",
        config={}, inputs=[shard.sha256 for shard in codes],
        args={"codes": [shard.path for shard in codes], "names": names}, memory=(MEMORY_MIB + 256) * 2**20,
    )  # fmt: skip
    build.compute([item])


def unique_ids(place: Workplace) -> Receipt:
    """Look for an id that two rows have; on disk, where they do not fit in memory."""
    args = place.item.args
    with connection(place.root) as database:
        view(database, "codes", place.root, args["codes"])
        twice = database.sql(
            "SELECT sample_id, min(place), max(place), count(*) "
            "FROM (SELECT sample_id, {'source': source_id, 'row': row} AS place FROM codes) "
            "GROUP BY sample_id HAVING count(*) > 1 ORDER BY sample_id LIMIT 3"
        ).fetchall()
    if twice:
        sample, *places, count = twice[0]
        one, other = (f"{args['names'][p['source']]}, row {p['row']:,}" for p in places)
        more = f"; {count} rows have it" if count > 2 else ""
        raise RecipeError(
            f"sources.id_column: '{sample[:80]}' names more than one row: {one}, and {other}{more}",
            "name rows by a column without repeats, or leave id_column out: then the file's digest and their number do",
        )
    return place.receipt([])


STEPS: dict[str, Step] = {"ids": unique_ids, "open": open_source, "texts": vectors_of_texts}
