"""Packages of the Debian archive, through the machine's own apt: its sources, its keys, its proxies."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import unquote

from schemas.errors import SourceError
from schemas.recipe import DebianPackage
from tasks.archives import members, nothing
from tasks.containers import ar_entries, tar_entries
from tasks.ingest import cache
from tasks.ingest.licence import copyright_licence
from tasks.unpacking import Budget, Limits, Rewindable

BLOCK = 1 << 18
TIMEOUT_S = 1800
LISTS_HOLD_S = 600
"""Seconds for which updated lists are new enough."""
OFFER = re.compile(r"^'([^']+)' (\S+_\S+_\S+\.deb) \d+ SHA256:([0-9a-f]{64})$", re.MULTILINE)
TEXT_LIMITS = Limits(max_member_bytes=4 << 20)


@dataclass(frozen=True, slots=True)
class Offer:
    """One package file that the archive offers.

    Attributes
    ----------
    filename
        `name_version_architecture.deb`.
    sha256
        None in a dry run, where apt was not asked yet.
    """

    filename: str
    url: str
    sha256: str | None

    @property
    def version(self) -> str | None:
        """The version in its name."""
        return unquote(self.filename.split("_")[1]) if self.filename.count("_") == 2 else None


def offers(package: DebianPackage, architectures: Sequence[str], cache_dir: Path, dry: bool) -> list[Offer]:
    """The files of a package: those that the recipe pins, or one for each architecture.

    Parameters
    ----------
    dry
        Answer from the cache, or leave the SHA-256 open.

    Raises
    ------
    SourceError
        There is no apt, or it does not know the package.
    """
    if package.files:
        return [Offer(filename, "", sha256) for filename, sha256 in sorted(package.files.items())]
    found: list[Offer] = []
    for architecture in architectures:
        question = ["debian", package.name, package.version, architecture]
        answer = cache.recall(cache_dir, question)
        if answer is None and dry:
            found.append(Offer(f"{package.name}_{package.version or 'newest'}_{architecture}.deb", "", None))
            continue
        if answer is None:
            offer = _ask(cache_dir, architecture, package.name, package.version, fresh=True)
            answer = [offer.filename, offer.url, offer.sha256]
            cache.remember(cache_dir, question, answer)
        filename, url, sha256 = (str(part) for part in answer)
        found.append(Offer(filename, url, sha256))
    return found


def fetch(cache_dir: Path, filename: str, sha256: str) -> cache.Cached:
    """Download a package file into the cache.

    Raises
    ------
    SourceError
        The archive does not have it any more, or it is not what the recipe pins.
    """
    name, version, architecture = _parts(filename)
    asked = architecture
    if architecture == "all":
        asked = _run(["dpkg", "--print-architecture"], {}).strip()
    offer = _ask(cache_dir, asked, name, version, fresh=False)
    if offer.sha256 != sha256:
        raise SourceError(
            f"{filename}: the archive offers SHA-256 {offer.sha256}, the recipe says {sha256}",
            "check sources.packages.files; is it from another archive?",
        )
    with tempfile.TemporaryDirectory(dir=_state(cache_dir, asked)) as folder:
        _apt(cache_dir, asked, "download", f"{name}={version}", folder=Path(folder))
        files = list(Path(folder).glob("*.deb"))
        if len(files) != 1:
            raise SourceError(f"{filename}: apt-get left no package file", "run again")
        return cache.store(cache_dir, sha256, offer.url, filename, _blocks(files[0]))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _parts(filename: str) -> tuple[str, str, str]:
    parts = filename.removesuffix(".deb").split("_")
    if len(parts) != 3 or not filename.endswith(".deb"):
        raise SourceError(f"{filename} is no package file name", "write name_version_architecture.deb")
    return parts[0], unquote(parts[1]), parts[2]


def _ask(cache_dir: Path, architecture: str, name: str, version: str | None, fresh: bool) -> Offer:
    """What apt would download; where its lists are missing or do not know the package, they are updated first."""
    wanted = f"{name}={version}" if version else name
    problem = ""
    if fresh or not any((_state(cache_dir, architecture) / "lists").glob("*_InRelease")):
        problem = _update(cache_dir, architecture)
    for again in (True, False):
        try:
            told = _apt(cache_dir, architecture, "download", "--print-uris", wanted)
            if match := OFFER.search(told):
                return Offer(match[2], match[1], match[3])
        except SourceError as error:
            problem = problem or error.problem
        if again and not fresh:
            problem = _update(cache_dir, architecture)
    raise SourceError(
        f"{wanted} for {architecture}: apt cannot get it ({problem or 'no SHA-256 in the index'})",
        "check the name, the version (an archive keeps few) and the machine's apt sources ('apt-cache policy NAME')",
    )


def _update(cache_dir: Path, architecture: str) -> str:
    """Update the lists, if that was not just done; the problem where not all could be had, for the rest may do."""
    stamp = _state(cache_dir, architecture) / "updated"
    try:
        if not stamp.exists() or abs(time.time() - stamp.stat().st_mtime) > LISTS_HOLD_S:
            _apt(cache_dir, architecture, "update")
            stamp.touch()
    except SourceError as error:
        return error.problem
    return ""


def _state(cache_dir: Path, architecture: str) -> Path:
    return cache_dir.absolute() / "apt" / architecture


def _apt(cache_dir: Path, architecture: str, *command: str, folder: Path | None = None) -> str:
    """Run apt-get with lists of its own, so that the machine's are neither changed nor locked."""
    state = _state(cache_dir, architecture)
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings: dict[str, object] = {
        "Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": state,
        "APT::Architecture": architecture, "APT::Architectures": architecture, "Acquire::Languages": "none",
        "Acquire::Retries": 3, "Acquire::http::Timeout": 30, "APT::Update::Error-Mode": "any",
        "Dpkg::Use-Pty": 0, "APT::Sandbox::Seccomp": 0,
    }  # fmt: skip
    return _run(["apt-get", "-q", *command], settings, folder)


