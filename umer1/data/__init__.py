"""Training pairs: their formats, the store that reads them, sets by name; the miniature benchmark.

The readers need nothing beyond numpy and PyYAML, VLM2Vec's tables also pyarrow; `mini` needs the
packages of the `data` extra.
"""

from umer1.data.records import Pair, RecordError, Side, missing_media, read_rl, read_sft
from umer1.data.registry import (
    Entry,
    load_registry,
    open_datasets,
    open_rl,
    open_sft,
    read_datasets,
)
from umer1.data.sets import open_set
from umer1.data.store import PairStore

__all__ = [
    "Entry",
    "Pair",
    "PairStore",
    "RecordError",
    "Side",
    "load_registry",
    "missing_media",
    "open_datasets",
    "open_rl",
    "open_set",
    "open_sft",
    "read_datasets",
    "read_rl",
    "read_sft",
]
