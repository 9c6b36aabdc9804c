"""From what is known of columns to what is counted of them, and from the counts to scores. No reading, no writing.

Pass 1 gives `Ranges`: bins, ends, density grids. Pass 2 fills `Counts`: whole numbers that add up over any parts of
the rows. `evaluate` computes every score of a block of columns from its counts (and, for neighbours, from a sample
of rows).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.recipe import Screening
from tasks.screen.auto import HANDICAP, Evidence, density_evidence, strongest
from tasks.screen.kde import Grid, class_counts, grid, joint_counts, kde_classes, kde_joint
from tasks.screen.knn import ksg, ross
from tasks.screen.outcome import QUARTILES, Outcome
from tasks.screen.pearson import Correlation, class_sums, correlate, correlate_classes, joint_sums, two_value_sums
from tasks.screen.permutation import permutation_p
from tasks.screen.scores import Scores, score
from tasks.screen.sketch import Edges, Sketch, quantile_edges, quantiles, uniform_edges
from tasks.screen.stability import subsample_scores
from tasks.screen.tables import contingency

KINDS = ("missing", "constant", "binary", "discrete", "continuous", "categorical")
MISSING, CONSTANT, BINARY, DISCRETE, CONTINUOUS, CATEGORICAL = range(6)
CELLS = 1024
"""Points of a density's grid, for each class."""
JOINT_CELLS = 128
"""Points of a joint density's grid, each way."""
BUCKETS = 16
"""Parts of the rows, by key, of which subsamples for stability are made."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a block of columns: float32[p, n], and the rows' outcome (no row without one).

    `target` is int32[n] classes, or float32[n] a quantity; `keys` is uint64[n], a random number of each row.
    """

    x: NDArray[np.float32]
    target: NDArray[Any]
    keys: NDArray[np.uint64]


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches (at least one) one after the other."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        np.concatenate([b.x for b in batches], axis=1),
        np.concatenate([b.target for b in batches]),
        np.concatenate([b.keys for b in batches]),
    )


@dataclass(frozen=True, slots=True)
class Ranges:
    """What pass 1 says of p columns.

    Attributes
    ----------
    edges
        Bins.
    kind
        int8[p], places in KINDS.
    missing, infinite
        int64[p], counts.
    low, high
        float64[p], least and greatest finite value; NaN where there is none.
    quartiles
        float64[3, p].
    """

    edges: Edges
    kind: NDArray[np.int8]
    missing: NDArray[np.int64]
    infinite: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    quartiles: NDArray[np.float64]

    def take(self, columns: NDArray[np.int64]) -> "Ranges":
        """Some of the columns."""
        return Ranges(
            self.edges.take(columns), self.kind[columns], self.missing[columns], self.infinite[columns],
            self.low[columns], self.high[columns], self.quartiles[:, columns],
        )  # fmt: skip

    def grid(self, columns: NDArray[np.int64], cells: int) -> Grid:
        """Grids of densities of some of the columns."""
        low, high = np.nan_to_num(self.low[columns]), np.nan_to_num(self.high[columns])
        q25, median, q75 = np.nan_to_num(self.quartiles[:, columns])
        return grid(low, q25, median, q75, high, cells)


def ranges(found: Sketch, options: Screening, categorical: NDArray[np.bool_]) -> Ranges:
    """What follows from the merged and refined sketch of p columns; `categorical` is bool[p]."""
    cut = uniform_edges if options.binning == "uniform" else quantile_edges
    edges = cut(found, options.bins, categorical)
    values = np.diff(found.offsets)
    kind = np.select(
        [values == 0, values == 1, categorical, values == 2, values <= options.bins],
        [MISSING, CONSTANT, CATEGORICAL, BINARY, DISCRETE],
        CONTINUOUS,
    ).astype(np.int8)
    return Ranges(
        edges, kind, found.missing, found.infinite, found.minimum(), found.maximum(), quantiles(found, QUARTILES)
    )


