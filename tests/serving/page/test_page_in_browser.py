"""Real files through the page to the real server: the same vectors and lists as offline."""

import base64
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from umer1.cli import main
from umer1.evaluation import load_tasks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photo_query(mini_root):
    (task,) = load_tasks(mini_root, names=("photo_crop",))
    return task.queries[1].item


@pytest.fixture(scope="module")
def clip(mini_root, tmp_path_factory):
    """An MP4 of a held-out clip's frames."""
    (task,) = load_tasks(mini_root, names=("clip_moment",))
    frames = [Image.open(path) for path in list(task.candidates.values())[3]["video"]]
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = (side // 2 * 2 for side in frames[0].size)
        for frame in frames:
            picture = frame.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def embed_and_wait(page):
    page.locator("#index option").first.wait_for(state="attached")
    page.click("#embed")
    finished(page)


def finished(page):
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Done')")


def copied(page, mode):
    page.click(f"#copy-{mode}")
    return np.array(json.loads(page.evaluate("navigator.clipboard.readText()")), np.float32)


def shown_numbers(page, mode):
    rows = page.locator(f"#{mode} > li")
    return [int(row.get_attribute("data-number")) for row in rows.all()]


def check_like_offline(page, embedder, collection, item):
    """Vectors bit for bit, texts, and both lists."""
    out = embedder.encode(item, "both", progress=False)
    assert page.locator("#summary").inner_text() == out.summary[0]
    assert page.locator("#reasoning").inner_text() == out.reasoning[0]
    for mode in ("disc", "gen"):
        vector = getattr(out, mode)
        np.testing.assert_array_equal(copied(page, mode), vector[0])
        hits = collection.search({mode: vector}, 8, mode)[0]
        assert shown_numbers(page, mode) == [hit.number for hit in hits]
        scores = page.locator(f"#{mode} .score").all_inner_texts()
        assert scores == [f"{hit.score:.3f}" for hit in hits]
    cosine = float(out.disc[0] @ out.gen[0])
    assert page.locator("#cosine b").inner_text() == f"{cosine:.2f}".replace("-", "−")
    assert f"{out.tokens[0]} tokens" in page.locator("#facts").inner_text()


CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}


def test_a_picture_and_a_question(open_page, address, embedder, collection, photo_query):
    page = open_page(address, **CLIPBOARD)
    assert "tiny" in page.locator("#server").inner_text()
    page.set_input_files("#file", photo_query["image"])
    page.locator("#media img").wait_for()
    page.fill("#text", photo_query["text"].strip())
    embed_and_wait(page)
    item = {"image": photo_query["image"], "text": photo_query["text"].strip()}
    check_like_offline(page, embedder, collection, item)
    page.wait_for_function("() => [...document.querySelectorAll('.thumb img')].length >= 8")
    sizes = page.locator(".thumb img").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert min(sizes) > 0


def test_a_clip(open_page, address, embedder, collection, clip):
    page = open_page(address, **CLIPBOARD)
    page.set_input_files("#file", clip)
    page.locator("#media li").wait_for()
    embed_and_wait(page)
    check_like_offline(page, embedder, collection, {"video": str(clip)})


def test_text_by_keyboard_alone(open_page, address, embedder, collection):
    text = "Find the receipt: market, amounts adding up to 23"
    page = open_page(address, **CLIPBOARD)
    page.locator("#index option").first.wait_for(state="attached")
    page.keyboard.type(text)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    finished(page)
    check_like_offline(page, embedder, collection, text)
    # the pointer lights what lies under it
    page.mouse.move(0, 0)
    page.locator("#text").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#gen') !== null"):
            break
    page.keyboard.press("Enter")
    row = page.locator("#gen > li").first
    assert row.locator("button").get_attribute("aria-expanded") == "true"
    assert "page_total/" in row.locator(".more").inner_text()
    assert page.locator("#slopes path.lit").count() == 1
    page.keyboard.press("Enter")
    assert row.locator(".more").is_hidden()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"


