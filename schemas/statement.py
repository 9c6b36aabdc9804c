"""The statement of where a dataset came from: in-toto's, with SLSA's provenance as its predicate."""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.manifest import Manifest

STATEMENT = "provenance.intoto.json"
"""File of the statement, beside the manifest. It names the manifest's SHA-256, and so is written after it."""
ENVELOPE = "provenance.dsse.json"
"""File of the signed statement: a DSSE envelope."""
ATTESTED = (STATEMENT, ENVELOPE)
"""What names a manifest, so that the manifest cannot list it."""
PAYLOAD = "application/vnd.in-toto+json"

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:binmill:run:1"
"""What `externalParameters` mean: a recipe, which a run made into the subject."""


def subjects(manifest: Manifest, manifest_sha256: str) -> list[dict[str, Any]]:
    """What is stated: the manifest, and all that it lists, each by its SHA-256."""
    files = {"manifest.json": manifest_sha256, **manifest.files}
    sums = files | {shard.path: shard.sha256 for shard in manifest.shards()}
    return [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(sums.items())]


def statement(
    manifest: Manifest,
    manifest_sha256: str,
    sources: Sequence[Mapping[str, Any]],
    libraries: Mapping[str, str],
) -> dict[str, Any]:
    """An in-toto Statement v1 with SLSA provenance v1.

    Parameters
    ----------
    sources
        Rows of `sources` that were read.
    libraries
        Versions of the libraries that can change a value.
    """
    run = manifest.run
    tree: Mapping[str, Any] = run.get("tree") or {}
    release = str(run.get("binmill", ""))
    milled: dict[str, Any] = {"name": "binmill", "uri": f"pkg:pypi/binmill@{release}"}
    if tree.get("commit"):
        milled |= {"digest": {"gitCommit": tree["commit"]}, "annotations": {"dirty": bool(tree.get("dirty"))}}
    told = {"startedOn": run.get("started"), "finishedOn": run.get("finished")}
    return {
        "_type": TYPE,
        "subject": subjects(manifest, manifest_sha256),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"recipe": manifest.recipe},
                "internalParameters": {"code": run.get("code", {}), "digest": manifest.digest},
                "resolvedDependencies": [
                    milled,
                    *({"name": name, "uri": f"pkg:pypi/{name}@{v}"} for name, v in sorted(libraries.items())),
                    *(_dependency(source) for source in sources),
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:binmill:builder:1", "version": {"binmill": release}},
                "metadata": {name: value for name, value in told.items() if value},
            },
        },
    }


def _dependency(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source as SLSA's ResourceDescriptor."""
    names = ("name", "version", "filename")
    found: dict[str, Any] = {"name": " ".join(str(source[n]) for n in names if source.get(n))}
    found["uri"] = source.get("url") or f"urn:binmill:source:{source['source_id']}"
    if source.get("archive_sha256"):
        found["digest"] = {"sha256": source["archive_sha256"]}
    if source.get("licence"):
        found["annotations"] = {"licence": source["licence"]}
    return found
