"""One step's numbers as one line of plain text, with units, in an order that a reader of many lines can rely on."""

from __future__ import annotations

import math

# (what is shown, key) in the order of the line; keys that are not here follow under their own names
LOSS_PARTS = (("gen", "gen"), ("disc", "disc"), ("align", "align"))
CROSS_ENTROPY = ("ce_query", "ce_target")
REWARD_PARTS = (
    ("format", "format"),
    ("rank", "rank"),
    ("gap", "gap"),
    ("length", "length_reward"),
)
SHARES = (("flat groups", "flat_groups"), ("no <gen_emb>", "missing"), ("cut", "truncated"))
HITS = (("gen", "gen_hit"), ("disc", "disc_hit"))
SECONDS = (("rollouts", "rollout_seconds"), ("learning", "learn_seconds"))
# in the metrics alone: the line is long enough
UNSHOWN = ("embedding_reward", "reward_std", "reward_seconds", "learned_tokens", "packed_tokens")
UNSHOWN_AT_ZERO = ("align", "length_reward", "clip_fraction", "skipped_pairs", "skipped")
RATES = (("pairs/s", "pairs_per_second"), ("rollouts/s", "rollouts_per_second"), ("tokens/s", "tokens_per_second"))  # fmt: skip


def format_line(
    stage: str,
    step: int,
    total_steps: int,
    numbers: dict[str, float],
    seconds_left: float | None = None,
) -> str:
    """`sft 40/5000 | loss 3.21 (gen 0.812, disc 0.523, ce 0.971 + 0.908) | hit@1 gen 93.8% disc 97.7% | …`.

    Args:
        numbers: by key; any may be missing. Shares and hits are 0 to 1, memory is GiB, rates are per second.
        seconds_left: of the whole run, None: not known yet.
    """
    rest = {
        name: value
        for name, value in numbers.items()
        if name not in UNSHOWN and (value or name not in UNSHOWN_AT_ZERO)
    }
    parts = [
        f"{stage} {step}/{total_steps}" if total_steps else f"{stage} {step}",
        _loss(rest),
        _reward(rest),
        _group("", SHARES, rest, percent),
        _group("hit@1 ", HITS, rest, percent),
        _one("kl ", "kl", rest, number),
        _one("entropy ", "entropy", rest, number),
        _one("", "completion_tokens", rest, number, " tokens/completion"),
        _one("lr ", "learning_rate", rest, lambda value: f"{value:.2e}"),
        _one("scale ", "scale", rest, number),
        _one("grad norm ", "gradient_norm", rest, number),
        *(_one("", key, rest, quantity, f" {unit}") for unit, key in RATES),
        _group("", SECONDS, rest, lambda value: f"{number(value)} s"),
        _one("", "real_token_share", rest, percent, " real tokens"),
        _one("", "memory_gib", rest, number, " GiB"),
    ]
    parts += [f"{name} {number(value)}" for name, value in rest.items()]
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return " | ".join(part for part in parts if part)


def number(value: float) -> str:
    """Three significant digits; what is not finite in capitals, to be seen."""
    if not math.isfinite(value):
        return str(value).upper()
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%" if math.isfinite(value) else str(value).upper()


def quantity(value: float) -> str:
    """1234567 as 1.23M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return number(value)


def duration(seconds: float) -> str:
    """Two units: `2 d 3 h`, `1 h 5 min`, `4 min 10 s`, `9 s`."""
    seconds = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next((i for i, (_, size) in enumerate(units) if seconds >= size), len(units) - 1)
    shown = []
    for name, size in units[first : first + 2]:
        count, seconds = divmod(seconds, size)
        if count or not shown:
            shown.append(f"{count} {name}")
    return " ".join(shown)


def _loss(rest: dict[str, float]) -> str:
    total = rest.pop("total", rest.pop("loss", None))
    if total is None:
        return ""
    terms = [f"{name} {number(rest.pop(key))}" for name, key in LOSS_PARTS if key in rest]
    entropy = [number(rest.pop(key)) for key in CROSS_ENTROPY if key in rest]
    if entropy:
        terms.append("ce " + " + ".join(entropy))
    return f"loss {number(total)}" + (f" ({', '.join(terms)})" if terms else "")


def _reward(rest: dict[str, float]) -> str:
    if "reward" not in rest:
        return ""
    total = number(rest.pop("reward"))
    parts = [f"{name} {number(rest.pop(key))}" for name, key in REWARD_PARTS if key in rest]
    return f"reward {total}" + (f" ({', '.join(parts)})" if parts else "")


def _group(title: str, names, rest: dict[str, float], shown) -> str:
    parts = [f"{name} {shown(rest.pop(key))}" for name, key in names if key in rest]
    return title + " ".join(parts) if parts else ""


def _one(before: str, key: str, rest: dict[str, float], shown, after: str = "") -> str:
    return f"{before}{shown(rest.pop(key))}{after}" if key in rest else ""
