"""Labels and media of the miniature benchmark against the ground truth stored beside it."""

import hashlib
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from umer1.data import missing_media, read_datasets, read_rl, read_sft
from umer1.data.mini.text import WORDS, look
from umer1.prompts import format_ok, parse_response

FILES = ("train/sft.json", "train/rl.json", "eval/")
TARGET_TEXT_TASKS = ("digit_class", "digit_sum", "number_compare", "frame_total", "frame_order")


def answer_from_digits(task, digits, shop):
    """The right answer, written again from the task's description."""
    if task == "digit_class":
        names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        return [names[digits[0]]]
    if task in ("digit_sum", "frame_total"):
        return [str(sum(digits))[-1]]
    if task == "frame_order":
        return [str(digits[digits.index(max(digits)) + 1])]
    if task == "number_compare":
        a, b, c, d = digits
        return [str(abs((10 * a + b) - (10 * c + d)))]
    if task == "digit_match":
        return ["".join(map(str, digits))]
    if task in ("number_caption", "digit_video"):
        return [" ".join(map(str, digits))]
    if task == "page_total":
        return [f"{shop} total {sum(digits)}"]
    if task == "page_change":
        a, b, c, d = digits
        return [f"{shop} change {10 * c + d - 10 * a - b}"]
    raise AssertionError(task)


@pytest.fixture(scope="module")
def labels():
    from sklearn.datasets import load_digits

    return {f"digit/{index}": int(label) for index, label in enumerate(load_digits().target)}


def drawn(truth):
    """The side that shows digits, which for documents and captions is the target."""
    return next(truth[side] for side in ("qry", "pos") if "digits" in truth[side])


@pytest.mark.parametrize("file", FILES)
def test_answers_follow_from_the_source_digits(mini, labels, file):
    checked = Counter()
    for truth in mini.truth_of(file):
        for side in ("qry", "pos"):
            if "digits" not in truth[side]:
                continue
            digits = [labels[identity] for identity in truth[side]["sources"]]
            assert digits == [digit for digit in truth[side]["digits"] if digit is not None]
            expected = answer_from_digits(truth["task"], digits, truth[side].get("shop"))
            assert [truth["answer"]] == expected
            checked[truth["task"]] += 1
    assert len(checked) == 10
    assert min(checked.values()) >= 8


def test_sft_responses_say_the_answer(mini):
    """Summaries equal the answer, target texts equal the answer, arithmetic in the reasoning holds."""
    for record, truth in zip(mini.sft, mini.truth_of("train/sft.json"), strict=True):
        assert record["dataset_name"] == truth["task"]
        summaries = []
        for side in ("qry", "pos"):
            response = record[side]["conversations"][1]["value"]
            assert format_ok(response)
            assert response.endswith("\n<gen_emb>")
            assert "</answer>" not in response
            reasoning, summary = parse_response(response)
            summaries.append(summary.strip())
            # the result of one step may be the first operand of the next
            steps = re.findall(r"(?<!\d)(?=(\d+)([+-])(\d+)=(\d+))", reasoning)
            assert len(steps) == len(re.findall("=", reasoning))
            for one, sign, other, result in steps:
                assert int(one) + int(sign + other) == int(result)
        assert summaries[0] == summaries[1]
        if truth["task"] in ("photo_crop", "clip_moment"):
            continue
        prefix = "page " if truth["task"] == "page_number" else ""
        assert summaries[0] == prefix + truth["answer"]
        if truth["task"] in TARGET_TEXT_TASKS:
            first_line = record["pos"]["conversations"][0]["value"].split("\n")[0]
            assert first_line.strip() == truth["answer"]


def test_reasoning_reads_the_digits_that_are_shown(mini):
    for record, truth in zip(mini.sft, mini.truth_of("train/sft.json"), strict=True):
        task = truth["task"]
        side = (
            "pos" if task.startswith("page") or task in ("number_caption", "digit_video") else "qry"
        )
        if "digits" not in truth[side]:
            continue
        reasoning = parse_response(record[side]["conversations"][1]["value"])[0]
        first = re.sub(r"^[a-z]+\. ", "", reasoning)  # the shop
        shown = [digit for digit in truth[side]["digits"] if digit is not None]
        pattern = r"^\d|(?<=\+)\d" if "+" in first else r"\d"
        assert [int(digit) for digit in re.findall(pattern, first)][: len(shown)] == shown


