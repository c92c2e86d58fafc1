"""The page in headless Chromium: on the real server with the bundled model, or on a server whose
answers a test writes."""

import base64
import json
import threading
from contextlib import contextmanager

import pytest

from bench import screenshots


@pytest.fixture(scope="module")
def browser():
    # while it is open its event loop runs in this thread, and asyncio.run refuses everywhere
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if screenshots.chromium_path() is None:
        pytest.skip("no chromium on the PATH; UMER1_CHROMIUM names one")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=screenshots.chromium_path(), args=screenshots.CHROMIUM_OPTIONS
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def embedder():
    from umer1 import Embedder

    return Embedder.load("tiny")


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory):
    return screenshots.make_data(tmp_path_factory.mktemp("page") / "mini")


@pytest.fixture(scope="session")
def collection(mini_root, embedder, tmp_path_factory):
    """The index of the screenshots: photographs, clips, numbers, receipts."""
    return screenshots.demo_index(tmp_path_factory.mktemp("page") / "index", mini_root, embedder)


@pytest.fixture(scope="session")
def served():
    """served(embedder, indexes, **settings): a context manager of a real server's address."""
    return screenshots.served


@pytest.fixture(scope="session")
def address(embedder, collection, served):
    with served(embedder, {"collection": collection}) as address:
        yield address


@pytest.fixture
def open_page(browser):
    """open_page(address, width=…, …) -> a page. A script error, a breach of the content security
    policy or a request to elsewhere fails the test; `expected` are parts of messages that may come
    (a refused request is one)."""
    wrong, contexts = [], []

    def open_one(address, width=1200, height=900, expected=(), **options):
        def note(message):
            if not any(part in message for part in expected):
                wrong.append(message)

        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: note(str(error)))
        page.on("console", lambda line: note(line.text) if line.type == "error" else None)
        inside = (address, "blob:", "data:")
        page.on(
            "request",
            lambda request: None if request.url.startswith(inside) else wrong.append(request.url),
        )
        page.goto(address)
        page.wait_for_function(
            "() => !document.getElementById('server').textContent.includes('connecting')"
        )
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def drop():
    """drop(page, event, path or text, type, target): a real DataTransfer with a real file."""

    def drop(page, event, given, kind=None, target="body"):
        if kind is None:
            data = {"text": given}
        else:
            data = {"base64": base64.b64encode(given.read_bytes()).decode()}
            data |= {"name": given.name, "type": kind}
        page.evaluate(DROP, {"event": event, "target": target, **data})

    return drop


DROP = """({ event, target, text, base64, name, type }) => {
  const data = new DataTransfer();
  if (text !== undefined) data.setData("text/plain", text);
  else {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
  const made = event === "paste" ? new ClipboardEvent(event, options) : new DragEvent(event, options);
  document.querySelector(target).dispatchEvent(made);
}"""


class Scripted:
    """The page's own route beside answers that a test chooses.

    pieces: what the model writes, one chunk each. embedding: of the last chunk, None: none comes.
    refusal: (status, message, headers) of the chat. results: of a search. hold: while set, the
    stream waits after its pieces. left: set when a client leaves a stream.
    """

    def __init__(self):
        self.pieces = ["<think>because", "</think><answer>", "a summary"]
        self.embedding = {
            "gen": [1.0, 0.0],
            "disc": [0.6, 0.8],
            "reasoning": "because",
            "summary": "a summary",
            "finish": "gen_emb",
        }
        self.refusal, self.done, self.error = None, True, None
        self.modes, self.results, self.items = ["disc", "gen"], {"disc": [], "gen": []}, 0
        self.hold, self.left, self.asked = threading.Event(), threading.Event(), []

    def app(self):
        import asyncio

        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, StreamingResponse

        from umer1.serving import ServerSettings
        from umer1.serving.routes import page as page_route

        app = FastAPI()
        app.state.settings = ServerSettings(max_body_bytes=100_000)
        app.include_router(page_route.router)

        @app.get("/v1/models")
        async def models():
            return {"data": [{"id": "/models/made-up", "dimension": 2}]}

        @app.get("/v1/indexes")
        async def indexes():
            row = {"name": "things", "items": self.items, "modes": self.modes, "aligned": False}
            return {"data": [row]}

        @app.post("/v1/search")
        async def search(request: Request):
            body = await request.json()
            return {"results": {mode: self.results[mode] for mode in body["modes"]}}

        @app.post("/v1/chat/completions")
        async def chat(request: Request):
            self.asked.append(await request.json())
            if self.refusal:
                status, message, headers = self.refusal
                return JSONResponse({"error": {"message": message}}, status, headers)
            return StreamingResponse(events(), media_type="text/event-stream")

        async def events():
            try:
                for piece in self.pieces:
                    yield event({"choices": [{"delta": {"content": piece}}]})
                while self.hold.is_set():
                    await asyncio.sleep(0.01)
                if self.error:
                    yield event({"error": {"message": self.error}})
                if self.embedding:
                    yield event({"choices": [{"delta": {}}], "embedding": self.embedding})
                if self.done:
                    yield "data: [DONE]\n\n"
            except (asyncio.CancelledError, GeneratorExit):
                self.left.set()
                raise

        def event(content):
            return f"data: {json.dumps(content)}\n\n"

        return app


@pytest.fixture(scope="session")
def scripted_server():
    """(address, object whose `script` answers)"""
    holder = Scripted()
    with running(holder.app()) as address:
        yield address, holder


@pytest.fixture
def scripted(scripted_server):
    """(address, Scripted) with its first answers again."""
    address, holder = scripted_server
    holder.hold.clear()
    holder.__init__()
    yield address, holder
    holder.hold.clear()


@contextmanager
def running(app):
    import time

    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()
