"""A NovaNet controller for a lab, as a process of its own, and a small client of its REST interface."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tools.lab import processes
from tools.lab.errors import LabError
from tools.lab.hypervisor import CONTROLLER_SOCKET, Hypervisor
from tools.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
RYU_MANAGER = "import sys; from novanet_apps.compat import ryu_manager; sys.exit(ryu_manager())"
EXPORTS = {"sflow": 6343, "netflow": 2055, "ipfix": 4739}
"""UDP ports of collectors."""
PORTS = range(20000, 32000)
"""Below the ports that Linux gives to outgoing connections, so that none takes it while the controller is away."""


class ApiError(LabError):
    """An answer of 400 or more. ``problem`` is its JSON (RFC 9457), or ``{"detail": text}``."""

    def __init__(self, request: str, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{request}: {status} {problem.get('detail', problem)}")
        self.status, self.problem = status, problem


class Api:
    """REST calls with JSON in and out; ``path`` is everything after the port. Raises ApiError, OSError."""

    def __init__(self, host: str, port: int, token: str = "", timeout: float = 60.0) -> None:
        self.host, self.port, self.token, self.timeout = host, port, token, timeout

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("POST", path, body, headers)

    def put(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("PUT", path, body, headers)

    def patch(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("PATCH", path, body, headers)

    def delete(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("DELETE", path, None, headers)

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """The answer's JSON, text where it is none, None where it is empty."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, quote(path, safe="/?&=%:,"), payload, {**sent, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        parsed = _parse(content, answer.getheader("Content-Type", ""))
        if answer.status >= 400:
            problem = parsed if isinstance(parsed, dict) else {"detail": parsed}
            raise ApiError(f"{method} {path}", answer.status, problem)
        return parsed


