"""Requests that are wrong, and what the server answers to each.

Each row is (request, status, code, part of the message); a request is what httpx wants, with POST
/v1/embeddings and the right key as defaults.
"""

JSON = {"Content-Type": "application/json"}


def raw(content, headers=JSON, url="/v1/embeddings"):
    return {"content": content, "headers": headers, "url": url}


def embed(**fields):
    return {"json": {"input": "seven", "mode": "disc", **fields}}


def user(content):
    return {"json": {"mode": "disc", "messages": [{"role": "user", "content": content}]}}


def turns(*messages):
    return {"json": {"mode": "disc", "messages": list(messages)}}


def chat(**fields):
    messages = [{"role": "user", "content": "seven"}]
    return {"url": "/v1/chat/completions", "json": {"messages": messages, **fields}}


def search(**fields):
    return {"url": "/v1/search", "json": {"index": "numbers", "modes": ["disc"], **fields}}


def get(url, method="GET"):
    return {"method": method, "url": url}


def stream(size):
    """A body that does not say how long it is."""
    yield b'{"input": "'
    for _ in range(size >> 16):
        yield b"a" * (1 << 16)
    yield b'"}'


BODIES = {
    "nothing": (raw(b""), 400, "bad_request", "required"),
    "no JSON": (raw(b"seven"), 400, "bad_json", "not JSON"),
    "JSON and more": (raw(b'{"input": "a"} x'), 400, "bad_json", "not JSON"),
    "JSON cut short": (raw(b'{"input": "a'), 400, "bad_json", "not JSON"),
    "a list": (raw(b'["seven"]'), 400, "bad_request", ""),
    "a number": (raw(b"7"), 400, "bad_request", ""),
    "null": (raw(b"null"), 400, "bad_request", ""),
    "too large": (embed(input="a" * (2 << 20)), 413, "body_too_large", "larger than 1048576"),
    "too large, unannounced": ("stream", 413, "body_too_large", "larger than 1048576"),
    "deep lists": (raw(b"[" * 400_000), 400, "bad_json", "32 deep"),
    "deep objects": (raw(b'{"a":' * 100_000), 400, "bad_json", "32 deep"),
    "deep and whole": (raw(b"[" * 99 + b"]" * 99), 400, "bad_json", "32 deep"),
    "brackets that close": (raw(b"]" * 400_000), 400, "bad_json", "closes more"),
    "long number": (raw(b'{"input":"a","seed":' + b"9" * 5000 + b"}"), 400, "bad_json", "400"),
    "NaN": (raw(b'{"input":"a","temperature":NaN}'), 400, "bad_json", "NaN is no number"),
    "infinity": (raw(b'{"input":"a","top_p":-Infinity}'), 400, "bad_json", "Infinity is no"),
    "number too large for a float": (
        raw(b'{"input":"a","temperature":1e999}'),
        400,
        "bad_request",
        "finite",
    ),
    "UTF-16": (raw('{"input": "a"}'.encode("utf-16")), 400, "bad_json", "not UTF-8"),
    "zeros": (raw(b'{"input": "a\0"}'), 400, "bad_json", "not UTF-8"),
    "broken UTF-8": (raw(b'{"input": "\xff\xfe"}'), 400, "bad_json", "not UTF-8"),
    "form": (
        raw(b"input=a", {"Content-Type": "application/x-www-form-urlencoded"}),
        415,
        "unsupported_content_type",
        "wants application/json",
    ),
    "multipart": ({"files": {"file": b"x"}}, 415, "unsupported_content_type", "multipart"),
    "XML": (
        raw(
            b"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>", {"Content-Type": "text/xml"}
        ),
        415,
        "unsupported_content_type",
        "text/xml",
    ),
    "no content type": (raw(b"{}", {}), 415, "unsupported_content_type", "got none"),
    "packed": (
        raw(b"x", JSON | {"Content-Encoding": "gzip"}),
        415,
        "unsupported_content_encoding",
        "gzip",
    ),
}
FIELDS = {
    "unknown field": (embed(inputs="a"), 400, "bad_request", "inputs"),
    "no source": ({"json": {"mode": "disc"}}, 400, "bad_request", "one of 'input'"),
    "two sources": (embed(messages=[{"role": "user", "content": "a"}]), 400, "bad_request", "one"),
    "empty text": (embed(input=""), 400, "bad_input", "empty"),
    "empty list": (embed(input=[]), 400, "bad_request", "an empty list"),
    "number as text": (embed(input=7), 400, "bad_request", "wants a text"),
    "object as text": (embed(input={"text": "a"}), 400, "bad_request", "wants a text"),
    "texts and tokens": (embed(input=["a", 1]), 400, "bad_request", "int in place 1"),
    "true as a token": (embed(input=[True]), 400, "bad_request", "bool"),
    "fraction as a token": (embed(input=[1.5]), 400, "bad_request", "float"),
    "negative token": (embed(input=[-1]), 400, "bad_token", "token id -1"),
    "token beyond the model": (embed(input=[1 << 70]), 400, "bad_token", "token id"),
    "half a character": (raw(b'{"input":"\\ud800","mode":"disc"}'), 400, "bad_input", "Unicode"),
    "half a character as model": (
        raw(b'{"input":"a","model":"\\ud800"}'),
        404,
        "model_not_found",
        "ud800",
    ),
    "text too long": (embed(input="a" * 3000), 400, "text_too_long", "at most 2000"),
    "prompt too long": (
        embed(input="\U0002a6d6" * 200),
        400,
        "bad_input",
        "prompt tokens, wants at most 180",
    ),
    "too many inputs": (embed(input=["a"] * 9), 400, "too_many_items", "at most 8"),
    "other model": (embed(model="gpt-4"), 404, "model_not_found", "gpt-4"),
    "path as model": (embed(model="../../etc/passwd"), 404, "model_not_found", ""),
    "mode": (embed(mode="all"), 400, "bad_request", "mode"),
    "encoding": (embed(encoding_format="pickle"), 400, "bad_request", "encoding_format"),
    "dimensions": (embed(dimensions=7), 400, "dimensions_not_trained", "dimensions: got 7"),
    "dimensions below one": (embed(dimensions=-1), 400, "dimensions_not_trained", "got -1"),
    "no samples": (embed(n=0), 400, "bad_request", "n"),
    "many samples": (embed(n=1 << 40), 400, "bad_request", "n"),
    "samples without chance": (embed(n=2, mode="gen"), 400, "bad_request", "temperature above 0"),
    "number as string": (embed(temperature="1"), 400, "bad_request", "temperature"),
    "true as number": (embed(temperature=True), 400, "bad_request", "temperature"),
    "cold": (embed(temperature=-1), 400, "bad_request", "temperature"),
    "seed": (embed(seed=1 << 70), 400, "bad_request", "seed"),
    "tokens": (embed(max_tokens=10**9), 400, "max_tokens_too_large", "at most 32"),
    "thoughts": (embed(max_think_tokens=-1), 400, "bad_request", "max_think_tokens"),
}
MESSAGES = {
    "no messages": (turns(), 400, "bad_request", "list of messages"),
    "text as message": (turns("seven"), 400, "bad_request", "list of messages"),
    "other system turn": (
        turns({"role": "system", "content": "Obey."}, {"role": "user", "content": "a"}),
        400,
        "bad_input",
        "system turn",
    ),
    "assistant": (turns({"role": "assistant", "content": "a"}), 400, "bad_input", "one user turn"),
    "two turns": (turns(*[{"role": "user", "content": "a"}] * 2), 400, "bad_input", "one user"),
    "role that is no text": (turns({"role": {"a": 1}, "content": "a"}), 400, "bad_input", "one"),
    "content that is a number": (user(7), 400, "bad_input", "content"),
    "no content": (turns({"role": "user"}), 400, "bad_input", "content"),
    "nothing in it": (user([]), 400, "bad_input", "empty"),
    "part that is a number": (user([7]), 400, "bad_input", "content[0]"),
    "unknown part": (user([{"type": "audio", "audio": "x"}]), 400, "bad_input", "'audio'"),
    "type that is a list": (user([{"type": ["image"], "image": "x"}]), 400, "bad_input", "type"),
    "text that is a list": (user([{"type": "text", "text": ["a"]}]), 400, "bad_input", "string"),
    "picture in a text": (
        user([{"type": "text", "text": {"image": "x"}}]),
        400,
        "bad_input",
        "string",
    ),
    "picture without source": (user([{"type": "image"}]), 400, "bad_input", "none"),
    "picture of two sources": (
        user([{"type": "image", "image": "x", "path": "/etc/passwd"}]),
        400,
        "bad_input",
        "one of",
    ),
    "path": (user([{"type": "image", "path": "/etc/passwd"}]), 400, "media_unsupported", "no data"),
    "any size": (
        user([{"type": "image", "image": "x", "max_pixels": 1 << 60}]),
        400,
        "bad_input",
        "max_pixels",
    ),
    "many frames": (
        user([{"type": "video", "video": "x", "nframes": 10**9}]),
        400,
        "bad_input",
        "nframes",
    ),
    "unknown setting": (
        user([{"type": "image", "image": "x", "resized_height": 1}]),
        400,
        "bad_input",
        "unknown key",
    ),
    "frames in frames": (
        user([{"type": "video", "video": [["x"]]}]),
        400,
        "media_unsupported",
        "type list",
    ),
    "thousand frames": (
        user([{"type": "video", "video": ["x"] * 1000}]),
        400,
        "too_many_media",
        "1000",
    ),
}
PLACES = {
    "no such route": (get("/v1/nothing"), 404, "not_found", "/v1/nothing"),
    "other method": (get("/v1/embeddings"), 405, "method_not_allowed", ""),
    "method of its own": (get("/v1/embeddings", "HACK"), 405, "method_not_allowed", ""),
    "way up": (get("/../../../../etc/passwd"), 404, "not_found", ""),
    "way up, escaped": (get("/%2e%2e/%2e%2e/etc/passwd"), 404, "not_found", ""),
    "way up behind models": (get("/v1/models/..%2f..%2fetc%2fpasswd"), 404, "model_not_found", ""),
    "zero in a path": (get("/v1/models/a%00b"), 404, "model_not_found", ""),
    "long path": (get("/" + "a" * 20_000), 404, "not_found", ""),
    "thumbnail outside": (get("/v1/indexes/..%2f..%2fetc/items/0/thumbnail"), 404, "not_found", ""),
    "thumbnail of an index that is a path": (
        get("/v1/indexes/%2e%2e/items/0/thumbnail"),
        404,
        "index_not_found",
        "no index",
    ),
    "thumbnail of no item": (
        get("/v1/indexes/numbers/items/99/thumbnail"),
        404,
        "item_not_found",
        "99",
    ),
    "thumbnail before the first": (
        get("/v1/indexes/numbers/items/-1/thumbnail"),
        404,
        "item_not_found",
        "-1",
    ),
    "thumbnail of a number beyond": (
        get(f"/v1/indexes/numbers/items/{10**30}/thumbnail"),
        404,
        "item_not_found",
        "",
    ),
    "thumbnail of a path": (
        get("/v1/indexes/numbers/items/..%2f0/thumbnail"),
        404,
        "not_found",
        "",
    ),
    "index that is a path": (search(index="../../etc", input="a"), 404, "index_not_found", "../"),
    "index that is absolute": (search(index="/etc/passwd", input="a"), 404, "index_not_found", ""),
    "index with a zero": (search(index="numbers\0", input="a"), 404, "index_not_found", ""),
    "index that is an object": (search(index={"a": 1}, input="a"), 400, "bad_request", "index"),
    "no query": (search(), 400, "bad_request", "wants one of"),
    "no results": (search(input="a", k=0), 400, "bad_request", "k"),
    "all results": (search(input="a", k=10**9), 400, "bad_request", "k"),
    "mode not in the index": (search(input="a", modes=["gen"]), 400, "mode_not_indexed", "gen"),
    "vector of another size": (search(vector={"disc": [1.0]}), 400, "bad_vector", ""),
    "vector of texts": (search(vector={"disc": ["a"]}), 400, "bad_request", "vector"),
    "vector of NaN": (
        raw(b'{"index":"numbers","modes":["disc"],"vector":{"disc":[NaN]}}', url="/v1/search"),
        400,
        "bad_json",
        "NaN",
    ),
    "vector too large for floats": (
        search(vector={"disc": [1e300] * 128}),
        400,
        "bad_vector",
        "finite",
    ),
    "chat without messages": (chat(messages=[]), 400, "bad_request", "messages"),
    "chat in many": (chat(n=2), 400, "bad_request", "n"),
    "chat with tools": (chat(tools=[]), 400, "bad_request", "tools"),
    "chat that is endless": (chat(max_tokens=10**9), 400, "max_tokens_too_large", "32"),
    "chat with a path": (
        chat(messages=[{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}]),
        400,
        "media_unsupported",
        "no data URI",
    ),
    "stream with a path": (
        chat(
            stream=True,
            messages=[{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}],
        ),
        400,
        "media_unsupported",
        "no data URI",
    ),
}
KEYS = {
    "wrong key": (embed() | {"headers": {"Authorization": "Bearer wrong"}}, "wants an API key"),
    "no key": (embed() | {"headers": {"Authorization": ""}}, "wants an API key"),
    "key without its scheme": (embed() | {"headers": {"Authorization": "right"}}, "API key"),
    "other scheme": (embed() | {"headers": {"Authorization": "Basic right"}}, "API key"),
    "key beyond ASCII": (embed() | {"headers": {"Authorization": b"Bearer r\xeft"}}, "API key"),
    "long key": (embed() | {"headers": {"Authorization": "Bearer " + "a" * 9999}}, "API key"),
    "key of another's metrics": (get("/metrics") | {"headers": {"Authorization": ""}}, "API key"),
    "large body without a key": (
        raw(b"a" * (2 << 20), JSON | {"Authorization": ""}),
        "wants an API key",
    ),
}
TABLES = BODIES, FIELDS, MESSAGES, PLACES
ROWS = {name: row for table in TABLES for name, row in table.items()}
assert len(ROWS) == sum(map(len, TABLES))
