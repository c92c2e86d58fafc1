"""Single learned rows of a frozen table: read as if the table held them, with their gradient alone."""

import copy

import pytest
import torch
import torch.nn.functional as F

from umer1.model.learned_rows import learn_rows, learned_rows
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.tiny import build_tokenizer, tiny_config

ROWS = (7, 3)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request):
    tokenizer = build_tokenizer(["words"], 300)
    config = tiny_config(300, tokenizer, hidden=32, layers=1, vision_dim=32, vision_depth=1,
                         tie_word_embeddings=request.param)  # fmt: skip
    torch.manual_seed(0)
    return Qwen2VL(config).reset_parameters()


def _learn(model):
    """The model with rows that differ, and the tables it stands for."""
    plain = [model.decoder.embed.weight.detach().clone(), model.head_weight.detach().clone()]
    learn_rows(model, ROWS)
    for table in learned_rows(model):
        torch.nn.init.normal_(table.lora_rows)
    table, head = learned_rows(model)[0], learned_rows(model)[-1]
    for weight, owner in zip(plain, (table, head)):
        weight[list(ROWS)] += owner.lora_rows.detach()
    return plain


def test_nothing_changes_before_something_is_learnt(model):
    ids, hidden = torch.tensor([0, 3, 7, 7, 9]), torch.randn(4, 32)
    embedded, logits, state = (
        model.decoder.embed(ids),
        model.logits(hidden),
        list(model.state_dict()),
    )
    learn_rows(model, ROWS)
    assert torch.equal(model.decoder.embed(ids), embedded) and torch.equal(
        model.logits(hidden), logits
    )
    assert set(state) <= set(model.state_dict()), "the tables keep their names"
    learned = [name for name, each in model.named_parameters() if name.endswith("lora_rows")]
    assert learned == ["decoder.embed.lora_rows", "head.lora_rows"][: len(learned_rows(model))]


def test_both_reads_and_their_gradients_are_those_of_the_table_it_stands_for(model):
    table, head = _learn(model)
    ids, hidden = torch.tensor([0, 3, 7, 7, 9, 299]), torch.randn(4, 32)
    wanted = [table.requires_grad_(), table if model.head is None else head.requires_grad_()]
    outputs = F.embedding(ids, wanted[0]), F.linear(hidden, wanted[1])
    found = model.decoder.embed(ids), F.linear(hidden, model.head_weight)
    for mine, other in zip(found, outputs):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    assert torch.equal(model.logits(hidden), found[1])
    slopes = [torch.randn_like(each) for each in outputs]
    torch.autograd.backward(outputs, slopes)
    torch.autograd.backward(found, slopes)
    for owner, whole in zip(learned_rows(model), wanted):
        torch.testing.assert_close(
            owner.lora_rows.grad, whole.grad[list(ROWS)], rtol=1e-5, atol=1e-6
        )
        assert owner.weight.grad is None


def test_switched_off_they_are_the_table_itself(model):
    _learn(model)
    for each in learned_rows(model):
        each.enabled = False
    assert model.head_weight is model.head_owner.weight
    ids = torch.tensor(ROWS)
    assert torch.equal(model.decoder.embed(ids), model.decoder.embed.weight[ids])


def test_the_head_comes_in_autocasts_dtype_rounded_once(model):
    head = _learn(model)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.head_weight, head.bfloat16())
    assert model.head_weight.dtype == torch.float32


def test_a_copy_learns_for_itself(model):
    _learn(model)
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other.decoder.embed.lora_rows)
    assert not torch.equal(
        model.decoder.embed(torch.tensor(ROWS)), other.decoder.embed(torch.tensor(ROWS))
    )
    assert all(each.weight.requires_grad is False for each in learned_rows(other))
