"""`Embedder.encode`: shapes, modes, read-outs, misses, bad input."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from umer1 import Embedder
from umer1.engine import NativeEngine, SpecialTokens
from umer1.engine.memory import page_bytes
from umer1.engine.pages import PAGE_LENGTH, pages_for
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import pack
from umer1.model.tiny import build_tokenizer, tiny_config
from umer1.processor import MediaLimits, Processor

LIMITS = MediaLimits(
    image_min_pixels=784, image_max_pixels=3136, video_min_pixels=784, video_max_pixels=784, num_frames=4,
    blank_image="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a cat", "a dog"], 420)
    config = tiny_config(len(tokenizer), tokenizer, hidden=32, layers=2, intermediate=48, vision_dim=32, vision_depth=1,
                         vision_heads=2, initializer_range=0.3)  # fmt: skip
    return Embedder(Qwen2VL(config).reset_parameters(), Processor.from_parts(tokenizer, LIMITS))


@pytest.fixture(scope="module")
def items():
    picture = Image.fromarray(np.arange(28 * 56 * 3, dtype=np.uint8).reshape(28, 56, 3))
    frames = [picture.rotate(angle) for angle in (0, 90, 180)]
    return ["a cat", {"image": picture, "text": "what is it?"}, {"images": [picture, picture.rotate(5)]},
            {"video": frames, "instruction": "Describe", "text": "this"}]  # fmt: skip


def test_both_modes_from_one_call(embedder, items):
    out = embedder.encode(items, max_new_tokens=5, progress=False)
    for vectors in (out.disc, out.gen):
        assert (
            vectors.shape == (4, 32) and vectors.dtype == np.float32 and vectors.flags.c_contiguous
        )
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(out.reasoning) == len(out.summary) == len(out.tokens) == len(out.finish) == 4
    assert set(out.finish) <= {"gen_emb", "length", "eos"} and out.hit.shape == (4,)


@pytest.mark.parametrize("readout", ["at", "after"])
def test_disc_is_the_state_at_its_token_in_every_mode_and_batch_size(embedder, items, readout):
    wanted = []
    for item in items:
        sequence = embedder.processor.encode(item, mode="gen")
        place = embedder.processor.disc_position(sequence) + (readout == "after")
        with torch.no_grad():
            wanted.append(F.normalize(embedder.model(pack([sequence]))[place], dim=-1))
    for mode, batch_size in (("disc", 1), ("disc", 3), ("both", 2)):
        out = embedder.encode(
            items, mode, max_new_tokens=2, batch_size=batch_size, readout=readout, progress=False
        )
        np.testing.assert_allclose(out.disc, torch.stack(wanted).numpy(), atol=1e-5)


def test_samples_have_an_axis_of_their_own(embedder, items):
    out = embedder.encode(
        items, "gen", max_new_tokens=4, temperature=1.0, n=3, seed=1, progress=False
    )
    assert out.disc is None and out.gen.shape == (4, 3, 32) and out.hit.shape == (4, 3)
    assert all(len(texts) == 3 for texts in out.reasoning)
    again = embedder.encode(
        items, "gen", max_new_tokens=4, temperature=1.0, n=3, seed=1, batch_size=7, progress=False
    )
    np.testing.assert_allclose(out.gen, again.gen, atol=1e-5)
    other = embedder.encode(
        items, "gen", max_new_tokens=4, temperature=1.0, n=3, seed=2, progress=False
    )
    assert out.tokens != other.tokens or not np.allclose(out.gen, other.gen)


def test_seeds_of_items_decide_their_samples(embedder, items):
    """Whatever is around them: the same item with the same seed, twice in a call and in another call."""
    settings = dict(mode="gen", max_new_tokens=6, temperature=1.0, n=2, progress=False)
    out = embedder.encode([*items, items[0], items[0]], seed=[1, 2, 3, 4, 1, 9], **settings)
    np.testing.assert_allclose(out.gen[0], out.gen[4], atol=1e-5)
    assert out.reasoning[0] == out.reasoning[4]
    assert not np.allclose(out.gen[0], out.gen[5], atol=1e-3)
    seeds = np.array([1, 2, 3, 4, 1, 9])
    numpy = embedder.encode([*items, items[0], items[0]], seed=seeds, **settings)
    assert numpy.reasoning == out.reasoning
    one = [embedder.encode(items, seed=kind(3), **settings).reasoning for kind in (int, np.int64)]
    assert one[0] == one[1]
    alone = embedder.encode([items[2]], seed=[3], **settings)
    np.testing.assert_allclose(alone.gen[0], out.gen[2], atol=1e-5)


def test_sampling_options_reach_the_engine(embedder, items):
    settings = dict(mode="gen", max_new_tokens=8, temperature=1.0, progress=False)
    greedy = embedder.encode(items, **settings | {"temperature": 0.0})
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        np.testing.assert_allclose(
            embedder.encode(items, **settings, **narrow).gen, greedy.gen, atol=1e-5
        )
    cut = embedder.encode(items, max_think_tokens=0, **settings)
    assert all(text == "" for text in cut.reasoning)
    assert cut.tokens == [8] * 4 or set(cut.finish) != {"length"}


def test_stream_gives_every_item_once_and_what_encode_gives(embedder, items):
    settings = dict(max_new_tokens=6, temperature=1.0, n=2, seed=5)
    whole = embedder.encode(items, progress=False, **settings)
    seen = dict(embedder.stream(items, batch_size=2, **settings))
    assert sorted(seen) == [0, 1, 2, 3]
    for place, one in seen.items():
        np.testing.assert_allclose(one.gen[0], whole.gen[place], atol=1e-5)
        np.testing.assert_allclose(one.disc[0], whole.disc[place], atol=1e-5)
        assert one.reasoning[0] == whole.reasoning[place] and one.gen.shape == (1, 2, 32)
    # the rest of an interrupted run, by its numbers in the whole
    rest = dict(embedder.stream(items[2:], numbers=[2, 3], **settings))
    np.testing.assert_allclose(rest[1].gen[0], whole.gen[3], atol=1e-5)
    disc = dict(embedder.stream(items, "disc"))
    assert disc[1].gen is None and disc[1].disc.shape == (1, 32)


def test_pictures_are_opened_as_they_are_needed(embedder, tmp_path):
    """Ten thousand items need not be in memory at once."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (28, 28)).save(path)
    stream = embedder.stream(
        [{"image": path}] * 8 + [{"image": tmp_path / "none.png"}], "disc", batch_size=1
    )
    assert next(stream)[0] == 0
    with pytest.raises(ValueError, match="item 8.*'image'"):
        list(stream)


