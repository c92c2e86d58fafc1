"""Evaluation files of the miniature benchmark: candidates, near misses, relevance, wording."""

import json
import re
from collections import Counter, defaultdict

import pytest
import yaml

from umer1.data.mini.text import WORDS
from umer1.evaluation.datasets.loading import load_tasks
from umer1.prompts import GENERATION_INSTRUCTION, parse_item, render_prompt


def drawn(truth):
    """The side that shows digits, which for documents and captions is the target."""
    return next(truth[side] for side in ("qry", "pos") if "digits" in truth[side])


@pytest.fixture(scope="module")
def eval_tasks(mini):
    return {task.name: task for task in load_tasks(mini.root)}


def test_evaluation_files_load_with_the_counts_stated(mini, eval_tasks):
    assert list(mini.tasks) == list(eval_tasks)
    assert len(mini.tasks) == 14
    for name, task in eval_tasks.items():
        stated = mini.tasks[name]
        assert (task.modality, task.kind) == (stated["modality"], stated["kind"])
        if name == "page_topic":
            assert (len(task.queries), len(task.candidates)) == (20, 40)
        else:
            assert len(task.queries) == stated["counts"]["evaluation"] == 40
    kinds = Counter(task["kind"] for task in mini.tasks.values())
    assert kinds == {"one_look": 8, "multi_step": 6}


def test_each_candidate_list_has_its_label_once_and_no_repeats(mini, eval_tasks):
    sizes = {}
    for name, task in eval_tasks.items():
        for query in task.queries:
            candidates = list(task.candidates) if task.eval_type == "global" else query.candidates
            label = query.labels if isinstance(query.labels, list) else [query.labels]
            assert len(set(candidates)) == len(candidates)
            assert all(candidates.count(each) == 1 for each in label)
            sizes.setdefault(name, set()).add(len(candidates))
    ten = ("digit_class", "digit_match", "number_caption", "digit_sum", "number_compare")
    assert all(sizes[name] == {10} for name in (*ten, "frame_total", "frame_order"))
    assert sizes["photo_crop"] == sizes["clip_moment"] == {8}


def test_no_wrong_candidate_shows_the_answer(mini):
    for truth in mini.truth_of("eval/"):
        shown = [part["digits"] for part in truth["wrong"] if "digits" in part]
        if shown:
            assert drawn(truth)["digits"] not in shown
            assert len({tuple(digits) for digits in shown}) == len(shown)
        texts = [part["text"] for part in truth["wrong"] if "text" in part]
        assert truth["answer"] not in texts


def test_near_misses_are_present(mini, eval_tasks):
    for truth in mini.truth_of("eval/"):
        wrong = truth["wrong"]
        if truth["task"] == "digit_match":
            tens, ones = truth["pos"]["digits"]
            assert sum(part["digits"][0] == tens for part in wrong) >= 2
            assert sum(part["digits"][1] == ones for part in wrong) >= 2
        elif truth["task"] == "number_caption":
            digits = truth["pos"]["digits"]
            differences = [
                sum(a != b for a, b in zip(part["digits"], digits, strict=True)) for part in wrong
            ]
            assert differences.count(1) >= 3
        elif truth["task"] == "number_compare":
            distances = {abs(int(part["text"]) - int(truth["answer"])) for part in wrong}
            assert {1, 10} <= distances
        elif truth["task"] == "clip_moment":
            moment = truth["qry"]["moment"]
            same_clip = [p for p in wrong if p["moment"].split("_")[0] == moment.split("_")[0]]
            assert 1 <= len(same_clip) < 7 or moment.startswith("bikes")
    captions = [query.item["text"].split(": ")[1] for query in eval_tasks["digit_video"].queries]
    assert len(set(captions)) == len(captions)
    sets = Counter(tuple(sorted(caption.split(" then "))) for caption in captions)
    assert max(sets.values()) >= 2  # the same digits in another order
    for name in ("page_total", "page_change"):
        answers = {truth["answer"] for truth in mini.truth_of("eval/") if truth["task"] == name}
        assert len(answers) == 40
        shops = Counter(answer.split()[0] for answer in answers)
        assert min(shops.values()) >= 4


