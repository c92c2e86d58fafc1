"""What an engine is given to do: prompts, and for every row the tokens it will write.

Every engine writes the same tokens: a script forces them, after the engine has computed and read its logits as always.
Lengths are log-normal with mean 96 and sigma 0.5 (as the middles of equally likely parts, shuffled), `<gen_emb>` and the
end of the turn included.
"""

from __future__ import annotations

import copy
import math
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.engine.shapes import config, disc_position, prompt, random_model, special_id
from umer1.engine import NativeEngine, Prompt, SpecialTokens
from umer1.model import ModelConfig, PackedWeights, Qwen2VL, pack, pack_weights

MEAN_LENGTH, SIGMA = 96, 0.5


@dataclass
class Workload:
    """`kinds`: of the prompts, in turn. `samples`: rows per prompt. `length`: of every script, None: log-normal.

    Models and prompts are made when they are first needed, and kept as long as this.
    """

    size: str
    kinds: tuple[str, ...]
    prompts: int
    samples: int = 1
    length: int | None = None
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"

    @cached_property
    def config(self) -> ModelConfig:
        return config(self.size)

    @cached_property
    def special(self) -> SpecialTokens:
        return SpecialTokens(special_id(self.config, "gen"), special_id(self.config, "eos"))

    @cached_property
    def requests(self) -> list[Prompt]:
        sequences = [
            prompt(self.config, self.kinds[number % len(self.kinds)], seed=number)
            for number in range(self.prompts)
        ]
        return [
            Prompt(sequence, number, disc_position(self.config, sequence))
            for number, sequence in enumerate(sequences)
        ]

    @cached_property
    def scripts(self) -> list[list[int]]:
        """Tokens of each row, a prompt's samples side by side; the last two are `<gen_emb>` and the end of the turn."""
        rows = self.prompts * self.samples
        lengths = [self.length] * rows if self.length else lognormal_lengths(rows)
        chance = random.Random(1)
        ends = [self.special.gen_id, self.special.eos_id]
        words = self.config.vocab_size - 16
        return [[chance.randrange(words) for _ in range(length - 2)] + ends for length in lengths]

    @property
    def rows(self) -> list[tuple[Prompt, list[int]]]:
        """Every row's prompt and script."""
        repeated = [request for request in self.requests for _ in range(self.samples)]
        return list(zip(repeated, self.scripts))

    @cached_property
    def model(self) -> Qwen2VL:
        """Ours, plain until `packed` is asked for. A GPU's is never packed: cases share one."""
        make = _model.__wrapped__ if self.device == "cpu" else _model
        return make(self.size, self.dtype, self.device)

    @cached_property
    def transformers(self):
        """transformers' own model with the same weights."""
        from bench.engine.peers import as_transformers

        if self.device != "cpu":
            return _transformers(self.size, self.dtype, self.device)
        with self._plain():
            return as_transformers(self.model)

    @cached_property
    def packed(self) -> PackedWeights | None:
        """None on a GPU, where plain weights are what is fast."""
        return pack_weights(self.model) if self.device == "cpu" else None

    @cached_property
    def engines(self) -> dict[int, NativeEngine]:
        """By number of rows: what an engine has recorded is not recorded again for every run."""
        return {}

    @cached_property
    def tables(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Scripts on the device, see bench.engine.ours: recorded graphs read them where they are."""
        return {}

    def describe(self) -> str:
        if self.packed is None:
            return f"plain {str(self.dtype).removeprefix('torch.')} weights on {self.device}"
        return self.packed.describe()

    def _plain(self) -> AbstractContextManager:
        packed = self.__dict__.get("packed")
        return nullcontext() if packed is None else packed.undone()

    def sizes(self) -> dict[str, int | str]:
        return {
            "model": self.size,
            "prompts": self.prompts,
            "kinds": " ".join(self.kinds),
            "embeddings": self.prompts * self.samples,
            "tokens": sum(map(len, self.scripts)),
        }

    def wide_model(self) -> Qwen2VL:
        """Ours in float32."""
        with self._plain():
            return copy.deepcopy(self.model).float()

    @torch.no_grad()
    def true_vectors(self, count: int) -> Tensor:
        """float32 [count, H] of the first rows: one float32 forward over prompt and script each, with no engine."""
        wide = self.wide_model()
        states = [
            wide(pack([request.sequence.extend(script[:-1])]).to(self.device))[-1]
            for request, script in self.rows[:count]
        ]
        return F.normalize(torch.stack(states), dim=-1)


@lru_cache(maxsize=1)
def _model(size: str, dtype: torch.dtype, device: str) -> Qwen2VL:
    return random_model(config(size), dtype).to(device)


@lru_cache(maxsize=1)
def _transformers(size: str, dtype: torch.dtype, device: str):
    from bench.engine.peers import as_transformers

    return as_transformers(_model(size, dtype, device))


def lognormal_lengths(count: int, mean: float = MEAN_LENGTH) -> list[int]:
    middle = math.log(mean) - SIGMA**2 / 2
    normal = NormalDist(middle, SIGMA)
    lengths = [round(math.exp(normal.inv_cdf((row + 0.5) / count))) for row in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths
