"""The training benches: the released trainers' losses are ours, operations add up, hours follow from rates."""

import pytest
import torch

from bench import claims, gpu, guard, report
from bench.case import OURS, errors, step
from bench.peers import released_rl, released_sft
from bench.steps import Step
from bench.suites import MODULES, cases
from bench.training import table
from bench.training.flops import rl_flop, sft_flop
from bench.training.ours import OurRL, OurSFT
from bench.training.workload import SIDES, TINY_KINDS, TrainingWorkload


@pytest.fixture(scope="module")
def pairs():
    return TrainingWorkload("tiny", 3, kinds=TINY_KINDS, dtype=torch.float32, mean_length=20)


@pytest.fixture(scope="module")
def prompts():
    return TrainingWorkload("tiny", 2, 3, TINY_KINDS, torch.float32, mean_length=20)


def test_sft_losses_and_gradient_norm_are_those_of_the_released_trainer(pairs):
    found = OurSFT(pairs).step()
    assert (
        found[:2].min() > 0.1 and found[2:4].min() > 5
    )  # contrastive terms, log of the vocabulary
    for rows in (1, 3):  # padding makes no difference
        torch.testing.assert_close(released_sft.step(pairs, rows), found, atol=1e-4, rtol=1e-4)
    cached = OurSFT(pairs, microbatch_tokens=400)
    assert len(cached.batch.parts) > 1
    torch.testing.assert_close(cached.step(), found, atol=1e-4, rtol=1e-4)


def test_rl_rewards_loss_and_gradient_norm_are_those_of_the_released_trainer(prompts):
    found = OurRL(prompts).step()
    gaps, rewards = found[:-2].view(2, 2, 2, 3)
    assert len({round(value, 5) for value in gaps.flatten().tolist()}) == 12
    assert len({round(value, 5) for value in rewards.flatten().tolist()}) > 4
    assert found[-1] > 1e-3  # something is learned
    for rows in (2, 6):
        theirs = released_rl.step(prompts, rows)
        torch.testing.assert_close(theirs, found, atol=1e-5, rtol=1e-3)
    true = released_rl.true_scores(prompts)
    torch.testing.assert_close(found[:-2].double(), true, atol=1e-5, rtol=1e-3)


def test_steps_leave_everything_as_it_was(pairs):
    ours = OurSFT(pairs)
    before = [parameter.clone() for parameter in pairs.model.parameters()]
    first = ours.step()
    assert torch.equal(first, ours.step())
    assert all(map(torch.equal, before, pairs.model.parameters()))
    assert all(float(each.grad.abs().sum()) == 0 for each in pairs.model.parameters() if each.requires_grad)  # fmt: skip


def test_a_peer_whose_losses_are_off_is_not_timed(pairs):
    case = next(case for case in cases("cpu", quick=True, suites=["train_sft"]))
    problem = case.build(torch.device("cpu"))
    right = step(case.variants(torch.device("cpu"))[1].function, problem)
    expected = case.truth(problem)
    assert errors(right, expected)["output"] <= case.peer_tolerance == 1e-4
    wrong = {"output": right["output"] * torch.tensor([1, 1, 1, 0.99, 1])}
    assert errors(wrong, expected)["output"] > case.peer_tolerance


def test_operations_are_six_per_weight_and_token_where_everything_is_trained(pairs):
    config = pairs.config
    layers = sum(each.numel() for each in pairs.model.decoder.layers.parameters() if each.dim() > 1)
    supervised = sum(len(response) for side in SIDES for response in pairs.responses[side])
    products = 6 * layers * pairs.tokens + 6 * supervised * config.hidden_size * config.vocab_size
    merger = sum(each.numel() for each in pairs.model.vision.merger.parameters() if each.dim() > 1)
    visual = sum(int(each.media_mask.sum()) for side in SIDES for each in pairs.prompts[side])
    assert (
        products + 6 * merger * visual < sft_flop(pairs) < 1.35 * products
    )  # attention, the frozen tower


