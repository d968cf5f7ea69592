"""The controller as its OpenAPI document says, asked by schemathesis: a second opinion beside our own fuzzing."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.fakes.stack import Stack

CHECKS = (
    "not_a_server_error",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "use_after_free",
)


def test_every_route_answers_as_it_is_documented(tmp_path: Path):
    stack = Stack(tmp_path).up()
    try:
        stack.ready()
        token = (stack.settings.home / "secrets" / "controller.token").read_text().strip()
        document = f"{stack.settings.controller_url}/openapi.json"
        paths = httpx.get(document, timeout=60).json()["paths"]
        asked = subprocess.run(
            [
                *(Path(sys.executable).parent / "schemathesis", "run", document),
                *("--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS)),
                *("--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--seed", "1"),
                *("--request-timeout", "60", "--continue-on-failure", "--warnings", "off"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert f"Tested: {sum(map(len, paths.values()))}\n" in asked.stdout, asked.stdout
        assert "Traceback" not in (stack.log.read_text() if stack.log.exists() else "")
    finally:
        stack.down()
