"""`python -m bench.billions`: docs/billions.md, what 10^9 items take, from measured rates.

    python -m bench --json bench/results/cpu.json       # rates of the model
    python -m bench.billions_search                     # rates of search
    python -m bench.billions                            # the page
    python -m bench.billions --items 1e8 --days 7 --page -

Every assumption is an option and is named on the page. Nothing on it is typed by hand.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from bench.billions_arithmetic import (
    Assumptions,
    Rate,
    Search,
    SearchCosts,
    calculated_rates,
    machines_for,
    measured_rates,
    scaled,
    storage,
)
from bench.billions_search import CANDIDATES, OUTPUT
from bench.billions_text import NO_GPU, TEXT
from bench.report import RESULTS
from bench.report_text import markdown
from bench.results import read

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "billions.md"
FULL, SHORT = 1536, 256
PLAIN_RATES = (10, 30, 100, 300, 1000)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.billions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: bench/results/*.json")
    parser.add_argument("--search", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=PAGE, help="- for stdout")
    parser.add_argument("--check", action="store_true", help="change nothing")
    for each in fields(Assumptions):
        name = f"--{each.name.replace('_', '-')}"
        parser.add_argument(name, type=type(each.default), default=each.default, help="default: %(default)s")  # fmt: skip
    given = parser.parse_args(argv)
    assumed = Assumptions(**{each.name: getattr(given, each.name) for each in fields(Assumptions)})
    try:
        text = page(given.files or sorted(RESULTS.glob("*.json")), given.search, assumed)
    except (ValueError, OSError) as error:
        print(f"python -m bench.billions: {error}", file=sys.stderr)
        return 2
    if given.check:
        good = given.page.exists() and given.page.read_text() == text
        print(f"{given.page.name} is {'up to date' if good else 'out of date'}")
        return int(not good)
    if str(given.page) == "-":
        print(text)
    else:
        given.page.write_text(text)
    return 0


def page(files: list[Path], search: Path, assumed: Assumptions) -> str:
    """The whole page.

    Raises:
        ValueError: a file is no result file, or lacks what the page needs.
    """
    rows = [row for file in files for row in read(file)["rows"]]
    measured = measured_rates(rows)
    if not measured:
        raise ValueError("no rates at the 2B shape: python -m bench --json bench/results/cpu.json")
    found = read(search)
    costs = SearchCosts(found["rows"])
    on_cpu = [scaled(rate, assumed) for rate in measured if "cores" in rate.machine]
    on_gpu = any("cores" not in rate.machine for rate in measured)
    calculated = [] if on_gpu else calculated_rates(assumed)
    return TEXT.format(
        items=_big(assumed.items),
        measured=rates_table(measured, assumed),
        others=rates_table([*on_cpu, *calculated], assumed),
        gpu="" if on_gpu else NO_GPU.format(assumed=assumed, share=100 * assumed.share, products=assumed.products / 1e12, bandwidth=assumed.bandwidth / 1e12),
        plain=plain_table(assumed),
        storage=storage_table(assumed),
        files=_number(assumed.items / assumed.shard_items),
        file_mb=_number(assumed.shard_items * sum(each.bytes_per_item for each in storage(FULL, assumed)) / 1e6),
        searched=searched_table(found["rows"]),
        search_on=_environment(found),
        search_command=found["command"],
        index=index_table(costs, assumed),
        flat_gbs=_number(costs.flat_bytes_per_second / 1e9),
        code_ns=_number(1e6 * costs.code_ms),
        cell_ns=_number(1e6 * costs.cell_ms),
        assumptions=assumptions_table(assumed),
        assumed=assumed,
        memory=_number(assumed.memory_gb),
        memory_gbs=_number(assumed.memory_bandwidth / 1e9),
        short=SHORT,
        full=FULL,
        candidate_kb=_number(CANDIDATES * FULL * 4 / 1e3),
    )  # fmt: skip


def rates_table(rates: list[Rate], assumed: Assumptions) -> str:
    lines = []
    for rate in rates:
        days = rate.machine_days(assumed.items)
        need = _number(-(-days // assumed.days))
        name = f"picture of {rate.visual} visual tokens"
        lines.append((rate.mode, name, rate.machine, _number(rate.items_per_second), _number(days), need, rate.source))  # fmt: skip
    head = ("mode", "item", "machine", "items/s", "machine-days", f"machines for {assumed.days:g} days", "from")  # fmt: skip
    return markdown(head, lines)


def plain_table(assumed: Assumptions) -> str:
    lines = []
    for rate in PLAIN_RATES:
        days = assumed.items / rate / 86_400
        lines.append((str(rate), _number(24 * days), _number(-(-days // assumed.days)), _number(-(-days // 7))))  # fmt: skip
    head = ("items/s of one machine", "machine-hours", f"machines for {assumed.days:g} days", "for 7 days")  # fmt: skip
    return markdown(head, lines)


def storage_table(assumed: Assumptions) -> str:
    parts = storage(FULL, assumed)
    lines = [(each.what, f"{each.bytes_per_item:.0f}", _bytes(each.bytes_per_item * assumed.items)) for each in parts]  # fmt: skip
    total = sum(each.bytes_per_item for each in parts)
    lines.append(("**all**", f"{total:.0f}", f"**{_bytes(total * assumed.items)}**"))
    return markdown(("column", "bytes per item", f"{_big(assumed.items)} items"), lines)


def searched_table(rows: list[dict]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: (row["kind"], row["rows"], row.get("probes", 0))):
        kind = f"IVF-PQ, {row['probes']} probes" if row["kind"] == "ivfpq" else {"hnsw": "HNSW"}.get(row["kind"], row["kind"])  # fmt: skip
        build = row["build_seconds"] + row.get("training_seconds", 0.0)
        lines.append((kind, _big(row["rows"]), _number(row["ms"]), f"{row['recall@10']:.3f}", f"{row['bytes_per_vector']:.0f}", _number(build)))  # fmt: skip
    head = ("type", "vectors", "core-ms per query", "recall@10", "bytes per vector", "core-seconds to build")  # fmt: skip
    return markdown(head, lines)


def index_table(costs: SearchCosts, assumed: Assumptions) -> str:
    lines = []
    for dimension in (FULL, SHORT):
        kinds = [costs.flat_at(assumed.items, dimension), costs.flat_at(assumed.items, dimension, 2)]  # fmt: skip
        kinds += [costs.cells_at(assumed.items, dimension, probes) for probes in (32, 128)]
        kinds.append(costs.graph_at(assumed.items, dimension))
        lines += [_index_line(each, assumed) for each in kinds]
    head = ("dimension", "type", "bytes per item", "index", "core-ms per query", "core-hours to build", f"machines that hold it ({assumed.memory_gb:g} GB)", f"that answer {assumed.queries:g} queries/s")  # fmt: skip
    return markdown(head, lines)


def assumptions_table(assumed: Assumptions) -> str:
    lines = [(f"`--{each.name.replace('_', '-')}`", f"{getattr(assumed, each.name):g}") for each in fields(Assumptions)]  # fmt: skip
    return markdown(("option", "value"), lines)


def _index_line(search: Search, assumed: Assumptions) -> tuple[str, ...]:
    hold, answer = machines_for(search, assumed)
    size = _bytes(search.bytes_per_item * assumed.items)
    return (str(search.dimension), search.kind, f"{search.bytes_per_item:.0f}", size, _number(search.core_ms),
            _number(search.build_core_hours), f"{hold:,}", f"{answer:,}")  # fmt: skip


def _environment(content: dict) -> str:
    on = content["environment"]
    return (
        f"{on['cpu']}, one thread, Python {on['python']}, commit {(on['commit'] or 'unknown')[:12]}"
    )


def _number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e6:.3g} MB"


def _big(value: float) -> str:
    return f"{value:,.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
