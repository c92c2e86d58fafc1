"""Visual documents: pages of text (topic, page number) and receipts with handwritten amounts."""

import numpy as np

from umer1.data.mini.draw import draw_page, draw_receipt, draw_style
from umer1.data.mini.sources import TOPICS, Page
from umer1.data.mini.task import Draw, Example, Part, Task, pick
from umer1.data.mini.tasks_image import LARGEST, SMALLEST, fresh_digit
from umer1.data.mini.text import response, running_sum, spaced, subtraction

SHOPS = ("bakery", "market", "garden", "school")
GOODS = ("bread", "milk", "tea", "soap", "paper", "rice", "salt", "jam")
TOTALS = range(1, 27)  # three digits
CHANGES = range(1, 41)
NUMBERS = range(10, 100)


def page_topic(draw: Draw) -> Example:
    """Several pages are relevant to one topic; in the test split every page occurs once."""
    if draw.evaluation:
        page = _in_turn(draw.split.pages)[draw.index]
    else:
        page = pick(draw.rng, draw.split.pages[TOPICS[draw.index % len(TOPICS)]])
    topic = page.topic
    words = response(f"The topic {topic}.", topic)
    image = draw_page(topic, page.lines, draw_style(draw.rng))
    return Example(
        Part(topic, words), Part("", words, image=image, truth={"sources": [page.id]}), topic
    )


def page_number(draw: Draw) -> Example:
    number = NUMBERS[_shuffled(draw, len(NUMBERS))]
    page = pick(draw.rng, draw.split.pages[pick(draw.rng, TOPICS)])
    words = response(f"Page {spaced([number // 10, number % 10])}.", f"page {number}")
    image = draw_page(str(number), page.lines, draw_style(draw.rng))
    truth = {"sources": [page.id], "number": number}
    return Example(Part(str(number), words), Part("", words, image=image, truth=truth), str(number))


def page_total(draw: Draw) -> Example:
    place = _shuffled(draw, len(SHOPS) * len(TOTALS))
    shop, total = SHOPS[place % len(SHOPS)], TOTALS[place // len(SHOPS)]
    amounts = _amounts(total, draw.rng)
    summary = f"{shop} total {total}"
    goods = draw.rng.permutation(GOODS)[: len(amounts)].tolist()
    used: set[str] = set()
    digits = [fresh_digit(draw.split, amount, draw.rng, used) for amount in amounts]
    lines = [(good, [digit]) for good, digit in zip(goods, digits, strict=True)]
    image = draw_receipt(shop, lines, draw.rng, draw_style(draw.rng))
    truth = {"sources": [digit.id for digit in digits], "digits": amounts, "shop": shop}
    reasoning = f"{shop}. {running_sum(amounts)}."
    return Example(
        Part(f"{shop}, amounts adding up to {total}", response(f"{shop}, total {total}.", summary)),
        Part("", response(reasoning, summary), image=image, truth=truth),
        summary,
    )


def page_change(draw: Draw) -> Example:
    place = _shuffled(draw, len(SHOPS) * len(CHANGES))
    shop, change = SHOPS[place % len(SHOPS)], CHANGES[place // len(SHOPS)]
    cost = int(draw.rng.integers(SMALLEST, LARGEST - change + 1))
    paid = cost + change
    summary = f"{shop} change {change}"
    used: set[str] = set()
    digits = [fresh_digit(draw.split, int(c), draw.rng, used) for c in f"{cost}{paid}"]
    lines = [("cost", digits[:2]), ("paid", digits[2:])]
    image = draw_receipt(shop, lines, draw.rng, draw_style(draw.rng))
    truth = {
        "sources": [digit.id for digit in digits],
        "digits": [d.label for d in digits],
        "shop": shop,
    }
    reasoning = f"{shop}. {cost}, {paid}. {subtraction(paid, cost)}."
    return Example(
        Part(f"{shop}, {change} in change", response(f"{shop}, change {change}.", summary)),
        Part("", response(reasoning, summary), image=image, truth=truth),
        summary,
    )


def _in_turn(pages: dict[str, list[Page]]) -> list[Page]:
    """The first page of every topic, then the second of every topic that has one, and so on."""
    longest = max(map(len, pages.values()))
    return [
        page
        for turn in range(longest)
        for topic in TOPICS
        for page in pages[topic][turn : turn + 1]
    ]


def _shuffled(draw: Draw, count: int) -> int:
    """Goes through 0..count-1 in a random order, then again in another: no value repeats early."""
    turn, place = divmod(draw.index, count)
    return int(draw.shared_rng(turn).permutation(count)[place])


def _amounts(total: int, rng: np.random.Generator) -> list[int]:
    """Three digits with that sum, all such triples equally likely."""
    triples = [
        [first, second, total - first - second]
        for first in range(10)
        for second in range(10)
        if 0 <= total - first - second <= 9
    ]
    return pick(rng, triples)


TASKS = (
    Task(
        "page_topic", "visdoc", "one_look", "ViDoRe", "vidore",
        "topic -> the pages about it",
        "Find a page about this topic:", "What is the topic of the page?", page_topic, 100,
    ),
    Task(
        "page_number", "visdoc", "one_look", "ViDoRe", "vidore",
        "page number -> the page that carries it",
        "Find the page with this number:", "What is the number of the page?", page_number, len(NUMBERS),
    ),
    Task(
        "page_total", "visdoc", "multi_step", "VisRAG", "vidore",
        "shop and total -> the receipt of this shop whose amounts add up to it",
        "Find the receipt:", "What is the total of the amounts on the receipt?", page_total,
        len(SHOPS) * len(TOTALS),
    ),
    Task(
        "page_change", "visdoc", "multi_step", "VisRAG", "vidore",
        "shop and change -> the receipt of this shop with this difference between paid and cost",
        "Find the receipt:", "What is the change on the receipt?", page_change,
        len(SHOPS) * len(CHANGES),
    ),
)  # fmt: skip
