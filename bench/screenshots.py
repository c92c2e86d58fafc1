"""Pictures of the server's page: the real server, the bundled model, headless Chromium.

    python -m bench.screenshots                # docs/images/page-{light,dark,phone}.png

Needs playwright and a Chromium on the PATH (or UMER1_CHROMIUM).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# tasks of the miniature benchmark, and how many of their candidates the index gets
COLLECTION = {"photo_crop": 8, "clip_moment": 18, "digit_sum": 10, "page_total": 20}
# the task whose question is asked, and the browser
VIEWS = {
    "light": ("photo_crop", {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}),
    "dark": ("page_total", {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"}),
    "phone": ("digit_sum", {"viewport": {"width": 390, "height": 844}}),
}
# nothing that phones home, no sandbox for containers without user namespaces
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
COLORS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--data", type=Path, help="of `umer1 data mini`; made if not given")
    options = parser.parse_args()
    from umer1 import Embedder

    with tempfile.TemporaryDirectory() as folder:
        data = options.data or make_data(Path(folder) / "mini")
        embedder = Embedder.load("tiny")
        index = demo_index(Path(folder) / "index", data, embedder)
        with served(embedder, {"collection": index}) as address:
            questions = {
                task: demo_question(data, task, embedder, index) for task, _ in VIEWS.values()
            }
            for path in shoot(address, questions, options.out):
                print(path)


def make_data(root: Path) -> Path:
    """The miniature benchmark, as small as it gets."""
    from umer1.data.mini import build

    return build(root, seed=0, scale=0.02, progress=False)


def demo_index(directory: Path, data: Path, embedder):
    """An index of photographs, clips, digits as words, and pages."""
    from umer1.cli.indexing import add_items, create_or_continue
    from umer1.cli.models import model_identity
    from umer1.evaluation import load_tasks

    ids, items = [], []
    for task in load_tasks(data, names=tuple(COLLECTION)):
        for name, item in list(task.candidates.items())[: COLLECTION[task.name]]:
            ids.append(item_id(task.name, name))
            items.append(item)
    index = create_or_continue(
        directory,
        embedder,
        dimension=None,
        model=model_identity("tiny"),
        modes=("disc", "gen"),
        readout="at",
    )
    add_items(index, embedder, ids, items, max_new_tokens=64, batch_size=32, show=False)
    return index


def demo_question(data: Path, name: str, embedder, index) -> dict:
    """{"text", "image"}: the first question of a task that gen answers and disc does not, for the
    page is about their difference."""
    from umer1.evaluation import load_tasks

    (task,) = load_tasks(data, names=(name,))
    out = embedder.encode([query.item for query in task.queries], max_new_tokens=64, progress=False)
    best = {
        mode: [hits[0].id for hits in index.search({mode: getattr(out, mode)}, 1, mode)]
        for mode in ("disc", "gen")
    }
    for query, disc, gen in zip(task.queries, best["disc"], best["gen"]):
        right = [item_id(name, label) for label in query.labels]
        if gen in right and disc not in right:
            return query.item
    raise ValueError(f"{name}: no question of it is answered by gen alone")


def item_id(task: str, name: str) -> str:
    return f"{task}/{Path(name).name.removesuffix(':')}"


@contextmanager
def served(embedder, indexes: dict, **settings) -> Iterator[str]:
    """The address of a server in this process, at a free port."""
    import uvicorn

    from umer1.cli.models import model_identity
    from umer1.serving import ServerSettings, create_app

    settings = ServerSettings(model_identity=model_identity("tiny"), **settings)
    app = create_app(embedder, settings, indexes)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start; its log says why")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def shoot(address: str, questions: dict[str, dict], out: Path) -> list[Path]:
    """One picture of the whole page for each of `VIEWS`, after its question was answered."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_OPTIONS)
        for name, (task, view) in VIEWS.items():
            question = questions[task]
            page = browser.new_page(**view)
            page.goto(address)
            if "image" in question:
                page.set_input_files("#file", question["image"])
                page.locator("#media img").wait_for()
            page.fill("#text", question["text"].strip())
            page.locator("#index option").first.wait_for(state="attached")
            page.click("#embed")
            page.locator("#gen li").first.wait_for()
            page.wait_for_function(LOADED)
            path = out / f"page-{name}.png"
            page.screenshot(path=path, full_page=True, animations="disabled")
            page.close()
            _shrink(path)
            paths.append(path)
        browser.close()
    return paths


LOADED = """() => {
  const frames = [...document.querySelectorAll(".thumb:not(.letters)")];
  return frames.every((frame) => frame.querySelector("img")?.complete);
}"""


def chromium_path() -> str | None:
    """Of the browser to drive; None: playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("UMER1_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def _shrink(path: Path) -> None:
    """A page has few colours: a palette makes the file a third as large."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
