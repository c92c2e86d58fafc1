"""What a load test found: figures, verdicts, and both as text."""

from __future__ import annotations

from collections import Counter
from statistics import median

import numpy as np

from bench.serving.clients import Answered, Told
from bench.serving.offline import Vectors

GROWTH_MIB = 24.0  # of memory between the second fifth and the last: heaps are never quite still
FILLING = 180.0  # seconds within which caches are still filling: growth is judged of longer runs
KEPT_SAMPLES = 60  # in the file


def summary(
    told: Told,
    load: dict,
    offline: dict,
    wanted: list[Vectors],
    differences: list[float],
    page_bytes: int,
) -> dict:
    """Everything as JSON."""
    items, took = len(wanted), load["took"]
    samples = [{**each, "own_mib": _own(each, page_bytes)} for each in load["samples"]]
    rate, alone = items / took, items / offline["seconds"]
    kinds = sorted({answered.request.kind for answered in told.answered})
    return {
        "took": took,
        "asked": {
            "answered": len(told.answered),
            "vanished": dict(told.vanished),
            "garbage": _table(told.garbage),
            "refused_429": told.refused,
        },
        "kinds": {kind: _kind(kind, told.answered) for kind in kinds},
        "failures": {
            "statuses": _table(told.statuses),
            "wrong_garbage": _table(told.wrong),
            "broken_connections": dict(told.broken),
            "engine_failures": load["after"]["engine_failures"],
            "tracebacks": load["tracebacks"],
            "exit_status": load["exit_status"],
            "examples": told.examples,
            "log_end": load["log_end"] if load["tracebacks"] or load["exit_status"] else "",
        },
        "vectors": {
            "items": items,
            "differing": sum(each != 0 for each in differences),
            "worst_difference": max(differences, default=0.0),
        },
        "throughput": {
            "server_items_per_second": rate,
            "engine_items_per_second": alone,
            "share": rate / alone,
            "tokens_per_second": sum(each.tokens for each in wanted) / took,
            "requests_per_second": len(told.answered) / took,
            "engine_threads": offline["threads"],
            "engine_trial_items_per_second": offline["trial_items_per_second"],
            "server_cpu_ms_per_item": 1e3 * load["server_cpu_seconds"] / items,
            "engine_cpu_ms_per_item": 1e3 * offline["cpu_seconds"] / items,
            "server_cores": load["server_cpu_seconds"] / took,
            "clients_cores": load["clients_cpu_seconds"] / took,
        },
        "server": {
            "before": load["before"],
            "after": load["after"],
            "watched_seconds": samples[-1]["at"] if samples else 0.0,
            **_memory(samples),
            # those of video decoders come and go: a leak is where fewest are more than there ever were
            "most_threads_in_the_first_half": max(
                (each["threads"] for each in samples[: max(1, len(samples) // 2)]), default=0
            ),
            "fewest_threads_in_the_last_fifth": min(
                (each["threads"] for each in samples[-max(1, len(samples) // 5) :]), default=0
            ),
            "samples": samples[:: max(1, len(samples) // KEPT_SAMPLES)],
        },
    }  # fmt: skip


def checks(content: dict, least: float) -> list[dict]:
    """What must hold: name, what was seen, what is wanted, whether it is so."""
    failures, vectors, server = content["failures"], content["vectors"], content["server"]
    before, after = server["before"], server["after"]
    found = []

    def check(name: str, value: float, wanted: str, met: bool) -> None:
        found.append({"name": name, "value": value, "wanted": wanted, "met": bool(met)})

    def none(name: str, value: float) -> None:
        check(name, value, "0", value == 0)

    none("good requests with an error", sum(failures["statuses"].values()) + len(content["unread"]))
    none("garbage with another status than it deserves", sum(failures["wrong_garbage"].values()))
    none("connections dropped by the server", sum(failures["broken_connections"].values()))
    none(
        "steps of the engine that failed, tracebacks in the log",
        failures["engine_failures"] + failures["tracebacks"],
    )
    none("exit status after SIGTERM", failures["exit_status"])
    none("vectors that differ from the engine's alone", vectors["differing"])
    none(
        "rows and pages held after the last answer",
        after["running"] + after["queue"] + after["pages_held"],
    )
    for name in ("tasks", "files"):
        check(
            f"{name} after, against before",
            after[name],
            f"≤ {before[name]:g}",
            after[name] <= before[name],
        )
    most, fewest = (
        server["most_threads_in_the_first_half"],
        server["fewest_threads_in_the_last_fifth"],
    )
    check(
        "fewest threads in the last fifth",
        fewest,
        f"≤ {most:g}, the most in the first half",
        fewest <= most,
    )
    if server["watched_seconds"] >= FILLING:
        growth = server["growth_mib"]
        check(
            "growth of the server's own memory, MiB",
            round(growth, 1),
            f"≤ {GROWTH_MIB:g}",
            growth <= GROWTH_MIB,
        )
    share = content["throughput"]["share"]
    check("throughput, of the engine's alone", round(share, 3), f"≥ {least:g}", share >= least)
    return found  # fmt: skip


def report(content: dict) -> str:
    """For the terminal."""
    asked, failures = content["asked"], content["failures"]
    throughput, server = content["throughput"], content["server"]
    before, after = server["before"], server["after"]
    lines = [
        f"\n{content['clients']} clients, {content['took']:.0f} s: {asked['answered']} requests answered "
        f"({content['vectors']['items']} items), {sum(asked['vanished'].values())} left by their clients, "
        f"{sum(asked['garbage'].values())} of garbage, {asked['refused_429']} refused for a while (429)",
        f"{'kind':<14}{'requests':>9}{'items':>7}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}",
    ]
    for kind, row in content["kinds"].items():
        lines.append(
            f"{kind:<14}{row['requests']:>9}{row['items']:>7}"
            + "".join(f"{row[f'p{share}_ms']:>9.0f}" for share in (50, 95, 99))
        )
    lines += [
        f"server {throughput['server_items_per_second']:.1f} items/s ({throughput['tokens_per_second']:.0f} tokens/s, "
        f"{throughput['server_cores']:.2f} cores; clients {throughput['clients_cores']:.2f} cores); "
        f"engine alone {throughput['engine_items_per_second']:.1f} items/s on {throughput['engine_threads']} threads: "
        f"{throughput['share']:.0%}; CPU per item {throughput['server_cpu_ms_per_item']:.1f} ms, alone "
        f"{throughput['engine_cpu_ms_per_item']:.1f} ms",
        f"memory {before['rss_mib']:.0f} -> {after['rss_mib']:.0f} MiB; without pages and features of media "
        f"{server['growth_mib']:+.1f} MiB from the second fifth to the last, {server['slope_mib_per_minute']:+.2f} MiB/min",
    ]
    for name in ("statuses", "wrong_garbage", "broken_connections", "examples"):
        if failures[name]:
            lines.append(f"{name}: {failures[name]}")
    lines += [f"unread: {each}" for each in content["unread"]]
    lines.append("")
    for each in content["checks"]:
        mark = "ok  " if each["met"] else "FAIL"
        lines.append(f"{mark}  {each['name']}: {each['value']:g} (wanted {each['wanted']})")
    return "\n".join(lines)


def page_text(content: dict) -> str:
    """For the docs, in Markdown."""
    on, throughput, server = content["environment"], content["throughput"], content["server"]
    asked, before, after = content["asked"], server["before"], server["after"]
    changed = ", with uncommitted changes" if on["uncommitted_changes"] else ""
    kinds = "\n".join(
        f"| {kind} | {row['requests']} | {row['items']} | {row['p50_ms']:.0f} | {row['p95_ms']:.0f} | {row['p99_ms']:.0f} |"
        for kind, row in content["kinds"].items()
    )
    verdicts = "\n".join(
        f"| {each['name']} | {each['wanted']} | {each['value']:g} | {'yes' if each['met'] else '**no**'} |"
        for each in content["checks"]
    )
    return (
        f"`{content['command']}`: model {content['model']}, {content['clients']} clients, {content['took']:.0f} s; "
        f"{asked['answered']} requests answered, {sum(asked['vanished'].values())} left by their clients, "
        f"{sum(asked['garbage'].values())} of garbage. {on['cpu']}, Python {on['python']}, "
        f"torch {on['packages']['torch']}, commit {(on['commit'] or 'unknown')[:12]}{changed}.\n\n"
        f"Server {throughput['server_items_per_second']:.1f} items/s and {throughput['tokens_per_second']:.0f} tokens/s on "
        f"{throughput['server_cores']:.2f} cores, its clients on {throughput['clients_cores']:.2f}; the engine alone, the same "
        f"items on {throughput['engine_threads']} threads, {throughput['engine_items_per_second']:.1f} items/s. "
        f"Resident memory {before['rss_mib']:.0f} MiB before, {after['rss_mib']:.0f} MiB after (pages of keys and values that "
        f"are kept for prompts to come again included); the rest of it grew by {server['slope_mib_per_minute']:.2f} MiB a minute.\n\n"
        f"| request | answered | items | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|---|\n{kinds}\n\n"
        f"| check | aim | measured | met |\n|---|---|---|---|\n{verdicts}"
    )


def _kind(kind: str, answered: list[Answered]) -> dict:
    mine = [each for each in answered if each.request.kind == kind]
    p50, p95, p99 = np.percentile([1e3 * each.seconds for each in mine], (50, 95, 99))
    items = sum(len(each.request.parts) for each in mine)
    return {"requests": len(mine), "items": items, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def _own(sample: dict, page_bytes: int) -> float:
    """Resident memory without what is bounded and filled by design: keys and values, features."""
    pages = sample["pages_held"] + sample["pages_kept"]
    return sample["rss_mib"] - (pages * page_bytes + sample["feature_bytes"]) / 2**20


def _memory(samples: list[dict]) -> dict[str, float]:
    """Growth of the own memory from the second fifth of the time to the last, and its slope over the last three."""
    if len(samples) < 5:
        return {"growth_mib": 0.0, "slope_mib_per_minute": 0.0}
    fifth = len(samples) // 5
    own = [each["own_mib"] for each in samples]
    late = samples[2 * fifth :]
    slope = np.polyfit([each["at"] / 60 for each in late], [each["own_mib"] for each in late], 1)[0]
    return {
        "growth_mib": median(own[-fifth:]) - median(own[fifth : 2 * fifth]),
        "slope_mib_per_minute": float(slope),
    }


def _table(counts: Counter) -> dict[str, int]:
    return {f"{name} {status}": count for (name, status), count in sorted(counts.items())}
