"""A whole annotation run against the misbehaving server: results, resuming, statistics."""

import dataclasses
import fcntl
import json
import random
from collections import Counter

import pytest

from umer1.data import RecordError, open_set
from umer1.data.annotation import (
    EndpointError,
    Filters,
    Prompts,
    Sampling,
)
from umer1.data.annotation.statistics import lines
from umer1.data.check import check_pairs
from umer1.data.check_report import summary


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def echo(chat):
    """An answer that tells which question it is of."""

    def answer(body):
        content = body["messages"][-1]["content"]
        words = content if isinstance(content, str) else content[-1]["text"]
        own = words.split("----")[1].strip()
        return chat(f"<think>about {own}</think><answer>short {own}</answer>")

    return answer


TROUBLE = ["half", "disconnect", "junk", "cut_json", "odd", "empty", 500, 503, (429, {"Retry-After": "0.1"})]  # fmt: skip


def test_every_pair_gets_its_own_answers_through_all_trouble(run, server, store, chat, fast_retries, tmp_path):  # fmt: skip
    server.answer = echo(chat)
    server.script = TROUBLE * 3
    random.Random(0).shuffle(server.script)
    pairs = store(12)
    statistics = run(pairs, retries=dataclasses.replace(fast_retries, attempts=28))
    assert (statistics["pairs"], statistics["kept"], statistics["asked"]) == (12, 12, 24)
    assert sum(statistics["failed_attempts"].values()) == 27
    assert len(server.requests) == 24 + 27
    assert "failed    27 attempts, " in "\n".join(lines(statistics))
    written = rows(tmp_path / "out" / "sft.jsonl")
    for number, row in enumerate(written):
        assert row["dataset_name"] == ("cats", "dogs")[number % 2]
        for side, name in (("qry", "question"), ("pos", "answer")):
            human, gpt = (turn["value"] for turn in row[side]["conversations"])
            assert f"{name} {number}\n<disc_emb>\nRepresent the above" in human
            own = f"{name} {number}"
            assert gpt == f"<think>about {own}</think><answer>short {own}\n<gen_emb>"
    # and it is what training reads: media are found, the format is right
    again = open_set(tmp_path / "out" / "sft.jsonl", "sft", root=tmp_path)
    content = summary(check_pairs(again, decode=True, progress=False), again)
    assert content["problems"] == {} and content["responses"]["gen_emb"] == 1.0
    assert content["modalities"] == {
        "image → text": 4, "video → text": 4, "text → text": 4,
    }  # fmt: skip
    assert [again[n].query.images for n in (0, 3)] == [pairs[n].query.images for n in (0, 3)]
    assert again[1].query.video == pairs[1].query.video


def test_requests_are_bounded_and_go_out_together(run, server, store):
    server.delay = 0.05
    run(store(10), concurrency=3)
    assert server.most == 3


def test_the_teacher_sees_one_side_at_a_time(run, server, store):
    run(store(3))
    for words in server.words():
        assert ("question " in words) != ("answer " in words.split("----")[1])


def test_a_stopped_run_asks_nothing_twice(run, server, store, chat, tmp_path):
    server.answer = echo(chat)
    server.script = ["good"] * 9 + [401]
    pairs = store(10)
    with pytest.raises(EndpointError, match="key is not accepted"):
        run(pairs, concurrency=1)
    first = (tmp_path / "out" / "answers.jsonl").read_bytes()
    assert first.count(b"\n") == 9
    # a kill in the middle of a write
    (tmp_path / "out" / "answers.jsonl").write_bytes(first + b'{"key": "12' + b"1" * 100_000)
    statistics = run(pairs)
    assert (statistics["answers"], statistics["asked"], statistics["kept"]) == (20, 11, 10)
    assert len(rows(tmp_path / "out" / "answers.jsonl")) == 20
    assert max(Counter(server.words()).values()) == 2  # the one that met 401
    assert sum(Counter(server.words()).values()) == 21
    whole = (tmp_path / "out" / "sft.jsonl").read_bytes()
    server.requests.clear()
    assert run(pairs)["asked"] == 0 and server.requests == []
    assert (tmp_path / "out" / "sft.jsonl").read_bytes() == whole
    # and in one go it is the same
    run(pairs, out="at once")
    assert (tmp_path / "at once" / "sft.jsonl").read_bytes() == whole


