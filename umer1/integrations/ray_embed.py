"""Bulk embedding on Ray Data: shards go to stateful workers, files come out, exactly one per shard.

    umer1 embed items.parquet --engine ray --output vectors

Over the network go only descriptions of shards and receipts; a worker reads its rows and writes its
file itself, so all machines must see the inputs and the output. A worker that dies is started again
by Ray and its shard goes to another one; what makes that harmless is in `umer1.bulk.worker`. Run
again after the driver was killed, workers find finished shards by their files.

Tested with Ray 2.60.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from umer1.bulk import Receipt, Run, Shard, ShardWorker
from umer1.bulk.inputs import Scan, as_file, find_sources, scan
from umer1.bulk.run import plan, refuse_strangers
from umer1.bulk.worker import BAD
from umer1.parts import take_lock
from umer1.progress import progress_bar

log = logging.getLogger("umer1")
# shards are descriptions here: a local Ray needs little room for them
OBJECT_STORE_BYTES = 200 << 20
# Ray Data plans no more tasks than this; above, one task takes several shards
MOST_TASKS = 50_000


@dataclass(frozen=True)
class Cluster:
    """Where and on what workers run.

    address: of a cluster ("auto": the one on this machine); None: RAY_ADDRESS, or a Ray of our own
    that ends with the call. workers: None: as many as fit. cpus, gpus: of one worker; None: one GPU
    where there are any and a fair share of its machine's cores, else all cores of a machine.
    local_cpus: of a Ray of our own; None: all.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    local_cpus: int | None = None


