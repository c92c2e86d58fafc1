"""`/` and its files: complete, from this server alone, and open where everything else wants a key."""

import re

import pytest

from umer1 import Embedder
from umer1.serving import ServerSettings, create_app
from umer1.serving.routes.page import FOLDER

testclient = pytest.importorskip("fastapi.testclient")


@pytest.fixture(scope="module")
def client():
    settings = ServerSettings(api_keys=("a key",), max_body_bytes=12_345)
    with testclient.TestClient(create_app(Embedder.load("tiny"), settings)) as client:
        yield client


def test_the_page_comes_without_a_key_and_with_a_strict_policy(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert '<meta name="max-body-bytes" content="12345">' in answer.text
    assert client.get("/v1/indexes").status_code == 401


def test_every_file_that_is_named_is_served(client):
    html = client.get("/").text
    named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', html))
    assert named == {"page/page.css", "page/page.js"}
    while True:
        texts = {name: client.get(f"/{name}") for name in named}
        assert {answer.status_code for answer in texts.values()} == {200}
        imported = {
            f"page/{other}"
            for answer in texts.values()
            for other in re.findall(r'import .*?"\./([^"]+)"|from "\./([^"]+)"', answer.text)
            for other in other
            if other
        }
        if imported <= named:
            break
        named |= imported
    assert {f"page/{path.name}" for path in FOLDER.iterdir()} == named | {"page/index.html"}
    assert client.get("/page/page.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_nothing_comes_from_elsewhere():
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\s'\"]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), (
            path.name
        )
        assert len(text.splitlines()) <= 300, path.name


@pytest.mark.parametrize(
    "path", ["/page/index.html", "/page/nothing.js", "/page/..%2f..%2fapp.py", "/page/", "/pages"]
)
def test_other_paths_are_not_found(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "message" in answer.json()["error"]
