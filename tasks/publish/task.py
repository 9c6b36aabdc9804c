"""The publish stage: the summary, the card and, last, the manifest. It runs where the flow runs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import yaml

from schemas.errors import DatasetError, ToleranceError
from schemas.manifest import MANIFEST, Manifest, ShardEntry, content_digest
from schemas.statement import STATEMENT, statement
from tasks.build import Build, code_digest, libraries
from tasks.order import commitment, order_key, training_ids, training_order
from tasks.publish.card import CODES_PLOT, PLOT, card
from tasks.publish.croissant import CROISSANT, croissant
from tasks.publish.page import MOST_SOURCES, PAGE, page
from tasks.publish.summary import excluded, failures, summarise
from tasks.shards import Shard, read_shard, replace_atomically, sha256_file, sweep, writing
from tasks.versions import SHORT, keep, prune

ESTIMATES = ("mi_binned", "mi_kde", "mi_knn", "mi_pearson")
"""Columns of `screening` that hold several estimators' values beside each other."""

TABLES = (
    "sources", "observations", "binaries", "labels", "features", "splits", "screening",
    "train", "train_dropped", "voters", "validation", "test", "codes", "borders",
)  # fmt: skip
"""Order in which tables are shown: that of the pipeline."""


def check_tolerance(build: Build) -> None:
    """Stop a run in which more inputs failed than the recipe tolerates.

    Raises
    ------
    ToleranceError
        Naming the commonest reasons. Nothing is lost: a run with a wider tolerance goes on from here.
    """
    failed, total = failures(build)
    count = sum(f["count"] for f in failed)
    if total == 0 and (out := excluded(build)):
        reasons = "; ".join(f"{e['sources']} x {e['reason']}" for e in out[:5])
        raise ToleranceError(
            f"licences.allow: it keeps every source out: {reasons}",
            "allow more licences, or say licences.unknown: keep for sources that state none",
        )
    if total == 0:
        raise ToleranceError(
            "sources: no input was found",
            "check the sources' paths and their members.include patterns",
        )
    share = build.recipe.tolerance.share
    if count > share * total:
        reasons = "; ".join(f"{f['count']} x {f['reason']} (e.g. {f['example']})" for f in failed[:5])
        raise ToleranceError(
            f"tolerance.share: {count} of {total} inputs failed ({count / total:.1%}), "
            f"the recipe tolerates {share:.1%}: {reasons}",
            "mend or leave out these inputs, or raise tolerance.share; finished work is kept",
        )


def publish(build: Build, run: Mapping[str, Any]) -> tuple[Manifest, bool]:
    """Commit the dataset.

    Parameters
    ----------
    run
        What is true of this run only (times, workers, tree); it does not enter the digest.

    Returns
    -------
    manifest
        The committed manifest.
    changed
        False when the same dataset was already there; its manifest is then left as it was.
    """
    entries = _entries(build)
    tables: dict[str, list[ShardEntry]] = {name: [] for name in TABLES}
    fitted: dict[str, ShardEntry] = {}
    for shard in entries:
        entry = ShardEntry(**asdict(shard))
        if shard.path.startswith("tables/"):
            tables[shard.table].append(entry)
        else:
            fitted[shard.table] = entry
    tables = {name: shards for name, shards in tables.items() if shards}
    recipe = build.recipe.model_dump(mode="json")
    digest = content_digest(build.recipe.name, recipe, tables, fitted)

    with writing(build.root):
        return _commit(build, run, recipe, tables, fitted, digest)


def _commit(
    build: Build,
    run: Mapping[str, Any],
    recipe: dict[str, Any],
    tables: dict[str, list[ShardEntry]],
    fitted: dict[str, ShardEntry],
    digest: str,
) -> tuple[Manifest, bool]:
    """Keep what was there, write what people see, then the manifest; then remove what no longer counts."""
    previous = _previous(build)
    most = build.recipe.publishing.keep_versions
    if previous is not None and previous.digest != digest and most and not keep(build.root, previous):
        build.notes.append(f"the dataset before ({previous.digest[:SHORT]}) was damaged: it is not among the versions")
    summary = summarise(build) | {"order": _order(build, previous, digest, tables)}
    rows = {name: sum(shard.rows for shard in shards) for name, shards in tables.items()}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    described = croissant(build.root, build.recipe, summary, tables, fitted, hashlib.sha256(text).hexdigest())
    beside = {
        "README.md": card(build.recipe, summary, rows).encode(),
        "recipe.yaml": text,
        CROISSANT: described,
    } | _plots(build, previous, digest)
    beside[PAGE] = _page(build, digest, summary, tables, fitted, beside)
    for name, data in beside.items():
        if not (build.root / name).is_file() or (build.root / name).read_bytes() != data:
            replace_atomically(build.root / name, data)
    files = {name: hashlib.sha256(data).hexdigest() for name, data in beside.items()}
    manifest = Manifest(
        name=build.recipe.name,
        digest=digest,
        recipe=recipe,
        tables=tables,
        fitted=fitted,
        files=files,
        summary=summary,
        run={**run, "code": _code(build, previous, run)},
    )
    unchanged = (
        previous is not None
        and previous.digest == digest
        and previous.content_digest() == digest
        and previous.files == files
        and previous.summary == json.loads(json.dumps(summary))
    )
    if unchanged:
        assert previous is not None
        manifest = previous
    else:
        text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        # A run that dies here leaves a dataset without a statement, not one with another's.
        (build.root / STATEMENT).unlink(missing_ok=True)
        replace_atomically(build.root / MANIFEST, text.encode())
    _state(build, manifest)
    # Only now may what the old manifest listed go.
    receipts = {r.key: [s.path for s in r.shards] for found in build.receipts.values() for r in found}
    build.journal.keep_only(set(receipts))
    sweep(build.root, {path for paths in receipts.values() for path in paths})
    prune(build.root, most)
    return manifest, not unchanged


