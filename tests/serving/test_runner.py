"""The runner: many at once equal one by one; cancelling, bounds, failures, draining, streams."""

import asyncio
import threading

import numpy as np
import pytest

from umer1 import Embedder
from umer1.embedder import Embedder as EmbedderClass
from umer1.engine import NativeEngine, SpecialTokens
from umer1.serving.errors import ApiError
from umer1.serving.runner import Runner, Started, TokenPiece
from umer1.serving.settings import EmbedOptions, ServerSettings

LONG = EmbedOptions(max_new_tokens=24, temperature=50.0)  # noise: nothing ends it early


@pytest.fixture(scope="module")
def loaded():
    return Embedder.load("tiny", device="cpu")


@pytest.fixture
def with_runner(loaded):
    """with_runner(use, slots=…, **settings): runs `await use(runner)` in a runner of its own."""

    def run(use, slots=4, **settings):
        special = SpecialTokens.of(loaded.processor)
        engine = NativeEngine(
            loaded.model, special, slots=slots, packed=loaded.packed, kv_memory=1 << 26
        )
        embedder = EmbedderClass(loaded.model, loaded.processor, engine=engine)

        async def main():
            runner = Runner(embedder, ServerSettings(**settings))
            runner.start()
            try:
                return await use(runner)
            finally:
                await runner.close()

        return asyncio.run(main())

    return run


async def until(condition):
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


def same(one, other):
    for name in ("disc", "gen", "hit"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b), name
    for name in ("reasoning", "summary", "tokens", "finish"):
        assert getattr(one, name) == getattr(other, name)


def test_what_many_ask_at_once_equals_the_offline_embedder(with_runner, offline, picture):
    items = ["seven", {"text": "which digit?", "image": picture(1)}, "a red bicycle",
             {"image": picture(2)}, "3 + 4"]  # fmt: skip
    cases = [EmbedOptions(mode="both"), EmbedOptions(mode="disc", readout="after"), EmbedOptions(),
             EmbedOptions(mode="gen", n=3, temperature=0.8, top_p=0.9, seed=5, number=2),
             EmbedOptions(mode="both", temperature=1.0, top_k=4, seed=1, max_think_tokens=2, number=7)]  # fmt: skip
    pairs = [(item, options) for item in items for options in cases]

    async def use(runner):
        return await asyncio.gather(*(runner.embed(item, options) for item, options in pairs))

    for (item, options), got in zip(pairs, with_runner(use)):
        wanted = dict(
            offline.stream(
                [item], options.mode, options.max_new_tokens, options.temperature, options.n,
                options.seed, numbers=[options.number], top_p=options.top_p, top_k=options.top_k,
                max_think_tokens=options.max_think_tokens, readout=options.readout,
            )
        )[0]  # fmt: skip
        same(got, wanted)


def test_a_list_gets_the_samples_of_the_same_list_offline(with_runner, offline):
    texts = ["one", "two", "three"]
    options = [
        EmbedOptions(temperature=20.0, seed=3, number=place, max_new_tokens=20)
        for place in range(3)
    ]
    got = with_runner(lambda runner: runner.embed_all(texts, options))
    wanted = offline.encode(texts, "gen", 20, 20.0, seed=3, progress=False)
    assert np.array_equal(np.concatenate([each.embeddings.gen for each in got]), wanted.gen)
    lengths = [len(offline.processor.encode(text, mode="gen")) for text in texts]
    assert [each.prompt_tokens for each in got] == lengths


def test_requests_join_while_others_run(with_runner, offline, held_engine):
    rows = []  # running after each step

    async def use(runner):
        held = held_engine(runner.host.engine)
        step = runner.host.engine.step

        def noting():
            step()
            rows.append(len(runner.host.engine.stepper.scheduler.running))

        runner.host.engine.step = noting
        first = asyncio.create_task(runner.embed("seven", LONG))
        await until(lambda: runner.describe()["rows"] == 1)
        second = asyncio.create_task(runner.embed("eight", LONG))
        held.release()
        return await first, await second

    for text, got in zip(("seven", "eight"), with_runner(use)):
        same(got, offline.encode(text, "gen", 24, 50.0, progress=False))
    assert max(rows) == 2


