"""Numbers of load balancers, held against what clients did: connections, packets, bytes, shares, and slots that moved."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tools.lab import VM

from .balancing import Balancer, ask, server
from .cloud import Cloud, until

ETHERNET, UDP, FRAGMENT = 14, 8, 8
"""Bytes of headers; an IPv6 header says in eight more that it is a fragment's."""


class Site:
    """Two networks joined by a router. In the first a client on either hypervisor and a member on either, in the other a client."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self.cloud = cloud
        self.network, self.other = cloud.network("10.1.0.0/24", "fd01::/64"), cloud.network("10.2.0.0/24", "fd02::/64")
        cloud.router(self.network, self.other)
        self.clients = [cloud.vm(self.network, 0), cloud.vm(self.network, 1)]
        self.guest = cloud.vm(self.other, 1)
        self.near, self.far = cloud.vm(self.network, 0), cloud.vm(self.network, 1)
        for name in ("near", "far"):
            stack.enter_context(server(getattr(self, name), name, tcp=[8080, 8081], udp=[8080]))


class Shop:
    """A load balancer of the site, and a pool of both members: port 80."""

    def __init__(self, site: Site, six: bool = False, protocol: str = "TCP", **pool: Any) -> None:
        [subnet] = [each for each in site.network["subnets"] if each["ip_version"] == (6 if six else 4)]
        self.site, self.six, self.protocol = site, six, protocol
        self.balancer = Balancer(site.cloud, vip_subnet_id=subnet["id"])
        self.pool = self.balancer.serve(80, site.near, site.far, six=six, protocol=protocol, **pool)
        self.members = dict(zip(("near", "far"), self.pool["members"], strict=True))

    def ask(self, client: VM, count: int, size: int = 100) -> list[str]:
        return ask(client, self.balancer.vip, 80, count=count, kind=self.protocol.lower(), size=size)

    def statistics(self) -> dict[str, Any]:
        """As it is told of the load balancer, which has this pool only."""
        told = self.site.cloud.api.get(f"/v1/load-balancers/{self.balancer.id}/statistics")
        [pool] = told["pools"]
        assert pool == self.site.cloud.api.get(f"/v1/pools/{self.pool['id']}/statistics")
        for name in ("total_connections", "packets_in", "bytes_in", "packets_out", "bytes_out"):
            assert told[name] == pool[name] >= sum(each[name] for each in pool["members"])
        return dict(pool)

    def of(self, member: str) -> dict[str, Any]:
        [found] = [each for each in self.statistics()["members"] if each["member_id"] == self.members[member]["id"]]
        return dict(found)

    def counts(self, expected: dict[str, Any]) -> None:
        """Until these are the numbers of each of these members; switches count some seconds late."""

        def told() -> dict[str, Any]:
            return {name: {field: self.of(name)[field] for field in fields} for name, fields in expected.items()}

        until(f"{expected}", lambda: told() == expected or print(told()), timeout=30, interval=1.0)

    def connections(self, **expected: int) -> None:
        self.counts({name: {"total_connections": count} for name, count in expected.items()})


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Cloud(2) as cloud, ExitStack() as stack:
        yield Site(cloud, stack)


def answered(answers: list[str]) -> Counter[str]:
    """By whom; nobody was left without an answer."""
    assert all(len(answer.split()) == 4 for answer in answers), answers
    return Counter(answer.split()[0] for answer in answers)


SIX = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


@SIX
def test_datagrams_are_counted_to_the_byte(site: Site, six: bool) -> None:
    shop = Shop(site, six=six, protocol="UDP")
    headers = ETHERNET + (40 if six else 20) + UDP
    expected: dict[str, Counter[str]] = {"near": Counter(), "far": Counter()}
    for client in (*site.clients, site.guest):
        for answer in shop.ask(client, 20, size=333):
            name, host, port, _ = answer.split()
            there = len(f"{name} {host} {port} ")
            expected[name].update(
                total_connections=1,
                packets_in=1,
                bytes_in=headers + 333,
                packets_out=1,
                bytes_out=headers + there + 333,
            )
    shop.counts({name: dict(counts) for name, counts in expected.items()})


@SIX
def test_fragments_are_packets_of_one_connection(site: Site, six: bool) -> None:
    shop = Shop(site, six=six, protocol="UDP")
    found = answered(shop.ask(site.clients[0], 10, size=5000) + shop.ask(site.guest, 10, size=5000))
    shop.counts(
        {name: {"total_connections": n, "packets_in": 4 * n, "packets_out": 4 * n} for name, n in found.items()}
    )


def sent(vm: VM) -> tuple[int, int]:
    """Bytes that a VM has sent and received."""
    argv = ["cat", *(f"/sys/class/net/eth0/statistics/{way}_bytes" for way in ("tx", "rx"))]
    out, _ = vm.popen(argv, private=True, stdout=subprocess.PIPE, text=True).communicate()
    one, other = map(int, out.split())
    return one, other


@SIX
def test_streams_are_counted_as_long_as_they_last(site: Site, six: bool) -> None:
    """What clients' interfaces have counted is that, and little else."""
    shop = Shop(site, six=six)
    for client in (*site.clients, site.guest):
        _streams(shop, client)


def _streams(shop: Shop, client: VM) -> None:
    before, had = sent(client), shop.statistics()
    found = answered(shop.ask(client, 12, size=200_000))
    there, back = (now - was for now, was in zip(sent(client), before, strict=True))

    def told() -> bool:
        now = shop.statistics()
        new = {name: now[name] - had[name] for name in ("total_connections", "bytes_in", "bytes_out")}
        print(new, there, back, found)
        return (
            new["total_connections"] == 12
            and 0.99 * there < new["bytes_in"] <= there
            and 0.99 * back < new["bytes_out"] <= back
        )

    until(f"{there} and {back} bytes", told, timeout=30, interval=1.0)


@SIX
def test_what_a_member_sends_itself_counts_as_any(site: Site, six: bool) -> None:
    for protocol in ("TCP", "UDP"):
        shop = Shop(site, six=six, protocol=protocol)
        found = answered(shop.ask(site.near, 20))
        shop.connections(**found)
        near, far = shop.of("near"), shop.of("far")
        for name in ("packets_in", "bytes_in", "packets_out", "bytes_out"):
            one, other = (had[name] / had["total_connections"] for had in (near, far))
            assert 0.7 * other <= one <= 1.4 * other, (protocol, name, near, far)
