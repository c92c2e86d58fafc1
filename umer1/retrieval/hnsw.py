"""HNSW: a graph whose edges lead towards a query. FAISS builds and walks it over the stored vectors.

The file holds numbers alone, int32: the level count of each row, then every row's neighbours, level
by level, -1 where there is none. They are checked before FAISS sees them, so that a damaged or
hostile file is an error and no read outside of memory.
"""

from __future__ import annotations

import numpy as np

from umer1.retrieval.files import Stored
from umer1.retrieval.library import copy_into, faiss_library, search_until, selection

# edges of a row: twice as many on the lowest level
EDGES = 32
# candidates looked at while a row is added, and at least so many in a search
BUILD_EFFORT, EFFORT = 100, 128
BLOCK_ROWS = 1 << 14


class HnswGraph:
    """Candidates among the first `rows` rows of one space."""

    kind = "hnsw"

    def __init__(self, index, rows: int):
        self._index, self.rows = index, rows

    @classmethod
    def build(cls, stored: Stored, space: str, before: HnswGraph | None = None) -> HnswGraph:
        """A graph over all rows; `before`, of the first of them, is made larger and taken over."""
        index = before._index if before else _empty(stored, space)
        for start in range(before.rows if before else 0, stored.manifest.rows, BLOCK_ROWS):
            stretch = slice(start, min(start + BLOCK_ROWS, stored.manifest.rows))
            index.add(stored.vectors(space, stretch))
        return cls(index, stored.manifest.rows)

    def candidates(self, stored: Stored, queries: np.ndarray, count: int) -> np.ndarray:
        """Row numbers int64 [m, count] near queries float32 [m, w]; -1 where there are no more."""
        faiss = faiss_library()
        chosen = selection(stored, self.rows)

        def search(queries, effort):
            options = faiss.SearchParametersHNSW(efSearch=effort, sel=chosen)
            return self._index.search(queries, min(count, self.rows), params=options)[1]

        wanted = min(count, int(stored.alive[: self.rows].sum()))
        # among many deleted rows a search may end with too few others
        return search_until(search, queries, wanted, max(EFFORT, 2 * count), self.rows)

    def arrays(self) -> list[np.ndarray]:
        """What the file holds."""
        faiss = faiss_library()
        graph = self._index.hnsw
        return [faiss.vector_to_array(part) for part in (graph.levels, graph.neighbors)]

    @classmethod
    def load(cls, content: np.ndarray, stored: Stored, space: str, rows: int) -> HnswGraph:
        """A graph from the bytes of its file, uint8; ValueError says what is wrong with them."""
        if len(content) % 4 or len(content) < 4 * rows:
            raise ValueError(f"{len(content)} bytes are no graph of {rows} rows")
        numbers = content.view("<i4")
        levels, neighbours = numbers[:rows], numbers[rows:]
        offsets = _check(levels, neighbours, rows)
        index = _empty(stored, space)
        graph = index.hnsw
        copy_into(graph.levels, levels)
        copy_into(graph.offsets, offsets)
        copy_into(graph.neighbors, neighbours)
        graph.entry_point, graph.max_level = int(levels.argmax()), int(levels.max()) - 1
        _fill(index, stored, space, rows)
        index.ntotal = index.storage.ntotal = rows
        return cls(index, rows)


def _empty(stored, space):
    """Vectors beside the graph are float32 where they are stored so, else float16."""
    faiss = faiss_library()
    width, metric = stored.width(space), faiss.METRIC_INNER_PRODUCT
    if stored.format.dtype == "float32":
        index = faiss.IndexHNSWFlat(width, EDGES, metric)
    else:
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexHNSWSQ(width, half, EDGES, metric)
        index.is_trained = index.storage.is_trained = True
    index.hnsw.efConstruction = BUILD_EFFORT
    return index


def _fill(index, stored, space, rows):
    faiss = faiss_library()
    storage = faiss.downcast_index(index.storage)
    for start in range(0, rows, BLOCK_ROWS):
        storage.add(stored.vectors(space, slice(start, min(start + BLOCK_ROWS, rows))))


def _check(levels, neighbours, rows):
    """Where each row's neighbours begin, uint64 [rows + 1]."""
    highest = int(levels.max(initial=0))
    # FAISS draws levels with odds 1 / EDGES each: seven are never reached
    if levels.min(initial=1) < 1 or highest > 32:
        raise ValueError("levels of the graph are out of range")
    # FAISS' own table: where the levels of a row begin within its neighbours
    widths = np.array([0] + [2 * EDGES] + [EDGES] * (highest - 1))
    begins = np.cumsum(widths)
    offsets = np.concatenate([[0], np.cumsum(begins[levels])])
    if offsets[-1] != len(neighbours):
        raise ValueError(f"{len(neighbours)} neighbours, {offsets[-1]} are needed")
    if neighbours.min(initial=0) < -1 or neighbours.max(initial=-1) >= rows:
        raise ValueError("neighbours name rows that are not there")
    for level in range(1, highest):
        own = np.flatnonzero(levels > level)
        slots = (offsets[own] + begins[level])[:, None] + np.arange(EDGES)
        named = neighbours[slots]
        if (levels[named[named >= 0]] <= level).any():
            raise ValueError("neighbours are on another level")
    return offsets.astype(np.uint64)
