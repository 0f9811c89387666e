"""What runs ends with what allowed it: iperf3 between VMs on two hypervisors, while rules and memberships go.

The counters of the receiver's interface say what arrives; iperf3 says how it ended.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import pytest

from tests.lab.cloud import Cloud, until
from tools.lab import VM

PORT, OTHER = 5201, 5202
"""Where iperf3 listens, and where nobody does: who gets there is told so."""
ENOUGH, FEW = 200, 10
"""Packets by which it is seen that something runs, and that may arrive of what does not: neighbour discovery and the like."""
NAMES = count(1)
PROTOCOLS = pytest.mark.parametrize("protocol", ["tcp", "udp"])


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2) as running:
        yield running


@pytest.fixture(scope="module")
def network(cloud: Cloud) -> dict[str, Any]:
    return cloud.network("10.0.0.0/24")


class Pair(NamedTuple):
    """A client, and a server on another hypervisor that lets members of ``clients`` reach it."""

    client: VM
    server: VM
    clients: str
    servers: str
    rule: str
    """Of ``servers``, by which these two ports are reached."""


def pair(cloud: Cloud, network: dict[str, Any], protocol: str, **fields: Any) -> Pair:
    """A pair; ``fields`` are those of the rule. The ports have a second group beside the one that allows this."""
    clients, servers, base = (group(cloud) for _ in range(3))
    rule(cloud, base, direction="egress")
    if protocol == "udp":  # iperf3 speaks TCP of what it does
        rule(cloud, base, direction="ingress", protocol="tcp", port_range_min=PORT, port_range_max=PORT)
    fields = {"protocol": protocol, "port_range_min": PORT, "port_range_max": OTHER, **fields}
    allowed = rule(cloud, servers, direction="ingress", remote_group_id=clients, **fields)
    client = cloud.vm(network, 0, security_groups=[clients, base])
    server = cloud.vm(network, 1, security_groups=[servers, base])
    return Pair(client, server, clients, servers, allowed)


def group(cloud: Cloud, **fields: Any) -> str:
    return cloud.api.post("/v1/security-groups", {"name": f"g{next(NAMES)}", **fields})["id"]


def rule(cloud: Cloud, group: str, **fields: Any) -> str:
    made = cloud.api.post("/v1/security-group-rules", {"security_group_id": group, **fields})["id"]
    cloud.wait_active("security-group-rules", made)
    return made


def leave(cloud: Cloud, vm: VM, group: str) -> None:
    shown = cloud.api.get(f"/v1/ports/{vm.port['id']}")
    left = [each for each in shown["security_groups"] if each != group]
    cloud.api.patch(f"/v1/ports/{vm.port['id']}", {"security_groups": left})


@contextmanager
def iperf(pair: Pair, protocol: str, seconds: int) -> Iterator[subprocess.Popen[str]]:
    """The client of a transfer that runs. It gives up when nothing is acknowledged for a second."""
    listen = ["iperf3", "--server", "--one-off", "--port", str(PORT), "--forceflush"]
    talk = ["iperf3", "--client", pair.server.ip or "", "--port", str(PORT), "--time", str(seconds), "--json"]
    talk += ["--bitrate", "10M", "--length", "1000", "--snd-timeout", "1000"] + (["--udp"] if protocol == "udp" else [])
    with pair.server.popen(listen, stdout=subprocess.PIPE, text=True) as serving:
        try:
            until("it listens", lambda: "Server listening" in serving.stdout.readline())
            with pair.client.popen(talk, stdout=subprocess.PIPE, text=True) as sending:
                try:
                    runs(pair)
                    yield sending
                finally:
                    sending.kill()
        finally:
            serving.kill()


def packets(vm: VM, way: str) -> int:
    """How many the VM has received (``rx``) or sent (``tx``)."""
    (interface,) = json.loads(vm.exec("ip -json -statistics link show dev eth0").stdout)
    return interface["stats64"][way]["packets"]


def runs(pair: Pair) -> None:
    before = packets(pair.server, "rx")
    until("it runs", lambda: packets(pair.server, "rx") > before + ENOUGH)


def stands_still(pair: Pair) -> bool:
    before = packets(pair.server, "rx")
    time.sleep(0.5)
    return packets(pair.server, "rx") <= before + FEW


def is_cut(pair: Pair, protocol: str, sending: subprocess.Popen[str]) -> None:
    """Nothing more arrives. Who sends TCP has an error; UDP is sent on in vain."""
    until("it stands still", lambda: stands_still(pair))
    if protocol == "tcp":
        until("the client gives up", lambda: sending.poll() is not None)
        assert "error" in json.loads(sending.communicate()[0])
    else:
        arrived, sent = packets(pair.server, "rx"), packets(pair.client, "tx")
        until("more is sent", lambda: packets(pair.client, "tx") > sent + ENOUGH)
        assert packets(pair.server, "rx") <= arrived + FEW
    assert not reaches(pair, protocol)


def reaches(pair: Pair, protocol: str) -> bool:
    """Whether something new gets to the server, which says that nobody listens there."""
    program = (
        f"import socket; s = socket.socket(type=socket.SOCK_{'STREAM' if protocol == 'tcp' else 'DGRAM'})\n"
        "s.settimeout(1)\n"
        f"try: s.connect(('{pair.server.ip}', {OTHER})); s.send(b'x'); s.recv(1)\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except TimeoutError: print('silence')"
    )
    heard = pair.client.exec(["python3", "-c", program]).stdout.strip()
    assert heard in ("refused", "silence")
    return heard == "refused"


@PROTOCOLS
def test_the_end_of_a_rule_cuts_what_runs(cloud: Cloud, network: dict[str, Any], protocol: str) -> None:
    two = pair(cloud, network, protocol)
    with iperf(two, protocol, 60) as sending:
        assert reaches(two, protocol)
        cloud.api.delete(f"/v1/security-group-rules/{two.rule}")
        is_cut(two, protocol, sending)


@PROTOCOLS
def test_what_a_rule_keeps_runs_to_its_end(cloud: Cloud, network: dict[str, Any], protocol: str) -> None:
    two = pair(cloud, network, protocol, revoke=False)
    with iperf(two, protocol, 8) as sending:
        cloud.api.delete(f"/v1/security-group-rules/{two.rule}")
        until("nothing new is let in", lambda: not reaches(two, protocol))
        runs(two)
        told = json.loads(sending.communicate()[0])
    assert "error" not in told
    end = told["end"]
    if protocol == "tcp":
        assert end["sum_received"]["bytes"] > 0.9 * end["sum_sent"]["bytes"] > 0
    else:
        assert end["sum"]["lost_packets"] < end["sum"]["packets"] / 20
    assert not reaches(two, protocol)


@PROTOCOLS
@pytest.mark.parametrize("whom", ["server", "client"])
def test_who_leaves_a_group_is_cut_off(cloud: Cloud, network: dict[str, Any], protocol: str, whom: str) -> None:
    """The server leaves the group whose rule let it in; the client leaves the one that the rule names."""
    two = pair(cloud, network, protocol)
    with iperf(two, protocol, 60) as sending:
        leave(cloud, two.server, two.servers) if whom == "server" else leave(cloud, two.client, two.clients)
        is_cut(two, protocol, sending)


@PROTOCOLS
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_denial_cuts_what_runs(cloud: Cloud, network: dict[str, Any], protocol: str, direction: str) -> None:
    """An administrator's rule, about the server or about the client."""
    two = pair(cloud, network, protocol)
    label = f"denied-{protocol}-{direction}"
    denied = two.server if direction == "ingress" else two.client
    cloud.api.patch(f"/v1/ports/{denied.port['id']}", {"labels": {"role": label}})
    selector = [{"key": "role", "operator": "In", "values": [label]}]
    admin = group(cloud, tier="admin", selector=selector)
    with iperf(two, protocol, 60) as sending:
        assert reaches(two, protocol)
        rule(cloud, admin, direction=direction, action="deny", protocol=protocol)
        is_cut(two, protocol, sending)
