"""A tiny model with real temperament, prompts of every kind, and the plainest generation loop there is."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from umer1.engine import NativeEngine, Prompt, SpecialTokens
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack

sys.path.insert(0, str(Path(__file__).parent))  # what tests share is a plain module beside them
VOCABULARY = 40


def _model(seed=0, **fields):
    vision = VisionConfig(depth=1, embed_dim=16, hidden_size=32, num_heads=2)
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mrope_section": (1, 1, 2),
        "tie_word_embeddings": True,
        "initializer_range": 0.5,
    } | fields
    torch.manual_seed(seed)
    return Qwen2VL(ModelConfig(vision=vision, **values)).reset_parameters().eval()


@pytest.fixture(scope="session")
def make_engine_model():
    return _model


@pytest.fixture(scope="session")
def model():
    return _model()


@pytest.fixture(scope="session")
def make_prompts():
    """`count` prompts of 3 to 17 tokens; every third has a picture of one visual token, every third two."""

    def build(count, seed=0, longest=17):
        chance = random.Random(seed)
        result = []
        for number in range(count):
            length = chance.randint(3, longest)
            ids = torch.tensor([chance.randrange(VOCABULARY - 1) for _ in range(length)])
            mask = torch.zeros(length, dtype=torch.bool)
            pictures = number % 3
            generator = torch.Generator().manual_seed(1000 * seed + number)
            mask[: 2 * pictures : 2] = True
            pixels = torch.randn(4 * pictures, 1176, generator=generator) if pictures else None
            grid = torch.tensor([[1, 2, 2]] * pictures, dtype=torch.int64).view(-1, 3)
            sequence = Sequence(ids, mask, pixels, grid)
            result.append(Prompt(sequence, number, disc_position=length // 2))
        return result

    return build


@pytest.fixture(scope="session")
def naive():
    """Greedy, one full forward per token; the vector from a forward over everything."""

    @torch.no_grad()
    def run(model, prompt, gen_id, eos_id, limit, stop="first"):
        sequence, tokens, vector, finish = prompt.sequence, [], None, None
        while finish is None:
            hidden = model(pack([sequence]))
            if tokens and tokens[-1] == gen_id:
                vector = hidden[-1]
                if stop == "first":
                    finish = "gen_emb"
                    break
                if len(tokens) == limit:
                    finish = "length"
                    break
            token = int(model.logits(hidden[-1]).argmax())
            tokens.append(token)
            if token == eos_id:
                finish = "gen_emb" if vector is not None else "eos"
            elif len(tokens) == limit and token != gen_id:
                finish = "length"
            if finish:
                hit = vector is not None
                vector = vector if hit else hidden[-1]
                return tokens, F.normalize(vector, dim=-1), hit, finish
            sequence = sequence.extend([token])
        return tokens, F.normalize(vector, dim=-1), True, finish

    return run


@pytest.fixture(scope="session")
def common_tokens(naive):
    """Two tokens that greedy decoding really writes, for some prompts and not for all: they play `<gen_emb>` and the
    end of the turn."""

    def find(model, prompts, limit):
        written = [naive(model, prompt, 10_000, 10_000, limit)[0] for prompt in prompts]
        counts = {token: sum(token in tokens for tokens in written) for token in range(VOCABULARY)}
        usable = [token for token in counts if 0 < counts[token] < len(prompts)]
        return sorted(usable, key=counts.get)[-2:]

    return find


@pytest.fixture
def engine(model):
    return NativeEngine(model, SpecialTokens(10_000, 10_000), slots=4)
