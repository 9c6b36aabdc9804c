"""The dataset card: README.md of a dataset, for people."""

from collections.abc import Mapping
from typing import Any

from schemas.recipe import Publishing, Recipe

PLOT = "screening.svg"
CODES_PLOT = "codes.svg"
"""The plot of the table `screening`, beside the card."""

NOTES = {
    "sources": "places data came from, with URL, archive SHA-256 and licence",
    "observations": "places where each file was found, refused ones with the reason",
    "binaries": "distinct files: format, machine, compiler, parse status",
    "labels": "the label of each sample, who declared it, and whether the bytes contradict it",
    "features": "feature vectors, one fixed-size list per group; names in the columns' metadata",
    "splits": "train, validation or test, by whole groups",
    "screening": "mutual information (nats) of each feature with the label on train",
    "train": "examples to train on, synthetic ones marked",
    "train_dropped": "examples of train that rebalancing left out, and by which rule",
    "voters": "whose names (values that are no numbers) the synthetic rows of each real row take",
    "validation": "examples to tune on",
    "test": "examples to judge on",
    "codes": "bit codes for nearest-neighbour search",
    "borders": "copies of codes in the cells that their rows are nearly in",
}


KINDS = {
    "all": "all that the recipe's `dedup.by` names",
    "sha256": "equal bytes",
    "features": "equal features",
    "tlsh": "near bytes (TLSH distance)",
    "imports": "near imports (Jaccard index, by MinHash)",
    "strings": "near strings (Jaccard index, by MinHash)",
    "project": "project",
    "build_id": "build id",
    "archive": "source archive",
}


def card(recipe: Recipe, summary: dict[str, Any], rows: dict[str, int]) -> str:
    """Text of the card, in Markdown. It holds no time, so that equal data gives an equal card."""
    title = recipe.publishing.title or recipe.name
    parts = [f"# {title}", ""]
    if recipe.publishing.description:
        parts += [recipe.publishing.description.strip(), ""]
    parts += _told(recipe.publishing)
    parts += [
        "Made by [binmill](recipe.yaml): the recipe beside this file makes it again, byte for byte.",
        "",
    ]
    parts += ["## Tables", "", "| table | rows | a row is |", "|---|---:|---|"]
    parts += [f"| `{name}` | {count:,} | {NOTES.get(name, '')} |" for name, count in rows.items()]
    before, after = summary["balance"]["before"], summary["balance"]["after"]
    if any(after.values()):
        parts += ["", "## Class balance", "", "| split | label | real rows | with synthetic rows |"]
        parts += ["|---|---|---:|---:|"]
        parts += [
            f"| {split} | {label} | {before[split].get(label, 0):,} | {count:,} |"
            for split, labels in after.items()
            for label, count in labels.items()
        ]
    if summary["neighbours_found"]:
        found = ", ".join(f"{recall:.2%} in {label}" for label, recall in summary["neighbours_found"].items())
        parts += ["", f"Neighbours were searched approximately; of the true ones were found: {found}."]
    if summary["duplicates"]:
        parts += _duplicates(summary["duplicates"])
    parts += ["", "## What was left out, and why", ""]
    if summary["failures"]:
        parts += ["| stage | reason | inputs |", "|---|---|---:|"]
        parts += [f"| {f['stage']} | {_cell(f['reason'])} | {f['count']:,} |" for f in summary["failures"]]
        parts += ["", f"{summary['failed']:,} of {summary['inputs']:,} inputs."]
    else:
        parts += [f"Nothing: all {summary['inputs']:,} inputs are in."]
    if summary["licences"]:
        parts += ["", "## Licences of the sources", "", "| licence (SPDX) | sources |", "|---|---:|"]
        parts += [f"| {_cell(licence)} | {count:,} |" for licence, count in summary["licences"].items()]
        parts += ["", "`sources.licence` names each; the files stay under their own licences."]
    if summary["excluded"]:
        parts += ["", "The recipe's `licences` keep these out:", "", "| reason | sources | files |", "|---|---:|---:|"]
        parts += [f"| {_cell(e['reason'])} | {e['sources']:,} | {e['files']:,} |" for e in summary["excluded"]]
    if summary["top_features"]:
        parts += ["", "## Top features", "", "| rank | feature | MI (bits) | by | q |", "|---:|---|---:|---|---:|"]
        parts += [
            f"| {f['rank']} | `{f['feature']}` | {f['mi_bits']:.3f} | {f['estimator']} | {f['q_value']:.2g} |"
            for f in summary["top_features"]
        ]
        parts += ["", f"![Information of all features, and how sure it is]({PLOT})"]
    if summary["recall"]:
        parts += [
            "",
            "## Codes",
            "",
            "| method | rotation | bits | bytes a row | recall | rescored | k | queries | rows searched |",
        ]
        parts += ["|---|---|---:|---:|---:|---:|---:|---:|---:|"]
        parts += [
            f"| {r['method']} | {r['rotation']} | {r['bits']} | {r['bytes']} | {r['recall']:.3f} | "
            f"{r['rescored']:.3f} | {r['k']} | {r['queries']} | {r['base']} |"
            for r in summary["recall"]
        ]
        parts += ["", "Rescored: of the 4k nearest by code, the k nearest by int8 vectors (`binarizing.rescoring`)."]
        parts += ["", f"![Recall of the codes against bytes]({CODES_PLOT})"]
    if summary.get("cells"):
        parts += [
            "",
            "Codes are stored by cell. What a search finds that reads only the nearest ones (`--recall`):",
            "",
        ]
        parts += ["| cells read | rows read | neighbours in them |", "|---:|---:|---:|"]
        parts += [f"| {c['probes']} | {c['read']:.1%} | {c['recall']:.3f} |" for c in summary["cells"]]
    parts += ["", "## Query it", "", "```", *queries(rows), "```", ""]
    if place := learned_from(rows):
        parts += [
            f"Everything learned (`fitted/`) was learned from {place}. `binmill verify .` checks every byte,",
            "`binmill trace . ID` shows where a row came from.",
        ]
    else:
        parts += ["Every row of the table with an outcome counts. `binmill verify .` checks every byte."]
    parts.append("")
    return "\n".join(parts)


