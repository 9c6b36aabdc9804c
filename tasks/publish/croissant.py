"""croissant.json: what the dataset is, for search engines and loaders that speak MLCommons' Croissant 1.1."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import ShardEntry
from schemas.recipe import Publishing, Recipe
from tasks.publish.card import NOTES

CROISSANT = "croissant.json"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that Croissant 1.1 prescribes."""

SPDX = "https://spdx.org/licenses/"


def croissant(
    root: Path,
    recipe: Recipe,
    summary: Mapping[str, Any],
    tables: Mapping[str, list[ShardEntry]],
    fitted: Mapping[str, ShardEntry],
    recipe_sha256: str,
) -> bytes:
    """The dataset in Croissant: a file set and a record set for each table, a field for each column.

    It holds no time but the one that the recipe gives, so that equal data gives equal bytes. Paths are relative to
    the dataset's folder; the SHA-256 of each shard stands in `manifest.json`.
    """
    about = recipe.publishing
    every = {**tables, **{f"fitted_{name}": [shard] for name, shard in fitted.items()}}
    distribution: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject", "@id": "recipe", "name": "recipe.yaml", "contentUrl": "recipe.yaml",
            "description": "The recipe that was run, defaults filled in: it makes the dataset again, byte for byte.",
            "encodingFormat": "application/yaml", "sha256": recipe_sha256,
        }
    ]  # fmt: skip
    records: list[dict[str, Any]] = []
    for name, shards in every.items():
        key, note = _id(name), NOTES.get(name, "learned from train alone")
        pattern = f"tables/{name}/*.parquet" if name in tables else shards[0].path
        distribution.append(
            {
                "@type": "cr:FileSet", "@id": f"files-{key}", "name": f"files of {name}",
                "description": f"{len(shards)} Parquet files", "encodingFormat": "application/x-parquet",
                "includes": pattern,
            }
        )  # fmt: skip
        records.append(
            {
                "@type": "cr:RecordSet", "@id": key, "name": name,
                "description": f"{note}; {sum(shard.rows for shard in shards)} rows",
                "field": [_field(key, column) for column in pq.read_schema(root / shards[0].path)],
            }
        )  # fmt: skip
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": about.title or recipe.name,
        "description": about.description.strip() or f"The dataset {recipe.name}, made by binmill.",
        **_told(about),
        "license": _licences(about, summary),
        "isBasedOn": [
            {"@type": "CreativeWork", "name": f"{count} sources under {licence}", "license": _licence(licence)}
            for licence, count in summary["licences"].items()
        ],
        "distribution": distribution,
        "recordSet": records,
    }
    found = {name: value for name, value in found.items() if value not in ("", [])}
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()


def _told(about: Publishing) -> dict[str, Any]:
    """What the recipe says of the dataset as a work."""
    return {
        "version": about.version,
        "url": about.url,
        "citeAs": about.citation.strip(),
        "datePublished": "" if about.published is None else about.published.isoformat(),
        "creator": [
            {"@type": "sc:Person" if by.kind == "person" else "sc:Organization", "name": by.name}
            | ({"url": by.url} if by.url else {})
            for by in about.creators
        ],
    }


def _licences(about: Publishing, summary: Mapping[str, Any]) -> list[str]:
    """The dataset's licence; where the recipe names none, those of its sources."""
    named = [about.licence] if about.licence else list(summary["licences"])
    return [_licence(name) for name in named]


def _licence(name: str) -> str:
    """An SPDX identifier as the address of its text; an expression (or `unknown`) as it is."""
    plain = name != "unknown" and not name.startswith("LicenseRef-") and " " not in name
    return f"{SPDX}{name}" if plain else name


def _id(name: str) -> str:
    """A name as part of an identifier, which is an IRI."""
    return quote(name, safe="")


def _field(table: str, column: Any) -> dict[str, Any]:
    kind, shape = _type(column.type)
    array = {"isArray": True, "arrayShape": shape} if shape else {}
    return {
        "@type": "cr:Field", "@id": f"{table}/{_id(column.name)}", "name": column.name, "dataType": kind, **array,
        "source": {"fileSet": {"@id": f"files-{table}"}, "extract": {"column": column.name}},
    }  # fmt: skip


def _type(kind: Any) -> tuple[str, str]:
    """Croissant's data type for an Arrow type, and the shape of an array ("" when it is none)."""
    if pa.types.is_fixed_size_list(kind):
        return _type(kind.value_type)[0], str(kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _type(kind.value_type)[0], "-1"
    if pa.types.is_dictionary(kind):
        return _type(kind.value_type)
    if pa.types.is_boolean(kind):
        return "sc:Boolean", ""
    if pa.types.is_integer(kind):
        return "sc:Integer", ""
    if pa.types.is_floating(kind):
        return "sc:Float", ""
    if pa.types.is_date(kind):
        return "sc:Date", ""
    if pa.types.is_timestamp(kind):
        return "sc:DateTime", ""
    return "sc:Text", ""  # texts, and bytes: Croissant has no type for these
