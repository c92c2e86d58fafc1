"""Image tasks: one look (class, match, crop, caption) and several steps (sum, difference)."""

import numpy as np
from PIL import Image

from umer1.data.mini.draw import (
    UNCHANGED,
    draw_cells,
    draw_recolouring,
    draw_style,
    resize_to_cells,
)
from umer1.data.mini.sources import Digit, Photo, Split
from umer1.data.mini.task import Draw, Example, Part, Task, pick
from umer1.data.mini.text import WORDS, look, response, running_sum, spaced, subtraction

SMALLEST, LARGEST = 10, 59  # the range of two-digit numbers in subtractions


def digit_class(draw: Draw) -> Example:
    label = draw.index % 10
    query = digits_part([label], draw, response(f"The digit {label}.", WORDS[label]))
    target = Part(WORDS[label], response(f"The digit {label}.", WORDS[label]))
    wrong = [Part(WORDS[other]) for other in draw.rng.permutation(10).tolist() if other != label]
    return Example(query, target, WORDS[label], wrong)


def digit_match(draw: Draw) -> Example:
    number = int(draw.rng.integers(10, 100))
    words = response(f"Digits {spaced(_digits(number))}.", str(number))
    query = digits_part(_digits(number), draw, words)
    target = digits_part(_digits(number), draw, words, avoid=query)
    wrong = []
    if draw.evaluation:
        tens, ones = divmod(number, 10)
        near = [10 * ones + tens] if ones not in (0, tens) else []
        near += [10 * tens + other for other in _others(draw.rng, [ones], 2)]
        near += [10 * other + ones for other in _others(draw.rng, [tens, 0], 2)]
        far = [n for n in draw.rng.permutation(np.arange(10, 100)).tolist() if n != number]
        numbers = list(dict.fromkeys(near + far))[:9]
        wrong = [digits_part(_digits(other), draw, avoid=query) for other in numbers]
    return Example(query, target, str(number), wrong)


def number_caption(draw: Draw) -> Example:
    digits = draw.rng.integers(0, 10, 3).tolist()
    words = response(f"{spaced(digits)}.", spaced(digits))
    wrong = []
    if draw.evaluation:
        near = []
        for place in range(3):
            [other] = _others(draw.rng, [digits[place]], 1)
            near.append([*digits[:place], other, *digits[place + 1 :]])
        near += [[digits[1], digits[0], digits[2]], [digits[0], digits[2], digits[1]], digits[::-1]]
        far = draw.rng.integers(0, 10, (20, 3)).tolist()
        others = dict.fromkeys(tuple(other) for other in near + far if other != digits)
        wrong = [digits_part(list(other), draw) for other in list(others)[:9]]
    return Example(
        Part(spaced(digits), words), digits_part(digits, draw, words), spaced(digits), wrong
    )


def digit_sum(draw: Draw) -> Example:
    digits = digits_with_last_digit(draw, 4)
    answer = str(sum(digits) % 10)
    query = digits_part(digits, draw, response(f"{running_sum(digits)}.", answer))
    return Example(query, number_part(answer), answer, other_digits(draw.rng, answer))


def number_compare(draw: Draw) -> Example:
    difference = 1 + draw.index % 45
    smaller = int(draw.rng.integers(SMALLEST, LARGEST - difference + 1))
    larger = smaller + difference
    first, second = (larger, smaller) if draw.rng.random() < 0.5 else (smaller, larger)
    reasoning = f"{first}, {second}. {subtraction(larger, smaller)}."
    query = digits_part(
        [*_digits(first), None, *_digits(second)], draw, response(reasoning, str(difference))
    )
    near = [difference + step for step in (1, -1, 10, -10, 2, -2)]
    far = draw.rng.permutation(np.arange(1, LARGEST - SMALLEST + 1)).tolist()
    others = dict.fromkeys(
        other for other in near + far if other != difference and 0 < other <= LARGEST - SMALLEST
    )
    wrong = [Part(str(other)) for other in list(others)[:9]]
    return Example(query, number_part(str(difference)), str(difference), wrong)


def photo_crop(draw: Draw) -> Example:
    """In the test split the photo as it is; elsewhere a large region of it, recoloured."""
    photos, rng = draw.split.photos, draw.rng
    photo = photos[draw.index % len(photos)]
    whole, change = photo.image, UNCHANGED
    if not draw.evaluation:
        change = draw_recolouring(rng)
        whole = change(random_crop(whole, rng, 0.6, 1.0))
    crop = textured_crop(whole, rng)
    gain = float(rng.uniform(0.9, 1.1))
    crop = resize_to_cells(crop, 84).point(lambda value: min(255, round(value * gain)))
    name = photo.id.split("/")[1] if draw.evaluation else ""
    target = whole_photo(photo, whole, name)
    query = Part("", target.response, image=crop, truth=target.truth)
    wrong = []
    if draw.evaluation:
        others = [other for other in photos if other is not photo]
        chosen = [others[place] for place in rng.permutation(len(others))[:7].tolist()]
        wrong = [whole_photo(other, other.image, other.id.split("/")[1]) for other in chosen]
    return Example(query, target, photo.id, wrong)