def test_the_page_the_client_and_the_command_agree(open_page, address, photo_query, tmp_path):
    text = "Find the photo this piece was cut from."
    page = open_page(address, **CLIPBOARD)
    page.set_input_files("#file", photo_query["image"])
    page.locator("#media img").wait_for()
    page.fill("#text", text)
    embed_and_wait(page)
    openai = pytest.importorskip("openai")
    data = base64.b64encode(Path(photo_query["image"]).read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": text},
    ]
    with openai.OpenAI(base_url=f"{address}v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": parts}],
            extra_body={"mode": "both"},
        )
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"id": "a", "image": photo_query["image"], "text": text}))
    assert main(["embed", str(items), "-o", str(tmp_path / "out.npz"), "-q"]) == 0
    stored = np.load(tmp_path / "out.npz")
    for mode in ("disc", "gen"):
        vector = copied(page, mode)
        np.testing.assert_array_equal(np.array(answer.embedding[mode], np.float32), vector)
        np.testing.assert_array_equal(stored[mode][0], vector)


def test_dropped_and_pasted(
    open_page, address, embedder, collection, photo_query, clip, drop, tmp_path
):
    page = open_page(address, **CLIPBOARD)
    picture = Path(photo_query["image"])
    drop(page, "dragenter", picture, "image/png")
    assert "over" in page.locator("#ask").get_attribute("class")
    # a wrong name and type: the bytes decide
    lying = tmp_path / "lying.jpg"
    lying.write_bytes(picture.read_bytes())
    drop(page, "drop", lying, "image/jpeg")
    page.locator("#media img").wait_for()
    assert "over" not in page.locator("#ask").get_attribute("class")
    drop(page, "paste", clip, "video/mp4")
    page.locator("#media li").nth(1).wait_for()
    page.get_by_role("button", name="Remove clip.mp4").click()
    assert page.locator("#media li").count() == 1
    drop(page, "drop", "Find the photo ")
    note = tmp_path / "note.txt"
    note.write_text("this piece was cut from.")
    drop(page, "paste", note, "text/plain")
    page.wait_for_function("() => document.getElementById('text').value.includes('cut from.')")
    assert page.input_value("#text") == "Find the photo this piece was cut from."
    embed_and_wait(page)
    item = {"image": str(picture), "text": "Find the photo this piece was cut from."}
    check_like_offline(page, embedder, collection, item)


def test_options_reach_the_model(open_page, address, embedder):
    page = open_page(address)
    page.fill("#text", "seven")
    page.click("summary")
    page.fill("#temperature", "1.5")
    page.fill("#seed", "11")
    page.fill("#think", "2")
    page.select_option("#shown", "5")
    embed_and_wait(page)
    out = embedder.encode(
        "seven", "both", temperature=1.5, seed=11, max_think_tokens=2, progress=False
    )
    assert page.locator("#summary").inner_text() == out.summary[0]
    assert page.locator("#gen > li").count() == 5
    page.select_option("#index", "")
    page.click("#embed")
    page.wait_for_function("() => document.getElementById('nearest').hidden")
    finished(page)
    assert page.locator("#nearest").is_hidden() and page.locator("#cosine").is_visible()


def test_a_server_with_a_key(open_page, embedder, collection, served):
    with served(embedder, {"collection": collection}, api_keys=("open sesame",)) as address:
        page = open_page(address, expected=("401",))
        assert page.locator("#key").is_visible()
        page.locator("#secret").wait_for()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => document.getElementById('key-wrong').textContent.includes('wants an API key')"
        )
        page.fill("#secret", "open sesame")
        page.keyboard.press("Enter")
        page.locator("#key").wait_for(state="hidden")
        assert page.evaluate("document.activeElement.id") == "text"
        page.keyboard.type("Find the photo of a cat")
        embed_and_wait(page)
        page.locator(".thumb img").first.wait_for()
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        page.locator("#index option").first.wait_for(state="attached")
        assert page.locator("#key").is_hidden()


def test_the_servers_reasons_are_shown(open_page, address, photo_query, tmp_path):
    broken = tmp_path / "broken.png"
    with open(photo_query["image"], "rb") as whole:
        broken.write_bytes(whole.read()[:200])
    page = open_page(address, expected=("400",))
    page.set_input_files("#file", broken)
    page.locator("#media li").wait_for()
    page.locator("#index option").first.wait_for(state="attached")
    page.click("#embed")
    page.wait_for_function("() => document.getElementById('wrong').textContent")
    assert "messages" in page.locator("#wrong").inner_text()
    assert page.locator("#embed").is_visible() and page.locator("#result").is_hidden()
    # and the next one works
    page.get_by_role("button", name="Remove broken.png").click()
    page.fill("#text", "seven")
    embed_and_wait(page)
    assert page.locator("#wrong").inner_text() == ""