class Controller:
    """``ryu-manager`` with these apps, for the hypervisors of a lab: REST on a loopback port, OpenFlow on a Unix socket.

    ``options`` are further lines of its configuration file (``{"audit_interval": 5}``; lists become commas), ``port`` is
    that of REST (any free one when None). With ``telemetry`` its collectors stand in the underlay, see ``exports_go_to``;
    there are none without. It runs between ``start()`` and ``terminate()`` or ``kill()``, any number of
    times, or within ``with``, where it is ready. Its state is kept in the lab's directory.
    """

    def __init__(
        self,
        lab: Lab,
        apps: Sequence[str] = ("novanet_apps.all",),
        options: Mapping[str, Any] | None = None,
        port: int | None = None,
        telemetry: bool = False,
    ) -> None:
        self.lab, self.apps = lab, tuple(apps)
        self.state_dir = lab.directory / "controller"
        self.openflow_socket = lab.directory / "openflow.sock"
        self.config_file = lab.directory / "novanet.conf"
        self.log = lab.directory / "controller.log"
        """What it printed, all its runs one after the other."""
        self.port = _free_port([port] if port else random.sample(PORTS, len(PORTS)))
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[Any] | None = None
        self.exports_go_to = ""
        """Address, without a port, of its collectors: sFlow, NetFlow and IPFIX at their usual ports; empty without."""
        self._write_config({**(self._collectors() if telemetry else {}), **(options or {})})
        lab.adopt(self)

    @property
    def store(self) -> str:
        """Where its embedded store listens, as OVSDB clients write it."""
        return f"unix:{self.state_dir / 'run' / 'intent.sock'}"

    @property
    def captures(self) -> str:
        """Where it takes captures from agents."""
        return f"unix:{self.state_dir / 'run' / 'captures.sock'}"

    @property
    def token(self) -> str:
        """The administrator's token, from the controller's first start on."""
        return (self.state_dir / "admin.token").read_text().strip()

    @property
    def api(self) -> Api:
        """A client with the administrator's token."""
        return Api("127.0.0.1", self.port, self.token)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Controller:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *exc: object) -> None:
        self.terminate()

    def start(self) -> None:
        """Start it; returns at once (see ``wait_ready``)."""
        if self.running:
            raise LabError("the controller runs already")
        self.openflow_socket.unlink(missing_ok=True)
        env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        if self.lab.programs.bindir:
            env["NOVANET_OVS_BINDIR"] = str(self.lab.programs.bindir)
        command = [sys.executable, "-c", RYU_MANAGER, "--config-file", str(self.config_file), *self.apps]
        with self.log.open("ab") as log:
            self.process = processes.spawn(command, lab=self.lab.run_id, env=env, stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """SIGKILL."""
        processes.end(self.process, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL if it has not ended after 15 s."""
        processes.end(self.process, timeout=15)

    def reap(self) -> None:
        """Wait for the process, which has been killed otherwise."""
        if self.process:
            self.process.wait()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until REST answers that the store is loaded. Raises LabError with the end of the log."""
        self._wait(
            lambda: Api("127.0.0.1", self.port).get("/healthz")["ready"], "the controller becomes ready", timeout
        )

    def wait_connected(self, hypervisor: Hypervisor, timeout: float = 30.0) -> None:
        """Wait until it has the hypervisor's OVSDB and OpenFlow connections. Raises LabError with the end of the log."""

        def connected() -> bool:
            shown = {entry["name"]: entry for entry in self.api.get("/v1/status")["hypervisors"]}
            entry = shown.get(hypervisor.name, {})
            return all(entry.get(part, {}).get("connected") for part in ("ovsdb", "openflow"))

        self._wait(connected, f"the controller has {hypervisor.name} connected", timeout)

    def wait_status(self, path: str, wanted: str = "ACTIVE", timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the object at ``path`` (``/v1/ports/…``) has a status, and return it."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.clear()
            seen.update(self.api.get(path))
            return bool(seen["status"] == wanted)

        try:
            self._wait(reached, f"{path} becomes {wanted}", timeout)
        except LabError as error:
            raise LabError(f"{error}\nit is {seen.get('status')}: {seen.get('status_reason')}") from None
        return seen

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _wait(self, condition: Any, what: str, timeout: float) -> None:
        def met() -> bool:
            if not self.running:
                code = self.process.returncode if self.process else "not started"
                raise LabError(f"the controller ended ({code})")
            try:
                return bool(condition())
            except (OSError, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                return False

        try:
            processes.until(met, what, timeout, interval=0.02)
        except LabError as error:
            raise LabError(f"{error}\n{self.log} ends with:\n{self.tail()}") from None

    def _collectors(self) -> dict[str, Any]:
        """A host in the underlay for the collectors, so that exports come from hypervisors' own addresses."""
        host = self.lab.host("collectors", self.lab.collectors_ip)
        self.exports_go_to = f"[{self.lab.collectors_ip}]" if self.lab.ipv6_underlay else self.lab.collectors_ip
        listen = [f"{self.exports_go_to}:{port}" for port in EXPORTS.values()]
        return {"telemetry_listen": listen, "telemetry_namespace": host.namespace}

    def _write_config(self, options: Mapping[str, Any]) -> None:
        settings: dict[str, Any] = {
            "state_dir": self.state_dir,
            "rest_listen": f"127.0.0.1:{self.port}",
            "openflow_listen": f"punix:{self.openflow_socket}",
            "ovsdb_listen": f"punix:{self.lab.directory / 'ovsdb-passive.sock'}",
            "controller_target": f"unix:{{rundir}}/{CONTROLLER_SOCKET}",
            "telemetry_listen": "",  # of the machine: other labs may run
        }
        settings.update(options)
        lines = [f"{name} = {_value(value)}" for name, value in settings.items()]
        self.config_file.write_text("\n".join(["[DEFAULT]", *lines]) + "\n")


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _parse(content: bytes, content_type: str) -> Any:
    if "json" in content_type and content:
        return json.loads(content)
    return content.decode(errors="replace") or None


def _free_port(ports: Sequence[int]) -> int:
    """The first of these loopback ports that nobody listens on. Raises LabError when there is none."""
    for port in ports:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LabError(
        f"port {min(ports)} of 127.0.0.1 is in use by another program" if len(ports) == 1 else "no port is free"
    )
