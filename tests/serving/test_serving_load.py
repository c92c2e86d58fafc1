"""The load test: what its clients do to a real server, and that its checks see what they are there for."""

import asyncio
import base64
import json
from collections import Counter
from random import Random
from urllib.parse import urlsplit

import numpy as np
import pytest

from bench import serving_load
from bench.serving.clients import LEAVING, Answered, Clients, Told
from bench.serving.connection import Connection
from bench.serving.figures import checks, page_text, report, summary
from bench.serving.mix import KINDS, Mix, Options, Part, Request, clip
from bench.serving.offline import Vectors, answers, difference
from bench.serving.server import GAUGES

ON_TIME = {"throughput, of the engine's alone"}


@pytest.fixture
def mix(tmp_path, picture, offline):
    pictures = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture(number))
        pictures.append({"text": "What is it?", "image": str(path)})
    frames = [side["image"] for side in pictures]
    clips = [clip({"text": "What moves?", "frames": frames}, tmp_path / "clips", 0)]
    texts = [{"text": text} for text in ("seven", "3+4", "a page about rain")]
    return Mix("tiny", offline.processor.text.encode, texts, pictures, clips)


class Here:
    """The parts of `bench.serving.server.Server` for a server in this process."""

    def __init__(self, server):
        address = urlsplit(server.url)
        self.address, self._runner = (address.hostname, address.port), server.runner

    def sample(self):
        state = self._runner.describe() | {"queue": self._runner.describe()["waiting"]}
        named = {name: state[name] for name in GAUGES if name != "queue"}
        return {"rss_mib": 100.0, "threads": 1, "files": 1, "queue": state["queue"], **named}

    def cpu_seconds(self):
        return 0.0


def test_a_few_requests_of_every_kind(running_server, mix):
    """All forms are answered with the offline vectors; the server gives everything back."""
    with running_server() as server:
        here = Here(server)
        told, seen = asyncio.run(serving_load.load(here, mix, count=8, seconds=1.0))
        told = asyncio.run(one_of_each(here, mix, told))
    seen |= {"exit_status": 0, "tracebacks": 0, "log_end": ""}
    content = serving_load.judged(told, seen, "tiny", [1])
    content |= {"command": "c", "clients": 8, "model": "tiny", "environment": environment()}
    content["checks"] = checks(content, 0.8)
    failed = [each for each in content["checks"] if not each["met"]]
    assert {each["name"] for each in failed} <= ON_TIME, (failed, told.examples)
    assert set(content["kinds"]) == set(KINDS), "every kind of request"
    assert content["vectors"]["items"] == sum(len(each.request.parts) for each in told.answered)
    assert "| chat stream |" in page_text(content) and "ok  " in report(content)


async def one_of_each(here, mix, told):
    """Chance has left some kinds out."""
    clients, connection = Clients(here.address, mix, 1, 0.0, seed=0), Connection(*here.address)
    clients.told = told
    for number, kind in enumerate(KINDS):
        await clients.ask(connection, mix.make(kind, Random(number), 10_000 + number))
    connection.abort()
    return told


def environment():
    on = {"cpu": "a CPU", "python": "3", "commit": "0" * 40, "uncommitted_changes": False}
    return on | {"packages": {"torch": "2"}}


def row(at=0, **change):
    gauges = dict.fromkeys(GAUGES, 0.0)
    return {"at": at, "rss_mib": 500.0, "threads": 9, "files": 7, **gauges, "tasks": 4, **change}


def content(told=None, after=None, samples=None, differences=(0.0,), **seen):
    """The figures of a good run of one request, with something changed."""
    one = Vectors(None, np.ones((1, 2), np.float32), 5)
    if told is None:
        told = Told()
    told.answered.append(Answered(Request("text", "/", b"", [Part({}, Options("gen"))]), b"", 0.1))
    seen = {
        "took": 1.0, "before": row(), "after": after or row(), "server_cpu_seconds": 1.0, "clients_cpu_seconds": 1.0,
        "samples": samples or [row(10 * at) for at in range(20)], "exit_status": 0, "tracebacks": 0, "log_end": "", **seen,
    }  # fmt: skip
    alone = {"seconds": 0.9, "cpu_seconds": 0.9, "threads": 1, "trial_items_per_second": {}}
    return summary(told, seen, alone, [one], list(differences), 1 << 20) | {"unread": []}


def failed(content):
    return [each["name"] for each in checks(content, 0.8) if not each["met"]]