def test_pixels_and_tokens_are_made_in_worker_threads(with_runner, picture, monkeypatch):
    names = []
    prompt = EmbedderClass.prompt

    def noted(*arguments, **keywords):
        names.append(threading.current_thread().name)
        return prompt(*arguments, **keywords)

    monkeypatch.setattr(EmbedderClass, "prompt", noted)
    with_runner(lambda runner: runner.embed({"image": picture(3)}, EmbedOptions(mode="disc")))
    assert len(names) == 1 and names[0].startswith("umer1-prepare")


def test_only_as_many_media_as_rows_are_opened_ahead(with_runner, held_engine):
    opened = []

    async def use(runner):
        held = held_engine(runner.host.engine)

        async def open_one(number):
            opened.append(number)
            return f"text {number}"

        options = [EmbedOptions(number=number) for number in range(12)]
        sources = [lambda number=number: open_one(number) for number in range(12)]
        task = asyncio.create_task(runner.embed_all(sources, options))
        await until(lambda: len(opened) == 3)
        for _ in range(50):
            await asyncio.sleep(0)
        before = list(opened)
        held.release()
        await task
        return before

    assert with_runner(use, slots=3) == [0, 1, 2]
    assert opened == list(range(12))


def test_cancelling_frees_every_page_and_leaves_the_others_alone(with_runner, offline):
    async def use(runner):
        tasks = [asyncio.create_task(runner.embed(f"number {place}", LONG)) for place in range(8)]
        await until(lambda: runner.describe()["running"] == 4)  # and four wait
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: runner.describe()["pages_held"] == 0)
        state = runner.describe()
        runner.host.engine.stepper.scheduler.check()
        return results, state

    results, state = with_runner(use)
    assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
    for place in (1, 3, 5, 7):
        wanted = offline.encode(f"number {place}", "gen", 24, 50.0, progress=False)
        same(results[place], wanted)
    assert (state["rows"], state["running"], state["waiting"]) == (0, 0, 0)


def test_a_full_queue_says_when_to_come_back(with_runner, held_engine):
    async def use(runner):
        held = held_engine(runner.host.engine)
        task = asyncio.create_task(
            runner.embed_all(["a"] * 5, [EmbedOptions(number=place) for place in range(5)])
        )
        await until(lambda: runner.describe()["rows"] == 5)
        with pytest.raises(ApiError) as full:
            await runner.embed_all(["b"] * 2, [EmbedOptions()] * 2)
        assert runner.describe()["rows"] == 5  # none of the two is there
        one_more = asyncio.create_task(runner.embed("c", EmbedOptions()))
        await until(lambda: runner.describe()["rows"] == 6)
        with pytest.raises(ApiError) as never:
            await runner.embed("d", EmbedOptions(n=7, temperature=1.0))
        held.release()
        await task
        await one_more
        return full.value, never.value

    full, never = with_runner(use, max_waiting=2)
    assert (full.status, full.code) == (429, "queue_full") and int(full.headers["Retry-After"]) >= 1
    assert (never.status, never.code) == (400, "too_many_rows")


@pytest.mark.parametrize(
    "settings, too_long",
    [
        ({"max_prompt_tokens": 1 << 20}, "key-value memory"),
        ({}, "prompt tokens, wants at most 16384"),
    ],
)
def test_bad_items_are_the_clients_fault(with_runner, settings, too_long):
    async def use(runner):
        for item, fragment in (
            ("", "item 4: is empty"),
            ({"image": b"no picture"}, "not an image"),
            ("word " * 40_000, too_long),
        ):
            with pytest.raises(ApiError, match=fragment) as refused:
                await runner.embed(item, EmbedOptions(number=4))
            assert refused.value.status == 400
        return runner.describe()["rows"]

    assert with_runner(use, slots=1, **settings) == 0


