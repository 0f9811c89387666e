"""The app with all its processes: a datagram becomes an answer, and what ends is started again or ends with the controller."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RYU_MANAGER = "import sys; from novanet_apps.compat import ryu_manager; sys.exit(ryu_manager())"


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Controller:
    """``ryu-manager novanet_apps.telemetry novanet_apps.rest`` with two collectors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rest, self.flows = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
        settings = {
            "state_dir": directory / "state", "rest_listen": f"127.0.0.1:{self.rest}", "openflow_listen": f"punix:{directory}/of",
            "ovsdb_listen": f"punix:{directory}/db", "telemetry_listen": f"127.0.0.1:{self.flows}", "telemetry_workers": 2,
        }  # fmt: skip
        lines = [f"{name} = {value}" for name, value in settings.items()]
        (directory / "conf").write_text("\n".join(["[DEFAULT]", *lines, ""]))
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RYU_MANAGER, "--config-file", str(directory / "conf"), "novanet_apps.telemetry",
                 "novanet_apps.rest"], cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip

    def get(self, path: str) -> Any:
        """An answer, None while there is none."""
        try:
            token = (self.directory / "state" / "admin.token").read_text().strip()
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.rest}{path}", headers={"Authorization": f"Bearer {token}"}
            )
            return json.load(urllib.request.urlopen(request, timeout=10))
        except OSError:
            return None

    def children(self) -> dict[str, int]:
        """Process ids of recorder and collectors."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                words = (path / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if parent == self.process.pid and "-m" in words:
                number = words[words.index("--worker") + 1] if "--worker" in words else ""
                found[words[words.index("-m") + 1].rpartition(".")[2] + number] = int(path.name)
        return found

    def send(self, size: int) -> None:
        """A flow of so many bytes from 192.0.2.1, as NetFlow v5."""
        now = int(time.time())
        head = struct.pack("!HHIIIIBBH", 5, 1, 60_000, now, 0, 0, 0, 0, 0)
        addresses = bytes([192, 0, 2, 1]) + bytes([192, 0, 2, 2]) + bytes(4)
        record = struct.pack(
            "!12sHHIIIIHHBBBBHHBBH", addresses, 1, 2, 4, size, 59_000, 59_500, 40000, 443, 0, 24, 6, 0, 0, 0, 0, 0, 0
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(head + record, ("127.0.0.1", self.flows))


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    found = Controller(tmp_path)
    yield found
    if found.process.poll() is None:
        found.process.terminate()
        found.process.wait(20)


def _healthy(controller: Controller) -> bool:
    told = controller.get("/v1/telemetry/status")
    return bool(told and told["healthy"] and all(each["running"] for each in told["processes"]))


def _bytes(controller: Controller) -> int:
    told = controller.get("/v1/telemetry/top?by=address&address=192.0.2.1")
    return sum(row["bytes_out"] for row in told["items"]) if told else 0


def test_a_datagram_becomes_an_answer_and_what_ends_is_started_again(controller: Controller) -> None:
    until(lambda: _healthy(controller), "telemetry runs")
    before = controller.children()
    assert before.keys() == {"recorder", "collector0", "collector1"}
    controller.send(5000)
    until(lambda: _bytes(controller) == 5000, "the flow is told")
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: set(controller.children().values()).isdisjoint(before.values()) and _healthy(controller),
        "all run again",
    )
    assert _bytes(controller) == 5000
    controller.send(300)
    until(lambda: _bytes(controller) == 5300, "flows are told again")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_by_a_controller(controller: Controller, how: signal.Signals) -> None:
    until(lambda: _healthy(controller), "telemetry runs")
    children = controller.children()
    controller.process.send_signal(how)
    controller.process.wait(20)
    until(lambda: not any(_alive(pid) for pid in children.values()), "they have ended")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
