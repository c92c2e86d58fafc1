"""Shared by the exactness tests: the start both sides have, what ours did, and how the two are compared."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import fields

import torch
from oracle import Written
from oracle_formulas import Recipe
from safetensors.torch import load_file

import umer1_kernels as kernels
from umer1.engine.native import NativeEngine
from umer1.engine.requests import prompt_seed
from umer1.model.checkpoint import save_model
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.tiny import build_tokenizer, tiny_config
from umer1.processor import MediaLimits, Processor
from umer1.training import loop

RELATIVE = 1e-5


def random_checkpoint(directory, pairs, limits: dict, *, spread: float = 0.06, **shape):
    """A small random model whose tokenizer is made from the pairs' text, saved as a checkpoint.

    spread: of its weights; a larger one sets the pairs' vectors further apart.
    """
    torch.manual_seed(3)
    sides = [side for pair in pairs for side in (pair.query, pair.target)]
    corpus = [text for side in sides for text in (side.text, side.response or "")]
    tokenizer = build_tokenizer(corpus, 512)
    config = tiny_config(len(tokenizer), tokenizer, initializer_range=spread, **shape)
    save_model(Qwen2VL(config).reset_parameters(), directory)
    Processor.from_parts(tokenizer, MediaLimits(**limits)).save(directory)
    return directory


def recipe_of(config) -> Recipe:
    """The oracle's recipe with the numbers of our config."""
    optimizer = config.optimizer
    found = {each.name: getattr(config, each.name) for each in fields(Recipe) if hasattr(config, each.name)}  # fmt: skip
    return Recipe(**found, learning_rate=optimizer.learning_rate, schedule=optimizer.schedule,
                  warmup_ratio=optimizer.warmup_ratio, betas=optimizer.betas,
                  weight_decay=optimizer.weight_decay, clip_grad_norm=optimizer.clip_grad_norm)  # fmt: skip


@contextmanager
def recorded_steps(monkeypatch):
    """What our run logs at each step, unrounded."""
    rows, log = [], loop.Run.log

    def record(self, numbers):
        rows.append(dict(numbers))
        return log(self, numbers)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "log", record)
        yield rows


@contextmanager
def recorded_rollouts(monkeypatch):
    """Per call of the engine: what it wrote, by prompt ids; and the rewards that were made of it."""
    calls, rewards = [], []
    submit, group_reward = NativeEngine.submit, kernels.group_reward

    def record(self, prompts, sampling, *, samples=1):
        prompts = list(prompts)
        call = [
            Written([prompt_seed(prompt, sampling, n) for n in range(samples)], [None] * samples)
            for prompt in prompts
        ]
        calls.append([(key(prompt.sequence), each) for prompt, each in zip(prompts, call)])
        for finished in submit(self, prompts, sampling, samples=samples):
            call[finished.prompt].tokens[finished.sample] = list(finished.rollout.tokens)
            yield finished

    def reward(*arguments, **named):
        found = group_reward(*arguments, **named)
        rewards.append({"query": found.query_reward.cpu(), "target": found.target_reward.cpu()})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(NativeEngine, "submit", record)
        patched.setattr(kernels, "group_reward", reward)
        yield calls, rewards


def key(sequence) -> tuple:
    """What makes two prompts the same."""
    pixels = sequence.pixel_values
    return (*sequence.input_ids.tolist(), 0.0 if pixels is None else float(pixels.double().sum()))


def written_for(calls, oracle, pairs) -> dict[str, list[Written]]:
    """The engine's rollouts of one step in the order of the pairs; equal prompts in the order they were submitted."""
    waiting = defaultdict(list)
    for prompt, written in calls:
        waiting[prompt].append(written)
    return {
        side: [waiting[key(oracle._prompt(getattr(pair, side)))].pop(0) for pair in pairs]
        for side in ("query", "target")
    }


def assert_weights_equal(
    model_directory, oracle, start, of_updates: float = 1e-3
) -> tuple[float, float]:
    """Relative Frobenius norm of the difference of all weights together, at most 1e-5; that of the updates, `of_updates`.

    The second is the sharper one where few steps at a small rate leave the weights nearly what they were.
    """
    ours = {}
    for file in sorted(model_directory.glob("*.safetensors")):
        ours |= load_file(file)
    before = {}
    for file in sorted(start.glob("*.safetensors")):
        before |= load_file(file)
    wanted = oracle.weights()
    assert ours.keys() == wanted.keys() - {"lm_head.weight"}
    difference = weight = update = 0.0
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float32, name
        other = wanted[name].double().view(tensor.shape)
        difference += float((tensor.double() - other).square().sum())
        weight += float(other.square().sum())
        update += float((other - before[name].double()).square().sum())
    relative, of_update = (difference / weight) ** 0.5, (difference / update) ** 0.5
    assert update > 0, "nothing was trained"
    assert relative <= RELATIVE, (relative, of_update)
    assert of_update <= of_updates, (relative, of_update)
    return relative, of_update
