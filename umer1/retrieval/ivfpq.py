"""IVF-PQ: rows in cells around centroids, each row as a short code. FAISS trains and searches it.

The file holds centroids float32 [cells, w], the code book float32 [256 per byte, w], the cell of
each row int32 [rows], and codes uint8 [rows, code bytes]. FAISS' object is made of them after they
were checked; codes only choose candidates, scores come from the stored vectors.
"""

from __future__ import annotations

import numpy as np

from umer1.retrieval.files import Stored
from umer1.retrieval.library import copy_into, faiss_library, search_until, selection

# fewer rows cannot train 256 codes per byte
LEAST_ROWS = 10_000
TRAINING_ROWS_PER_CELL = 64
# of all cells, and at least so many, are looked into first
PROBED_SHARE, LEAST_PROBES = 1 / 8, 32
# candidates per row wanted: a code is a rough picture of a vector
SPREAD = 10
BLOCK_ROWS = 1 << 14


class IvfPq:
    """Candidates among the first `rows` rows of one space."""

    kind = "ivfpq"

    def __init__(self, index, rows: int):
        self._index, self.rows = index, rows

    @classmethod
    def build(cls, stored: Stored, space: str, before: IvfPq | None = None) -> IvfPq:
        """Over all rows; `before`, of the first of them, keeps its centroids and code book."""
        rows = stored.manifest.rows
        if before is None:
            cells = cell_count(rows)
            index = _empty(stored.width(space), cells)
            random = np.random.default_rng(0)
            sample = random.choice(rows, min(rows, cells * TRAINING_ROWS_PER_CELL), replace=False)
            index.train(stored.vectors(space, np.sort(sample)))
        else:
            index = before._index
        for start in range(before.rows if before else 0, rows, BLOCK_ROWS):
            index.add(stored.vectors(space, slice(start, min(start + BLOCK_ROWS, rows))))
        return cls(index, rows)

    def candidates(self, stored: Stored, queries: np.ndarray, count: int) -> np.ndarray:
        """Row numbers int64 [m, c] near queries float32 [m, w]; -1 where there are no more."""
        faiss = faiss_library()
        chosen = selection(stored, self.rows)
        width = min(SPREAD * count, self.rows)

        def search(queries, probes):
            options = faiss.SearchParametersIVF(nprobe=probes, sel=chosen)
            return self._index.search(queries, width, params=options)[1]

        cells, wanted = self._index.nlist, min(count, int(stored.alive[: self.rows].sum()))
        probes = min(cells, max(LEAST_PROBES, int(PROBED_SHARE * cells)))
        # the cells looked into first may hold too few rows
        return search_until(search, queries, wanted, probes, cells)

    def arrays(self) -> list[np.ndarray]:
        """What the file holds."""
        faiss = faiss_library()
        index = self._index
        cells = np.empty(self.rows, "<i4")
        codes = np.empty((self.rows, index.code_size), np.uint8)
        for cell in range(index.nlist):
            size = index.invlists.list_size(cell)
            if not size:
                continue
            rows = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
            own = faiss.rev_swig_ptr(index.invlists.get_codes(cell), size * index.code_size)
            cells[rows] = cell
            codes[rows] = own.reshape(size, -1)
        centroids = index.quantizer.reconstruct_n(0, index.nlist)
        return [centroids, faiss.vector_to_array(index.pq.centroids), cells, codes]

    @classmethod
    def load(cls, content: np.ndarray, stored: Stored, space: str, rows: int) -> IvfPq:
        """From the bytes of the file, uint8; ValueError says what is wrong with them."""
        faiss = faiss_library()
        dimension = stored.width(space)
        width = code_bytes(dimension)
        rest = len(content) - 4 * 256 * dimension - rows * (4 + width)
        if rest <= 0 or rest % (4 * dimension):
            raise ValueError(f"{len(content)} bytes are no codes of {rows} rows")
        count = rest // (4 * dimension)
        ends = np.cumsum([rest, 4 * 256 * dimension, 4 * rows])
        centroids, book, cells, codes = np.split(content, ends)
        centroids, book = centroids.view("<f4").reshape(count, dimension), book.view("<f4")
        cells, codes = cells.view("<i4"), codes.reshape(rows, width)
        if not (np.isfinite(centroids).all() and np.isfinite(book).all()):
            raise ValueError("centroids are not finite")
        if cells.min() < 0 or cells.max() >= count:
            raise ValueError("rows lie in cells that are not there")
        index = _empty(dimension, count)
        index.quantizer.add(centroids)
        copy_into(index.pq.centroids, book)
        index.is_trained, index.ntotal = True, rows
        order = np.argsort(cells, kind="stable")
        starts = np.searchsorted(cells[order], np.arange(count + 1))
        for cell in np.flatnonzero(np.diff(starts)).tolist():
            own = order[starts[cell] : starts[cell + 1]].astype(np.int64)
            part = np.ascontiguousarray(codes[own])
            index.invlists.add_entries(cell, len(own), faiss.swig_ptr(own), faiss.swig_ptr(part))
        return cls(index, rows)


def cell_count(rows: int) -> int:
    """About 4 * sqrt(rows): finding the nearest cells costs no more than looking into them."""
    return max(64, int(4 * rows**0.5))


def code_bytes(dimension: int) -> int:
    """One byte for 8 numbers, or the next fewer that divide the dimension."""
    return next(size for size in range(max(1, dimension // 8), 0, -1) if dimension % size == 0)


def _empty(dimension, cells):
    faiss = faiss_library()
    metric = faiss.METRIC_INNER_PRODUCT
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFPQ(quantizer, dimension, cells, code_bytes(dimension), 8, metric)
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, TRAINING_ROWS_PER_CELL
    return index
