"""The Python package index that the user's pip is configured for: its pages and its files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

import requests
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    DistributionPackage,
    NoSuchProjectError,
    ProjectPage,
    PyPISimple,
)
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from schemas.errors import SourceError

BLOCK = 1 << 18
PLATFORM_TAGS = {"win_amd64": ("win_amd64",), "manylinux_x86_64": ("manylinux",)}
LARGEST_WHEEL = 2 << 30
"""Bytes beyond which a download is stopped."""


class IndexUnreachableError(SourceError):
    """No index answers."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel that an index offers."""

    filename: str
    url: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class PipConfiguration:
    """What pip would use to reach an index."""

    indexes: tuple[str, ...]
    verify: str | bool = True
    client_certificate: str | None = None
    proxy: str | None = None
    timeout_s: float = 30.0
    trusted_hosts: tuple[str, ...] = field(default=())


@cache
def pip_configuration() -> PipConfiguration:
    """Read pip's configuration the way pip does: its files, then `PIP_*` variables.

    Without any, the index is the public one, whose address the pypi-simple library knows.
    """
    options: dict[str, str] = {}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    sections = {"global": 0, "download": 1, "install": 1, ":env:": 2}
    found: list[tuple[int, str, str]] = []
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in sections:
            found.append((sections[section], name, value.strip("'\"")))
    for name, value in os.environ.items():  # where there is no pip to ask
        if name.startswith("PIP_"):
            found.append((2, name[4:].lower().replace("_", "-"), value))
    for _, name, value in sorted(found, key=lambda entry: entry[0]):
        options[name] = value.replace("\\n", " ")
    indexes = [] if options.get("no-index", "") in {"1", "true", "yes"} else [
        options.get("index-url") or PYPI_SIMPLE_ENDPOINT,
        *options.get("extra-index-url", "").split(),
    ]  # fmt: skip
    return PipConfiguration(
        indexes=tuple(dict.fromkeys(url.rstrip("/") + "/" for url in indexes)),
        verify=options.get("cert") or True,
        client_certificate=options.get("client-cert"),
        proxy=options.get("proxy"),
        timeout_s=float(options.get("default-timeout") or options.get("timeout") or 30),
        trusted_hosts=tuple(options.get("trusted-host", "").split()),
    )


@cache
def _session(configuration: PipConfiguration) -> requests.Session:
    session = requests.Session()
    retry = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    session.verify = configuration.verify
    session.cert = configuration.client_certificate
    if configuration.proxy:
        session.proxies = {"http": configuration.proxy, "https": configuration.proxy}
    session.headers["User-Agent"] = "binmill"
    return session


def project_files(name: str, configuration: PipConfiguration | None = None) -> list[Wheel]:
    """All wheels of a project, from every configured index.

    Raises
    ------
    IndexUnreachableError
        No index answers.
    SourceError
        Indexes answer, and none has the project.
    """
    configuration = configuration or pip_configuration()
    if not configuration.indexes:
        raise IndexUnreachableError(
            "pip is configured with no-index", "allow an index, or use sources of kind directory or installed"
        )
    wheels: list[Wheel] = []
    problems: list[str] = []
    answered = False
    for index in configuration.indexes:
        try:
            page = _page(index, name, configuration)
        except (requests.RequestException, OSError) as error:
            problems.append(f"{urlsplit(index).hostname or index}: {type(error).__name__}")
            continue
        answered = answered or not index.startswith("file:")
        wheels += [_wheel(p) for p in page] if page else []
    if wheels:
        return wheels
    if problems or not answered:
        raise IndexUnreachableError(
            f"{name}: no package index answers ({'; '.join(problems) or 'none configured'})",
            "check the network and 'pip config list'; what was downloaded before needs no index",
        )
    raise SourceError(f"{name}: no configured index has this project", "check sources.packages.name")


def _page(index: str, name: str, configuration: PipConfiguration) -> list[DistributionPackage] | None:
    if index.startswith("file:"):
        folder = Path(url2pathname(unquote(urlsplit(index).path))) / canonicalize_name(name)
        place = folder / "index.html" if folder.is_dir() else folder
        if not place.is_file():
            return None
        base = place.as_uri()
        return ProjectPage.from_html(name, place.read_text(encoding="utf-8"), base_url=base).packages
    trusted = urlsplit(index).hostname in configuration.trusted_hosts
    session = _session(configuration)
    session.verify = False if trusted else configuration.verify
    try:
        return PyPISimple(index, session=session).get_project_page(name, timeout=configuration.timeout_s).packages
    except NoSuchProjectError:
        return None


def _wheel(package: DistributionPackage) -> Wheel:
    digest = package.digests.get("sha256")
    return Wheel(package.filename, urljoin("", package.url), digest, package.size)


def choose(wheels: list[Wheel], version: str, platform: str, python: str) -> Wheel:
    """The wheel of a version that fits a platform and a CPython version best.

    Raises
    ------
    SourceError
        There is none.
    """
    number = "".join(python.split("."))
    fitting: list[tuple[int, str, Wheel]] = []
    for wheel in wheels:
        try:
            _, found, _, tags = parse_wheel_filename(wheel.filename)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if found != Version(version):
            continue
        ranks = [
            _rank(tag.interpreter, tag.abi, number)
            for tag in tags
            if tag.platform.startswith(PLATFORM_TAGS[platform]) and tag.platform.endswith(("x86_64", "win_amd64"))
        ]
        if any(ranks):
            fitting.append((max(ranks), wheel.filename, wheel))
    if not fitting:
        raise SourceError(
            f"version {version} has no wheel for {platform} and CPython {python}",
            "choose another version, or name the wheel under sources.packages.files",
        )
    return max(fitting)[2]


def _rank(interpreter: str, abi: str, python: str) -> int:
    """2 for the very version, 1 for a stable ABI that is old enough, 0 for what does not fit."""
    if interpreter == f"cp{python}" and abi == f"cp{python}":
        return 2
    old = interpreter.removeprefix("cp")
    return int(abi == "abi3" and old.isdigit() and int(old[1:] or 0) <= int(python[1:]))


def download(url: str, configuration: PipConfiguration | None = None) -> Iterator[bytes]:
    """A file's bytes, block by block.

    Raises
    ------
    IndexUnreachableError
        The server does not answer, or breaks off.
    SourceError
        It answers that there is no such file.
    """
    configuration = configuration or pip_configuration()
    if url.startswith("file:"):
        try:
            with Path(url2pathname(unquote(urlsplit(url).path))).open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
        except OSError as error:
            raise SourceError(f"{url}: {error.strerror}", "check the index that lists it") from error
        return
    given = 0
    try:
        verify = False if urlsplit(url).hostname in configuration.trusted_hosts else configuration.verify
        with _session(configuration).get(url, stream=True, timeout=configuration.timeout_s, verify=verify) as response:
            response.raise_for_status()
            for block in response.iter_content(BLOCK):
                given += len(block)
                if given > LARGEST_WHEEL:
                    raise SourceError(f"{url}: larger than {LARGEST_WHEEL >> 30} GiB", "leave this file out")
                yield block
    except requests.HTTPError as error:
        raise SourceError(f"{url}: {error}", "check the recipe's file names") from error
    except requests.RequestException as error:
        raise IndexUnreachableError(
            f"{url}: the download failed: {type(error).__name__}", "run again: what was fetched is kept"
        ) from error
