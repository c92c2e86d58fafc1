"""Which pictures and frames of a benchmark are not on disk, found before any model runs."""

import os
from collections import defaultdict
from collections.abc import Iterable

from umer1.evaluation.datasets.tasks import EvalTask

# a directory of which so many files are wanted is listed; of others each file is asked for
LISTED = 4


class MissingMedia(ValueError):
    """Media that tasks need and that are not there: `.counts` task -> (missing, all), `.examples`
    task -> path.
    """

    def __init__(self, counts, examples):
        self.counts, self.examples = counts, examples
        lines = [
            f"  {name}: {gone} of {total} missing, e.g. {examples[name]}"
            for name, (gone, total) in counts.items()
        ]
        super().__init__("media are missing, nothing was evaluated:\n" + "\n".join(lines))


def require_media(tasks: Iterable[EvalTask]) -> None:
    """Raise MissingMedia, with counts per task, unless every picture and every video of the tasks
    exists.
    """
    counts, examples = {}, {}
    for task in tasks:
        gone, total = missing_media(task)
        if gone:
            counts[task.name], examples[task.name] = (len(gone), total), gone[0]
    if counts:
        raise MissingMedia(counts, examples)


def missing_media(task: EvalTask) -> tuple[list[str], int]:
    """What of a task is not on disk, in its order, and how many pictures and frames it has in all.

    A directory stands for a video when it held no frames, and counts as missing.
    """
    sources = media_sources(task)
    by_directory = defaultdict(list)
    for source in sources:
        by_directory[os.path.dirname(source)].append(source)
    present = set()
    for directory, wanted in by_directory.items():
        present.update(_present(directory, wanted))
    return [source for source in sources if source not in present], len(sources)


def media_sources(task: EvalTask) -> list[str]:
    """Every distinct picture, frame or video path of a task."""
    sources = {}
    items = [query.item for query in task.queries] + list(task.candidates.values())
    for item in items:
        video = item.get("video")
        for source in [item.get("image"), *(video if isinstance(video, list) else [video])]:
            if source is not None:
                sources[source] = None
    return list(sources)


def _present(directory, wanted):
    """Which of these paths are files of a directory."""
    if len(wanted) < LISTED:
        return [source for source in wanted if os.path.isfile(source)]
    try:
        with os.scandir(directory or ".") as found:
            files = {entry.name for entry in found if entry.is_file()}
    except OSError:
        return []
    return [source for source in wanted if os.path.basename(source) in files]
