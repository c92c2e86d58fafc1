"""The GPU suite without a GPU: parts, the deadline, processes that die or hang, and what stays in the file."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from gpu_results import row

from bench import gpu, gpu_file, steps
from bench.gpu_file import GpuFile
from bench.steps import Deadline, Step

PYTHON = sys.executable


# -- parts


def test_an_unknown_part_names_the_known_ones(capsys):
    assert gpu.main(["everything"]) == 2
    assert (
        "PART=everything: no such part; there are tests, sanitize, kernels, engine, training"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main(["tests"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.fixture
def fake_parts(monkeypatch):
    """Parts that note that they ran; one fails."""
    ran = []

    def part(name, status="ok"):
        def call(suite):
            ran.append(name)
            return [Step(name, status, 1.0, "done", "its output")]

        return call

    monkeypatch.setattr(gpu, "build", part("build"))
    parts = {"tests": part("tests", "failed"), "kernels": part("kernels")}
    monkeypatch.setattr(gpu, "PARTS", parts)
    return ran


def test_the_build_comes_first_and_a_failure_stops_nobody(suite, fake_parts, capsys):
    assert gpu.carry_out(suite, ["tests", "kernels"]) is False
    assert fake_parts == ["build", "tests", "kernels"]
    assert "tests: failed in 1 s  done\nits output" in capsys.readouterr().out
    assert gpu.carry_out(suite, ["kernels"]) is True
    assert fake_parts[3:] == ["build", "kernels"]


def test_each_part_has_its_share_of_the_time(suite, monkeypatch):
    """Alone it has everything; what one leaves goes to those after it."""
    given = {}

    def part(name, takes=0.0):
        def call(own):
            given[name] = own.deadline.left()
            suite.deadline.end -= takes
            return [Step(name, "ok")]

        return call

    monkeypatch.setattr(gpu, "build", part("build", takes=75))
    monkeypatch.setattr(gpu, "PARTS", {name: part(name) for name in gpu.PARTS})
    suite.deadline = Deadline(525)
    gpu.carry_out(suite, list(gpu.PARTS))
    shares = {"build": 525, "tests": 100, "sanitize": 450 / 7, "kernels": 150, "engine": 225, "training": 450}  # fmt: skip
    assert given == pytest.approx(shares, abs=0.5)
    gpu.carry_out(suite, ["kernels"])
    assert given["kernels"] == pytest.approx(375, abs=0.5)


def test_the_file_is_written_after_each_step(suite, monkeypatch):
    seen = []

    def part(suite):
        seen.append([each["step"] for each in json.loads(suite.file.path.read_text())["steps"]])
        return [Step("tests", "ok")]

    monkeypatch.setattr(gpu, "build", lambda suite: [Step("build", "ok")])
    monkeypatch.setattr(gpu, "PARTS", {"tests": part})
    gpu.carry_out(suite, ["tests"])
    assert seen == [["build"]]


def test_main_chooses_parts_in_their_order(environment, fake_parts, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    assert gpu.main(["kernels", "tests"]) == 1
    assert fake_parts == ["build", "tests", "kernels"]
    assert "wrote bench/results/nvidia-h200.json" in capsys.readouterr().out
    assert (tmp_path / "bench/results/nvidia-h200.json").exists()


def test_gpu_tests_run_file_by_file(suite, monkeypatch):
    commands, given, running = [], {}, set()

    def run(command, seconds, *, environment, ending):
        commands.append(command)
        name = command[-1]
        given[name] = seconds, environment
        if "test_gpu_profile" in name:
            assert not running
        running.add(name)
        time.sleep(0.1)
        running.remove(name)
        if "triton_losses" in name:
            return steps.Ended(None, "== 1 failed, 4 passed in 9 s ==", seconds)
        status = 5 if "test_model_cuda" in name else 1 if name.endswith("test_gpu.py") else 0
        skips = "SKIPPED [1] a.py:4: no flash-attn\nSKIPPED [2] a.py:9: no flash-attn\n"
        passed = "" if "test_gpu_profile" in name else "5 passed, "
        return steps.Ended(status, f"{skips}== {passed}3 skipped in 2 s ==", 2)

    monkeypatch.setattr(gpu, "run", run)
    found = {each.step: each for each in gpu.tests(suite)}
    assert all(command[:3] == [PYTHON, "-m", "pytest"] and "gpu" in command for command in commands)
    assert found["test tests/gpu/test_gpu.py"].status == "failed"
    assert found["test tests/gpu/test_gpu.py"].output
    late = found["test tests/gpu/test_triton_losses.py"]
    assert late.status == "out of time" and late.detail.endswith("s; 1 failed, 4 passed in 9 s")
    good = found["test tests/gpu/test_triton.py"]
    assert good.status == "ok"
    assert good.detail == "5 passed, 3 skipped in 2 s; no flash-attn"
    assert found["test tests/model/test_model_cuda.py"].detail == "no test was selected"
    nothing_ran = found["test tests/gpu/test_gpu_profile.py"]
    assert (nothing_ran.status, nothing_ran.bad) == ("skipped", False)
    # the longest begin first; the one that looks at times runs alone, in time of its own
    names = [os.path.basename(command[-1]) for command in commands]
    assert set(names[:3]) == set(gpu.LONGEST_FIRST) and names[-1] == gpu.ALONE
    seconds, environment = given.pop("tests/gpu/test_gpu_profile.py")
    assert seconds > gpu.ALONE_SECONDS - 5 and not environment
    assert all(left <= 60 - gpu.ALONE_SECONDS for left, _ in given.values())
    assert all(int(environment["OMP_NUM_THREADS"]) >= 1 for _, environment in given.values())


def test_the_sanitizer_is_skipped_by_name(suite, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda *_, **__: None)
    assert [(each.step, each.status, each.detail) for each in gpu.sanitize(suite)] == [
        (tool, "skipped", "compute-sanitizer is not installed") for tool in ("memcheck", "racecheck")
    ]  # fmt: skip


def test_the_sanitizer_runs_the_kernels_own_tests(suite, monkeypatch, tmp_path):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu.shutil, "which", lambda *_, **__: "/bin/compute-sanitizer")
    (tmp_path / "tests/gpu/test_cuda_dual.py").write_text("def test_others(): ...")
    assert gpu.sanitize(suite)[0].detail == "no tests/gpu/test_cuda_*.py has tests for it"
    for name in ("gather", "reward"):
        (tmp_path / f"tests/gpu/test_cuda_{name}.py").write_text("def test_sanitize_it(): ...")
    seen = []

    def run(command, seconds, *, environment, ending):
        seen.append((command, environment))
        found = "4 passed in 3 s\n========= ERROR SUMMARY: 1 error"
        return steps.Ended(9 if "racecheck" in command else 0, found, 1.0)

    monkeypatch.setattr(gpu, "run", run)
    made = gpu.sanitize(suite)
    assert [(each.step, each.status) for each in made] == [
        (f"{tool} tests/gpu/test_cuda_{name}.py", status)
        for tool, status in (("memcheck", "ok"), ("racecheck", "failed"))
        for name in ("gather", "reward")
    ]
    assert made[-1].detail == "ERROR SUMMARY: 1 error"
    command, environment = next(each for each in seen if "memcheck" in each[0] and "reward" in each[0][-1])  # fmt: skip
    assert command[:5] == ["/bin/compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"]
    assert command[-3:] == ["-k", "sanitize", "tests/gpu/test_cuda_reward.py"]
    assert environment == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


# -- processes


def test_a_step_says_how_it_ended():
    good = steps.step("a", [PYTHON, "-c", "print('x'); print('== fine ==')"], 30)
    assert (good.status, good.detail, good.output) == ("ok", "fine", "")
    bad = steps.step("b", [PYTHON, "-c", "import sys; print('why'); sys.exit(3)"], 30)
    assert (bad.status, bad.output) == ("failed", "why\n") and bad.bad
    assert steps.step("c", [PYTHON, "-c", ""], 0).status == "out of time"


def test_interrupted_tests_say_what_failed_until_then(tmp_path):
    file = tmp_path / "test_slow.py"
    body = "import time\ndef test_one(): pass\ndef test_two(): assert 1 == 2\n"
    file.write_text(body + "def test_three(): time.sleep(60)\n")
    command = [PYTHON, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--noconftest", str(file)]  # fmt: skip
    made = gpu._pytest("slow", command, 10)
    assert made.status == "out of time" and "; 1 failed, 1 passed" in made.detail
    assert "assert 1 == 2" in made.output


def test_a_step_ends_in_time_with_what_it_started(tmp_path):
    """The grandchild ignores being asked."""
    child = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    began = time.monotonic()
    made = steps.step("hangs", [PYTHON, "-c", parent], 2)
    assert made.status == "out of time" and time.monotonic() - began < 2 + steps.GRACE + 5
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout  # fmt: skip
        if not state.strip() or state.startswith("Z"):
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    raise AssertionError("what the step had started is still running")


def test_a_deadline_shortens_what_is_left():
    deadline = Deadline(100)
    assert deadline.left(30) == 30 and 99 < deadline.left() <= 100
    assert Deadline(-5).left() == 0


def test_steps_get_no_more_than_what_is_left(suite, monkeypatch):
    given = []
    monkeypatch.setattr(gpu, "step", lambda name, command, seconds, **_: given.append(seconds) or Step(name, "ok"))  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    suite.deadline = Deadline(20)
    gpu.build(suite)
    suite.deadline = Deadline(10_000)
    gpu.build(suite)
    assert given[0] <= 20 and given[1] == gpu.BUILD_SECONDS


# -- the file


def test_parts_of_one_environment_meet_in_one_file(environment, tmp_path):
    path = tmp_path / "gpu.json"
    first = GpuFile(path)
    first.add_step(Step("build", "ok", 3.0))
    first.add_step(Step("tests", "failed", 9.0, "1 failed"))
    environment["commit"] = "2"  # another commit with the same sources
    second = GpuFile(path)
    second.content["rows"].append(row("one"))
    second.add_step(Step("tests", "ok", 8.0))
    again = GpuFile(path)
    assert [(each["step"], each["status"]) for each in again.steps] == [
        ("build", "ok"), ("tests", "ok")
    ]  # fmt: skip
    assert [each["case"] for each in again.rows] == ["one"]
    assert json.loads(path.read_text())["environment"]["commit"] == "2"


@pytest.mark.parametrize("name", ["driver", "sources", "gpu"])
def test_a_file_of_another_environment_is_begun_anew(environment, tmp_path, name):
    path = tmp_path / "gpu.json"
    GpuFile(path).add_step(Step("build", "ok"))
    environment[name] = "another"
    assert GpuFile(path).steps == []
    assert json.loads(path.read_text())["steps"]  # until there is something to write


def test_everything_is_in_one_table(suite):
    suite.file.add_step(Step("build", "ok", 41.0))
    suite.file.add_step(Step("memcheck", "skipped", detail="compute-sanitizer is not installed"))
    suite.file.content["rows"] = [
        row("a"), row("a", "liger", "liger-kernel is not installed (pip install 'umer1[peers]')"),
        row("a", "umer1-graph", median_ms=0.5), row("b", status="failed: out of memory"),
    ]  # fmt: skip
    text = gpu_file.summary(suite.file)
    lines = [line.split() for line in text.splitlines()]
    assert ["build", "ok", "41", "s"] in lines
    assert ["info_nce", "a", "ok", "1.50", "ms", "90", "2.0", "2.0e-03"] in lines
    assert ["info_nce", "a", "-graph", "ok", "0.500", "ms", "90", "2.0", "2.0e-03"] in lines
    assert "info_nce b" in text and "failed: out of memory" in text
    assert "skipped memcheck: compute-sanitizer is not installed" in text
    assert "skipped peer liger: liger-kernel is not installed" in text
