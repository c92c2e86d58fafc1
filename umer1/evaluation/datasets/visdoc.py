"""Visual documents: a text query against page images, in BEIR-style tables (queries, qrels,
corpus).
"""

from collections import defaultdict

from umer1.evaluation.datasets.config import TaskConfig, column, join
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

VLM2VEC_QUERY = "Find a document image that matches the given query:"
VLM2VEC_TARGET = "Understand the content of the provided document image."


def load_vidore(config: TaskConfig) -> EvalTask:
    """Pages are `image_root`/<corpus-id>.png. Relevant pages come first among the candidates, then
    the corpus.

    UME-R1 evaluates ViDoRe with empty instructions, VLM2Vec with a sentence on each side
    (`config.prompts`).
    """
    task = EvalTask(config.name, "visdoc", config.eval_type)
    stock = (VLM2VEC_QUERY, VLM2VEC_TARGET) if config.prompts == "vlm2vec" else ("", "")
    query_text, target_text = (
        config.instruction(side, text)
        for side, text in zip(("query", "target"), stock, strict=True)
    )
    root = config.path("image_root")

    def add(name):
        return task.add_candidate(name, {"text": target_text, "image": str(root / f"{name}.png")})

    relevant = _relevant(config)
    for number, row in enumerate(config.table("queries")):
        where = f"{config.name}, query {number}"
        query_id = column(row, "query-id", where)
        grades = relevant.get(query_id)
        if not grades:
            raise ValueError(f"{where}: no page is relevant to query-id {query_id!r} in qrels")
        names = [add(name) for name in grades]
        item = {"text": join(query_text, column(row, "query", where))}
        task.queries.append(EvalQuery(item, names, names, list(grades.values())))
    for number, row in enumerate(config.table("corpus")):
        add(str(column(row, "corpus-id", f"{config.name}, page {number}")))
    return task


def _relevant(config):
    """query-id -> {corpus-id: grade}; grades above 0 only, the highest of a repeated pair."""
    grades = defaultdict(dict)
    for number, row in enumerate(config.table("qrels")):
        where = f"{config.name}, qrels row {number}"
        query_id, page, grade = (
            column(row, name, where) for name in ("query-id", "corpus-id", "score")
        )
        page = str(page)
        if grade > 0:
            grades[query_id][page] = max(grade, grades[query_id].get(page, grade))
    return grades
