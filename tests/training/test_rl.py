"""The RL run: rounds of rollouts and updates, and the released code's hazards."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from umer1.embedder import Embedder
from umer1.training import policy_update, rl, rollouts
from umer1.training.policy_forward import Objective, RLForward
from umer1.training.rl_prompts import (
    PromptEncoder,
    PromptPair,
    prompt_batches,
    prompt_loader,
    rl_prompt,
)
from umer1.training.rollout_pack import RolloutGroup, pack_rollouts
from umer1.training.rollout_share import RolloutShare
from umer1.training.start import open_pairs, start

CPU = torch.device("cpu")
ALONE = RolloutShare(0, 1, 0, 1, 3, None)  # in one process, with three generations


@pytest.fixture
def world(rl_config):
    pairs = open_pairs(rl_config, "rl")
    model, processor = start(rl_config, pairs)
    return model, processor, pairs


def _metrics(path):
    return [
        json.loads(line) for line in (path.parent / "rl_metrics.jsonl").read_text().splitlines()
    ]


def _prompt_pairs(pairs, processor):
    return [
        PromptPair(
            place, *(rl_prompt(side, processor) for side in (pair.query, pair.target)), "r", pair
        )
        for place, pair in enumerate(pairs)
    ]


def _weights(path):
    return Embedder.load(path, device="cpu").model.state_dict()


def test_a_run_trains_logs_and_saves(rl_config):
    path = rl.run(rl_config, progress=False)
    rows = _metrics(path)
    assert [row["step"] for row in rows] == [1, 2]
    wanted = {"loss", "reward", "format", "rank", "gap", "kl", "clip_fraction", "entropy", "missing",
              "flat_groups", "completion_tokens", "rollout_seconds", "reward_seconds",
              "learn_seconds", "rollouts_per_second"}  # fmt: skip
    assert wanted <= set(rows[0])
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy still is its reference
    Embedder.load(path, device="cpu")


@pytest.fixture
def noisy_rewards(monkeypatch):
    """A model of random weights writes nothing good: rewards that differ, the same in every run."""
    score = rollouts.score

    def noisy(query, target, texts, config, group):
        found = score(query, target, texts, config, group)
        total = torch.tensor(
            [[[sum(each.tokens) % 7 / 7 for each in row.rollouts] for row in side] for side in (query, target)]
        )  # fmt: skip
        total[0, 0] = 0.5
        advantage = torch.stack([rollouts_advantage(side) for side in total])
        return found._replace(
            total=total, advantage=advantage, std=total.std(2), flat=total.std(2) < 1e-6
        )

    from umer1.training.objectives import group_advantage as rollouts_advantage

    monkeypatch.setattr(rollouts, "score", noisy)


def test_several_updates_clip_against_the_policy_that_sampled(
    rl_config, noisy_rewards, monkeypatch
):
    """Old log-probabilities are the first update's own; the first update has none and makes no extra forward."""
    seen = []

    class Spy(RLForward):
        def __call__(self, model):
            outputs = super().__call__(model)
            seen.append((self.old_logprob, outputs.logprob, float(outputs.clipped)))
            return outputs

    monkeypatch.setattr(policy_update, "RLForward", Spy)
    config = replace(rl_config, steps=6, updates_per_rollout=3, save_every=3)
    config.optimizer.learning_rate, config.optimizer.warmup_ratio = 5e-2, 0.0
    path = rl.run(config, progress=False)
    assert [row["step"] for row in _metrics(path)] == [3, 6]
    assert len(seen) == 6
    for first in (0, 3):
        (none, sampled, clipped), *later = seen[first : first + 3]
        assert none is None and len(sampled) and clipped == 0
        assert all(old is sampled and not len(fresh) for old, fresh, _ in later)
    assert sum(clipped for *_, clipped in seen) > 0


def test_flat_groups_are_left_out_and_without_kl_nothing_changes(rl_config, noisy_rewards):
    config = replace(rl_config, beta=0.0, steps=1)
    paths = [
        rl.run(replace(config, skip_flat_groups=skip, output=f"{config.output}{skip}"), progress=False)
        for skip in (False, True)
    ]  # fmt: skip
    rows = [_metrics(path)[0] for path in paths]
    assert rows[0]["flat_groups"] == rows[1]["flat_groups"] > 0
    assert rows[1]["learned_tokens"] < rows[0]["learned_tokens"]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], abs=1e-8)
    assert rows[1]["gradient_norm"] == pytest.approx(rows[0]["gradient_norm"], rel=1e-4)
    first, second = map(_weights, paths)
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=2e-6, rtol=0, msg=name)


