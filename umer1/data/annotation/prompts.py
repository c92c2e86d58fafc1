"""The teacher's prompts: a YAML file of Jinja templates that users may replace."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from umer1.data.annotation.sides import SIDES, Question

OURS = Path(__file__).with_name("prompts.yaml")
VALUES = ("text", "images", "frames", "dataset")
_KEYS = ("system", *SIDES, "sources")
_environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)


@dataclass(frozen=True)
class Prompts:
    """Attributes: system, may be empty; templates: side -> template; sources: (pattern, side) ->
    template, the first that fits a pair's source wins."""

    system: str
    templates: dict[str, str]
    sources: dict[tuple[str, str], str]

    @classmethod
    def load(cls, path: str | Path | None = None) -> Prompts:
        """From a YAML file; ours by default. Raises ValueError naming file and key."""
        path = Path(path or OURS)
        if not path.is_file():
            raise ValueError(f"prompts: no such file: {path}")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"prompts: {path}: not valid YAML ({error})") from None
        _check_keys(content, _KEYS, str(path))
        for side in SIDES:
            if side not in content:
                raise ValueError(f"prompts: {path}: wants a template {side!r}")
        sources = {}
        for pattern, own in (content.get("sources") or {}).items():
            _check_keys(own, SIDES, f"{path}: sources: {pattern}")
            sources |= {(str(pattern), side): template for side, template in own.items()}
        prompts = cls(content.get("system") or "", {side: content[side] for side in SIDES}, sources)
        prompts._check(path)
        return prompts

    @property
    def digest(self) -> str:
        """Of everything that is sent because of them."""
        told = repr((self.system, sorted(self.templates.items()), list(self.sources.items())))
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def render(self, side: str, question: Question) -> str:
        """The words of the user's turn for "query" or "target"."""
        return self._compiled[self._template(side, question.dataset)].render(
            text=question.text,
            images=0 if question.is_video else len(question.media),
            frames=len(question.media) if question.is_video else 0,
            dataset=question.dataset,
        )

    def _template(self, side: str, dataset: str) -> str:
        for (pattern, of), template in self.sources.items():
            if of == side and fnmatchcase(dataset, pattern):
                return template
        return self.templates[side]

    @cached_property
    def _compiled(self) -> dict[str, jinja2.Template]:
        every = {*self.templates.values(), *self.sources.values()}
        return {template: _environment.from_string(template) for template in every}

    def _check(self, path: Path) -> None:
        named = {(side,): text for side, text in self.templates.items()} | self.sources
        for place, text in named.items():
            where = f"prompts: {path}: {', '.join(place)}"
            if not isinstance(text, str):
                raise ValueError(f"{where}: wants a text, got {text!r}")
            try:
                used = meta.find_undeclared_variables(_environment.parse(text))
                if unknown := sorted(used - set(VALUES)):
                    raise ValueError(f"unknown value {unknown[0]!r}; known are {VALUES}")
                if "text" not in used:
                    raise ValueError("wants the text of the side somewhere, as {{ text }}")
                for filled in (Question("a", "d"), Question("a", "d", ("f",) * 2, True)):
                    _environment.from_string(text).render(
                        text=filled.text, images=1, frames=len(filled.media), dataset="d"
                    )
            except (jinja2.TemplateError, ValueError, TypeError) as error:
                raise ValueError(f"{where}: {error}") from None
        if not isinstance(self.system, str):
            raise ValueError(f"prompts: {path}: system: wants a text, got {self.system!r}")


def _check_keys(content: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"prompts: {where}: wants a mapping with {', '.join(known)}")
    if unknown := sorted(map(str, set(content) - set(known))):
        raise ValueError(f"prompts: {where}: unknown key {unknown[0]!r}; known are {known}")
