"""ICMP errors about packets for load balancers: whoever asked is told, of the address that it asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.balancing import Balancer, ask, names, server
from tests.lab.cloud import Cloud, until
from tests.lab.outside import PHYSICAL, World, address, built, reaches

SMALLER = 1300
"""Bytes: the MTU of the network in which the members of some pools are."""
NOBODY, SMALL = 50, 51
"""UDP ports: of a pool whose member does not listen, and of one whose member is in the smaller network."""
TOLD = r"""
import errno, json, socket, struct, sys
host, port, ttl, size = sys.argv[1], *map(int, sys.argv[2:])
six = ":" in host
client = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
level, recverr, hops, discover = (41, 25, 16, 23) if six else (0, 11, 2, 10)
client.setsockopt(level, recverr, 1)
client.setsockopt(level, hops, ttl)
client.setsockopt(level, discover, 3)  # IP_PMTUDISC_PROBE: the size is ours to say, and what others were told does not matter
client.settimeout(3)
client.connect((host, port))
client.send(b"x" * size)
try:
    client.recv(65536)
except OSError:
    pass
client.setblocking(False)
try:
    _, (control,), *_ = client.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    number, origin, kind, code, _, info, _ = struct.unpack_from("=IBBBBII", control[2])
    at = control[2][16:]
    offender = socket.inet_ntop(socket.AF_INET6, at[8:24]) if six else socket.inet_ntop(socket.AF_INET, at[4:8])
    print(json.dumps([errno.errorcode[number], offender, info]))
except BlockingIOError:
    print(json.dumps(None))
"""


def told(vm: Any, host: str, port: int, ttl: int = 64, size: int = 100) -> tuple[str, str, int] | None:
    """The error that a UDP datagram brought: its name, who sent it, and the MTU told."""
    argv = [sys.executable, "-c", TOLD, host, str(port), str(ttl), str(size)]
    out, _ = vm.popen(argv, stdout=subprocess.PIPE, text=True).communicate(timeout=20)
    found = json.loads(out)
    return None if found is None else tuple(found)


class Site:
    """A world with a second network behind the router, of a smaller MTU; load balancers in the first network and on the router,
    each with a floating IP; and who asks them: a VM of the first network, one of another tenant, and a host outside."""

    def __init__(self, world: World, stack: ExitStack, hypervisors: int) -> None:
        self.world, self.cloud, self.last = world, world.cloud, hypervisors - 1
        self.small = self.cloud.network("10.20.0.0/24", "fd20::/64", mtu=SMALLER)
        self.cloud.api.post("/v1/ports", {"network_id": self.small["id"], "router_id": world.router["id"]})
        self.members = [self.cloud.vm(world.network, 0), self.cloud.vm(world.network, self.last)]
        self.member = self.cloud.vm(self.small, self.last)
        for name, vm in (("near", self.members[0]), ("far", self.members[1]), ("small", self.member)):
            stack.enter_context(server(vm, name, tcp=[8080], udp=[8080]))
        self.tenant = self.cloud.network("10.10.0.0/24", "fd10::/64")  # the same addresses
        router = self.cloud.router(self.tenant, world.external)
        self.outer = next(each for each in router["interfaces"] if each["network_id"] == world.external["id"])
        self.near, self.other = self.cloud.vm(world.network, 0), self.cloud.vm(self.tenant, 0)
        self.asked = {(form, six): self._balancer(form, six) for form in ("network", "router") for six in (False, True)}
        for form, six in list(self.asked):
            self.asked[f"floating {form}", six] = self._floating(form, six)
        self.addresses = {key: str(address) for key, (_, address) in self.asked.items()}

    def _balancer(self, form: str, six: bool) -> tuple[Balancer, str]:
        where: dict[str, Any] = {"vip_subnet_id": self.world.network["subnets"][six]["id"]}
        if form == "router":
            where = {"router_id": self.world.router["id"], "vip_address": "fd96::1" if six else "10.96.0.1"}
        balancer = Balancer(self.cloud, **where)
        balancer.serve(NOBODY, self.members[1], six=six, protocol="UDP", to=9999)
        balancer.serve(SMALL, self.member, six=six, protocol="UDP")
        return balancer, balancer.vip

    def _floating(self, form: str, six: bool) -> tuple[Balancer, str]:
        balancer, _ = self.asked[form, six]
        return balancer, self.lead(balancer, six)

    def lead(self, balancer: Balancer, six: bool) -> str:
        """A floating IP that leads to a load balancer."""
        wanted = {"floating_network_id": self.world.external["id"], "subnet_id": self.world.subnet(six)["id"]}
        made = self.cloud.api.post("/v1/floating-ips", {**wanted, "loadbalancer_id": balancer.id})
        balancer.wait()
        return str(made["floating_ip_address"])

    def clients(self, form: str) -> Iterator[tuple[Any, int]]:
        """Who reaches a load balancer's address, and over how many routers to the small network."""
        yield self.near, 1
        if "floating" in form:
            yield self.other, 2
            yield self.world.outside, 1


