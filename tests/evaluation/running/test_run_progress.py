"""Time left, counted by kind of item."""

import pytest

from umer1.evaluation.running.progress import MEASURED, RunProgress

TEXT, VIDEO = ("gen", "text"), ("gen", "video")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock):
    totals = {("a", TEXT): 30, ("b", TEXT): 10, ("b", VIDEO): 20}
    return RunProgress(totals, show=False, clock=clock)


def test_nothing_is_known_at_first(progress):
    assert progress.left() is None and progress.left("a") is None


def test_a_kind_that_was_measured_counts_with_its_own_time(progress, clock):
    progress.start()
    for _ in range(10):
        clock.now += 2
        progress.advance("a", TEXT)
    assert progress.left("a") == pytest.approx(20 * 2)
    # not seen yet: a video counts as eight texts
    assert progress.left("b") == pytest.approx(10 * 2 + 20 * 16)
    for _ in range(MEASURED):
        clock.now += 100
        progress.advance("b", VIDEO)
    assert progress.left("b") == pytest.approx(10 * 2 + (20 - MEASURED) * 100)
    assert progress.left() == pytest.approx(progress.left("a") + progress.left("b"))


def test_what_was_there_before_and_waiting_take_no_time(progress, clock):
    progress.skip("a", TEXT, 20)
    clock.now += 1000  # the model is loaded
    progress.start()
    for _ in range(10):
        clock.now += 1
        progress.advance("a", TEXT)
    assert progress.left("a") == 0
    assert progress.left("b") == pytest.approx(10 + 20 * 8)


def test_samples_count_each(clock):
    progress = RunProgress({("a", TEXT): 40}, show=False, clock=clock)
    progress.start()
    for _ in range(4):
        clock.now += 8
        progress.advance("a", TEXT, 4)
    assert progress.left() == pytest.approx(24 * 2)


def test_bars_show_task_and_run(clock, capsys):
    with RunProgress({("a", TEXT): 12, ("b", TEXT): 90}, clock=clock) as progress:
        for _ in range(12):
            clock.now += 60
            progress.advance("a", TEXT, **{"tokens/s": 5})
        progress.say("a: hit@1: gen 50.0")
    shown = capsys.readouterr().err
    assert "a: hit@1: gen 50.0" in shown
    assert "12/12" in shown and "12/102" in shown
    assert "left 0:00:00" in shown and "left 1:30:00" in shown and "tokens/s 5" in shown
