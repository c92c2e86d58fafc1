"""Engines over vLLM's and SGLang's protocols against the native one: the same rollouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rollout_checks import by_place, prompts_of, same

from umer1.embedder import BUNDLED, Embedder
from umer1.engine import NativeEngine, Sampling, SpecialTokens
from umer1.model.checkpoint import load_model
from umer1.model.key_names import checkpoint_tensors

TINY = BUNDLED["tiny"]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(25),
        Sampling(25, stop="eos"),
        Sampling(2),
        Sampling(16, max_think_tokens=3),
        pytest.param(Sampling(40, max_think_tokens=0), marks=pytest.mark.slow),
        Sampling(5, max_think_tokens=4),
    ],
    ids=["greedy", "to the end", "cut", "short thinking", "no thinking", "cut in the tag"],
)
def test_rollouts_equal_the_native_ones(make_engine, expected, mine, sampling):
    """A text with its blank picture, an image, images, a video, a prompt with the token."""
    theirs = by_place(make_engine().submit(mine, sampling))
    same(expected(mine, sampling), theirs)


def test_without_samples_only_the_disc_vectors_come(make_engine, expected, mine, servers, kind):
    theirs = by_place(make_engine().submit(iter(mine), Sampling(8), samples=0))
    assert {key[1] for key in theirs} == {-1}
    same(expected(mine, Sampling(8), samples=0), theirs)
    assert len(prompts_of(servers[0][0])) == (0 if kind == "vllm" else len(mine))


def test_a_text_that_goes_on_after_the_token_is_read_where_it_stands(
    servers, make_engine, model, native, mine
):
    """The first token that some text writes plays `<gen_emb>`; "eos" takes the last one."""
    (seen,) = native.submit(mine[1:2], Sampling(12))
    special = SpecialTokens(seen.rollout.tokens[2], native.special.eos_id)
    engine = make_engine()
    engine.special = special
    ours = NativeEngine(model, special)
    for sampling in (Sampling(12), Sampling(12, stop="eos"), Sampling(3)):
        theirs = by_place(engine.submit(mine, sampling))
        assert any(each.rollout.hit for each in theirs.values())
        same(by_place(ours.submit(mine, sampling)), theirs)


def test_samples_of_a_prompt_go_to_one_server_and_repeat(make_engine, servers, mine):
    sampling = Sampling(6, temperature=3.0, seed=3)
    engine = make_engine(2)
    first = by_place(engine.submit(mine[:3], sampling, samples=3))
    one, two = ({str(ids) for ids in prompts_of(server)} for server, _ in servers)
    assert one and two and not one & two
    assert len(first) == 9
    assert len({tuple(first[0, sample].rollout.tokens) for sample in range(3)}) > 1
    again = by_place(engine.submit(mine[:3], sampling, samples=3))
    assert {k: v.rollout.tokens for k, v in first.items()} == {
        k: v.rollout.tokens for k, v in again.items()
    }


def test_new_weights_go_to_every_server(
    make_engine, servers, kind, mine, tmp_path, native, expected
):
    changed = load_model(TINY, dtype=torch.float32)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.05)
    named = [(entry.key, entry.read()) for entry in checkpoint_tensors(changed)]
    own = load_model(TINY, dtype=torch.float32)
    engine = make_engine(2, our_model=own, weights_directory=tmp_path / "weights")
    engine.load(iter(named), version=4)
    assert not list((tmp_path / "weights").iterdir()), "a checkpoint was left behind"
    assert [server.weight_version for server, _ in servers] == ["4", "4"]
    ours = NativeEngine(changed, native.special)
    theirs = by_place(engine.submit(mine, Sampling(10)))
    same(by_place(ours.submit(mine, Sampling(10))), theirs)
    assert {each.rollout.version for each in theirs.values()} == {4}
    before = expected(mine, Sampling(10))
    assert any(before[key].rollout.tokens != theirs[key].rollout.tokens for key in before)
    for bad, message in (
        ([("no.weight", torch.zeros(2))], "no.weight: got shape .2,., the model has no such"),
        ([("model.norm.weight", torch.zeros(2))], "model.norm.weight: got shape .2,., wants"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.load(bad, version=5)
    assert engine.version == 4 and not list((tmp_path / "weights").iterdir())
    if kind == "sglang":
        with pytest.raises(ValueError, match="named: is empty"):
            engine.load([], version=5)
    else:
        with torch.no_grad():
            own.decoder.norm.weight.mul_(0.5)  # a trainer writes in place
        engine.load([], version=5)
        torch.testing.assert_close(servers[1][0].model.decoder.norm.weight, own.decoder.norm.weight)


def test_an_embedder_runs_on_it(servers, kind, picture):
    items = ["seven", {"image": picture, "text": "what?"}]
    ours = Embedder.load("tiny", device="cpu").encode(items, "both", 30, progress=False)
    urls = ",".join(address for _, address in servers)
    embedder = Embedder.load("tiny", device="cpu", engine=f"{kind}:{urls}")
    theirs = embedder.encode(items, "both", 30, progress=False)
    assert ours.reasoning == theirs.reasoning and ours.finish == theirs.finish
    np.testing.assert_allclose(ours.disc, theirs.disc, atol=1e-4)
    np.testing.assert_allclose(ours.gen, theirs.gen, atol=1e-4)
    told = {}
    mixed = ["seven " * 1000, "seven"]
    assert [place for place, _ in embedder.stream(mixed, "both", 30, on_bad=told.__setitem__)] == [
        1
    ]
    message = (
        "wants at most 993: the engine has room for 1023 tokens, 30 of them for max_new_tokens"
    )
    assert message in str(told[0])
    embedder.engine.close()