def learned_from(rows: Mapping[str, int]) -> str:
    """What everything in `fitted/` was learned from; empty where nothing is learned."""
    return "`train` alone" if "train" in rows else "the first source" if "codes" in rows else ""


def queries(rows: Mapping[str, int]) -> list[str]:
    """Commands to begin with, in the dataset's folder."""
    if "train" in rows:
        counts = (
            "split, label, count(*) FROM splits JOIN labels USING (sample_id)"
            if "splits" in rows
            else "label, is_synthetic, count(*) FROM train"
        )
        return [
            f'binmill query . "SELECT {counts} GROUP BY ALL"',
            "duckdb -c \"SELECT label, count(*) FROM 'tables/train/*.parquet' GROUP BY label\"",
            "python -c \"import pyarrow.dataset as d; print(d.dataset('tables/train').to_table().to_pandas())\"",
        ]
    if "codes" in rows:
        return [
            "binmill search . --vectors QUERIES.npy -k 10",
            'binmill query . "SELECT filename, count(*) FROM codes JOIN sources USING (source_id) GROUP BY ALL"',
        ]
    return [
        'binmill query . "SELECT feature, mi, q_value FROM screening WHERE selected ORDER BY rank"',
        "duckdb -c \"SELECT * FROM 'tables/screening/*.parquet' ORDER BY rank\"",
    ]


def _told(about: Publishing) -> list[str]:
    """Version, licence, creators and citation, as far as the recipe names them."""
    said = {
        "Version": about.version,
        "Published": "" if about.published is None else about.published.isoformat(),
        "By": ", ".join(f"[{by.name}]({by.url})" if by.url else by.name for by in about.creators),
        "Licence": about.licence,
        "Home": about.url,
    }
    parts = [f"- {name}: {text}" for name, text in said.items() if text]
    cite = ["", "```", about.citation.strip(), "```"] if about.citation.strip() else []
    return [*parts, *cite, ""] if parts or cite else []


def _duplicates(found: dict[str, Any]) -> list[str]:
    parts = [
        "",
        "## Duplicates and leakage",
        "",
        "| kind | clusters | samples in them | largest |",
        "|---|---:|---:|---:|",
    ]
    parts += [
        f"| {KINDS.get(kind, kind)} | {c['clusters']:,} | {c['samples']:,} | {c['largest']:,} |"
        for kind, c in found["clusters"].items()
    ]
    parts += [
        "",
        f"Of {found['samples']:,} samples; nothing was taken out. `splits` names each sample's cluster of each kind.",
        f"The largest group that stays in one split has {found['largest_group']:,} samples.",
        "",
        "Rows of a later split that share something with an earlier one (and pairs of such rows), labelled rows only:",
        "",
        "| shared | limit | validation with train | test with train | test with validation | kept in one split |",
        "|---|---:|---:|---:|---:|---|",
    ]
    parts += [
        f"| {line['kind']} | {line['limit']} | {' | '.join(line['cells'])} | {line['kept_whole']} |"
        for line in leakage(found)
    ]
    return [*parts, "", "`splits.leaks` names what each such row shares, at the recipe's limits."]


def leakage(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each kind and limit.

    Its cells are rows (and pairs) of validation with train, test with train, test with validation.
    """
    lines: dict[tuple[str, float | None], list[Any]] = {}
    for line in found["leakage"]:
        lines.setdefault((line["kind"], line["limit"]), []).append(line)
    return [
        {
            "kind": KINDS.get(kind, kind),
            "limit": "" if limit is None else f"{limit:g}",
            "cells": [f"{c['rows']:,}" + (f" ({c['pairs']:,})" if c["pairs"] else "") for c in columns],
            "kept_whole": "yes" if columns[0]["kept_whole"] else "no",
        }
        for (kind, limit), columns in lines.items()
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