def embed_on_ray(
    sources: list[Path],
    output: Path,
    *,
    model: str,
    load: Callable[[float, float], Any],
    options: dict,
    instruction: str | None = None,
    shard_items: int = 1024,
    bad_items: str = "stop",
    cluster: Cluster | None = None,
    show: bool = True,
) -> dict:
    """Embed every item of `sources` into the directory `output`, or go on with it.

    Args:
        sources: .jsonl and .parquet files, directories of those or of pictures and videos.
        model: identity of the weights, kept with the vectors.
        load: (cpus, gpus of a worker) -> its Embedder; called in the worker.
        options: of `Embedder.stream`; `mode` among them.
        instruction: put before the text of items that have none of their own.
        shard_items: items in one file, and what a killed worker loses at most.
        bad_items: "stop" at the first unusable item, or "record" why it has no vectors.

    Returns:
        The content of done.json: sums over all shards.

    Raises:
        ValueError: unusable sources, an unusable item, a directory that holds something else, no
            machine that fits a worker, or a shard that ended one worker after another.
    """
    cluster = cluster or Cluster()
    if shard_items < 1:
        raise ValueError(f"shard_items: got {shard_items}, wants at least 1")
    output = Path(output).absolute()
    found = find_sources(sources, output)
    output.mkdir(parents=True, exist_ok=True)
    refuse_strangers(output)
    with take_lock(output, f"{output}: another process is writing it"):
        files = [as_file(source, output / "lists") for source in found]
        with connected(cluster):
            run, shards = plan(
                output,
                _scans(files, shard_items),
                model=model,
                options=options,
                instruction=instruction,
                shard_items=shard_items,
            )
            run.take_over()
            if (done := run.done()) is not None:
                return done
            return run.finish(_compute(run, shards, load, bad_items, cluster, show))


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """A Ray to work with: the caller's if there is one, else a cluster's, else one of our own.

    Our own listens to this machine and to who knows its token, has no dashboard, and ends with the
    block. None of them is told to report its use.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    own = address == "local"
    settings = {
        "num_cpus": cluster.local_cpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    with _environment(ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(16)} if own else QUIET):
        import ray

        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, **(settings if own else {})
        )
        try:
            yield
        finally:
            ray.shutdown()


# Ray replaces a loopback address by the machine's, unless it may have no cluster
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
ALONE = QUIET | {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # 15 by default: the work itself would stand behind everything else
    "RAY_worker_niceness": "0",
}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _scans(files: list[Path], shard_items: int) -> list[Scan]:
    """Every file is read once, by whichever machine is free."""
    import ray

    task = ray.remote(_scan)
    found = ray.get([task.remote(path, shard_items) for path in files])
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


def _scan(path: Path, shard_items: int) -> Scan | Exception:
    try:
        return scan(path, shard_items)
    except BAD as error:
        return error


def _compute(
    run: Run, shards: list[Shard], load: Callable, bad_items: str, cluster: Cluster, show: bool
) -> dict:
    """Sums over the receipts of all shards."""
    import ray

    if not shards:
        raise ValueError("nothing to embed: the files hold no items")
    workers, cpus, gpus = size_workers(_machines(), cluster)
    workers = min(workers, len(shards))
    log.info("%d shards on %d workers of %g CPUs and %g GPUs", len(shards), workers, cpus, gpus)
    _quiet(ray.data.DataContext.get_current())
    receipts = (
        ray.data.from_items(
            [asdict(shard) for shard in shards],
            override_num_blocks=min(len(shards), MOST_TASKS),
        )
        .map_batches(
            _Actor,
            fn_constructor_args=(run, _Load(load, cpus, gpus), bad_items),
            batch_size=1,
            # one shard at a time: what waits at a worker dies with it
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        .iter_rows()
    )
    sums = dict.fromkeys(("items", "bad", "missed", "tokens"), 0)
    computed, began, seen = 0, time.monotonic(), set()
    with progress_bar("embed on ray", run.settings["items"], unit="items", show=show) as bar:
        for row in receipts:
            if row["problem"]:
                raise ValueError(row["problem"])
            seen.add(row["shard"])
            for name in sums:
                sums[name] += row[name]
            computed += 0 if row["found"] else row["tokens"]
            numbers = {"tokens/s": round(computed / max(time.monotonic() - began, 1e-9))}
            bar.advance(row["items"], **numbers, shards=len(seen), bad=sums["bad"])
    if len(seen) != len(shards):
        raise RuntimeError(f"{len(seen)} of {len(shards)} shards came back")
    return {"shards": len(shards), **sums}


class _Actor:
    """What Ray Data starts once per worker and calls per shard."""

    def __init__(self, run: Run, load: Callable[[], Any], bad_items: str):
        self.work = ShardWorker(run, load, bad_items)

    def __call__(self, batch: dict) -> dict:
        """batch: the fields of one Shard, as arrays of one; answers with those of its Receipt."""
        shard = Shard(**{field.name: batch[field.name].tolist()[0] for field in fields(Shard)})
        try:
            receipt, problem = self.work(shard), ""
        except BAD as error:
            # as data: an exception would arrive wrapped in Ray's own
            receipt = Receipt(shard.number, 0, 0, 0, 0, False, 0.0)
            problem = str(error) or type(error).__name__
        return {name: [value] for name, value in {**asdict(receipt), "problem": problem}.items()}


@dataclass(frozen=True)
class _Load:
    load: Callable[[float, float], Any]
    cpus: float
    gpus: float

    def __call__(self) -> Any:
        return self.load(self.cpus, self.gpus)


def size_workers(machines: list[tuple[float, float]], cluster: Cluster) -> tuple[int, float, float]:
    """Workers, and the CPUs and GPUs of each, for machines of (CPUs, GPUs).

    Raises:
        ValueError: not even one fits.
    """
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1 if any(have > 0 for _, have in machines) else 0
    cpus = cluster.cpus
    if cpus is None:
        shares = [
            cores * gpus / have if gpus else cores for cores, have in machines if have >= gpus
        ]
        cpus = max(1, int(min((share for share in shares if share), default=1)))
    fit = sum(
        int(min(cores / cpus if cpus else float("inf"), have / gpus if gpus else float("inf")))
        for cores, have in machines
        if cpus or gpus
    )
    if fit < 1:
        most = ", ".join(f"{cores:g} CPUs and {have:g} GPUs" for cores, have in machines)
        raise ValueError(
            f"a worker wants {cpus:g} CPUs and {gpus:g} GPUs, no machine has them ({most})"
        )
    return cluster.workers or fit, cpus, gpus


def _machines() -> list[tuple[float, float]]:
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]


def _quiet(context: Any) -> None:
    """Our own bar shows the progress."""
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
