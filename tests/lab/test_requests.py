"""The program by which ``lb_connections`` makes its connections counts what was answered, and what was not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.bench.compiling import compiled

PORT, NOBODYS, FIRST = 11080, 11081, 11100
"""Below the ports that Linux gives to outgoing connections, of which other tests have many."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The program, of which one serves."""
    path = compiled("requests.c", Path(tmp_path_factory.mktemp("requests")))
    server = subprocess.Popen([path, "serve", str(PORT)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        yield path
    finally:
        server.kill()
        server.communicate()


def ask(program: str, *words: Any) -> dict[str, Any]:
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=True, timeout=30)
    return dict(json.loads(done.stdout))


def test_a_connection_for_each_request(program: str) -> None:
    told = ask(program, "fresh", PORT, FIRST, 200, 16, "127.0.0.1", "127.0.0.2")
    assert told["failed"] == 0 and len(told["microseconds"]) == 200
    assert all(0 < each < told["seconds"] * 1e6 + 1 for each in told["microseconds"])


def test_requests_on_one_connection(program: str) -> None:
    told = ask(program, "kept", PORT, FIRST + 300, 50, "127.0.0.1")
    assert told["failed"] == 0 and len(told["microseconds"]) == 50


def test_what_nobody_answers_has_failed(program: str) -> None:
    told = ask(program, "fresh", NOBODYS, FIRST + 400, 20, 4, "127.0.0.1")
    assert told["failed"] == 20 and told["microseconds"] == []
