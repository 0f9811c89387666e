"""What Open vSwitch exports, set up by flow-exporter objects, beside the counters of the VM that has sent."""

from __future__ import annotations

import math
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from novanet_apps.telemetry.decode.datagrams import decode
from novanet_apps.telemetry.decode.state import State
from tools.lab import VM, namespaces, processes

from .cloud import Cloud, until

MEGABYTES = 100
SAMPLING = 64
RCVBUFFORCE = 33
"""Linux, asm-generic/socket.h: as large as it takes, whatever net.core.rmem_max is."""
PORTS = {"sflow": 6343, "netflow": 2055, "ipfix": 4739}
ETHERNET, FCS = 14, 4
"""Bytes that IPFIX leaves out of octetDeltaCount, and that sFlow adds to a frame's length."""
RATE = "100M"
IDLE = 14
"""Seconds: the datapath forgets flows after ten, and NetFlow tells the last of them then."""
TRIES = 3
"""The error that is allowed is that of 95 of 100 measurements."""


class Receiver:
    """A socket in a hypervisor's namespace, read by a thread; what exporters send there is kept."""

    def __init__(self, namespace: str, port: int, host: str = "127.0.0.1") -> None:
        def opened() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, 64 << 20)
            made.bind((host, port))
            made.settimeout(0.2)
            return made

        self.datagrams: list[bytes] = []
        self._socket = namespaces.inside(namespace, opened)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                self.datagrams.append(self._socket.recv(65535))
            except TimeoutError:
                continue

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def flows(self) -> list[dict[str, Any]]:
        """Everything that has come, decoded; nothing of it is malformed."""
        state, found = State(), []
        for datagram in list(self.datagrams):
            decoded = decode(datagram, "127.0.0.1", state)
            assert not decoded.problems
            found += decoded.flows
        return found

    def counters(self) -> list[dict[str, Any]]:
        """Interface counters that have come."""
        return [each for datagram in list(self.datagrams) for each in decode(datagram, "127.0.0.1", State()).counters]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def receivers(cloud: Cloud) -> Iterator[dict[str, Receiver]]:
    """On the first hypervisor, beside vswitchd."""
    made = {type: Receiver(cloud.lab.hypervisors[0].namespace, port) for type, port in PORTS.items()}
    yield made
    for receiver in made.values():
        receiver.close()


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> tuple[VM, VM]:
    network, groups = cloud.network("10.0.0.0/24"), [cloud.open_group()]
    sender, receiver = (cloud.vm(network, there, security_groups=groups) for there in (0, 1))
    return sender, receiver


@pytest.fixture(scope="module")
def exporters(cloud: Cloud) -> dict[str, str]:
    """One of each type, on the first hypervisor only."""
    here = next(each["id"] for each in cloud.hypervisors() if each["name"] == "hv1")
    fields: dict[str, dict[str, Any]] = {
        "sflow": {"sampling": SAMPLING, "polling": 1},
        "netflow": {"active_timeout": 1},
        "ipfix": {"sampling": SAMPLING, "active_timeout": 1},
    }
    made = {}
    for type, port in PORTS.items():
        body = {"type": type, "targets": [f"127.0.0.1:{port}"], "hypervisor_ids": [here], **fields[type]}
        made[type] = cloud.api.post("/v1/flow-exporters?wait=20", body)
        assert made[type]["status"] == "ACTIVE", made[type]
    return {type: each["id"] for type, each in made.items()}


def transmitted(vm: VM) -> int:
    """Bytes that the VM's own counters say it has sent, Ethernet headers included."""
    return int(vm.exec(["cat", "/proc/net/dev"]).stdout.split("eth0:")[1].split()[8])


