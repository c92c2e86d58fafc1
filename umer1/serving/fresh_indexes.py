"""Indexes that are written to while they are served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umer1.retrieval import VectorIndex

log = logging.getLogger("umer1")
SECONDS = 2.0


async def keep_fresh(indexes: Mapping[str, VectorIndex]) -> None:
    """Every `SECONDS`, until it is cancelled: show what `umer1 index` has added and deleted since.

    An index that is gone, damaged or another one is a warning, once for each reason; what was there
    stays."""
    failing: dict[str, str] = {}
    while indexes:
        await asyncio.sleep(SECONDS)
        for name, index in indexes.items():
            try:
                if await asyncio.to_thread(index.refresh):
                    log.info("index %s: %d items now", name, len(index))
                failing.pop(name, None)
            except (ValueError, OSError) as error:
                if failing.get(name) != str(error):
                    log.warning("index %s: stays as it was: %s", name, error)
                failing[name] = str(error)
