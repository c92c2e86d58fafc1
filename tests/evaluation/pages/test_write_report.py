"""The pages: what they say, that nothing from a data set becomes markup, that they stay bounded."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from umer1.evaluation.pages import compare, write_report
from umer1.evaluation.pages.pictures import Pictures
from umer1.evaluation.runs import load_run

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>&amp;"\' $\\frac{1}{0}$'


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of each script element by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._inside = dict(attrs).get("id", "code")

    def handle_endtag(self, tag):
        self._inside = None if tag == "script" else self._inside

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data


@pytest.fixture
def hostile_run(make_run):
    task = f"$\\frac{{1}}{{0}}$ {HOSTILE}".replace("/", "|")
    names = [f"{HOSTILE} {number}" for number in range(4)]
    ranks = {"disc": [1, 2, 3, 1], "gen": [2, 1, 1, 1]}
    fields = {"ranks": ranks, "names": names, "texts": [HOSTILE] * 4, "reasoning": HOSTILE}
    return make_run("hostile", {"model": HOSTILE}, **{task: fields})


def page(path):
    return Parsed(path.read_text(encoding="utf-8"))


def test_pages_say_what_the_comparison_says(two_runs, tmp_path):
    both = compare([load_run(run) for run in two_runs])
    files = write_report(both, tmp_path / "out")
    assert set(files) == {"html", "markdown", "scores", "pass_at_k", "agreement", "length"}
    text, html = files["markdown"].read_text(), files["html"].read_text()
    for shown in (text, html):
        assert "within chance" in shown
        assert "Of 9 queries rl gen does better on 3 and worse on 2; both are right on 4" in shown
    assert "| digit | 50.0 \\[16.7, 83.3\\]" in text and "![" in text and "(scores.png)" in text
    assert Image.open(files["scores"]).size[0] > 900
    content = json.loads(page(files["html"]).scripts["data"])
    assert content["pairs"]["0.gen|1.gen"]["task:digit"]["counts"] == [2, 1, 3, 0]
    assert content["pairs"]["0.gen|1.gen"]["task:digit"]["points"][0] == pytest.approx(16.6667)
    query = content["queries"][1]
    assert (query["task"], query["row"], query["text"]) == ("digit", 1, "question 1")
    candidates = content["candidates"]["digit"]
    assert [candidates[place]["name"] for place in query["right"]] == ["bee"]
    one, two = (query["columns"][key] for key in ("0.gen", "1.gen"))
    assert (one["rank"], two["rank"], two["of"]) == (1, 2, 4)
    assert [candidates[place]["name"] for place in two["top"]] == ["ape", "bee", "cat"]
    assert two["top_right"] == [False, True, False]
    assert (two["top_similarity"], two["right_similarity"]) == ([0.0, 1.0, 0.0], 1.0)
    assert two["wrote"]["reasoning"].startswith("so it is") and two["wrote"]["tokens"] == 5
    assert query["columns"]["0.disc"]["wrote"] is None


def test_one_file_that_fetches_nothing(two_runs, tmp_path):
    files = write_report(compare([load_run(two_runs[0])]), tmp_path / "out")
    parsed = page(files["html"])
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "url(" not in re.sub(r"url\(#[a-z0-9]+\)", "", files["html"].read_text(), flags=re.I)
    identifiers = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy.split("script-src")[1]


def test_nothing_of_a_data_set_becomes_markup(hostile_run, tmp_path):
    files = write_report(compare([load_run(hostile_run)], [HOSTILE]), tmp_path / "out")
    parsed = page(files["html"])
    assert [tag for tag, _ in parsed.elements].count("script") == 3
    assert not [one for one in parsed.elements if one[0] == "img" or "onerror" in one[1]]
    content = json.loads(parsed.scripts["data"])
    assert content["queries"][0]["text"] == HOSTILE
    assert content["queries"][0]["columns"]["0.gen"]["wrote"]["reasoning"].startswith(HOSTILE)
    text = files["markdown"].read_text()
    assert re.search(r"(?<!\\)[<>]", text) is None
    assert "alert" in text and len(set(map(len, map(split_row, table(text, "task"))))) == 1


def table(text, first):
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    return [line for line in lines[start : start + 3]]


def split_row(line):
    return re.split(r"(?<!\\)\|", line)


def test_plots_follow_the_theme_and_keep_names_as_they_are(hostile_run, tmp_path):
    html = write_report(compare([load_run(hostile_run)]), tmp_path / "out")["html"].read_text()
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawn) == 3
    for svg in drawn:
        assert "var(--ink)" in svg and not re.search(r"(fill|stroke): ?#", svg)
    assert "$\\frac{1}{0}$" in drawn[0]


def test_pages_of_the_same_runs_are_the_same_bytes(two_runs, tmp_path):
    read = []
    for number in range(2):
        runs = [load_run(run) for run in two_runs]
        files = write_report(compare(runs), tmp_path / str(number))
        read.append([files[name].read_bytes() for name in ("html", "markdown")])
    assert read[0] == read[1]


def test_the_list_is_bounded_and_takes_every_outcome(make_run, tmp_path):
    ranks = {"disc": [1] * 40 + [2] * 4, "gen": [1] * 38 + [2] * 4 + [1] * 2}
    run = compare([load_run(make_run("run", digit={"ranks": ranks}))])
    files = write_report(run, tmp_path / "out", queries=8)
    content = json.loads(page(files["html"]).scripts["data"])
    rows = [query["row"] for query in content["queries"]]
    assert (content["total"], len(rows)) == (44, 8)
    # two lost, two won, two wrong in both, two right in both
    assert rows == [0, 37, 38, 39, 40, 41, 42, 43]


def test_pictures_are_small_bounded_and_never_fetched(media_dir):
    item = {"image": ["a.png"], "video": [f"clip/{number}.jpg" for number in range(8)]}
    pictures = Pictures(media_dir, most=2)
    image, video = pictures.of(item)
    assert (image["kind"], video["kind"], video["frames"]) == ("image", "video", 8)
    assert pictures.of(item) == [image, video] and len(pictures.uris) == 2
    opened = [
        Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        for uri in pictures.uris.values()
    ]
    assert [one.size for one in opened] == [(240, 160), (480, 180)]
    assert pictures.of({"image": "clip/0.jpg"})[0]["id"] is None and pictures.left_out == 1
    more = Pictures(media_dir, most=9)
    for source in ("broken.png", "gone.png", "http://localhost:9/a.png", "../media"):
        assert more.of({"image": [source]})[0]["id"] is None
    assert len(more.unreadable) == 4 and more.left_out == 0


def test_every_task_gets_its_share_of_the_pictures(media_dir):
    pictures = Pictures(media_dir, most=3)
    pictures.share(2)
    kept = [pictures.of({"image": [f"clip/{n}.jpg"]})[0]["id"] for n in range(4)]
    pictures.share(1)
    kept += [pictures.of({"image": [f"clip/{n}.jpg"]})[0]["id"] for n in range(4, 8)]
    assert [one is not None for one in kept] == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
        False,
    ]


def test_missing_pictures_are_noted(make_run, media_dir, tmp_path):
    ranks, media = {"gen": [1, 2]}, {"image": ["broken.png"]}
    run = compare([load_run(make_run("run", digit={"ranks": ranks, "media": media}))])
    files = write_report(run, tmp_path / "out", data=media_dir)
    assert "1 pictures or videos could not be shown, e.g. broken.png" in files["html"].read_text()
    files = write_report(run, tmp_path / "out")
    assert "could not be shown (--data names the directory" in files["html"].read_text()
    with pytest.raises(ValueError, match="data: .*nowhere is not there"):
        write_report(run, tmp_path / "out", data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="queries, pictures: got -1, 2000"):
        write_report(run, tmp_path / "out", queries=-1)