def test_a_round_in_which_every_group_is_flat_still_steps(rl_config, monkeypatch):
    score = rollouts.score
    monkeypatch.setattr(
        rollouts,
        "score",
        lambda *arguments: (lambda found: found._replace(flat=torch.ones_like(found.flat)))(
            score(*arguments)
        ),
    )
    path = rl.run(replace(rl_config, skip_flat_groups=True, steps=1), progress=False)
    row = _metrics(path)[0]
    assert row["learned_tokens"] == row["loss"] == row["gradient_norm"] == 0


def test_changing_the_video_changes_its_log_probabilities(world):
    """Hazard H14: the release's log-prob and reward forwards never see the video."""
    model, processor, pairs = world
    side = next(pair.query for pair in pairs if pair.query.video)
    prompts = [rl_prompt(one, processor) for one in (side, replace(side, video=side.video[::-1]))]
    assert all(int(prompt.media_mask.sum()) > 0 for prompt in prompts)
    assert torch.equal(prompts[0].input_ids, prompts[1].input_ids)
    found = []
    for prompt in prompts:
        part = pack_rollouts(
            [RolloutGroup(prompt, [torch.tensor([7, 8, 9])], [1.0])], CPU, 2, share=True
        )
        outputs = RLForward(part, _objective(1), want_logprob=True)(model)
        outputs.loss.backward()
        found.append(outputs.logprob)
    assert not torch.allclose(*found, atol=1e-4)
    assert model.vision.patch_embed.weight.grad.any()


def test_log_probabilities_of_a_video_rollout_equal_the_engines(world, rl_config):
    model, processor, pairs = world
    chosen = _prompt_pairs([pair for pair in pairs if pair.query.video][:2], processor)
    results = rollouts._generate(
        model,
        processor,
        rollouts._prompts(0, chosen, processor, rl_config),
        replace(rl_config, temperature=0.7),
        3,
        ALONE,
    )
    for prompt, result in zip([chosen[0].query, chosen[1].query], results):
        tokens = [torch.tensor(each.tokens) for each in result.rollouts]
        group = RolloutGroup(prompt, tokens, [0.0] * len(tokens))
        objective = replace(_objective(1), temperature=0.7)
        part = pack_rollouts([group], CPU, 2, share=True)
        got = RLForward(part, objective, want_logprob=True)(model).logprob
        wanted = torch.tensor([value for each in result.rollouts for value in each.logprobs])
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_rollouts_after_an_update_of_the_vision_tower_see_its_new_weights(world, rl_config):
    """Hazard H22: visual features kept from before the update would be stale."""
    model, processor, pairs = world
    chosen = [_prompt_pairs([pair for pair in pairs if pair.query.video][:2], processor)]
    roll = lambda: rollouts.roll_out(model, processor, chosen, rl_config, seed=1)  # noqa: E731
    before, again = roll(), roll()
    with torch.no_grad():
        model.vision.merger.fc2.weight.add_(torch.randn_like(model.vision.merger.fc2.weight))
    after = roll()
    tokens = [[each.tolist() for each in batch.groups[0].completions] for batch in (before, again, after)]  # fmt: skip
    assert tokens[0] == tokens[1] != tokens[2]


def test_text_pairs_and_sampled_placeholders_train(world):
    """Hazard H17 (no media on either side), and placeholder ids the model samples are text."""
    model, processor, pairs = world
    pair = next(pair for pair in pairs if pair.dataset == "texts")
    ids = [processor.image_pad_id, processor.video_pad_id, processor.image_pad_id, processor.eos_id]
    group = RolloutGroup(rl_prompt(pair.query, processor), [torch.tensor(ids)], [1.0])
    loss = RLForward(pack_rollouts([group], CPU, 2, share=True), _objective(1))(model).loss
    assert float(loss.detach()) == pytest.approx(-len(ids) / 2048, rel=1e-4)


def test_rollouts_of_a_group_differ_and_belong_to_their_pair(world, rl_config):
    """Hazard H21: the release sets only the temperature; a checkpoint's top_k=1 would make all eight equal. And a
    pair's rollouts are the same on whatever process they are made."""
    model, processor, pairs = world
    chosen = _prompt_pairs(list(pairs)[:4], processor)
    runs = [
        rollouts.roll_out(model, processor, [part], rl_config, seed=5)
        for part in (chosen, chosen, chosen[2:])
    ]
    tokens = [[[ids.tolist() for ids in each.completions] for each in run.groups] for run in runs]
    assert tokens[0] == tokens[1]
    assert len({tuple(ids) for ids in tokens[0][0]}) > 1
    assert tokens[2] == [*tokens[0][2:4], *tokens[0][6:8]]


