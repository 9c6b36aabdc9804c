"""Does rebalancing help? A dataset's test split asked, of models fitted to its real train rows, differently treated."""

import hashlib
import importlib.metadata
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.evaluation_rows import AS_MADE, Data, read
from schemas.errors import DatasetError, QueryError
from schemas.recipe import EvaluatedModel, Evaluation, Rebalancing
from tasks.build import Progress, Silent, release
from tasks.evaluate.compare import (
    FEWEST,
    NONE,
    UNDER,
    WEIGHTS,
    Judged,
    Treated,
    Treatment,
    balanced,
    fitted,
    measured,
    probabilities,
    recalibrated,
    swept,
    verdict,
)
from tasks.evaluate.curves import LEVEL, Counts, Floats
from tasks.query.dataset import Dataset
from tasks.rebalance.nominal import SMOTEN, SMOTENC
from tasks.rebalance.oversampling import SMOTE
from tasks.rebalance.sweep import sweep as grid
from tasks.rebalance.undersampling import RandomUnderSampler
from tasks.shards import replace_atomically

REPORT, PLOT = "evaluation.json", "evaluation.png"
SYNTHETIC = ("SMOTE", "SMOTE + under-sampling")
"""Treatments on which the verdict is passed."""
_WORDS = {"yes": "helps", "mixed": "helps in one way and harms in another", "no": "does not help"}
"""Best first."""


