"""Image tasks of MMEB: classification, question answering, retrieval both ways, visual grounding.

One row per query: qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text[list], tgt_img_path[list];
the label is candidate 0. Texts are built as upstream builds them (spaces and newlines count),
without the media placeholders, which the prompt writer sets. Qwen3-VL-Embedding's loaders give
instruction and text as they are, and no text to candidates but their caption.
"""

from umer1.evaluation.datasets.config import TaskConfig, join, texts
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

# the row's marker for "the picture goes here"; it is always first and leaves no trace in the text
MARKER = "<|image_1|>"


def load_image_classification(config: TaskConfig) -> EvalTask:
    """image_cls and image_i2t: a picture against texts."""
    return _text_candidates(config, opening=lambda instruction: instruction)


def load_image_question(config: TaskConfig) -> EvalTask:
    """image_qa: a picture and a question against answers; the instruction starts on a line of its
    own.
    """
    return _text_candidates(config, opening=lambda instruction: "\n" + instruction.strip())


def load_text_to_image(config: TaskConfig) -> EvalTask:
    """image_t2i: a text against pictures, with captions where the first candidate has one. Names
    are the paths.
    """
    task = EvalTask(config.name, "image", config.eval_type)
    ending = "\n\n" if config.dataset_name == "VisDial" else "\n"
    for number, row in enumerate(config.rows()):
        instruction, text = _instruction(config, row, "query"), row.get("qry_text") or ""
        if config.separate_instruction:
            item = {"text": text, "instruction": instruction.strip()}
        else:
            item = {"text": f"{instruction} {text}{ending}"}
        pairs = _pairs(config, row, number)
        describe = _captions(config, row, pairs, ending="\n")
        for path, caption in pairs:
            if path not in task.candidates:
                task.candidates[path] = _picture(config, path, describe(caption))
        names = [path for path, _ in pairs]
        task.queries.append(EvalQuery(item, names, names[0]))
    return task


def load_image_to_image(config: TaskConfig) -> EvalTask:
    """image_i2i_vg: a picture and a text against pictures. Names are `path:caption`."""
    task = EvalTask(config.name, "image", config.eval_type)
    for number, row in enumerate(config.rows()):
        pairs = _pairs(config, row, number)
        describe = _captions(config, row, pairs, ending="")
        names = []
        for path, caption in pairs:
            name = path + ":" + caption.strip('"')
            if name not in task.candidates:
                task.candidates[name] = _picture(config, path, describe(caption))
            names.append(name)
        item = _query(config, row, lambda instruction: "\n" + instruction.strip())
        task.queries.append(EvalQuery(item, names, names[0]))
    return task


def _text_candidates(config, opening):
    task = EvalTask(config.name, "image", config.eval_type)
    for number, row in enumerate(config.rows()):
        names = task.add_texts(texts(row, "tgt_text", _where(config, number)))
        task.queries.append(EvalQuery(_query(config, row, opening), names, names[0]))
    return task


def _query(config, row, opening):
    instruction, text = _instruction(config, row, "query"), row.get("qry_text") or ""
    path = row.get("qry_img_path")
    if config.separate_instruction:
        return {**_picture(config, path, text), "instruction": instruction.strip()}
    return _picture(config, path, _close(join(opening(instruction), text)))


def _pairs(config, row, number):
    paths = texts(row, "tgt_img_path", _where(config, number))
    captions = row.get("tgt_text") or [""]
    if not (captions[0] or "").strip() and len(captions) != len(paths):
        # an uncaptioned row may leave its captions out
        captions = [""] * len(paths)
    if len(paths) != len(captions):
        raise ValueError(
            f"{_where(config, number)}: got {len(paths)} tgt_img_path and {len(captions)} "
            "tgt_text, need the same number"
        )
    return [(path, caption or "") for path, caption in zip(paths, captions, strict=True)]


def _captions(config, row, pairs, ending):
    """The text of a candidate, given its caption."""
    if config.separate_instruction:
        if config.fields["dataset_parser"] == "image_t2i":
            return str.strip
        return str if pairs[0][1].strip() else lambda caption: ""
    instruction = _instruction(config, row, "target")
    # one row is captioned as a whole or not at all, and its first candidate decides
    if pairs[0][1].strip():
        return lambda caption: _close(f"{instruction} {caption}")
    return lambda caption: instruction.replace(" \n", "\n") + ending


def _instruction(config, row, side):
    own = config.fields.get(f"{side}_instruction")
    if own is None:
        own = row.get("qry_inst" if side == "query" else "tgt_inst") or ""
    return own.replace(MARKER, "")


def _close(text):
    return text.replace(" \n", "\n") + "\n"


def _picture(config, path, text):
    return (
        {"text": text, "image": str(config.path("image_root") / path)} if path else {"text": text}
    )


def _where(config, number):
    return f"{config.name}, row {number}"
