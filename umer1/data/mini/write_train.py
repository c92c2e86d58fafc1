"""SFT records and RL rows, in the released formats, with their media."""

from pathlib import Path

import numpy as np

from umer1.data.mini.media import MediaFolder
from umer1.data.mini.task import Example, Part, Task
from umer1.data.mini.text import human_turn, wording

# The released SFT, evaluation and RL prompts differ in white space around media and <disc_emb>. A
# model trained from scratch only knows what it has seen, so its records use all three in turn.
SFT_DIALECTS = ("sft", "evaluation", "rl")
SFT_CHUNK = 64  # same-source neighbours, as in the released file
# Half of the pairs that UME-R1's RL compares with each other. Most multi-step tasks have ten
# possible answers, so longer runs of one source would make many targets of a comparison equal.
RL_CHUNK = 8


class TrainingSet:
    """Collects the pairs of one stage ("sft" or "rl"), writing media below `root`/media/<stage>."""

    def __init__(self, root: Path, stage: str):
        self.media, self.stage = MediaFolder(root), stage
        self.by_task: dict[str, list[tuple[dict, dict]]] = {}

    def add(self, task: Task, index: int, example: Example) -> None:
        sides = {
            "qry": (example.query, task.query_instruction),
            "pos": (example.target, task.target_instruction),
        }
        row = {"dataset_name": task.name}
        if self.stage == "rl":
            row = {"dataset": "mini", **row, "solution": "<embedding>"}
        truth = {"task": task.name, "answer": example.answer}
        for key, (part, instruction) in sides.items():
            media = self._media(part, f"media/{self.stage}/{task.name}", f"{index:05d}_{key}")
            question = wording(instruction, part.text)
            if self.stage == "sft":
                row[key] = _sft_side(part, question, media, SFT_DIALECTS[index % len(SFT_DIALECTS)])
            else:
                row |= {
                    f"{key}_text": question,
                    f"{key}_image": media.get("image", ""),
                    f"{key}_video": media.get("video", [""]),
                }
            truth[key] = part.truth
        self.by_task.setdefault(task.name, []).append((row, truth))

    def ordered(self, rng: np.random.Generator) -> tuple[list[dict], list[dict]]:
        """Rows and their ground truth: same-source chunks, sources interleaved at random."""
        size = SFT_CHUNK if self.stage == "sft" else RL_CHUNK
        chunks = []
        for pairs in self.by_task.values():
            chunks += [pairs[start : start + size] for start in range(0, len(pairs), size)]
        pairs = [pair for place in rng.permutation(len(chunks)) for pair in chunks[place]]
        return [row for row, _ in pairs], [truth for _, truth in pairs]

    def _media(self, part: Part, folder: str, fallback: str) -> dict:
        name = f"{folder}/{part.name or fallback}"
        if part.image is not None:
            return {"image": self.media.image(part.image, name + _suffix(part))}
        if part.frames:
            return {"video": self.media.frame_list(part.frames, name)}
        return {}


def _sft_side(part: Part, question: str, media: dict, dialect: str) -> dict:
    placeholder = "".join(f"<{kind}>" for kind in media)
    turns = [
        {"from": "human", "value": human_turn(placeholder, question, dialect)},
        {"from": "gpt", "value": part.response},
    ]
    return {"conversations": turns, **media}


def _suffix(part: Part) -> str:
    """A picture that is a frame of a clip is stored like the clip's frames."""
    return ".jpg" if "moment" in part.truth else ".png"
