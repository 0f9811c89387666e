"""Captures of this hypervisor's VMs: each a process that writes to a file without a name.

It reads from the VM's device. Where there are several, or Linux does not see all packets of it, mirrors bring copies of them.

What the store says of a capture is brought into line with what is true of it here; what the agent does not know though it ran here was
left by one before it. Whatever ends the agent, the kernel removes file, process and interfaces; the next one removes the mirrors.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import eventlet
from eventlet.event import Event
from eventlet.green import subprocess

from novanet_apps.host_agent.capture_process import EGRESS, INGRESS, Orders
from novanet_apps.host_agent.mirrors import Mirrors, Vif
from novanet_apps.host_agent.settings import receiver
from novanet_apps.host_agent.upload import UploadError, upload
from novanet_apps.ovsdb.link import OvsdbError
from pipelines.capture_filter import compiled
from topology.captures import ENDED
from topology.model import Capture
from topology.schema import record_operations

if TYPE_CHECKING:
    from novanet_apps.host_agent.intent import Intent

LOG = logging.getLogger(__name__)

AT_ONCE = 4
"""Captures that run at a time; Open vSwitch has 32 mirrors for a bridge, and each of them copies packets. Others wait."""
LOOK = 1.0
"""Seconds between two looks at what is plugged, and two words to the store."""
AGAIN = 5.0
"""Seconds until a file that could not be handed over is offered again."""
READY = 10.0
"""Seconds that a process has to start."""
_STOPS = 5.0
LOST = ("RUNNING", "SAVING")
"""States in which the file is with the agent."""


class Job:
    """One capture, from its start to its end. ``told`` is what the store is to say of it."""

    def __init__(self, owner: Captures, capture: Capture, ports: frozenset[str]) -> None:
        self._owner, self.capture, self._ports = owner, capture, ports
        self.told: dict[str, Any] = {"state": "PENDING", "host_id": owner.hypervisor_id}
        self.why = ""
        """Why it is to end before its time."""
        self._process: Any = None
        self._mirrored: set[str] | None = None
        """UUIDs of ports; None where it is not by mirrors."""
        self.done = False

    @property
    def running(self) -> bool:
        """Whether packets are captured, or are about to be."""
        return self.told["state"] in ("PENDING", "RUNNING")

    def stop(self, why: str) -> None:
        """End it, in its own time."""
        if not self.why:
            self.why = why
            self._close_input()

    def run(self) -> None:
        """All of it. Raises nothing."""
        try:
            with tempfile.TemporaryFile(dir=self._owner.directory, prefix="novanet-capture-") as file:
                size = self._capture(file.fileno())
                if size and not self._owner.is_gone(self.capture.id):
                    self._save(file.fileno(), size)
        except (OvsdbError, OSError, UploadError, CaptureError) as problem:
            self._fail(str(problem))
        except Exception as problem:
            LOG.exception("capture %s", self.capture.id)
            self._fail(repr(problem))
        finally:
            self.done = True
            self._owner.wake()

    # --- capturing ---------------------------------------------------------------------------------------------------

    def _capture(self, descriptor: int) -> int:
        """Capture to the file; returns its bytes. Raises OvsdbError, OSError, CaptureError."""
        capture, mirrors = self.capture, self._owner.mirrors
        vifs = mirrors.vifs(self._ports)
        if capture.port_id is not None and not vifs:
            raise CaptureError("the VM was unplugged")
        orders = _orders(capture, vifs, mirrors.offloads())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "novanet_apps.host_agent.capture_process", str(descriptor)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor],
        )  # fmt: skip
        try:
            if self.why:
                raise CaptureError(self.why)
            self._say(json.dumps(orders))
            with eventlet.Timeout(READY, CaptureError("its process does not start")):
                self._listen()
            if orders["interfaces"]:
                self._mirrored = {vif.port for vif in vifs.values()}
                mirrors.add(capture.id, self._owner.bridge, orders["interfaces"], self._mirrored)
            self._say("go")
            self._tell(state="RUNNING", started_at=int(time.time()))
            LOG.info("capture %s: has begun", capture.id)
            while not (said := self._listen()).get("ended"):
                self._progress(said)
            self._progress(said)
            self._tell(state="SAVING", state_detail=self.why or _REASONS[said["ended"]], ended_at=int(time.time()))
            return int(said["bytes"])
        finally:
            self._end()

    def follow(self, ports: frozenset[str]) -> None:
        """The VMs' ports are these now. Raises OvsdbError."""
        if self.told["state"] != "RUNNING" or self.why or self._mirrored is None:
            return
        mirrored = {vif.port for vif in self._owner.mirrors.vifs(ports).values()}
        if mirrored != self._mirrored:
            self._owner.mirrors.select(self.capture.id, mirrored)
            self._mirrored = mirrored

    def _end(self) -> None:
        """Take the mirrors away, and then the process with its interfaces."""
        try:
            if self._mirrored is not None:
                self._owner.mirrors.remove(self.capture.id)
        except OvsdbError as problem:
            LOG.warning("capture %s: mirrors are left behind for now: %s", self.capture.id, problem)
            self._owner.clean = False
        self._close_input()
        try:
            self._process.wait(_STOPS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _say(self, line: str) -> None:
        if self.why:
            return
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _close_input(self) -> None:
        if self._process is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except OSError:
                pass  # it has ended

    def _listen(self) -> dict[str, Any]:
        """What the process says next. Raises CaptureError when it says that it cannot go on, or nothing."""
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"error": self.why or "its process has ended by itself"}
        if "error" in said:
            raise CaptureError(said["error"])
        return said

    # --- what the store is to know -----------------------------------------------------------------------------------

    def _save(self, descriptor: int, size: int) -> None:
        """Hand the file over, however long the controller is away. Raises UploadError when it does not want it."""
        while not self._owner.is_gone(self.capture.id):
            try:
                self._owner.upload(self.capture.id, descriptor, size)
            except UploadError as problem:
                if problem.final:
                    raise
                LOG.warning("capture %s: the file cannot be handed over yet: %s", self.capture.id, problem)
                eventlet.sleep(AGAIN)
                continue
            self._tell(state="DONE")
            LOG.info("capture %s: %d bytes are handed over", self.capture.id, size)
            return

    def _progress(self, said: dict[str, Any]) -> None:
        self._tell(packets=said["packets"], file_bytes=said["bytes"], dropped_packets=said["dropped"])

    def _fail(self, why: str) -> None:
        LOG.warning("capture %s: %s", self.capture.id, why)
        self._tell(state="ERROR", state_detail=why[:1024], ended_at=self.told.get("ended_at") or int(time.time()))

    def _tell(self, **fields: Any) -> None:
        self.told |= fields
        if "state" in fields:
            self._owner.wake()


