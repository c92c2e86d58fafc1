"""GenEmbHook against the hidden states transformers itself keeps."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

from tiny_qwen import GEN, PAD, image_batch, qwen2, qwen2_vl, text_batch  # noqa: E402

from umer1_kernels import GenEmbHook  # noqa: E402

OFTEN = [[[GEN], 2.5]]  # a bias on the logit: some rows write the token, some twice, some never
SAMPLED = {"do_sample": True, "max_new_tokens": 12, "sequence_bias": OFTEN, "pad_token_id": PAD}


def prompt(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def with_token_in_prompt(batch):
    batch["input_ids"][0, -3] = GEN
    batch["input_ids"][1, -1] = GEN
    return batch


def expected(output, prompt_length, occurrence="last", normalize=True):
    """The read-out by its definition, from all hidden states of all steps."""
    generated = output.sequences[:, prompt_length:]
    states = [step[-1][:, -1] for step in output.hidden_states[1:]]  # what step k + 1 read
    vectors = torch.zeros(len(generated), states[0].shape[1])
    hit = torch.zeros(len(generated), dtype=torch.bool)
    for row, tokens in enumerate(generated.tolist()):
        places = [k for k, token in enumerate(tokens[: len(states)]) if token == GEN]
        if places:
            state = states[places[-1 if occurrence == "last" else 0]][row]
            vectors[row] = F.normalize(state, dim=0) if normalize else state
            hit[row] = True
    return vectors, hit


def run(model, batch, seed=3, hook=(), **options):
    torch.manual_seed(seed)
    with GenEmbHook(model, GEN, **dict(hook)) as collected:
        output = model.generate(
            **batch, **SAMPLED | options, output_hidden_states=True, return_dict_in_generate=True
        )
    return collected, output


def check(collected, output, batch, **how):
    vectors, hit = expected(output, batch["input_ids"].shape[1], **how)
    assert torch.equal(collected.hit, hit)
    assert torch.equal(collected.vectors != 0, vectors != 0)
    assert torch.allclose(collected.vectors, vectors, atol=1e-6)
    return hit


@pytest.mark.parametrize("batch", [text_batch, image_batch], ids=["text", "image"])
@pytest.mark.parametrize("hook", [{}, {"occurrence": "first"}, {"normalize": False}])
def test_equals_stored_hidden_states(batch, hook):
    """Left padding, images, several sequences per prompt, and the token in the prompt as well."""
    inputs = prompt(with_token_in_prompt(batch()))
    collected, output = run(qwen2_vl(), inputs, hook=hook, num_return_sequences=6)
    hit = check(collected, output, inputs, **hook)
    generated = output.sequences[:, inputs["input_ids"].shape[1] : -1]
    assert 0 < hit.sum() < len(hit)
    assert ((generated == GEN).sum(1) > 1).any()  # first and last differ somewhere


def test_two_runs_are_two_results():
    model, inputs = qwen2_vl(), prompt(text_batch())
    with GenEmbHook(model, GEN) as hook:
        with pytest.raises(RuntimeError, match="no generate"):
            _ = hook.vectors
        torch.manual_seed(3)
        model.generate(**inputs, **SAMPLED, num_return_sequences=5)
        first = hook.vectors.clone()
        assert hook.hit.any() and hook.vectors.shape == (15, 32)
        model.generate(**inputs, do_sample=False, max_new_tokens=1, pad_token_id=PAD)
        assert hook.vectors.shape == (3, 32) and not hook.hit.any()  # nothing of the first run
        torch.manual_seed(3)
        model.generate(**inputs, **SAMPLED, num_return_sequences=5)
    assert torch.equal(hook.vectors, first)


@pytest.mark.parametrize(
    "options",
    [{"use_cache": False}, {"prefill_chunk_size": 4}, {"prefill_chunk_size": 8},
     {"cache_implementation": "static"}],
    ids=["no cache", "chunks", "last chunk of one token", "static cache"],
)  # fmt: skip
def test_however_the_prompt_is_read(options):
    inputs = prompt(with_token_in_prompt(text_batch(length=9)))
    inputs["input_ids"][:, -1] = GEN  # the last chunk alone looks like a generated step
    collected, output = run(qwen2(), inputs, **options)
    check(collected, output, inputs)
    assert collected.hit.any()


def test_prompt_from_a_cache_and_as_embeddings():
    model = qwen2()
    inputs = prompt(text_batch(rows=1, length=9))
    inputs["input_ids"][:, -1] = GEN
    ids = inputs["input_ids"]
    plain, output = run(model, inputs)
    cache = model(ids[:, :-1], use_cache=True).past_key_values
    cached, _ = run(model, inputs | {"past_key_values": cache})
    embeddings = model.get_input_embeddings()(ids)
    embedded, _ = run(
        model, {"inputs_embeds": embeddings, "attention_mask": inputs["attention_mask"]}
    )
    assert check(plain, output, inputs).any()
    assert torch.allclose(cached.vectors, plain.vectors, atol=1e-5)
    assert torch.allclose(embedded.vectors, plain.vectors, atol=1e-5)


def test_a_token_nothing_reads():
    """Written as the last token allowed: no vector, and `unread` says why."""
    model, inputs = qwen2(), prompt(text_batch())
    always = [[[GEN], 1e4]]
    with GenEmbHook(model, GEN) as hook:
        model.generate(**inputs, max_new_tokens=1, sequence_bias=always, pad_token_id=PAD)
        assert not hook.hit.any() and hook.unread.all()
        model.generate(**inputs, max_new_tokens=2, sequence_bias=always, pad_token_id=PAD)
        assert hook.hit.all() and hook.unread.all()
        model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=PAD)
        assert not hook.unread.any()


def test_steps_thrown_away_do_not_count():
    """With synced_gpus a finished process repeats its last step until the others are done."""
    model, inputs = qwen2(), prompt(text_batch())
    always = {"sequence_bias": [[[GEN], 1e4]], "pad_token_id": PAD}
    waited = []

    def others_are_busy(finished, synced_gpus, device):
        waited.extend([True] * bool(finished))
        return len(waited) < 4

    with GenEmbHook(model, GEN) as hook:
        model.generate(**inputs, max_new_tokens=4, **always)
        one_step_more = hook.vectors.clone()
        model._has_unfinished_sequences = others_are_busy
        model.generate(**inputs, max_new_tokens=3, synced_gpus=True, **always)
    assert len(waited) == 4
    # the first repetition reads the last token, the others read it again at wrong positions
    assert torch.allclose(hook.vectors, one_step_more, atol=1e-6) and not hook.unread.any()


def test_removes_itself():
    model, inputs = qwen2(), prompt(text_batch())
    before = set(model.__dict__)
    with GenEmbHook(model, GEN):
        assert "generate" in model.__dict__
    with pytest.raises(KeyError, match="own"):
        with GenEmbHook(model, GEN):
            raise KeyError("own")
    assert set(model.__dict__) == before
    assert not any(module._forward_hooks for module in model.modules())
    model.generate(**inputs, max_new_tokens=2, pad_token_id=PAD)


def test_a_failed_generate_leaves_the_model_usable():
    model, inputs = qwen2(), prompt(text_batch())

    def fails(ids, scores):
        raise ArithmeticError("mid way")

    with GenEmbHook(model, GEN) as hook:
        with pytest.raises(ArithmeticError):
            model.generate(**inputs, **SAMPLED, stopping_criteria=[fails])
        model(**inputs)  # outside generate: not seen
        torch.manual_seed(3)
        model.generate(**inputs, **SAMPLED, num_return_sequences=4)
    torch.manual_seed(3)
    with GenEmbHook(model, GEN) as other:
        model.generate(**inputs, **SAMPLED, num_return_sequences=4)
    assert torch.equal(hook.vectors, other.vectors) and hook.hit.any()


def test_nested_hooks_for_two_tokens():
    model, inputs = qwen2(), prompt(text_batch())
    with GenEmbHook(model, GEN) as outer, GenEmbHook(model, 7) as inner:
        torch.manual_seed(3)
        bias = [*OFTEN, [[7], 2.5]]
        model.generate(**inputs, **SAMPLED | {"sequence_bias": bias}, num_return_sequences=4)
    assert outer.hit.any() and inner.hit.any() and not torch.equal(outer.hit, inner.hit)
    assert "generate" not in model.__dict__


def test_users_stopping_criteria_still_stop():
    model, inputs = qwen2(), prompt(text_batch())
    stop = lambda ids, scores: torch.full((len(ids),), ids.shape[1] >= 12)
    with GenEmbHook(model, GEN):
        tokens = model.generate(**inputs, **SAMPLED, stopping_criteria=[stop])
    assert tokens.shape[1] == 12


def test_refuses_what_it_cannot_follow():
    model, inputs = qwen2(), prompt(text_batch())
    with GenEmbHook(model, GEN) as hook:
        with pytest.raises(ValueError, match="num_beams.*reorders"):
            model.generate(**inputs, num_beams=2, max_new_tokens=2)
        with pytest.raises(ValueError, match="prompt_lookup_num_tokens"):
            model.generate(**inputs, prompt_lookup_num_tokens=2, max_new_tokens=2)
        with pytest.raises(ValueError, match="pads finished rows"):
            model.generate(**inputs, max_new_tokens=2, pad_token_id=GEN)
        model.generation_config.num_beams = 3
        with pytest.raises(ValueError, match="num_beams"):
            model.generate(**inputs, max_new_tokens=2)
        with pytest.raises(RuntimeError, match="already in use"):
            hook.__enter__()
    with pytest.raises(ValueError, match="occurrence"):
        GenEmbHook(model, GEN, occurrence="any")
    with pytest.raises(TypeError, match="token_id"):
        GenEmbHook(model, None)
    with pytest.raises(TypeError, match="no generate"):
        GenEmbHook(torch.nn.Linear(2, 2), GEN)


def test_finds_or_is_told_the_final_norm():
    model, inputs = qwen2(), prompt(text_batch())
    torch.manual_seed(3)
    with GenEmbHook(model, GEN) as found:
        model.generate(**inputs, **SAMPLED, num_return_sequences=4)
    for norm in ("model.norm", model.model.norm):
        torch.manual_seed(3)
        with GenEmbHook(model, GEN, norm=norm) as told:
            model.generate(**inputs, **SAMPLED, num_return_sequences=4)
        assert torch.equal(told.vectors, found.vectors) and found.hit.any()
    with pytest.raises(ValueError, match="no module of that name"):
        GenEmbHook(model, GEN, norm="model.final")
    model.model.last = model.model._modules.pop("norm")
    with pytest.raises(ValueError, match="norm='model.norm'"):
        GenEmbHook(model, GEN)


def test_a_norm_that_is_not_the_final_one_is_an_error():
    model, inputs = qwen2(), prompt(text_batch())
    options = {"max_new_tokens": 3, "pad_token_id": PAD}
    with GenEmbHook(model, GEN, norm=torch.nn.Identity()):  # never runs
        with pytest.raises(RuntimeError, match="ran without its hook"):
            model.generate(**inputs, **options)
    with GenEmbHook(model, GEN, norm="model.layers.0.self_attn"):
        with pytest.raises(RuntimeError, match="returned tuple"):
            model.generate(**inputs, **options)


@pytest.mark.slow
def test_a_forward_compiled_before_is_an_error():
    """Compiled code does not run hooks that came later: no silent miss."""
    model, inputs = qwen2(), prompt(text_batch())
    options = {"max_new_tokens": 3, "pad_token_id": PAD}
    model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
    model.generate(**inputs, **options)
    with GenEmbHook(model, GEN):
        with pytest.raises(RuntimeError, match="disable_compile"):
            model.generate(**inputs, **options)