@pytest.mark.parametrize("mode", ["disc", "both"])
def test_media_that_cannot_be_used_may_be_passed_over(embedder, items, tmp_path, mode):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = {1: {"image": tmp_path / "none.png"}, 4: {"video": tmp_path / "broken.png"}}
    mixed = [items[0], bad[1], items[1], items[2], bad[4]]
    told = {}
    settings = dict(mode=mode, max_new_tokens=3)
    seen = dict(embedder.stream(mixed, batch_size=2, on_bad=told.__setitem__, **settings))
    assert sorted(told) == [1, 4] and sorted(seen) == [0, 2, 3]
    assert "none.png" in str(told[1]) and "item 4" in str(told[4])
    for place, item in ((0, items[0]), (2, items[1]), (3, items[2])):
        wanted = embedder.encode(item, progress=False, **settings)
        np.testing.assert_allclose(seen[place].disc, wanted.disc, atol=1e-5)


@pytest.mark.parametrize("mode, new", [("disc", 0), ("both", 3)])
def test_items_longer_than_the_model_reads_may_be_passed_over(embedder, monkeypatch, mode, new):
    def reads(tokens):
        config = replace(embedder.model.config, max_position_embeddings=tokens)
        monkeypatch.setattr(embedder.model, "config", config)

    items, told = ["a cat", "a cat " * 50, "a dog"], {}
    short, long = (embedder.prompt({"text": text}, mode).sequence for text in items[:2])
    settings = dict(mode=mode, max_new_tokens=3)
    reads(len(short) + new)
    seen = dict(embedder.stream(items, batch_size=1, on_bad=told.__setitem__, **settings))
    assert sorted(told) == [1] and sorted(seen) == [0, 2]
    why = f"the model reads {len(short) + new} tokens" + ", 3 of them for max_new_tokens" * (
        new > 0
    )
    message = f"item 1: {len(long)} prompt tokens, wants at most {len(short)}: {why}"
    assert str(told[1]) == message
    with pytest.raises(ValueError, match=message):
        embedder.encode(items, progress=False, **settings)
    reads(len(long) + new)
    assert len(embedder.encode(items, progress=False, **settings).disc) == 3


