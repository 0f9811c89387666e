"""The REST interface of a real controller, with its real store, under whatever its OpenAPI document allows and forbids."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from novanet_apps.rest import openapi

from .controller import COMMAND, DEADLINE, ROOT

EXAMPLES = 12
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip


STREAMS = ("/v1/events", "/v1/telemetry/stream")
"""They have no end; see tests/unit/test_rest_events.py and test_rest_telemetry.py."""


def free_port() -> int:
    """A UDP port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Controller:
    """``ryu-manager novanet_apps.rest novanet_apps.telemetry``: REST, the intent store, telemetry and nothing of switches."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self._start()

    def _start(self) -> None:
        options = {
            "--state-dir": self.directory / "state",
            "--rest-listen": "127.0.0.1:0",
            "--openflow-listen": f"punix:{self.directory}/openflow.sock",
            "--ovsdb-listen": f"punix:{self.directory}/ovsdb.sock",
            "--telemetry-listen": f"127.0.0.1:{free_port()}",
        }
        words = [str(word) for option in options.items() for word in option]
        command = [*COMMAND, *words, "novanet_apps.rest", "novanet_apps.telemetry"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        found = None
        end = time.monotonic() + DEADLINE
        while not found or not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
            found = re.search(r"dashboard at (http://\S+)/", self.log.read_text())
            self.url = found[1] if found else ""

    def _answers(self) -> bool:
        if requests.get(f"{self.url}/healthz", timeout=DEADLINE).status_code != 200:
            return False
        status = self("GET", "/v1/telemetry/status")
        return status.status_code == 200 and bool(status.json()["healthy"])

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(with_signal)
        self.process.wait(DEADLINE)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.stop(signal.SIGKILL)
        self._start()

    @property
    def headers(self) -> dict[str, str]:
        token = (self.directory / "state" / "admin.token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, body: Any = None) -> requests.Response:
        return requests.request(method, self.url + path, json=body, headers=self.headers, timeout=DEADLINE)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    running = Controller(tmp_path_factory.mktemp("controller"))
    try:
        yield running
        assert running.process.poll() is None, "it is still alive"
    finally:
        running.stop()


@pytest.fixture(scope="module")
def api(controller: Controller) -> Any:
    """The controller's own description; ids of objects that exist make requests go deeper."""

    def make(collection: str, **fields: Any) -> str:
        answer = controller("POST", f"/v1/{collection}", fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    network, outside = make("networks"), make("networks", external=True, physical_network="wire")
    subnet = make("subnets", network_id=network, cidr="10.0.0.0/24")
    make("subnets", network_id=outside, cidr="192.0.2.0/24")
    router = make("routers")
    for each in (network, outside):
        make("ports", network_id=each, router_id=router)
    port = make("ports", network_id=network)
    floating = make("floating-ips", floating_network_id=outside)
    known = {
        "id": [port, router, floating],
        "network_id": [network, outside],
        "subnet_id": [subnet],
        "floating_network_id": [outside],
        "router_id": [router],
        "port_id": [port],
        "internal_port_id": [port],
        "floating_ip_id": [floating],
        "hypervisor_id": [make("hypervisors", name="known")],
    }
    document = controller("GET", "/v1/openapi.json").json()
    for path in STREAMS:
        del document["paths"][path]
    for schema in document["components"]["schemas"].values():
        for name, ids in known.items():
            if name in schema.get("properties", {}) and "status" not in schema["properties"]:
                schema["properties"][name]["examples"] = ids
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for path, item in openapi.document()["paths"].items()
        for method in item
        if method != "parameters" and path not in STREAMS
    ],
)
def test_the_document_holds(controller: Controller, api: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = api[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        mode = GenerationMode.POSITIVE  # there is nothing to be wrong about

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(base_url=controller.url, headers=controller.headers, timeout=DEADLINE)
        case.validate_response(response, checks=CHECKS)

    send()


def test_nothing_accepted_is_lost(controller: Controller) -> None:
    network = controller("POST", "/v1/networks", {"name": "kept"}).json()
    made = controller("POST", "/v1/ports", [{"network_id": network["id"], "name": f"p{n}"} for n in range(50)])
    assert made.status_code == 201
    assert (
        controller("POST", "/v1/ports", [{"network_id": network["id"]}, {"network_id": "x"}]).json()["field"]
        == "[1].network_id"
    )
    before = controller("GET", f"/v1/ports?network_id={network['id']}").json()
    assert len(before["items"]) == 50
    controller.restart()
    assert controller("GET", f"/v1/networks/{network['id']}").json() == network
    assert controller("GET", f"/v1/ports?network_id={network['id']}").json() == before
