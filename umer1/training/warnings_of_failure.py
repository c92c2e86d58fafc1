"""Signs that a run is going wrong, found in its own numbers: pure functions over the lines of its metrics.

A window is the last `WINDOW` logged lines, the start the first `WINDOW`; what compares the two waits for
`2 * WINDOW` lines. Every threshold is a constant here, with its reason; docs/training.md repeats them in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, median

WINDOW = 10

FLAT_GROUPS = 0.5  # half the rollouts carry no gradient: a step costs twice what it teaches
DISC_FALL = 0.05  # five points of hit@1, if that is also three standard errors
LENGTH_GROWTH = (
    1.5  # the released mean is about 400 tokens; GRPO's 1/2048 divisor rewards no length
)
LENGTH_LIMIT = 0.9  # mean length over max_new_tokens: most completions are cut
CUT = 0.1  # a cut completion has no <gen_emb>, so it is noise in the reward
MISSING = 0.1  # such rollouts have no vector: their reward is the format's 0
FORMAT_LOW, FORMAT_FALL = 0.5, 0.2
KL_HIGH = 0.3  # per token, k3; the released run stays in the hundredths
KL_JUMP, KL_JUMP_FLOOR = 10.0, 0.1  # against the window's median, and never below this
LOSS_SPIKE = 2.0  # a line's loss against the median of the window before it
GRADIENT_SPIKE = 10.0
OSCILLATION = (
    0.25  # mean change from line to line over the window's median, while the loss does not fall
)
CHANCE = 3.0  # times 1 / batch_size


@dataclass(frozen=True, slots=True)
class Failure:
    """One sign. `text` says what is seen and what to change."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the checks need to know of the run."""

    stage: str  # sft | rl
    batch_size: int
    max_new_tokens: int = 0  # RL


def find_failures(history: list[dict], limits: Limits) -> list[Failure]:
    """What the newest line of `history` shows; a sign that a line of the same window bears already is left out.

    Args:
        history: rows of `<stage>_metrics.jsonl`, oldest first. A row's "warnings" are the names of what was raised
            there.
    """
    recent = {name for row in history[-WINDOW:-1] for name in row.get("warnings", {})}
    found = []
    for check in CHECKS[limits.stage]:
        name = check.__name__
        if name not in recent and (text := check(history, limits)):
            found.append(Failure(name, text))
    return found


def flat_groups(history: list[dict], limits: Limits) -> str | None:
    """Groups whose rollouts all have the same reward have zero advantage."""
    share = _recent_mean(history, "flat_groups")
    if share is None or share <= FLAT_GROUPS:
        return None
    return (
        f"{share:.0%} of the groups have no variance in their reward and teach nothing: raise `temperature` or "
        f"`generations`, choose harder pairs (a larger `group_size` of one source), or use a graded reward "
        f"(`reward: rank_gap`, not a threshold)"
    )


def disc_decay(history: list[dict], limits: Limits) -> str | None:
    """RL trains only tokens: nothing holds the discriminative vector in place but a small step."""
    before, now = _start_mean(history, "disc_hit"), _recent_mean(history, "disc_hit")
    if before is None or now is None:
        return None
    pairs = WINDOW * limits.batch_size
    spread = math.sqrt((before * (1 - before) + now * (1 - now)) / pairs)
    if before - now <= max(DISC_FALL, 3 * spread):
        return None
    return (
        f"disc hit@1 has fallen from {before:.1%} to {now:.1%} since the start: lower `optimizer.learning_rate`, raise "
        f"`beta`, stop earlier, or keep the SFT model for the discriminative side"
    )


def runaway_length(history: list[dict], limits: Limits) -> str | None:
    """Completions that grow without end cost time first, then lose their <gen_emb>."""
    before, now = (
        _start_mean(history, "completion_tokens"),
        _recent_mean(history, "completion_tokens"),
    )
    cut = _recent_mean(history, "truncated")
    advice = (
        "add a `length_penalty`, raise `beta`, or lower `temperature`; raise `max_new_tokens` only if the reasoning "
        "itself is good (look at samples.html)"
    )
    if limits.max_new_tokens and now is not None and now > LENGTH_LIMIT * limits.max_new_tokens:
        return f"completions have {now:.0f} tokens of {limits.max_new_tokens} on average: {advice}"
    if cut is not None and cut > CUT:
        return f"{cut:.0%} of the completions are cut at {limits.max_new_tokens} tokens: {advice}"
    if before and now is not None and now > LENGTH_GROWTH * before:
        return f"completions have grown from {before:.0f} to {now:.0f} tokens: {advice}"
    return None


def missing_gen_emb(history: list[dict], limits: Limits) -> str | None:
    """A completion without its own <gen_emb> has no vector."""
    share = _recent_mean(history, "missing")
    if share is None or share <= MISSING:
        return None
    return (
        f"{share:.0%} of the completions end without <gen_emb>: raise `max_new_tokens` if they are cut, else train SFT "
        f"longer before RL, or raise `format_weight`"
    )


