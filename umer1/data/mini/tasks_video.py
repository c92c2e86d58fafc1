"""Video tasks. A digit is shown for two frames, because Qwen2-VL merges pairs of frames."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from umer1.data.mini.draw import (
    CELL,
    UNCHANGED,
    Recolouring,
    draw_cells,
    draw_recolouring,
    draw_style,
)
from umer1.data.mini.sources import Clip
from umer1.data.mini.task import Draw, Example, Part, Task
from umer1.data.mini.tasks_image import (
    digits_with_last_digit,
    fresh_digit,
    number_part,
    other_digits,
)
from umer1.data.mini.text import look, response, running_sum, spaced

WINDOW = 12  # raw frames of a moment: the even ones are the clip, the odd ones the queries
CLIP_SIDE = 2 * CELL
REGION = 0.85  # side of a test moment's square, as a share of the picture's height
ALIKE = 5.0  # mean difference of two still pictures, of 255
QUERIES_PER_MOMENT = 4  # in training


def digit_video(draw: Draw) -> Example:
    digits = draw.rng.integers(0, 10, 3).tolist()
    if draw.evaluation:
        digits = _related_digits(draw)
    text = " then ".join(map(str, digits))
    words = response(f"{text}.", spaced(digits))
    return Example(Part(text, words), _digits_video(digits, draw, words), spaced(digits))


def frame_total(draw: Draw) -> Example:
    digits = digits_with_last_digit(draw, 4)
    answer = str(sum(digits) % 10)
    words = response(f"{running_sum(digits)}.", answer)
    return Example(
        _digits_video(digits, draw, words),
        number_part(answer),
        answer,
        other_digits(draw.rng, answer),
    )


def frame_order(draw: Draw) -> Example:
    """Different digits; the largest is never the last, so that one follows it."""
    digits = draw.rng.permutation(10)[:4].tolist()
    place = int(draw.rng.integers(3))
    largest = digits.index(max(digits))
    digits[place], digits[largest] = digits[largest], digits[place]
    answer = str(digits[place + 1])
    words = response(
        f"{''.join(map(str, digits))}. Largest {digits[place]}, next {answer}.", answer
    )
    return Example(
        _digits_video(digits, draw, words),
        number_part(answer),
        answer,
        other_digits(draw.rng, answer),
    )


def clip_moment(draw: Draw) -> Example:
    """One frame -> its moment: even frames of the window are the clip, odd ones are queries."""
    if draw.evaluation:
        moments = _test_moments(draw.split.clips)
        moment = moments[draw.index % len(moments)]
        # all moments once, then all of them again with their next odd frame
        odd = 1 + 2 * (draw.index // len(moments) % (WINDOW // 2))
        wrong = [_clip_part(other) for other in _rivals(moment, moments, draw.rng)]
    else:
        shared = max(1, draw.count // QUERIES_PER_MOMENT)
        moment = _random_moment(draw.split.clips, draw.shared_rng(draw.index % shared))
        odd = 1 + 2 * int(draw.rng.integers(WINDOW // 2))
        wrong = []
    left, top, side = moment.region
    smaller = round(side * draw.rng.uniform(0.85, 1.0))
    jitter = [int(draw.rng.integers(0, side - smaller + 1)) for _ in range(2)]
    region = (left + jitter[0], top + jitter[1], smaller)
    target = _clip_part(moment)
    query = Part(
        "", target.response, image=_frame(moment, odd, region),
        truth={"sources": [moment.source(odd)], "moment": moment.name},
    )  # fmt: skip
    return Example(query, target, moment.name, wrong)


@dataclass(frozen=True, slots=True)
class Moment:
    clip: Clip
    start: int  # index into clip.frames
    region: tuple[int, int, int]  # left, top, side of a square, in pixels
    change: Recolouring
    name: str

    def source(self, offset: int) -> str:
        return f"clip/{self.clip.name}/{self.clip.start + self.start + offset}"


def _test_moments(clips: list[Clip]) -> list[Moment]:
    """Windows that do not overlap, each with as many squares side by side as the picture has."""
    moments = []
    for clip in clips:
        width, height = clip.frames[0].size
        side = round(REGION * height)
        regions = max(1, round(width / side))
        for start in range(0, len(clip.frames) - WINDOW + 1, WINDOW):
            for place in range(regions):
                left = round((width - side) * (place / (regions - 1) if regions > 1 else 0.5))
                name = f"{clip.name}_{clip.start + start}_{place}"
                moments.append(
                    Moment(clip, start, (left, (height - side) // 2, side), UNCHANGED, name)
                )
    return moments


def _random_moment(clips: list[Clip], rng: np.random.Generator) -> Moment:
    # longer clips have more moments
    lengths = np.array([len(clip.frames) for clip in clips], dtype=np.float64)
    clip = clips[int(rng.choice(len(clips), p=lengths / lengths.sum()))]
    width, height = clip.frames[0].size
    side = round(height * rng.uniform(0.6, 0.95))
    left, top = (int(rng.integers(0, room - side + 1)) for room in (width, height))
    start = int(rng.integers(0, len(clip.frames) - WINDOW + 1))
    change = draw_recolouring(rng)
    return Moment(clip, start, (left, top, side), change, f"{clip.name}_{rng.integers(2**40):010x}")


def _rivals(moment: Moment, moments: list[Moment], rng: np.random.Generator) -> list[Moment]:
    """Seven other moments: up to two of the same time, up to two of the same place, then any."""
    shuffled = [moments[place] for place in rng.permutation(len(moments)).tolist()]
    others = [other for other in shuffled if other is not moment and not _alike(moment, other)]
    same_clip = [other for other in others if other.clip is moment.clip]
    near = [other for other in same_clip if other.start == moment.start][:2]
    near += [other for other in same_clip if other.region == moment.region][:2]
    return (near + [other for other in others if other not in near])[:7]


def _alike(moment: Moment, other: Moment) -> bool:
    """Two windows in which the same place looks the same: neither is a wrong answer for the other."""
    if moment.clip is not other.clip or moment.region != other.region:
        return False
    middles = [
        np.asarray(_frame(each, WINDOW // 2, each.region), dtype=np.float32)
        for each in (moment, other)
    ]
    return float(np.abs(middles[0] - middles[1]).mean()) < ALIKE


def _frame(moment: Moment, offset: int, region: tuple[int, int, int]) -> Image.Image:
    left, top, side = region
    frame = moment.clip.frames[moment.start + offset].crop((left, top, left + side, top + side))
    return moment.change(frame.resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BICUBIC))


def _clip_part(moment: Moment) -> Part:
    frames = [_frame(moment, offset, moment.region) for offset in range(0, WINDOW, 2)]
    words = look(frames[len(frames) // 2], moment.clip.name)
    sources = [moment.source(offset) for offset in range(0, WINDOW, 2)]
    return Part(
        "",
        words,
        frames=frames,
        name=moment.name,
        truth={"sources": sources, "moment": moment.name},
    )


def _digits_video(digits: list[int], draw: Draw, words: str) -> Part:
    style, used = draw_style(draw.rng), set()
    sources = [fresh_digit(draw.split, digit, draw.rng, used) for digit in digits]
    frames = [draw_cells([source], draw.rng, style) for source in sources]
    return Part(
        "", words, frames=[frame for frame in frames for _ in range(2)],
        truth={"sources": [source.id for source in sources], "digits": digits},
    )  # fmt: skip


def _related_digits(draw: Draw) -> list[int]:
    """Four consecutive queries are near misses of each other: digits swapped, or one changed."""
    if draw.attempt:
        return draw.rng.integers(0, 10, 3).tolist()
    first, second, third, other = draw.shared_rng(draw.index // 4).permutation(10)[:4].tolist()
    return [
        [first, second, third], [second, first, third], [first, second, other], [other, second, third],
    ][draw.index % 4]  # fmt: skip


TASKS = (
    Task(
        "clip_moment", "video", "one_look", "MRET", "momentseeker",
        "one frame -> the moment of a clip it was taken from",
        "Find the moment of the video this frame was taken from.",
        "Understand the content of the video clip.", clip_moment, 108,
    ),
    Task(
        "digit_video", "video", "one_look", "RET", "msrvtt",
        "three digits in text -> the video that shows them in this order",
        "Find the video that shows these digits:", "Read the digits in the video.", digit_video,
        1000,
    ),
    Task(
        "frame_total", "video", "multi_step", "QA", "ssv2",
        "video of four digits -> last digit of their sum",
        "What is the last digit of the sum of the digits in the video?", "", frame_total,
    ),
    Task(
        "frame_order", "video", "multi_step", "QA", "ssv2",
        "video of four different digits -> the one shown right after the largest",
        "Which digit comes right after the largest digit in the video?", "", frame_order,
    ),
)  # fmt: skip
