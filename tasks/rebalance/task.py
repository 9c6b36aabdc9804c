"""The rebalance stage: more rows of small classes, fewer of large ones, and cleaning, in train alone."""

from tasks.build import Build
from tasks.items import Step
from tasks.rebalance import clean, named, over, source, under
from tasks.rebalance.rebalancing import rebalance

STEPS: dict[str, Step] = source.STEPS | named.STEPS | over.STEPS | under.STEPS | clean.STEPS


def build(build: Build) -> None:
    """Plan and compute the rows that the recipe asks for, in a dataset's train."""
    counts: dict[str, int] = {}
    for receipt in build.receipts["screen.apply"]:
        for label, count in receipt.facts["rows"].get("train", {}).items():
            counts[label] = counts.get(label, 0) + count
    train, scaler = build.shards("screen.apply", "train"), build.shards("screen.scale", "scaler")[0]
    rebalance(build, counts, train, scaler, [])
