"""Load balancers with a floating IP: clients outside, VMs behind the router, and those of other tenants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.balancing import Balancer, Held, ask, names, server
from tests.lab.cloud import Cloud, until
from tests.lab.outside import PHYSICAL, WORLD, WORLD6, World, address, built, reaches

VERSIONS = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
FORMS = pytest.mark.parametrize("form", ["network", "router"])


class Site:
    """A world with a second network behind the router. Members in the first on two hypervisors, and one in the second on the
    third; load balancers by form and IP version, each with a floating IP."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world, self.cloud = world, world.cloud
        self.other = self.cloud.network("10.20.0.0/24", "fd20::/64")
        self.cloud.api.post("/v1/ports", {"network_id": self.other["id"], "router_id": world.router["id"]})
        self.members = [self.cloud.vm(world.network, 0), self.cloud.vm(world.network, 1), self.cloud.vm(self.other, 2)]
        for number, member in enumerate(self.members):
            stack.enter_context(server(member, f"m{number}", tcp=[8080], udp=[8080]))
        self.balancers = {
            (form, six): self._balancer(form, six) for form in ("network", "router") for six in (False, True)
        }
        self.floating = {
            key: self._floating(balancer, key[1])["floating_ip_address"] for key, balancer in self.balancers.items()
        }

    def _balancer(self, form: str, six: bool) -> Balancer:
        where: dict[str, Any] = {"vip_subnet_id": self.world.network["subnets"][six]["id"]}
        if form == "router":
            where = {"router_id": self.world.router["id"], "vip_address": "fd96::1" if six else "10.96.0.1"}
        balancer = Balancer(self.cloud, **where)
        balancer.serve(80, *self.members, six=six)
        balancer.serve(53, *self.members, six=six, protocol="UDP")
        return balancer

    def _floating(self, balancer: Balancer, six: bool) -> dict[str, Any]:
        made = self.cloud.api.post(
            "/v1/floating-ips",
            {
                "floating_network_id": self.world.external["id"],
                "subnet_id": self.world.subnet(six)["id"],
                "loadbalancer_id": balancer.id,
            },
        )
        balancer.wait()
        return made


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Cloud(3, mesh={"tunnel_type": request.param}, provider=PHYSICAL) as cloud, ExitStack() as stack:
        yield Site(built(cloud), stack)


def spread(answers: list[str], client: str) -> None:
    """All were answered, each member has some (of 30, one of three has none once in 60,000), and all saw who asks."""
    assert len(answers) >= 30 and set(names(answers, client)) == {"m0", "m1", "m2"}, answers


@FORMS
@VERSIONS
def test_clients_outside_reach_members_everywhere_and_are_seen_as_they_are(site: Site, form: str, six: bool) -> None:
    floating, client = site.floating[form, six], WORLD6 if six else WORLD
    world = site.world.outside
    until("the way is known", lambda: reaches(world, floating))
    spread(ask(world, floating, 80, count=40), client)
    spread(ask(world, floating, 53, count=40, kind="udp"), client)
    assert sum(names(ask(world, floating, 80, count=12, size=1_000_000), client).values()) == 12


@FORMS
@VERSIONS
def test_what_is_not_served_is_refused_and_ping_is_answered(site: Site, form: str, six: bool) -> None:
    floating, world = site.floating[form, six], site.world.outside
    until("the way is known", lambda: reaches(world, floating))
    assert world.ping(floating, count=3).received == 3
    for kind in ("tcp", "udp"):
        assert ask(world, floating, 4444, kind=kind) == ["ConnectionRefusedError"], kind


@FORMS
@VERSIONS
def test_vms_behind_the_router_are_served_where_they_are(site: Site, form: str, six: bool) -> None:
    """Without the gateway: members see the VM's own address."""
    floating = site.floating[form, six]
    for hypervisor in range(3):
        client = site.cloud.vm(site.other, hypervisor)
        spread(ask(client, floating, 80, count=30), client.ip6 if six else client.ip)
        assert reaches(client, floating)
    answers = [answer.split() for answer in ask(site.members[0], floating, 80, count=30)]
    own = site.members[0].ip6 if six else site.members[0].ip
    assert {(name, client) for name, client, *_ in answers} == {("m0", floating), ("m1", own), ("m2", own)}


@VERSIONS
def test_other_tenants_come_by_their_own_gateway(site: Site, six: bool) -> None:
    network = site.cloud.network("10.10.0.0/24", "fd10::/64")  # the same addresses
    router = site.cloud.router(network, site.world.external)
    outer = address(next(each for each in router["interfaces"] if each["network_id"] == site.world.external["id"]), six)
    floating = site.floating["network", six]
    for hypervisor in range(3):
        client = site.cloud.vm(network, hypervisor)
        until("the way is known", lambda client=client: reaches(client, floating))
        spread(ask(client, floating, 80, count=30), outer)
        spread(ask(client, floating, 53, count=30, kind="udp"), outer)


@VERSIONS
def test_without_source_nat_clients_come_by_either_address(site: Site, six: bool) -> None:
    world = site.world
    routes = [("10.10.0.0/24", "fd10::/64")[six], ("10.20.0.0/24", "fd20::/64")[six], ("10.96.0.1", "fd96::1")[six]]
    site.cloud.api.patch(f"/v1/routers/{world.router['id']}", {"enable_snat": False})
    for route in routes:
        world.outside.exec(["ip", "route", "replace", route, "via", address(world.gateway, six)])
    try:
        for form in ("network", "router"):
            for to in (site.balancers[form, six].vip, site.floating[form, six]):
                until("the way is known", lambda to=to: reaches(world.outside, to))
                spread(ask(world.outside, to, 80, count=30), WORLD6 if six else WORLD)
                spread(ask(world.outside, to, 53, count=30, kind="udp"), WORLD6 if six else WORLD)
                assert ask(world.outside, to, 4444, kind="udp") == ["ConnectionRefusedError"]
        member = site.members[2]
        direct = ask(world.outside, member.ip6 if six else member.ip, 8080, count=5)
        assert names(direct, WORLD6 if six else WORLD) == {"m2": 5}, "nor is anything else in its way"
    finally:
        site.cloud.api.patch(f"/v1/routers/{world.router['id']}", {"enable_snat": True})
        for route in routes:
            world.outside.exec(["ip", "route", "del", route])


