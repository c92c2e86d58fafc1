"""PNGs from result rows: how time and memory grow with the number of pairs, and how near every case is to the floor."""

from __future__ import annotations

from pathlib import Path

from bench.case import OURS
from bench.runner import Row

GIB = 2**30


def plot(rows: list[Row], folder: Path) -> list[Path]:
    """Write what the rows allow and return the paths: `scaling-<device>.png`, `floor-<device>.png`.

    Raises:
        ImportError: matplotlib is missing.
    """
    import matplotlib

    matplotlib.use("Agg")
    written = []
    for name, _ in drawable(rows):
        kind, _, device = name.removesuffix(".png").partition("-")
        good = [row for row in rows if row["device"] == device and row["status"] == "ok"]
        folder.mkdir(parents=True, exist_ok=True)
        # without the name of the program that wrote it: the same rows give the same file
        DRAWN[kind][0](good).savefig(folder / name, dpi=75, bbox_inches="tight", metadata={"Software": None})  # fmt: skip
        written.append(folder / name)
    return written


def drawable(rows: list[Row]) -> list[tuple[str, str]]:
    """(file name, what it shows) of every plot that these rows allow."""
    found = []
    for device in sorted({row["device"] for row in rows}):
        good = [row for row in rows if row["device"] == device and row["status"] == "ok"]
        if _kinds(good):
            found.append((f"scaling-{device}.png", DRAWN["scaling"][1]))
        if any(row.get("percent_of_floor") is not None for row in good):
            found.append((f"floor-{device}.png", DRAWN["floor"][1]))
    return found


def _kinds(rows: list[Row]) -> list[tuple[int, str]]:
    """Directions and dtype of the InfoNCE cases that were measured at two sizes at least."""
    sizes: dict[tuple[int, str], set[int]] = {}
    for row in rows:
        if row["suite"] == "info_nce" and row["variant"] == OURS:
            kind = row["sizes"]["directions"], row["dtype"]
            sizes.setdefault(kind, set()).add(row["sizes"]["N"])
    return sorted(kind for kind, counts in sizes.items() if len(counts) > 1)


def _scaling(rows: list[Row]):
    """Milliseconds and peak memory of every variant, and the floor; one row per direction and dtype."""
    from matplotlib.figure import Figure

    rows, kinds = [row for row in rows if row["suite"] == "info_nce"], _kinds(rows)
    figure = Figure(figsize=(11, 4 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), 2, squeeze=False)
    for (directions, dtype), (time_axis, memory_axis) in zip(kinds, axes):
        here = [
            row for row in rows if (row["sizes"]["directions"], row["dtype"]) == (directions, dtype)
        ]
        for variant in sorted(
            {row["variant"] for row in here}, key=lambda name: (name != OURS, name)
        ):
            own = sorted(
                (row for row in here if row["variant"] == variant),
                key=lambda row: row["sizes"]["N"],
            )
            style = {"marker": "o", "linewidth": 2.5 if variant == OURS else 1.0, "label": variant}
            counts = [row["sizes"]["N"] for row in own]
            time_axis.plot(counts, [row["median_ms"] for row in own], **style)
            peaks = [(n, row["peak_bytes"]) for n, row in zip(counts, own) if row.get("peak_bytes")]
            if peaks:
                memory_axis.plot(*zip(*[(n, peak / GIB) for n, peak in peaks]), **style)
        floor = sorted({(row["sizes"]["N"], row["floor_ms"]) for row in here})
        time_axis.plot(*zip(*floor), "k--", label="matrix products alone")
        title = f"InfoNCE, {'symmetric' if directions == 2 else 'one-way'}, {dtype}"
        sizes = sorted({row["sizes"]["N"] for row in here})
        _finish(time_axis, f"{title}: time", "ms", sizes)
        _finish(memory_axis, f"{title}: peak memory beyond inputs and gradients", "GiB", sizes)
    return figure


def _finish(axis, title: str, unit: str, sizes: list[int]) -> None:
    axis.set(title=title, xlabel="N = M", ylabel=unit, xscale="log", yscale="log")
    axis.title.set_fontsize(9)
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.set_xticks([], minor=True)
    axis.grid(True, which="both", alpha=0.25)
    if axis.has_data():
        axis.legend(fontsize=7)


def _floor(rows: list[Row]):
    """Bars: ours and the best peer of every case, percent of the time of the products alone."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.get("percent_of_floor") is not None]
    names = list(dict.fromkeys(f"{row['suite']} {row['case']}" for row in rows))
    figure = Figure(figsize=(9, 0.45 * len(names) + 1.5))
    axis = figure.subplots()
    for place, name in enumerate(names):
        here = [row for row in rows if f"{row['suite']} {row['case']}" == name]
        ours = [row for row in here if row["variant"] == OURS]
        peers = [row for row in here if row["variant"] == row.get("best_peer")]
        for row, offset, colour in [(r, -0.2, "tab:blue") for r in ours] + [
            (r, 0.2, "tab:gray") for r in peers
        ]:
            axis.barh(place + offset, row["percent_of_floor"], height=0.38, color=colour)
            text = f" {row['percent_of_floor']:.0f}  {row['variant']}"
            axis.text(row["percent_of_floor"], place + offset, text, va="center", fontsize=7)
    axis.axvline(100, color="black", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 130)
    axis.set_xlabel("percent of the matrix products' own speed (100 = nothing but products)")
    return figure


# kind -> how it is drawn, and what it shows
DRAWN = {
    "scaling": (_scaling, "InfoNCE: time and peak memory over the number of pairs"),
    "floor": (_floor, "percent of the matrix products' own speed, ours and the best peer"),
}