def test_relevant_pages_are_all_pages_with_the_answer(mini):
    for name in ("page_topic", "page_number", "page_total", "page_change"):
        folder = mini.root / "eval/visdoc-tasks" / name
        tables = {
            table: [
                json.loads(line) for line in (folder / f"{table}.jsonl").read_text().splitlines()
            ]
            for table in ("queries", "qrels", "corpus")
        }
        truths = [truth for truth in mini.truth_of("eval/") if truth["task"] == name]
        answer_of = {
            page["corpus-id"]: truth["answer"]
            for page, truth in zip(tables["corpus"], truths, strict=True)
        }
        for query in tables["queries"]:
            relevant = {
                r["corpus-id"] for r in tables["qrels"] if r["query-id"] == query["query-id"]
            }
            [answer] = {answer_of[page] for page in relevant}
            assert relevant == {page for page, other in answer_of.items() if other == answer}
            assert all(word in answer for word in re.findall(r"\d+", query["query"]))
        assert all((folder / f"{page}.png").is_file() for page in answer_of)


PLACEHOLDERS = {"image": "<image>", "video": "<video>"}


def evaluation_wording(item):
    """The user turn that evaluation writes for an item, with media as placeholders."""
    pieces = render_prompt(parse_item(item), mode="gen", dialect="evaluation")
    text = "".join(
        piece if isinstance(piece, str) else PLACEHOLDERS[piece.kind] for piece in pieces
    )
    return re.search(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", text, re.DOTALL)[1]


def without_content(text, topics):
    text = re.sub(
        r"\b(" + "|".join(sorted(topics, key=len, reverse=True)) + r")(?=\s*\n|,)", "W", text
    )
    return re.sub(r"\d+", "N", text)


def test_evaluation_and_rl_ask_in_words_of_training(mini, eval_tasks):
    """Digits, topics and shops aside, every prompt of evaluation and RL is one that SFT has shown."""
    from umer1.data.mini.sources import TOPICS
    from umer1.data.mini.tasks_visdoc import SHOPS

    words = {*TOPICS, *SHOPS, *WORDS}
    trained = defaultdict(set)
    for record in mini.sft:
        for side in ("qry", "pos"):
            turn = record[side]["conversations"][0]["value"]
            trained[record["dataset_name"], side].add(without_content(turn, words))
    squeezed = {len({re.sub(r"\s", "", turn) for turn in turns}) for turns in trained.values()}
    assert squeezed == {1}  # one wording; only the white space of the three dialects differs
    for name, task in eval_tasks.items():
        queries = {without_content(evaluation_wording(query.item), words) for query in task.queries}
        assert queries <= trained[name, "qry"]
        targets = {
            without_content(evaluation_wording(item), words) for item in task.candidates.values()
        }
        assert targets <= trained[name, "pos"]
    for row in mini.rl:
        for side in ("qry", "pos"):
            image, video = row[f"{side}_image"], row[f"{side}_video"] != [""]
            kind = "<image>" if image else "<video>" if video else ""
            turn = f"{kind}{row[f'{side}_text']} \n<disc_emb>\n{GENERATION_INSTRUCTION}"
            assert without_content(turn, words) in trained[row["dataset_name"], side]


def test_yaml_names_no_hub_data_set(mini):
    for modality in ("image", "video", "visdoc"):
        entries = yaml.safe_load((mini.root / f"eval/{modality}.yaml").read_text())
        for name, entry in entries.items():
            assert mini.tasks[name]["modality"] == modality
            assert (mini.root / "eval" / entry["data_path"]).exists()
            assert not entry["data_path"].startswith("/")
