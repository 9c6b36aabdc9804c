"""What a wheel or an sdist says of itself: name, version, who built it, under which licence."""

from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from tasks.archives import Limits, members, nothing
from tasks.ingest.licence import licence

METADATA_LIMITS = Limits(max_member_bytes=4 << 20)


@dataclass(frozen=True, slots=True)
class WheelMetadata:
    """From `*.dist-info/WHEEL` and `*.dist-info/METADATA` of a wheel, `*/PKG-INFO` of an sdist."""

    name: str | None
    version: str | None
    generator: str | None
    licence: str | None
    licence_source: str | None


def _is_metadata(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if "/" in folder:
        return False
    return name in {"WHEEL", "METADATA"} if folder.endswith(".dist-info") else name == "PKG-INFO" and folder != ""


def read_wheel_metadata(path: Path) -> WheelMetadata:
    """Read a wheel's or sdist's metadata; fields are null where it does not say, or cannot be read."""
    texts: dict[str, str] = {}
    for member in members(path, METADATA_LIMITS, _is_metadata, nothing):
        if member.data is not None:
            texts[member.path.rpartition("/")[2]] = member.data.decode("utf-8", "replace")
    return parse_metadata(texts.get("METADATA") or texts.get("PKG-INFO", ""), texts.get("WHEEL", ""))


def parse_metadata(metadata: str, wheel: str) -> WheelMetadata:
    """The same from the texts of the two files."""
    about = HeaderParser().parsestr(metadata)
    built = HeaderParser().parsestr(wheel)
    spdx, source = licence(about["License-Expression"], about["License"], about.get_all("Classifier", []))
    return WheelMetadata(about["Name"], about["Version"], built["Generator"], spdx, source)
