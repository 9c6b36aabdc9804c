"""What an origin holds and says of itself: its candidate files, its licence."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from schemas.recipe import Members
from tasks.archives import NESTED, Member, archive_kind, commit_members, is_archive, is_regular, members, read_file
from tasks.containers import LINK
from tasks.ingest import debian, git
from tasks.ingest.licence import spdx
from tasks.ingest.origin import Origin, walk
from tasks.ingest.wheel import WheelMetadata, parse_metadata, read_wheel_metadata
from tasks.unpacking import Limits

EXECUTABLES = (
    b"\x7fELF", b"MZ",
    b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
)  # fmt: skip
"""How ELF, PE and Mach-O files begin."""
FAT = (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf")
"""How Mach-O files for several machines begin; Java's classes too, with a version where the count of machines is."""


def describe(origin: Origin, path: Path, url: str | None) -> dict[str, Any]:
    """The origin's row of `sources`."""
    about = _about(origin, path)
    return {
        "source_id": origin.source_id,
        "kind": origin.kind,
        "name": origin.name,
        "version": origin.version,
        "filename": origin.filename,
        "url": url if origin.location is None else None,
        "archive_sha256": origin.sha256 if origin.kind in {"pypi", "debian", "http", "table"} else None,
        "licence": about.licence,
        "licence_source": about.licence_source,
        "generator": about.generator,
        "status": "ok",
        "reason": None,
    }


def _about(origin: Origin, path: Path) -> WheelMetadata:
    """What an origin says of itself: above all, its licence."""
    nothing_known = WheelMetadata(None, None, None, None, None)
    if origin.kind == "installed":
        distribution = importlib.metadata.distribution(origin.name)
        return parse_metadata(distribution.read_text("METADATA") or "", distribution.read_text("WHEEL") or "")
    if origin.kind == "git":
        return replace(nothing_known, **_licensed(git.commit_licence(path)))
    if origin.kind not in {"pypi", "debian", "http"}:
        return nothing_known
    kind = archive_kind(path)
    about = nothing_known
    if kind == "deb":
        about = replace(about, **_licensed(debian.package_licence(path, debian.package_name(path) or origin.name)))
    elif kind == "zip" or (kind == "tar" and (origin.filename or "").endswith(".tar.gz")):
        about = read_wheel_metadata(path)
    if origin.licence is not None:
        stated = spdx(origin.licence)
        problem = "" if stated else f": '{origin.licence[:60]}' is no SPDX expression"
        about = replace(about, licence=stated, licence_source=f"recipe{problem}")
    return about


def _licensed(found: tuple[str | None, str | None]) -> dict[str, str | None]:
    return {"licence": found[0], "licence_source": found[1]}


def is_executable(data: bytes) -> bool:
    """Whether a file begins as an ELF, PE or Mach-O file does."""
    return data.startswith(EXECUTABLES) or (data.startswith(FAT) and 0 < int.from_bytes(data[4:8], "big") < 30)


def scan(origin: Origin, path: Path, limits: Limits) -> Iterator[tuple[Member, str]]:
    """Candidate files of an origin with the project each belongs to, and every refused one with its reason."""
    limits = replace(limits, max_depth=origin.depth)
    for member, project in _scan(origin, path, limits):
        # A link is no executable, and what it points to is taken where it lies.
        other = member.reason == LINK or (member.data is not None and not is_executable(member.data))
        if origin.content == "any" or not other:
            yield member, project


def _scan(origin: Origin, path: Path, limits: Limits) -> Iterator[tuple[Member, str]]:
    takes = origin.members.takes
    if origin.kind == "installed":
        for name in origin.files:
            yield read_file(path, name, limits.max_member_bytes), origin.name
    elif origin.kind == "git":
        for member in commit_members(path, limits, takes):
            yield member, _project(origin, member.path)
    elif origin.kind == "debian":
        project = debian.source_package(path) or origin.name
        for member in members(path, limits, takes):
            yield member, project
    elif origin.kind == "http" and not is_archive(path):
        name = origin.name
        if takes(name):
            yield replace(read_file(path.parent, path.name, limits.max_member_bytes), path=name), name
    elif origin.kind in {"pypi", "http"}:
        for member in members(path, limits, takes):
            yield member, origin.name
    else:
        for name in walk(path, origin.part):
            project = _project(origin, name)
            if is_regular(path / name) and is_archive(path / name):
                for member in _archive_in_folder(path, name, limits, origin.members):
                    yield member, project
            elif takes(name):
                yield read_file(path, name, limits.max_member_bytes), project


def _archive_in_folder(root: Path, name: str, limits: Limits, wanted: Members) -> Iterator[Member]:
    found = 0
    for member in members(root / name, limits, lambda inner: wanted.takes(f"{name}{NESTED}{inner}")):
        found += 1
        path = f"{name}{NESTED}{member.path}" if member.path else name
        if is_regular(root / path) and path != name:
            yield Member(path, None, "duplicate member: a file has the same path")
        else:
            yield Member(path, member.data, member.reason)
    if not found:
        yield Member(name, None, "archive holds no candidate file")


def _project(origin: Origin, path: str) -> str:
    if origin.project == "name":
        return origin.name
    if origin.project == "first-folder" and "/" in path:
        return f"{origin.name}/{path.split('/', 1)[0]}"
    return f"{origin.name}/{path}"
