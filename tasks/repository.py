"""Files of a commit, read from a bare repository through `git`: no checkout, no filters, no hooks, no links.

A commit's place is written `REPOSITORY/COMMIT`, so that it is a path as other places are.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SourceError

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "gc.auto=0",
    "maintenance.auto=false", "credential.helper=", "submodule.recurse=false", "http.followRedirects=initial",
    "protocol.allow=never", "protocol.https.allow=always", "protocol.ssh.allow=always", "protocol.file.allow=always",
    "advice.detachedHead=false", "init.defaultBranch=none",
)  # fmt: skip
"""What no repository and no user's configuration may change."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One entry of a commit's tree.

    Attributes
    ----------
    path
        Path in the tree; bytes that are not UTF-8 are surrogates.
    mode
        `100644`, `100755` (files), `120000` (link) or `160000` (submodule).
    name
        Its object id.
    size
        Bytes; 0 for a submodule.
    """

    path: str
    mode: str
    name: str
    size: int


def git(*arguments: str, insecure_http: bool = False) -> list[str]:
    """A command line of git with our settings.

    Parameters
    ----------
    insecure_http
        Allow http without TLS.
    """
    settings = (*SETTINGS, *(("protocol.http.allow=always",) if insecure_http else ()))
    return ["git", *(part for setting in settings for part in ("-c", setting)), *arguments]


def environment() -> dict[str, str]:
    """The environment for git: no configuration but ours, nobody is asked, nothing is fetched on demand."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_NO_LAZY_FETCH": "1",
        "GIT_LFS_SKIP_SMUDGE": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C",
    }  # fmt: skip


def is_commit(place: Path) -> bool:
    """Whether a path is `REPOSITORY/COMMIT`."""
    repository = place.parent
    return bool(COMMIT.fullmatch(place.name)) and (repository / "HEAD").is_file() and (repository / "objects").is_dir()


def tree(place: Path) -> list[Blob]:
    """All entries of a commit, folders gone into, sorted as git does.

    Raises
    ------
    SourceError
        Git is missing, or the commit is not there.
    """
    command = git("--git-dir", str(place.parent), "ls-tree", "-r", "-z", "-l", "--full-tree", place.name)
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, check=False)
    except OSError as error:
        raise no_git(error) from error
    if done.returncode:
        raise SourceError(
            f"{place}: {done.stderr.decode(errors='replace').strip()[:200]}", "remove this folder and run again"
        )
    blobs: list[Blob] = []
    for line in done.stdout.split(b"\0")[:-1]:
        about, _, path = line.partition(b"\t")
        mode, _, name, size = about.decode().split()
        blobs.append(Blob(path.decode("utf-8", "surrogateescape"), mode, name, int(size) if size.isdigit() else 0))
    return blobs


def no_git(error: OSError) -> SourceError:
    """The error of a machine without git."""
    return SourceError(f"git cannot be run: {error.strerror}", "install git, or leave sources of kind git out")


def contents(place: Path, blobs: Sequence[Blob]) -> Iterator[bytes]:
    """The bytes of each blob, one after the other.

    Raises
    ------
    SourceError
        Git is missing, or breaks off.
    """
    command = git("--git-dir", str(place.parent), "cat-file", "--batch")
    try:
        process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise no_git(error) from error
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for blob in blobs:
                process.stdin.write(f"{blob.name}\n".encode())
                process.stdin.flush()
                header = process.stdout.readline().split()
                if len(header) != 3 or header[1] != b"blob":
                    raise SourceError(f"{place}: {blob.path}: git has no such file", "remove this folder and run again")
                data = process.stdout.read(int(header[2]))
                process.stdout.read(1)
                yield data
        except BrokenPipeError as error:
            raise SourceError(f"{place}: git broke off", "remove this folder and run again") from error
        finally:
            process.kill()
