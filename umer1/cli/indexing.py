"""Items into an index: embedded as they come, on the disk every few seconds."""

import time
from collections.abc import Sequence
from pathlib import Path

from umer1.cli.items import REMOTE
from umer1.cli.output import note
from umer1.progress import progress_bar
from umer1.retrieval import VectorIndex

# an add waits for the disk: it is made when so many items have finished, or after so long
ROWS, SECONDS = 256, 5.0
MEDIA = ("image", "images", "video")


def create_or_continue(
    directory: Path,
    embedder,
    *,
    dimension: int | None,
    model: str,
    **settings,
) -> VectorIndex:
    """A new index for an embedder, or the one in `directory` if it was made with the same settings.

    A dimension the checkpoint was not trained for is a warning; whether disc queries may search gen
    items is taken from the checkpoint.
    """
    trained = embedder.model.config
    dimension, cut_from = _dimensions(dimension, embedder.dimension, trained.matryoshka_dimensions)
    settings |= {
        "model": model,
        "dimension": dimension,
        "cut_from": cut_from,
        "aligned": trained.aligned_modes,
    }
    if not VectorIndex.exists(directory):
        return VectorIndex.create(directory, **settings)
    found = VectorIndex.open(directory)
    for name, value in settings.items():
        if (before := getattr(found.manifest, name)) != value:
            raise ValueError(
                f"{directory}: is an index with {name} {before!r}, not {value!r}; delete it to "
                "build it anew"
            )
    return found


def add_items(
    found: VectorIndex,
    embedder,
    ids: Sequence[str],
    items: Sequence[dict],
    *,
    replace: bool = False,
    max_new_tokens: int,
    batch_size: int,
    bad_items: str = "stop",
    show: bool,
) -> None:
    """Embed what the index does not hold (with `replace`: everything) and add it.

    bad_items: "stop" with an error at an item that cannot be used, or "skip" it with a note."""
    if bad_items not in ("stop", "skip"):
        raise ValueError(f"--bad-items: got {bad_items!r}, wants stop or skip")
    skipped = 0

    def skip(number: int, error: Exception) -> None:
        nonlocal skipped
        skipped += 1
        bar.advance(1)
        note(f"skipped {ids[places[number]]}: {error}")

    places = [place for place, name in enumerate(ids) if replace or name not in found]
    if len(places) < len(ids):
        note(f"{found.directory}: {len(ids) - len(places)} of {len(ids)} items are there")
    if places:
        with (
            _Batches(found, replace) as batches,
            progress_bar("index", len(places), unit="items", show=show) as bar,
        ):
            for number, result in embedder.stream(
                [items[place] for place in places],
                mode="both" if len(found.modes) == 2 else found.modes[0],
                numbers=places,
                readout=found.manifest.readout,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                on_bad=skip if bad_items == "skip" else None,
            ):
                place = places[number]
                batches.add(ids[place], entry_of(items[place], result), result)
                bar.advance(1)
    if skipped:
        note(f"{skipped} of {len(places)} items could not be used and are not in the index")
    found.optimize()


def entry_of(item: dict, result) -> dict:
    """What a result shows of an item: its text, where its media are, what the model wrote.

    Files by absolute paths; media that have no address of their own are left out.
    """
    entry = {"text": item["text"]} if item.get("text") else {}
    for key in MEDIA:
        value = item.get(key)
        addresses = [_address(one) for one in (value if isinstance(value, list) else [value])]
        if value and all(addresses):
            entry[key] = addresses if isinstance(value, list) else addresses[0]
    if entry.get("images"):
        entry["image"] = entry["images"][0]
    for name in ("reasoning", "summary"):
        if texts := getattr(result, name):
            entry[name] = texts[0]
    return entry


def _address(value):
    if not isinstance(value, str) or value.startswith("data:"):
        return None
    return value if value.startswith(REMOTE) else str(Path(value).resolve())


def _dimensions(asked, full, trained):
    if asked is None or asked == full:
        return full, None
    if not 1 <= asked < full:
        raise ValueError(f"--dimension: got {asked}, the model's vectors have {full}")
    if asked not in trained:
        sizes = ", ".join(map(str, trained)) or "none"
        note(
            f"warning: the checkpoint was not trained for vectors of {asked} numbers (trained: "
            f"{sizes}); results may be poor"
        )
    return asked, full


class _Batches:
    """Collects items and adds them together; what has finished when a run is stopped is kept."""

    def __init__(self, found, replace):
        self.found, self.replace = found, replace
        self._clear()

    def add(self, identity, entry, result):
        self.ids.append(identity)
        self.entries.append(entry)
        for mode in self.found.modes:
            self.vectors[mode].append(getattr(result, mode)[0])
        if len(self.ids) >= ROWS or time.monotonic() - self.since >= SECONDS:
            self.commit()

    def commit(self):
        import numpy as np

        if self.ids:
            vectors = {mode: np.stack(rows) for mode, rows in self.vectors.items()}
            self.found.add(self.ids, vectors, self.entries, replacing=self.replace)
        self._clear()

    def _clear(self):
        self.ids, self.entries = [], []
        self.vectors = {mode: [] for mode in self.found.modes}
        self.since = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.commit()
