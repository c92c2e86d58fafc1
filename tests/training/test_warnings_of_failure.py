"""Every sign of failure on a made-up curve that shows it, and silence on one that does not."""

import math

import pytest

from umer1.training.warnings_of_failure import WINDOW, Limits, find_failures

SFT, RL = Limits("sft", 64), Limits("rl", 16, max_new_tokens=100)


def curve(lines=3 * WINDOW, **keys):
    """Rows of a run; each key is a constant or a function of 0..1, the share of the run that is over."""
    value = lambda of, at: of(at) if callable(of) else of
    return [
        {"step": line + 1} | {key: value(of, line / (lines - 1)) for key, of in keys.items()}
        for line in range(lines)
    ]


def names(history, limits):
    return {failure.name for failure in find_failures(history, limits)}


def good_sft(**changes):
    return curve(**{"total": lambda at: 6 - 3 * at + 0.1 * math.sin(60 * at), "gradient_norm": 1.0,
                    "gen_hit": lambda at: at, "disc_hit": lambda at: at} | changes)  # fmt: skip


def test_the_disc_vectors_alone_are_no_failure_of_the_others():
    history = good_sft()
    for row in history:
        del row["gen_hit"]
    assert names(history, SFT) == set()


def good_rl(**changes):
    return curve(**{"flat_groups": 0.2, "disc_hit": 0.8, "completion_tokens": 40.0, "truncated": 0.0, "missing": 0.02,
                    "format": 0.97, "kl": 0.01, "rank": 0.6, "total": 0.0} | changes)  # fmt: skip


def test_healthy_runs_are_silent_at_every_line():
    for history, limits in ((good_sft(), SFT), (good_rl(), RL)):
        assert not any(names(history[:count], limits) for count in range(1, len(history) + 1))


@pytest.mark.parametrize("change, name", [
    (dict(flat_groups=0.6), "flat_groups"),
    (dict(disc_hit=lambda at: 0.9 - 0.4 * at), "disc_decay"),
    (dict(completion_tokens=lambda at: 30 + 40 * at), "runaway_length"),
    (dict(completion_tokens=95.0), "runaway_length"),
    (dict(truncated=0.2), "runaway_length"),
    (dict(missing=0.2), "missing_gen_emb"),
    (dict(format=lambda at: 0.97 - 0.3 * at), "format_collapse"),
    (dict(format=0.4), "format_collapse"),
    (dict(kl=0.5), "kl_blow_up"),
    (dict(kl=lambda at: 0.01 if at < 1 else 0.15), "kl_blow_up"),
    (dict(rank=0.1), "rank_at_chance"),
])  # fmt: skip
def test_each_sign_of_rl(change, name):
    assert names(good_rl(**change), RL) == {name}


@pytest.mark.parametrize("change, name", [
    (dict(total=lambda at: 3.0 if at < 1 else 7.0), "loss_spike"),
    (dict(gradient_norm=lambda at: 1.0 if at < 1 else 12.0), "loss_spike"),
    (dict(total=lambda at: 3.0 + round(29 * at) % 2), "loss_oscillates"),
    (dict(gen_hit=1 / 64, disc_hit=0.7), "gen_at_chance"),
])  # fmt: skip
def test_each_sign_of_sft(change, name):
    assert names(good_sft(**change), SFT) == {name}


@pytest.mark.parametrize("change", [
    dict(disc_hit=lambda at: 0.80 - 0.04 * at),  # less than five points
    dict(disc_hit=lambda at: 0.55 - 0.10 * at),  # less than three standard errors of 160 pairs
    dict(kl=lambda at: 0.001 if at < 1 else 0.05),  # fifty times more, and still small
    dict(completion_tokens=lambda at: 40 + 15 * at),
])  # fmt: skip
def test_noise_is_no_sign(change):
    assert not names(good_rl(**change), RL)


def test_oscillation_while_the_loss_falls_is_no_sign():
    falling = good_sft(total=lambda at: (6 - 4 * at) * (1 + 0.2 * (-1) ** round(29 * at)))
    assert "loss_oscillates" not in names(falling, SFT)


def test_nothing_is_said_before_there_is_a_window():
    assert not names(good_rl(missing=1.0, format=0.0)[: WINDOW - 1], RL)
    assert names(good_rl(missing=1.0, format=0.0)[:WINDOW], RL) == {
        "missing_gen_emb",
        "format_collapse",
    }


def test_a_sign_is_raised_once_per_window():
    history, raised = good_rl(missing=0.5), []
    for count in range(1, len(history) + 1):
        found = find_failures(history[:count], RL)
        if found:
            history[count - 1]["warnings"] = {failure.name: failure.text for failure in found}
            raised.append(count)
    assert raised == [WINDOW, 2 * WINDOW, 3 * WINDOW]


def test_values_that_are_not_numbers_are_left_out():
    history = good_sft()
    history[-1]["total"] = None
    assert not names(history, SFT)


def test_the_text_says_what_is_seen_and_what_to_change():
    (failure,) = find_failures(good_rl(flat_groups=0.75), RL)
    assert failure.text.startswith("75% of the groups") and "`temperature`" in failure.text
