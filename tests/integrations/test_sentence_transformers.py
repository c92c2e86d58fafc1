"""The SentenceTransformer: vectors of the Embedder, a directory that loads, training through both losses."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("sentence_transformers", minversion="6.0")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

from umer1 import Embedder
from umer1.integrations.sentence_transformers import to_sentence_transformer
from umer1.integrations.sentence_transformers_inputs import as_item, features_of, sequences_of
from umer1.integrations.sentence_transformers_losses import CachedInfoNCELoss, InfoNCELoss
from umer1.prompts import Item, Medium

LIMIT = 24
SYMMETRIC = {
    "scale": 50.0,
    "directions": ("query_to_doc", "doc_to_query"),
    "partition_mode": "per_direction",
}


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def model():
    return to_sentence_transformer("tiny", dtype=torch.float32, max_new_tokens=LIMIT)


@pytest.fixture
def trainee():
    return to_sentence_transformer("tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def inputs(pictures):
    """The same items as sentence-transformers and as the Embedder take them."""
    first, second, *_ = pictures
    frames = np.stack([np.asarray(picture.resize((56, 28))) for picture in pictures])
    turn = [{"type": "image", "image": first}, {"type": "text", "text": "seven"}]
    messages = [{"role": "user", "content": turn}]
    both = [("seven", "seven"), (first, first), ({"text": "what", "image": second},) * 2]
    both += [({"text": "x", "images": [first, second]},) * 2, (messages, messages)]
    both += [(np.asarray(first), first), (torch.tensor(np.asarray(first)).permute(2, 0, 1), first)]
    both += [({"video": frames, "text": "clip"}, {"video": list(frames), "text": "clip"})]
    clip = {"array": frames, "video_metadata": {"fps": 1}}
    both += [(torch.tensor(frames).permute(0, 3, 1, 2), {"video": list(frames)})]
    both += [(clip, {"video": list(frames)}), ({"video": clip}, {"video": list(frames)})]
    return [list(each) for each in zip(*both)]


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_vectors_are_those_of_the_embedder(model, embedder, inputs, mode):
    theirs, own = inputs
    expected = getattr(embedder.encode(own, mode, LIMIT, progress=False), mode)
    np.testing.assert_allclose(model.encode(theirs, mode=mode), expected, atol=2e-6)
    np.testing.assert_allclose(model.encode(theirs, mode=mode, batch_size=3), expected, atol=2e-6)
    alone = model.encode(theirs[2], mode=mode, convert_to_tensor=True)
    np.testing.assert_allclose(alone, expected[2], atol=2e-6)


def test_queries_and_documents_have_their_prompts(embedder, pictures):
    prompts = {"query": "Find: ", "document": "Said: "}
    model = to_sentence_transformer("tiny", dtype=torch.float32, prompts=prompts)
    turn = [{"type": "text", "text": "a "}, {"type": "image", "image": pictures[0]}]
    given = ["seven", pictures[0], [{"role": "user", "content": turn}]]
    for encode, prompt in (
        (model.encode_query, "Find: "),
        (model.encode_document, "Said: "),
        (model.encode, ""),
    ):
        between = [{"type": "text", "text": f"{prompt}a "}, turn[1]]
        expected = embedder.encode(
            [f"{prompt}seven", {"text": prompt, "image": pictures[0]}, [{"role": "user", "content": between}]],
            "disc", progress=False,
        )  # fmt: skip
        np.testing.assert_allclose(encode(given), expected.disc, atol=2e-6)


def test_gen_mode_tells_what_was_written(model, embedder, pictures):
    given = [{"text": "what", "image": picture} for picture in pictures]
    expected = embedder.encode(given, "gen", 12, max_think_tokens=4, progress=False)
    details = model.encode(
        given, mode="gen", max_new_tokens=12, max_think_tokens=4, output_value=None
    )
    read = [model[0].read(each["completion_ids"]) for each in details]
    assert read == list(zip(expected.reasoning, expected.summary))
    assert [bool(each["hit"]) for each in details] == expected.hit.tolist()
    assert 0 < expected.hit.sum() < len(given)  # both cases


def test_a_saved_directory_loads(model, pictures, tmp_path):
    given = ["seven", {"text": "what", "image": pictures[0]}]
    settings = {"mode": "gen", "max_new_tokens": 12, "stop": "eos", "max_think_tokens": 3, "readout": "after"}  # fmt: skip
    saved = to_sentence_transformer("tiny", prompts={"query": "Find: "}, **settings)
    saved.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path))
    loaded = SentenceTransformer(str(tmp_path), trust_remote_code=True)
    assert loaded[0].get_config_dict() == settings and loaded.prompts["query"] == "Find: "
    assert loaded.get_embedding_dimension() == 128 and loaded.tokenizer.eos_token == "<|im_end|>"
    np.testing.assert_array_equal(loaded.encode_query(given), saved.encode_query(given))
    np.testing.assert_array_equal(
        loaded.encode(given, mode="disc"), saved.encode(given, mode="disc")
    )
    # the checkpoint of everybody else
    own = Embedder.load(tmp_path, dtype=torch.float32).encode(given, "disc", progress=False).disc
    np.testing.assert_allclose(model.encode(given), own, atol=2e-6)
    half = SentenceTransformer(
        str(tmp_path), trust_remote_code=True, model_kwargs={"dtype": "bfloat16"}
    )
    assert half.dtype == torch.bfloat16 and half.encode(given).dtype == np.float32
    with pytest.raises(ValueError, match="model_kwargs: got 'device_map', wants only 'dtype'"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True, model_kwargs={"device_map": "x"})


def test_features_hold_the_prompts(embedder, pictures):
    rows = ["seven", {"images": pictures[:2]}, pictures[2], "a long text and nothing else"]
    sequences = [embedder.processor.encode(as_item(row, "", "row"), mode="gen") for row in rows]
    features = features_of(sequences, embedder.processor.pad_id)
    assert features["num_images_per_sample"].tolist() == [0, 2, 1, 0]
    for found, expected in zip(sequences_of(features), sequences, strict=True):
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.media_mask, expected.media_mask)
        assert torch.equal(found.grid_thw, expected.grid_thw)
        if expected.pixel_values is None:
            assert found.pixel_values is None
        else:
            assert torch.equal(found.pixel_values, expected.pixel_values)
    assert "pixel_values" not in features_of(sequences[:1], 0)


def gradients(model, loss, columns):
    model.train()
    model.zero_grad()
    value = loss([model.preprocess(column) for column in columns], None)
    value.backward()
    return value.detach(), torch.cat([each.grad.flatten() for each in model.parameters()])


def test_both_losses_have_the_gradient_of_the_vectors(trainee, embedder, pictures):
    """Mini-batches cut rows with no, one and two pictures apart."""
    columns = [
        ["one", "two", "three", "four", "five"],
        ["1", pictures[0], {"images": pictures[1:3]}, {"text": "4", "image": pictures[3]}, "5"],
    ]
    queries, targets = (
        torch.tensor(embedder.encode(column, "disc", progress=False).disc) for column in columns
    )
    logits, own = 50.0 * queries @ targets.T, torch.arange(5)
    symmetric = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    plain = gradients(trainee, MultipleNegativesRankingLoss(trainee, **SYMMETRIC), columns)
    assert float(plain[0]) == pytest.approx(float(symmetric), rel=1e-5)
    scale = plain[1].abs().max()
    assert scale > 1
    for loss in (
        InfoNCELoss(trainee, **SYMMETRIC),
        CachedInfoNCELoss(trainee, mini_batch_size=2, **SYMMETRIC),
        CachedMultipleNegativesRankingLoss(trainee, mini_batch_size=2, **SYMMETRIC),
    ):
        value, gradient = gradients(trainee, loss, columns)
        assert float(value) == pytest.approx(float(plain[0]), rel=1e-5)
        assert (gradient - plain[1]).abs().max() / scale < 1e-4
        assert trainee[0].model.training  # the pass without gradients leaves it as it was


def test_encode_sees_new_weights_and_places(trainee, pictures):
    given = ["seven", pictures[0]]
    before = trainee.encode(given)
    loss = F.mse_loss(trainee(trainee.preprocess(given))["sentence_embedding"], torch.ones(2, 128))
    loss.backward()
    for parameter in trainee.parameters():
        parameter.data.add_(parameter.grad, alpha=-1.0)  # a write that leaves no trace
    fresh = copy.deepcopy(trainee)
    after = trainee.encode(given)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(after, fresh.encode(given))
    written = trainee.encode(given, mode="gen", max_new_tokens=4)
    np.testing.assert_array_equal(written, fresh.encode(given, mode="gen", max_new_tokens=4))
    half = trainee.to(torch.bfloat16).encode(given)
    assert 0 < np.abs(half - fresh.encode(given)).max() < 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trainer_trains(trainee, tmp_path):
    pytest.importorskip("accelerate")
    from datasets import Dataset
    from PIL import Image
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0), "white": (255,) * 3}
    pictures = [Image.new("RGB", (56, 28), colour) for colour in colours.values()]
    pairs = Dataset.from_dict({"anchor": list(colours), "positive": pictures})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=15, per_device_train_batch_size=4, learning_rate=3e-4,
        logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=trainee, args=arguments, train_dataset=pairs, loss=InfoNCELoss(trainee, **SYMMETRIC)
    )
    trainer.train()
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    assert losses[0] > 4 and losses[-1] < 0.5 * losses[0]
    # what encode gives is what was trained
    queries = trainee.encode_query(list(colours), convert_to_tensor=True)
    logits = 50.0 * trainee.similarity(queries, trainee.encode_document(pictures))
    own = torch.arange(4)
    after = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert 0 < float(after) < losses[-1] + 0.05


def test_bad_arguments(model, pictures, tmp_path):
    for settings, message in (
        ({"mode": "both"}, "mode: got 'both', wants 'disc' or 'gen'"),
        ({"readout": "before"}, "readout: got 'before'"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            to_sentence_transformer("tiny", **settings)
    with pytest.raises(ValueError, match="mode: got 'both'"):
        model.encode("seven", mode="both")
    with pytest.raises(ValueError, match="max_new_tokens: got 0"):
        model.encode("seven", mode="gen", max_new_tokens=0)
    with pytest.raises(TypeError, match="input 1: is a pair of texts"):
        model.encode(["one", ("a", "b")])
    with pytest.raises(ValueError, match="input 0: has an image and a video"):
        model.encode({"image": pictures[0], "video": pictures[:2]})
    with pytest.raises(ValueError, match="input 0: is empty"):
        model.encode([" "])
    with pytest.raises(ValueError, match="input 1: its prompt has [0-9]+ tokens, max_length is 25"):
        model.preprocess(["a", "b " * 40], max_length=25)
    with pytest.raises(ValueError, match="safe_serialization"):
        model[0].save(str(tmp_path), safe_serialization=False)
    assert not list(tmp_path.iterdir())
    model.train()
    with pytest.raises(RuntimeError, match="mode: 'gen' has no gradient"):
        model(model.preprocess(["a"], mode="gen"), mode="gen")
    model.eval()


def test_strings_that_name_media_are_media(pictures, tmp_path):
    path = str(tmp_path / "picture.png")
    pictures[0].save(path)
    assert as_item(path, "", "input 0") == Item("", (Medium("image", path),))
    assert as_item("no.png", "", "input 0") == Item("no.png")
    assert as_item("https://example.org/a.mp3", "", "x") == Item("https://example.org/a.mp3")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_of_a_pool_give_the_same_vectors(model):
    texts = [f"number {number}" for number in range(6)]
    expected = model.encode(texts, mode="gen", max_new_tokens=6)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = model.encode(texts, mode="gen", max_new_tokens=6, pool=pool, chunk_size=3)
    finally:
        model.stop_multi_process_pool(pool)
    np.testing.assert_allclose(found, expected, atol=2e-6)