def test_more_pairs_may_be_added(run, server, pairs):
    run(open_set(pairs(4), "rl"))
    statistics = run(open_set(pairs(6), "rl"))
    assert (statistics["asked"], statistics["pairs"]) == (4, 6)


def test_other_filters_ask_nothing_again(run, server, store, chat, tmp_path):
    server.answer = lambda body: chat(
        "<think>so</think><answer><|begin_of_box|>x<|end_of_box|></answer>"
    )
    assert run(store(2))["sides_with_box"] == 4
    assert '<answer>x\\n<gen_emb>"' in (tmp_path / "out" / "sft.jsonl").read_text()
    statistics = run(store(2), filters=Filters(box="keep"))
    assert statistics["asked"] == 0
    kept = "<answer><|begin_of_box|>x<|end_of_box|>\\n<gen_emb>"
    assert kept in (tmp_path / "out" / "sft.jsonl").read_text()


def test_other_questions_want_another_folder(run, store, tmp_path):
    run(store(1))
    with pytest.raises(ValueError, match="holds answers asked with model .*Thinking', not 'other'"):
        run(store(1), sampling=Sampling("other"))
    path = tmp_path / "mine.yaml"
    path.write_text("query: 'q {{ text }}'\ntarget: 't {{ text }}'")
    with pytest.raises(ValueError, match="asked with prompts"):
        run(store(1), prompts=Prompts.load(path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds thesis.tex, and no annotation run"):
        run(store(1), out="mine")


def test_two_processes_do_not_share_a_folder(run, store, tmp_path):
    run(store(1))
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process works on it"):
            run(store(1))


def test_equal_sides_share_an_answer(run, server, store, chat, tmp_path):
    words = []

    def answer(body):
        words.append(1)
        return chat(f"<think>{len(words)}</think><answer>x</answer>")

    server.answer = answer
    statistics = run(store(6, pos_text="cat"), concurrency=1)
    assert (statistics["asked"], statistics["repeated_questions"]) == (7, 5)
    targets = {row["pos"]["conversations"][1]["value"] for row in rows(tmp_path / "out/sft.jsonl")}
    assert len(targets) == 1
    statistics = run(store(6, pos_text="cat"), out="each", repeat_identical=True)
    assert (statistics["asked"], statistics["repeated_questions"]) == (12, 0)
    targets = {row["pos"]["conversations"][1]["value"] for row in rows(tmp_path / "each/sft.jsonl")}
    assert len(targets) == 6


def test_what_was_dropped_and_why(run, server, store, chat, tmp_path):
    loop = "round and round " * 40
    given = {
        "question 1": chat("no tags at all"),
        "question 2": chat("<think>x</think><answer>"),
        "answer 3": chat(f"<think>{loop}</think><answer>x</answer>"),
        "answer 4": chat("<think>x", finish="length"),
        "question 5": chat("", finish="content_filter"),
        "answer 5": chat("no tags at all"),
        "question 6": chat(usage={"prompt_tokens": 1, "completion_tokens": 30000}),
    }

    def answer(body):
        content = body["messages"][-1]["content"]
        own = (content if isinstance(content, str) else content[-1]["text"]).split("----")[1]
        return given.get(own.strip(), chat())

    server.answer = answer
    statistics = run(store(8), price_in=2.0, price_out=10.0)
    assert (statistics["pairs"], statistics["kept"]) == (8, 2)
    assert statistics["dropped"] == {"format": 2, "repetition": 1, "length": 2, "refused": 1}
    assert statistics["sides"]["query"] == {
        "kept": 4, "unanswered": {},
        "dropped": {
            "format": {"no </think>": 1, "empty summary": 1},
            "refused": {"the server's content filter": 1},
            "length": {"reasoning of more than 8192 tokens": 1},
        },
    }  # fmt: skip
    assert statistics["sides"]["target"]["kept"] == 5
    assert statistics["sources"]["cats"] == {
        "pairs": 4, "kept": 1, "dropped": {"format": 1, "length": 2}, "unanswered": 0,
    }  # fmt: skip
    tokens = 15 * 100 + 1, 15 * 40 + 30000
    assert (statistics["prompt_tokens"], statistics["completion_tokens"]) == tokens
    assert statistics["cost"] == pytest.approx((tokens[0] * 2 + tokens[1] * 10) / 1e6)
    assert json.loads((tmp_path / "out" / "statistics.json").read_text()) == statistics
    dropped = rows(tmp_path / "out" / "dropped.jsonl")
    assert [(row["where"].split(": ")[1], row["side"], row["kind"]) for row in dropped] == [
        ("record 1", "query", "format"), ("record 2", "query", "format"),
        ("record 3", "target", "repetition"), ("record 4", "target", "length"),
        ("record 5", "query", "refused"), ("record 5", "target", "format"),
        ("record 6", "query", "length"),
    ]  # fmt: skip
    answers = {row["key"] for row in rows(tmp_path / "out" / "answers.jsonl")}
    assert {row["key"] for row in dropped} <= answers
    table = "\n".join(lines(statistics))
    assert "1 x repetition: the same words again and again" in table
    assert table.splitlines()[0].split() == [
        "source", "pairs", "kept", "format", "length", "repetition", "refused", "unanswered"
    ]  # fmt: skip
    assert table.splitlines()[3].split() == ["all", "8", "2", "2", "2", "1", "1", "0"]
    assert f"cost      {statistics['cost']:.6g}" in table


def test_servers_without_usage(run, server, store, chat):
    server.answer = lambda body: chat(usage=None)
    statistics = run(store(2), price_in=1.0)
    assert (statistics["without_usage"], statistics["cost"]) == (4, 0.0)
    assert statistics["tokens_counted_by"] == {"characters": 4}
    assert "4 without usage" in "\n".join(lines(statistics))


def test_a_bad_record_costs_nothing(run, server, pairs):
    path = pairs(3)
    path.write_text(path.read_text() + '\n{"dataset_name": "d", "qry_text": 5}')
    with pytest.raises(RecordError, match="record 3: field 'qry_text' wants a string"):
        run(open_set(path, "rl"))
    assert server.requests == []


def test_pictures_that_a_table_holds_become_files(run, server, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder = tmp_path / "tables" / "pages"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "page.png")
    content = (tmp_path / "page.png").read_bytes()
    table = {
        "image": [{"bytes": content, "path": "p.png"}] * 2,
        "query": ["a", "b"],
        "answer": ["c", "d"],
    }
    pq.write_table(pa.table(table), folder / "train-0.parquet")
    (tmp_path / "pages.yaml").write_text(
        "pages: {dataset_parser: vidore, dataset_name: tables/pages}\n"
    )
    run(open_set(tmp_path / "pages.yaml", "vlm2vec"))
    written = rows(tmp_path / "out" / "sft.jsonl")
    names = {row["qry"]["image"] for row in written}
    assert len(names) == 1 and (tmp_path / names.pop()).read_bytes() == content
    again = open_set(tmp_path / "out" / "sft.jsonl", "sft", root=tmp_path)
    assert summary(check_pairs(again, decode=True, progress=False), again)["problems"] == {}


def test_records_can_be_annotated_again(run, server, store, chat, tmp_path):
    run(store(3))
    server.answer = echo(chat)
    server.requests.clear()
    again = open_set(tmp_path / "out" / "sft.jsonl", "sft", root=tmp_path)
    run(again, out="again")
    assert any("question 1\n----" in words for words in server.words())
    assert not any("disc_emb" in words or "<image>" in words for words in server.words())
    before, after = (rows(tmp_path / name / "sft.jsonl") for name in ("out", "again"))
    for old, new in zip(before, after, strict=True):
        assert old["qry"]["conversations"][0] == new["qry"]["conversations"][0]
        assert "about question" in new["qry"]["conversations"][1]["value"]
