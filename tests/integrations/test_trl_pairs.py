"""TRL's adapters without TRL: rows, rewards, and rollouts of a policy that changes."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from umer1.data.records import Pair, Side
from umer1.embedder import BUNDLED
from umer1.integrations.trl import GenerativeRollouts
from umer1.integrations.trl_pairs import format_reward, paired_rows, rank_gap_reward
from umer1.media import blank_image
from umer1.prompts import format_ok


def test_rows_of_pairs(pairs):
    rows = paired_rows(pairs, seed=1)
    assert [row["side"] for row in rows] == ["query", "target"] * 4
    assert [row["pair"] for row in rows[::2]] == [row["pair"] for row in rows[1::2]]
    assert (
        sorted(row["pair"] for row in rows[::2]) == [0, 1, 2, 3] != [r["pair"] for r in rows[::2]]
    )
    assert [len(row["images"]) for row in paired_rows(pairs)] == [1, 0, 2, 1, 0, 0, 1, 1]
    filled = paired_rows(pairs, blank=blank_image("evaluation"))
    assert [len(row["images"]) for row in filled] == [1, 1, 2, 1, 1, 1, 1, 1]
    blank = Image.open(io.BytesIO(filled[1]["images"][0]["bytes"]))
    assert np.asarray(blank).shape == (56, 56, 3) and np.asarray(blank).min() == 255
    with pytest.raises(ValueError, match="pair 0, target: has a video"):
        paired_rows([Pair("some", Side("a"), Side("b", video=["frame.jpg"]))])


def test_reward_wants_whole_pairs():
    batch = {"gen_emb": [torch.eye(4)[n] for n in range(4)], "gen_hit": [True] * 4}
    sides = ["query", "query", "target", "target"]
    assert (
        rank_gap_reward(**batch, pair=[0] * 4, side=sides) == [0.0] * 4
    )  # nothing to compare with
    for pair, side in (([0, 0, 0, 1], sides), ([0] * 4, ["query"] * 4), ([0, 0, 1, 1], sides)):
        with pytest.raises(ValueError, match="pair 0: .* wants num_generations of each"):
            rank_gap_reward(**batch, pair=pair, side=side)
    with pytest.raises(ValueError, match="side: got 'pos', wants 'query' or 'target'"):
        rank_gap_reward(**batch, pair=[0] * 4, side=["pos"] * 4)
    good = "<think>a</think><answer>b\n<gen_emb>"
    assert format_ok(good) and format_reward([good, "b"], completions=None) == [1.0, 0.0]


def test_rows_in_any_order_get_their_rewards():
    """Two pairs of two completions, one without a vector."""
    chance = torch.Generator().manual_seed(3)
    vectors = F.normalize(torch.randn(8, 6, generator=chance), dim=1)
    hits = [True] * 7 + [False]
    pair, side = [0, 0, 0, 0, 1, 1, 1, 1], ["query", "query", "target", "target"] * 2
    straight = rank_gap_reward(list(vectors), hits, pair, side)
    assert straight[7] == 0.0 and len(set(straight)) > 4
    order = torch.tensor([3, 4, 0, 7, 2, 1, 6, 5])
    turned = rank_gap_reward(
        *([values[n] for n in order] for values in (vectors, hits, pair, side))
    )
    assert turned == pytest.approx([straight[n] for n in order], abs=1e-6)


@pytest.fixture(scope="module")
def trainer():
    """What rollouts ask a GRPOTrainer for."""
    policy = Qwen2VLForConditionalGeneration.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)
    arguments = SimpleNamespace(
        bf16=False, seed=3, max_completion_length=16, temperature=0.8, top_p=1.0, top_k=0, min_p=None,
        repetition_penalty=1.0, generation_kwargs=None,
    )  # fmt: skip
    accelerator = SimpleNamespace(
        process_index=0, device=torch.device("cpu"), unwrap_model=lambda model: model
    )
    return SimpleNamespace(
        processing_class=AutoProcessor.from_pretrained(BUNDLED["tiny"]), args=arguments,
        accelerator=accelerator, state=SimpleNamespace(global_step=0), model=policy.eval(),
    )  # fmt: skip


@torch.no_grad()
def own(trainer, found, row, pictures):
    """The policy's log-probabilities of one completion, and its states at the completion's tokens."""
    tokens = found["completion_ids"][row]
    ids = torch.tensor([found["prompt_ids"][row] + tokens])
    media = {}
    if pictures:
        media = dict(trainer.processing_class.image_processor(pictures, return_tensors="pt"))
    kinds = (ids == trainer.model.config.image_token_id).int()
    out = trainer.model(input_ids=ids, mm_token_type_ids=kinds, output_hidden_states=True, **media)
    logits = out.logits[0, -len(tokens) - 1 : -1] / trainer.args.temperature
    chosen = torch.tensor(tokens)[:, None]
    states = F.normalize(out.hidden_states[-1][0, -len(tokens) :], dim=1)
    return logits.log_softmax(1).gather(1, chosen)[:, 0], states


def test_rollouts_follow_the_policy(trainer, pictures):
    text = {
        "role": "user",
        "content": paired_rows([Pair("d", Side("what"), Side("x"))])[0]["prompt"][0]["content"],
    }
    shown = [{"type": "image", "image": pictures[0]}, {"type": "text", "text": text["content"]}]
    prompts = [[text]] * 2 + [[{"role": "user", "content": shown}]] * 2
    rollouts = GenerativeRollouts()
    chance = torch.Generator().manual_seed(1)
    gen = trainer.processing_class.tokenizer.convert_tokens_to_ids("<gen_emb>")
    hits = 0
    for version in (1, 2):
        found = rollouts(prompts, trainer)
        assert rollouts.version == version
        assert found["prompt_ids"][0] == found["prompt_ids"][1] != found["prompt_ids"][2]
        for row, tokens in enumerate(found["completion_ids"]):
            logprobs, states = own(trainer, found, row, pictures[:1] if row > 1 else [])
            torch.testing.assert_close(
                torch.tensor(found["logprobs"][row]), logprobs, atol=5e-5, rtol=0
            )
            assert found["gen_hit"][row] == (gen in tokens)
            if gen in tokens:
                hits += 1
                state = states[max(n for n, token in enumerate(tokens) if token == gen)]
                torch.testing.assert_close(found["gen_emb"][row], state, atol=5e-5, rtol=0)
        # unseen by any counter, as optimizers that write through .data are
        for parameter in trainer.model.parameters():
            parameter.data.add_(
                0.01 * parameter.std() * torch.randn(parameter.shape, generator=chance)
            )
    assert hits > 2


def test_settings_that_the_engine_lacks(trainer):
    prompt = ["<|im_start|>user\nseven<|im_end|>\n"]
    for name, value in (
        ("min_p", 0.1),
        ("repetition_penalty", 1.2),
        ("generation_kwargs", {"num_beams": 2}),
        ("max_completion_length", None),
    ):
        settings = SimpleNamespace(**{**vars(trainer.args), name: value})
        other = SimpleNamespace(**{**vars(trainer), "args": settings})
        with pytest.raises(ValueError, match=f"{name}: got "):
            GenerativeRollouts()(prompt, other)
    part = [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}]
    with pytest.raises(ValueError, match="prompt 0: has a video"):
        GenerativeRollouts()([part], trainer)
    with pytest.raises(ValueError, match="slots: got 0"):
        GenerativeRollouts(slots=0)


def test_sharded_weights_are_refused(trainer):
    named = [(name, each) for name, each in trainer.model.named_parameters() if "norm" not in name]
    part = SimpleNamespace(
        config=trainer.model.config,
        parameters=trainer.model.parameters,
        named_parameters=lambda: named,
    )
    other = SimpleNamespace(**{**vars(trainer), "model": part})
    with pytest.raises(ValueError, match=r"policy: .*norm.* has shape none.* \(ZeRO-3, FSDP\)"):
        GenerativeRollouts()(["seven"], other)
