"""A whole annotation run some or all of whose questions get no answer."""

import time

import pytest

from umer1.data.annotation import EndpointError


def test_sides_without_an_answer_are_asked_again_next_time(run, server, store, chat, tmp_path):
    (tmp_path / "media").mkdir()
    pairs = store(6)
    (tmp_path / "media" / "3.png").unlink()  # of pair 3, known before anything is asked
    (tmp_path / "media" / "1.png").write_bytes(b"damaged")  # of the videos of 1 and 4

    def answer(body):
        return chat()

    server.answer = answer
    server.script = [(400, {}, "too long")]
    statistics = run(pairs, concurrency=1)
    assert statistics["sides"]["query"]["unanswered"] == {
        "HTTP 400": 1, "missing medium": 1, "damaged medium": 2,
    }  # fmt: skip
    assert (statistics["kept"], statistics["unanswered"], statistics["dropped"]) == (2, 4, {})
    assert len(server.requests) == 12 - 3
    assert any("no such file" in one["reason"] for one in statistics["examples"])
    statistics = run(pairs)
    assert (statistics["asked"], statistics["kept"]) == (1, 3)


def test_an_endpoint_that_fails_for_good_ends_the_run(run, server, store, tmp_path):
    server.script = ["good"] * 5 + [(400, {}, "no")] * 1000

    def after_the_good_ones(meets):
        answers = tmp_path / "out" / "answers.jsonl"
        while meets != "good" and answers.read_bytes().count(b"\n") < 5:
            time.sleep(0.002)

    server.before = after_the_good_ones
    with pytest.raises(
        EndpointError, match="20 questions in a row got no answer.*HTTP 400: some_code no; 5 were"
    ):
        run(store(40))
    assert len(server.requests) <= 5 + 20 + 4


def test_one_question_at_a_time_ends_the_run_sooner(run, server, store):
    server.script = ["good"] * 5 + [(400, {}, "no")] * 1000
    with pytest.raises(EndpointError, match="17 questions in a row got no answer.*; 5 were"):
        run(store(40), concurrency=1)
    assert len(server.requests) == 5 + 17


def test_failures_between_answers_do_not_end_it(run, server, store):
    server.script = ([400] * 12 + ["good"]) * 3
    statistics = run(store(30), concurrency=1)
    assert statistics["asked"] == 60 - 36
    assert statistics["unanswered"] > 0