def test_a_good_run_passes():
    assert failed(content()) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("good requests with an error", {"told": Told(statuses=Counter({("text", 500): 1}))}),
        ("garbage with another status", {"told": Told(wrong=Counter({("no json", 200): 1}))}),
        ("connections dropped", {"told": Told(broken=Counter({"EOF": 1}))}),
        ("steps of the engine that failed", {"after": row(engine_failures=1)}),
        ("steps of the engine that failed", {"tracebacks": 1}),
        ("exit status", {"exit_status": -9}),
        ("vectors that differ", {"differences": [1e-7]}),
        ("rows and pages held", {"after": row(pages_held=1)}),
        ("tasks after", {"after": row(tasks=5)}),
        ("files after", {"after": row(files=8)}),
        ("fewest threads in the last fifth", {"samples": [row(at, threads=at) for at in range(20)]}),
        ("growth of the server's own memory", {"samples": [row(10 * at, rss_mib=500 + 6 * at) for at in range(20)]}),
        ("throughput", {"took": 1.2}),
    ],
)  # fmt: skip
def test_every_check_can_fail(name, change):
    (found,) = failed(content(**change))
    assert found.startswith(name)


def test_a_short_run_says_nothing_about_memory():
    samples = [row(at, rss_mib=500 + 6 * at) for at in range(20)]
    assert not any("memory" in each["name"] for each in checks(content(samples=samples), 0.8))


def test_pages_that_are_kept_are_no_growth():
    """A page is 1 MiB here: as many MiB as pages."""
    samples = [row(10 * at, rss_mib=500 + 10 * at, pages_kept=10 * at) for at in range(20)]
    assert failed(content(samples=samples)) == []
    assert content(samples=samples)["server"]["growth_mib"] == 0


def test_answers_are_read_in_every_shape():
    one, two = np.array([0.1, -0.2], np.float32), np.array([0.3, 0.4], np.float32)
    coded = base64.b64encode(two.tobytes()).decode()
    options = [Options("disc"), Options("both"), Options("gen", n=2, temperature=1.0)]
    entries = [one.tolist(), coded, one.tolist(), coded]
    data = [{"embedding": each} for each in entries]
    data[1]["disc"] = one.tolist()
    for option, rows, disc, gen in zip(
        options, (data[:1], data[1:2], data[2:]), (one, one, None), (None, [two], [one, two])
    ):
        request = Request("text", "/v1/embeddings", b"", [Part({}, option)])
        body = json.dumps({"data": rows}).encode()
        (found,) = answers(Answered(request, body, 0.1))
        wanted = Vectors(disc, None if gen is None else np.stack(gen))
        assert difference(wanted, found) == 0
        assert difference(wanted, Vectors(found.disc, None)) == (0 if gen is None else float("inf"))
    request = Request("chat stream", "/v1/chat/completions", b"", [Part({}, Options("both"))])
    last = json.dumps({"embedding": {"gen": coded, "disc": one.tolist()}})
    stream = f"data: {{}}\n\ndata: {last}\n\ndata: [DONE]\n\n".encode()
    (found,) = answers(Answered(request, stream, 0.1))
    assert difference(Vectors(one, two[None]), found) == 0
    with pytest.raises(ValueError, match="without its end"):
        answers(Answered(request, stream.replace(b"[DONE]", b"{}"), 0.1))


def test_a_difference_in_one_bit_is_seen():
    one = np.array([[0.1, -0.2]], np.float32)
    other = np.nextafter(one, np.float32(1))
    assert 0 < difference(Vectors(None, one), Vectors(None, other)) < 1e-6
    assert difference(Vectors(None, one), Vectors(None, one * np.nan)) == float("inf")


@pytest.mark.slow
def test_the_whole_command_for_half_a_minute(tmp_path, monkeypatch):
    """A server in a process of its own. Speed is measured on a quiet machine, not here."""
    monkeypatch.chdir(tmp_path)
    page, file = tmp_path / "page.md", tmp_path / "load.json"
    page.write_text("a\n<!-- begin: serving-load -->\n<!-- end: serving-load -->\n")
    serving_load.main(
        ["--seconds", "30", "--clients", "24", "--work", str(tmp_path / "work"), "--server-threads", "1"]
        + ["--offline-threads", "1", "--json", str(file), "--page", str(page)]
    )  # fmt: skip
    content = json.loads(file.read_text())
    unmet = {each["name"] for each in content["checks"] if not each["met"]}
    assert unmet <= ON_TIME, (unmet, content["failures"])
    assert content["asked"]["answered"] > 100 and set(content["asked"]["vanished"]) == set(LEAVING)
    assert "| check | aim | measured | met |" in page.read_text()
