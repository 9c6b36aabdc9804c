"""Components of a stream of edges against SciPy's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.split.components import Components


def smallest(n: int, edges: list[tuple[int, int]]) -> list[int]:
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (rows, columns)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component].tolist()


@given(st.integers(1, 40), st.data())
def test_roots_are_the_smallest_vertices_in_any_order_and_any_blocks(n: int, data: st.DataObject) -> None:
    vertex = st.integers(0, n - 1)
    edges = data.draw(st.lists(st.tuples(vertex, vertex), max_size=60))
    mixed = data.draw(st.permutations(edges))
    cut = data.draw(st.integers(0, len(edges)))
    expected = smallest(n, edges)
    for blocks in ([edges], [mixed[:cut], mixed[cut:]], [[(b, a)] for a, b in mixed]):
        components = Components(n)
        for block in blocks:
            a, b = np.array(block, dtype=np.int32).reshape(-1, 2).T
            components.join(a.copy(), b.copy())
        assert components.roots().tolist() == expected


def test_a_long_path_given_backwards() -> None:
    n = 200_000
    components = Components(n)
    vertices = np.arange(n - 1, 0, -1, dtype=np.int32)
    components.join(vertices, vertices - 1)
    assert not components.roots().any()