def format_collapse(history: list[dict], limits: Limits) -> str | None:
    """<think>…</think><answer>…<gen_emb> is no longer written."""
    before, now = _start_mean(history, "format"), _recent_mean(history, "format")
    if now is None or not (now < FORMAT_LOW or (before is not None and before - now > FORMAT_FALL)):
        return None
    since = f" (it was {before:.0%} at the start)" if before is not None else ""
    return (
        f"only {now:.0%} of the completions have the format{since}: raise `format_weight` or `beta`, lower "
        f"`optimizer.learning_rate`, or start from a model with more SFT"
    )


def kl_blow_up(history: list[dict], limits: Limits) -> str | None:
    """The policy runs away from the model it started from."""
    values = _values(history, "kl")
    now = _recent_mean(history, "kl")
    before = median(values[-WINDOW - 1 : -1]) if len(values) > WINDOW else None
    jump = before is not None and values[-1] > max(KL_JUMP_FLOOR, KL_JUMP * before)
    if not jump and (now is None or now <= KL_HIGH):
        return None
    seen = f"{values[-1]:.3g} after {before:.3g}" if jump else f"{now:.3g} on average"
    return (
        f"the KL per token to the starting model is {seen}: raise `beta`, lower `optimizer.learning_rate` or "
        f"`optimizer.clip_grad_norm`, or go back to an earlier checkpoint"
    )


def rank_at_chance(history: list[dict], limits: Limits) -> str | None:
    """The generated vectors of a pair find each other no better than by chance."""
    rank = _recent_mean(history, "rank")
    chance = 1 / limits.batch_size
    if rank is None or len(history) < 2 * WINDOW or rank > CHANCE * chance:
        return None
    return (
        f"the rank reward is {rank:.1%}, chance is {chance:.1%}: the starting model's generative vectors do not match; "
        f"train SFT longer, and check that `model` is the SFT checkpoint and that its tokens are the data's"
    )


def gen_at_chance(history: list[dict], limits: Limits) -> str | None:
    """The generative vector does not learn; the discriminative one shows that the data can be learnt."""
    gen, disc = _recent_mean(history, "gen_hit"), _recent_mean(history, "disc_hit")
    chance = 1 / limits.batch_size
    if gen is None or disc is None or len(history) < 2 * WINDOW:
        return None
    if gen > CHANCE * chance or disc <= 2 * CHANCE * chance:
        return None
    return (
        f"gen hit@1 is {gen:.1%} (chance {chance:.1%}) while disc is {disc:.1%}: check that the responses end with "
        f"<gen_emb> and that `generative` is true, then raise `optimizer.learning_rate` or train longer"
    )


def loss_spike(history: list[dict], limits: Limits) -> str | None:
    """One line far above those before it, in the loss or in the gradient."""
    for key, factor in (("total", LOSS_SPIKE), ("gradient_norm", GRADIENT_SPIKE)):
        values = _values(history, key)
        if len(values) <= WINDOW or not _fresh(history, key):
            continue
        before = median(values[-WINDOW - 1 : -1])
        if before > 0 and values[-1] > factor * before:
            return (
                f"{key} is {values[-1]:.3g} after {before:.3g}: if it comes back, lower `optimizer.learning_rate`, lengthen "
                f"`optimizer.warmup_ratio`, or lower `optimizer.clip_grad_norm`; one spike alone is often one odd batch"
            )
    return None


def loss_oscillates(history: list[dict], limits: Limits) -> str | None:
    """The loss swings from line to line and does not fall."""
    values = _values(history, "total")[-2 * WINDOW :]
    if len(values) < 2 * WINDOW:
        return None
    middle = median(values)
    swing = mean(abs(after - before) for before, after in zip(values, values[1:]))
    falling = median(values[WINDOW:]) < 0.97 * median(values[:WINDOW])
    if middle <= 0 or swing <= OSCILLATION * middle or falling:
        return None
    return (
        f"the loss swings by {swing / middle:.0%} from line to line and does not fall: batches of one source are easy or "
        f"hard as a whole, so mix more sources (a smaller `group_size`, a larger `batch_size`); if it still swings, lower "
        f"`optimizer.learning_rate`"
    )


CHECKS = {
    "sft": (loss_spike, loss_oscillates, gen_at_chance),
    "rl": (
        flat_groups,
        disc_decay,
        runaway_length,
        missing_gen_emb,
        format_collapse,
        kl_blow_up,
        rank_at_chance,
    ),
}


def _values(rows: list[dict], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _fresh(history: list[dict], key: str) -> bool:
    return history[-1].get(key) is not None


def _recent_mean(history: list[dict], key: str) -> float | None:
    """Over the last window; None before there is a whole one."""
    values = _values(history[-WINDOW:], key)
    return mean(values) if len(values) == WINDOW else None


def _start_mean(history: list[dict], key: str) -> float | None:
    """Over the first window; None as long as it overlaps the last."""
    if len(history) < 2 * WINDOW:
        return None
    values = _values(history[:WINDOW], key)
    return mean(values) if values else None
