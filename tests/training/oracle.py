"""UME-R1's two training stages in plain PyTorch on transformers' own Qwen2-VL: what ours must equal.

Nothing here comes from umer1's training code or kernels: batches are padded, logits are whole, the two sides are two
forwards, every loss is written out as the released code has it. Taken from umer1 are the inputs (token ids, patches:
the processor has its own tests against transformers), and for sampling the engine's row seeds and its counter-based
uniform numbers. Where a completion has no `<gen_emb>`, the documented rule of umer1 holds (no embedding reward, nobody's
positive or negative) in place of the release's read-out from the prompt.

Shapes: B rows, T padded tokens, V vocabulary, N pairs, G rollouts, H hidden size.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from oracle_formulas import (
    FORMAT,
    Recipe,
    advantage,
    at_last,
    rank_and_gap,
    rate,
    symmetric_info_nce,
    token_logprobs,
)
from torch import Tensor

from umer1.data.records import Pair, Side
from umer1.engine.hf_inputs import model_inputs
from umer1.model.key_names import canonical_key
from umer1.model.sequence import Sequence
from umer1.processor import Processor
from umer1.prompts import Item, Medium
from umer1_kernels.reference.sampler import uniforms


@dataclass
class Written:
    """What the engine did with one prompt: seeds and tokens of its G rollouts."""

    seeds: list[int]
    tokens: list[list[int]]


class Oracle:
    """A model, its frozen copy, AdamW, and one method per stage that takes a step."""

    def __init__(self, checkpoint, recipe: Recipe):
        from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

        self.model = Qwen2VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="sdpa"
        )
        self.model.generation_config = GenerationConfig()
        self.processor, self.recipe = Processor.load(checkpoint), recipe
        self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.model.train()
        if recipe.freeze_vision:
            visual = self.model.model.visual
            visual.requires_grad_(False)
            visual.merger.requires_grad_(True)
        self.trained = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.step = self.draws = self.other_draws = 0

    def weights(self) -> dict[str, Tensor]:
        """By the names of a checkpoint file."""
        named = {canonical_key(name): value for name, value in self.model.named_parameters()}
        return {name: value.detach() for name, value in named.items()}

    # -- stage one ------------------------------------------------------------------------------------------------

    def sft(self, pairs: list[Pair]) -> dict[str, float]:
        """L = NCE(gen_q, gen_p) + NCE(disc_q, disc_p) + CE_q + CE_p over one batch; one update."""
        query = self._encode([pair.query for pair in pairs])
        target = self._encode([pair.target for pair in pairs])
        gen, disc = (
            symmetric_info_nce(query[kind], target[kind], self.recipe.scale)
            for kind in ("gen", "disc")
        )
        total = gen + disc + query["ce"] + target["ce"]
        self._update(total)
        return {
            "total": float(total.detach()), "gen": float(gen.detach()), "disc": float(disc.detach()),
            "ce_query": float(query["ce"].detach()), "ce_target": float(target["ce"].detach()),
        }  # fmt: skip

    def _encode(self, sides: list[Side]) -> dict[str, Tensor]:
        """One padded forward of one side: both embeddings [B, H] and the mean cross-entropy over its tokens."""
        sequences = [
            self.processor.encode_turns(side.text, side.response, _media(side))[0] for side in sides
        ]
        inputs, output = self._forward(self.model, sequences)
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, sequence in enumerate(sequences):
            response = len(sequence) - _response_start(sequence, self.processor)
            labels[row, -response:] = sequence.input_ids[-response:]
        # shifted cross-entropy of full float32 logits
        ce = F.cross_entropy(output.logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        hidden = output.hidden_states[-1]
        gen, disc = (
            at_last(hidden, inputs["input_ids"] == token_id)
            for token_id in (self.processor.gen_id, self.processor.disc_id)
        )
        return {"gen": gen, "disc": disc, "ce": ce}

    # -- stage two ------------------------------------------------------------------------------------------------

    def rl(self, pairs: list[Pair], written: dict[str, list[list[Written]]]) -> dict:
        """One GRPO step on both sides. `written`: what the engine wrote for each side, per pair."""
        learned, vectors, hits, formats = {}, {}, {}, {}
        for side in ("query", "target"):
            prompts = [self._prompt(getattr(pair, side)) for pair in pairs]
            tokens = self._generate(prompts, written[side])
            learned[side] = self._logprobs(prompts, tokens)
            vectors[side], hits[side] = self._vectors(tokens, learned[side].hidden)
            texts = [self.processor.decode(row) for row in tokens]
            formats[side] = [float(bool(FORMAT.search(text))) for text in texts]
        group = self.recipe.generations
        numbers: dict[str, list[float]] = {"rank": [], "gap": []}
        loss, kl, count, magnitude = 0.0, 0.0, 0.0, 0.0
        rewards: dict[str, Tensor] = {}
        slopes: dict[str, Tensor] = {}
        for side, other in (("query", "target"), ("target", "query")):
            embedding = []
            for row in range(len(pairs) * group):
                rank, gap = rank_and_gap(
                    row, vectors[side], vectors[other], hits[side], hits[other], group
                )
                numbers["rank"].append(rank)
                numbers["gap"].append(gap)
                embedding.append(rank * gap)
            reward = torch.tensor(embedding) + torch.tensor(formats[side])
            rewards[side] = torch.tensor(embedding).view(-1, group)
            mine = learned[side]
            spread = reward.view(-1, group).std(1, keepdim=True) + 1e-4
            length = mine.mask.sum(1).view(-1, group)
            slopes[side] = length / spread / (2 * len(reward) * self.recipe.normalizer)
            term, divergence = self._grpo(mine, advantage(reward.view(-1, group)).flatten())
            per_completion = term.sum(1) / self.recipe.normalizer
            loss = loss + per_completion.mean() / 2
            magnitude += float((term.detach().abs().sum(1) / self.recipe.normalizer).mean()) / 2
            kl += float(divergence.sum())
            count += float(mine.mask.sum())
            numbers.setdefault("reward", []).extend(reward.tolist())
            numbers.setdefault("format", []).extend(formats[side])
        self._update(loss)
        means = {name: sum(values) / len(values) for name, values in numbers.items()}
        missing = 1 - (sum(hits["query"]) + sum(hits["target"])) / (2 * len(pairs) * group)
        return {
            **means, "loss": float(loss.detach()), "kl": kl / count, "missing": missing,
            "loss_magnitude": magnitude, "rewards": rewards, "loss_by_reward": slopes,
        }  # fmt: skip

    def _prompt(self, side: Side) -> Sequence:
        return self.processor.encode(Item(side.text, _media(side)), mode="gen", dialect="rl")

    @torch.no_grad()
    def _generate(self, prompts: list[Sequence], written: list[Written]) -> list[list[int]]:
        """Sample every prompt G times by transformers' generate(); the tokens of each row, the end of turn included.

        Each step draws from this model's own logits with the engine's uniform number. Should rounding have put a draw
        on the other side of a boundary, the engine's token is written, and `other_draws` counts it.
        """
        sequences = [prompt for prompt in prompts for _ in range(self.recipe.generations)]
        inputs = model_inputs(self.model, sequences, pad_id=self.processor.pad_id)
        draw = _Draw(
            [seed for each in written for seed in each.seeds],
            [row for each in written for row in each.tokens],
            inputs["input_ids"].shape[1],
            self.recipe.temperature,
        )
        self.model.eval()
        output = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self.recipe.max_new_tokens,
            eos_token_id=self.processor.eos_id,
            pad_token_id=self.processor.pad_id,
            logits_processor=[draw],
        )
        self.model.train()
        self.draws += draw.draws
        self.other_draws += draw.other
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [_until(row, self.processor.eos_id) for row in new]

    def _logprobs(self, prompts: list[Sequence], tokens: list[list[int]]) -> _Learned:
        """Policy and reference over whole sequences, prompts included, log-softmax of all V logits."""
        rows = [prompt for prompt in prompts for _ in range(self.recipe.generations)]
        sequences = [prompt.extend(new) for prompt, new in zip(rows, tokens)]
        inputs, output = self._forward(self.model, sequences)
        ids = inputs["input_ids"][:, 1:]
        policy = token_logprobs(output.logits, ids, self.recipe.temperature)
        with torch.no_grad():
            logits = self._forward(self.reference, sequences)[1].logits
            reference = token_logprobs(logits, ids, self.recipe.temperature)
        mask = torch.zeros_like(policy)
        for row, new in enumerate(tokens):
            mask[row, mask.shape[1] - len(new) :] = 1.0
        return _Learned(policy, reference, mask, output.hidden_states[-1].detach())

    def _vectors(self, tokens: list[list[int]], hidden: Tensor) -> tuple[Tensor, list[bool]]:
        """The state that reads the last generated `<gen_emb>`, [B, H], and whether there is one."""
        vectors, hits = hidden.new_zeros(len(tokens), hidden.shape[-1]), []
        for row, new in enumerate(tokens):
            places = [place for place, token in enumerate(new) if token == self.processor.gen_id]
            hits.append(bool(places))
            if places:
                vectors[row] = F.normalize(hidden[row, places[-1] - len(new)], dim=-1)
        return vectors, hits

    def _grpo(self, mine: _Learned, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """Per token [B, T]: -min(ratio A, clip(ratio) A) + beta k3, and k3; zero outside completions."""
        ratio = (mine.policy - mine.policy.detach()).exp()
        clipped = ratio.clamp(1 - self.recipe.clip[0], 1 + self.recipe.clip[1])
        surrogate = torch.minimum(ratio * advantage[:, None], clipped * advantage[:, None])
        difference = mine.reference - mine.policy
        divergence = (difference.exp() - difference - 1) * mine.mask
        return (-surrogate + self.recipe.beta * divergence) * mine.mask, divergence.detach()

    # -- both -----------------------------------------------------------------------------------------------------

    def _forward(self, model, sequences: list[Sequence]):
        inputs = model_inputs(model, sequences, pad_id=self.processor.pad_id)
        return inputs, model(**inputs, output_hidden_states=True, use_cache=False)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.param_groups[0]["lr"] = rate(self.recipe, self.step / self.recipe.steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1


@dataclass
class _Learned:
    """[B, T - 1] each: log-probabilities of policy and reference, 1 on completion tokens; hidden [B, T, H]."""

    policy: Tensor
    reference: Tensor
    mask: Tensor
    hidden: Tensor


class _Draw:
    """A logits processor: the token drawn from these logits, checked against the one that is written."""

    def __init__(self, seeds: list[int], tokens: list[list[int]], prompt_length: int, temperature):
        # 64 bits as signed numbers
        self.seeds = torch.tensor([seed - (seed >> 63 << 64) for seed in seeds])
        self.tokens, self.prompt_length, self.temperature = tokens, prompt_length, temperature
        self.draws = self.other = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        cumulative = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        number = uniforms(self.seeds, torch.full_like(self.seeds, step))[:, None]
        drawn = torch.searchsorted(cumulative, number * cumulative[:, -1:], right=True)[:, 0]
        chosen = drawn.clone()
        for row, tokens in enumerate(self.tokens):
            if step < len(tokens):
                chosen[row] = tokens[step]
                self.draws += 1
                self.other += int(drawn[row] != tokens[step])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def _media(side: Side) -> tuple[Medium, ...]:
    if side.video:
        return (Medium("video", side.video),)
    return tuple(Medium("image", path) for path in side.images)


def _response_start(sequence: Sequence, processor: Processor) -> int:
    """First position after the assistant's header: everything from here on is supervised."""
    start = int((sequence.input_ids == processor.text.id("<|im_start|>")).nonzero()[-1]) + 1
    header = processor.tokenizer("assistant\n", add_special_tokens=False)["input_ids"]
    return start + len(header)


def _until(row: list[int], eos_id: int) -> list[int]:
    return row[: row.index(eos_id) + 1] if eos_id in row else row