def transfer(sender: VM, receiver: VM) -> int:
    """Send over TCP, no faster than what the switch's sockets have room for; returns the VM's own count of bytes."""
    server = receiver.popen(["iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        processes.until(lambda: ":5201 " in receiver.exec(["ss", "-Hltn"]).stdout, "iperf3 listens")
        before = transmitted(sender)
        sender.exec(
            ["iperf3", "--client", receiver.ip, "--bytes", str(MEGABYTES * 1_000_000), "--bitrate", RATE], timeout=120
        )
        after = transmitted(sender)
    finally:
        processes.end(server)
    return after - before


def sampled(flows: list[dict[str, Any]], sender: VM) -> tuple[int, int]:
    """Bytes of frames that the sender has sent, and of how many samples that follows: sFlow."""
    lengths = [
        (flow["frame_length"] - FCS) * flow["sampling_rate"]
        for flow in flows
        if flow.get("packet", {}).get("sourceIPv4Address") == sender.ip
    ]
    return sum(lengths), len(lengths)


def recorded(flows: list[dict[str, Any]], sender: VM, header: int = 0) -> tuple[int, int]:
    """Bytes of frames and their number as records tell them, to whose bytes the header is added: NetFlow and IPFIX."""
    mine = [flow for flow in flows if flow.get("sourceIPv4Address") == sender.ip and flow["protocolIdentifier"] == 6]
    frames = sum(flow["packetDeltaCount"] for flow in mine)
    return sum(flow["octetDeltaCount"] for flow in mine) + frames * header, frames


def measured(receivers: dict[str, Receiver], sender: VM) -> dict[str, tuple[int, int]]:
    """Bytes, and the number of packets that were looked at, of each export, all that has come until now."""
    told, frames = recorded(receivers["ipfix"].flows(), sender, ETHERNET)
    return {
        "sflow": sampled(receivers["sflow"].flows(), sender),
        "netflow": recorded(receivers["netflow"].flows(), sender),
        "ipfix": (told, frames // SAMPLING),
    }


def quiet(receivers: dict[str, Receiver]) -> None:
    """Wait until what was sent has been told: a flow that has ended is, once the datapath has let go of it."""
    last, since = -1, time.monotonic()

    def unchanged() -> bool:
        nonlocal last, since
        now = len(receivers["netflow"].datagrams) + len(receivers["ipfix"].datagrams)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > IDLE

    until("no more flows", unchanged, timeout=90)


def test_bytes_agree_with_the_vms_own_counters(
    pair: tuple[VM, VM], exporters: dict[str, str], receivers: dict[str, Receiver]
) -> None:
    """Of 100 MB over TCP, within 196·√(1/n) % of n samples; what is not sampled, within 1 %."""
    assert pair[0].ping(pair[1].ip, count=3).received
    off: dict[str, float] = {}
    agreed: set[str] = set()
    before = measured(receivers, pair[0])
    for _ in range(TRIES):
        sent = transfer(*pair)
        assert sent > MEGABYTES * 1_000_000
        quiet(receivers)
        now = measured(receivers, pair[0])
        for type in PORTS:
            told, samples = (after - earlier for after, earlier in zip(now[type], before[type], strict=True))
            assert samples > 0, f"{type}: nothing of the VM was exported"
            allowed = 1.0 if type == "netflow" else 196 * math.sqrt(1 / samples)
            off[type] = 100 * (told - sent) / sent
            if abs(off[type]) <= allowed:
                agreed.add(type)
        before = now
        if agreed == set(PORTS):
            return
    raise AssertionError(f"off by {off} %; only {agreed} agree")


def test_samples_say_who_tells_them(cloud: Cloud, exporters: dict[str, str], receivers: dict[str, Receiver]) -> None:
    here = next(each for each in cloud.hypervisors() if each["name"] == "hv1")
    counters = until("interface counters", lambda: receivers["sflow"].counters())
    assert {each["agent_address"] for each in counters} == {here["tunnel_ip"]}


def test_another_sampling_and_target_and_no_export_any_more(
    cloud: Cloud, pair: tuple[VM, VM], exporters: dict[str, str], receivers: dict[str, Receiver]
) -> None:
    hypervisor, other = cloud.lab.hypervisors
    id = exporters["sflow"]
    receivers["sflow over IPv6"] = here = Receiver(hypervisor.namespace, PORTS["sflow"], "::1")
    changed = cloud.api.patch(
        f"/v1/flow-exporters/{id}?wait=20", {"sampling": 1, "targets": [f"[::1]:{PORTS['sflow']}"]}
    )
    assert changed["status"] == "ACTIVE" and changed["sampling"] == 1

    def all_of_it() -> bool:
        here.datagrams.clear()
        pair[0].ping(pair[1].ip, count=20, interval=0.02)
        settle()
        _, samples = sampled([flow for flow in here.flows() if flow["sampling_rate"] == 1], pair[0])
        return samples >= 20

    until("every packet is told", all_of_it)
    assert other.vsctl("--bare", "--columns=_uuid", "list", "sFlow").strip() == "", "it does not export"
    for each in exporters.values():
        cloud.api.delete(f"/v1/flow-exporters/{each}")
    tables = ("sFlow", "NetFlow", "IPFIX")
    until("rows gone", lambda: not "".join(hypervisor.vsctl("--bare", "list", table) for table in tables).strip())
    settle()
    here.datagrams.clear()
    assert pair[0].ping(pair[1].ip, count=20, interval=0.02).received == 20
    settle()
    assert here.datagrams == []


def settle() -> None:
    """sFlow agents gather samples for a second at most."""
    time.sleep(1.2)