def _page(
    build: Build,
    digest: str,
    summary: dict[str, Any],
    tables: Mapping[str, list[ShardEntry]],
    fitted: Mapping[str, ShardEntry],
    beside: Mapping[str, bytes],
) -> bytes:
    """The page, of what the other files say and of the tables `sources` and `screening`."""
    stage_of = {s.table: r.stage for found in build.receipts.values() for r in found for s in r.shards}
    screening = [read_shard(build.root, s.path) for s in build.shards("screen.select", "screening")]
    return page(
        build.recipe,
        digest,
        summary,
        {name: sum(shard.rows for shard in shards) for name, shards in tables.items()},
        {name: f"{stage} · code {code_digest(stage)[:8]}" for name, stage in stage_of.items()},
        fitted=sorted(fitted),
        sources=_first_sources(build, tables.get("sources", ())),
        scores={name.removeprefix("mi_"): screening[0].column(name).to_pylist() for name in ESTIMATES if screening},
        beside=beside,
    )


def _first_sources(build: Build, shards: Iterable[ShardEntry]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for shard in shards:
        found += read_shard(build.root, shard.path).slice(0, MOST_SOURCES - len(found)).to_pylist()
        if len(found) == MOST_SOURCES:
            break
    return found


def _order(
    build: Build, previous: Manifest | None, digest: str, tables: Mapping[str, list[ShardEntry]]
) -> dict[str, Any] | None:
    """The commitment to the order in which a model is to be trained; None without rows to train on."""
    if not tables.get("train"):
        return None
    name = build.recipe.publishing.order_secret
    if not name and previous is not None and previous.digest == digest and "order" in previous.summary:
        return previous.summary["order"]
    try:
        secret = (build.base / name).read_bytes() if name else None
    except OSError as error:
        raise DatasetError(
            f"publishing.order_secret: {build.base / name}: {error.strerror}",
            "make it once, and keep it: head -c 32 /dev/urandom > FILE; or leave the key out of the recipe",
        ) from error
    ids = training_ids(build.root / shard.path for shard in tables["train"])
    committed = commitment(training_order(ids, order_key(build.recipe.seed, secret)))
    return {"rows": len(ids), "secret": bool(name), "commitment": committed}


def _state(build: Build, manifest: Manifest) -> None:
    """Write the statement of provenance, if it is not there; a run that died before it writes it when run again."""
    sources = [row for shard in build.shards("ingest.assign", "sources") for row in _rows(build, shard)]
    versions = {name: version for stage in build.stages for name, version in libraries(stage).items()}
    sha256 = sha256_file(build.root / MANIFEST)
    read = [row for row in sources if row["status"] == "ok"]
    text = json.dumps(statement(manifest, sha256, read, versions), indent=1, ensure_ascii=False) + "\n"
    place = build.root / STATEMENT
    if not place.is_file() or place.read_bytes() != text.encode():
        replace_atomically(place, text.encode())


def _code(build: Build, previous: Manifest | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """By stage: the digest of its code, and the commit, clean or not, of the tree that first made shards with it."""
    known = previous.run.get("code") if previous is not None else None
    known = known if isinstance(known, dict) else {}
    found: dict[str, Any] = {}
    for stage in sorted(build.stages):
        new = {"digest": code_digest(stage), **(run.get("tree") or {})}
        old = known.get(stage)
        found[stage] = old if isinstance(old, dict) and old.get("digest") == new["digest"] else new
    return found


def _plots(build: Build, previous: Manifest | None, digest: str) -> dict[str, bytes]:
    """Plots beside the card, by file name; made only when what they show has changed."""
    found: dict[str, bytes] = {}
    for name, draw in ((PLOT, _screening_plot), (CODES_PLOT, _codes_plot)):
        path = build.root / name
        if previous is not None and previous.digest == digest and path.is_file():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == previous.files.get(name):
                found[name] = data
                continue
        data = draw(build)
        if data is not None:
            found[name] = data
    return found


def _screening_plot(build: Build) -> bytes | None:
    shards = build.shards("screen.select", "screening")
    if not shards:
        return None
    from tasks.publish.plot import screening_plot  # matplotlib takes a second

    table = read_shard(build.root, shards[0].path)
    return screening_plot(table, _title(build), build.recipe.screening.max_q)


def _codes_plot(build: Build) -> bytes | None:
    measured = [row for shard in build.shards("binarize.recall", "recall") for row in _rows(build, shard)]
    if not measured:
        return None
    from tasks.codes.plot import recall_plot

    return recall_plot(measured, f"{_title(build)}: bit codes", measured[0]["k"])


def _rows(build: Build, shard: Shard) -> list[dict[str, Any]]:
    return read_shard(build.root, shard.path).to_pylist()


def _title(build: Build) -> str:
    return build.recipe.publishing.title or build.recipe.name


def _entries(build: Build) -> list[Shard]:
    found = [shard for receipts in build.receipts.values() for receipt in receipts for shard in receipt.shards]
    return [s for s in dict.fromkeys(found) if s.path.startswith(("tables/", "fitted/"))]


def _previous(build: Build) -> Manifest | None:
    path = build.root / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
