"""All 81 entries evaluated from tables in the hub's formats, with an embedder that hashes."""

import json

from umer1.evaluation import evaluate, load_tasks
from umer1.evaluation.benchmark import entries


def test_every_entry_is_evaluated_and_its_files_are_written(mmeb_v2, embedder, tmp_path):
    tasks = load_tasks("mmeb-v2", data_basedir=mmeb_v2.data, hub_map=mmeb_v2.tables)
    report = evaluate(embedder, tasks, output_dir=tmp_path, modes="disc", progress=False)
    assert list(report.tasks) == list(entries())
    for task in tasks:
        entry = report.tasks[task.name]
        assert 0 <= entry["main"]["disc"] <= 1
        assert (entry["queries"], entry["candidates"]) == (len(task.queries), len(task.candidates))
        info = (tmp_path / f"{task.name}_disc_disc_info.jsonl").read_text().splitlines()
        assert json.loads(info[0]) == task.queries[0].info()
    # integers of the page tables stay integers in the result files
    pages = json.loads((tmp_path / "ViDoRe_docvqa_disc_disc_pred.jsonl").read_text().split("\n")[0])
    assert sorted(pages["prediction"]) == [11, 12, 13]


def test_one_task_of_every_parser_is_evaluated(mmeb_v2, embedder, tmp_path):
    names = {entry.parser: name for name, entry in entries().items()}.values()
    tasks = load_tasks("mmeb-v2", data_basedir=mmeb_v2.data, hub_map=mmeb_v2.tables, names=names)
    report = evaluate(embedder, tasks, output_dir=tmp_path, modes="disc,gen", progress=False)
    assert len(report.tasks) == 21
    assert all(0 <= entry["main"]["oracle"] <= 1 for entry in report.tasks.values())
