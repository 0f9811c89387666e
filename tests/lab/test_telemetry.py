"""From a packet to an answer: hypervisors export, collectors take it, and REST and the command line tell whose it was."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tools.lab import VM, processes
from tools.lab.controller import EXPORTS

MEGABYTES = 100
SAMPLING = 50
IDLE = 14
"""Seconds: the datapath forgets flows after ten, and NetFlow tells the last of them then."""
HEADERS = 2.0
"""Percent: what NetFlow and IPFIX leave out, Ethernet headers, and the odd packet that was counted when it was over."""
TRIES = 3
"""The error that is allowed is that of 95 of 100 measurements."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2, telemetry=True) as cloud:
        until("telemetry runs", lambda: healthy(cloud), timeout=60)
        yield cloud


def healthy(cloud: Cloud) -> bool:
    told = cloud.api.get("/v1/telemetry/status")
    return bool(told["healthy"]) and all(each["running"] for each in told["processes"])


@contextmanager
def exporting(cloud: Cloud, type: str, **fields: Any) -> Iterator[None]:
    """Everywhere, to the controller's collectors."""
    target = f"{cloud.controller.exports_go_to}:{EXPORTS[type]}"
    made = cloud.api.post("/v1/flow-exporters?wait=20", {"type": type, "targets": [target], **fields})
    try:
        assert made["status"] == "ACTIVE", made
        yield
    finally:
        cloud.api.delete(f"/v1/flow-exporters/{made['id']}")


def counted(vm: VM) -> int:
    """Bytes that the VM's own interface has received."""
    return int(vm.exec(["cat", "/sys/class/net/eth0/statistics/rx_bytes"], private=True).stdout)


def transfer(sender: VM, receiver: VM, megabytes: int) -> int:
    """Over TCP, at a rate at which no socket of the switch loses anything; what the receiver's interface counted."""
    server = receiver.popen(["iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        processes.until(lambda: ":5201 " in receiver.exec(["ss", "-Hltn"]).stdout, "iperf3 listens")
        before = counted(receiver)
        argv = ["iperf3", "--client", receiver.ip, "--bytes", str(megabytes * 1_000_000), "--bitrate", "100M"]
        sender.exec(argv, timeout=120)
        return counted(receiver) - before
    finally:
        processes.end(server)


def settled(cloud: Cloud, sender: VM, receiver: VM, quiet: float) -> dict[str, Any]:
    """What is told of the traffic from one to the other by TCP, when nothing more has come for so many seconds."""
    seen: list[tuple[float, dict[str, Any]]] = []

    def steady() -> dict[str, Any] | None:
        query = {"by": "port", "port_id": sender.port["id"], "peer_port_id": receiver.port["id"], "protocol": "tcp"}
        items = cloud.api.get("/v1/telemetry/top", **query, seconds=600)["items"]
        now = next((each for each in items if each["key"] == sender.port["id"]), {})
        if not seen or seen[-1][1].get("bytes_out") != now.get("bytes_out"):
            seen.append((time.monotonic(), now))
        return now if now and time.monotonic() - seen[-1][0] > quiet else None

    return until("flows of the transfer", steady, timeout=90, interval=0.5)


def error(samples: float) -> float:
    """Percent."""
    return 196 / math.sqrt(samples)


@pytest.mark.parametrize(
    ("type", "fields", "quiet"),
    [
        ("sflow", {"sampling": SAMPLING, "polling": 1}, 4),
        ("netflow", {"active_timeout": 1}, IDLE),
        ("ipfix", {"sampling": SAMPLING, "active_timeout": 1}, IDLE),
    ],
)
def test_bytes_of_a_transfer_are_told_of_its_vms(cloud: Cloud, type: str, fields: dict[str, Any], quiet: float) -> None:
    """Both hypervisors export, and it counts once. Of n samples, within 196·√(1/n) %."""
    network = cloud.network("10.0.0.0/24")
    sender, receiver = (cloud.vm(network, there, name=f"{type}-{there}") for there in (0, 1))
    with exporting(cloud, type, **fields):
        sent, off = 0, []
        for _ in range(TRIES):
            sent += transfer(sender, receiver, MEGABYTES)
            found = settled(cloud, sender, receiver, quiet)
            assert found["name"] == f"{type}-0"
            assert (found["error_percent"] > 0) == (type == "sflow"), "which alone tells how it samples"
            off.append(100 * (found["bytes_out"] / sent - 1))
            allowed = error(found["packets_out"] / fields["sampling"]) if "sampling" in fields else HEADERS
            assert type != "sflow" or found["error_percent"] == pytest.approx(allowed, rel=0.1)
            if abs(off[-1]) <= allowed:
                break
        else:
            raise AssertionError(f"off by {off} %")
    [row] = cloud.api.get("/v1/telemetry/matrix", seconds=600, network_id=network["id"], limit=1)["items"]
    assert (row["src_hypervisor"], row["dst_hypervisor"]) == ("hv1", "hv2"), row
    if type == "sflow":
        caches = {each["hypervisor"]: each for each in cloud.api.get("/v1/telemetry/caches")["items"]}
        assert caches.keys() == {"hv1", "hv2"} and all(each["seconds"] < 20 for each in caches.values())
        assert all(each["flows"] > 0 and each["packets"] >= each["hits"] for each in caches.values()), caches
    losses = [each for each in cloud.api.get("/v1/telemetry/status")["exporters"] if any(each["lost"].values())]
    assert not losses, [(each["address"], each["lost"]) for each in losses]


def test_the_command_line_tells_it_too(cloud: Cloud) -> None:
    network = cloud.network("10.1.0.0/24")
    one, other = cloud.vm(network, 0, name="asks"), cloud.vm(network, 1, name="answers")
    with exporting(cloud, "sflow", sampling=1):
        assert one.ping(other.ip, count=20, interval=0.02).received == 20

        def listed() -> dict[str, Any]:
            command = f"flows top --by port --network {network['id']} --protocol icmp --output json"
            token = str(cloud.controller.state_dir / "admin.token")
            argv = [sys.executable, "-m", "tools.cli.main", *command.split()]
            known = os.environ | {"NOVANET_ENDPOINT": cloud.controller.url, "NOVANET_TOKEN_FILE": token}
            done = subprocess.run(argv, capture_output=True, text=True, env=known, check=True)
            rows = {each["name"]: each for each in json.loads(done.stdout)["items"]}
            counts = [rows.get(name, {}).get("packets_out", 0) for name in ("asks", "answers")]
            return rows if min(counts) >= 20 else {}

        rows = until("the pings are listed from both hypervisors", listed)
    assert rows["asks"]["packets_in"] == rows["answers"]["packets_out"] == 20
