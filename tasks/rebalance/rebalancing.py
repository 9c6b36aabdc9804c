"""What is made and left out of train: more rows of small classes, fewer of large ones, and cleaning.

Rows made name their parents and the gap between them; rows left out are kept in a table of their own. What is drawn
depends on the seed, the class and the row's number or id, never on how rows are cut into shards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from schemas.errors import RecipeError
from tasks.build import Build
from tasks.items import Item, Receipt
from tasks.rebalance import over
from tasks.rebalance.smote import sampling_targets
from tasks.rebalance.strategy import Kind, targets
from tasks.shards import Shard, read_shard

GATHERED_ROWS = 65_536
"""Rows of several classes that are gathered together, at least."""


def rebalance(
    build: Build, counts: Mapping[str, int], train: Sequence[Shard], scaler: Shard, texts: Sequence[str]
) -> None:
    """Plan and compute the rows that the recipe asks for.

    Parameters
    ----------
    counts
        Rows of each class.
    train
        Shards of real rows: published already if the recipe leaves none out.
    scaler
        Fitted: mean, standard deviation and number of values of each column of numbers.
    texts
        Columns that are no numbers.

    Raises
    ------
    RecipeError
        What the recipe asks for does not fit the rows.
    """
    numbers: list[str] = read_shard(build.root, scaler.path, ["feature"]).column("feature").to_pylist()
    method, nominal = _nominal(build, numbers, texts)
    options = build.recipe.rebalancing
    space: dict[str, Any] = {"scaler": scaler.path, "weights": None, "missing": options.missing, "nominal": nominal}
    inputs = [scaler.sha256]
    if options.weights == "mi":
        screening = build.shards("screen.select", "screening")[0]
        space["weights"] = screening.path
        inputs.append(screening.sha256)
    columns = len(numbers) + len(texts)
    _Rebalancing(build, dict(sorted(counts.items())), list(train), scaler, space, inputs, method, columns).run()


def _nominal(build: Build, numbers: Sequence[str], texts: Sequence[str]) -> tuple[str, list[str]]:
    """The method, and the columns whose values are names."""
    options = build.recipe.rebalancing
    every, method = [*numbers, *texts], options.method
    if method == "smoten":
        return method, every
    if texts and method not in {"auto", "smote-nc", "random", "none"}:
        raise RecipeError(
            f"rebalancing.method: {_listed(texts)} no numbers, and {method} makes rows of numbers alone",
            "say method: smote-nc (new rows take the commonest of their neighbours' names), smoten or random, or "
            "exclude these columns",
        )
    measures = options.under.startswith("nearmiss") or options.clean != "none"
    if texts and measures:
        field = "clean" if options.clean != "none" else "under"
        raise RecipeError(
            f"rebalancing.{field}: {_listed(texts)} no numbers, and it goes by distances between numbers",
            f"say {field}: none (or under: random), or exclude these columns",
        )
    named = set(texts)
    for pattern in options.nominal:
        found = [name for name in every if name == pattern or fnmatchcase(name, pattern)]
        named.update(found)
        if not found:
            build.notes.append(f"rebalancing.nominal: no feature that is used fits '{pattern}'")
    nominal = [name for name in every if name in named]
    fits = "smote" if not nominal else "smoten" if len(nominal) == len(every) else "smote-nc"
    if method == "smote-nc" and method != fits:
        build.notes.append(f"rebalancing: {'all' if nominal else 'no'} columns hold names, so smote-nc is {fits}")
    return fits if method in {"auto", "smote-nc"} else method, nominal


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"columns {shown}{f' and {len(names) - 5} more' if len(names) > 5 else ''} hold"


@dataclass
class _Rebalancing:
    """One run of the stage: what is known of train, and where rows stand."""

    build: Build
    counts: dict[str, int]
    """Real rows of each class."""
    train: list[Shard]
    scaler: Shard
    space: dict[str, Any]
    """Arguments of `Space.read`."""
    space_inputs: list[str]
    """Digests of the shards among them."""
    method: str
    columns: int

    def run(self) -> None:
        options = self.build.recipe.rebalancing
        if not self.counts:
            return
        added = self.wanted()
        kept = self.kept(added)
        smallest = min(self.counts, key=self.counts.__getitem__)
        near_miss = options.under.startswith("nearmiss") and bool(kept)
        if (added and self.method not in {"random", "smoten"}) or near_miss or options.clean != "none":
            self.refuse_missing()
        classes = self.gathered([*added, *([smallest] if near_miss and smallest not in added else [])])
        made = self.over(added, classes)
        stays = self.train
        if kept:
            stays = self.under(kept, classes.get(smallest) if near_miss else None)
        if options.clean != "none":
            self.clean([*stays, *made], made=bool(added))
        elif not kept and options.drops:
            self.under({}, None)

    # What is wanted

    def targets(self, counts: Mapping[str, int], field: str, target: Any, kind: Kind) -> dict[str, int]:
        try:
            return targets(counts, target, kind)
        except ValueError as error:
            held = ", ".join(f"{label}: {n:,}" for label, n in counts.items())
            raise RecipeError(
                f"rebalancing.{field}: {str(error).replace('sampling_strategy', field)} (rows of train: {held})",
                f"change rebalancing.{field}, or say rebalancing.method: none",
            ) from error

    def wanted(self) -> dict[str, int]:
        """Rows to add to each class that gets any."""
        options = self.build.recipe.rebalancing
        if options.method == "none" or len(self.counts) < 2:
            return {}
        if isinstance(options.target, float):
            found = sampling_targets(self.counts, options.target)
        else:
            found = self.targets(self.counts, "target", options.target, "over-sampling")
        found = {label: n for label, n in found.items() if n > 0}
        if options.method == "random":
            return found
        for label in [label for label in found if self.counts[label] < 2]:
            self.build.notes.append(
                f"rebalancing: class '{label}' has one row in train; {options.method} needs two, so it stays as it is"
            )
            del found[label]
        for label in found:
            if self.counts[label] <= options.k_neighbors:
                self.build.notes.append(
                    f"rebalancing: class '{label}' has {self.counts[label]} rows in train, so {self.counts[label] - 1} "
                    f"neighbours are used where the recipe asks for {options.k_neighbors}"
                )
        return found

    def kept(self, added: Mapping[str, int]) -> dict[str, int]:
        """Rows that stay of each class that loses any."""
        options = self.build.recipe.rebalancing
        if options.under == "none" or len(self.counts) < 2:
            return {}
        after = {label: n + added.get(label, 0) for label, n in self.counts.items()}
        if isinstance(options.under_target, float):
            most = round(min(after.values()) / options.under_target)
            found = dict.fromkeys(after, most)
        else:
            found = self.targets(after, "under_target", options.under_target, "under-sampling")
            if isinstance(options.under_target, dict):
                for label in found:
                    if label in added:
                        raise RecipeError(
                            f"rebalancing.under_target: class '{label}' gets {added[label]:,} new rows",
                            "name only classes that get none",
                        )
        return {label: n for label, n in found.items() if label not in added and n < self.counts[label]}

    def refuse_missing(self) -> None:
        """Refuse missing and infinite values where the recipe says so."""
        if self.build.recipe.rebalancing.missing != "error":
            return
        table = read_shard(self.build.root, self.scaler.path, ["feature", "count"])
        rows = sum(self.counts.values())
        measured = [row for row in table.to_pylist() if row["feature"] not in self.space["nominal"]]
        lacking = [(row["feature"], rows - row["count"]) for row in measured if row["count"] < rows]
        if lacking:
            shown = ", ".join(f"{name} in {n:,} rows" for name, n in lacking[:5])
            more = f" and {len(lacking) - 5} columns more" if len(lacking) > 5 else ""
            raise RecipeError(
                f"rebalancing.missing: of {rows:,} rows of train values are missing or infinite: {shown}{more}",
                "say rebalancing.missing: mean (train's mean stands in for them) or keep, fill them in the table, "
                "leave the columns out, or say rebalancing.method: none",
            )

    # Items

    def items(
        self,
        step: str,
        titled: Iterable[tuple[str, dict[str, Any], dict[str, Any], Iterable[Shard]]],
        *,
        weight: int = 1,
        memory: int = 0,
    ) -> Sequence[Receipt]:
        """Compute items from titles, settings (which the result depends on), places and the shards read."""
        items: list[Item] = [
            self.build.item(
                "rebalance",
                step,
                title,
                config=config | {name: self.space[name] for name in ("missing", "nominal")},
                inputs=[*self.space_inputs, *(shard.sha256 for shard in inputs)],
                args=self.space | config | paths,
                weight=weight,
                memory=memory,
            )
            for title, config, paths, inputs in titled
        ]
        return self.build.compute(items)

    def memory(self, rows: int) -> int:
        """Bytes for so many rows, as read, as numbers and standardised."""
        return 3 * 8 * rows * self.columns + 256 * 2**20

    def gathered(self, labels: Iterable[str]) -> dict[str, Shard]:
        """The rows of some classes, each in one shard; small classes are gathered together, in one pass over train."""
        chosen = list(labels)
        most = max((self.counts[label] for label in chosen), default=0)
        groups: list[list[str]] = []
        room = 0
        for label in chosen:
            if self.counts[label] > room:
                groups.append([])
                room = max(most, GATHERED_ROWS)
            groups[-1].append(label)
            room -= self.counts[label]
        paths = {"train": [shard.path for shard in self.train]}
        receipts = self.items(
            "gather",
            (
                (f"class {group[0]}{f' and {len(group) - 1} more' if group[1:] else ''}", {"labels": group}, paths,
                 self.train)
                for group in groups
            ),
            memory=self.memory(max(most, GATHERED_ROWS) + self.largest),
        )  # fmt: skip
        shards = [shard for receipt in receipts for shard in receipt.all_of("class")]
        return dict(zip(chosen, shards, strict=True))

    @property
    def largest(self) -> int:
        """Rows of the largest shard of train."""
        return max((shard.rows for shard in self.train), default=0)

    def over(self, added: Mapping[str, int], classes: Mapping[str, Shard]) -> list[Shard]:
        """Synthetic rows."""
        if not added:
            return []
        options, seed = self.build.recipe.rebalancing, self.build.recipe.seed
        k = {label: max(1, min(options.k_neighbors, self.counts[label] - 1)) for label in added}
        around = self.around(added, classes, k)
        clusters = self.clusters(added) if self.method == "kmeans-smote" else None
        values = self.values() if self.method == "smoten" else []
        train = [shard.path for shard in self.train]
        looks = self.method in {"borderline-2", "svm-smote"}
        planned: list[tuple[str, dict[str, Any], dict[str, Any], Iterable[Shard]]] = []
        for label, count in added.items():
            config: dict[str, Any] = {
                "label": label,
                "method": self.method,
                "count": count,
                "k": k[label],
                "m": self.m(k[label]),
                "m_neighbors": self.m_neighbors,
                "sample": options.sample,
                "search": options.search,
                "recall": options.recall,
                "seed": seed,
            }
            inputs = [classes[label], *values, *around.get(label, []), *(self.train if looks else [])]
            paths: dict[str, Any] = {"class": classes[label].path, "around": [s.path for s in around.get(label, [])]}
            paths |= {"train": train if looks else [], "values": [s.path for s in values]}
            if clusters is not None:
                centres, sizes = clusters
                config |= {"sizes": sizes, "total": sum(added.values())}
                paths["centres"] = centres.path
                inputs.append(centres)
            planned.append((f"class {label}", config, paths, inputs))
        receipts = self.items(
            "plan",
            planned,
            memory=self.memory(max(self.counts[label] for label in added) + (self.largest if looks else 0)),
        )
        drawn: list[tuple[str, dict[str, Any], dict[str, Any], Iterable[Shard]]] = []
        for (label, count), receipt in zip(added.items(), receipts, strict=True):
            parents, plan = receipt.shard("parents"), receipt.shard("plan")
            votes = receipt.all_of("votes")
            self.tell_recall(label, receipt.facts["recall"])
            for start in range(0, count, over.CHUNK_ROWS):
                stop = min(start + over.CHUNK_ROWS, count)
                config = {
                    "label": label,
                    "start": start,
                    "stop": stop,
                    "seed": seed,
                    "cleaned": options.clean != "none",
                }
                paths = {"parents": parents.path, "plan": plan.path, "votes": votes[0].path if votes else None}
                drawn.append((f"class {label}, rows {start:,} to {stop:,}", config, paths, [parents, plan, *votes]))
        most = max(self.counts[label] for label in added)
        made = self.items("synthesize", drawn, weight=over.CHUNK_ROWS, memory=self.memory(most + over.CHUNK_ROWS))
        return [shard for receipt in made for shard in receipt.shards]

    def tell_recall(self, label: str, recall: float | None) -> None:
        """Say how much an approximate search found."""
        asked = self.build.recipe.rebalancing.recall
        if recall is not None and recall < asked:
            self.build.notes.append(
                f"rebalancing.recall: {recall:.2%} of the true neighbours in '{label}' were found, not {asked:.2%}"
            )

    def values(self) -> list[Shard]:
        """Rows of each class by value, of each column of names."""
        receipts = self.items(
            "values",
            ((f"a shard of {s.rows:,} rows", {}, {"shard": s.path}, [s]) for s in self.train),
            memory=self.memory(self.largest),
        )
        return [receipt.shard("values") for receipt in receipts]

    @property
    def m_neighbors(self) -> int:
        """The recipe's `m_neighbors`, or as many as there are."""
        return min(self.build.recipe.rebalancing.m_neighbors, sum(self.counts.values()) - 1)

    def m(self, k: int) -> int:
        """How many neighbours among all rows the method looks at."""
        return k if self.method == "adasyn" else max(k, self.m_neighbors)

    def around(
        self, added: Mapping[str, int], classes: Mapping[str, Shard], k: Mapping[str, int]
    ) -> dict[str, list[Shard]]:
        """Of each class, its rows' neighbours in each shard of train, for methods that go by them."""
        if self.method not in over.LOOKS_AROUND:
            return {}
        pairs = [(label, shard) for label in added for shard in self.train]
        receipts = self.items(
            "around",
            (
                (
                    f"class {label}, a shard of {shard.rows:,} rows",
                    {"label": label, "m": self.m(k[label])},
                    {"class": classes[label].path, "shard": shard.path},
                    [classes[label], shard],
                )
                for label, shard in pairs
            ),
            memory=self.memory(max(self.counts[label] for label in added) + self.largest),
        )
        found: dict[str, list[Shard]] = {label: [] for label in added}
        for (label, _), receipt in zip(pairs, receipts, strict=True):
            found[label].append(receipt.shard("around"))
        return found

    def clusters(self, added: Mapping[str, int]) -> tuple[Shard, list[int]]:
        """Centres of clusters of train, and how many rows each has."""
        options = self.build.recipe.rebalancing
        config = {"sample": options.sample, "clusters": options.clusters, "seed": self.build.recipe.seed}
        paths = {"train": [shard.path for shard in self.train]}
        memory = self.memory(options.sample + self.largest)
        centres = self.items("centres", [("clusters", config, paths, self.train)], memory=memory)[0].shard("centres")
        receipts = self.items(
            "clusters",
            (
                (
                    f"a shard of {shard.rows:,} rows",
                    {},
                    {"centres": centres.path, "shard": shard.path},
                    [centres, shard],
                )
                for shard in self.train
            ),
            memory=memory,
        )
        sizes = [sum(column) for column in zip(*(receipt.facts["counts"] for receipt in receipts), strict=True)]
        return centres, sizes

    def under(self, kept: Mapping[str, int], rare: Shard | None) -> list[Shard]:
        """What stays of train: so many rows of each class named, all of another."""
        options, seed = self.build.recipe.rebalancing, self.build.recipe.seed
        beside = [] if rare is None else [rare]
        memory = self.memory(self.largest + (0 if rare is None else rare.rows))
        found = self.candidates(kept, rare) if rare is not None and options.under == "nearmiss-3" else {}
        config: dict[str, Any] = {"method": options.under, "keep": dict(kept), "k": options.near, "seed": seed}
        paths: dict[str, Any] = {
            "class": None if rare is None else rare.path,
            "candidates": {label: shard.path for label, shard in found.items()},
        }
        ranks = self.items(
            "rank",
            (
                (f"a shard of {s.rows:,} rows", config, paths | {"shard": s.path}, [s, *beside, *found.values()])
                for s in self.train
            ),
            memory=memory,
        )
        ranked = [receipt.shard("ranks") for receipt in ranks]
        receipt = self.items(
            "limit",
            [("rows that stay", {"keep": dict(kept)}, {"ranks": [s.path for s in ranked]}, ranked)],
            memory=memory,
        )[0]
        for label, count in kept.items():
            if receipt.facts["kept"].get(label, 0) < count:
                self.build.notes.append(
                    f"rebalancing: of class '{label}' {receipt.facts['kept'].get(label, 0):,} rows stay, not "
                    f"{count:,}: no more are near the smallest class (raise rebalancing.near)"
                )
        limits = receipt.shard("limits")
        config = {"keep": dict(kept), "method": options.under, "last": options.clean == "none"}
        parted = self.items(
            "under",
            (
                (
                    f"a shard of {shard.rows:,} rows",
                    config,
                    {"shard": shard.path, "ranks": rank.path, "limits": limits.path},
                    [shard, rank, limits],
                )
                for shard, rank in zip(self.train, ranked, strict=True)
            ),
            memory=memory,
        )
        return [shard for receipt in parted for shard in receipt.all_of("train")]

    def candidates(self, kept: Mapping[str, int], rare: Shard) -> dict[str, Shard]:
        """NearMiss-3: of each class the rows near some row of the smallest."""
        k = self.build.recipe.rebalancing.near
        pairs = [(label, shard) for label in kept for shard in self.train]
        memory = self.memory(self.largest + rare.rows)
        near = self.items(
            "near",
            (
                (
                    f"class {label}, a shard of {s.rows:,} rows",
                    {"label": label, "k": k},
                    {"class": rare.path, "shard": s.path},
                    [rare, s],
                )
                for label, s in pairs
            ),
            memory=memory,
        )
        by_label: dict[str, list[Shard]] = {label: [] for label in kept}
        for (label, _), receipt in zip(pairs, near, strict=True):
            by_label[label].append(receipt.shard("near"))
        receipts = self.items(
            "candidates",
            (
                (f"class {label}", {"k": k}, {"near": [s.path for s in found]}, found)
                for label, found in by_label.items()
            ),
            memory=memory,
        )
        return {label: receipt.shard("candidates") for label, receipt in zip(kept, receipts, strict=True)}

    def clean(self, shards: list[Shard], *, made: bool) -> None:
        """Leave out rows near rows of other classes."""
        options = self.build.recipe.rebalancing
        chosen = options.clean_classes
        if chosen == "auto":
            chosen = "all" if made else "not minority"
        if isinstance(chosen, str):
            labels = _named(self.counts, chosen)
        else:
            labels = sorted(self.targets(self.counts, "clean_classes", list(chosen), "clean-sampling"))
        paths = [shard.path for shard in shards]
        largest = max((shard.rows for shard in shards), default=0)
        tomek = options.clean == "tomek"
        looked = sorted(self.counts) if tomek else labels
        receipts = self.items(
            "crowd",
            (
                (
                    f"shard {n + 1} of {len(shards)}",
                    {"own": n, "labels": looked, "k": 1 if tomek else options.near},
                    {"shards": paths},
                    shards,
                )
                for n in range(len(shards))
            ),
            memory=2 * self.memory(largest),
        )
        crowd = [receipt.shard("crowd") for receipt in receipts]
        config: dict[str, Any] = {"labels": labels, "method": options.clean}
        drops = self.items(
            "links", [("rows to leave out", config, {"crowd": [s.path for s in crowd]}, crowd)], memory=256 * 2**20
        )[0].shard("drops")
        self.items(
            "clean",
            (
                (f"shard {n} of {len(shards)}", config, {"shard": shard.path, "drops": drops.path}, [shard, drops])
                for n, shard in enumerate(shards, 1)
            ),
            memory=self.memory(largest),
        )


def _named(counts: Mapping[str, int], name: str) -> list[str]:
    # Classes by one of imbalanced-learn's names; a cleaning may be asked of the smallest too.
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    return {
        "all": sorted(counts),
        "minority": [smallest],
        "majority": [largest],
        "not minority": sorted(set(counts) - {smallest}),
        "not majority": sorted(set(counts) - {largest}),
    }[name]
