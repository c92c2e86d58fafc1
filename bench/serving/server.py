"""The server as users start it, in a process of its own, and what the system says about that process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STARTING = 180.0  # seconds that loading may take on a busy machine
_ADDRESS = re.compile(r"serving at http://([\d.]+):(\d+)")
# of /metrics: name in a sample -> metric
GAUGES = {
    "tasks": "umer1_tasks",
    "queue": "umer1_queue_rows",
    "running": "umer1_running_rows",
    "pages_held": "umer1_kv_pages_held",
    "pages_kept": "umer1_kv_pages_kept",
    "feature_bytes": "umer1_feature_bytes",
    "engine_failures": "umer1_engine_failures",
}


class Server:
    """`umer1 serve` on a free port. Attributes: address, host and port; log, where it writes."""

    def __init__(self, model: str, log: Path, options: list[str], threads: int | None = None):
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT / "kernels"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        command = [sys.executable, "-m", "umer1.cli", "serve", model, "--port", "0", *options]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            self.address = self._started()
        except BaseException:
            self.process.kill()
            raise

    def sample(self) -> dict[str, float]:
        """MiB resident (of the engine too), open files, threads, of both its processes; of its own gauges those in `GAUGES`."""
        sample = {"rss_mib": 0.0, "threads": 0, "files": 0}
        for place in self._processes():
            status = (place / "status").read_text()
            resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
            sample["rss_mib"] += resident
            sample["engine_rss_mib"] = resident  # the last is the engine's
            sample["threads"] += int(re.search(r"Threads:\s+(\d+)", status)[1])
            sample["files"] += len(os.listdir(place / "fd"))
        gauges = self._gauges()
        return sample | {name: gauges[metric] for name, metric in GAUGES.items()}

    def cpu_seconds(self) -> float:
        """Of all threads of both processes so far."""
        stats = [(place / "stat").read_text() for place in self._processes()]
        ticks = [stat.rpartition(")")[2].split()[11:13] for stat in stats]
        return sum(int(each) for pair in ticks for each in pair) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """Ask it to finish; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _processes(self) -> list[Path]:
        """The server, and the engine that it started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [Path("/proc", str(each)) for each in (pid, *children)]

    def _gauges(self) -> dict[str, float]:
        host, port = self.address
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        plain = (line.split() for line in lines if line[:1] != "#" and "{" not in line)
        return {name: float(value) for name, value in plain}

    def _started(self) -> tuple[str, int]:
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := _ADDRESS.search(self.log.read_text()):
                return found[1], int(found[2])
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start; it wrote:\n{self.log.read_text()[-3000:]}")
