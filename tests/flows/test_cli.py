"""The command line as people use it: its words, its exit codes, its JSON, and what an interruption leaves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tests.conftest import recipe_of

BINMILL = [sys.executable, "-m", "flows.cli"]


def binmill(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(
        [*BINMILL, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, env=environment,
        timeout=280,
    )  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(recipe_of(corpus)))
    return path


def test_help_reads_well() -> None:
    found = binmill("--help")
    assert found.returncode == 0
    for command in (
        "run",
        "demo",
        "plan",
        "screen",
        "rebalance",
        "evaluate",
        "index",
        "adapt",
        "bench-codes",
        "query",
        "search",
        "verify",
        "trace",
        "versions",
        "diff",
        "schema",
    ):
        assert command in found.stdout
        page = CliRunner().invoke(app, [command, "--help"])
        assert page.exit_code == 0
        assert "Usage: " in page.stdout
    assert "Exit codes" in found.stdout


def test_help_is_quick_since_heavy_libraries_wait() -> None:
    code = (
        "import sys, flows.cli; print(sorted({'prefect', 'distributed', 'numba', 'duckdb', 'lief'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        ("name: [", "not valid YAML", "mend the line"),
        ("- a\n- b\n", "a recipe is a mapping", "demo --print-recipe"),
        ("name: x\nsource: []\n", "unknown key 'source': did you mean 'sources'?", "binmill schema"),
        ("name: x\nsources: [{kind: installd}]\nlabel: {origin: generator}\n", "'installed'", "binmill schema"),
        (
            "name: x\nsources: [{kind: installed}]\nlabel: {origin: generator}\nscreening: {topp: 3}\n",
            "screening: unknown key 'topp': did you mean 'top'?",
            "binmill schema",
        ),
        (
            "name: x\nsources: [{kind: installed}]\nlabel: {origin: generator}\nsplit: {train: 0.9}\n",
            "train + validation + test is 1.3",
            "binmill schema",
        ),
    ],
)
def test_a_wrong_recipe_names_field_and_remedy(tmp_path: Path, text: str, says: str, remedy: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    found = binmill("run", tmp_path / "r.yaml", "-o", tmp_path / "out")
    assert found.returncode == 2
    assert says in found.stderr
    assert remedy in found.stderr
    assert "r.yaml" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_missing_things_have_their_exit_codes(tmp_path: Path, small: Path) -> None:
    assert binmill("run", tmp_path / "none.yaml").returncode == 2
    assert binmill("describe", tmp_path).returncode == 5
    assert binmill("query", small, "SELECT nothing FROM nowhere").returncode == 6
    found = binmill("trace", small, "zzz", "--json")
    assert found.returncode == 6
    assert json.loads(found.stderr)["error"] == "QueryError"
    gone = {"name": "x", "sources": [{"kind": "directory", "path": "gone"}], "label": {"origin": "first-folder"}}
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump(gone))
    found = binmill("plan", tmp_path / "gone.yaml", "-o", tmp_path / "out")
    assert found.returncode == 3
    assert "sources.path" in found.stderr


def test_queries_answer(small: Path) -> None:
    found = binmill("query", small, "SELECT label, count(*) AS n FROM labels GROUP BY ALL ORDER BY n", "--json")
    assert json.loads(found.stdout) == [{"label": "other", "n": 16}, {"label": "science", "n": 48}]
    for sql in ("DESCRIBE train", "SUMMARIZE splits", "SHOW TABLES", "EXPLAIN SELECT * FROM train", "FROM codes"):
        assert binmill("query", small, sql).returncode == 0
    shown = binmill("query", small, "SELECT sample_id FROM labels", "--limit", "3")
    assert "first 3 rows" in shown.stdout


def test_search_by_row_by_file_and_by_every_method(small: Path, corpus: Path) -> None:
    path = next((corpus / "science").iterdir())
    by_file = json.loads(binmill("search", small, "--like", path, "-k", "64", "--json").stdout)
    assert len(by_file) == 64  # many, because others may share its code
    from hashlib import sha256

    sample = sha256(path.read_bytes()).hexdigest()
    for method in ("median", "itq", "rabitq"):
        rows = json.loads(
            binmill("search", small, "--like", sample[:16], "-k", "64", "--method", method, "--json").stdout
        )
        assert len(rows) == 64
        own = next(row for row in rows if row["sample_id"] == sample)
        # An estimate is the difference of norms and products that are rounded by up to 0.4 %.
        assert abs(own["distance"]) <= 1e-2 * max(1.0, rows[-1]["distance"]), (own["distance"], rows[-1]["distance"])
    assert sample in {row["sample_id"] for row in by_file}
    assert binmill("search", small, "--like", Path(__file__)).returncode == 6
    assert binmill("search", small, "--like", sample, "--method", "magic").returncode == 6


def test_verify_describe_and_trace(small: Path) -> None:
    found = binmill("verify", small)
    assert found.returncode == 0
    assert "all promises hold" in found.stdout
    assert "Class balance" in binmill("describe", small).stdout
    described = json.loads(binmill("describe", small, "--json").stdout)
    row = json.loads(binmill("query", small, "SELECT sample_id FROM codes LIMIT 1", "--json").stdout)[0]
    chain = json.loads(binmill("trace", small, row["sample_id"], "--json").stdout)
    assert chain["links"][0]["provenance"]["dataset"] == described["name"] == "small"
    assert "made by" in binmill("trace", small, row["sample_id"][:12]).stdout


def test_the_recipe_schema_is_json_schema() -> None:
    import jsonschema

    schema = json.loads(binmill("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(binmill("demo", "--print-recipe").stdout), schema)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _gone(processes: list[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Processes that still run after a while."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_run_without_a_server_takes_nothing_of_prefect(recipe: Path, small: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(small, output)
    code = "import sys; from flows.cli import app; app(standalone_mode=False); print('prefect' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(recipe), "-o", str(output)],
        env=environment | {"PREFECT_HOME": str(tmp_path)}, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"
    assert "nothing was computed" in done.stdout


def _start(recipe: Path, output: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*BINMILL, "run", str(recipe), "-o", str(output), *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "how",
    [
        "group",  # the terminal's Ctrl-C
        pytest.param("flow", marks=pytest.mark.prefect),
        pytest.param("leader", marks=pytest.mark.slow),
        pytest.param("terminate", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_leaves_no_process_and_no_half_dataset(
    recipe: Path, small: Path, tmp_path: Path, how: str
) -> None:
    output = tmp_path / "out"
    process = _start(recipe, output, "--workers", "2")
    seen: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + 120
    # Until the first features are written: parsers and workers are all up.
    while time.monotonic() < deadline and not list(output.glob("tables/features/*.parquet")):
        assert process.poll() is None, process.communicate()[0]
        seen |= {p.pid: p for p in _descendants(process.pid)}
        time.sleep(0.05)
    seen |= {p.pid: p for p in _descendants(process.pid)}
    assert len(seen) >= 2
    if how in {"group", "flow"}:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT if how == "leader" else signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text, text
    assert "finished work is kept" in text, text
    assert _gone(list(seen.values())) == []
    assert not (output / "manifest.json").exists()
    assert not list(output.rglob("*.tmp"))
    resumed: Any = json.loads(binmill("run", recipe, "-o", output, "--json").stdout)
    assert resumed["digest"] == json.loads((small / "manifest.json").read_text())["digest"]
    assert resumed["computed"] > 0


def test_a_killed_run_leaves_no_process_and_goes_on(recipe: Path, small: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = _start(recipe, output)
    seen: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(output.glob("tables/labels/*.parquet")):
        seen |= {p.pid: p for p in _descendants(process.pid)}
        time.sleep(0.05)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=20)
    assert _gone(list(seen.values())) == []
    found: Any = json.loads(binmill("run", recipe, "-o", output, "--json").stdout)
    assert found["digest"] == json.loads((small / "manifest.json").read_text())["digest"]


def test_versions_and_their_difference(recipe: Path, small: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(small, output)
    alone = binmill("diff", output)
    assert alone.returncode == 5
    assert "no such version" in alone.stderr
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"screening": {"top": 8}}))
    assert "top: 16 → 8" in binmill("plan", other, "-o", output).stdout
    assert binmill("run", other, "-o", output, "--workers", "0").returncode == 0
    found = json.loads(binmill("versions", output, "--json").stdout)["versions"]
    assert [version["current"] for version in found] == [True, False]
    assert found[0]["settings"] == ["screening.top: 16 → 8"]
    told = binmill("diff", output, "--at", found[1]["digest"][:8])
    assert "screening.top" in told.stdout
    assert "no more" in told.stdout
    chosen = "SELECT count(*) n FROM screening WHERE selected"
    assert json.loads(binmill("query", output, chosen, "--at", "previous", "--json").stdout) == [{"n": 16}]
    assert binmill("verify", output, "--at", "previous").returncode == 0
    pruned = binmill("versions", output, "--prune", "0")
    assert "removed" in pruned.stdout
    assert found[0]["digest"][:12] in pruned.stdout
