"""The tour behind `make quickstart`: embed with the bundled model, train one from scratch, evaluate both.

    python examples/quickstart.py                # everything, under ten minutes on two cores
    python examples/quickstart.py embed          # one part: embed | train | evaluate

Results go to runs/quickstart; a finished part is not done twice (delete the folder to start over).
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from rich.console import Console

from umer1 import Embedder
from umer1.cli.models import model_identity
from umer1.data.mini import Counts, build
from umer1.evaluation import evaluate, load_tasks
from umer1.training import rl, sft
from umer1.training.config import load_config
from umer1.training.settings import RLConfig, SFTConfig

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
    data = build(WORK / "mini", seed=0, counts=COUNTS)
    for name, run in (("embed", embed), ("train", train), ("evaluate", compare)):
        if part in (None, name):
            run(data)
    console.print(
        f"done in {time.monotonic() - began:.0f} s; everything is in {WORK.relative_to(ROOT)}"
    )


def embed(data: Path) -> None:
    """Held-out pictures, a clip, a text and a page in both modes: what the model wrote, and the
    nearest of each one's candidates."""
    console.rule("[bold]embed with the bundled model")
    model = Embedder.load("tiny")
    for task in load_tasks(data, names=SHOWN):
        query = task.queries[0]
        others = [name for name in query.candidates if name not in query.labels]
        names = [query.labels[0], *others][:10]
        out = model.encode(
            [query.item, *(task.candidates[name] for name in names)],
            max_new_tokens=64,
            progress=False,
        )
        nearest = [
            _short(names[int((vectors[1:] @ vectors[0]).argmax())])
            for vectors in (out.gen, out.disc)
        ]
        gen, disc = nearest
        console.print(f"[bold]{task.name}[/bold]: {query.item.get('text', '').strip()}")
        console.print(f"  wrote: {out.reasoning[0]} → {out.summary[0]}", highlight=False)
        console.print(f"  nearest by gen: {gen}   by disc: {disc}   right: {_short(names[0])}")


def _short(name: str) -> str:
    """A candidate's name: the text itself, or the last part of a path ("path:caption")."""
    return Path(name).name.removesuffix(":")


# a picture of a digit, of four digits, a piece of a photo, a frame of a clip, a clip, a text
SHOWN = ("digit_class", "digit_sum", "photo_crop", "clip_moment", "frame_total", "page_topic")


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
TRAINED = ("digit_class", "number_caption", "digit_sum")
COUNTS = Counts(
    multi_step=100, one_look=100, rl=80, evaluation=40, sft=dict.fromkeys(TRAINED, 1600)
)

if __name__ == "__main__":
    main()
