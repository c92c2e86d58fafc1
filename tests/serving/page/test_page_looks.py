"""The page fits a phone, has enough contrast in light and dark, and names its parts to a screen reader."""

import pytest

pytestmark = pytest.mark.slow
LONG = "Donaudampfschifffahrtsgesellschaftskapitän" * 6
CONTRAST = """() => {
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const channels = (text) => text.match(/[0-9.]+/g).map(Number);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const color = channels(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    throw Error("no ground");
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest("svg, .hidden, .skip, option")) continue;
    const pair = [channels(getComputedStyle(one).color).slice(0, 3), ground(one).slice(0, 3)];
    const [light, dark] = pair.map(luminance).sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), `${one.tagName}.${one.className}: ${one.textContent.slice(0, 30)}`]);
  }
  return found;
}"""


@pytest.fixture
def answered(open_page, scripted):
    """answered(**options of the page) -> a page with long results and a message."""

    def hit(number):
        made = {
            "id": f"{LONG}-{number}",
            "score": 0.5,
            "number": number,
            "text": f"{LONG} {number}",
        }
        return {**made, "summary": LONG, "thumbnail": None}

    def answered(**options):
        address, script = scripted
        script.pieces = ["<think>" + LONG]
        script.embedding |= {"reasoning": LONG, "summary": LONG, "finish": "length"}
        hits = [hit(number) for number in range(12)]
        script.results, script.items = {"disc": hits, "gen": hits[::-1]}, 12
        page = open_page(address, expected=("400",), **options)
        page.locator("#index option").first.wait_for(state="attached")
        page.fill("#text", LONG)
        page.click("#embed")
        page.wait_for_function(
            "() => document.getElementById('status').textContent.startsWith('Done')"
        )
        page.locator("#gen > li button").first.click()
        page.click("summary")
        return page

    return answered


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_runs_over_the_edge(answered, width):
    page = answered(width=width)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """(width) => [...document.querySelectorAll("main *")]
          .filter((one) => one.checkVisibility() && !one.closest(".hidden, svg, .skip"))
          .filter((one) => one.getBoundingClientRect().right > width + 0.5)
          .map((one) => one.tagName + "." + one.className)""",
        width,
    )
    assert outside == []


def test_buttons_are_large_enough_for_a_finger(answered):
    page = answered(width=390)
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, summary")]
          .filter((one) => one.checkVisibility() && !one.closest(".hidden"))
          .map((one) => [one.getBoundingClientRect(), one.id || one.textContent])
          .filter(([box]) => Math.min(box.width, box.height) < 32)
          .map(([box, name]) => `${name}: ${box.width} x ${box.height}`)"""
    )
    assert small == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(answered, scheme):
    page = answered(color_scheme=scheme)
    page.evaluate("() => { document.getElementById('wrong').textContent = 'so it is'; }")
    found = page.evaluate(CONTRAST)
    assert len(found) > 60
    assert [text for ratio, text in found if ratio < 4.5] == []
    shade = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    assert (sum(page.evaluate(shade)) > 700) == (scheme == "light")


def test_the_theme_can_be_changed_and_is_kept(open_page, scripted):
    page = open_page(scripted[0], color_scheme="light")
    shade = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(shade)
    page.get_by_role("button", name="Change to dark colours").click()
    dark = page.evaluate(shade)
    assert dark != light
    page.reload()
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(shade) == dark
    page.get_by_role("button", name="Change to light colours").click()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(shade) == light


def test_a_screen_reader_hears_the_parts(open_page, scripted):
    address, script = scripted
    rows = [
        {
            "id": "a/cat.png",
            "score": 0.9,
            "number": 0,
            "text": "",
            "summary": "a cat",
            "thumbnail": None,
        }
    ]
    script.results, script.items = {"disc": rows, "gen": rows}, 1
    page = open_page(address)
    page.locator("#index option").first.wait_for(state="attached")
    page.get_by_role("textbox", name="Text", exact=True).fill("a cat")
    page.get_by_role("combobox", name="Search in").wait_for()
    page.get_by_role("button", name="Embed", exact=True).click()
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Done')")
    told = page.get_by_role("status").inner_text()
    assert told == "Done. Summary: a summary. First by disc: a/cat.png. First by gen: a/cat.png."
    for name in ("What the model wrote", "Why they differ", "Nearest in things"):
        assert page.get_by_role("region", name=name, exact=True).count() == 1
    gen = page.get_by_role("region", name="gen after the summary")
    assert gen.get_by_role("listitem").count() == 1
    button = gen.get_by_role("button", name="1 a/cat.png a cat 0.900 disc 1st")
    assert button.get_attribute("aria-expanded") == "false"
    words = page.get_by_role("table", name="The summary’s words in the items found")
    assert words.get_by_role("rowheader").all_inner_texts() == ["summary"]
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea")]
          .filter((one) => one.checkVisibility() && one.tabIndex >= 0)
          .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
          .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("() => document.querySelectorAll('h1').length") == 1
    assert page.evaluate("() => document.documentElement.lang") == "en"