def evaluate(
    dataset: Dataset,
    *,
    models: Sequence[str] = (),
    positive: str | None = None,
    sweep: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare ways of treating imbalance on a dataset's test split.

    Everything is fitted to real rows of train alone (recalibration to validation) and asked of test once. Equal
    datasets, recipes and options give equal reports.

    Parameters
    ----------
    models
        Names of models, in place of the recipe's; one that the recipe names keeps its parameters.
    positive
        The class that is told from all others; by default the rarest of train.
    sweep
        Also fit the first model to each point of Chawla's grid of over- and under-sampling.

    Returns
    -------
    dict
        The report, of JSON's types.

    Raises
    ------
    QueryError
        The dataset has no test rows of both kinds, or an option is not one it can have.
    DatasetError
        A row of test or validation stands in train.
    """
    settings, rebalancing, seed = _sections(dataset)
    told = progress or Silent()
    chosen = _models(settings, models)
    told.begin("evaluate", "read", 1, 0, 1)
    data = read(dataset, settings, rebalancing, positive, seed)
    told.advance(1)
    told.end()
    if sweep and Counter(data.real_y.tolist()).most_common()[-1][1] < int((data.real_y == data.positive).sum()):
        raise QueryError(
            f"--sweep: '{data.labels[data.positive]}' is not the rarest class of train", "leave out --positive"
        )
    treatments = list(_treatments(data, rebalancing, seed))
    told.begin("evaluate", "fit", len(chosen) * len(treatments), 0, len(chosen) * len(treatments))
    judged: list[dict[str, Judged]] = []
    found: list[dict[str, Any]] = []
    for model in chosen:
        judged.append({})
        found.append({"name": model.name, "parameters": model.parameters, "treatments": []})
        for treatment in treatments:
            line, which = _fit(model, treatment, data, settings, seed)
            found[-1]["treatments"].append(line)
            if which is not None:
                judged[-1][treatment.name] = which
            told.advance(1)
    told.end()
    told.begin("evaluate", "bootstrap", len(chosen) * settings.draws, 0, len(chosen) * settings.draws)
    each: list[dict[str, Any]] = []
    for entry, which in zip(found, judged, strict=True):
        if NONE in which:
            measures = measured(which, data.test_y, settings.draws, seed, _each(told))
            for line in entry["treatments"]:
                if line["name"] in measures:
                    line["measures"] = measures[line["name"]]
            each += [verdict(name, entry["name"], measures[name]) for name in SYNTHETIC if name in measures]
    told.end()
    return {
        "dataset": dataset.manifest.name,
        "digest": dataset.manifest.digest,
        "libraries": {"binmill": release()} | {n: importlib.metadata.version(n) for n in ("numpy", "scikit-learn")},
        "seed": seed,
        "positive": data.labels[data.positive],
        "rows": data.described,
        "bootstrap": {"draws": settings.draws, "level": LEVEL},
        "bins": settings.bins,
        "recalibration": settings.recalibration,
        "notes": data.notes,
        "models": found,
        "sweep": _sweep(chosen[0], data, rebalancing, seed, told) if sweep else None,
        "verdict": _summed_up(each, data),
    }


def write(report: dict[str, Any], folder: Path) -> None:
    """Write the report and its picture.

    Raises
    ------
    DatasetError
        The folder cannot be written to.
    """
    from tasks.evaluate.plot import evaluation_plot

    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_atomically(folder / REPORT, text.encode())
        replace_atomically(folder / PLOT, evaluation_plot(report))
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot write the evaluation: {error.strerror or error}", "name another folder with --output"
        ) from error


def _sections(dataset: Dataset) -> tuple[Evaluation, Rebalancing, int]:
    """What an evaluation needs of the recipe; the section that an older dataset's lacks has its defaults."""
    recipe = dataset.manifest.recipe
    try:
        settings = Evaluation.model_validate(recipe.get("evaluation", {}))
        return settings, Rebalancing.model_validate(recipe["rebalancing"]), int(recipe["seed"])
    except (KeyError, ValueError) as error:
        raise QueryError(
            f"{dataset.root}: its recipe is not one that this binmill understands: {error}",
            "use the binmill release that wrote the dataset, or run its recipe again",
        ) from error


def _models(settings: Evaluation, names: Sequence[str]) -> list[EvaluatedModel]:
    own = {model.name: model for model in settings.models}
    if not names:
        return list(own.values())
    try:
        return [own.get(name) or EvaluatedModel.model_validate({"name": name}) for name in dict.fromkeys(names)]  # pyright: ignore[reportArgumentType, reportCallIssue]
    except ValueError as error:
        known = "logistic, forest, boosting, tree, knn"
        raise QueryError(f"--model {', '.join(names)}: not a model that is known", f"choose from {known}") from error


def _each(told: Progress) -> Callable[[int], None]:
    def advance(count: int) -> None:
        for _ in range(count):
            told.advance(1)

    return advance


def _treatments(data: Data, rebalancing: Rebalancing, seed: int) -> Iterator[Treatment]:
    x, y = data.real, data.real_y
    counts: dict[int, int] = dict(sorted(Counter(y.tolist()).items()))
    middle = round(math.sqrt(min(counts.values()) * max(counts.values())))

    def under() -> Treated:
        return _cut(x, y, dict.fromkeys(counts, min(counts.values())), seed)

    def over() -> Treated:
        return _grown(data, x, y, dict.fromkeys(counts, max(counts.values())), rebalancing, seed)

    def combined() -> Treated:
        rows = _grown(data, x, y, {c: middle for c, n in counts.items() if n < middle}, rebalancing, seed)
        return _cut(rows.x, rows.y, {c: middle for c, n in counts.items() if n > middle}, seed)

    yield Treatment(NONE, lambda: Treated(x, y))
    yield Treatment(WEIGHTS, lambda: Treated(x, y, balanced(y)))
    yield Treatment(UNDER, under)
    yield Treatment(SYNTHETIC[0], over)
    yield Treatment(SYNTHETIC[1], combined)
    made = data.made
    if made is not None:
        yield Treatment(AS_MADE, lambda: Treated(made, data.made_y))


def _cut(x: Floats, y: Counts, wanted: dict[int, int], seed: int) -> Treated:
    """Rows with no more than so many of each class, drawn at random."""
    if not wanted:
        return Treated(x, y)
    return Treated(*RandomUnderSampler(sampling_strategy=wanted, random_state=seed % 2**32).fit_resample(x, y))


def _grown(data: Data, x: Floats, y: Counts, wanted: dict[int, int], rebalancing: Rebalancing, seed: int) -> Treated:
    """Rows with so many of each class, more of which SMOTE makes (of columns of names, SMOTE-NC or SMOTEN)."""
    counts = Counter(y.tolist())
    wanted = {c: n for c, n in wanted.items() if n > counts[c]}
    if not wanted:
        return Treated(x, y)
    fewest = min(wanted, key=counts.__getitem__)
    near = min(rebalancing.k_neighbors, counts[fewest] - 1)
    if not near:
        raise ValueError(f"class '{data.labels[fewest]}' has one row of train, and SMOTE needs two")
    numbers, nominal = len(data.preparation.numbers), len(data.preparation.nominal)
    options: dict[str, Any] = {"sampling_strategy": wanted, "k_neighbors": near, "random_state": seed % 2**32}
    if not nominal:
        sampler: Any = SMOTE(**options)
    elif numbers:
        sampler = SMOTENC(list(range(numbers, numbers + nominal)), **options)
    else:
        sampler = SMOTEN(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class grows beyond the largest is what the sweep asks for
        return Treated(*sampler.fit_resample(x, y))


def _fit(
    model: EvaluatedModel, treatment: Treatment, data: Data, settings: Evaluation, seed: int
) -> tuple[dict[str, Any], Judged | None]:
    """One line of the report, without its measures; and what is to be measured, unless the line says why not."""
    line: dict[str, Any] = {"name": treatment.name, "reason": None}
    encode = data.preparation.encode
    try:
        rows = treatment.make()
        rows = Treated(encode(rows.x), rows.y, rows.weights)
        estimator, warned = fitted(model, rows, seed)
    except ValueError as error:
        return line | {"reason": str(error).splitlines()[0]}, None
    counts = np.bincount(rows.y, minlength=len(data.labels)).tolist()
    line |= {"rows": dict(zip(data.labels, counts, strict=True)), "warnings": warned}
    # Of what was fitted: two reports that agree here come from the same rows.
    line["fitted_on"] = hashlib.sha256(np.ascontiguousarray(rows.x).tobytes() + rows.y.tobytes()).hexdigest()
    p = probabilities(estimator, encode(data.test))
    again = None
    if len(data.held):
        told = probabilities(estimator, encode(data.held))[:, data.positive]
        ours = data.held_y == data.positive
        again = recalibrated(settings.recalibration, ours, told, p[:, data.positive])
    judged = Judged(data.test_y, p, again, data.positive, settings.bins)
    return line | {"curves": judged.drawn()}, judged


def _sweep(model: EvaluatedModel, data: Data, rebalancing: Rebalancing, seed: int, told: Progress) -> dict[str, Any]:
    """Chawla's grid for one model: each point's decisions on test (the likeliest class), as a ROC point."""
    counts: dict[int, int] = {data.positive: int((data.real_y == data.positive).sum())}  # of equals, the minority
    counts |= {c: n for c, n in sorted(Counter(data.real_y.tolist()).items()) if c != data.positive}
    points = grid(counts)
    encode, yes = data.preparation.encode, data.test_y == data.positive
    asked = encode(data.test)
    told.begin("evaluate", "sweep", len(points), 0, len(points))
    grown: tuple[int, Treated] | None = None
    places: list[tuple[int, int]] = []
    rows: list[dict[str, int]] = []
    for wanted in points:
        size = wanted[data.positive]
        try:
            if grown is None or grown[0] != size:
                grown = size, _grown(data, data.real, data.real_y, {data.positive: size}, rebalancing, seed)
            fewer = {c: n for c, n in wanted.items() if c != data.positive and n < counts[c]}
            treated = _cut(grown[1].x, grown[1].y, fewer, seed)
            estimator, _ = fitted(model, Treated(encode(treated.x), treated.y), seed)
        except ValueError:  # a point that the rows do not allow
            continue
        finally:
            told.advance(1)
        said = probabilities(estimator, asked).argmax(axis=1) == data.positive
        places.append((int((said & ~yes).sum()), int((said & yes).sum())))
        rows.append({data.labels[c]: n for c, n in sorted(wanted.items())})
    told.end()
    return {"model": model.name, "rows": rows} | swept(places, int((~yes).sum()), int(yes.sum()))


def _summed_up(each: Sequence[dict[str, Any]], data: Data) -> dict[str, Any]:
    """The verdict on SMOTE, alone and with under-sampling, over all models; none where test says too little."""
    yes = int((data.test_y == data.positive).sum())
    fewest = min(yes, len(data.test_y) - yes)
    if not each:
        return {"helps": "unknown", "text": "Nothing can be said of SMOTE: see the reasons.", "each": []}
    if fewest < FEWEST:
        rows = "1 row" if fewest == 1 else f"{fewest} rows"
        which = f"'{data.labels[data.positive]}'" if fewest == yes else "all else"
        text = f"Test has {rows} of {which}: too few to say whether SMOTE helps."
        return {"helps": "unknown", "text": text, "each": []}
    models = list(dict.fromkeys(e["model"] for e in each))
    best = {m: min((e["helps"] for e in each if e["model"] == m), key=list(_WORDS).index) for m in models}
    of = {word: [m for m in models if best[m] == word] for word in _WORDS}
    helps = next(word for word in _WORDS if of[word])
    text = "; ".join(f"{words} {', '.join(of[word])}" for word, words in _WORDS.items() if of[word])
    if helps == "no":
        text += ": none ranks better with it, or has better probabilities once recalibrated"
    text = f"SMOTE {text}."
    if helps != "no" and all(e["as_good"] for e in each if e["helps"] != "no"):
        text += " But nowhere is it shown to be better than class weights or under-sampling."
    return {"helps": helps, "text": text, "each": list(each)}
