"""Image tasks of MMEB: classification, question answering, retrieval both ways, visual grounding.

One row per query: qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text[list], tgt_img_path[list];
the label is candidate 0. Texts are built as upstream builds them (spaces and newlines count),
without the media placeholders, which the prompt writer sets.
"""

from umer1.evaluation.datasets.config import TaskConfig, column, join
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

# the row's marker for "the picture goes here"; it is always first and leaves no trace in the text
MARKER = "<|image_1|>"


def load_image_classification(config: TaskConfig) -> EvalTask:
    """image_cls and image_i2t: a picture against texts."""
    return _text_candidates(config, query_text=lambda inst, text: join(inst, text))


def load_image_question(config: TaskConfig) -> EvalTask:
    """image_qa: a picture and a question against answers; the instruction starts on a line of its
    own.
    """
    return _text_candidates(config, query_text=lambda inst, text: join("\n" + inst.strip(), text))


def load_text_to_image(config: TaskConfig) -> EvalTask:
    """image_t2i: a text against pictures, with captions where the first candidate has one. Names
    are the paths.
    """
    task = EvalTask(config.name, "image", config.eval_type)
    ending = "\n\n" if config.dataset_name == "VisDial" else "\n"
    for number, row in enumerate(config.rows()):
        query = f"{_instruction(config, row, 'query')} {row.get('qry_text', '')}{ending}"
        pairs = _pairs(config, row, number)
        names = [
            task.add_candidate(
                path, _picture(config, path, _caption(config, row, pairs, caption, ending="\n"))
            )
            for path, caption in pairs
        ]
        task.queries.append(EvalQuery({"text": query}, names, names[0]))
    return task


def load_image_to_image(config: TaskConfig) -> EvalTask:
    """image_i2i_vg: a picture and a text against pictures. Names are `path:caption`."""
    task = EvalTask(config.name, "image", config.eval_type)
    for number, row in enumerate(config.rows()):
        query = join("\n" + _instruction(config, row, "query").strip(), row.get("qry_text", ""))
        pairs = _pairs(config, row, number)
        names = []
        for path, caption in pairs:
            item = _picture(config, path, _caption(config, row, pairs, caption, ending=""))
            names.append(task.add_candidate(path + ":" + caption.strip('"'), item))
        item = _picture(config, row.get("qry_img_path"), _close(query))
        task.queries.append(EvalQuery(item, names, names[0]))
    return task


def _text_candidates(config, query_text):
    task = EvalTask(config.name, "image", config.eval_type)
    for number, row in enumerate(config.rows()):
        query = query_text(_instruction(config, row, "query"), row.get("qry_text", ""))
        texts = column(row, "tgt_text", _where(config, number))
        if not texts:
            raise ValueError(
                f"{_where(config, number)}: tgt_text is empty, the label is its first entry"
            )
        names = [task.add_candidate(text, {"text": text}) for text in texts]
        item = _picture(config, row.get("qry_img_path"), _close(query))
        task.queries.append(EvalQuery(item, names, names[0]))
    return task


def _pairs(config, row, number):
    paths = column(row, "tgt_img_path", _where(config, number))
    captions = row.get("tgt_text") or [""] * len(paths)
    if not paths or len(paths) != len(captions):
        raise ValueError(
            f"{_where(config, number)}: got {len(paths)} tgt_img_path and {len(captions)} "
            "tgt_text, need the same number and at least one"
        )
    return list(zip(paths, captions, strict=True))


def _caption(config, row, pairs, caption, ending):
    instruction = _instruction(config, row, "target")
    # one row is captioned as a whole or not at all, and its first candidate decides
    captioned = bool(pairs[0][1].strip())
    if captioned:
        return _close(f"{instruction} {caption}")
    return instruction.replace(" \n", "\n") + ending


def _instruction(config, row, side):
    own = row.get("qry_inst" if side == "query" else "tgt_inst") or ""
    return config.instruction(side, own).replace(MARKER, "")


def _close(text):
    return text.replace(" \n", "\n") + "\n"


def _picture(config, path, text):
    return (
        {"text": text, "image": str(config.path("image_root") / path)} if path else {"text": text}
    )


def _where(config, number):
    return f"{config.name}, row {number}"
