"""What benches write into the docs."""

from __future__ import annotations

from pathlib import Path

from bench.report import BLOCK


def write_page(page: Path, text: str, name: str) -> None:
    """Put a text between the page's markers of that name. ValueError if it has none."""
    old = page.read_text()
    if not any(block["name"] == name for block in BLOCK.finditer(old)):
        raise ValueError(f"{page} has no markers <!-- begin: {name} --> and <!-- end: {name} -->")
    page.write_text(
        BLOCK.sub(
            lambda block: f"{block[1]}{text}\n{block[4]}" if block["name"] == name else block[0],
            old,
        )
    )
