"""kill -9 on the real command with the bundled model, under torchrun too: the same bytes at the end."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from umer1 import parts
from umer1.cli import main
parts.ROWS, parts.SECONDS = 3, 0.1
sys.exit(main(sys.argv[1:]))
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def command(tmp_path, benchmark_dir):
    """command(out, *options, processes=1): the running evaluation."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        "OMP_NUM_THREADS": "1",
    }

    def start(out, *options, processes=1):
        launcher = TORCHRUN if processes == 2 else []
        arguments = ["eval", "mmeb", benchmark_dir, "-o", out, "--quiet", "--samples", 3]
        arguments += ["--max-new-tokens", 32, "--seed", 5, *options]
        return subprocess.Popen(
            [sys.executable, *launcher, script, *map(str, arguments)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


def finish(process):
    _, messages = process.communicate()
    assert process.returncode == 0, messages


def content(out):
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def kill(process):
    """The process and, first stopped so that it starts no others, its children."""
    process.send_signal(signal.SIGSTOP)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*map(int, children), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


def kill_after(process, out, files):
    """Kill it once it has written so many files more; whether it was still running then."""
    before = len(content(out)) if out.exists() else 0
    while process.poll() is None and (
        not out.exists() or abs(len(list(out.rglob("*"))) - before) < files
    ):
        time.sleep(0.002)
    if process.poll() is not None:
        return False
    kill(process)
    return True


def test_kills_and_processes_change_no_byte(command, tmp_path):
    finish(command(tmp_path / "whole", "--batch-size", 5))
    whole = content(tmp_path / "whole")
    assert "digit_gen_qry_samples.npy" in whole
    chance, kills = random.Random(int(time.time())), 0
    for processes in (1, 2):
        out = tmp_path / f"killed{kills}"
        for _ in range(3):
            running = command(out, processes=processes)
            kills += kill_after(running, out, chance.randrange(4, 30))
        finish(command(out, processes=processes))
        assert content(out) == whole, processes
    assert kills > 2


def test_a_run_goes_on_with_another_number_of_processes(command, tmp_path):
    finish(command(tmp_path / "whole", processes=2))
    out = tmp_path / "out"
    assert kill_after(command(out, processes=2), out, 12)
    finish(command(out))
    assert content(out) == content(tmp_path / "whole")


def test_one_process_says_what_is_wrong(command, tmp_path):
    finish(command(tmp_path / "out", "--tasks", "digit"))
    process = command(tmp_path / "out", "--tasks", "digit", "--readout", "after", processes=2)
    _, messages = process.communicate()
    assert process.returncode != 0
    assert messages.count("umer1: error:") == 1
    assert "holds results with readout='at', now 'after'" in messages
