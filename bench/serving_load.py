"""The server under load, and whether it is as fast, as right and as tight as the engine alone: `python -m bench.serving_load`.

    python -m bench.serving_load                                  # 64 clients for 2 + 5 minutes, and the engine alone after it
    python -m bench.serving_load --seconds 30 --clients 16        # a look
    python -m bench.serving_load --json bench/results/serving/cpu.json --page docs/performance.md

Starts `umer1 serve`. The clients ask for embeddings and chat in every form, mode and modality (bench/serving/mix.py), no
prompt twice; of their requests 10 % are left without a word (in the middle of the body, while they wait, in the stream) and
5 % are garbage. Before what is measured they ask for a while, until caches are full. Then the same answered requests go
through `Embedder` in this process: that gives the vector that each answer must hold, and the throughput that 80 % of is
wanted. Memory, threads, open files, tasks and pages of the server are read every second. Ends with status 1 if a check
fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "kernels")]  # from a checkout, without installing

from bench.environment import environment  # noqa: E402
from bench.pages import write_page  # noqa: E402
from bench.results import write  # noqa: E402
from bench.serving.clients import Clients, Told  # noqa: E402
from bench.serving.figures import checks, page_text, report, summary  # noqa: E402
from bench.serving.mix import Mix  # noqa: E402
from bench.serving.offline import answers, compute, difference  # noqa: E402
from bench.serving.server import Server  # noqa: E402
from umer1 import Embedder  # noqa: E402
from umer1.embedder import BUNDLED  # noqa: E402
from umer1.engine import memory  # noqa: E402
from umer1.processor import Processor  # noqa: E402

WARM_UP = 120.0  # seconds: prompts, features and compiled products are kept, up to so many
SETTLE = 60.0  # seconds after the last answer within which everything must be given back


def main(argv: list[str] | None = None) -> int:
    """0 if every check holds, else 1."""
    arguments = _parser().parse_args(argv)
    content = measure(arguments)
    content["command"] = " ".join(
        ["python -m bench.serving_load", *(sys.argv[1:] if argv is None else argv)]
    )
    print(report(content))
    if arguments.json:
        write(arguments.json, content)
        print(f"wrote {arguments.json}")
    if arguments.page:
        write_page(arguments.page, page_text(content), "serving-load")
        print(f"wrote {arguments.page}")
    return int(not all(check["met"] for check in content["checks"]))


def measure(arguments: argparse.Namespace) -> dict:
    """Everything that was seen, and the verdicts."""
    torch.set_num_threads(1)  # this process only asks
    encode = Processor.load(BUNDLED.get(arguments.model, arguments.model)).text.encode
    _say("making pictures and clips")
    mix = Mix.of_benchmark(arguments.work, arguments.model, encode)
    server = Server(arguments.model, arguments.work / "server.log", [], arguments.server_threads)
    try:
        _say(f"{arguments.clients} clients for {arguments.seconds:g} s")
        told, seen = asyncio.run(
            load(
                server, mix, arguments.clients, arguments.seconds, arguments.seed, arguments.warm_up
            )
        )
    finally:
        status = server.stop()
    log = server.log.read_text()
    seen |= {"exit_status": status, "tracebacks": log.count("Traceback"), "log_end": log[-2000:]}
    _say(f"{sum(len(each.request.parts) for each in told.answered)} items through the engine alone")
    threads = [arguments.offline_threads] if arguments.offline_threads else None
    content = judged(told, seen, arguments.model, threads or sorted({1, os.cpu_count() or 1}))
    content |= {
        "environment": environment(),
        "clients": arguments.clients,
        "model": arguments.model,
    }
    return content | {"checks": checks(content, arguments.least)}


async def load(
    server: Server,
    mix: Mix,
    count: int,
    seconds: float,
    seed: int = 0,
    warm_up: float | None = None,
) -> tuple[Told, dict]:
    """Fill the server's caches for `warm_up` seconds (default: `WARM_UP`, or `seconds` if those are fewer), ask, wait until the server has given everything back: what the clients were told, and how the server
    was before, meanwhile and after."""
    warm_up = min(WARM_UP, seconds) if warm_up is None else warm_up
    await Clients(server.address, mix, count, warm_up, seed=seed + 1).run()
    before = await _settled(server, None)
    cpu, own = server.cpu_seconds(), time.process_time()
    clients = Clients(server.address, mix, count, seconds, seed)
    samples: list[dict] = []
    watching = asyncio.create_task(_watch(server, samples))
    took = await clients.run()
    watching.cancel()
    return clients.told, {
        "took": took,
        "server_cpu_seconds": server.cpu_seconds() - cpu,
        "clients_cpu_seconds": time.process_time() - own,
        "samples": samples,
        "before": before,
        "after": await _settled(server, before),
    }


def judged(told: Told, seen: dict, model: str, threads: list[int]) -> dict:
    """The figures, with every answered vector compared to that of the engine alone."""
    parts = [part for answered in told.answered for part in answered.request.parts]
    wanted, offline = compute(model, parts, threads)
    place, differences, unread = 0, [], []
    for answered in told.answered:
        expected = wanted[place : place + len(answered.request.parts)]
        place += len(expected)
        try:
            differences += map(difference, expected, answers(answered))
        except (ValueError, KeyError, IndexError) as error:
            unread.append(f"{answered.request.kind}: {error!r}: {answered.body[:200]!r}")
    figures = summary(told, seen, offline, wanted, differences, page_bytes(model))
    return figures | {"unread": unread}


async def _watch(server: Server, samples: list[dict]) -> None:
    began = time.monotonic()
    while True:
        sample = await asyncio.to_thread(server.sample)
        samples.append({"at": time.monotonic() - began, **sample})
        await asyncio.sleep(1)


async def _settled(server: Server, before: dict | None) -> dict:
    """The server once nothing runs in it, and it has no more files and tasks than before; or after `SETTLE`."""
    deadline = time.monotonic() + SETTLE
    while True:
        sample = await asyncio.to_thread(server.sample)
        busy = sample["running"] or sample["queue"] or sample["pages_held"]
        more = before and any(sample[name] > before[name] for name in ("files", "tasks"))
        if not (busy or more) or time.monotonic() > deadline:
            return sample
        await asyncio.sleep(0.2)


def page_bytes(model: str) -> int:
    """Keys and values of one page in the server's memory."""
    loaded = Embedder.load(model, device="cpu").model
    return memory.page_bytes(loaded.config, loaded.dtype)


def _say(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--warm-up", type=float, help=f"seconds before those; default: {WARM_UP:g}, at most --seconds")  # fmt: skip
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--least", type=float, default=0.8, help="throughput wanted, of the engine's alone"
    )
    parser.add_argument(
        "--server-threads", type=int, help="OMP_NUM_THREADS of the server; default: its own choice"
    )
    parser.add_argument(
        "--offline-threads", type=int, help="default: 1 or all cores, whichever is faster"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "serving_load")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="writes between its markers of serving-load")
    return parser


if __name__ == "__main__":
    sys.exit(main())
