"""schemathesis makes up requests from the server's own OpenAPI schema, within it and against it:
no answer is a 5xx, and every answer has a status and a shape that the schema knows."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).with_name("schemathesis.toml")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis"
)


def fuzz(server, directory, *options):
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run"),
        *(f"{server.url}/openapi.json", "--checks", ",".join(CHECKS), "--seed", "0"),
        *("--header", "Authorization: Bearer right", "--warnings", "off", "--no-color", *options),
    ]
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    # every route was asked
    assert f"Tested: {len(server.app.openapi()['paths'])}" in run.stdout, run.stdout[-2000:]
    server.check_well()


def test_made_up_requests_get_no_5xx(server, tmp_path):
    fuzz(server, tmp_path, "--phases", "fuzzing", "--max-examples", "5")


@pytest.mark.slow
def test_many_made_up_requests_get_no_5xx(server, tmp_path):
    fuzz(server, tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "300")