def _wanted(options: Screening, kind: NDArray[np.int8], name: str) -> NDArray[np.int64]:
    """Columns for which an estimator is computed while the rows are read."""
    if options.estimator == "auto":
        chosen = kind == CONTINUOUS if name == "kde" else np.zeros(len(kind), dtype=np.bool_)
    else:
        chosen = np.isin(kind, (BINARY, DISCRETE, CONTINUOUS)) & (options.estimator == name)
    return np.flatnonzero(chosen)


@dataclass
class Counts:
    """What pass 2 counts of p columns.

    Attributes
    ----------
    tables
        int64[p, BUCKETS or 1, bins, levels].
    sums
        int64[p, s], see `tasks.screen.pearson`.
    density
        int64[c, levels, CELLS] or int64[c, JOINT_CELLS, JOINT_CELLS] of the columns that need it.
    sample
        float32[k, m] values of the sampled rows, of the columns that need them, with `sample_target`.
    """

    ranges: Ranges
    outcome: Outcome
    options: Screening
    threshold: int
    """Rows whose key is at most this are in the sample."""
    tables: NDArray[np.int64] = field(init=False)
    sums: NDArray[np.int64] = field(init=False)
    density: NDArray[np.int64] = field(init=False)
    samples: list[NDArray[np.float32]] = field(init=False)
    targets: list[NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        p, levels = len(self.ranges.kind), self.outcome.levels
        self.buckets = BUCKETS if self.options.stability else 1
        bins = int(self.ranges.edges.bins().max(initial=1))
        self.tables = np.zeros((p, self.buckets, bins, levels), dtype=np.int64)
        self.sums = np.zeros((p, 9 if self.outcome.continuous else 2 + 2 * levels), dtype=np.int64)
        # Columns of two values need no sums: their tables say all.
        self.from_tables = (self.ranges.kind == BINARY) & (self.ranges.infinite == 0) & (not self.outcome.continuous)
        self.of_density = _wanted(self.options, self.ranges.kind, "kde")
        shape = (JOINT_CELLS, JOINT_CELLS) if self.outcome.continuous else (levels, CELLS)
        self.density = np.zeros((len(self.of_density), *shape), dtype=np.int64)
        self.of_sample = _wanted(self.options, self.ranges.kind, "knn")
        self.samples, self.targets = [], []
        self.grid = self.ranges.grid(self.of_density, shape[1])
        self.y_grid = _outcome_grid(self.outcome)

    def add(self, batch: Batch) -> None:
        """Count some rows."""
        x, outcome = batch.x, self.outcome
        levels = outcome.levels_of(batch.target) if outcome.continuous else batch.target
        p, buckets, bins, width = self.tables.shape
        if buckets == 1:
            contingency(x, levels, self.ranges.edges, width, self.tables.reshape(p, bins, width))
        else:
            place = (batch.keys % np.uint64(buckets)).astype(np.int32)
            flat = np.zeros((p, bins, buckets * width), dtype=np.int64)
            contingency(x, place * np.int32(width) + levels, self.ranges.edges, buckets * width, flat)
            self.tables += flat.reshape(p, bins, buckets, width).transpose(0, 2, 1, 3)
        low, high = self.ranges.low, self.ranges.high
        known = self.from_tables
        if outcome.continuous:
            joint_sums(x, batch.target, low, high, outcome.low, outcome.high, self.sums)
        elif not known.any():
            class_sums(x, levels, width, low, high, self.sums)
        elif not known.all():
            self.sums[~known] += class_sums(x[~known], levels, width, low[~known], high[~known])
        if len(self.of_density):
            mine = x if len(self.of_density) == p else x[self.of_density]
            if outcome.continuous:
                y = batch.target.astype(np.float64)
                base, step = float(self.y_grid.low[0]), float(self.y_grid.step[0])
                joint_counts(mine, y, self.grid, base, step, JOINT_CELLS, into=self.density)
            else:
                class_counts(mine, levels, self.grid, width, into=self.density)
        if len(self.of_sample):
            chosen = batch.keys <= np.uint64(self.threshold)
            self.samples.append(x[self.of_sample][:, chosen])
            self.targets.append(batch.target[chosen])

    def sample(self) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The sampled rows: float32[k, m] and their outcome."""
        if not self.samples:
            kind = np.float32 if self.outcome.continuous else np.int32
            return np.zeros((len(self.of_sample), 0), np.float32), np.zeros(0, kind)
        return np.concatenate(self.samples, axis=1), np.concatenate(self.targets)


def _outcome_grid(outcome: Outcome) -> Grid:
    low, q25, median, q75, high = (np.array([v]) for v in (outcome.low, *outcome.quartiles, outcome.high))
    return grid(low, q25, median, q75, high, JOINT_CELLS)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every score of p columns; float64[p] with NaN where there is none, by the names of `schemas.tables.SCREENING`.

    Attributes
    ----------
    values
        score, mi, mi_corrected, g, p_value, p_permutation, mi_binned, mi_kde, mi_knn, mi_pearson, pearson.
    dof, n
        int32[p], int64[p].
    estimator, reason
        Whose value `mi` is, and why there is none.
    subsamples
        float64[p, options.stability], corrected information in each subsample.
    """

    values: dict[str, NDArray[np.float64]]
    dof: NDArray[np.int32]
    n: NDArray[np.int64]
    estimator: list[str | None]
    reason: list[str | None]
    subsamples: NDArray[np.float64]


def evaluate(counts: Counts, keys: NDArray[np.uint64], seed: int) -> Evaluation:
    """Score the columns of which all rows were counted.

    Parameters
    ----------
    keys
        uint64[p], a number of each column's own (of its name), for its permutations.
    """
    options, outcome, kind = counts.options, counts.outcome, counts.ranges.kind
    p = len(kind)
    whole = counts.tables.sum(axis=1)
    found = score(whole)
    n = whole.sum(axis=(1, 2))
    sums = counts.sums.copy()
    if counts.from_tables.any():
        sums[counts.from_tables] = two_value_sums(whole[counts.from_tables, :2])
    related = correlate(sums) if outcome.continuous else correlate_classes(sums)
    unordered = (kind == CATEGORICAL) | (kind == MISSING)
    rho, mi_pearson, pearson_corrected, pearson_p = (
        np.where(unordered, np.nan, v) for v in (related.rho, related.mi, related.mi_corrected, related.p_value)
    )
    mi_kde, expected = np.full(p, np.nan), np.full(p, np.nan)
    if len(counts.of_density):
        if outcome.continuous:
            low, step = float(counts.y_grid.low[0]), float(counts.y_grid.step[0])
            density = kde_joint(counts.density, counts.grid, low, step, options.bandwidth, options.kernel)
        else:
            density = kde_classes(counts.density, counts.grid, options.bandwidth, options.kernel)
        mi_kde[counts.of_density], expected[counts.of_density] = density.mi, density.expected
    mi_knn = np.full(p, np.nan)
    if len(counts.of_sample):
        mi_knn[counts.of_sample] = neighbours(*counts.sample(), outcome, options.neighbors)
    p_value = pearson_p if options.estimator == "pearson" else found.p_value
    evidence = _evidence(kind, found, (mi_kde, expected), related, n, continuous=outcome.continuous)
    estimator, chosen, mi, corrected = _chosen(
        options, kind, found, (mi_kde, expected), mi_knn, (mi_pearson, pearson_corrected), evidence, n
    )
    reason = [_reason(options, k, r) for k, r in zip(kind.tolist(), found.reason, strict=True)]
    drawn = np.full(p, np.nan)
    if options.permutations:
        usable = np.array([r is None for r in found.reason], dtype=np.bool_)
        drawn[usable] = permutation_p(whole[usable], options.permutations, seed, keys[usable]).p_value
        drawn[~usable & (n > 0)] = 1.0
    values = {
        "score": chosen, "mi": mi, "mi_corrected": corrected, "g": found.g, "p_value": p_value,
        "p_permutation": drawn, "mi_binned": found.mi, "mi_kde": mi_kde, "mi_knn": mi_knn, "mi_pearson": mi_pearson,
        "pearson": rho,
    }  # fmt: skip
    subsamples = subsample_scores(counts.tables, options.stability, seed) if options.stability else np.zeros((p, 0))
    return Evaluation(values, found.dof, n, estimator, reason, subsamples)


def neighbours(x: NDArray[np.float32], target: NDArray[Any], outcome: Outcome, k: int) -> NDArray[np.float64]:
    """Nearest-neighbour information of the columns float32[p, m] of a sample."""
    return ksg(x, target.astype(np.float64), k) if outcome.continuous else ross(x, target, len(outcome.classes), k)


def _chosen(
    options: Screening,
    kind: NDArray[np.int8],
    found: Scores,
    kde: tuple[NDArray[np.float64], NDArray[np.float64]],
    mi_knn: NDArray[np.float64],
    pearson: tuple[NDArray[np.float64], NDArray[np.float64]],
    evidence: Mapping[str, Evidence],
    n: NDArray[np.int64],
) -> tuple[list[str | None], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Whose value counts, what columns are ranked by, and that estimator's value without and with its correction."""
    by_name = {
        "binned": (found.mi, found.mi_corrected),
        "sparse": (found.mi, found.mi_corrected),
        "kde": (kde[0], np.maximum(kde[0] - kde[1], 0.0)),
        "knn": (mi_knn, mi_knn),
        "pearson": pearson,
    }
    name = options.estimator
    if name == "auto":
        names, value = strongest(evidence, n)
        names = ["sparse" if k == BINARY else of for k, of in zip(kind, names, strict=True)]
    else:
        suits = np.isin(kind, (CONSTANT, BINARY)) if name == "sparse" else kind != MISSING
        if name in {"kde", "knn", "pearson"}:
            suits &= kind != CATEGORICAL
        names = [name if s else None for s in suits]
        value = np.where(suits, np.where(kind == CONSTANT, 0.0, by_name[name][1]), np.nan)
    p = len(kind)
    mi, corrected = np.full(p, np.nan), np.full(p, np.nan)
    for other, (plain, better) in by_name.items():
        mine = np.array([of == other for of in names], dtype=np.bool_)
        mi[mine], corrected[mine] = plain[mine], better[mine]
    flat = (kind == CONSTANT) & np.array([of is not None for of in names], dtype=np.bool_)
    mi[flat] = corrected[flat] = 0.0
    return names, value, mi, corrected


def _evidence(
    kind: NDArray[np.int8],
    found: Scores,
    kde: tuple[NDArray[np.float64], NDArray[np.float64]],
    related: Correlation,
    n: NDArray[np.int64],
    *,
    continuous: bool,
) -> dict[str, Evidence]:
    """What each estimator has to say of p columns; densities of many values, the correlation of ordered ones."""
    degrees = np.maximum(found.dof, 1).astype(np.float64)
    g = np.where(found.dof > 0, found.g * degrees / np.where(found.dof > 0, found.g_expected, 1.0), found.g)
    ordered = (kind == DISCRETE) | (kind == CONTINUOUS)
    dims = 2 if continuous else 1
    return {
        "kde": density_evidence(*kde, n, dims),
        "binned": Evidence(np.where(kind == CONTINUOUS, np.nan, g), degrees),
        "pearson": Evidence(np.where(ordered, 2 * n * related.mi, np.nan), related.dof, HANDICAP[dims]),
    }


def _reason(options: Screening, kind: int, found: str | None) -> str | None:
    if found is not None:
        return found
    if options.estimator == "sparse" and kind != BINARY:
        return "not a 0/1 feature: the estimator is 'sparse'"
    if options.estimator in {"kde", "knn", "pearson"} and kind == CATEGORICAL:
        return f"categories have no order: the estimator is '{options.estimator}'"
    return None
