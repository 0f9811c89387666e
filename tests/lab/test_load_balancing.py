"""Load balancers with real packets: on the client's hypervisor, to members anywhere, over every kind of tunnel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .balancing import Balancer, ask, names, server
from .cloud import Cloud


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with Cloud(2, mesh={"tunnel_type": request.param}) as cloud:
        yield cloud


class Site:
    """Two networks joined by a router. In the first a client, a member beside it and one on the other hypervisor, in the
    second a client and a member on either."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self.cloud = cloud
        self.network = cloud.network("10.1.0.0/24", "fd01::/64")
        self.other = cloud.network("10.2.0.0/24", "fd02::/64")
        self.router = cloud.router(self.network, self.other)
        self.client = cloud.vm(self.network, 0)
        self.near = cloud.vm(self.network, 0)
        self.far = cloud.vm(self.network, 1)
        self.guest = cloud.vm(self.other, 0)
        self.behind = cloud.vm(self.other, 1)
        for name in ("near", "far", "guest", "behind"):
            stack.enter_context(server(getattr(self, name), name, tcp=[8080, 9001, 9002], udp=[8080]))


@pytest.fixture(scope="module")
def site(cloud: Cloud) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(cloud, stack)


@pytest.fixture(scope="module")
def balancer(site: Site) -> Balancer:
    """In the first network: TCP port 80 and UDP port 53 of its VMs."""
    made = Balancer(site.cloud, vip_network_id=site.network["id"])
    made.serve(80, site.near, site.far)
    made.serve(53, site.near, site.far, protocol="UDP")
    return made


@pytest.fixture(scope="module")
def balancer6(site: Site) -> Balancer:
    """The same with IPv6."""
    [subnet] = [subnet for subnet in site.network["subnets"] if subnet["ip_version"] == 6]
    made = Balancer(site.cloud, vip_subnet_id=subnet["id"])
    made.serve(80, site.near, site.far, six=True)
    made.serve(53, site.near, site.far, protocol="UDP", six=True)
    return made


def spread(answers: list[str], client: str, *members: str) -> None:
    """All were answered, by each of these members at least every tenth time, and saw who asks."""
    found = names(answers, client)
    assert set(found) == set(members) and min(found.values()) >= len(answers) / 10, found


def test_connections_are_spread_over_members_here_and_there(
    site: Site, balancer: Balancer, balancer6: Balancer
) -> None:
    spread(ask(site.client, balancer.vip, 80, count=40), site.client.ip, "near", "far")
    spread(ask(site.client, balancer6.vip, 80, count=40), site.client.ip6, "near", "far")


def missed(cloud: Cloud) -> int:
    """Packets that the datapath of the first hypervisor has asked ovs-vswitchd about."""
    found = re.search(r"missed:(\d+)", cloud.lab.hypervisors[0].appctl("dpctl/show", "-s"))
    assert found is not None
    return int(found[1])


def test_the_switch_does_not_ask_about_each_connection(site: Site) -> None:
    made = Balancer(site.cloud, vip_network_id=site.network["id"])
    made.serve(80, site.near, site.far, table_size=251)
    ask(site.client, made.vip, 80, count=1000)
    before = missed(site.cloud)
    spread(ask(site.client, made.vip, 80, count=300), site.client.ip, "near", "far")
    assert missed(site.cloud) - before < 150


def test_any_prime_number_of_slots_is_dealt(site: Site) -> None:
    """Of 512 numbers that the datapath hashes to, 229 are no slots."""
    made = Balancer(site.cloud, vip_network_id=site.network["id"])
    made.serve(80, site.near, site.far, table_size=283)
    spread(ask(site.client, made.vip, 80, count=300), site.client.ip, "near", "far")


def test_datagrams_as_well(site: Site, balancer: Balancer, balancer6: Balancer) -> None:
    spread(ask(site.client, balancer.vip, 53, count=40, kind="udp"), site.client.ip, "near", "far")
    spread(ask(site.client, balancer6.vip, 53, count=40, kind="udp"), site.client.ip6, "near", "far")


def test_clients_come_through_routers(site: Site, balancer: Balancer, balancer6: Balancer) -> None:
    for client in (site.guest, site.behind):
        spread(ask(client, balancer.vip, 80, count=30), client.ip, "near", "far")
        spread(ask(client, balancer6.vip, 80, count=30), client.ip6, "near", "far")


def test_members_may_be_behind_routers(site: Site) -> None:
    for six in (False, True):
        [subnet] = [subnet for subnet in site.network["subnets"] if subnet["ip_version"] == (6 if six else 4)]
        balancer = Balancer(site.cloud, vip_subnet_id=subnet["id"])
        balancer.serve(81, site.guest, site.behind, six=six)
        for client in (site.client, site.far):
            seen = client.ip6 if six else client.ip
            spread(ask(client, balancer.vip, 81, count=30), seen, "guest", "behind")


def test_a_member_reaches_itself_and_the_others(site: Site, balancer: Balancer, balancer6: Balancer) -> None:
    for member, name, other in ((site.near, "near", "far"), (site.far, "far", "near")):
        for vip, port, kind in ((balancer.vip, 80, "tcp"), (balancer6.vip, 80, "tcp"), (balancer.vip, 53, "udp")):
            answers = [answer.split() for answer in ask(member, vip, port, count=30, kind=kind)]
            by_itself = {answer[1] for answer in answers if answer[0] == name}
            by_other = {answer[1] for answer in answers if answer[0] == other}
            assert by_itself == {vip} and by_other == {member.ip6 if ":" in vip else member.ip}, answers


