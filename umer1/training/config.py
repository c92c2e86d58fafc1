"""Reading a training config: one YAML file, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from umer1.training.settings import RunConfig


def load_config(path: str | Path, kind: type[RunConfig], overrides: dict[str, Any] | None = None):
    """Read a YAML config into `kind`; relative paths in it are relative to the working directory.

    Args:
        overrides: flat or dotted keys ("steps", "optimizer.learning_rate") that win over the file.

    Raises:
        ValueError: an unknown key or a value of the wrong type, naming the key.
    """
    text = Path(path).read_text()
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"config {path}: not valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"config {path}: wants a mapping of settings, got {type(values).__name__}")
    for key, value in (overrides or {}).items():
        inner = values
        *parents, leaf = key.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return _build(kind, values, where=f"config {path}")


def _build(kind, values: dict, where: str):
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(
            f"{where}: unknown setting {unknown[0]!r}; known: {', '.join(sorted(fields))}"
        )
    made = {}
    for name, value in values.items():
        default = _default(fields[name])
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: {name} wants a mapping, got {value!r}")
            made[name] = _build(type(default), value, f"{where}: {name}")
        else:
            made[name] = _convert(value, default, f"{where}: {name}")
    return kind(**made)


def _default(item):
    return (
        item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    )


def _convert(value, default, where: str):
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise ValueError(f"{where} wants true or false, got {value!r}")
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and len(value) == len(default):
            return tuple(float(each) for each in value)
        raise ValueError(f"{where} wants {len(default)} numbers, got {value!r}")
    if isinstance(default, (int, float)):
        try:  # YAML 1.1 reads 5e-5 as a string
            number = type(default)(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or (isinstance(default, int) and float(value) != number):
            raise ValueError(
                f"{where} wants {'a whole number' if isinstance(default, int) else 'a number'}, got {value!r}"
            )
        return number
    if isinstance(default, (str, dict)) and isinstance(value, type(default)):
        return value
    raise ValueError(f"{where} wants {type(default).__name__}, got {value!r}")