def test_descriptions_follow_from_the_stored_pictures(mini):
    described = {}
    for record in mini.sft:
        name, target = record["dataset_name"], record["pos"]
        if name == "photo_crop":
            path, subject = target["image"], ""
        elif name == "clip_moment":
            path = target["video"][3]
            subject = path.split("/")[-1].split("_")[0]
        else:
            continue
        with Image.open(mini.root / "train" / path) as picture:
            again = look(picture.convert("RGB"), subject)
        written = target["conversations"][1]["value"]
        described[path] = (parse_response(again)[1].split(), parse_response(written)[1].split())
    # clips are stored as JPEG, which may move one word over a boundary; photos are stored exactly
    lossy = {path: words for path, words in described.items() if "clip_moment" in path}
    assert len(described) == 20 + 5
    assert len(lossy) == 5
    for path, (again, written) in described.items():
        differing = set(again) ^ set(written)
        assert len(differing) <= (2 if path in lossy else 0), (path, again, written)


def test_every_record_uses_only_sources_of_its_split(mini):
    split_of_file = {"train/sft.json": "train", "train/rl.json": "rl"}
    used = defaultdict(set)
    for truth in mini.truth:
        split = split_of_file.get(truth["file"], "test")
        for part in (truth["qry"], truth["pos"], *truth.get("wrong", [])):
            for identity in part.get("sources", []):
                assert mini.sources[identity]["split"] == split, (truth["task"], identity)
                used[split].add(mini.sources[identity]["sha256"])
    assert not used["train"] & used["test"]
    assert not used["train"] & used["rl"]
    assert not used["rl"] & used["test"]
    assert min(map(len, used.values())) > 100


def test_no_stored_picture_of_training_is_one_of_evaluation(mini):
    def hashes(folder):
        files = [p for p in (mini.root / folder).rglob("*") if p.suffix in (".png", ".jpg")]
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    train, rl, test = (hashes(f) for f in ("train/media/sft", "train/media/rl", "eval"))
    assert len(train) > 500
    assert not train & test
    assert not train & rl
    assert not rl & test


def test_a_moments_query_frame_is_not_in_its_clip(mini):
    rows = [truth for truth in mini.truth if truth["task"] == "clip_moment"]
    for truth in rows:
        [frame] = truth["qry"]["sources"]
        assert frame not in truth["pos"]["sources"]
        number = int(frame.split("/")[2])
        window = [int(identity.split("/")[2]) for identity in truth["pos"]["sources"]]
        assert window[0] < number <= window[-1] + 1


def test_matching_numbers_are_in_another_handwriting(mini):
    for truth in mini.truth:
        if truth["task"] == "digit_match":
            query = set(truth["qry"]["sources"])
            for part in (truth["pos"], *truth.get("wrong", [])):
                assert not query & set(part["sources"])


def test_readers_read_it_back(mini):
    sft = read_sft(mini.root / "train/sft.json", mini.root / "train")
    rl = read_rl(mini.root / "train/rl.yaml", mini.root / "train")
    named = read_datasets("mini", mini.root / "registry.yaml")
    assert sft == named
    assert missing_media(sft + rl) == []
    counts = Counter(pair.dataset for pair in sft)
    assert counts == {name: task["counts"]["sft"] for name, task in mini.tasks.items()}
    counts = Counter(pair.dataset for pair in rl)
    assert counts == {name: task["counts"]["rl"] for name, task in mini.tasks.items()}
    for pair in rl:
        same = next(other for other in sft if other.dataset == pair.dataset)
        for side, sft_side in ((pair.query, same.query), (pair.target, same.target)):
            assert bool(side.images) == bool(sft_side.images)
            assert (side.video is None) == (sft_side.video is None)


