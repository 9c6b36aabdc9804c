"""The header tree of an executable: its headers, tables and hardening as objects, lists, texts and numbers."""

from dataclasses import asdict
from typing import Any

from tasks.extract.headers import Headers, Section
from tasks.extract.layout import SIGNED_NOTES, SIGNED_SECTIONS


def header_tree(headers: Headers) -> dict[str, Any]:
    """Headers as a JSON-like tree, the same for every format.

    Sections stand under their names. Left out is what names a compiler or one very file (banners, build ids, times):
    labels are held against the former, and nothing else is like the latter.
    """
    return {
        "format": headers.format,
        "target": {"machine": headers.machine, "bits": str(headers.bits), "endianness": headers.endianness},
        "kind": headers.kind,
        "entry": headers.entry_offset is not None,
        "loader_entries": headers.loader_entries,
        "overlay": headers.overlay,
        "segments": [_access(segment) for segment in headers.segments],
        "sections": _sections(headers.sections),
        "libraries": [name.lower() for name in headers.libraries],
        "imports": list(headers.imports),
        "exports": list(headers.exports),
        "symbols": asdict(headers.symbols),
        "relocations": {name: value for name, value in asdict(headers.relocations).items() if name != "types"}
        | {"types": dict(headers.relocations.types)},
        "notes": [note for note in headers.notes if not note.startswith(SIGNED_NOTES)],
        "hardening": asdict(headers.hardening),
        "debug": headers.has_debug_info,
        "thread_local": headers.has_thread_local,
        "constructors": headers.constructors,
        "resources": headers.resources,
        "minimum_os": headers.minimum_os,
        "slices": headers.slices,
    }


def _sections(sections: tuple[Section, ...]) -> dict[str, Any]:
    """Sections by name; those that share one (as in object files) as a list."""
    found: dict[str, list[Any]] = {}
    for section in sections:
        if section.name.lower() not in SIGNED_SECTIONS:
            about = {"size": section.size, "virtual_size": section.virtual_size, "access": _access(section)}
            found.setdefault(section.name, []).append(about)
    return {name: about[0] if len(about) == 1 else about for name, about in found.items()}


def _access(part: Any) -> str:
    return "".join(
        letter for letter, has in (("r", part.readable), ("w", part.writable), ("x", part.executable)) if has
    )
