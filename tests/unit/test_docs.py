"""The examples of the documentation work as they stand."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from .rest_server import ROOT, RestServer
from .test_cli import Cli, cli

__all__ = ["cli"]
REQUEST = re.compile(r"    (GET|POST|PUT|PATCH|DELETE) (/v1/\S+)(?: ({.*}))?(?: +-> (\$[a-z0-9-]+))?")


@pytest.fixture
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


def lines(page: str) -> list[str]:
    return (ROOT / "docs" / page).read_text().splitlines()


def test_requests(rest: RestServer) -> None:
    ids = {"$hv1": rest.make("/v1/hypervisors", name="hv1")["id"]}
    made = set()
    for line in lines("api.md"):
        found = REQUEST.fullmatch(line)
        if found is None:
            continue
        for name in sorted(ids, key=len, reverse=True):
            line = line.replace(f'{name}"', f'{ids[name]}"').replace(f"/{name}", f"/{ids[name]}")
        sent = REQUEST.fullmatch(line)
        assert sent is not None
        method, path, body, name = sent.groups()
        answer = rest(method, path, json.loads(body) if body else None)
        assert answer.status_code in (200, 201), (line, answer.text)
        if name:
            ids[name] = answer.json()["id"]
        if method == "POST":
            made.add(path.removeprefix("/v1/"))
    assert made >= {"networks", "subnets", "ports", "routers", "floating-ips", "port-forwardings", "neighbours"}


def test_commands(cli: Cli, rest: RestServer) -> None:
    rest.make("/v1/hypervisors", name="hv1")
    rest.evaluate("telemetry()")
    ran = 0
    for line in lines("cli.md"):
        if line.startswith("    novanet ") and " delete " not in line:
            done = cli(*shlex.split(line)[1:])
            assert done.code == 0, (line, done.err)
            ran += 1
    assert ran > 15
