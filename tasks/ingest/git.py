"""Commits of git repositories, fetched into the cache: each a bare repository of its own, nothing checked out."""

import contextlib
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from schemas.errors import SourceError
from schemas.recipe import GitSource
from tasks.ingest import cache
from tasks.ingest.licence import conjunction, text_licence
from tasks.repository import contents, environment, git, is_commit, no_git, tree

TIMEOUT_S = 3600
LARGEST_LICENCE = 1 << 20
SCP = re.compile(r"[\w.-]+@[\w.-]+:(?!//)")
LICENCE_NAMES = re.compile(r"(?:licen[cs]e|copying|unlicense)(?:[-._](?:md|txt|rst))?", re.IGNORECASE)


def is_path(url: str) -> bool:
    """Whether a recipe's `url` is a path on this machine."""
    return "://" not in url and not SCP.match(url)


def address(source: GitSource, base: Path) -> str:
    """The repository's URL, or its absolute path."""
    return str((base / source.url).absolute()) if is_path(source.url) else source.url


def commit_of(source: GitSource, url: str, cache_dir: Path, dry: bool) -> str | None:
    """The commit that a source means: the pinned one, or the one that its ref named when it was first asked.

    Returns
    -------
    str or None
        Full hash; None in a dry run where nobody asked yet.

    Raises
    ------
    SourceError
        The repository cannot be reached, or has no such ref.
    """
    if source.commit is not None:
        return source.commit
    question = ["git", url, source.ref]
    if found := cache.recall(cache_dir, question):
        return str(found)
    if dry:
        return None
    ref = source.ref
    # A tag with a message is an object of its own; what it points to is listed with `^{}`.
    names = [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", ref]
    listed = _run(url, "ls-remote", "--", url, *names)
    refs = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    commit = next((refs[name] for name in names if name in refs), None)
    if commit is None:
        raise SourceError(f"{url} has no branch or tag '{source.ref}'", "check sources.ref, or pin sources.commit")
    cache.remember(cache_dir, question, commit)
    return commit


def place(cache_dir: Path, commit: str) -> Path:
    """Where a commit stands in the cache, as `REPOSITORY/COMMIT`."""
    return cache_dir.absolute() / "git" / f"{commit}.git" / commit


def fetch(url: str, commit: str, cache_dir: Path, max_bytes: int) -> Path:
    """Make a commit readable: fetch it, and only it where the server allows.

    Raises
    ------
    SourceError
        It cannot be fetched, or grows beyond the limit.
    """
    found = place(cache_dir, commit)
    if is_commit(found):
        return found
    folder = found.parent.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        folder.mkdir(parents=True)
        kind = ["--object-format=sha256"] if len(commit) == 64 else []
        _run(url, "init", "-q", "--bare", "--template=", *kind, str(folder))
        common = ("--git-dir", str(folder), "fetch", "-q", "--no-tags", "--no-recurse-submodules", "--no-auto-gc")
        try:
            _run(url, *common, "--depth=1", "--", url, commit, folder=folder, max_bytes=max_bytes)
        except SourceError as refused:
            if "beyond the limit" in refused.problem:
                raise
            # Some servers give only what a ref names; then all refs are fetched.
            _run(url, *common, "--", url, "+refs/*:refs/*", folder=folder, max_bytes=max_bytes)
        _run(url, "--git-dir", str(folder), "cat-file", "-e", f"{commit}^{{commit}}")
        if not found.parent.exists():
            folder.rename(found.parent)
    except OSError as error:
        if not is_commit(found):  # another process was quicker
            raise SourceError(
                f"{found.parent}: {error.strerror}",
                "free disk space, or choose another folder with --cache or BINMILL_CACHE",
            ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _run(url: str, *arguments: str, folder: Path | None = None, max_bytes: int = 0) -> str:
    """Run git; `folder` is watched and may grow to `max_bytes`."""
    command = git(*arguments, insecure_http=url.startswith(("http://127.0.0.1", "http://localhost")))
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        try:
            process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as error:
            raise no_git(error) from error
        try:
            _watch(process, url, folder, max_bytes)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        if process.returncode:
            told = [line for line in err.read().decode("utf-8", "replace").splitlines() if line.strip()]
            raise SourceError(
                f"git {arguments[0] if not arguments[0].startswith('--') else arguments[2]}: {url}: "
                f"{' '.join(told)[-300:] or process.returncode}",
                "check sources.url, sources.commit and the network; a private repository needs an ssh key in an agent",
            )
        return out.read().decode("utf-8", "replace")


def _watch(process: subprocess.Popen[bytes], url: str, folder: Path | None, max_bytes: int) -> None:
    end = time.monotonic() + TIMEOUT_S
    runs = True
    while runs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.25)
            runs = False
        if folder is not None and _size(folder) > max_bytes:
            raise SourceError(
                f"{url}: the repository is beyond the limit of {max_bytes >> 20} MiB",
                "raise sources.max_mib, or leave it out",
            )
        if runs and time.monotonic() > end:
            raise SourceError(f"{url}: git did not end in {TIMEOUT_S} s", "run again, or use a nearer copy")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:  # a temporary file that is gone
            continue
    return total


def commit_licence(found: Path) -> tuple[str | None, str | None]:
    """A commit's SPDX expression where it can be told for sure, and the files that say so.

    The names in a folder `LICENSES` (REUSE) count first: all of them hold, each for some file. Then the licence file
    at the top, if there is just one: an `SPDX-License-Identifier` in it, or the text of a licence that we know.
    """
    files = [blob for blob in tree(found) if blob.mode.startswith("100") and blob.size <= LARGEST_LICENCE]
    named = sorted(blob.path for blob in files if re.fullmatch(r"LICENSES/[^/]+\.txt", blob.path))
    if named:
        return conjunction([path.removeprefix("LICENSES/").removesuffix(".txt") for path in named]), "LICENSES/"
    top = [blob for blob in files if LICENCE_NAMES.fullmatch(blob.path)]
    if len(top) != 1:
        return None, None
    text = next(contents(found, top)).decode("utf-8", "replace")
    expression = text_licence(text)
    return expression, top[0].path if expression else None
