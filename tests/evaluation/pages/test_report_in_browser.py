"""The page in a headless Chromium: it filters, sorts, opens, follows the theme, fits a phone."""

import os
import shutil

import pytest

from umer1.evaluation.pages import compare, write_report
from umer1.evaluation.runs import load_run

pytestmark = pytest.mark.slow

CHROMIUM = os.environ.get("UMER1_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HOSTILE = "<img src=x onerror=\"document.title='taken'\"></script><b>bold</b>"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH; UMER1_CHROMIUM names one")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(write_run, write_media, tmp_path_factory):
    """Two runs; the digits have pictures and hostile texts, the clips a video."""
    video = {"video": [f"clip/{number}.jpg" for number in range(8)]}
    digits = {"texts": [f"{HOSTILE} {number}" for number in range(6)], "reasoning": HOSTILE}
    digits["media"] = {"image": ["a.png"]}
    clips = {"modality": "video", "media": video}
    root = tmp_path_factory.mktemp("report")
    runs = [
        write_run(
            root,
            label,
            digits={"ranks": {"disc": [1, 2, 1, 4, 3, 1], "gen": gen}, **digits},
            clips={"ranks": {"disc": [1, 1, 2], "gen": clip}, **clips},
        )
        for label, gen, clip in (
            ("sft", [1, 1, 1, 2, 4, 1], [1, 2, 1]),
            ("rl", [1, 2, 1, 1, 1, 1], [1, 1, 2]),
        )
    ]
    both = compare([load_run(run) for run in runs])
    return write_report(both, root / "out", data=write_media(root / "media"))["html"].as_uri()


@pytest.fixture
def open_page(browser, address):
    """open_page(width=..., color_scheme=...) -> a page; any error or request in it is a failure."""
    wrong, pages = [], []

    def open_one(width=1200, **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: wrong.append(request.url) if outside(request) else None)
        page.goto(address)
        pages.append(page)
        return page

    def outside(request):
        return request.url != address and not request.url.startswith("data:")

    yield open_one
    for page in pages:
        page.close()
    assert wrong == []


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_queries_are_filtered_ordered_and_searched(open_page):
    page = open_page()
    assert page.locator("#list > li").count() == 9
    page.select_option("#outcome", "loss")
    assert texts(page, "#list .about b") == ["digits 1", "clips 2"]
    page.select_option("#outcome", "win")
    assert texts(page, "#list .about b") == ["digits 3", "digits 4", "clips 1"]
    page.select_option("#order", "right one ranked lowest first")
    assert texts(page, "#list .about b") == ["digits 4", "digits 3", "clips 1"]
    page.select_option("#task", "clips")
    assert texts(page, "#list .about b") == ["clips 1"]
    page.select_option("#task", "")
    page.fill("#search", "bold 4")
    assert texts(page, "#list .about b") == ["digits 4"]
    page.fill("#search", "no such words")
    assert page.locator("#list > li").count() == 0 and texts(page, "#count") == ["0 queries."]


def test_a_query_shows_why_it_failed_and_its_text_is_text(open_page):
    page = open_page()
    page.select_option("#outcome", "loss")
    page.locator("#list .row").first.click()
    detail = page.locator("#list .detail")
    assert "sft gen ranks a right candidate first at 1.000." in texts(page, ".why")[0]
    assert (
        "rl gen ranks the right one 2nd of 4 at 1.000, behind “ape” at 0.000."
        in detail.inner_text()
    )
    assert f"{HOSTILE} 1" in detail.inner_text()
    assert page.title() == "sft and rl" and detail.locator("b").count() == 0
    assert "(no reasoning)" not in detail.inner_text() and "What it wrote" in detail.inner_text()
    picture = detail.locator("img").first
    assert picture.evaluate("one => one.complete && one.naturalWidth") == 240
    page.select_option("#task", "clips")
    page.locator("#list .row").first.click()
    sheet = page.locator("#list .detail img").first
    assert sheet.evaluate("one => one.naturalWidth") == 480


def test_another_pair_changes_tables_and_list(open_page):
    page = open_page()
    row = 'tr[data-row="task:digits"]'
    assert texts(page, f"{row} .counts") == ["2 : 1"]
    page.click("#swap")
    assert texts(page, f"{row} .counts") == ["1 : 2"]
    assert texts(page, f"{row} .difference")[0].startswith("−16.7")
    page.select_option("#first", label="sft disc")
    page.select_option("#second", label="sft oracle")
    assert texts(page, f"{row} .difference")[0].startswith("+16.7")


def test_tables_sort_by_any_column(open_page):
    page = open_page()
    heads, rows = page.locator("#tasks thead button"), "#tasks tbody th"
    names = [text.splitlines()[0] for text in texts(page, rows)]
    assert names == ["digits", "clips"]
    heads.first.click()
    assert [text.splitlines()[0] for text in texts(page, rows)] == ["clips", "digits"]
    assert page.locator('#tasks th[aria-sort="ascending"]').count() == 1
    heads.nth(5).click()
    best = [text.splitlines()[0] for text in texts(page, rows)]
    assert best == ["digits", "clips"]
    heads.nth(5).click()
    assert [text.splitlines()[0] for text in texts(page, rows)] == best[::-1]


def test_the_keyboard_is_enough(open_page):
    page = open_page()
    for key in ("j", "j", "k", "j"):
        page.keyboard.press(key)
    focused = "document.activeElement.querySelector('.about b').textContent"
    assert page.evaluate(focused) == "digits 1"
    page.keyboard.press("Enter")
    assert page.locator("#list .detail").count() == 1 and page.url.endswith("#q-1")
    page.keyboard.press("Escape")
    assert page.locator("#list .detail").count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("jj")
    assert page.input_value("#search") == "jj"


def test_an_address_opens_its_query(open_page, address):
    page = open_page()
    page.goto(f"{address}#q-4")
    page.reload()
    assert page.locator("#q-4 .detail").count() == 1


def test_light_and_dark(open_page):
    luminance = {}
    shade = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    ink = "getComputedStyle(document.querySelector('#plots svg text')).fill.match(/[0-9]+/g).map(Number)"
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        luminance[scheme] = sum(page.evaluate(shade)), sum(page.evaluate(ink))
    assert luminance["light"][0] > 700 > 200 > luminance["light"][1]
    assert luminance["dark"][0] < 100 < 600 < luminance["dark"][1]
    page.click("#theme")
    assert sum(page.evaluate(shade)) > 700


def test_it_fits_a_phone(open_page):
    page = open_page(width=360)
    page.locator("#list .row").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator(one).bounding_box() for one in ("#search", "#list .detail", "h1")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
