"""The line of a step, to the letter."""

import math

import pytest

from umer1.training.log_line import duration, format_line, quantity


def test_an_sft_line():
    numbers = {"total": 3.2141, "gen": 0.8123, "disc": 0.5231, "ce_query": 0.97, "ce_target": 0.9087, "gen_hit": 0.9375,
               "disc_hit": 1.0, "learning_rate": 5e-5, "gradient_norm": 1.234, "pairs_per_second": 52.06,
               "tokens_per_second": 18345.0, "real_token_share": 0.9876, "memory_gib": 3.414}  # fmt: skip
    assert format_line("sft", 40, 5000, numbers, seconds_left=3903) == (
        "sft 40/5000 | loss 3.21 (gen 0.812, disc 0.523, ce 0.97 + 0.909) | hit@1 gen 93.8% disc 100.0% | lr 5.00e-05 | "
        "grad norm 1.23 | 52.1 pairs/s | 18.3k tokens/s | 98.8% real tokens | 3.41 GiB | 1 h 5 min left"
    )


def test_an_rl_line():
    numbers = {"loss": -0.0123, "reward": 1.21, "format": 0.98, "rank": 0.62, "gap": 0.314, "flat_groups": 0.125,
               "missing": 0.01, "truncated": 0.0, "disc_hit": 0.85, "kl": 0.00213, "completion_tokens": 412.6,
               "learning_rate": 1e-6, "gradient_norm": 0.4, "rollouts_per_second": 6.21, "memory_gib": 71.3}  # fmt: skip
    assert format_line("rl", 5, 344, numbers) == (
        "rl 5/344 | loss -0.0123 | reward 1.21 (format 0.98, rank 0.62, gap 0.314) | flat groups 12.5% no <gen_emb> 1.0% "
        "cut 0.0% | hit@1 disc 85.0% | kl 0.00213 | 413 tokens/completion | lr 1.00e-06 | grad norm 0.4 | 6.21 rollouts/s | "
        "71.3 GiB"
    )


def test_the_length_part_stands_with_the_rewards_others():
    """Under the name that the rollouts log it by; 0 where it is not asked for."""
    numbers = {"reward": 1.1, "format": 0.9, "rank": 0.5, "gap": 0.25, "length_reward": -0.125}
    assert format_line("rl", 1, 2, numbers) == (
        "rl 1/2 | reward 1.1 (format 0.9, rank 0.5, gap 0.25, length -0.125)"
    )
    assert format_line("rl", 1, 2, numbers | {"length_reward": 0.0}) == (
        "rl 1/2 | reward 1.1 (format 0.9, rank 0.5, gap 0.25)"
    )


def test_a_number_it_does_not_know_is_shown_under_its_own_name_and_nan_is_seen():
    line = format_line("sft", 1, 0, {"total": math.nan, "skipped": 3})
    assert line == "sft 1 | loss NAN | skipped 3"


def test_what_is_switched_off_is_not_shown():
    numbers = {"total": 1.0, "align": 0.0, "skipped_pairs": 0.0, "reward_std": 0.3, "gen_hit": 0.0}
    assert format_line("sft", 1, 2, numbers) == "sft 1/2 | loss 1 | hit@1 gen 0.0%"
    numbers |= {"align": 0.5, "skipped_pairs": 2.0}
    assert format_line("sft", 1, 2, numbers) == (
        "sft 1/2 | loss 1 (align 0.5) | hit@1 gen 0.0% | skipped_pairs 2"
    )


@pytest.mark.parametrize("seconds, text", [
    (0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (7260, "2 h 1 min"), (100000, "1 d 3 h"),
])  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_quantity():
    assert [quantity(value) for value in (0.5, 999, 1000, 1234567, 2e9)] == ["0.5", "999", "1k", "1.23M", "2G"]  # fmt: skip
