"""Where training pairs are: --data-path, --registry, --local-folder NAME=FOLDER."""

from pathlib import Path
from typing import Annotated

import typer

DataPathOption = Annotated[
    Path | None,
    typer.Option(help="What media paths are below; the file's own directory by default."),
]
RegistryOption = Annotated[Path | None, typer.Option(help="YAML registry that the names refer to.")]
LocalFolderOption = Annotated[
    list[str] | None,
    typer.Option(help="VLM2Vec: NAME=FOLDER, where a hub data set lies; as often as needed."),
]


def folders_by_name(given: list[str] | None) -> dict[str, str]:
    """Hub name -> folder. Raises ValueError for what is not NAME=FOLDER."""
    folders = {}
    for text in given or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--local-folder {text}: wants NAME=FOLDER")
        folders[name] = folder
    return folders
