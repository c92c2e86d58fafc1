"""The tour behind `make quickstart`: embed with the bundled model, train one from scratch, evaluate both.

    python examples/quickstart.py                # everything, under ten minutes on two cores
    python examples/quickstart.py embed          # one part: embed | train | evaluate

Results go to runs/quickstart; a finished part is not done twice (delete the folder to start over).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from umer1 import Embedder
from umer1.cli.models import model_identity
from umer1.data.mini import build
from umer1.evaluation import evaluate
from umer1.training import rl, sft
from umer1.training.config import RLConfig, SFTConfig, load_config

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "umer1" / "recipes"
WORK = ROOT / "runs" / "quickstart"
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="?", choices=("embed", "train", "evaluate"))
    part = parser.parse_args().part
    began = time.monotonic()
    console.rule("[bold]data: the miniature benchmark")
    data = build(WORK / "mini", seed=0, scale=0.25)
    for name, run in (("embed", embed), ("train", train), ("evaluate", compare)):
        if part in (None, name):
            run(data)
    console.print(
        f"done in {time.monotonic() - began:.0f} s; everything is in {WORK.relative_to(ROOT)}"
    )


def embed(data: Path) -> None:
    """Pictures, a clip, a page and texts in both modes; what the model wrote; nearest neighbours."""
    console.rule("[bold]embed with the bundled model")
    model = Embedder.load("tiny")
    queries, candidates = examples(data)
    found = model.encode([item for _, item in queries], max_new_tokens=64)
    known = model.encode([item for _, item in candidates], max_new_tokens=64)
    table = Table("item", "reasoning", "summary", "nearest (gen)", "nearest (disc)")
    for row, (name, _) in enumerate(queries):
        nearest = [
            candidates[int((vectors[row] @ others.T).argmax())][0]
            for vectors, others in ((found.gen, known.gen), (found.disc, known.disc))
        ]
        table.add_row(name, found.reasoning[row], found.summary[row], *nearest)
    console.print(table)


def examples(data: Path) -> tuple[list, list]:
    """Held-out things to look up and things to find: (name, item) each."""
    root = data / "eval"

    def picture(task: str, number: int = 0, key: str = "qry_img_path") -> tuple[dict, str]:
        row = json.loads((root / f"image-tasks/{task}.jsonl").read_text().splitlines()[number])
        path = row[key] if isinstance(row[key], str) else row[key][0]
        item = {"image": str(root / "image-tasks" / path)}
        text = " ".join(row["qry_inst"].replace("<|image_1|>", "").split())
        return {**item, "text": text}, row["tgt_text"][0]

    clips = sorted((root / "video-tasks/frames/frame_total").iterdir())
    pages = sorted((root / "visdoc-tasks/page_total").glob("*.png"))
    crop, _ = picture("photo_crop")
    queries = [
        ("picture of digits", picture("digit_sum")[0]),
        ("picture of a digit", picture("digit_class")[0]),
        ("piece of a photo", crop),
        ("video clip of digits", {"video": str(clips[0]), "text": SUM_OF_VIDEO}),
        ("page: a receipt", {"image": str(pages[0]), "text": TOTAL_OF_RECEIPT}),
        ("text: 7", "7"),
    ]
    labels = [(str(number), str(number)) for number in range(10)]
    labels += [
        (word, word)
        for word in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    ]
    return queries, labels


SUM_OF_VIDEO = "What is the last digit of the sum of the digits in the video?"
TOTAL_OF_RECEIPT = "What is the total of the amounts on the receipt?"


def train(data: Path) -> None:
    """A model from scratch in about three minutes: SFT, then a short RL."""
    console.rule("[bold]train from scratch: SFT, then RL")
    for stage, module, kind in (("sft", sft, SFTConfig), ("rl", rl, RLConfig)):
        if (WORK / stage / "model").exists():
            console.print(f"{stage}: already trained, kept")
            continue
        shutil.rmtree(WORK / stage, ignore_errors=True)
        file = data / "train" / ("sft.json" if stage == "sft" else "rl.yaml")
        overrides = {
            "data": str(file),
            "data_path": str(data / "train"),
            "output": str(WORK / stage),
        }
        if stage == "rl":
            overrides["model"] = str(WORK / "sft" / "model")
        module.run(load_config(RECIPES / f"quickstart-{stage}.yaml", kind, overrides))


def compare(data: Path) -> None:
    """Held-out tasks: disc, gen, oracle, pass@k of the bundled model, and of the one just trained."""
    for title, path in (("bundled", "tiny"), ("just trained", WORK / "rl" / "model")):
        if path != "tiny" and not path.exists():
            continue
        console.rule(f"[bold]evaluate: {title}")
        output = WORK / f"eval-{title.replace(' ', '-')}"
        report = evaluate(
            Embedder.load(path, device="cpu"), data, output_dir=output, samples=8, max_new_tokens=48, batch_size=128,
            model_id=model_identity(str(path)), names=None if path == "tiny" else TRAINED,
        )  # fmt: skip
        report.print()
        report.plot(output / "report.png")
        console.print(f"plot: {(output / 'report.png').relative_to(ROOT)}")


# what three minutes are enough to learn
TRAINED = ("digit_class", "number_caption", "digit_sum", "digit_video")

if __name__ == "__main__":
    main()