def test_a_failing_step_fails_its_requests_and_no_later_one(with_runner, offline):
    async def use(runner):
        engine, step = runner.host.engine, runner.host.engine.step

        def broken():
            engine.step = step
            raise RuntimeError("out of memory")

        engine.step = broken
        with pytest.raises(RuntimeError, match="out of memory"):
            await runner.embed("seven", EmbedOptions())
        return await runner.embed("seven", EmbedOptions()), runner.describe()

    got, state = with_runner(use)
    same(got, offline.encode("seven", "gen", progress=False))
    assert state["engine_failures"] == 1 and state["pages_held"] == 0


def test_draining_finishes_what_runs_and_refuses_the_rest(with_runner, offline, held_engine):
    async def use(runner):
        held = held_engine(runner.host.engine)
        tasks = [asyncio.create_task(runner.embed(f"{place}", LONG)) for place in range(7)]
        await until(lambda: runner.describe()["rows"] == 7)
        drain = asyncio.create_task(runner.drain())
        await until(lambda: runner.draining)
        with pytest.raises(ApiError) as refused:
            await runner.embed("late", LONG)
        held.release()
        await drain
        return refused.value, [task.result() for task in tasks]

    refused, results = with_runner(use)
    assert (refused.status, refused.code) == (503, "shutting_down")
    for place, got in enumerate(results):
        same(got, offline.encode(f"{place}", "gen", 24, 50.0, progress=False))


def test_what_does_not_finish_in_time_gets_503(with_runner, held_engine):
    async def use(runner):
        held = held_engine(runner.host.engine)
        tasks = [asyncio.create_task(runner.embed(f"{place}", LONG)) for place in range(7)]
        await until(lambda: runner.describe()["rows"] == 7)
        await runner.drain()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        held.release()
        return results

    results = with_runner(use, drain_seconds=0.2)
    assert [(each.status, each.code) for each in results] == [(503, "shutting_down")] * 7


def test_a_stream_tells_every_token_and_ends_with_the_vectors(with_runner, offline):
    options = EmbedOptions(mode="both", n=2, temperature=1.0, seed=4)

    async def use(runner):
        return [event async for event in runner.stream("3 + 4", options)]

    started, *pieces, last = with_runner(use)
    wanted = offline.encode("3 + 4", "both", n=2, temperature=1.0, seed=4, progress=False)
    assert started == Started(len(offline.processor.encode("3 + 4", mode="gen")))
    assert all(isinstance(piece, TokenPiece) for piece in pieces)
    same(last, wanted)
    for sample in range(2):
        written = [piece.token for piece in pieces if piece.sample == sample]
        assert len(written) == wanted.tokens[0][sample]
        text = offline.processor.decode(written)
        assert wanted.summary[0][sample] in text and wanted.reasoning[0][sample] in text


def test_closing_a_stream_cancels_it(with_runner):
    async def use(runner):
        events = runner.stream("seven", LONG)
        async for event in events:
            if isinstance(event, TokenPiece):
                break
        await events.aclose()
        await until(lambda: runner.describe()["pages_held"] == 0)
        return runner.describe()["rows"]

    assert with_runner(use) == 0


def test_a_stream_has_a_time_limit(with_runner, held_engine):
    async def use(runner):
        held = held_engine(runner.host.engine)
        with pytest.raises(ApiError) as late:
            async for _ in runner.stream("seven", LONG):
                pass
        held.release()
        await until(lambda: runner.describe()["pages_held"] == 0)
        return late.value

    assert with_runner(use, request_seconds=0.3).status == 504


def test_an_engine_that_cannot_be_joined_is_refused(loaded):
    embedder = EmbedderClass(loaded.model, loaded.processor, engine=object())
    with pytest.raises(TypeError, match="NativeEngine"):
        Runner(embedder, ServerSettings())