@pytest.fixture(scope="module", params=[1, 2], ids=["one hypervisor", "two hypervisors"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Cloud(request.param, provider=PHYSICAL) as cloud, ExitStack() as stack:
        yield Site(built(cloud), stack, request.param)
        for hypervisor in cloud.lab.hypervisors:
            assert hypervisor.appctl("coverage/read-counter", "datapath_drop_recirc_error").strip() == "0"


FORMS = pytest.mark.parametrize("form", ["network", "router", "floating network", "floating router"])
VERSIONS = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


@FORMS
@VERSIONS
def test_a_port_that_nobody_listens_at(site: Site, form: str, six: bool) -> None:
    to = site.addresses[form, six]
    for client, _ in site.clients(form):
        until("the way is known", lambda client=client: reaches(client, to))
        assert told(client, to, NOBODY) == ("ECONNREFUSED", to, 0)
    if "floating" not in form:
        assert told(site.members[1], to, NOBODY) == ("ECONNREFUSED", to, 0), "the member itself"


@FORMS
@VERSIONS
def test_a_packet_that_is_too_large_for_the_members_network(site: Site, form: str, six: bool) -> None:
    to = site.addresses[form, six]
    for client, _ in site.clients(form):
        until("the way is known", lambda client=client: reaches(client, to))
        assert told(client, to, SMALL, size=SMALLER - (48 if six else 28)) is None
        name, offender, mtu = told(client, to, SMALL, size=SMALLER - (48 if six else 28) + 1) or ("", "", 0)
        assert (name, offender) == ("EMSGSIZE", to)
        # conntrack in user space takes half of the number for the checksum of what ICMPv6 quotes (docs/decisions/0017)
        assert mtu == SMALLER or six


@FORMS
@VERSIONS
def test_a_packet_that_has_passed_too_many_routers(site: Site, form: str, six: bool) -> None:
    to = site.addresses[form, six]
    for client, routers in site.clients(form):
        until("the way is known", lambda client=client: reaches(client, to))
        assert told(client, to, SMALL, ttl=routers) == ("EHOSTUNREACH", to, 0)
        assert told(client, to, SMALL, ttl=routers + 1) is None


@VERSIONS
def test_first_datagrams_arrive_wherever_all_are(site: Site, six: bool) -> None:
    """Whole and in fragments: on one hypervisor they pass its switch as often as it lets any."""
    balancer = Balancer(site.cloud, vip_subnet_id=site.world.network["subnets"][six]["id"])
    balancer.serve(53, *site.members, six=six, protocol="UDP")
    floating = site.lead(balancer, six)
    for client, to, seen in (
        (site.near, balancer.vip, site.near.ip6 if six else site.near.ip),
        (site.near, floating, site.near.ip6 if six else site.near.ip),
        (site.other, floating, address(site.outer, six)),
    ):
        until("the way is known", lambda client=client, to=to: reaches(client, to))
        for size in (100, 3000):
            answers = names(ask(client, to, 53, count=16, kind="udp", size=size), seen)
            assert sum(answers.values()) == 16
