"""The mteb model: its mock run, its own batch size, and the vectors of the wrapper that mteb ships."""

import numpy as np
import pytest
import torch

pytest.importorskip("mteb")

from datasets import Dataset, Video
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_implementations.ume_r1 import UMER1Wrapper
from mteb.types import PromptType
from torch.utils.data import DataLoader

import umer1.integrations.mteb as integration
from umer1 import Embedder
from umer1.embedder import BUNDLED
from umer1.integrations.mteb import Umer1Encoder, as_item
from umer1.media import MediaError, MediaLimits

LIMIT = 40
PER_FRAME = 128 * 28 * 28, 768 * 28 * 28  # least and most pixels, set by the shipped wrapper
WHERE = {"hf_split": "test", "hf_subset": "default", "show_progress_bar": False}


@pytest.fixture(scope="module")
def encoder():
    return Umer1Encoder("tiny", max_new_tokens=LIMIT, dtype=torch.float32)


@pytest.fixture(scope="module")
def disc():
    return Umer1Encoder("tiny", mode="disc", dtype=torch.float32)


@pytest.fixture
def encode(encoder, task, batches):
    def run(rows, batch_size=8, model=encoder, **settings):
        loader = rows if isinstance(rows, DataLoader) else batches(rows, 3)
        return model.encode(
            loader, task_metadata=task(), batch_size=batch_size, **WHERE, **settings
        )

    return run


def test_rows_become_items_media_first(pictures):
    first, second, *_ = pictures
    item = as_item({"text": "a", "image": [first, second], "video": None, "id": 7}, "Find:")
    assert item.text == "Find: a"
    assert [medium.source for medium in item.media] == [first, second]
    item = as_item({"text": None, "image": first, "video": {"bytes": b"clip", "path": "x"}})
    assert (item.text, [medium.kind for medium in item.media]) == ("", ["image", "video"])
    assert (item.media[1].source, item.media[1].num_frames) == (b"clip", 8)
    frames = as_item({"video": torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)})
    assert [frame.shape for frame in frames.media[0].source] == [(4, 5, 3)] * 2
    assert frames.media[0].source[1][2, 3].tolist() == [73, 93, 113]
    with pytest.raises(ValueError, match="row, video: has neither bytes nor a path"):
        as_item({"video": {"bytes": None, "path": None}})


def test_a_row_without_anything_is_embedded_too(encode):
    assert np.linalg.norm(encode([{"text": ""}, {"text": "seven"}]), axis=1) == pytest.approx(1)
    assert encode([]).shape == (0, 128)


def test_vectors_do_not_depend_on_the_batch(encode, disc, pictures, clips, monkeypatch):
    rows = [{"text": f"seven {n}", "image": picture, "video": {"bytes": clip, "path": None}}
            for n, (picture, clip) in enumerate(zip(pictures, clips + [None] * 2))]  # fmt: skip
    for row in rows[2:]:
        row["video"] = None
    for model in (None, disc):
        chosen = {} if model is None else {"model": model}
        alone = np.concatenate([encode([row], batch_size=1, **chosen) for row in rows])
        assert len(np.unique(alone.round(3), axis=0)) == len(rows)
        for batch_size in (2, 32):
            np.testing.assert_allclose(encode(rows, batch_size, **chosen), alone, atol=1e-5)
        turned = encode(rows[::-1], 3, **chosen)[::-1]
        np.testing.assert_allclose(turned, alone, atol=1e-5)
    monkeypatch.setattr(integration, "CHUNK_ROWS", 3)
    np.testing.assert_allclose(encode(rows, 32, model=disc), alone, atol=1e-5)


def test_videos_of_a_data_set_are_decoded_here(encode, clips):
    """As files, so that mteb's collator needs no torchcodec, and with the frames it would take."""
    table = Dataset.from_dict({"video": [{"bytes": clip, "path": None} for clip in clips]})
    loader = DataLoader(table.cast_column("video", Video()), batch_size=2,
                        collate_fn=lambda rows: {"video": [row["video"] for row in rows]})  # fmt: skip
    direct = encode([{"video": {"bytes": clip, "path": None}} for clip in clips])
    np.testing.assert_array_equal(encode(loader), direct)
    with pytest.raises(MediaError, match="Some, row 1, video: "):
        encode([{"video": {"bytes": clip, "path": None}} for clip in (clips[0], b"no video")])


@pytest.fixture(scope="module")
def shipped(encoder):
    """mteb's own wrapper in float32, its limit ours; and our encoder with its media rules."""
    from transformers import Qwen2VLForConditionalGeneration

    path = str(BUNDLED["tiny"])
    theirs = UMER1Wrapper(path, device="cpu")
    # it loads bfloat16, in which near ties fall either way
    theirs.model = Qwen2VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    processor = encoder.model.processor
    settings = theirs.model.generation_config
    settings.eos_token_id, settings.pad_token_id = processor.eos_id, processor.pad_id
    generate = theirs.model.generate
    theirs.model.generate = lambda **given: generate(**{**given, "max_new_tokens": LIMIT})
    own = Umer1Encoder("tiny", max_new_tokens=LIMIT, dtype=torch.float32)
    low, high = PER_FRAME
    limits = processor.limits
    own.model.processor.limits = MediaLimits(
        limits.image_min_pixels, limits.image_max_pixels, low, high, blank_image="evaluation"
    )
    return theirs, own


