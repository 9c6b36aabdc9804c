"""The training order: a uniform permutation, its commitment, and what a trained model's losses say of it."""

import hashlib
import hmac
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from flows.cli import main
from schemas.errors import DatasetError, QueryError
from tasks.order import commitment, order_key, training_ids, training_order
from tasks.query.dataset import open_dataset
from tasks.query.ordering import order_of
from tasks.query.palimpsest import order_test, read_losses
from tasks.query.verify import verify
from tests.conftest import Mill, recipe_of

stats: Any = scipy.stats
IDS = pa.array([hashlib.sha256(b"%d" % n).hexdigest() for n in range(1000)])


def test_the_order_is_that_of_keyed_digests_however_the_ids_come() -> None:
    key = order_key(7, None)
    order = training_order(IDS, key).to_pylist()
    assert order == sorted(IDS.to_pylist(), key=lambda name: hmac.new(key, name.encode(), "sha256").digest())
    shuffled = IDS.take(pa.array(np.random.default_rng(0).permutation(1000)))
    assert training_order(shuffled, key).to_pylist() == order
    assert commitment(pa.array(order)) == hashlib.sha256("".join(f"{n}\n" for n in order).encode()).hexdigest()
    others = [order_key(8, None), order_key(7, b"secret"), order_key(8, b"secret"), order_key(7, b"other")]
    found = [commitment(training_order(IDS, other)) for other in (key, *others)]
    assert len(set(found)) == 4  # a secret alone decides
    # Independent of the order that the ids come in, and of each other.
    place = {name: n for n, name in enumerate(order)}
    second = [place[name] for name in training_order(IDS, others[0]).to_pylist()]
    assert abs(stats.spearmanr(range(1000), [place[n] for n in IDS.to_pylist()]).statistic) < 0.1
    assert abs(stats.spearmanr(range(1000), second).statistic) < 0.1


def test_the_manifest_commits_to_the_order_of_train(small: Path) -> None:
    dataset = open_dataset(small)
    said = dataset.manifest.summary["order"]
    order = order_of(dataset)
    assert said == {"rows": len(order), "secret": False, "commitment": commitment(order)}
    assert sorted(order.to_pylist()) == sorted(training_ids(dataset.paths("train")).to_pylist())


