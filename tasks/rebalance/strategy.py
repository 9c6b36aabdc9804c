"""`sampling_strategy`: how many rows of each class, in every form that imbalanced-learn knows."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

Kind: TypeAlias = Literal["over-sampling", "under-sampling", "clean-sampling"]
"""Adding rows, leaving out so many, or leaving out whichever a rule names."""

Label = TypeVar("Label")

NAMES = ("auto", "minority", "not minority", "not majority", "all", "majority")


def targets(counts: Mapping[Label, int], strategy: Any, kind: Kind) -> dict[Label, int]:
    """What a strategy asks of each class that it names, the classes in sorted order.

    Parameters
    ----------
    counts
        Rows of each class. Of several largest (or smallest) classes the first counts as the majority (minority).
    strategy
        "minority", "not minority", "not majority", "majority" or "all": which classes are brought to the size of
        the largest (over-sampling) or smallest; "auto": "not majority" when rows are added, else "not minority".
        A number in (0, 1]: minority over majority after the sampling, for two classes. A mapping: rows wanted of
        each class named. For cleaning, a list: the classes to clean.
    kind
        What the sampler does.

    Returns
    -------
    dict
        Over-sampling: rows to add. Under-sampling: rows to keep. Cleaning: its keys are the classes to clean.

    Raises
    ------
    ValueError
        The strategy does not fit the classes or the sampler.
    """
    if len(counts) < 2:
        raise ValueError(
            f"The target 'y' needs to have more than 1 class. Got {len(counts)} class instead: "
            "there is nothing to balance"
        )
    if isinstance(strategy, str):
        found = _named(counts, strategy, kind)
    elif isinstance(strategy, Mapping):
        found = _asked(counts, strategy, kind)
    elif isinstance(strategy, Iterable):
        found = _listed(counts, strategy, kind)
    else:
        found = _ratio(counts, float(strategy), kind)
    return dict(sorted(found.items(), key=lambda pair: pair[0]))  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownLambdaType]


def resolve(y: Any, counts: Mapping[Label, int], strategy: Any, kind: Kind) -> dict[Label, int]:
    """As `targets`; a callable strategy is first asked what it wants of the labels `y`."""
    wanted: Callable[[Any], Mapping[Any, int]] | Any = strategy
    return targets(counts, wanted(y) if callable(wanted) else wanted, kind)


def _named(counts: Mapping[Label, int], name: str, kind: Kind) -> dict[Label, int]:
    adds = kind == "over-sampling"
    if name not in NAMES:
        raise ValueError(f"sampling_strategy is '{name}'; it must be one of {', '.join(NAMES)}")
    if name == ("majority" if adds else "minority"):
        raise ValueError(f"sampling_strategy '{name}' does not go with {kind}")
    if name == "auto":
        name = "not majority" if adds else "not minority"
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    chosen = {
        "minority": {smallest},
        "majority": {largest},
        "not minority": counts.keys() - {smallest},
        "not majority": counts.keys() - {largest},
        "all": counts.keys(),
    }[name]
    return {label: counts[largest] - counts[label] if adds else counts[smallest] for label in chosen}


def _asked(counts: Mapping[Label, int], wanted: Mapping[Any, int], kind: Kind) -> dict[Label, int]:
    if kind == "clean-sampling":
        raise ValueError("sampling_strategy: a cleaning leaves out what its rule says; give a list of classes")
    if unknown := set(wanted) - set(counts):
        raise ValueError(f"sampling_strategy: there is no class {', '.join(map(repr, unknown))}")
    if any(n < 0 for n in wanted.values()):
        raise ValueError(f"sampling_strategy: rows of a class cannot be negative: {dict(wanted)}")
    for label, n in wanted.items():
        if kind == "over-sampling" and n < counts[label]:
            raise ValueError(f"sampling_strategy: class '{label}' has {counts[label]} rows, not {n} or fewer")
        if kind == "under-sampling" and n > counts[label]:
            raise ValueError(f"sampling_strategy: class '{label}' has {counts[label]} rows, {n} cannot be kept of them")
        if kind == "over-sampling" and n > max(counts.values()):
            warnings.warn(
                f"class '{label}' grows to {n} rows, beyond the largest class's {max(counts.values())}", stacklevel=4
            )
    return {label: n - counts[label] if kind == "over-sampling" else n for label, n in wanted.items()}


def _listed(counts: Mapping[Label, int], classes: Iterable[Any], kind: Kind) -> dict[Label, int]:
    if kind != "clean-sampling":
        raise ValueError("sampling_strategy: a list is for cleaning only; give a dict of class to rows")
    chosen = list(classes)
    if unknown := set(chosen) - set(counts):
        raise ValueError(f"sampling_strategy: there is no class {', '.join(map(repr, unknown))}")
    return {label: min(counts.values()) for label in chosen}


def _ratio(counts: Mapping[Label, int], ratio: float, kind: Kind) -> dict[Label, int]:
    if kind == "clean-sampling":
        raise ValueError("sampling_strategy: a cleaning leaves out what its rule says; a ratio cannot be asked of it")
    if not 0 < ratio <= 1:
        raise ValueError(f"sampling_strategy is {ratio:g}; a ratio must be above 0 and at most 1")
    if len(counts) > 2:
        raise ValueError("sampling_strategy: a ratio is for two classes; give a dict of class to rows")
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if kind == "over-sampling":
        # int() of the difference, as imbalanced-learn has it: the last row may differ from rounding.
        found = {label: int(counts[largest] * ratio - n) for label, n in counts.items() if label != largest}
        if any(n <= 0 for n in found.values()):
            raise ValueError(f"sampling_strategy is {ratio:g}, but the classes are more even already; raise it")
        return found
    found = {label: int(counts[smallest] / ratio) for label in counts if label != smallest}
    if any(n > counts[label] for label, n in found.items()):
        raise ValueError(f"sampling_strategy is {ratio:g}, but the classes are more even already; raise it")
    return found