def test_samples_to_read_have_the_parts_of_their_reward(world, rl_config):
    model, processor, pairs = world
    batch = rollouts.roll_out(
        model, processor, [_prompt_pairs(list(pairs)[:3], processor)], rl_config, seed=5, samples=2
    )
    assert len(batch.samples) == 2 * 2 * rl_config.generations
    row = batch.samples[0]
    assert row["side"] == "query" and "What is number" in row["prompt"]
    assert row["reward"] == pytest.approx(row["format"] + row["rank"] * row["gap"], abs=1e-6)


def test_prompts_of_an_epoch_come_once_and_long_ones_are_refused(world, rl_config):
    """Hazard H20: the release ignores max_prompt_length, and drops incomplete chunks of the file."""
    from umer1.training.batching import GroupedBatches

    _, processor, pairs = world
    batches = GroupedBatches([pair.dataset for pair in pairs], 3, 1, seed=1)
    ranks = [
        prompt_batches(
            prompt_loader(
                pairs, batches, processor, rl_config, 0, RolloutShare(rank, 3, 0, 1, 3, None)
            )
        )  # fmt: skip
        for rank in range(3)
    ]
    seen = sorted(pair.where for _ in range(len(pairs) // 3) for each in ranks for pair in next(each))  # fmt: skip
    assert len(seen) == len(pairs) // 3 * 3 == len(set(seen))
    with pytest.raises(ValueError, match=r"record 2 .*max_prompt_tokens 5"):
        PromptEncoder(processor, 5)(pairs[2], pairs.where(2))


def _objective(completions: int) -> Objective:
    return Objective(completions, 2048.0, False, (0.2, 0.28), 0.04, 1.0)


def test_a_killed_run_resumes_to_the_same_weights(rl_config, noisy_rewards, monkeypatch):
    """Two updates per round of rollouts: the checkpoint stands between rounds."""
    config = replace(rl_config, steps=8, updates_per_rollout=2, save_every=4)
    config.optimizer.learning_rate = 1e-3
    wanted = rl.run(config, progress=False)
    config = replace(config, output=f"{config.output}-killed")
    calls, roll_out = [], rl.roll_out

    def killed(*arguments, **named):
        calls.append(named["seed"])
        if len(calls) == 4:
            raise RuntimeError("killed")
        return roll_out(*arguments, **named)

    monkeypatch.setattr(rl, "roll_out", killed)
    with pytest.raises(RuntimeError, match="killed"):
        rl.run(config, progress=False)
    got = rl.run(config, progress=False)
    assert calls[4] == calls[2]  # the third round again
    for name, weight in _weights(wanted).items():
        assert torch.equal(_weights(got)[name], weight), name
    timed = ("seconds", "per_second", "memory")
    for row, other in zip(_metrics(wanted), _metrics(got), strict=True):
        for name in row:
            assert any(word in name for word in timed) or other[name] == row[name], name


def test_adapters_train_with_the_model_itself_as_reference(rl_config, noisy_rewards):
    settings = replace(rl_config.lora, rank=2)
    config = replace(
        rl_config, reference="lora", lora=settings, freeze_vision=True, freeze_merger=True
    )
    config.optimizer.learning_rate, config.optimizer.warmup_ratio = 1e-1, 0.0
    rows = _metrics(rl.run(config, progress=False))
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[0]["gradient_norm"] > 0
    assert rows[1]["kl"] > 1e-6


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps the precision of the first run of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("options", [{}, dict(reference="precomputed", per_length=True)])
def test_bfloat16_training_rolls_out_its_rounded_weights(rl_config, noisy_rewards, options):
    """Autocast on float32 weights: the engine samples from them in bfloat16, a group's policy stays the reference."""
    config = replace(rl_config, mixed_precision="bf16", steps=2, samples_every=1, **options)
    path = rl.run(config, progress=False)
    rows = _metrics(path)
    assert rows[0]["kl"] == pytest.approx(
        0, abs=1e-5
    )  # forwards with and without gradient round differently
    assert rows[0]["gradient_norm"] > 0 and rows[1]["entropy"] > 0
    assert (path.parent / "samples.html").exists()
    assert _weights(path)["decoder.norm.weight"].dtype == torch.float32
