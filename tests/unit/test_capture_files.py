"""Files of captures: how agents hand them over, who may download them, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novanet_apps.host_agent import upload as agent
from novanet_apps.host_agent.upload import UploadError
from tools.cli import errors

from ..switch.pki import Authority
from .rest_server import ROOT, RestServer, problem
from .test_cli import Cli, cli, unique

__all__ = ["cli"]


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


class World:
    """A VM of project acme, and where captures are handed over."""

    def __init__(self, rest: RestServer, directory: Path) -> None:
        self.rest, self._directory = rest, directory
        self.remote: str = rest.evaluate("captures()")
        self.files = rest.state_dir / "captures"
        self.network = rest.make("/v1/networks", "acme", name=unique("net"))
        self.vm = rest.make("/v1/ports", "acme", network_id=self.network["id"], name=unique("vm"))

    def capture(self, who: str = "acme", **fields: Any) -> str:
        made = self.rest.make("/v1/captures", who, **{"port_id": self.vm["id"], **fields})
        assert made["state"] == "PENDING"
        return str(made["id"])

    def record(self, id: str, **fields: Any) -> None:
        self.rest.evaluate(f"core.store.record('capture', {id!r}, **{fields!r})")

    def upload(self, id: str, data: bytes, size: int | None = None, tls: tuple[str, str, str] | None = None) -> None:
        path = self._directory / "sent"
        path.write_bytes(data)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            agent.upload(self.remote, tls, id, descriptor, len(data) if size is None else size)
        finally:
            os.close(descriptor)

    def done(self, data: bytes = b"x" * 100, **fields: Any) -> str:
        """A capture with a file."""
        id = self.capture(**fields)
        self.record(id, state="SAVING")
        self.upload(id, data)
        self.record(id, state="DONE")
        return id

    def download(self, id: str, who: str = "acme") -> Any:
        return self.rest("GET", f"/v1/captures/{id}/file", who=who)


@pytest.fixture(scope="module")
def shared(rest: RestServer, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(rest, tmp_path_factory.mktemp("sent"))


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    yield shared
    for each in shared.rest("GET", "/v1/captures?limit=1000").json()["items"]:
        assert shared.rest("DELETE", f"/v1/captures/{each['id']}").status_code == 204
    shared.rest.evaluate("sleep(0.1)")
    assert list(shared.files.iterdir()) == []


def test_handed_over_and_downloaded(world: World) -> None:
    data = os.urandom(300_001)
    id = world.done(data)
    found = world.download(id)
    assert found.status_code == 200 and found.content == data
    assert found.headers["Content-Type"] == "application/x-pcapng" and found.headers["Content-Length"] == "300001"
    assert found.headers["Content-Disposition"] == f'attachment; filename="{id}.pcapng"'
    assert (world.files / f"{id}.pcapng").stat().st_mode & 0o777 == 0o600
    assert world.rest("HEAD", f"/v1/captures/{id}/file").headers["Content-Length"] == "300001"
    assert world.rest("DELETE", f"/v1/captures/{id}", who="acme").status_code == 204
    assert "no capture" in problem(world.download(id), 404)


def test_who_may_read_it(world: World) -> None:
    id = world.done()
    assert [world.download(id, who).status_code for who in ("admin", "acme")] == [200, 200]
    assert "no capture" in problem(world.download(id, "umbra"), 404)
    for who in ("reader", "acme-reader"):
        assert "reader" in problem(world.download(id, who), 403)
    problem(world.rest("GET", f"/v1/captures/{id}/file", who="none"), 401)


def test_there_is_none_yet(world: World) -> None:
    id = world.capture()
    for state, word in (("PENDING", "PENDING"), ("RUNNING", "RUNNING"), ("ERROR", "the disk is full")):
        world.record(id, state=state, state_detail="the disk is full" if state == "ERROR" else "")
        assert word in problem(world.download(id), 409)
    world.record(id, state="DONE")
    assert "not with this controller" in problem(world.download(id), 404)


def refused(world: World, id: str, data: bytes, **more: Any) -> str:
    with pytest.raises(UploadError) as found:
        world.upload(id, data, **more)
    assert found.value.final
    return str(found.value)


def test_what_is_not_wanted(world: World) -> None:
    assert "no such capture" in refused(world, world.vm["id"], b"x")
    small = world.capture(max_bytes=4096)
    assert "not within the capture's 4096" in refused(world, small, b"x" * 4097)
    assert "not within" in refused(world, small, b"x", size=0)
    with pytest.raises(UploadError) as short:
        world.upload(small, b"x" * 10, size=11)
    assert "shorter" in str(short.value)
    done = world.done()
    assert "has its file" in refused(world, done, b"again")
    assert world.download(done).content == b"x" * 100


def test_the_controllers_disk(world: World) -> None:
    """All files together have no more than they may."""
    world.done(bytes(700_000))
    id = world.capture()
    assert "capture_disk" in refused(world, id, bytes(400_000))
    world.upload(id, bytes(300_000))


def test_a_disk_that_is_full_is_told(world: World) -> None:
    id = world.capture()
    limit = "(lambda r, soft: r.setrlimit(r.RLIMIT_FSIZE, (soft, -1)))(modules['resource'], {})"
    world.rest.evaluate(limit.format(500_000))  # a file that may grow no more is the same to who writes it
    try:
        assert "the controller's disk: File too large" in refused(world, id, bytes(600_000))
    finally:
        world.rest.evaluate(limit.format(-1))
    world.upload(id, bytes(600_000))


@pytest.mark.parametrize(
    "request_", [b"", b"hello\n", b"{}\n", b'{"capture": "../../x", "bytes": 1}\n', b"x" * 100_000]
)
def test_who_asks_for_nothing_known(world: World, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(world.remote.removeprefix("unix:"))
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert not answer or "refused" in json.loads(answer)
    world.upload(world.capture(), b"still serves")


def test_what_nobody_has_is_removed(world: World) -> None:
    """Files without a capture at the start, and captures that are older than they may be."""
    id, kept = world.done(), world.done()
    (world.files / "00000000-0000-4000-8000-00000000dead.pcapng").write_bytes(b"x")
    (world.files / f"{kept}.part").write_bytes(b"x")
    world.record(id, ended_at=1)
    world.record(kept, ended_at=1 << 40)
    world.rest.evaluate("captures()")
    world.rest.evaluate("sleep(0.2)")
    assert {path.name for path in world.files.iterdir()} == {f"{kept}.pcapng"}
    assert world.rest("GET", f"/v1/captures/{id}").status_code == 404
    assert world.download(kept).status_code == 200


def test_by_tls_with_both_certificates(world: World, rest: RestServer, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path), Authority(tmp_path, "others")
    controller, hypervisor, stranger = ours.issue("controller"), ours.issue("hv1"), others.issue("stranger")
    unix, id = world.remote, world.capture()
    world.remote = rest.evaluate(f"captures({controller.certificate!r}, {controller.key!r}, {ours.certificate!r})")
    try:
        for who, ca in ((stranger, ours), (hypervisor, others)):
            with pytest.raises(UploadError, match="ssl:127") as failed:
                world.upload(id, b"x", tls=(who.certificate, who.key, ca.certificate))
            assert not failed.value.final
        with pytest.raises(UploadError, match="needs tls_certificate"):
            world.upload(id, b"x")
        with pytest.raises(UploadError):
            agent.upload(world.remote.replace("ssl:", "tcp:"), None, id, 0, 1)
        world.upload(id, b"the file", tls=(hypervisor.certificate, hypervisor.key, ours.certificate))
    finally:
        world.remote = unix
    world.record(id, state="DONE")
    assert world.download(id).content == b"the file"


# --- the command --------------------------------------------------------------------------------------------------


def test_download(world: World, cli: Cli, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    world.done(data, name="mine")
    target = tmp_path / "x.pcapng"
    assert cli("capture", "download", "mine", "-w", str(target)) == (0, "", "")
    assert target.read_bytes() == data and target.stat().st_mode & 0o777 == 0o600
    waiting = world.capture()
    code, _, err = cli("capture", "download", waiting, "-w", str(target))
    assert code == errors.code_for(409) and "PENDING" in err and target.read_bytes() == data
    code, _, err = cli("capture", "download", "mine", "-w", str(tmp_path / "no" / "x"))
    assert code == errors.USAGE and "cannot write" in err


@contextlib.contextmanager
def agent_that(does: Callable[[dict[str, Any]], None], world: World) -> Iterator[None]:
    """An agent that is played: it does this with the first capture that there is."""

    def run() -> None:
        while not (items := world.rest("GET", "/v1/captures").json()["items"]):
            time.sleep(0.02)
        does(items[0])

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_run_and_wait(world: World, cli: Cli, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def capture(asked: dict[str, Any]) -> None:
        seen.update(asked)
        world.record(asked["id"], state="RUNNING", packets=3, file_bytes=300)
        time.sleep(0.7)
        world.record(asked["id"], state="SAVING", packets=5, state_detail="max_seconds have passed")
        world.upload(asked["id"], b"the file")
        world.record(asked["id"], state="DONE")

    target = tmp_path / "x.pcapng"
    command = ["capture", "run", world.vm["name"], "-w", str(target), "--protocol", "tcp", "--transport-port", "80"]
    with agent_that(capture, world):
        code, out, err = cli(*command, "--max-seconds", "5", "--direction", "egress")
    assert (code, out) == (0, "") and err == "5 packets, 0 dropped: max_seconds have passed\n"
    assert target.read_bytes() == b"the file"
    told = {name: seen[name] for name in ("port_id", "protocol", "transport_port", "max_seconds", "direction")}
    assert told == {
        "port_id": world.vm["id"], "protocol": "tcp", "transport_port": 80, "max_seconds": 5, "direction": "egress"
    }  # fmt: skip
    assert world.rest("GET", "/v1/captures").json()["items"] == []


def test_run_of_what_fails(world: World, cli: Cli, tmp_path: Path) -> None:
    def fail(asked: dict[str, Any]) -> None:
        world.record(asked["id"], state="ERROR", state_detail="the hypervisor's disk is full")

    with agent_that(fail, world):
        code, _, err = cli("capture", "run", world.vm["name"], "-w", str(tmp_path / "x"))
    assert code == errors.NOT_REALISED and "disk is full" in err and not (tmp_path / "x").exists()
    assert world.rest("GET", "/v1/captures").json()["items"] == []


def test_a_run_that_is_interrupted_keeps_what_it_has(world: World, rest: RestServer, tmp_path: Path) -> None:
    def capture(asked: dict[str, Any]) -> None:
        id = asked["id"]
        world.record(id, state="RUNNING")
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        while rest("GET", f"/v1/captures/{id}").json()["enabled"]:
            time.sleep(0.02)
        world.upload(id, b"so far")
        world.record(id, state="DONE", state_detail="it was stopped")

    command = [sys.executable, "-m", "tools.cli.main", "capture", "run", world.vm["id"], "-w", "-"]
    environment = {**os.environ, "NOVANET_ENDPOINT": rest.url, "NOVANET_TOKEN": rest.tokens["acme"]}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with agent_that(capture, world):
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"so far"), err
    assert b"it was stopped" in err
