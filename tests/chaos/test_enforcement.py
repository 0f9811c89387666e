"""What security groups say holds at every moment: while the controller is gone, while rules come and go."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytest

from tests.lab.cloud import Cloud
from tools.lab import VM


class Trio(NamedTuple):
    """A server that a client may ping and a stranger may not, behind a tunnel."""

    server: VM
    client: VM
    stranger: VM
    group: str
    clients: str


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest):
    with Cloud(2, mesh={"tunnel_type": request.param}) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def trio(cloud: Cloud) -> Trio:
    network = cloud.network("10.0.0.0/24", "fd00:1::/64")
    servers, clients = (cloud.api.post("/v1/security-groups", {"name": name})["id"] for name in ("servers", "clients"))
    for direction, ethertype, peer in (("ingress", "IPv4", clients), ("ingress", "IPv6", clients)):
        rule(cloud, servers, direction=direction, ethertype=ethertype, remote_group_id=peer)
    for ethertype in ("IPv4", "IPv6"):
        rule(cloud, clients, direction="egress", ethertype=ethertype)
    server = cloud.vm(network, 1, security_groups=[servers])
    client, stranger = cloud.vm(network, 0, security_groups=[clients]), cloud.vm(network, 0)
    for address in (server.ip, server.ip6):
        assert client.ping(address, count=2).received == 2
        assert stranger.ping(address, count=2).received == 0
    return Trio(server, client, stranger, servers, clients)


def rule(cloud: Cloud, group: str, **fields: Any) -> str:
    """A rule, once the switches have it."""
    made = cloud.api.post("/v1/security-group-rules", {"security_group_id": group, **fields})
    cloud.wait_active("security-group-rules", made["id"])
    return made["id"]


def test_a_restart_of_the_controller_neither_opens_nor_closes_anything(cloud: Cloud, trio: Trio) -> None:
    allowed = [trio.client.background_ping(address) for address in (trio.server.ip, trio.server.ip6)]
    denied = [trio.stranger.background_ping(address) for address in (trio.server.ip, trio.server.ip6)]
    time.sleep(0.5)
    cloud.kill_and_start_controller()
    cloud.wait_active("ports", trio.server.port["id"])
    time.sleep(0.5)
    for result in [ping.stop() for ping in allowed]:
        assert result.sent > 150 and result.lost == 0
    for result in [ping.stop() for ping in denied]:
        assert result.sent > 150 and result.received == 0
    assert cloud.counter("novanet_flows_sent_total") == 0
    assert cloud.counter("novanet_flows_deleted_total") == 0


def test_rules_that_come_and_go_touch_nothing_that_both_sets_allow_or_deny(cloud: Cloud, trio: Trio) -> None:
    """Beside the rule that allows the client: the same once more, another service, a denial of something else."""
    admin = cloud.api.post(
        "/v1/security-groups",
        {"name": "admin", "tier": "admin", "selector": [{"key": "role", "operator": "In", "values": ["server"]}]},
    )["id"]
    cloud.api.patch(f"/v1/ports/{trio.server.port['id']}", {"labels": {"role": "server"}})
    cloud.wait_active("ports", trio.server.port["id"])
    allowed = [trio.client.background_ping(address) for address in (trio.server.ip, trio.server.ip6)]
    denied = trio.stranger.background_ping(trio.server.ip)
    for turn in range(8):
        made = [
            rule(cloud, trio.group, direction="ingress", protocol="icmp", remote_group_id=trio.clients),
            rule(cloud, trio.group, direction="ingress", protocol="tcp", port_range_min=80, port_range_max=90 + turn),
            rule(cloud, admin, direction="ingress", action="deny", protocol="udp"),
            rule(cloud, admin, direction="ingress", protocol="icmp", remote_ip_prefix=f"{trio.client.ip}/32"),
        ]
        for id in made:
            cloud.api.delete(f"/v1/security-group-rules/{id}")
    time.sleep(0.5)
    for result in [ping.stop() for ping in allowed]:
        assert result.sent > 50 and result.lost == 0
    result = denied.stop()
    assert result.sent > 50 and result.received == 0
