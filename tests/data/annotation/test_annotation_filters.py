"""Which answers are kept, and the reason for each that is not."""

import dataclasses
import json

import numpy as np
import pytest

from umer1.data.annotation.filters import Dropped, Filters, Kept, judge, tokenizer_counter
from umer1.data.annotation.repetition import find_repetition
from umer1.data.annotation.reply import Reply, Usage

DEFAULT = Filters()
GOOD = "<think>It is a cat.</think><answer>a cat</answer>"
LOOP = "the cat sat on the mat . " * 30


def verdict(content, filters=DEFAULT, count=None, **about):
    return judge(Reply(content, **about), filters, count)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        "\n<think>\nIt is a cat.\n</think>\n\n<answer>\na cat\n</answer>\n",
        "<think>It is a cat.</think><answer>a cat",  # as in the released data
        "It is a cat.</think><answer>a cat</answer>",  # <think> was in the prompt
    ],
)
def test_the_format_and_its_known_variants(content):
    kept = verdict(content)
    assert (kept.reasoning, kept.summary) == ("It is a cat.", "a cat")


@pytest.mark.parametrize("content", ["<answer>a cat</answer>", "a cat", "<answer>a cat"])
def test_servers_that_part_reasoning_from_content(content):
    kept = verdict(content, reasoning="It is a cat.")
    assert (kept.reasoning, kept.summary) == ("It is a cat.", "a cat")


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("a cat", "no </think>"),
        ("<think>It is", "no </think>"),
        ("<think>It is a cat.</think>a cat", "no <answer> after </think>"),
        ("<think>It is a cat.</think>", "empty summary"),
        ("<think>It is a cat.</think>So: <answer>a cat</answer>", "no <answer> after </think>"),
        ("<think>It is a cat.</think><answer> </answer>", "empty summary"),
        ("<think> </think><answer>a cat</answer>", "empty reasoning"),
        (GOOD + "<think>No.</think><answer>a dog</answer>", "tags more than once"),
        ("<think>a</think>b</think><answer>c</answer>", "no <answer>"),
        ("<think>a</think><answer>c</answer> d", "tags more than once"),
        ("Well. <think>a</think><answer>c</answer>", "tags more than once"),
        ("<think>a <|im_end|></think><answer>c</answer>", "control token <|im_end|>"),
        ("<think>a</think><answer>c <gen_emb></answer>", "control token <gen_emb>"),
        ("<think>a</think><answer><|begin_of_box|><|end_of_box|></answer>", "empty summary"),
        ("<think>a \ud800</think><answer>c</answer>", "not valid Unicode"),
    ],
)
@pytest.mark.parametrize("box", ["strip", "keep"])
def test_format(content, detail, box):
    dropped = verdict(content, Filters(box=box))
    assert dropped.kind == "format" and detail in dropped.detail


def test_boxes_are_stripped_or_kept():
    content = "<think>So <|begin_of_box|>7<|end_of_box|>.</think><answer><|begin_of_box|>seven<|end_of_box|></answer>"
    stripped = verdict(content)
    assert (stripped.reasoning, stripped.summary, stripped.had_box) == ("So 7.", "seven", True)
    kept = verdict(content, Filters(box="keep"))
    assert kept.summary == "<|begin_of_box|>seven<|end_of_box|>" and kept.had_box
    assert kept.reasoning == "So <|begin_of_box|>7<|end_of_box|>."
    assert verdict(GOOD).had_box is False


def test_answers_that_the_server_ended():
    assert verdict(GOOD, finish="length") == Dropped(
        "length", "cut off at the most tokens of an answer"
    )
    assert verdict("", finish="content_filter").kind == "refused"


def test_length_by_whoever_knows_best():
    limits = Filters(max_reasoning_tokens=10)
    ten, eleven = "word " * 10, "word " * 11

    def count(text):
        return len(text.split())

    def told(words, **about):
        return verdict(f"<think>{words}</think><answer>a</answer>", limits, **about)

    content = f"<think>{ten}</think><answer>a</answer>"
    assert verdict(content, limits, count).tokens == 10
    assert verdict(content, limits, count).counted_by == "tokenizer"
    assert verdict(f"<think>{eleven}</think><answer>a</answer>", limits, count).kind == "length"
    # the server's own number of reasoning tokens
    assert told(ten, usage=Usage(1, 90, 10)).counted_by == "server"
    assert told(ten, usage=Usage(1, 90, 11)).kind == "length"
    # of both together, shared out by characters: 49 of 83
    assert told(ten, usage=Usage(1, 17)).tokens == 10
    assert told(ten, usage=Usage(1, 18)).kind == "length"
    # nobody told: four bytes each
    assert told("x" * 40) == Kept("x" * 40, "a", 10, "characters", False)
    assert told("x" * 41).kind == "length"


