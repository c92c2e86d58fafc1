"""One style for all plots, for a light page and a dark one.

Every colour is a role. Figures are drawn in the light colours; `themed_svg` replaces each by the
page's CSS variable of that role, so the same figure follows the reader's theme.
"""

import io
import re

# role -> colour on a light and on a dark ground
COLORS = {
    "ink": ("#1f2328", "#e6e9ec"),
    "muted": ("#626b75", "#9ca6b1"),
    "grid": ("#e1e4e8", "#30363d"),
    "band": ("#f4f6f8", "#1b2026"),
    "surface": ("#fefefe", "#14171b"),
    "blue": ("#2463b5", "#6ea8f5"),
    "slate": ("#8693a2", "#8291a3"),
    "amber": ("#c07a08", "#e3ac45"),
    "green": ("#2e8557", "#5cc08b"),
    "purple": ("#8b4aa6", "#c491dc"),
    "red": ("#bd4039", "#f0847c"),
    "teal": ("#1c8796", "#55bfce"),
}
MODES = {"disc": "slate", "gen": "blue", "oracle": "amber", "gen-disc": "green"}
RUNS = ("blue", "red", "green", "purple", "teal", "amber")
MARKERS = {"gen": "o", "disc": "D", "oracle": "^", "gen-disc": "s"}


def color(role: str) -> str:
    """The role's colour on a light ground."""
    return COLORS[role][0]


def mode_color(mode: str) -> str:
    return color(MODES.get(mode, "purple"))


def run_color(run: int) -> str:
    return color(RUNS[run % len(RUNS)])


def new_figure(width: float, height: float):
    """A figure of its own, in inches: no pyplot state, no display, nothing left open."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor=color("surface"))


def clean(axes, grid: str = "y", legend=None) -> None:
    """Spines, ticks, grid lines and texts as all plots have them.

    legend: the figure's, where it is not the axes' own.
    """
    axes.set_facecolor(color("surface"))
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(color("muted"))
    axes.tick_params(colors=color("muted"), labelcolor=color("ink"), labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(color("ink"))
        text.set_fontsize(9)
    axes.grid(axis=grid, color=color("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    # names come from data sets: a dollar sign in one is not mathematics
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts]:
        text.set_parse_math(False)
    legend = legend or axes.get_legend()
    for text in legend.get_texts() if legend else ():
        text.set_color(color("ink"))
        text.set_fontsize(8)
        text.set_parse_math(False)


def themed_svg(figure, name: str) -> str:
    """The figure as an <svg> element for a page that defines the variables --ink, --blue, ...

    name: makes its inner ids differ from those of the page's other figures. The same figure gives
    the same bytes.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    # matplotlib repeats each label in a comment
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    # groups are called axes_1, patch_2, ... in every figure; a page may use an id once
    text = re.sub(r'<g id="[A-Za-z0-9.]+_\d+">', "<g>", text)
    text = text.replace("'DejaVu Sans', ", "").replace('"DejaVu Sans", ', "")
    for role, (light, _) in COLORS.items():
        text = text.replace(light, f"var(--{role})")
    return text


def save(figure, path) -> None:
    """Write the figure on a light ground; format by suffix (.png, .svg, .pdf)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
