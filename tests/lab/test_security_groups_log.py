"""What rules of security groups count and log, with real packets; and that logging neither delays nor drops what they allow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.test_security_groups import NAMES, PLACES, SIX, Groups, address, connects, reaches
from tools.lab import VM


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2) as running:
        yield running


@pytest.fixture(scope="module")
def network(cloud: Cloud) -> dict[str, Any]:
    return cloud.network("10.0.0.0/24", "fd00:a::/64")


@pytest.fixture(scope="module")
def groups(cloud: Cloud) -> Groups:
    return Groups(cloud)


def counted(cloud: Cloud, rule: dict[str, Any]) -> tuple[int, int]:
    """Packets and bytes of a rule."""
    found = cloud.api.get(f"/v1/security-group-rules/{rule['id']}/statistics")
    return found["packets"], found["bytes"]


def logged(cloud: Cloud, rule: dict[str, Any], **filters: Any) -> list[dict[str, Any]]:
    """The log of a rule, the newest first."""
    query = "&".join(f"{name}={value}" for name, value in {"security_group_rule_id": rule["id"], **filters}.items())
    return cloud.api.get(f"/v1/security-group-logs?limit=1000&{query}")["items"]


def counts(cloud: Cloud, rule: dict[str, Any], expected: tuple[int, int]) -> None:
    until(f"{expected}", lambda: counted(cloud, rule) == expected, timeout=30, interval=0.5)


@SIX
@PLACES
def test_a_rule_counts_the_packets_of_its_connections(
    cloud: Cloud, network: Any, groups: Groups, six: bool, here: bool
) -> None:
    group = groups.group()
    rule = groups.rule(group, ethertype="IPv6" if six else "IPv4", protocol="icmp")
    other = groups.rule(group, protocol="udp")
    client, member = cloud.vm(network, 0), cloud.vm(network, 0 if here else 1, security_groups=[group])
    assert client.ping(address(member, six), count=5).received == 5
    size = 118 if six else 98
    counts(cloud, rule, (10, 10 * size))
    assert counted(cloud, other) == (0, 0)
    cloud.vm(network, 0, security_groups=[group])  # its flows are others from now on, where there are two members
    cloud.vm(network, 1, security_groups=[group, groups.group()])
    assert client.ping(address(member, six), count=5).received == 5
    counts(cloud, rule, (20, 20 * size))
    of_group = cloud.api.get(f"/v1/security-groups/{group}/statistics")
    assert (of_group["packets"], of_group["bytes"]) == (20, 20 * size)
    assert {each["security_group_rule_id"]: each["packets"] for each in of_group["rules"]} == {
        rule["id"]: 20,
        other["id"]: 0,
    }
    [line] = [
        line
        for line in cloud.api.get("/metrics").splitlines()
        if line.startswith("novanet_security_group_packets_total") and group in line
    ]
    assert 'direction="ingress",action="allow"' in line and line.endswith(" 20")


def test_what_is_denied_by_default_is_counted(cloud: Cloud, network: Any, groups: Groups) -> None:
    client, member = cloud.vm(network, 0), cloud.vm(network, 0, security_groups=[groups.group()])

    def denied() -> int:
        lines = [line for line in cloud.api.get("/metrics").splitlines() if line.startswith("novanet_drops_total")]
        return sum(int(line.split()[-1]) for line in lines if 'table="ingress_policy"' in line)

    before = denied()
    assert not reaches(client, member, six=False)
    until("it is counted", lambda: denied() == before + 1, interval=0.5)


@SIX
@PLACES
@pytest.mark.parametrize("stateful", [True, False], ids=["stateful", "stateless"])
def test_allowed_connections_are_logged(
    cloud: Cloud, network: Any, groups: Groups, six: bool, here: bool, stateful: bool
) -> None:
    group, family, n = groups.group(stateful=stateful), "IPv6" if six else "IPv4", next(NAMES)
    service = {"ethertype": family, "protocol": "tcp", "port_range_min": 8000, "port_range_max": 8000}
    rule = groups.rule(group, name=f"web{n}", log=True, **service)
    quiet = groups.rule(group, ethertype=family, protocol="icmp")
    back = groups.rule(group, "egress", ethertype=family)
    client = cloud.vm(network, 0, name=f"client{n}")
    member = cloud.vm(network, 0 if here else 1, name=f"server{n}", security_groups=[group])
    assert connects(client, member, 8000, six) and reaches(client, member, six)
    entry = until("it is logged", lambda: logged(cloud, rule))[-1]
    assert (entry["verdict"], entry["direction"], entry["ethertype"]) == ("allowed", "ingress", family)
    assert (entry["security_group_rule"], entry["security_group_id"]) == (f"web{n}", group)
    assert (entry["port_id"], entry["port"]) == (member.port["id"], f"server{n}")
    assert (entry["peer_port_id"], entry["peer_port"]) == (client.port["id"], f"client{n}")
    assert (entry["source_ip"], entry["destination_ip"]) == (address(client, six), address(member, six))
    assert (entry["protocol"], entry["destination_port"], entry["icmp_type"]) == ("tcp", 8000, None)
    assert entry["source_port"] > 0 and entry["hypervisor"]
    assert not logged(cloud, quiet) and not logged(cloud, back)
    assert not logged(cloud, rule, verdict="denied") and logged(cloud, rule, port_id=member.port["id"])
    if stateful:
        assert len(logged(cloud, rule)) == 1, "answers and later packets are no new connections"
    line = next(line for line in cloud.controller.tail(2000).splitlines() if entry["port_id"] in line and group in line)
    for part in (
        'message="connection allowed"',
        "logger=novanet_apps.security_groups.log",
        f"security_group_rule=web{n}",
    ):
        assert part in line


def test_logging_is_switched_on_and_off(cloud: Cloud, network: Any, groups: Groups) -> None:
    group = groups.group()
    rule = groups.rule(group, protocol="tcp")
    client, member = cloud.vm(network, 0), cloud.vm(network, 1, security_groups=[group])
    assert connects(client, member, 8000) and not logged(cloud, rule)
    for log in (True, False):
        cloud.api.patch(f"/v1/security-group-rules/{rule['id']}?wait=10", {"log": log})
        assert connects(client, member, 8000)
        until("it is logged", lambda: len(logged(cloud, rule)) == 1)


@SIX
@PLACES
def test_what_a_rule_denies_is_logged(cloud: Cloud, network: Any, groups: Groups, six: bool, here: bool) -> None:
    family, n = "IPv6" if six else "IPv4", next(NAMES)
    guard = groups.group(tier="admin", priority=7)
    rule = groups.rule(
        guard, "egress", ethertype=family, protocol="udp", port_range_min=53, port_range_max=53, action="deny", log=True,
        name=f"no DNS {n}",
    )  # fmt: skip
    client = cloud.vm(network, 0, name=f"asker{n}", security_groups=[guard, cloud.open_group()])
    server = cloud.vm(network, 0 if here else 1, name=f"resolver{n}", security_groups=[cloud.open_group()])
    assert not connects(client, server, 53, six, "UDP") and connects(client, server, 54, six, "UDP")
    [entry] = until("it is logged", lambda: logged(cloud, rule))
    assert (entry["verdict"], entry["direction"], entry["security_group_rule"]) == ("denied", "egress", f"no DNS {n}")
    assert (entry["port_id"], entry["peer_port_id"]) == (client.port["id"], server.port["id"])
    assert (entry["source_ip"], entry["destination_ip"]) == (address(client, six), address(server, six))
    assert (entry["protocol"], entry["destination_port"]) == ("udp", 53)
    until("it is counted", lambda: counted(cloud, rule)[0] == 1, interval=0.5)
    found = cloud.api.post(
        "/v1/traces",
        {"source": client.port["id"], "destination": address(server, six), "protocol": "udp", "destination_port": 53},
    )
    assert found["verdict"] == "dropped" and f"dropped by rule no DNS {n} " in found["text"]


def test_many_connections_are_logged_in_part_and_all_pass(cloud: Cloud, network: Any, groups: Groups) -> None:
    group = groups.group()
    rule = groups.rule(group, protocol="udp", log=True)
    client, member = cloud.vm(network, 0), cloud.vm(network, 1, security_groups=[group])
    suppressed, sent = cloud.counter("novanet_punts_total"), 1000
    received = _burst(client, member, sent)
    assert received == sent, "what is too much for the log is not too much for its receiver"
    counts(cloud, rule, (sent, sent * (14 + 20 + 8 + 2)))
    entries = until("some are logged", lambda: logged(cloud, rule))
    assert 50 <= len(entries) < sent / 2, len(entries)
    assert cloud.counter("novanet_punts_total") - suppressed < sent / 2, "the switch holds the others back"


def _burst(sender: VM, receiver: VM, count: int) -> int:
    """Send datagrams from as many ports; returns how many arrived."""
    server = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9))\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22); print('ready', flush=True)\n"
        f"s.settimeout(5); n = 0\ntry:\n  while n < {count}: s.recv(9); n += 1\nexcept TimeoutError: pass\nprint(n)"
    )
    client = (
        "import socket, time\n"
        f"for port in range(20000, {20000 + count}):\n"
        "  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        f"    s.bind(('', port)); s.sendto(b'hi', ('{receiver.ip}', 9)); time.sleep(0.001)"
    )
    listening = receiver.popen(["python3", "-c", server], stdout=subprocess.PIPE, text=True)
    try:
        assert listening.stdout is not None and listening.stdout.readline() == "ready\n"
        sender.exec(["python3", "-c", client])
        return int(listening.stdout.readline())
    finally:
        listening.kill()
        listening.wait()


def test_counts_and_logging_outlive_the_controller(cloud: Cloud, network: Any, groups: Groups) -> None:
    group = groups.group()
    rule = groups.rule(group, protocol="icmp", log=True)
    client, member = cloud.vm(network, 0), cloud.vm(network, 1, security_groups=[group])
    assert client.ping(address(member, six=False), count=3).received == 3
    counts(cloud, rule, (6, 6 * 98))
    cloud.controller.terminate()
    assert client.ping(address(member, six=False), count=2).received == 2, "nobody to log it to"
    cloud.controller.start()
    cloud.controller.wait_ready()
    cloud.wait_active("ports", member.port["id"])
    counts(cloud, rule, (10, 10 * 98))
    assert not logged(cloud, rule)
    assert client.ping(address(member, six=False), count=1).received == 1
    until("it is logged", lambda: logged(cloud, rule))
    assert cloud.counter("novanet_drift_repaired_total") == 0 and cloud.counter("novanet_meters_sent_total") == 0
