"""The recipes that come with the package."""

from pathlib import Path

RECIPES = Path(__file__).parent.parent / "recipes"


def find_config(name: str) -> Path:
    """A file, or a recipe that comes with the package."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise ValueError(f"--config {name}: no such file, and no such recipe (there are {known})")


def list_recipes() -> list[dict[str, str]]:
    """name, stage, path, and the first line of the file, which says what it is."""
    return [
        {
            "name": path.stem,
            "stage": stage_of(path),
            "about": path.read_text().splitlines()[0].removeprefix("#").strip(),
            "path": str(path),
        }
        for path in sorted(RECIPES.glob("*.yaml"))
    ]


def stage_of(path: Path) -> str:
    """ "sft" or "rl": the stage that knows every key of the config.

    Raises:
        ValueError: no stage does, or both do and the file's name does not say which.
    """
    import dataclasses

    import yaml

    from umer1.training.settings import RLConfig, SFTConfig

    keys = set(yaml.safe_load(path.read_text()) or {})
    kinds = {"sft": SFTConfig, "rl": RLConfig}
    fits = [
        stage
        for stage, kind in kinds.items()
        if keys <= {item.name for item in dataclasses.fields(kind)}
    ]
    if len(fits) != 1:
        fits = [stage for stage in kinds if stage in path.stem.lower().split("-")]
    if len(fits) != 1:
        raise ValueError(f"config {path}: is it for sft or rl? say it with --stage")
    return fits[0]
