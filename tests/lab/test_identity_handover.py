"""A port that gets other groups or labels loses no packet that both what it was and what it becomes allow."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.lab.cloud import Cloud, until
from tools.lab import VM
from tools.lab.ping import BackgroundPing, PingResult

TURNS = 24


class Pair(NamedTuple):
    """A client and a server on two hypervisors, whose groups let each other ping by name; a stranger beside the client, and
    another client on a third hypervisor."""

    client: VM
    server: VM
    stranger: VM
    clients: str
    servers: str
    others: str
    """A second group that allows what ``servers`` does."""
    closed: str


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with Cloud(3, mesh={"tunnel_type": request.param}) as running:
        yield running


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> Pair:
    names = ("clients", "servers", "others", "closed", "strangers")
    clients, servers, others, closed, strangers = (
        cloud.api.post("/v1/security-groups", {"name": name})["id"] for name in names
    )
    for group, peer in ((clients, servers), (clients, others), (servers, clients), (others, clients)):
        for direction in ("ingress", "egress"):
            for protocol, ethertype in (("icmp", "IPv4"), ("ipv6-icmp", "IPv6")):
                rule(cloud, group, direction=direction, protocol=protocol, ethertype=ethertype, remote_group_id=peer)
    for ethertype in ("IPv4", "IPv6"):
        rule(cloud, strangers, direction="egress", ethertype=ethertype)
    network = cloud.network("10.0.0.0/24", "fd00:1::/64")
    client, stranger = (cloud.vm(network, 0, security_groups=[group]) for group in (clients, strangers))
    server = cloud.vm(network, 1, security_groups=[servers])
    cloud.vm(network, 2, security_groups=[clients])
    return Pair(client, server, stranger, clients, servers, others, closed)


def rule(cloud: Cloud, group: str, **fields: Any) -> None:
    made = cloud.api.post("/v1/security-group-rules", {"security_group_id": group, **fields})
    cloud.wait_active("security-group-rules", made["id"])


def change(cloud: Cloud, vm: VM, **fields: Any) -> None:
    """Other groups or labels for a VM's port, once the switches have them."""
    assert cloud.api.patch(f"/v1/ports/{vm.port['id']}?wait=20", fields)["status"] == "ACTIVE"


def pings(*ways: tuple[VM, VM]) -> list[BackgroundPing]:
    """From each to each, 200 a second, over IPv4 and IPv6, once they are answered."""
    began = []
    for sender, receiver in ways:
        for address in (receiver.ip, receiver.ip6):
            assert address is not None
            until("it is answered", lambda sender=sender, address=address: sender.ping(address, count=1).received)
            began.append(sender.background_ping(address, interval=0.005))
    return began


def more(running: list[BackgroundPing], packets: int) -> list[PingResult]:
    """Wait until each has sent so many more; returns what they had sent and got before."""
    before = [ping.so_far() for ping in running]
    until(
        f"{packets} more were sent",
        lambda: all(now.so_far().sent >= had.sent + packets for now, had in zip(running, before, strict=True)),
    )
    return before


@pytest.mark.parametrize("whom", ["server", "client", "both"])
def test_who_changes_between_sets_that_both_allow_loses_nothing(cloud: Cloud, pair: Pair, whom: str) -> None:
    running = pings((pair.client, pair.server), (pair.server, pair.client))
    denied = pair.stranger.background_ping(pair.server.ip)
    sets = [[pair.servers], [pair.servers, pair.closed], [pair.others], [pair.servers, pair.others]]
    for turn in range(TURNS):
        # labels that nobody has had: a number that no switch has heard of
        labels = {"turn": f"{whom}-{turn}"} if turn % 2 else {}
        if whom != "client":
            change(cloud, pair.server, security_groups=sets[turn % len(sets)], labels=labels)
        if whom != "server":
            extra = [pair.closed] if turn % 3 else []
            change(cloud, pair.client, security_groups=[pair.clients, *extra], labels=labels)
        more(running, 5)
    for result in [ping.stop() for ping in running]:
        assert result.sent > 5 * TURNS and result.lost == 0
    refused = denied.stop()
    assert refused.sent > TURNS and refused.received == 0
    assert cloud.counter("novanet_identity_handovers_hurried_total") == 0


def test_who_changes_to_a_set_that_denies_is_cut_off(cloud: Cloud, pair: Pair) -> None:
    ways = (pair.client, pair.server), (pair.server, pair.client)
    for whom in (pair.server, pair.client):
        change(cloud, pair.server, security_groups=[pair.servers], labels={})
        change(cloud, pair.client, security_groups=[pair.clients], labels={})
        running = pings(*ways)
        change(cloud, whom, security_groups=[pair.closed], labels={"who": "nobody"})
        before = more(running, 50)
        for ping, had in zip(running, before, strict=True):
            result = ping.stop()
            # what the switch's datapath has cached follows its confirmation, which may be some packets later
            assert 0 < result.received <= had.sent + 20 and result.lost >= 50


@pytest.mark.parametrize("away", [False, True], ids=["slow", "away"])
def test_a_switch_that_does_not_confirm_holds_nobody_up(cloud: Cloud, pair: Pair, away: bool) -> None:
    """What a port may do no longer ends, with a switch that hangs, and with one that is gone."""
    change(cloud, pair.server, security_groups=[pair.servers], labels={})
    change(cloud, pair.client, security_groups=[pair.clients], labels={})
    running = pings((pair.client, pair.server))
    third = cloud.lab.hypervisors[2]
    hurried = cloud.counter("novanet_identity_handovers_hurried_total")
    if away:
        third.stop_vswitchd()
        until("it is away", lambda: cloud.counter("novanet_connected") < 2 * len(cloud.lab.hypervisors))
    else:
        os.kill(third.vswitchd_pid, signal.SIGSTOP)
    try:
        # whom the rules of the third hypervisor name, too
        other = {"security_groups": [pair.others], "labels": {"third": "away" if away else "slow"}}
        cloud.api.patch(f"/v1/ports/{pair.client.port['id']}", other)
        until("it is cut off", lambda: more(running, 20) and all(is_silent(ping) for ping in running))
        assert cloud.counter("novanet_identity_handovers_hurried_total") == hurried + (not away)
    finally:
        if away:
            third.start_vswitchd()
        else:
            os.kill(third.vswitchd_pid, signal.SIGCONT)
        for ping in running:
            ping.stop()
    cloud.wait_active("ports", pair.client.port["id"])
    change(cloud, pair.client, security_groups=[pair.clients], labels={})


def is_silent(ping: BackgroundPing) -> bool:
    """Whether the latest requests have no answers."""
    (had,) = more([ping], 20)
    return ping.so_far().received == had.received
