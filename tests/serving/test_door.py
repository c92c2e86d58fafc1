"""Before a body is read: keys, kind of content, paths that are not there; what is open without."""

import httpx
import openai
import pytest

from umer1.serving import ServerSettings


@pytest.fixture(scope="module")
def server(running_server):
    settings = ServerSettings(model_name="tiny", model_identity="tiny@1", api_keys=("first", "ß2"))
    with running_server(settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def test_each_key_opens_the_server(server, client):
    official = openai.OpenAI(base_url=f"{server.url}/v1", api_key="first", max_retries=0)
    assert len(official.embeddings.create(model="tiny", input="a").data) == 1
    second = {"Authorization": "bearer ß2".encode()}
    assert client.get("/v1/models", headers=second).status_code == 200


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer firs", "Bearer first2", "Basic first"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/metrics", "/v1/embeddings"])
def test_without_a_key_nothing_is_told(client, path, header):
    headers = {} if header is None else {"Authorization": header}
    response = client.request("POST" if path.endswith("s") else "GET", path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_the_official_client_knows_the_error(server):
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_health_is_open(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_models(server):
    official = openai.OpenAI(base_url=f"{server.url}/v1", api_key="first", max_retries=0)
    (model,) = official.models.list().data
    assert (model.id, model.identity, model.dimension) == ("tiny", "tiny@1", 128)
    assert official.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="'other/model' is not served here"):
        official.models.retrieve("other/model")


@pytest.mark.parametrize(
    ("method", "path", "content_type", "status", "code"),
    [
        ("POST", "/v1/embeddings", "text/plain", 415, "unsupported_content_type"),
        ("POST", "/v1/embeddings", None, 415, "unsupported_content_type"),
        ("GET", "/v1/embeddings", None, 405, "method_not_allowed"),
        ("GET", "/v1/../etc/passwd", None, 404, "not_found"),
        ("POST", "/nothing", "application/json", 404, "not_found"),
    ],
)
def test_errors_have_one_shape(client, method, path, content_type, status, code):
    headers = {"Authorization": "Bearer first"}
    if content_type:
        headers["Content-Type"] = content_type
    response = client.request(method, path, headers=headers, content=b"{}" if content_type else b"")
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_a_shutting_down_server_takes_nothing_new(running_server):
    with running_server() as server:
        server.runner.stop_accepting()
        refused = httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"})
        ready = httpx.get(f"{server.url}/health/ready")
        alive = httpx.get(f"{server.url}/health")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert (ready.status_code, alive.status_code) == (503, 200)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_local_server_without_keys_is_read_under_no_foreign_name(running_server, host):
    with running_server() as server:
        refused = httpx.get(f"{server.url}/v1/models", headers={"Host": host})
        port = httpx.URL(server.url).port
        taken = [
            httpx.get(f"{server.url}/v1/models", headers={"Host": f"{name}:{port}"}).status_code
            for name in ("localhost", "LOCALHOST", "umer1.localhost", "127.0.0.1", "[::1]")
        ]
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "host_not_allowed")
    assert taken == [200] * 5


def test_a_key_is_proof_enough_under_any_name(client):
    headers = {"Host": "models.example", "Authorization": "Bearer first"}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_settings_are_checked():
    for bad, fragment in (
        ({"max_items": 0}, "max_items: got 0"),
        ({"mode": "fused"}, "mode: got 'fused'"),
        ({"api_keys": ("",)}, "api_keys"),
        ({"request_seconds": float("inf")}, "request_seconds"),
    ):
        with pytest.raises(ValueError, match=fragment):
            ServerSettings(**bad)
    assert "secret" not in repr(ServerSettings(api_keys=("secret",)))