def test_the_papers_bound():
    content = "<think>a b</think><answer>c</answer>"
    assert isinstance(verdict(content, usage=Usage(1, 9000, 8192)), Kept)
    assert (
        verdict(content, usage=Usage(1, 9000, 8193)).detail == "reasoning of more than 8192 tokens"
    )


def test_a_tokenizer_from_a_model_directory(tmp_path):
    from umer1.embedder import BUNDLED

    count = tokenizer_counter(str(BUNDLED["tiny"]))
    assert count("") == 0 and count("a cat " * 50) > 50
    with pytest.raises(ValueError, match="tokenizer: no such file: .*tokenizer.json"):
        tokenizer_counter(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match="not a tokenizer.json"):
        tokenizer_counter(str(tmp_path))


@pytest.mark.parametrize("part", ["think", "answer"])
def test_loops_are_dropped_wherever_they_stand(part):
    texts = {"think": "so", "answer": "cat"} | {part: LOOP}
    content = f"<think>{texts['think']}</think><answer>{texts['answer']}</answer>"
    assert verdict(content).kind == "repetition"
    assert isinstance(verdict(content, Filters(repeats=31)), Kept)


def test_repetition_names_the_unit():
    assert find_repetition(LOOP) == ("the cat sat on the mat .", 30)
    assert find_repetition("A few words first: " + LOOP + "and some after") == (
        "the cat sat on the mat .", 30,
    )  # fmt: skip
    assert find_repetition("so " * 64) == ("so", 64)
    assert find_repetition("so " * 63) is None
    assert find_repetition("Wait, no. " * 16) == ("wait , no .", 16)


def test_repetition_in_very_short_texts():
    assert find_repetition("so so", copies=2, span=2) == ("so", 2)
    assert find_repetition("so", copies=2, span=1) is None
    assert find_repetition("", copies=2, span=1) is None


def test_repetition_without_spaces():
    assert find_repetition("猫在垫子上" * 20)[1] == 20
    assert find_repetition("ha" * 2000) is not None
    assert find_repetition("abc" * 3000) is not None  # cut pieces of 32 letters repeat every third


def test_units_of_a_page_count_and_ordinary_text_does_not():
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in random.integers(0, 3000, 150)]
    page = " ".join(words) + " "
    assert find_repetition(page * 4)[1] == 4
    assert find_repetition(page * 3) is None  # three copies of 150 words
    assert find_repetition(" ".join(f"w{n}" for n in random.integers(0, 300, 8000))) is None
    # a table: rows alike, values not
    rows = " ".join(f"row {n} : value {n * 7 % 101} of total" for n in range(200))
    assert find_repetition(rows) is None


def naive_repetition(words, copies, span):
    """Length of the longest stretch of copies, tried at every place."""
    best = 0
    for unit in range(1, min(200, len(words) // copies) + 1):
        for start in range(len(words) - unit):
            end = start + unit
            while end < len(words) and words[end] == words[end - unit]:
                end += 1
            if end - start >= max(copies * unit, span):
                best = max(best, end - start)
    return best


def test_repetition_equals_trying_every_place():
    random = np.random.default_rng(1)
    for _ in range(60):
        words = [str(number) for number in random.integers(0, 2, random.integers(5, 60))]
        copies, span = int(random.integers(2, 5)), int(random.integers(4, 12))
        found = find_repetition(" ".join(words), copies, span)
        wanted = naive_repetition(words, copies, span)
        assert (found is None) == (wanted == 0)
        if found:
            assert wanted // len(found[0].split()) == found[1]


@pytest.mark.parametrize("bad", [{"box": "drop"}, {"max_reasoning_tokens": 0}, {"repeats": 1}])
def test_bad_filters_name_the_setting(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}: "):
        Filters(**bad)


def test_filters_cannot_be_changed_behind_a_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Filters().box = "keep"