class CaptureError(Exception):
    """A capture cannot go on; the text says why."""


_REASONS = {
    "max_bytes": "max_bytes: the file is full",
    "max_seconds": "max_seconds have passed",
    "stopped": "it was stopped",
    "unplugged": "the VM was unplugged",
}


class Captures:
    """All of this hypervisor. ``conf`` are the agent's options, ``intent`` is what the store says."""

    def __init__(self, conf: Any, intent: Callable[[], Intent | None]) -> None:
        self._conf, self._intent = conf, intent
        self.directory = str(conf.agent_capture_dir)
        self.mirrors = Mirrors(conf.agent_ovsdb)
        self._jobs: dict[str, Job] = {}
        self._look: Event = Event()
        self.clean = False
        """Whether what agents before this one have left is gone."""
        self.trouble = ""
        self.ended = 0

    def start(self) -> None:
        """Begin."""
        eventlet.spawn(self._run)

    def stop(self) -> None:
        """Take all mirrors away; the processes end with the agent. Raises OvsdbError."""
        if any(job.running for job in self._jobs.values()):
            self.mirrors.remove()

    def wake(self) -> None:
        """Something may have changed."""
        if not self._look.ready():
            self._look.send()

    @property
    def running(self) -> int:
        """How many run now."""
        return sum(job.running for job in self._jobs.values())

    @property
    def hypervisor_id(self) -> str:
        """Who this hypervisor is."""
        intent = self._intent()
        return (intent.hypervisor_id if intent is not None else "") or ""

    @property
    def bridge(self) -> str:
        """The integration bridge."""
        intent = self._intent()
        return intent.bridge if intent is not None else ""

    def is_gone(self, capture_id: str) -> bool:
        """Whether the store has no such capture any more."""
        intent = self._intent()
        return intent is not None and intent.session.connected and capture_id not in intent.captures

    def upload(self, capture_id: str, descriptor: int, size: int) -> None:
        """Hand a file over. Raises UploadError."""
        conf = self._conf
        files = (conf.tls_certificate, conf.tls_private_key, conf.tls_ca)
        upload(receiver(conf), files if all(files) else None, capture_id, descriptor, size)

    def _run(self) -> None:
        while True:
            with eventlet.Timeout(LOOK, False):
                self._look.wait()
            self._look = Event()
            intent = self._intent()
            if intent is None or not intent.session.settled or intent.hypervisor_id is None:
                continue
            try:
                self._see_to(intent)
                self.trouble = ""
            except OvsdbError as problem:
                if str(problem) != self.trouble:
                    LOG.error("captures: %s", problem)
                self.trouble = f"captures: {problem}"
                eventlet.sleep(LOOK)

    def _see_to(self, intent: Intent) -> None:
        if not self.clean and not self.running:
            left = self.mirrors.remove()
            self.clean = True
            if left:
                LOG.warning("%d mirrors of captures that had not ended were removed", left)
        for id, job in list(self._jobs.items()):
            self._look_after(intent, id, job)
        for id, capture in intent.captures.items():
            ports = intent.captured(capture) if capture.state == "PENDING" and capture.enabled else None
            if ports is not None and id not in self._jobs and self.running < AT_ONCE:
                job = self._jobs[id] = Job(self, capture, ports)
                eventlet.spawn(job.run)
        self._tell(intent)

    def _look_after(self, intent: Intent, id: str, job: Job) -> None:
        capture = intent.captures.get(id)
        if capture is None:
            job.stop("it was deleted")
        if job.done and (capture is None or capture.state in ENDED):
            del self._jobs[id]
            self.ended += 1
        elif capture is not None and job.running:
            ports = intent.captured(capture)
            if not capture.enabled:
                job.stop("it was stopped")
            elif ports is None:
                job.stop("the VM was unplugged")
            else:
                job.follow(ports)

    def _tell(self, intent: Intent) -> None:
        """Have the store say what is true."""
        facts = {id: job.told for id, job in self._jobs.items() if id in intent.captures}
        for id, capture in intent.captures.items():
            if capture.host_id == intent.hypervisor_id and id not in self._jobs and capture.state in LOST:
                why = "the hypervisor's agent was restarted while it captured, or before the file was handed over"
                facts[id] = {"state": "ERROR", "state_detail": why, "ended_at": int(time.time())}
        changed = {
            id: {name: value for name, value in told.items() if getattr(intent.captures[id], name) != value}
            for id, told in facts.items()
        }
        operations = record_operations("capture", {id: fields for id, fields in changed.items() if fields})

        def build(txn: Any, idl: Any) -> None:
            for operation in operations:
                txn.add_op(operation)

        if operations:
            intent.session.transact(build)