@pytest.mark.parametrize("kind", ["text", "image", "image and text", "images", "video and text"])
def test_equal_to_the_shipped_wrapper(shipped, task, batches, pictures, kind):
    theirs, own = shipped
    words = ["seven", "What is the last digit of the sum?", "a page", "how many?"]
    moving = torch.randint(0, 256, (3, 8, 3, 48, 64), dtype=torch.uint8)
    rows = {
        "text": [{"text": text} for text in words],
        "image": [{"image": picture} for picture in pictures],
        "image and text": [{"image": p, "text": t} for p, t in zip(pictures, words)],
        "images": [{"image": [p, q], "text": "both"} for p, q in zip(pictures, pictures[1:])],
        "video and text": [{"video": clip, "text": t} for clip, t in zip(moving, words)],
    }[kind]
    # videos one at a time, as it does where it knows that they are videos
    size = 1 if kind.startswith("video") else 2
    wanted = theirs.encode(batches(rows, size), task_metadata=task(), **WHERE)
    found = own.encode(batches(rows, 3), task_metadata=task(), batch_size=8, **WHERE)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)


def test_instructions_stand_before_queries(encoder, task, batches, monkeypatch):
    seen = []
    monkeypatch.setattr(encoder, "instructions", True)
    encode = encoder.model.encode
    monkeypatch.setattr(
        encoder.model, "encode", lambda items, **given: seen.append(items[0].text) or encode(items, **given)
    )  # fmt: skip
    rows = batches([{"text": "seven"}], 1)
    for prompt, kind in (("Find it.", "query"), ("Find it.", "document"), ("Find it.", None),
                         ({"query": "Find."}, "query"), ({"query": "Find."}, "document")):  # fmt: skip
        side = None if kind is None else PromptType(kind)
        encoder.encode(rows, task_metadata=task(prompt), prompt_type=side, **WHERE)
    assert seen == ["Find it. seven", "seven", "Find it. seven", "Find. seven", "seven"]


def test_results_of_other_settings_or_weights_have_other_names(encoder, disc, tmp_path):
    meta = encoder.mteb_model_meta
    assert meta.name == "umer1/tiny" and meta.modalities == ["text", "image", "video"]
    assert (meta.embed_dim, meta.n_parameters) == (128, 1404160)
    assert meta.experiment_kwargs == {"max_new_tokens": LIMIT, "dtype": "float32"}
    assert disc.mteb_model_meta.experiment_kwargs == {"mode": "disc", "dtype": "float32"}
    assert disc.mteb_model_meta.revision == meta.revision
    for file in BUNDLED["tiny"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "umer1.json").write_text('{"limits": {"blank_image": "sft"}}')
    other = Umer1Encoder(str(tmp_path), mode="disc").mteb_model_meta
    assert other.name == f"umer1/{tmp_path.name}" and other.revision != meta.revision


def test_a_model_that_mteb_knows_keeps_its_entry_and_revision(monkeypatch):
    asked, load = [], Embedder.load

    def directory(name, patterns, revision=None):
        asked.append((name, revision))
        return BUNDLED["tiny"]

    monkeypatch.setattr(integration, "local_directory", directory)
    monkeypatch.setattr(Embedder, "load", lambda source, **settings: load(source))
    name = "zhibinlan/UME-R1-2B"
    meta, known = Umer1Encoder(name).mteb_model_meta, MODEL_REGISTRY[name]
    assert asked == [(name, known.revision)]
    assert (meta.name, meta.revision, meta.training_datasets) == (
        name, known.revision, known.training_datasets
    )  # fmt: skip
    assert meta.loader is Umer1Encoder and known.loader is UMER1Wrapper
    Umer1Encoder(name, revision="abc")
    assert asked[1] == (name, "abc")


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode: got 'both', wants 'gen' or 'disc'"):
        Umer1Encoder("tiny", mode="both")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_mock_run_passes_all_modalities(mode):
    import mteb

    pytest.importorskip("av")
    results = mteb.mock_run(Umer1Encoder("tiny", mode=mode, max_new_tokens=16))
    failed = {name: each.exception for name, each in results.items() if hasattr(each, "exception")}
    assert not failed
    states = {modality: state for state, modality, _ in results.modality_summary()}
    assert all(states[modality].startswith("✓") for modality in ("text", "image", "video"))
    assert states["audio"] == "skipped"


@pytest.mark.slow
def test_scores_are_those_of_the_shipped_wrapper(shipped):
    """Of whole tasks, texts and pictures; it cannot read a clip without torchcodec."""
    import mteb
    from mteb import mocks

    theirs, own = shipped
    theirs.mteb_model_meta = own.mteb_model_meta
    kinds = (
        mocks.MockRetrievalTask, mocks.MockInstructionRetrieval, mocks.MockRerankingTask,
        mocks.MockClassificationTask, mocks.MockSTSTask, mocks.MockAny2AnyRetrievalI2TTask,
        mocks.MockAny2AnyRetrievalT2ITask, mocks.MockImageClassificationTask,
        mocks.MockImageTextPairClassificationTask, mocks.MockZeroShotClassificationTask,
        mocks.MockMultiChoiceTask,
    )  # fmt: skip
    scores = [
        {each.task_name: each.get_score() for each in mteb.evaluate(
            model, [kind() for kind in kinds], cache=None, show_progress_bar=False
        ).task_results}
        for model in (own, theirs)
    ]  # fmt: skip
    assert len(scores[0]) == len(kinds)
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
