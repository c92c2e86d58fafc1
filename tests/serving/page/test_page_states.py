"""What the page does when things go wrong, or are hostile: on answers that the test writes."""

import re

import pytest

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=\"document.title='taken'\"></script><b>bold</b>"


def ask(page, text="something"):
    page.locator("#index option").first.wait_for(state="attached")
    page.fill("#text", text)
    page.click("#embed")


def told(page):
    """The message, once there is one and the page is ready again."""
    page.wait_for_function("() => document.getElementById('wrong').textContent")
    page.locator("#embed").wait_for()
    return page.locator("#wrong").inner_text()


def finished(page):
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Done')")


def hit(number, **changes):
    made = {"id": f"item-{number}", "score": 0.5, "number": number, "text": f"text {number}"}
    return {**made, "summary": "", "thumbnail": None, **changes}


@pytest.mark.parametrize(
    "status, reason, headers, shown",
    [
        (400, "so it is", {}, "so it is"),
        (413, "so it is", {}, "so it is"),
        (429, "try again in 7 s", {"Retry-After": "7"}, "try again in 7 s"),
        (500, "so it is", {}, "so it is"),
        (503, "so it is", {"Retry-After": "5"}, "so it is (try again in 5 s)"),
        (504, "so it is", {}, "so it is"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    open_page, scripted, status, reason, headers, shown
):
    address, script = scripted
    script.refusal = status, reason, headers
    page = open_page(address, expected=(str(status),))
    ask(page)
    assert told(page) == f"The server refuses: {shown}"
    assert page.locator("#wrong").get_attribute("role") == "alert"
    script.refusal = None
    page.click("#embed")
    finished(page)
    assert page.locator("#wrong").inner_text() == ""


def test_a_server_that_is_gone(open_page, scripted):
    address, _ = scripted
    page = open_page(address, expected=("Failed to load",))
    page.locator("#index option").first.wait_for(state="attached")
    page.route("**/v1/**", lambda route: route.abort())
    page.fill("#text", "x")
    page.click("#embed")
    assert "does not answer" in told(page)


def test_a_stream_that_breaks_off_keeps_what_was_written(open_page, scripted):
    address, script = scripted
    script.embedding, script.done = None, False
    page = open_page(address)
    ask(page)
    assert told(page) == "The answer broke off before the vectors came."
    assert page.locator("#reasoning").inner_text() == "because"
    assert page.locator("#summary").inner_text() == "a summary"
    assert page.locator(".writing").count() == 0 and page.locator("#apart").is_hidden()


def test_an_error_in_the_stream(open_page, scripted):
    address, script = scripted
    script.error = "not finished within 300 seconds"
    page = open_page(address)
    ask(page)
    assert told(page) == "The server broke off: not finished within 300 seconds"


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping_leaves_the_stream(open_page, scripted, how):
    address, script = scripted
    script.pieces = ["<think>", "on and on"]
    script.hold.set()
    page = open_page(address)
    ask(page)
    page.wait_for_function("() => document.getElementById('reasoning').textContent === 'on and on'")
    assert page.locator("#reasoning.writing").count() == 1
    if how == "button":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    page.locator("#embed").wait_for()
    assert script.left.wait(60), "the server was not told"
    assert "stopped" in page.locator("#facts").inner_text()
    assert page.locator(".writing").count() == 0 and page.locator("#wrong").inner_text() == ""


def test_before_the_first_word_the_page_shows_that_the_model_reads(open_page, scripted):
    address, script = scripted
    script.pieces = []
    script.hold.set()
    page = open_page(address)
    ask(page)
    page.locator("#reasoning.writing").wait_for()
    assert page.locator("#facts").inner_text() == "reading"
    assert page.locator("#result").get_attribute("aria-busy") == "true"
    page.click("#stop")
    page.locator("#result").wait_for(state="hidden")
    assert page.locator("#status").inner_text() == "Stopped."


def test_vectors_can_be_copied_where_browsers_have_no_clipboard(open_page, scripted):
    address, _ = scripted
    page = open_page(address)
    page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    ask(page)
    finished(page)
    page.click("#copy-disc")
    page.get_by_role("button", name="Copied").wait_for()
    page.fill("#text", "")
    page.keyboard.press("Control+V")
    page.wait_for_function("() => document.getElementById('text').value === '[0.6,0.8]'")


def test_tags_never_show_however_the_text_is_cut(open_page, scripted):
    address, script = scripted
    whole = "<think>one < two and 3 > 2\nso</think><answer>the sum\n<gen_emb>"
    script.pieces = list(whole)
    page = open_page(address)
    page.evaluate(
        """() => {
          window.seen = [];
          new MutationObserver(() => window.seen.push(document.getElementById("result").innerText))
            .observe(document.getElementById("result"), { childList: true, subtree: true });
        }"""
    )
    script.embedding |= {"reasoning": "one < two and 3 > 2\nso", "summary": "the sum"}
    ask(page)
    finished(page)
    seen = page.evaluate("() => window.seen")
    assert len(seen) > 10
    assert not any(re.search(r"think>|answer|gen_emb", text) for text in seen)
    assert page.locator("#reasoning").inner_text() == "one < two and 3 > 2\nso"


@pytest.mark.parametrize(
    "finish, words", [("length", "limit of tokens"), ("eos", "ended its turn")]
)
def test_a_vector_without_gen_emb_is_called_a_stop_gap(open_page, scripted, finish, words):
    address, script = scripted
    script.embedding |= {"finish": finish, "summary": ""}
    page = open_page(address)
    ask(page)
    finished(page)
    text = page.locator("#caution").inner_text()
    assert "stop-gap" in text and words in text
    script.embedding |= {"finish": "gen_emb"}
    ask(page)
    page.locator("#caution").wait_for(state="hidden")


def test_hostile_texts_are_texts(open_page, scripted):
    address, script = scripted
    script.pieces = [HOSTILE]
    script.embedding |= {"reasoning": HOSTILE, "summary": HOSTILE}
    rows = [hit(0, text=HOSTILE, summary=HOSTILE, id=HOSTILE), hit(1, id=f"{HOSTILE}.png")]
    script.results, script.items = {"disc": rows, "gen": rows[::-1]}, 2
    page = open_page(address)
    ask(page)
    finished(page)
    page.locator("#gen > li button").first.click()
    assert HOSTILE in page.locator("#reasoning").inner_text()
    assert HOSTILE in page.locator("#gen").inner_text()
    assert page.title() == "umer1"
    assert page.locator("#result img, #result script").count() == 0


def test_ranks_words_and_lines_say_why(open_page, scripted):
    address, script = scripted
    script.embedding |= {"summary": "the red car"}
    texts = ["a red car", "blue boat", "red shoe", "green tree"]
    items = [hit(number, text=text) for number, text in enumerate(texts)]
    others = [hit(number, text="grey") for number in range(4, 40)]
    script.items = 40
    script.results = {
        "disc": [items[3], items[1], *others[:20], items[0], *others[20:], items[2]],
        "gen": [items[0], items[1], items[2], *others[::-1], items[3]],
    }
    page = open_page(address)
    page.click("summary")
    page.select_option("#shown", "5")
    ask(page)
    finished(page)
    why = page.locator("#why li").all_inner_texts()
    assert why[0] == "Gen puts a red car first (23rd by disc); disc puts green tree first."
    assert why[1] == "1 of the first 5 are in both lists."
    assert "Gen lifts red shoe: 40th by disc, 3rd by gen." in why
    assert "Gen lowers green tree: 1st by disc, 40th by gen." in why
    moves = page.locator("#gen .move").all_inner_texts()
    assert moves[:3] == ["disc 23rd", "disc 2nd", "disc 40th"]
    assert page.locator("#disc .move").first.inner_text() == "gen 40th"
    # boat is in both; eight ends lead nowhere
    kinds = page.locator("#slopes path").evaluate_all(
        "all => all.map((one) => one.getAttribute('class'))"
    )
    assert sorted(kinds) == ["ends"] * 8 + ["same"]
    table = page.locator("table.words tbody tr").all_inner_texts()
    assert [re.split(r"\s+", row.strip()) for row in table] == [
        ["red", "0", "2"],
        ["car", "0", "1"],
    ]
    assert page.locator("#gen mark").all_inner_texts() == ["red", "car", "red"]
    assert page.locator("#cosine b").inner_text() == "0.60"


def test_an_index_with_one_mode_and_one_that_is_larger_than_what_was_asked(open_page, scripted):
    address, script = scripted
    script.modes, script.items = ["gen"], 1000
    script.results = {"gen": [hit(number) for number in range(100)]}
    page = open_page(address)
    ask(page)
    finished(page)
    assert page.locator("#disc").inner_text() == "This index holds no disc vectors."
    assert page.locator("#gen .move").count() == 0
    script.modes = ["disc", "gen"]
    script.results |= {"disc": [hit(number) for number in range(900, 1000)]}
    page.reload()
    ask(page)
    finished(page)
    assert page.locator("#gen .move").first.inner_text() == "disc beyond 100"


def test_what_cannot_be_sent_is_said_before_sending(open_page, scripted, tmp_path):
    address, script = scripted
    page = open_page(address)
    files = {
        "report.pdf": (b"%PDF-1.7", "“report.pdf” is not a file this page can send."),
        "picture.png": (
            b"no picture at all" * 9,
            "“picture.png” is not a file this page can send.",
        ),
        "empty.png": (b"", "“empty.png” is empty."),
        "film.mp4": (b"\0\0\0\x18ftypmp42" + bytes(90_000), "“film.mp4” has 90 KB; this server"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#file", tmp_path / name)
        page.wait_for_function(
            "(name) => document.getElementById('wrong').textContent.includes(name)", arg=name
        )
        assert page.locator("#wrong").inner_text().startswith(message)
    assert page.locator("#media li").count() == 0
    page.fill("#text", "")
    page.click("#embed")
    page.wait_for_function(
        "() => document.getElementById('wrong').textContent.includes('nothing to embed')"
    )
    # together too large, each small enough
    half = tmp_path / "half.gif"
    half.write_bytes(b"GIF89a" + bytes(40_000))
    page.set_input_files("#file", [half, half])
    page.wait_for_function(
        "() => document.getElementById('wrong').textContent.includes('larger than')"
    )
    assert page.locator("#media li").count() == 1
    assert script.asked == []
