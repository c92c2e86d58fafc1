"""--local-folder NAME=FOLDER"""


def folders_by_name(given: list[str] | None) -> dict[str, str]:
    """Hub name -> folder. Raises ValueError for what is not NAME=FOLDER."""
    folders = {}
    for text in given or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--local-folder {text}: wants NAME=FOLDER")
        folders[name] = folder
    return folders
