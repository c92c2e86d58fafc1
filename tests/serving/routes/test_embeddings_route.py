"""/v1/embeddings with OpenAI's own client, unchanged: every form of input, every option, every
refusal; vectors are those of the offline embedder."""

import base64
import dataclasses
import json

import httpx
import numpy as np
import openai
import pytest

from umer1 import Embedder
from umer1.serving import ServerSettings

LIMITS = ServerSettings(
    model_name="tiny", max_items=8, max_text_characters=500, max_media_per_item=3, max_tokens=300
)


@pytest.fixture(scope="module")
def server(running_server):
    with running_server(LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def post(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        headers = {"Content-Type": "application/json"}
        # httpx's own JSON cannot hold a lone surrogate
        yield lambda **body: client.post(
            "/v1/embeddings", content=json.dumps(body), headers=headers
        )


def vectors(response):
    return np.array([each.embedding for each in response.data], np.float32)


def data_uri(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def user(*content):
    return {"role": "user", "content": list(content)}


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"])
def test_the_official_client_gets_the_offline_vectors(client, offline, encoding):
    texts = ["seven", "3 + 4", "a red bicycle"]
    response = client.embeddings.create(model="tiny", input=texts, encoding_format=encoding)
    got = [each.embedding for each in response.data]
    if encoding == "base64":  # asked for in so many words, the client leaves it as it is
        got = [np.frombuffer(base64.b64decode(each), "<f4") for each in got]
    wanted = offline.encode(texts, "gen", progress=False)
    assert np.array_equal(np.array(got, np.float32), wanted.gen)
    assert [each.index for each in response.data] == [0, 1, 2]
    assert [each.finish for each in response.data] == wanted.finish
    read = sum(len(offline.processor.encode(text, mode="gen")) for text in texts)
    assert response.usage.prompt_tokens == read
    assert response.usage.total_tokens == read + sum(wanted.tokens)
    assert response.model == "tiny"


def test_one_text_and_its_tokens_in_every_form(client, offline):
    wanted = offline.encode("seven of nine", "gen", progress=False).gen
    ids = offline.processor.text.encode("seven of nine")
    for given in ("seven of nine", ["seven of nine"], ids, [ids]):
        response = client.embeddings.create(model="tiny", input=given)
        assert np.array_equal(vectors(response), wanted)
    response = client.embeddings.create(model="tiny", input=[ids, "seven of nine"])
    assert np.array_equal(vectors(response), np.concatenate([wanted, wanted]))


def test_control_tokens_from_outside_are_letters(client, offline):
    text = "<|im_end|> and <|image_pad|>"
    ids = offline.processor.tokenizer.encode(text)
    assert offline.processor.eos_id in ids
    response = client.embeddings.create(model="tiny", input=ids)
    assert np.array_equal(vectors(response), offline.encode(text, "gen", progress=False).gen)


def test_modes_samples_and_reasoning(post, offline):
    both = post(input=["3 + 4", "seven"], mode="both", return_reasoning=True).json()["data"]
    wanted = offline.encode(["3 + 4", "seven"], "both", progress=False)
    assert np.array_equal(np.float32([each["embedding"] for each in both]), wanted.gen)
    assert np.array_equal(np.float32([each["disc"] for each in both]), wanted.disc)
    assert [each["reasoning"] for each in both] == wanted.reasoning
    assert [each["summary"] for each in both] == wanted.summary

    disc = post(input="seven", mode="disc", readout="after").json()
    assert list(disc["data"][0]) == ["object", "index", "embedding"]
    wanted = offline.encode("seven", "disc", readout="after", progress=False)
    assert np.array_equal(np.float32(disc["data"][0]["embedding"]), wanted.disc[0])
    assert disc["usage"]["completion_tokens"] == 0

    options = {"n": 2, "temperature": 1.0, "top_p": 0.9, "top_k": 30, "seed": 11}
    several = post(input=["3 + 4", "seven"], max_think_tokens=3, **options).json()["data"]
    wanted = offline.encode(
        ["3 + 4", "seven"], "gen", max_think_tokens=3, progress=False, **options
    )
    got = np.float32([each["embedding"] for each in several]).reshape(2, 2, -1)
    assert np.array_equal(got, wanted.gen)
    assert [(each["index"], each["item"], each["sample"]) for each in several] == [
        (0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1),
    ]  # fmt: skip


def test_the_servers_mode_is_for_requests_that_name_none(running_server, offline):
    with running_server(ServerSettings(model_name="m", mode="disc")) as server:
        got = httpx.post(f"{server.url}/v1/embeddings", json={"input": "seven"}, timeout=120)
    wanted = offline.encode("seven", "disc", progress=False).disc
    assert np.array_equal(np.float32([got.json()["data"][0]["embedding"]]), wanted)


def test_chat_messages_with_pictures_and_clips(client, offline, picture):
    frames = [picture(number) for number in (1, 2, 3)]
    cases = [
        (
            [user({"type": "image_url", "image_url": {"url": data_uri(picture(7))}},
                  {"type": "text", "text": "which digit?"})],
            {"image": picture(7), "text": "which digit?"},
        ),
        (
            [user({"type": "video", "video": [data_uri(frame) for frame in frames]},
                  {"type": "text", "text": "what moves?"})],
            {"video": frames, "text": "what moves?"},
        ),
        ([{"role": "user", "content": "seven"}], "seven"),
    ]  # fmt: skip
    wanted = offline.encode([item for _, item in cases], "gen", progress=False).gen
    for place, (messages, _) in enumerate(cases):
        response = client.post(
            "/embeddings",
            body={"model": "tiny", "messages": messages},
            cast_to=openai.types.CreateEmbeddingResponse,
        )
        assert np.array_equal(vectors(response)[0], wanted[place])
    together = client.post(
        "/embeddings",
        body={"messages": [messages for messages, _ in cases]},
        cast_to=openai.types.CreateEmbeddingResponse,
    )
    assert np.array_equal(vectors(together), wanted)


def test_dimensions_that_the_checkpoint_was_trained_for(running_server, offline):
    embedder = Embedder.load("tiny", device="cpu")
    embedder.model.config = dataclasses.replace(
        embedder.model.config, matryoshka_dimensions=(32, 128)
    )
    with running_server(ServerSettings(model_name="m"), embedder) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        got = vectors(client.embeddings.create(model="m", input="seven", dimensions=32))
        with pytest.raises(openai.BadRequestError, match="trained for 32, 128"):
            client.embeddings.create(model="m", input="seven", dimensions=64)
    whole = offline.encode("seven", "gen", progress=False).gen[:, :32]
    np.testing.assert_allclose(got, whole / np.linalg.norm(whole), rtol=1e-6)


# what is asked; status, code, param, and a part of the message
REFUSED = {
    "nothing": ({}, 400, "bad_request", None, "wants one of 'input' and 'messages'"),
    "both": ({"input": "a", "messages": [user()]}, 400, "bad_request", None, "wants one of"),
    "number": ({"input": 5}, 400, "bad_request", "input", "got int"),
    "empty text": ({"input": "  "}, 400, "bad_input", "input", "input[0]: is empty"),
    "empty list": ({"input": []}, 400, "bad_request", "input", "an empty list"),
    "mixed": ({"input": ["a", 3]}, 400, "bad_request", "input", "int in place 1"),
    "truth": ({"input": [True]}, 400, "bad_request", "input", "bool in place 0"),
    "surrogate": ({"input": "\ud800"}, 400, "bad_input", "input", "not valid Unicode"),
    "token": ({"input": [10**9]}, 400, "bad_token", "input", "this model has 0 to 637"),
    "negative token": ({"input": [-1]}, 400, "bad_token", "input", "token id -1"),
    "long text": ({"input": "a" * 501}, 400, "text_too_long", "input", "at most 500"),
    "many": ({"input": ["a"] * 9}, 400, "too_many_items", "input", "at most 8"),
    "model": ({"input": "a", "model": "gpt-5"}, 404, "model_not_found", "model", "'tiny' is"),
    "unknown field": ({"input": "a", "truncate": 4}, 400, "bad_request", "truncate", "truncate"),
    "mode": ({"input": "a", "mode": "fused"}, 400, "bad_request", "mode", "'disc', 'gen' or"),
    "text for a number": ({"input": "a", "n": "2"}, 400, "bad_request", "n", "valid integer"),
    "samples": ({"input": "a", "n": 2}, 400, "bad_request", None, "temperature above 0"),
    "disc samples": (
        {"input": "a", "n": 2, "temperature": 1, "mode": "disc"},
        400, "bad_request", None, "generative mode",
    ),
    "cold": ({"input": "a", "temperature": -1}, 400, "bad_request", "temperature", "greater"),
    "tokens": ({"input": "a", "max_tokens": 301}, 400, "max_tokens_too_large", "max_tokens", "300"),
    "dimensions": (
        {"input": "a", "dimensions": 64}, 400, "dimensions_not_trained", "dimensions", "none",
    ),
    "role": (
        {"messages": [{"role": "assistant", "content": "a"}]},
        400, "bad_input", "messages", "wants one user turn",
    ),
    "second conversation": (
        {"messages": [[user({"type": "text", "text": "a"})], [user()]]},
        400, "bad_input", "messages", "messages[1]",
    ),
    "media": (
        {"messages": [user(*[{"type": "image_url", "image_url": "data:,"}] * 4)]},
        400, "too_many_media", "messages", "4 pictures and clips",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field_and_what_it_wants(post, name):
    body, status, code, param, fragment = REFUSED[name]
    response = post(**body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert fragment in error["message"] and len(error["message"]) < 400
    assert set(error) == {"message", "type", "param", "code"}


def test_after_all_that_the_server_answers_and_holds_nothing(server, post):
    assert post(input="seven").status_code == 200
    state = server.runner.describe()
    assert (state["rows"], state["pages_held"]) == (0, 0)
