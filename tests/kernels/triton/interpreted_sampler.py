"""The sampler's kernels under the interpreter, with blocks of 64 tokens; run by test_interpreted.py."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import sampler_truth  # noqa: E402

from umer1_kernels import sample_tokens  # noqa: E402
from umer1_kernels.backends.triton.sampler import sample  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_memory")
EDGE = 1e-6
SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.0, "top_p": 0.7},
    {"temperature": 1.3, "top_k": 9},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 5000},
]
DEFAULTS = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}


def table(options: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([each.get(name, default) for each in options])
            for name, default in DEFAULTS.items()}  # fmt: skip


def rows(count: int, size: int):
    seed = torch.randint(-(2**63), 2**63 - 1, (count,))
    return 3 * torch.randn(count, size), seed, torch.randint(0, 5000, (count,))


@pytest.mark.parametrize(
    "size, dtype", [(1, torch.float32), (64, torch.float16), (150, torch.float32)], ids=str
)
def test_the_definitions_token(size, dtype):
    """Every kind of row side by side, over one block and several."""
    options = SETTINGS + SETTINGS[1:2]
    logits, seed, step = rows(len(options), size)
    logits = logits.to(dtype)
    got = sample_tokens(logits, seed, step, **table(options), backend="triton")
    assert got.logprob.dtype == torch.float32
    for row, each in enumerate(options):
        arguments = (logits[row].double().numpy(), int(seed[row]), int(step[row]))
        token, logprob, margin = sampler_truth.sample(*arguments, **each)
        assert margin >= EDGE and int(got.token[row]) == token
        assert float(got.logprob[row]) == pytest.approx(logprob, abs=3e-6)


def test_a_row_does_not_change_with_its_neighbours():
    """Alone with its settings as numbers: without top-p and top-k then, two kernels fewer run."""
    logits, seed, step = rows(len(SETTINGS), 70)
    together = sample_tokens(logits, seed, step, **table(SETTINGS), backend="triton")
    for row, options in enumerate(SETTINGS):
        one = slice(row, row + 1)
        alone = sample_tokens(logits[one], seed[one], step[one], **options, backend="triton")
        assert torch.equal(alone.token, together.token[one])
        assert torch.equal(alone.logprob, together.logprob[one])


def test_ties_and_impossible_tokens():
    infinity = float("inf")
    step = torch.arange(7)
    for logits, options, wanted in (
        ([0.0] * 66, {"top_k": 2}, {0, 1}),
        ([0.0] * 8, {"top_p": 0.5}, {0, 1, 2, 3}),
        ([0.0] * 8, {"top_k": 4, "top_p": 0.5}, {0, 1}),
        ([0.0, 1.0, -0.0, 1.0, 0.0], {"top_k": 3}, {0, 1, 3}),
        ([-infinity, 0.0, -200.0, 0.0, -infinity], {}, {1, 3}),
        ([-infinity, 0.0, -200.0, 0.0, -infinity], {"top_k": 4, "top_p": 0.99}, {1, 3}),
        ([0.0] * 66 + [30.0] + [0.0] * 70, {}, {66}),
    ):
        row = torch.tensor([logits]).expand(7, -1)
        found = sample_tokens(row, step, step, temperature=1.0, **options, backend="triton")
        found = set(found.token.tolist())
        assert found <= wanted and len(found) > len(wanted) // 2


def test_forced_and_strided():
    logits, seed, step = rows(3, 80)
    forced = torch.tensor([-1, 79, 3])
    options = {"temperature": 1.0, "forced": forced}
    got = sample_tokens(
        torch.cat([logits, logits], 1)[:, :80], seed, step, **options, backend="triton"
    )
    free = sample_tokens(logits, seed, step, temperature=1.0, backend="triton")
    assert torch.equal(got.token, torch.where(forced >= 0, forced, free.token))
    wanted = torch.log_softmax(logits, 1).gather(1, got.token[:, None])[:, 0]
    torch.testing.assert_close(got.logprob, wanted, rtol=1e-5, atol=2e-6)


def test_the_operator_is_registered_completely():
    logits, seed, step = rows(2, 9)
    whole, number = torch.zeros(2, dtype=torch.long), torch.ones(2)
    arguments = (logits, seed, step, number, number, whole, whole - 1, True)
    torch.library.opcheck(sample, arguments, test_utils=("test_schema", "test_faketensor"))
