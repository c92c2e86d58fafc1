"""The RL step: rewards, objective, and the released code's hazards."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from umer1.data.records import Pair, Side
from umer1.embedder import Embedder
from umer1.engine import Generated, Rollout
from umer1.model.sequence import pack
from umer1.training import rl, rollouts
from umer1.training.start import open_pairs, start


@pytest.fixture
def world(rl_config):
    pairs = open_pairs(rl_config, "rl")
    model, processor = start(rl_config, pairs)
    return model, processor, pairs


def _accelerator():
    return SimpleNamespace(device=torch.device("cpu"), backward=lambda loss: loss.backward())


def test_a_run_trains_logs_and_saves(rl_config):
    path = rl.run(rl_config, progress=False)
    rows = [
        json.loads(line) for line in (path.parent / "rl_metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"loss", "reward", "format", "rank", "gap", "kl", "missing", "completion_tokens"} <= set(
        rows[0]
    )
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy still is its reference
    Embedder.load(path, device="cpu")


def test_loss_is_the_mean_of_both_sides_over_the_constant_divisor(world, rl_config, monkeypatch):
    """L = (L_query + L_target) / 2, L_side = mean_i sum_t l / 2048, l = -A + 0.04 k3(ref, policy) when rho = 1."""
    model, processor, pairs = world
    model = model.double()
    reference = start(rl_config, pairs)[0].double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    completions = []
    for number, pair in enumerate(pairs[:3]):
        for side in (pair.query, pair.target):
            prompt = rollouts.rl_prompt(side, processor)
            ids = [5 + number, 6, processor.gen_id, processor.eos_id][: 2 + number]
            completions.append(
                rollouts.Completion(prompt.extend(ids), len(prompt.input_ids), 0.5 - number)
            )
    monkeypatch.setattr(
        rl, "pack", lambda sequences, merge: pack(sequences, merge).to("cpu", torch.float64)
    )
    config = replace(rl_config, microbatch_tokens=100)  # several micro-batches
    numbers = rl._learn(model, model, reference, completions, config, _accelerator(), 1)
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    sides = ([], [])
    for number, each in enumerate(completions):
        packed = pack([each.sequence]).to("cpu", torch.float64)
        ids = each.sequence.input_ids[each.start :]
        read = lambda net: net.logits(net(packed)[each.start - 1 : -1]).double().log_softmax(-1)  # noqa: B023, E731
        logprob = read(model).gather(-1, ids[:, None])[:, 0]
        with torch.no_grad():
            ref = read(reference).gather(-1, ids[:, None])[:, 0]
        kl = (ref - logprob).exp() - (ref - logprob) - 1
        ratio = (logprob - logprob.detach()).exp()
        sides[number % 2].append((-(ratio * each.advantage) + 0.04 * kl).sum() / 2048)
    wanted = (torch.stack(sides[0]).mean() + torch.stack(sides[1]).mean()) / 2
    wanted.backward()
    assert numbers["loss"] == pytest.approx(float(wanted), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-7, rtol=1e-3, msg=name)


def test_changing_the_video_changes_its_log_probabilities(world):
    """Hazard H14: the release's log-prob and reward forwards never see the video."""
    model, processor, pairs = world
    side = next(pair.query for pair in pairs if pair.query.video)
    other = replace(side, video=side.video[::-1])
    sequences = [rollouts.rl_prompt(one, processor).extend([7, 8, 9]) for one in (side, other)]
    assert all(int(sequence.media_mask.sum()) > 0 for sequence in sequences)
    assert torch.equal(sequences[0].input_ids, sequences[1].input_ids)
    with torch.no_grad():
        hidden = [model(pack([sequence]))[-4:] for sequence in sequences]
    assert not torch.allclose(hidden[0], hidden[1], atol=1e-4)


def test_text_pairs_and_sampled_placeholders_train(world, rl_config):
    """Hazard H17 (no media on either side), and placeholder ids the model samples are text."""
    model, processor, pairs = world
    pair = next(pair for pair in pairs if pair.dataset == "texts")
    prompt = rollouts.rl_prompt(pair.query, processor)
    ids = [processor.image_pad_id, processor.video_pad_id, processor.image_pad_id, processor.eos_id]
    completion = rollouts.Completion(prompt.extend(ids), len(prompt.input_ids), 1.0)
    numbers = rl._learn(model, model, None, [completion], rl_config, _accelerator(), 1)
    assert numbers["loss"] == pytest.approx(-len(ids) / 2048, rel=1e-4)


def _generated(vectors, tokens, hits):
    made = [
        Rollout(ids, [0.0] * len(ids), vector, hit, "gen_emb")
        for vector, ids, hit in zip(vectors, tokens, hits)
    ]
    return Generated(disc=vectors[0], rollouts=made)


def test_rewards_add_format_and_leave_out_completions_without_a_vector(
    world, rl_config, monkeypatch
):
    """Hazard H15: the release reads the prompt's own `<gen_emb>` for a completion that never wrote one."""
    model, processor, _ = world
    good = processor.tokenizer("<think>a</think><answer>b\n<gen_emb>")["input_ids"]
    bad = processor.tokenizer("<think>a")["input_ids"]
    axis = torch.eye(32)
    results = [
        _generated([axis[0]] * 3, [good, good, bad], [True, True, False]),
        _generated([axis[1]] * 3, [good] * 3, [True] * 3),
        _generated([axis[0]] * 3, [good] * 3, [True] * 3),
        _generated([axis[1]] * 3, [good] * 3, [True] * 3),
    ]
    monkeypatch.setattr(rollouts, "generate", lambda *arguments, **named: results)
    pairs = [Pair("t", Side(f"q{n}"), Side(f"p{n}")) for n in range(2)]
    batch = rollouts.roll_out(model, processor, pairs, rl_config, seed=0)
    assert batch.metrics["missing"] == pytest.approx(1 / 12)
    first = [completion.advantage for completion in batch.completions[:3]]
    assert first[0] == first[1] > 0 > first[2]  # 1 + 1 * 1 against 0 + 0
    others = [completion.advantage for completion in batch.completions[3:]]
    assert others == pytest.approx([0.0] * 9, abs=1e-3)  # equal rewards: nothing to learn


def test_rollouts_of_a_group_differ_and_are_reproducible(world, rl_config):
    """Hazard H21: the release sets only the temperature; a checkpoint's top_k=1 would make all eight equal."""
    model, processor, pairs = world
    runs = [rollouts.roll_out(model, processor, pairs[:2], rl_config, seed=5) for _ in range(2)]
    tokens = [
        [completion.sequence.input_ids.tolist() for completion in run.completions] for run in runs
    ]
    assert tokens[0] == tokens[1]
    assert len({tuple(ids) for ids in tokens[0][:3]}) > 1


def test_micro_batches_hold_every_completion_once(rl_config, world):
    _, processor, pairs = world
    prompt = rollouts.rl_prompt(pairs[0].target, processor)
    completions = [
        rollouts.Completion(prompt.extend([1] * count), len(prompt.input_ids), 0.0)
        for count in range(1, 9)
    ]
    parts = rl._microbatches(completions, 3 * len(prompt.input_ids))
    assert len(parts) > 1 and [each for part in parts for each in part] == completions
