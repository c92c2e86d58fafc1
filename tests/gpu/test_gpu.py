"""On a GPU: the model, generation and the losses agree with the CPU."""

import pytest
import torch
import torch.nn.functional as F

import umer1_kernels as kernels
from umer1.engine import Prompt, Sampling, generate
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(scope="module")
def model():
    vision = VisionConfig(depth=2, embed_dim=64, hidden_size=128, num_heads=2)
    config = ModelConfig(
        vocab_size=200, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, vision=vision, mrope_section=(8, 12, 12), tie_word_embeddings=True,
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2VL(config).reset_parameters().eval()


def _prompts():
    generator = torch.Generator().manual_seed(1)
    result = []
    for number, length in enumerate((9, 31, 17, 64)):
        ids = torch.randint(0, 190, (length,), generator=generator)
        mask, pixels, grid = (
            torch.zeros(length, dtype=torch.bool),
            None,
            torch.zeros(0, 3, dtype=torch.int64),
        )
        if number % 2:
            mask[2:4] = True
            pixels, grid = torch.randn(8, 1176, generator=generator), torch.tensor([[1, 2, 4]])
        result.append(Prompt(Sequence(ids, mask, pixels, grid), number, 3))
    return result


@pytest.mark.parametrize("dtype, cosine", [(torch.float32, 0.99999), (torch.bfloat16, 0.995)])
def test_hidden_states_agree_with_the_cpu(model, dtype, cosine):
    packed = pack([prompt.sequence for prompt in _prompts()])
    with torch.no_grad():
        wanted = model.float().cpu()(packed)
        got = model.to("cuda", dtype)(packed.to("cuda", dtype)).float().cpu()
    model.float().cpu()
    assert float(F.cosine_similarity(got, wanted, dim=-1).min()) > cosine


def test_generation_in_float32_writes_the_same_tokens(model):
    arguments = dict(gen_id=10_000, eos_id=10_000)
    wanted = generate(model.float().cpu(), _prompts(), Sampling(16), **arguments)
    got = generate(model.cuda(), _prompts(), Sampling(16), **arguments)
    model.cpu()
    for one, other in zip(wanted, got):
        assert one.rollouts[0].tokens == other.rollouts[0].tokens
        torch.testing.assert_close(
            other.rollouts[0].vector.cpu(), one.rollouts[0].vector, atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_info_nce_agrees_with_float64(dtype):
    torch.manual_seed(0)
    query, target = (F.normalize(torch.randn(63, 96), dim=-1).to(dtype) for _ in range(2))

    def run(device, kind):
        pair = [side.to(device, kind).requires_grad_() for side in (query, target)]
        loss = kernels.info_nce(*pair)
        loss.backward()
        return [loss.detach().double().cpu(), *(side.grad.double().cpu() for side in pair)]

    for got, wanted in zip(run("cuda", dtype), run("cpu", torch.float64)):
        assert float((got - wanted).norm() / wanted.norm()) < (
            1e-5 if dtype == torch.float32 else 8e-3
        )


def test_group_reward_agrees_with_the_cpu():
    torch.manual_seed(0)
    query, target = (F.normalize(torch.randn(5, 4, 48), dim=-1) for _ in range(2))
    wanted, got = (
        kernels.group_reward(query, target),
        kernels.group_reward(query.cuda(), target.cuda()),
    )
    for name in ("query_reward", "target_reward", "query_advantage", "target_advantage"):
        torch.testing.assert_close(
            getattr(got, name).cpu(), getattr(wanted, name), atol=1e-4, rtol=1e-4
        )