def test_large_datagrams_come_in_fragments(site: Site, balancer: Balancer, balancer6: Balancer) -> None:
    for client in (site.client, site.guest):
        for vip, seen in ((balancer.vip, client.ip), (balancer6.vip, client.ip6)):
            found = names(ask(client, vip, 53, count=10, kind="udp", size=5000), seen)
            assert set(found) <= {"near", "far"} and found.total() == 10, found


def test_much_data_goes_through(site: Site, balancer: Balancer) -> None:
    spread(ask(site.client, balancer.vip, 80, count=20, size=3_000_000), site.client.ip, "near", "far")
    spread(ask(site.guest, balancer.vip, 80, count=20, size=3_000_000), site.guest.ip, "near", "far")


def test_the_address_answers_ping(site: Site, balancer: Balancer, balancer6: Balancer) -> None:
    for vm in (site.client, site.far, site.guest, site.behind):
        for vip in (balancer.vip, balancer6.vip):
            assert vm.ping(vip, count=2).received == 2, f"{vm} -> {vip}"


def test_where_nobody_listens_connections_are_refused(site: Site, balancer: Balancer, balancer6: Balancer) -> None:
    for vip in (balancer.vip, balancer6.vip):
        for client in (site.client, site.guest):
            for kind in ("tcp", "udp"):
                assert ask(client, vip, 4444, kind=kind) == ["ConnectionRefusedError"], (client, vip, kind)


def test_a_member_that_does_not_listen_refuses(site: Site) -> None:
    balancer = Balancer(site.cloud, vip_network_id=site.network["id"])
    balancer.serve(80, site.far, to=1234)
    balancer.serve(80, site.far, to=1234, protocol="UDP")
    for client in (site.client, site.guest):
        for kind in ("tcp", "udp"):
            assert ask(client, balancer.vip, 80, kind=kind) == ["ConnectionRefusedError"], (client, kind)


def test_a_range_of_ports_keeps_them(site: Site) -> None:
    balancer = Balancer(site.cloud, vip_network_id=site.network["id"])
    pool = balancer.pool()
    member = balancer.member(pool, site.far.ip, None)
    balancer.wait(listeners=[balancer.listener(9000, pool, protocol_port_max=9002)], members=[member])
    for port in (9001, 9002):
        assert names(ask(site.client, balancer.vip, port), site.client.ip) == {"far": 1}
    assert ask(site.client, balancer.vip, 9003) == ["ConnectionRefusedError"]


def test_an_address_of_a_router(site: Site) -> None:
    balancer = Balancer(site.cloud, router_id=site.router["id"], vip_address="10.96.0.1")
    balancer.serve(80, site.near, site.behind)
    for client in (site.client, site.guest):
        spread(ask(client, balancer.vip, 80, count=30), client.ip, "near", "behind")
        assert client.ping(balancer.vip, count=2).received == 2
    assert {answer.split()[0] for answer in ask(site.near, balancer.vip, 80, count=20)} == {"near", "behind"}


def test_weights_and_draining(site: Site) -> None:
    balancer = Balancer(site.cloud, vip_network_id=site.network["id"])
    pool = balancer.serve(80, site.near, site.far)
    one, other = pool["members"]
    balancer.change(one, weight=0)
    assert names(ask(site.client, balancer.vip, 80, count=20), site.client.ip) == {"far": 20}
    balancer.change(other, weight=0)
    assert ask(site.client, balancer.vip, 80) == ["ConnectionRefusedError"]
    balancer.change(one, weight=1)
    balancer.change(other, weight=9)
    found = names(ask(site.client, balancer.vip, 80, count=100), site.client.ip)
    assert found["near"] < 30 < found["far"], found


def test_the_members_policy_is_asked_of_clients_without_state(site: Site) -> None:
    """A stateless group judges what goes to the member, whatever conntrack knows of it in the load balancer's zone."""
    api = site.cloud.api
    group = api.post("/v1/security-groups", {"name": "stateless", "stateful": False})["id"]
    [default] = {*api.get(f"/v1/ports/{site.near.port['id']}")["security_groups"]}
    open_to = {"security_group_id": default, "direction": "ingress", "remote_group_id": group}
    allowed = api.post("/v1/security-group-rules", open_to)["id"]
    client = site.cloud.vm(site.network, 0, security_groups=[group])
    balancer = Balancer(site.cloud, vip_network_id=site.network["id"])
    pool = balancer.pool()
    ports = (8080, 9001, 9002)
    members = [balancer.member(pool, vm.ip, port) for vm in (site.near, site.far) for port in ports]
    balancer.wait(listeners=[balancer.listener(80, pool)], members=members)
    assert set(ask(client, balancer.vip, 80, count=3)) == {"TimeoutError"}, "no rule allows it"
    for rule in ({"direction": "egress", "protocol": "tcp", "port_range_min": 8080, "port_range_max": 8080},
                 {"direction": "ingress", "protocol": "tcp"}):  # fmt: skip
        made = api.post("/v1/security-group-rules", {"security_group_id": group, **rule})
        site.cloud.wait_active("security-group-rules", made["id"])
    answers = ask(client, balancer.vip, 80, count=18)
    refused = answers.count("TimeoutError")
    assert (
        4 <= refused <= 16
        and len(answers) - refused == names([a for a in answers if a != "TimeoutError"], client.ip).total()
    )
    for member in members:
        if member["protocol_port"] != 8080:
            api.delete(f"/v1/members/{member['id']}")
    site.cloud.wait_active("pools", pool["id"])
    spread(ask(client, balancer.vip, 80, count=30), client.ip, "near", "far")
    api.delete(f"/v1/security-group-rules/{allowed}")
