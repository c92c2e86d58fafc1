"""A profile as a roofline plot: FLOPs per byte of each operator against the FLOPs per second it reached."""

from __future__ import annotations

from pathlib import Path

from umer1.profiling.profile import Profile, Row

MOST_POINTS, LEAST_SHARE = 12, 0.002
COLORS = {"compute": "tab:blue", "memory": "tab:orange"}


def save(profile: Profile, path: Path) -> None:
    """Draw to `path`; the format is that of its ending.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    # what computes nothing, such as a copy, has no place in FLOPs
    rows = [row for row in profile.rows if row.flop and row.bytes]
    rows = [row for row in rows if profile.share(row) >= LEAST_SHARE][:MOST_POINTS]
    _roofs(axes, profile, rows)
    for number, row in enumerate(rows, start=1):
        x, y = row.flop / row.bytes, row.flop / row.seconds / 1e9
        text = f"{number}  {row.operator.split('::')[-1][:34]}, {row.stage}: {row.percent_of_roofline:.0f} %"
        # the area of a point is its share of the time
        size = 40 + 1200 * profile.share(row)
        axes.scatter(x, y, s=size, color=COLORS[row.bound], alpha=0.5, linewidth=0, zorder=3, label=text)  # fmt: skip
        axes.annotate(str(number), (x, y), ha="center", va="center", fontsize=7, zorder=4)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP per byte, by the models",
        ylabel="GFLOP/s",
        title=f"{profile.request.title}  {profile.request.shape()}\n{profile.hardware}",
    )
    axes.title.set_fontsize(9)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        legend = axes.legend(
            title="percent of the roofline", fontsize=7, title_fontsize=7, frameon=False,
            loc="upper left", bbox_to_anchor=(1.0, 1.0),
        )  # fmt: skip
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _roofs(axes, profile: Profile, rows: list[Row]) -> None:
    bandwidth = profile.roofs.bandwidth / 1e9
    rates = {name: rate / 1e9 for name, rate in profile.roofs.flop_rate.items()}
    ridges = [rate / bandwidth for rate in rates.values()]
    intensities = [row.flop / row.bytes for row in rows] + ridges
    left, right, top = min(intensities) / 3, max(intensities) * 3, max(rates.values())
    style = {"color": "black", "linewidth": 1, "zorder": 2}
    axes.plot([left, top / bandwidth], [left * bandwidth, top], **style)
    near = {"fontsize": 7, "textcoords": "offset points", "ha": "right"}
    axes.annotate(f"memory {bandwidth:,.0f} GB/s", (min(ridges) / 4, bandwidth * min(ridges) / 4), xytext=(-6, 2), **near)  # fmt: skip
    for name, rate in rates.items():
        axes.plot([rate / bandwidth, right], [rate, rate], **style)
        axes.annotate(f"{name} {rate:,.0f} GFLOP/s", (rate / bandwidth, rate), xytext=(-6, 2), **near)  # fmt: skip
    axes.set_xlim(left, right)