def _orders(capture: Capture, vifs: dict[str, Vif], offloads: bool) -> Orders:
    directions = (INGRESS, EGRESS) if capture.direction == "both" else (capture.direction,)
    about = {
        name: value
        for name in ("direction", "network_id", "ethertype", "protocol", "remote_ip_prefix", "transport_port")
        if (value := getattr(capture, name)) not in (None, "both")
    }
    vif = vifs.get(capture.port_id or "")
    device = vif.name if vif is not None and not offloads and _is_seen(vif) else ""
    return Orders(
        device=device,
        interfaces={} if device else {each: f"nnc{capture.id[:8]}{each[0]}" for each in directions},
        filters={each: compiled(capture, each == EGRESS).hex() for each in directions},
        name=vif.name if vif is not None else "VMs",
        description=f"port {capture.port_id}" if capture.port_id else f"VMs of hypervisor {capture.hypervisor_id}",
        filter=", ".join(f"{name} {value}" for name, value in about.items()),
        snaplen=capture.snaplen,
        max_bytes=capture.max_bytes,
        max_seconds=capture.max_seconds,
    )


def _is_seen(vif: Vif) -> bool:
    """Whether Linux sees the packets of an interface, here."""
    try:
        return not vif.type and socket.if_nametoindex(vif.name) > 0
    except OSError:
        return False