def digits_part(
    digits: list[int | None], draw: Draw, words: str = "", avoid: Part | None = None
) -> Part:
    """A picture of handwritten digits (None: blank cell), none of them in the part `avoid`."""
    used = set(avoid.truth["sources"]) if avoid else set()
    sources = [
        None if digit is None else fresh_digit(draw.split, digit, draw.rng, used)
        for digit in digits
    ]
    image = draw_cells(sources, draw.rng, draw_style(draw.rng))
    return Part(
        "", words, image=image, truth={"sources": [s.id for s in sources if s], "digits": digits}
    )


def fresh_digit(split: Split, label: int, rng: np.random.Generator, used: set[str]) -> Digit:
    """A source picture of the digit that is not in `used`, and is from then on."""
    digit = pick(rng, [digit for digit in split.digits[label] if digit.id not in used])
    used.add(digit.id)
    return digit


def number_part(answer: str) -> Part:
    return Part(answer, response(f"The number {answer}.", answer))


def other_digits(rng: np.random.Generator, answer: str) -> list[Part]:
    return [Part(str(digit)) for digit in rng.permutation(10).tolist() if str(digit) != answer]


def random_crop(
    image: Image.Image, rng: np.random.Generator, smallest: float, largest: float
) -> Image.Image:
    """A rectangle whose sides are that share of the image's sides."""
    width, height = (max(8, round(side * rng.uniform(smallest, largest))) for side in image.size)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def textured_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sides of 40 to 70 %: the first of four crops that is not an empty corner, or the best."""

    def spread(picture: Image.Image) -> float:
        small = picture.resize((24, 24), Image.Resampling.BOX)
        return float(np.asarray(small, dtype=np.float32).std())

    crops = [random_crop(image, rng, 0.4, 0.7) for _ in range(4)]
    wanted = 0.5 * spread(image)
    return next((crop for crop in crops if spread(crop) >= wanted), max(crops, key=spread))


def whole_photo(photo: Photo, picture: Image.Image, name: str) -> Part:
    picture = resize_to_cells(picture, 112)
    return Part("", look(picture), image=picture, name=name, truth={"sources": [photo.id]})


def _digits(number: int) -> list[int]:
    return [int(character) for character in str(number)]


def _others(rng: np.random.Generator, without: list[int], count: int) -> list[int]:
    return [digit for digit in rng.permutation(10).tolist() if digit not in without][:count]


def digits_with_last_digit(draw: Draw, count: int) -> list[int]:
    """Random digits whose sum ends in `index % 10`, so that every answer is equally frequent."""
    digits = draw.rng.integers(0, 10, count).tolist()
    place = int(draw.rng.integers(count))
    digits[place] = (draw.index - sum(digits) + digits[place]) % 10
    return digits


TASKS = (
    Task(
        "digit_class", "image", "one_look", "CLS", "image_cls",
        "picture of a handwritten digit -> its name",
        "Which digit is in the picture?", "", digit_class,
    ),
    Task(
        "digit_match", "image", "one_look", "RET", "image_i2i_vg",
        "picture of a two-digit number -> the same number in another handwriting",
        "Find another picture of the same number.", "Read the number in the picture.", digit_match,
    ),
    Task(
        "photo_crop", "image", "one_look", "VG", "image_i2i_vg",
        "piece of a photo -> the whole photo",
        "Find the photo this piece was cut from.", "Understand the content of the photo.", photo_crop,
    ),
    Task(
        "number_caption", "image", "one_look", "RET", "image_t2i",
        "three digits in text -> the picture that shows them",
        "Find the picture that shows these digits:", "Read the digits in the picture.", number_caption,
    ),
    Task(
        "digit_sum", "image", "multi_step", "QA", "image_qa",
        "picture of four digits -> last digit of their sum",
        "What is the last digit of the sum of the digits in the picture?", "", digit_sum,
    ),
    Task(
        "number_compare", "image", "multi_step", "QA", "image_qa",
        "picture of two two-digit numbers -> their difference",
        "What is the difference of the two numbers in the picture?", "", number_compare,
    ),
)  # fmt: skip
