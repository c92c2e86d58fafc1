"""Curves of a run, or of several over each other, from their `<stage>_metrics.jsonl`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from umer1.training.metrics_file import read_metrics

# file name: (title, unit of the y axis, keys)
CHARTS = {
    "losses": ("loss", "", ("total", "loss", "gen", "disc", "ce_query", "ce_target", "align")),
    "hits": ("hit@1 in the batch", "share", ("gen_hit", "disc_hit")),
    "rewards": ("reward", "", ("reward", "format", "rank", "gap", "length_reward")),
    "groups": ("rollouts that teach nothing", "share", ("flat_groups", "missing", "truncated")),
    "kl": ("KL to the starting model", "nats per token", ("kl",)),
    "lengths": ("completion length", "tokens", ("completion_tokens",)),
    "throughput": ("throughput", "tokens per second", ("tokens_per_second",)),
    "seconds": ("time of a step's parts", "s", ("rollout_seconds", "learn_seconds")),
    "pairs": ("throughput", "per second", ("pairs_per_second", "rollouts_per_second")),
    "optimizer": ("gradient norm", "", ("gradient_norm",)),
    "memory": ("peak memory of a process", "GiB", ("memory_gib",)),
}
FEWEST_LINES = 10
COLORS = ("#2f6db5", "#e0a030", "#5aa06a", "#a35fa8", "#b5523b", "#6b7785", "#3aa5a5", "#c06090")
STYLES = ("-", "--", ":", "-.")


def plot_runs(runs: list[Path], output: Path) -> list[Path]:
    """Draw every chart that the runs have numbers for; the stages apart, the runs of one stage together.

    Args:
        runs: run directories.
        output: the PNG files go here, `<stage>-<chart>.png`.

    Raises:
        ValueError: a run without metrics, or no matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib, which is not installed (pip install matplotlib)")
    stages: dict[str, list[tuple[str, list[dict]]]] = {}
    names = _names(runs)
    for run, name in zip(runs, names):
        files = sorted(run.glob("*_metrics.jsonl"))
        if not files:
            raise ValueError(f"{run}: has no metrics (a run directory holds sft_metrics.jsonl or rl_metrics.jsonl)")  # fmt: skip
        for file in files:
            stage = file.name.removesuffix("_metrics.jsonl")
            stages.setdefault(stage, []).append((name, read_metrics(file)))
    output.mkdir(parents=True, exist_ok=True)
    made = [
        _draw(curves, stage, chart, output / f"{stage}-{chart}.png")
        for stage, curves in stages.items()
        for chart in CHARTS
    ]
    return [path for path in made if path is not None]


def plot_at_end(run_dir: Path) -> list[Path]:
    """The run's own plots, in `plots/`; without matplotlib a line that says so.

    Nothing is drawn of a run of fewer than `FEWEST_LINES` logged lines.
    """
    if max(len(read_metrics(file)) for file in run_dir.glob("*_metrics.jsonl")) < FEWEST_LINES:
        return []
    if find_spec("matplotlib") is None:
        print("matplotlib is not installed: no plots (umer1 train plot makes them later)", flush=True)  # fmt: skip
        return []
    return plot_runs([run_dir], run_dir / "plots")


def _draw(curves: list[tuple[str, list[dict]]], stage: str, chart: str, path: Path) -> Path | None:
    title, unit, keys = CHARTS[chart]
    lines = [
        (name, key, steps, values)
        for name, rows in curves
        for key in keys
        if (points := [(row["step"], row[key]) for row in rows if row.get(key) is not None])
        for steps, values in [zip(*points)]
    ]
    if not lines:
        return None
    # a figure of its own: no pyplot state, no display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name, _ in curves]
    shown = [key for key in keys if any(key == line[1] for line in lines)]
    for name, key, steps, values in lines:
        # one run: a colour per number; several: a colour per run, a dash per number
        color = shown.index(key) if len(names) == 1 else names.index(name)
        style = 0 if len(names) == 1 else shown.index(key)
        label = key if len(names) == 1 else name if len(shown) == 1 else f"{name}: {key}"
        axes.plot(
            steps,
            values,
            label=label,
            color=COLORS[color % len(COLORS)],
            linestyle=STYLES[style % len(STYLES)],
            linewidth=1.4,
            marker="." if len(steps) < 30 else "",
        )
    _mark_warnings(axes, curves)
    axes.set(title=f"{stage}: {title}", xlabel="step", ylabel=unit)
    if unit == "share":
        axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def _mark_warnings(axes, curves: list[tuple[str, list[dict]]]) -> None:
    """A thin line where a warning was raised; only where one run is shown, or it says nothing."""
    if len(curves) > 1:
        return
    for row in curves[0][1]:
        if row.get("warnings"):
            axes.axvline(row["step"], color="#b5523b", alpha=0.35, linewidth=0.8)


def _names(runs: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part)} ({number})" for number, part in enumerate(parts, 1)]
