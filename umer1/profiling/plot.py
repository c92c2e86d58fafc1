"""A profile as a roofline plot: FLOPs per byte of each operator against the FLOPs per second it reached."""

from __future__ import annotations

from pathlib import Path

from umer1.profiling.profile import Profile, Row

MOST_LABELS = 8


def save(profile: Profile, path: Path) -> None:
    """Draw to `path`; the format is that of its ending.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in profile.rows if row.flop and row.bytes]
    _roofs(axes, profile, rows)
    for number, row in enumerate(rows):
        x, y = row.flop / row.bytes, row.flop / row.seconds / 1e9
        # the area of a point is its share of the time
        size = 20 + 900 * profile.share(row)
        colour = "tab:blue" if row.bound == "compute" else "tab:orange"
        axes.scatter(x, y, s=size, color=colour, alpha=0.55, linewidth=0, zorder=3)
        if number < MOST_LABELS:
            text = f"{row.operator.split('::')[-1]}  {row.percent_of_roofline:.0f} %"
            axes.annotate(text, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=7)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP per byte, by the models",
        ylabel="GFLOP/s",
        title=f"{profile.request.title}  {profile.request.shape()}",
    )
    axes.title.set_fontsize(9)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.005, profile.hardware, fontsize=6, color="#666666")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _roofs(axes, profile: Profile, rows: list[Row]) -> None:
    bandwidth = profile.roofs.bandwidth / 1e9
    rates = {name: rate / 1e9 for name, rate in profile.roofs.flop_rate.items()}
    intensities = [row.flop / row.bytes for row in rows]
    ridges = [rate / bandwidth for rate in rates.values()]
    left = min([*intensities, *ridges]) / 3
    right = max([*intensities, *ridges]) * 3
    top = max(rates.values())
    axes.plot([left, top / bandwidth], [left * bandwidth, top], color="black", linewidth=1)
    axes.annotate(f"memory {bandwidth:,.0f} GB/s", (left, left * bandwidth), fontsize=7, xytext=(4, 10), textcoords="offset points")  # fmt: skip
    for name, rate in rates.items():
        axes.plot([rate / bandwidth, right], [rate, rate], color="black", linewidth=1)
        axes.annotate(f"{name} {rate:,.0f} GFLOP/s", (right, rate), ha="right", fontsize=7, xytext=(0, 3), textcoords="offset points")  # fmt: skip
    axes.set_xlim(left, right)
