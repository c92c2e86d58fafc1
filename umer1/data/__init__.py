"""Training records, the registry of data sets, and the miniature benchmark.

`records` and `registry` need nothing beyond PyYAML; `mini` needs the packages of the `data` extra.
"""

from umer1.data.records import Pair, RecordError, Side, missing_media, read_rl, read_sft
from umer1.data.registry import Entry, load_registry, read_datasets

__all__ = [
    "Entry",
    "Pair",
    "RecordError",
    "Side",
    "load_registry",
    "missing_media",
    "read_datasets",
    "read_rl",
    "read_sft",
]
