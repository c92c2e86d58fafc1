"""Indexing in bounded memory, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak is read from /proc"
)
TEXT = 'the picture shows {a} \\"person\\" in red; [so] the answer is é and ' * 24  # 1.6 KB

MEASURE = """
import re, sys, time
from pathlib import Path
from umer1.data import open_sft
def peak():
    # of this program alone: getrusage counts the process that started it too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before, began, used = peak(), time.perf_counter(), time.process_time()
store = open_sft(sys.argv[1], ".")
seconds, used = time.perf_counter() - began, time.process_time() - used
began = time.perf_counter()
again = open_sft(sys.argv[1], ".")
reopened = time.perf_counter() - began
total = int(store.lengths.sum()), len(store.sources), store[len(store) - 1].dataset
print(len(store), before, peak(), seconds, used, reopened)
"""


def write(path, count):
    def side(number):
        turns = [{"from": "human", "value": f"<image>\nquestion {number}\n<disc_emb>\n"}]
        turns.append({"from": "gpt", "value": f"<think>{TEXT}</think><answer>it\n<gen_emb>"})
        return {"conversations": turns, "image": f"{number}.jpg"}

    rows = [
        json.dumps({"dataset_name": f"s{source}", "qry": side("NUMBER"), "pos": side(1)})
        for source in range(25)
    ]
    with path.open("w") as file:
        file.write("[")
        for number in range(count):
            row = rows[number // 64 % 25].replace("NUMBER", str(number))
            file.write((", " if number else "") + row)
        file.write("]")


def measure(path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    return [float(number) for number in done.stdout.split()]


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.json"
    write(path, 20_000)  # 72 MB
    count, before, peak, seconds, used, reopened = measure(path)
    size = path.stat().st_size / 1e6
    print(
        f"{count:.0f} records, {size:.0f} MB: {seconds:.1f} s, {size / seconds:.0f} MB/s, {used:.1f} s CPU"
    )
    assert count == 20_000
    assert peak - before < 48  # MiB: windows of 4 MiB, 24 bytes a record
    assert reopened < seconds / 4  # nothing is scanned again


@pytest.mark.slow
def test_the_released_size_in_one_gibibyte(tmp_path):
    path = tmp_path / "a.json"
    write(path, 1_463_360)  # 5 GB
    size = path.stat().st_size / 1e6
    try:
        count, _, peak, seconds, used, reopened = measure(path)
    finally:
        path.unlink()  # pytest keeps directories of its last runs
    print(
        f"{count:.0f} records, {size:.0f} MB: {seconds:.1f} s, {size / seconds:.0f} MB/s, {used:.1f} s CPU, "
        f"peak {peak:.0f} MiB, opened again in {reopened * 1000:.1f} ms"
    )
    assert count == 1_463_360
    assert peak < 1024
