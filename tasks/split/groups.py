"""Groups that must not be torn apart, and where each goes: pure functions of names and counts."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def merged_groups(links: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Join projects that are linked, however indirectly.

    Parameters
    ----------
    links
        Pairs of projects that share a duplicate.

    Returns
    -------
    dict
        Each linked project and its group: the first of the joined projects' names.
    """
    if not links:
        return {}
    from scipy.sparse import coo_array  # half a second, which only a worker needs
    from scipy.sparse.csgraph import connected_components

    names = sorted({name for link in links for name in link})
    place = {name: i for i, name in enumerate(names)}
    rows = np.array([place[a] for a, _ in links])
    columns = np.array([place[b] for _, b in links])
    graph = coo_array((np.ones(len(links), dtype=np.int8), (rows, columns)), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for name, c in zip(names, component.tolist(), strict=True):  # sorted, so the first name is the smallest
        first.setdefault(c, name)
    return {name: first[c] for name, c in zip(names, component.tolist(), strict=True)}


def keyed_order(names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Order of names by SHA-256 of (seed, name): random, but the same wherever and whenever."""
    keys = [hashlib.sha256(f"{seed}\0split\0{name}".encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), dtype=np.int64)


def assign(
    names: Sequence[str],
    counts: NDArray[np.int64],
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.int64]:
    """Give whole groups to splits so that each class is shared out as asked, as well as groups allow.

    A group belongs to the stratum of its rarest class (by total count). In each stratum the groups with more than
    a hundredth of its samples go first, largest first, each to the split that lacks most; the others then stand
    end to end in keyed order and fill what is still lacking.

    Parameters
    ----------
    names
        Group names, distinct.
    counts
        int64[groups, classes], labelled samples of each class in each group; each row has a positive sum.
    shares
        Share of each split, adding up to 1.
    seed
        Seed of the order.

    Returns
    -------
    int64[groups]
        Index into `shares`.
    """
    totals = counts.sum(axis=0)
    rarest = np.where(counts > 0, totals[None, :], np.iinfo(np.int64).max).argmin(axis=1)
    size = counts.sum(axis=1)
    wanted = np.asarray(shares, dtype=np.float64)
    result = np.zeros(len(names), dtype=np.int64)
    order = keyed_order(names, seed)
    for stratum in np.unique(rarest):
        members = order[rarest[order] == stratum]
        total = int(size[members].sum())
        lacking = wanted * total
        large = members[size[members] * 100 > total]
        for group in large[np.argsort(-size[large], kind="stable")]:
            place = int(lacking.argmax())
            result[group] = place
            lacking[place] -= size[group]
        small = members[size[members] * 100 <= total]
        if len(small):
            ends = np.cumsum(np.maximum(lacking, 0.0))
            middle = (np.cumsum(size[small]) - size[small] / 2) / size[small].sum() * ends[-1]
            result[small] = np.minimum(np.searchsorted(ends, middle, side="right"), len(wanted) - 1)
    return result
