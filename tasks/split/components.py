"""Connected components of a graph whose edges come in a stream: one int32 a vertex, no edge is kept."""

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

Vertices = NDArray[np.int32]


@compiled
def _root(parents: Vertices, vertex: np.int32) -> np.int32:
    while parents[vertex] != vertex:
        parents[vertex] = parents[parents[vertex]]  # halve the path for whoever comes next
        vertex = parents[vertex]
    return vertex


@compiled
def _join(parents: Vertices, a: Vertices, b: Vertices) -> None:
    for i in range(len(a)):
        x = _root(parents, a[i])
        y = _root(parents, b[i])
        parents[max(x, y)] = min(x, y)


@compiled
def _flatten(parents: Vertices) -> None:
    # A parent is never larger than its child, so in rising order each one's parent is a root already.
    for i in range(len(parents)):
        parents[i] = parents[parents[i]]


class Components:
    """Union-find over vertices 0 to n - 1. The larger root is hung under the smaller one.

    A component's root is so its smallest vertex, whatever the order of the edges.
    """

    def __init__(self, n: int) -> None:
        self.parents = np.arange(n, dtype=np.int32)

    def join(self, a: Vertices, b: Vertices) -> None:
        """Add edges a[i]-b[i], int32[m]."""
        _join(self.parents, a, b)

    def roots(self) -> Vertices:
        """Smallest vertex of each vertex' component, int32[n]."""
        _flatten(self.parents)
        return self.parents.copy()