def _run(command: Sequence[str], settings: dict[str, object], folder: Path | None = None) -> str:
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    if shutil.which(command[0]) is None:
        raise SourceError(
            f"sources of kind debian need {command[0]}, which this machine does not have",
            "run on Debian or Ubuntu (a container will do), or name the packages' URLs in a source of kind http",
        )
    try:
        done = subprocess.run(
            [*command, *options], cwd=folder, capture_output=True, text=True, errors="replace", check=False,
            timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{command[0]} did not end in {TIMEOUT_S} s", "check the network, and run again") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise SourceError(f"{command[0]}: {' '.join(lines)[:300]}", "check the machine's apt sources and the network")
    return done.stdout


def source_package(path: Path) -> str | None:
    """The source package that a package file was built from, of which all binaries are one project."""
    about = _control(path)
    return str(about["Source"] or about["Package"] or "").split(" ")[0] or None


def package_name(path: Path) -> str | None:
    """The name that a package file gives itself."""
    return _control(path)["Package"]


def _control(path: Path) -> Message:
    """A package file's control fields; none where they cannot be read, which its files will tell."""
    try:
        with path.open("rb") as file:
            budget = Budget(TEXT_LIMITS, path.stat().st_size)
            for part in ar_entries(Rewindable(file), 0, budget):
                if part.path.startswith("control.tar"):
                    for entry in tar_entries(Rewindable(part.open()), part.size, budget):
                        if entry.path == "control" and entry.reason is None:
                            text = budget.read(entry, entry.open()).decode("utf-8", "replace")
                            return HeaderParser().parsestr(text)
    except Exception:  # parsers raise all kinds
        return Message()
    return Message()


def package_licence(path: Path, name: str) -> tuple[str | None, str | None]:
    """A package's SPDX expression from its copyright file; and where it is from, or why there is none."""
    place = f"usr/share/doc/{name}/copyright"
    for member in members(path, TEXT_LIMITS, lambda found: found == place, nothing):
        if member.path == place and member.data is not None:
            expression, problem = copyright_licence(member.data.decode("utf-8", "replace"))
            return expression, f"{place}: {problem}" if problem else place
    return None, f"{place}: not in the package"