def test_items_longer_than_the_engine_holds_may_be_passed_over(embedder):
    config, special = embedder.model.config, SpecialTokens.of(embedder.processor)
    items = ["a cat", "a cat " * 100, "a dog"]
    pages = pages_for(len(embedder.prompt({"text": items[0]}).sequence))
    memory = (pages + 2) * page_bytes(config, torch.float32)  # scratch, and one for what is written
    engine = NativeEngine(embedder.model, special, slots=2, kv_memory=memory)
    small, told = Embedder(embedder.model, embedder.processor, engine=engine), {}
    seen = dict(small.stream(items, max_new_tokens=3, batch_size=2, on_bad=told.__setitem__))
    assert sorted(told) == [1] and sorted(seen) == [0, 2]
    room = pages * PAGE_LENGTH
    message = f"wants at most {room}: the engine has room for {room + 3} tokens, 3 of them for max"
    assert str(told[1]).startswith("item 1: ") and message in str(told[1])
    # a prompt that is read at once and not continued needs none of that memory
    assert len(small.encode(items, "disc", progress=False, batch_size=2).disc) == 3
    with pytest.raises(ValueError, match="max_new_tokens: got 999, leaves no room for a prompt"):
        small.encode("a cat", max_new_tokens=999, progress=False, batch_size=2)


def test_a_miss_is_reported(embedder, caplog):
    with caplog.at_level(logging.WARNING, "umer1"):
        out = embedder.encode("a cat", "gen", max_new_tokens=1, progress=False)
    assert not out.hit.any() and out.finish == ["length"] and "no <gen_emb>" in caplog.text


def test_one_item_and_none(embedder):
    assert embedder.encode("a cat", "disc", progress=False).disc.shape == (1, 32)
    messages = [{"role": "user", "content": "a cat"}]
    np.testing.assert_allclose(
        embedder.encode(messages, "disc", progress=False).disc,
        embedder.encode("a cat", "disc", progress=False).disc,
    )
    empty = embedder.encode([], progress=False)
    assert empty.disc.shape == empty.gen.shape == (0, 32)


@pytest.mark.parametrize("arguments, message", [
    ({"mode": "best"}, "mode: got 'best'"), ({"readout": "before"}, "readout: got 'before'"),
    ({"n": 2}, "n: got 2 with temperature 0"), ({"n": 0, "temperature": 1.0}, "n: got 0"),
    ({"batch_size": 0}, "batch_size: got 0"), ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
    ({"stop": "never"}, "stop: got 'never'"), ({"max_think_tokens": -1}, "max_think_tokens: got -1"),
    ({"seed": [1, 2]}, "seed: got 2 numbers for 1 items"),
])  # fmt: skip
def test_bad_arguments_name_themselves(embedder, arguments, message):
    with pytest.raises(ValueError, match=message):
        embedder.encode("a cat", progress=False, **arguments)


def test_bad_items_name_their_number_and_field(embedder, tmp_path):
    with pytest.raises(ValueError, match="item 1.*'image'"):
        embedder.encode(["a", {"image": tmp_path / "none.png"}], progress=False)
    with pytest.raises(ValueError, match="item 0.*unknown key 'txt'"):
        embedder.encode({"txt": "a"}, progress=False)
