"""Tables that a benchmark names by a hub repository, found in local folders. Nothing is fetched.

    tables = LocalTables.open("hub_map.yaml", basedir="MMEB-V2")
    found = tables.find("MSR-VTT", "VLM2Vec/MSR-VTT", "test_1k", "test")
    read_table(found.files)

A map is a directory that holds repositories, or a file that says where they are: see
`umer1.evaluation.datasets.hub_map`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from umer1.evaluation.datasets.hub_map import Place, read_map
from umer1.evaluation.datasets.repository import find_files

# where the projects themselves keep tables below the data directory
USUAL_FOLDERS = ("", "annotation", "image-tasks", "video-tasks", "visdoc-tasks")


@dataclass(frozen=True, slots=True)
class Table:
    """Files of one table, in order, and which data they are: repository@commit, or a path."""

    files: list[Path]
    revision: str


@dataclass(frozen=True, slots=True)
class LocalTables:
    """roots: directories with repositories. named: data set or repository -> its place."""

    roots: tuple[Path, ...] = ()
    named: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def open(cls, hub_map: str | Path | None, basedir: Path) -> "LocalTables":
        """The tables of a map; without one, those below the data directory.

        Raises ValueError: there is no such map, or it is malformed.
        """
        usual = tuple(basedir / folder for folder in USUAL_FOLDERS)
        if hub_map is None:
            return cls(usual)
        path = Path(hub_map).expanduser()
        if path.is_dir():
            return cls((path, *usual))
        return cls(usual, read_map(path, basedir))

    def place(self, dataset: str, repo: str) -> Place | None:
        """What a map file says about a data set."""
        return self.named.get(dataset) or self.named.get(repo)

    def find(
        self, dataset: str, repo: str, config: str | None, split: str, part: str | None = None
    ) -> Table:
        """The table of a data set, or one `part` of a data set that has several.

        Raises ValueError saying where it was looked for.
        """
        if place := self.place(dataset, repo):
            config, split = part or place.config or config, place.split or split
            if files := find_files(place.path, config, split):
                return Table(files, _revision(repo, place.path))
            raise ValueError(
                f"{dataset}: no table{_wanted(config, split)} in {place.path}, "
                "where the hub map says it is"
            )
        config, looked = part or config, []
        for directory in self._directories(repo):
            looked.append(directory)
            if files := find_files(directory, config, split):
                return Table(files, _revision(repo, files[0]))
        where = ", ".join(map(str, looked or self.roots))
        raise ValueError(
            f"{dataset}: no local table of {repo}{_wanted(config, split)}; looked in {where}; "
            "say with --hub-map where it is, nothing is downloaded"
        )

    def _directories(self, repo) -> Iterator[Path]:
        """Where a repository may be below the roots: as the hub's names, as a clone's folder, and as
        the caches of huggingface_hub and datasets name it.
        """
        owner, _, name = repo.rpartition("/")
        for root in self.roots:
            for folder in (repo, name, f"{owner}___{_snake(name)}"):
                if (root / folder).is_dir():
                    yield root / folder
            snapshots = root / f"datasets--{owner}--{name}" / "snapshots"
            if snapshots.is_dir():
                yield from sorted(snapshots.iterdir(), key=lambda path: -path.stat().st_mtime)
            if name == "MMEB_Test_Instruct" and root.name == "image-tasks" and root.is_dir():
                # these tables may also lie directly in image-tasks/<config>
                yield root


def _snake(name):
    """A repository's name in the cache of `datasets`: MyName is my_name there."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()


def _wanted(config, split):
    return f" ({', '.join(part for part in (config, split) if part)})"


def _revision(repo, path):
    commit = re.search(r"/snapshots/([^/]+)(/|$)", path.as_posix())
    return f"{repo}@{commit[1]}" if commit else repo