def test_operations_of_rl_count_a_prompt_once(prompts):
    wider = TrainingWorkload("tiny", 2, 6, TINY_KINDS, torch.float32, mean_length=20)
    assert rl_flop(prompts) < rl_flop(wider) < 2 * rl_flop(prompts)


def _row(suite, variant, seconds, **more):
    sizes = {"model": "2b", "pairs": 16, "tokens": 32000, "flop": 4 * 10**14}
    return {
        "suite": suite, "case": "pairs-16-2b-bf16", "variant": variant, "family": variant, "status": "ok",
        "device": "cuda", "hardware": "NVIDIA H200", "sizes": sizes, "median_ms": seconds * 1e3, "p20_ms": seconds * 1e3,
        "p80_ms": seconds * 1e3, "errors": {"output": 1e-3}, "threads": 8, "torch": "2.11", "triton": "3.6", "commit": "c",
        **more,
    }  # fmt: skip


def test_the_recipe_follows_from_the_rates():
    rows = [_row("train_sft", OURS, 1.0), _row("train_sft", "released-b4", 4.0)]
    [line] = table.recipe_lines(rows)
    assert line[:2] == ("SFT", "5,120,000")
    assert [float(line[place]) for place in (2, 3, 4)] == pytest.approx([16, 88.9, 356], rel=0.01)
    assert float(line[6]) == pytest.approx(2336 * 148 / 989.4, rel=0.01)
    assert table.recipe_lines([_row("train_sft", OURS, 1.0, hardware="NVIDIA A100")]) == []
    assert table.mfu(rows[0]) == pytest.approx(100 * 4e14 / 989.4e12)
    assert table.mfu(_row("train_sft", OURS, 1.0, hardware="AMD EPYC")) is None
    assert table.mfu(_row("train_sft", OURS, 1.0, hardware="NVIDIA H20")) > 200  # not an H200


def test_rows_and_aims_are_in_the_report():
    rows = [
        _row("train_sft", OURS, 1.0, speedup={"released-b4": 4.0}),
        _row("train_sft", "released-b4", 4.0),
    ]
    text = report.train_table(report.Found("cuda", rows, []))
    assert (
        "| sft pairs-16-2b-bf16 | **umer1** | 1.00 (1.00 to 1.00) | 16.0 | 32000 | - | 40 |" in text
    )
    assert "| released-b4 | 4.00 (4.00 to 4.00) | 4.00 | 8000 | 4.00 | 10 |" in text
    assert "train_sft" not in report.rows_table(report.Found("cuda", rows, []))
    found = {
        verdict.claim.what: verdict.measured
        for verdict in claims.verdicts(rows, "cuda")
        if verdict.claim.case == "pairs-16-2b-bf16"
    }
    assert found["times faster than the released recipe"] == 4.0
    assert found["% of the GPU's peak (MFU)"] == pytest.approx(40.4, abs=0.1)


def test_the_guard_counts_steps_without_compiling_them(monkeypatch):
    monkeypatch.setattr(guard, "graph_breaks", None)
    [case] = cases("cpu", quick=True, suites=["train_sft"])
    found = guard.counts_of(case)
    assert found["dispatches"] > 100 and found["peak_bytes"] > 0 and "graph_breaks" not in found


def test_training_is_a_part_of_the_gpu_suite_of_its_own(monkeypatch):
    asked = {}

    def benches(name, suites, suite, options=()):
        asked[name] = set(suites)
        return Step(name, "ok")

    monkeypatch.setattr(gpu, "_benches", benches)
    parts = ("kernels", "engine", "training")
    for part in parts:
        gpu.PARTS[part](None)
    assert asked["training"] == {"train_sft", "train_rl"}
    assert set().union(*asked.values()) == set(MODULES)
    assert sum(len(asked[part]) for part in parts) == len(MODULES)
