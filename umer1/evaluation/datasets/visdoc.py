"""Visual documents: a text query against page images, in BEIR-style tables (queries, qrels,
corpus).

Pages of `vidore` are `image_root`/<corpus-id>.png; those of `visrag` have shortened names. Names of
candidates are the ids of the tables as they are there, strings or integers.
"""

import hashlib
import os.path
from collections import defaultdict
from collections.abc import Callable

from umer1.evaluation import benchmark
from umer1.evaluation.datasets.config import TaskConfig, column
from umer1.evaluation.datasets.tables import read_table
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

QUERY = "Find a document image that matches the given query:"
TARGET = "Understand the content of the provided document image."


def load_vidore(config: TaskConfig) -> EvalTask:
    """UME-R1 evaluates these tasks with empty instructions, VLM2Vec with a sentence on each side
    (`config.prompts`).
    """
    instructions = ("", "") if config.prompts == "ume-r1" else (QUERY, TARGET)
    return _load(config, instructions, PAGE_FILES["vidore"])


def load_visrag(config: TaskConfig) -> EvalTask:
    return _load(config, (QUERY, TARGET), PAGE_FILES["visrag"])


def shortened(page: str) -> str:
    """The file of a VisRAG page: its name cut to 50 characters, 8 digits of the MD5 of the whole
    name, its ending.
    """
    base, ending = os.path.splitext(page)
    digest = hashlib.md5(page.encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{base[:50]}_{digest}{ending}"


# parser -> the file of a page below image_root
PAGE_FILES: dict[str, Callable] = {"vidore": lambda page: f"{page}.png", "visrag": shortened}


def _load(config, instructions, page_file):
    task = EvalTask(config.name, "visdoc", config.eval_type)
    query_text, target_text = instructions
    root = config.path("image_root")

    def add(page):
        if page not in task.candidates:
            image = str(root / page_file(page))
            task.candidates[page] = config.target(target_text, image=image)
        return page

    relevant = _relevant(config)
    for number, row in enumerate(_queries(config)):
        where = f"{config.name}, query {number}"
        query_id = column(row, "query-id", where)
        grades = relevant.get(query_id)
        if not grades:
            raise ValueError(f"{where}: no page is relevant to query-id {query_id!r} in qrels")
        names = [add(page) for page in grades]
        item = config.query(query_text, column(row, "query", where))
        task.queries.append(EvalQuery(item, names, names, list(grades.values())))
    for number, row in enumerate(read_table(config.table("corpus").files)):
        add(column(row, "corpus-id", f"{config.name}, page {number}"))
    return task


def _queries(config):
    rows = read_table(config.table("queries").files)
    entry = benchmark.datasets().get(config.dataset_name)
    if entry and entry.language:
        where = f"{config.name}, queries"
        rows = [row for row in rows if column(row, "language", where) == entry.language]
        if not rows:
            raise ValueError(f"{where}: none is in {entry.language}")
    return config.limit(rows)


def _relevant(config):
    """query-id -> {corpus-id: grade}; grades above 0 only, the highest of a repeated pair."""
    grades = defaultdict(dict)
    for number, row in enumerate(read_table(config.table("qrels").files)):
        where = f"{config.name}, qrels row {number}"
        query_id, page, grade = (
            column(row, name, where) for name in ("query-id", "corpus-id", "score")
        )
        if grade > 0:
            grades[query_id][page] = max(grade, grades[query_id].get(page, grade))
    return grades
