"""Talking to an endpoint that misbehaves: what is asked again, what is not, and when."""

import asyncio
import email.utils
import random
import sys
import time

import pytest

from umer1.data.annotation.endpoint import Endpoint, EndpointError, NoAnswer, Sampling
from umer1.data.annotation.reply import JunkError, Reply, Usage, read_reply
from umer1.data.annotation.waiting import Retries, retry_after

FAST = Retries(attempts=4, first_wait=0.01, longest_wait=0.05, longest_hold=5)
ASKED = [{"role": "user", "content": "hello"}]


def ask(server, sampling=None, questions=1, **options):
    """Answers, or what was raised."""

    async def run():
        options.setdefault("retries", FAST)
        async with Endpoint(server.url, sampling or Sampling("m"), **options) as endpoint:
            asked = [endpoint.ask(ASKED) for _ in range(questions)]
            return await asyncio.gather(*asked, return_exceptions=True), endpoint.failures

    replies, failures = asyncio.run(run())
    return replies[0] if questions == 1 else replies, dict(failures)


def test_a_good_answer_and_what_was_sent(server):
    extra = {"top_k": 2, "chat_template_kwargs": {"enable_thinking": True}}
    sampling = Sampling("teacher", max_tokens=7, temperature=0.8, extra=extra)
    reply, failures = ask(server, sampling, api_key="secret")
    assert reply == Reply(
        "<think>It shows a cat.</think><answer>a cat</answer>", None, "stop", Usage(100, 40)
    )
    assert failures == {}
    ((_, body),) = server.requests
    assert body == {
        "model": "teacher", "messages": ASKED, "max_tokens": 7, "temperature": 0.8, **extra
    }  # fmt: skip
    assert server.headers[0]["authorization"] == "Bearer secret"


TROUBLES = {
    "half": "connection", "disconnect": "connection", "junk": "junk", "cut_json": "junk",
    "odd": "junk", "empty": "junk", 429: "HTTP 429", 500: "HTTP 500", 503: "HTTP 503",
    408: "HTTP 408",
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES)
def test_passing_trouble_is_asked_again(server, trouble):
    server.script = [trouble, trouble]
    told = []
    reply, failures = ask(server, on_trouble=told.append)
    assert len(told) == 2
    assert reply.finish == "stop"
    assert len(server.requests) == 3
    assert failures == {TROUBLES[trouble]: 2}


@pytest.mark.parametrize("trouble", ["half", "junk", 500])
def test_attempts_are_bounded(server, trouble):
    server.script = [trouble] * 10
    problem, _ = ask(server)
    assert isinstance(problem, NoAnswer) and problem.kind == TROUBLES[trouble]
    assert "4 attempts" in problem.reason
    assert len(server.requests) == 4


@pytest.mark.parametrize("slow", ["silence", "drip"])
def test_the_timeout_is_on_the_whole_answer(server, slow):
    server.script = [slow]
    started = time.monotonic()
    reply, failures = ask(server, timeout=0.3)
    assert (reply.finish, failures) == ("stop", {"timeout": 1})
    assert time.monotonic() - started < 2


