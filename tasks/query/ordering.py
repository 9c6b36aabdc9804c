"""The training order of a dataset, held against the commitment in its manifest."""

from typing import Any

from schemas.errors import DatasetError
from tasks.order import commitment, order_key, training_ids, training_order
from tasks.query.dataset import Dataset


def order_of(dataset: Dataset, secret: bytes | None = None) -> Any:
    """Ids of train in the order that the manifest commits to, as an Arrow array.

    Raises
    ------
    DatasetError
        The dataset commits to no order, to a secret one, or to another than the secret gives.
    """
    said = dataset.manifest.summary.get("order")
    if not isinstance(said, dict):
        raise DatasetError(
            f"{dataset.root}: commits to no training order", "run its recipe again; it needs a table train"
        )
    if said.get("secret") and secret is None:
        raise DatasetError(f"{dataset.root}: its training order is secret", "name the secret's file with --secret")
    key = order_key(int(dataset.manifest.recipe.get("seed", 0)), secret if said.get("secret") else None)
    order = training_order(training_ids(dataset.paths("train")), key)
    if commitment(order) != said.get("commitment"):
        raise DatasetError(
            f"{dataset.root}: the manifest commits to another order than this secret (or seed) gives",
            "check the secret's file, byte for byte; check the dataset with: binmill verify",
        )
    return order


def order_problems(dataset: Dataset) -> list[str]:
    """What is wrong with the order that everybody can compute; of a secret one nothing can be said."""
    said = dataset.manifest.summary.get("order")
    if not isinstance(said, dict) or said.get("secret"):
        return []
    try:
        order_of(dataset)
    except DatasetError:
        return ["commits to another order than that of its rows"]
    return []
