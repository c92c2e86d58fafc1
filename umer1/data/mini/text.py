"""The words of the miniature benchmark: reasoning and summaries written from ground truth.

All of it is short, because a small model on a CPU has to write it.
"""

import numpy as np
from PIL import Image

from umer1.prompts import DIALECTS, DISC_TOKEN, GEN_TOKEN, GENERATION_INSTRUCTION

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def response(reasoning: str, summary: str) -> str:
    """The assistant turn in the released format; `<answer>` is never closed there."""
    return f"<think>{reasoning}</think><answer>{summary}\n{GEN_TOKEN}"


def wording(instruction: str, text: str) -> str:
    """Instruction, one space, text, as VLM2Vec's loaders join them; an empty part adds nothing."""
    return " ".join(part for part in (instruction, text) if part)


def human_turn(placeholder: str, question: str, dialect: str) -> str:
    """The SFT human turn. `placeholder` is "<image>", "<video>" or ""."""
    style = DIALECTS[dialect]
    media = placeholder + style.after_medium if placeholder else ""
    return f"{media}{question}{style.before_disc}{DISC_TOKEN}\n{GENERATION_INSTRUCTION}"


def spaced(digits: list[int]) -> str:
    return " ".join(map(str, digits))


def running_sum(digits: list[int]) -> str:
    """`[3, 8, 2]` -> "3+8=11+2=13": one chain, every digit written where it is needed."""
    steps, total = str(digits[0]), digits[0]
    for digit in digits[1:]:
        total += digit
        steps += f"+{digit}={total}"
    return steps


def subtraction(larger: int, smaller: int) -> str:
    """Tens first, then ones: two small steps. 52 and 37 -> "52-30=22-7=15"."""
    tens, ones = smaller // 10 * 10, smaller % 10
    return f"{larger}-{tens}={larger - tens}-{ones}={larger - smaller}"


def look(image: Image.Image, subject: str = "") -> str:
    """The assistant turn for a picture of which only its looks are known, and perhaps its subject."""
    colours, brightness, texture = describe(image)
    seen = f"Mostly {' and '.join(colours)}. {brightness.capitalize()} and {texture}."
    summary = f"{brightness} {texture} {' '.join(colours)}"
    if subject:
        seen, summary = f"The {subject}. {seen}", f"{subject} {summary}"
    return response(seen, summary)


def describe(image: Image.Image) -> tuple[list[str], str, str]:
    """Two dominant colours, brightness and texture of a picture, computed from its pixels."""
    small = image.resize((32, 32), Image.Resampling.BOX)
    hue, saturation, value = (
        np.asarray(channel, dtype=np.float32) / 255 for channel in small.convert("HSV").split()
    )
    names = np.where(value < 0.2, "black", _hue_names(hue, value))
    grey = np.where(value > 0.8, "white", "grey")
    names = np.where((saturation < 0.2) & (value >= 0.2), grey, names)
    found, counts = np.unique(names, return_counts=True)
    ranked = sorted(zip((-counts).tolist(), found.tolist(), strict=True))
    luma = np.asarray(image.convert("L"), dtype=np.float32)
    mean = float(luma.mean())
    brightness = "dark" if mean < 85 else "bright" if mean > 170 else "medium"
    roughness = float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())
    return [name for _, name in ranked[:2]], brightness, "rough" if roughness > 24 else "smooth"


def _hue_names(hue: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colour names by hue (0..1); dark orange is brown."""
    bounds = np.array([0.045, 0.12, 0.19, 0.45, 0.7, 0.86, 0.955])
    names = np.array(["red", "orange", "yellow", "green", "blue", "purple", "pink", "red"])
    named = names[np.digitize(hue, bounds)]
    return np.where((named == "orange") & (value < 0.6), "brown", named)