def test_waits_grow_between_attempts(server, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    server.script = [500, 500, 500]
    ask(server, retries=Retries(attempts=4, first_wait=0.1, longest_wait=0.2))
    times = [when for when, _ in server.requests]
    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    for wait, wanted in zip(waits, (0.1, 0.2, 0.2)):
        assert wanted <= wait < wanted + 0.1


def test_retry_after_holds_everybody(server):
    server.script = [(429, {"Retry-After": "0.6"})]

    async def run():
        async with Endpoint(server.url, Sampling("m"), retries=FAST) as endpoint:
            first = asyncio.create_task(endpoint.ask(ASKED))
            while not endpoint.failures:
                await asyncio.sleep(0.01)
            # these have met no trouble themselves
            return await asyncio.gather(first, *(endpoint.ask(ASKED) for _ in range(5)))

    assert all(isinstance(reply, Reply) for reply in asyncio.run(run()))
    told, *later = [when for when, _ in server.requests]
    assert len(later) == 6 and min(later) >= told + 0.59


def test_a_pause_beyond_patience_ends_the_run(server):
    server.script = [(429, {"Retry-After": "3600"})]
    problem, _ = ask(server)
    assert isinstance(problem, EndpointError)
    assert "wants a pause of 3600 s" in str(problem)
    assert len(server.requests) == 1


def test_being_put_off_is_no_failed_attempt_but_has_an_end(server):
    server.script = [(429, {"Retry-After": "0.05"})] * 6
    reply, failures = ask(server, retries=Retries(attempts=2, first_wait=0.01))
    assert (reply.finish, failures) == ("stop", {"HTTP 429": 6})
    server.script = [(429, {"Retry-After": "0"})] * 1000
    problem, _ = ask(server, retries=Retries(attempts=2, first_wait=0.1, longest_hold=0.5))
    assert isinstance(problem, NoAnswer) and "put off for" in problem.reason
    assert len(server.requests) <= 7 + 6


def test_without_the_client(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install umer1\[annotate\]"):
        ask(server)


def test_a_refused_question_is_not_asked_again(server):
    server.script = [(400, {}, "context of 9000 tokens is too long")]
    problem, _ = ask(server)
    assert isinstance(problem, NoAnswer) and problem.kind == "HTTP 400"
    assert "too long" in problem.reason
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "key is not accepted"), (403, "not allowed"), (404, "no such model")],
)
def test_what_no_question_survives(server, status, words):
    server.script = [status]
    problem, _ = ask(server)
    assert isinstance(problem, EndpointError) and words in str(problem)
    assert server.url in str(problem)


def test_a_used_up_account_is_no_rate_limit(server):
    server.script = [(429, {}, "insufficient_quota: pay first")]
    problem, _ = ask(server)
    assert isinstance(problem, EndpointError) and "used up" in str(problem)


def test_nobody_listens():
    class Nobody:
        url = "http://127.0.0.1:1/v1"

    problem, failures = ask(Nobody)
    assert isinstance(problem, NoAnswer) and problem.kind == "connection"
    assert failures == {"connection": 4}


def test_retry_after_headers():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < retry_after({"retry-after": date}) <= 30
    assert retry_after({"retry-after": "-3"}) == 0.0
    for useless in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}):
        assert retry_after(useless) is None


@pytest.mark.parametrize(
    "body",
    ["", "[]", "null", "{}", '{"choices": 3}', '{"choices": []}', '{"choices": [7]}', "[" * 5000,
     '{"choices": [{"message": {"content": 5}}]}', '{"choices": [{"message": {"content": null}}]}'],
)  # fmt: skip
def test_junk_is_named(body):
    with pytest.raises(JunkError):
        read_reply(body)


def test_fields_that_servers_add_or_leave_out(chat):
    import json

    def read(*arguments, **options):
        return read_reply(json.dumps(chat(*arguments, **options)))

    assert read("a", reasoning="r").reasoning == "r"
    assert read("a", reasoning_content="r", reasoning=None).reasoning == "r"
    assert read(None, reasoning_content="r", finish="length") == Reply(
        "", "r", "length", Usage(100, 40)
    )
    assert read([{"type": "text", "text": "a"}, {"text": 5}]).content == "a"
    details = {"completion_tokens_details": {"reasoning_tokens": 30}}
    usage = {"prompt_tokens": 1, "completion_tokens": 40, **details}
    assert read(usage=usage).usage == Usage(1, 40, 30)
    for odd in ("many", {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True}):
        assert read(usage=odd).usage is None
    assert read("", finish="content_filter").finish == "content_filter"
    reply = read("a\ud800", reasoning="ü")
    assert Reply.from_json(json.loads(json.dumps(reply.to_json()))) == reply