def test_media_sizes_are_whole_visual_tokens(mini):
    sizes = defaultdict(set)
    for path in (mini.root / "train/media/sft").rglob("*.*"):
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert picture.width % 28 == picture.height % 28 == 0
            sizes[path.relative_to(mini.root / "train/media/sft").parts[0]].add(picture.size)
    assert sizes["digit_sum"] == {(112, 28)}
    assert sizes["number_compare"] == {(140, 28)}
    assert sizes["page_total"] == sizes["page_topic"] == {(112, 140)}
    assert sizes["frame_total"] == {(28, 28)}
    videos = [record["qry"]["video"] for record in mini.sft if "video" in record["qry"]]
    assert {len(video) for video in videos} == {8}  # what the released loaders keep
    assert all(video[0::2] == video[1::2] for video in videos)


def test_drawn_digits_are_recognisable_and_in_their_places(mini, labels):
    """The nearest of all source digits, compared at 8x8, has the label that the truth states."""
    from sklearn.datasets import load_digits

    references = load_digits().data
    references = references / np.linalg.norm(references, axis=1, keepdims=True)
    ids = [labels[f"digit/{index}"] for index in range(len(references))]
    right = []
    for record, truth in zip(mini.sft, mini.truth_of("train/sft.json"), strict=True):
        if truth["task"] not in ("digit_sum", "number_compare", "page_change", "page_total"):
            continue
        side = "pos" if truth["task"].startswith("page") else "qry"
        with Image.open(mini.root / "train" / record[side]["image"]) as picture:
            ink = 255 - np.asarray(picture.convert("L"), dtype=np.float32)
        boxes = {
            "digit_sum": [(28 * n, 0) for n in range(4)],
            "number_compare": [(28 * n, 0) for n in (0, 1, 3, 4)],
            "page_total": [(84, 28), (84, 56), (84, 84)],
            "page_change": [(56, 28), (84, 28), (56, 56), (84, 56)],
        }[truth["task"]]
        digits = [digit for digit in truth[side]["digits"] if digit is not None]
        for (left, top), digit in zip(boxes, digits, strict=True):
            cell = ink[top : top + 28, left : left + 28]
            rows, columns = np.nonzero(cell - cell.min() > 0.4 * np.ptp(cell))
            cell = cell[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            shape = (max(1, round(8 * cell.shape[1] / cell.shape[0])), 8)
            small = Image.fromarray(cell - cell.min()).resize(shape, Image.Resampling.BOX)
            canvas = np.zeros((8, 8), dtype=np.float32)
            values = np.asarray(small)[:, :8]
            canvas[:, (8 - values.shape[1]) // 2 :][:, : values.shape[1]] = values
            scores = references @ (canvas.ravel() / np.linalg.norm(canvas))
            right.append(ids[int(scores.argmax())] == digit)
    assert len(right) >= 300
    assert np.mean(right) > 0.8, np.mean(right)


def test_blank_cell_between_compared_numbers(mini):
    paths = [r["qry"]["image"] for r in mini.sft if r["dataset_name"] == "number_compare"]
    for path in paths:
        with Image.open(mini.root / "train" / path) as picture:
            assert np.ptp(np.asarray(picture)[:, 57:83], axis=(0, 1)).max() == 0


def test_answers_are_spread_evenly(mini):
    answers = defaultdict(Counter)
    for truth in mini.truth_of("train/sft.json"):
        answers[truth["task"]][truth["answer"]] += 1
    for task in ("digit_class", "digit_sum", "frame_total"):
        assert answers[task] == {
            answer: 2 for answer in (WORDS if task == "digit_class" else "0123456789")
        }
    for task in ("number_compare", "page_total", "page_change", "page_number"):
        assert max(answers[task].values()) == 1


def test_largest_digit_is_followed_by_another(mini):
    for truth in mini.truth:
        if truth["task"] == "frame_order":
            digits = drawn(truth)["digits"]
            assert len(set(digits)) == 4
            assert digits.index(max(digits)) < 3