def test_members_policies_are_asked_about_the_client_outside(site: Site) -> None:
    closed = site.cloud.api.post("/v1/security-groups", {"name": "closed"})["id"]
    member = site.cloud.vm(site.world.network, 2, security_groups=[closed])
    balancer = Balancer(site.cloud, vip_network_id=site.world.network["id"])
    floating = site._floating(balancer, six=False)["floating_ip_address"]
    with server(member, "guarded", tcp=[8080]):
        balancer.serve(80, member)
        until("the way is known", lambda: reaches(site.world.outside, floating))
        assert ask(site.world.outside, floating, 80) == ["TimeoutError"]
        for prefix, allowed in (("203.0.113.77/32", False), (f"{WORLD}/32", True)):
            rule = {"direction": "ingress", "protocol": "tcp", "port_range_min": 8080, "port_range_max": 8080}
            made = site.cloud.api.post(
                "/v1/security-group-rules", {"security_group_id": closed, "remote_ip_prefix": prefix, **rule}
            )
            site.cloud.wait_active("security-group-rules", made["id"])
            assert (ask(site.world.outside, floating, 80) == ["TimeoutError"]) is not allowed


def test_a_floating_ip_that_is_taken_away_leads_nowhere(site: Site) -> None:
    balancer = Balancer(site.cloud, vip_network_id=site.world.network["id"])
    made = site._floating(balancer, six=False)
    balancer.serve(80, *site.members)
    until("the way is known", lambda: reaches(site.world.outside, made["floating_ip_address"]))
    site.cloud.api.patch(f"/v1/load-balancers/{balancer.id}", {"admin_state_up": False})
    until("it is down", lambda: not reaches(site.world.outside, made["floating_ip_address"]))
    site.cloud.api.patch(f"/v1/load-balancers/{balancer.id}", {"admin_state_up": True})
    until("it is up", lambda: reaches(site.world.outside, made["floating_ip_address"]))
    site.cloud.api.patch(f"/v1/floating-ips/{made['id']}", {"loadbalancer_id": None})
    until("it is nobody's", lambda: not reaches(site.world.outside, made["floating_ip_address"]))


# --- gateways that die -------------------------------------------------------------------------------------------

TICKER = """
import socket, time
server = socket.create_server(("::", 8081), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
connection, _ = server.accept()
for number in range(10_000):
    connection.sendall(f"{number}\\n".encode())
    time.sleep(0.05)
"""
LISTENER = """
import socket, sys
for line in socket.create_connection((sys.argv[1], int(sys.argv[2]))).makefile():
    print(line, end="", flush=True)
"""


@pytest.mark.parametrize("died", ["the underlay", "vswitchd"])
@VERSIONS
def test_connections_outlive_their_gateway(six: bool, died: str) -> None:
    """The next gateway knows none of them. Whoever sends first, they go on: by the same table, to the same member."""
    with Cloud(3, provider=PHYSICAL) as cloud, ExitStack() as stack:
        world = built(cloud)
        until("gateways are watched", lambda: world.shown["gateway_watched"])
        first, second, third = world.order()
        members = [cloud.vm(world.network, number) for number in (second, second, third, third)]
        for number, member in enumerate(members):
            stack.enter_context(server(member, f"m{number}", tcp=[8080], udp=[8080]))
        balancer = Balancer(cloud, vip_subnet_id=world.network["subnets"][six]["id"])
        wanted = {"floating_network_id": world.external["id"], "subnet_id": world.subnet(six)["id"]}
        made = cloud.api.post("/v1/floating-ips", {**wanted, "loadbalancer_id": balancer.id})
        balancer.serve(80, *members, six=six)
        balancer.serve(53, *members, six=six, protocol="UDP")
        balancer.serve(81, members[0], six=six, to=8081)
        floating = made["floating_ip_address"]
        until("the way is known", lambda: reaches(world.outside, floating))
        ticker = members[0].popen(["python3", "-c", TICKER], stdout=-1, text=True)
        assert ticker.stdout.readline() == "ready\n"
        listener = world.outside.popen(["python3", "-c", LISTENER, floating, "81"], stdout=-1, text=True)
        assert listener.stdout.readline() == "0\n"
        with (
            Held(world.outside, floating, 80, count=20) as held,
            Held(world.outside, floating, 53, count=20, kind="udp") as asked,
        ):
            assert len({*held.names}) > 1
            gateway = cloud.lab.hypervisors[first]
            if died == "vswitchd":
                gateway.kill_vswitchd()
            else:
                gateway.link_down()
            until("the next gateway is active", lambda: world.active() == second)
            until("the outside has noticed", lambda: reaches(world.outside, floating))
            assert held.ask() == held.names
            assert asked.ask() == asked.names
            seen = int(listener.stdout.readline())
            for number in range(seen + 1, seen + 60):
                assert listener.stdout.readline() == f"{number}\n"
        for process in (listener, ticker):
            process.kill()
            process.communicate()