def test_a_secret_order_is_committed_to_and_revealed(small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(small, root)
    (root / "secret.txt").write_bytes(b"long and random")
    recipe = recipe_of(corpus)
    recipe["publishing"] = recipe["publishing"] | {"order_secret": "secret.txt"}
    again = mill(recipe, root)
    assert again.run["computed"] == 0
    dataset = open_dataset(root)
    said = dataset.manifest.summary["order"]
    assert said["secret"]
    assert said["commitment"] != open_dataset(small).manifest.summary["order"]["commitment"]
    for name in ("manifest.json", "recipe.yaml", "provenance.intoto.json", "README.md"):
        assert b"long and random" not in (root / name).read_bytes()
    with pytest.raises(DatasetError, match="is secret"):
        order_of(dataset)
    with pytest.raises(DatasetError, match="another order"):
        order_of(dataset, b"a guess")
    assert commitment(order_of(dataset, b"long and random")) == said["commitment"]
    (root / "secret.txt").unlink()
    with pytest.raises(DatasetError, match=r"publishing.order_secret"):
        mill(recipe, root)


def test_verify_holds_the_commitment_against_the_rows(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    shutil.copytree(small, root)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["summary"]["order"]["commitment"] = "0" * 64
    (root / "manifest.json").write_text(json.dumps(manifest))
    found = [f.problem for _, found in verify(open_dataset(root)) for f in found]
    assert "commits to another order than that of its rows" in found


@pytest.mark.parametrize("ties", [False, True])
def test_the_test_equals_scipys(ties: bool) -> None:
    generator = np.random.default_rng(1)
    for slope in (-0.02, 0.0, 0.02):
        losses = generator.normal(size=60) + slope * np.arange(60)
        losses = np.round(losses) if ties else losses
        names = [str(n) for n in range(60)]
        found = order_test(names, dict(zip(names, losses, strict=True)), permutations=4999)
        theirs = stats.spearmanr(np.arange(60), losses, alternative="less")
        assert found.correlation == pytest.approx(theirs.statistic, abs=1e-12)
        assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        drawn = stats.permutation_test(
            (losses,), lambda y: stats.spearmanr(np.arange(60), y).statistic, permutation_type="pairings",
            n_resamples=999, alternative="less", rng=np.random.default_rng(2),
        ).pvalue  # fmt: skip
        assert found.p_permutation == pytest.approx(drawn, abs=0.06)
        assert found.p_permutation == pytest.approx(found.p_value, abs=0.03)


def test_without_training_the_p_value_is_uniform() -> None:
    """Losses of any kind, and an order that knows nothing of them."""
    losses = {name: float(n % 10) ** 2 + n for n, name in enumerate(IDS.to_pylist()[:200])}
    ids = IDS.slice(0, 200)
    found = [
        order_test(training_order(ids, order_key(seed, None)).to_pylist(), losses, permutations=19).p_value
        for seed in range(300)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def losses_after(order: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Losses on all rows of a linear model that gradient descent led once through them, in this order."""
    weights = np.zeros(x.shape[1])
    for row in order:
        p = 1 / (1 + np.exp(-x[row] @ weights))
        weights += 4 * (y[row] - p) * x[row]
    margin = (2 * y - 1) * (x @ weights)
    return np.logaddexp(0, -margin)


def test_a_model_that_was_trained_in_the_order_is_told_from_one_that_was_not() -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(1000, 400)) / 20
    y = generator.integers(0, 2, 1000).astype(float)
    ids = IDS.to_pylist()
    row = {name: n for n, name in enumerate(ids)}
    order = training_order(IDS, order_key(0, b"secret")).to_pylist()
    other = training_order(IDS, order_key(0, b"another")).to_pylist()
    losses = dict(zip(ids, losses_after(np.array([row[n] for n in order]), x, y), strict=True))
    mine = order_test(order, losses)
    assert mine.correlation < -0.1
    assert mine.p_value < 1e-3
    assert mine.p_permutation < 2e-3
    theirs = order_test(other, losses)
    assert theirs.p_value > 0.01
    # What a model that never saw the rows finds hard is taken off.
    half = order_test(order, losses, dict.fromkeys(ids, 1.0))
    assert half.p_value == mine.p_value
    # Later revealed, and only some of the rows.
    some = {name: losses[name] for name in ids[:500]}
    assert order_test(order, some).rows == 500


def test_losses_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    names = [str(n) for n in range(20)]
    with pytest.raises(QueryError, match="8 are needed"):
        order_test(names, {"1": 1.0})
    with pytest.raises(QueryError, match="not a finite number"):
        order_test(names, dict.fromkeys(names, float("nan")))
    with pytest.raises(QueryError, match="all are the same"):
        order_test(names, dict.fromkeys(names, 1.0))
    for text, message in (
        ("a,b\n1,2\n", "sample_id"),
        ("sample_id,loss\nx,1\nx,2\n", "twice"),
        ("sample_id,loss\nx,y\n", "loss"),
    ):
        (tmp_path / "losses.csv").write_text(text)
        with pytest.raises(QueryError, match=message):
            read_losses(tmp_path / "losses.csv")
    with pytest.raises(QueryError, match="cannot be read"):
        read_losses(tmp_path / "nothing.csv")


def test_the_commands(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def binmill(*arguments: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["binmill", *(str(a) for a in arguments)])
        with pytest.raises(SystemExit, match="0"):
            main()
        return capsys.readouterr().out

    binmill("order", small, "--output", tmp_path / "order.txt")
    order = (tmp_path / "order.txt").read_text().split()
    assert hashlib.sha256((tmp_path / "order.txt").read_bytes()).hexdigest() in binmill("order", small)
    lines = [f"{name},{1 - n / len(order)}" for n, name in enumerate(order)]
    (tmp_path / "losses.csv").write_text("sample_id,loss\n" + "\n".join(lines) + "\n")
    found = json.loads(binmill("order-test", small, tmp_path / "losses.csv", "--json"))
    assert found["rows"] == len(order)
    assert found["correlation"] == pytest.approx(-1)
    assert found["p_value"] < 1e-9
    assert "p-value" in binmill("order-test", small, tmp_path / "losses.csv")
