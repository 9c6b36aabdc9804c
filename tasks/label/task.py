"""The label stage: what each sample is called, by whom, and whether the bytes contradict it.

A label comes from what is declared about a file (a wheel's `Generator`, a folder, a column), never from
its bytes. What was seen in the bytes is only held against it: a disagreement is a finding, not a label.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from schemas.errors import SourceError
from schemas.recipe import Label
from schemas.tables import LABELS
from tasks.build import Build
from tasks.duck import connection, view
from tasks.items import Receipt, Step, Workplace
from tasks.shards import Shard, table_path

DECLARED = {
    "generator": "s.generator",
    "source": "s.name",
    "first-folder": "CASE WHEN contains(o.path_in_source, '/') THEN split_part(o.path_in_source, '/', 1) END",
}
"""SQL for the declared value, by `label.origin`, over observations o and sources s."""


def build(build: Build) -> None:
    """Plan and compute the labels of all samples: one item, one shard for each features shard."""
    features = build.shards("extract.features", "features") + build.shards("extract.rows", "features")
    if not sum(shard.rows for shard in features):
        raise SourceError(
            "sources: no file could be parsed as a PE, ELF or Mach-O file",
            "check the sources' paths and their members.include patterns",
        )
    names = ("sources", "observations", "binaries", "declared")
    inputs: dict[str, list[Shard]] = {
        "sources": build.shards("ingest.assign", "sources"),
        "observations": build.shards("ingest.scan", "observations"),
        "binaries": build.shards("extract.features", "binaries"),
        "declared": build.shards("extract.rows", "declared"),
    }
    config = {"label": build.recipe.label.model_dump(mode="json")}
    every = [*features, *(shard for name in names for shard in inputs[name])]
    item = build.item(
        "label",
        "labels",
        "labels of all samples",
        config=config,
        inputs=[shard.sha256 for shard in every],
        args=config
        | {"features": [shard.path for shard in features]}
        | {name: [shard.path for shard in inputs[name]] for name in names},
    )
    build.compute([item])


def label_of(declared: str | None, label: Label) -> str | None:
    """The label a declared value stands for: the first rule that matches, else the default."""
    if declared is None:
        return label.default
    if not label.rules:
        return declared
    for rule in label.rules:
        if fnmatch.fnmatchcase(declared.lower(), rule.match.lower()):
            return rule.label
    return label.default


def labels(place: Workplace) -> Receipt:
    """Write the labels, aligned with the features shards, row by row."""
    args = place.item.args
    rule = Label.model_validate(args["label"])
    shards: list[Shard] = []
    counts: dict[str, int] = {}
    with connection(place.root) as database:
        for name in ("sources", "observations", "binaries", "declared", "features"):
            if args[name]:
                view(database, name, place.root, args[name])
        if args["declared"]:
            database.execute("CREATE TABLE d AS SELECT sample_id, declared FROM declared")
            database.execute("CREATE TABLE evidence (sample_id VARCHAR, observed VARCHAR)")
        else:
            database.execute(
                f"CREATE TABLE d AS SELECT DISTINCT o.sha256 AS sample_id, {DECLARED[rule.origin]} AS declared "
                "FROM observations o JOIN sources s USING (source_id) WHERE o.sha256 IS NOT NULL AND s.status = 'ok'"
            )
            database.execute(
                "CREATE TABLE evidence AS SELECT sha256 AS sample_id, compiler_evidence AS observed "
                "FROM binaries WHERE compiler_evidence IS NOT NULL"
            )
        _map_declared(database, rule)
        for part in range(len(args["features"])):
            rows = database.sql(_LABELS_OF_SHARD, params=[rule.on_disagreement == "exclude", part]).to_arrow_table()
            table = rows.append_column("origin", pa.array([rule.origin] * rows.num_rows, pa.string()))
            table = table.select(LABELS.names)
            for reason in table.column("reason").to_pylist():
                if reason is not None:
                    counts[reason] = counts.get(reason, 0) + 1
            shards.append(place.write(table_path("labels", place.item.key, part), LABELS, _non_null(table, LABELS)))
    return place.receipt(shards, reasons=dict(sorted(counts.items())))


def _map_declared(database: Any, rule: Label) -> None:
    """Table m: each declared value and its label."""
    if rule.rules:
        values: Sequence[tuple[str | None]] = database.execute("SELECT DISTINCT declared FROM d").fetchall()
        database.execute("CREATE TABLE m (declared VARCHAR, label VARCHAR)")
        database.executemany("INSERT INTO m VALUES (?, ?)", [(v, label_of(v, rule)) for (v,) in values])
    else:
        database.execute(
            "CREATE TABLE m AS SELECT DISTINCT declared, coalesce(declared, ?) AS label FROM d",
            [rule.default],
        )


# Evidence speaks only when it names one of the labels: 'rust' in the bytes says nothing about 'malware'.
_LABELS_OF_SHARD = """
WITH one AS (
    SELECT d.sample_id,
           list_sort(list(DISTINCT m.label) FILTER (m.label IS NOT NULL)) AS labels,
           list_sort(list(DISTINCT d.declared) FILTER (d.declared IS NOT NULL)) AS declared
    FROM d JOIN m ON d.declared IS NOT DISTINCT FROM m.declared GROUP BY d.sample_id
), checked AS (
    SELECT f.sample_id, one.labels, array_to_string(one.declared, ' | ') AS declared, e.observed,
           CASE WHEN len(one.labels) = 1 AND e.observed IN (SELECT label FROM m)
                THEN one.labels[1] = e.observed END AS agrees
    FROM features f LEFT JOIN one USING (sample_id) LEFT JOIN evidence e USING (sample_id)
    WHERE f.shard = $2
)
SELECT sample_id,
       CASE WHEN len(labels) = 1 AND NOT ($1 AND agrees IS FALSE) THEN labels[1] END AS label,
       nullif(declared, '') AS declared, observed, agrees,
       CASE WHEN labels IS NULL OR len(labels) = 0 THEN 'no label declared'
            WHEN len(labels) > 1 THEN 'sources declare different labels'
            WHEN $1 AND agrees IS FALSE THEN 'bytes contradict the declared label' END AS reason
FROM checked ORDER BY sample_id
"""


def _non_null(table: Any, schema: Any) -> list[Any]:
    """The table with DuckDB's nullable columns declared as the schema has them."""
    return [pa.Table.from_arrays([table.column(name) for name in schema.names], schema=schema)]


STEPS: dict[str, Step] = {"labels": labels}
