"""Admission of routers, their interfaces and routes."""

from __future__ import annotations

from typing import Any

import pytest

from topology.admission import Allocator
from topology.admission.allocation import ROUTER_KEY
from topology.model import PolicyRoute, StaticRoute, encode

from .test_admission import World, refusal

NOBODY = "aaaaaaaa-0000-4000-8000-000000000009"


class Routed(World):
    """A network with a subnet of each IP version, an external network, and a router."""

    def __init__(self) -> None:
        super().__init__()
        self.blue, self.four, self.six = self.joined("10.0.0.0/24", "2001:db8:0:1::/64")
        self.outside = self.create("network", external=True, physical_network="public", name="outside")
        self.public = self.create("subnet", network_id=self.outside.id, cidr="192.0.2.0/24")
        self.router = self.create("router", name="edge")

    def joined(self, *cidrs: str, project: str = "") -> tuple[Any, ...]:
        """A network and its subnets."""
        network = self.create("network", project_id=project)
        return network, *(self.create("subnet", network_id=network.id, cidr=cidr) for cidr in cidrs)

    def join(self, network: Any, router: Any = None, project: str | None = None, **fields: Any) -> Any:
        """An interface of a router in a network."""
        return self.create("port", project, network_id=network.id, router_id=(router or self.router).id, **fields)

    def now(self, obj: Any) -> Any:
        return self.topology.get(obj.KIND, obj.id)


def addresses(port: Any) -> list[str]:
    return [fixed.ip_address for fixed in port.fixed_ips]


@pytest.fixture
def world() -> Routed:
    return Routed()


# --- routers -----------------------------------------------------------------------------------------------------


def test_a_router_gets_a_key_that_fits_a_conntrack_zone(world: Routed) -> None:
    keys = {world.create("router").router_key for _ in range(50)}
    assert len(keys) == 50 and all(1 <= key <= 16383 for key in keys)
    assert world.patch(world.router, name="other").router_key == world.router.router_key
    with refusal(400, "router_key", "set by NovaNet"):
        world.create("router", router_key=7)
    full = dict.fromkeys(range(1, 16384), "x")
    with refusal(409, "router_key", "16383"):
        Allocator(world.allocator._random).number(full, ROUTER_KEY, "router_key")


def test_gateway_hypervisors_exist_are_listed_once_and_are_the_administrators(world: Routed) -> None:
    host = world.create("hypervisor", name="h1")
    with refusal(404, "gateway_hypervisors[0].hypervisor_id", NOBODY):
        world.patch(world.router, gateway_hypervisors=[{"hypervisor_id": NOBODY}])
    twice = [{"hypervisor_id": host.id, "priority": 1}, {"hypervisor_id": host.id, "priority": 2}]
    with refusal(400, "gateway_hypervisors[1].hypervisor_id", "twice"):
        world.patch(world.router, gateway_hypervisors=twice)
    with refusal(403, "gateway_hypervisors", "administrators"):
        world.create("router", "us", gateway_hypervisors=twice[:1])
    made = world.patch(world.router, gateway_hypervisors=twice[:1])
    assert made.gateway_hypervisors[0].hypervisor_id == host.id
    with refusal(409, "", "edge"):
        world.delete(host)
    theirs = world.create("router", "us", gateway_hypervisors=[])
    named = world.patch(theirs, gateway_hypervisors=twice[:1])
    kept = world.replace("router", theirs.id, "us", name="renamed")
    assert kept.gateway_hypervisors == named.gateway_hypervisors, "it is not the tenant's to clear"
    assert world.replace("router", theirs.id, name="renamed").gateway_hypervisors == ()


def test_a_router_with_interfaces_stays(world: Routed) -> None:
    port = world.join(world.blue)
    with refusal(409, "", port.id):
        world.delete(world.router)
    world.delete(port)
    world.delete(world.router)


# --- interfaces --------------------------------------------------------------------------------------------------


def test_an_interface_has_the_gateway_addresses_of_its_network(world: Routed) -> None:
    port = world.join(world.blue)
    assert addresses(port) == ["10.0.0.1", "2001:db8:0:1::1"]
    assert (port.device_owner, port.device_id) == ("network:router_interface", world.router.id)
    assert world.patch(port, name="leg").fixed_ips == port.fixed_ips
    assert (
        world.replace("port", port.id, network_id=world.blue.id, router_id=world.router.id).fixed_ips == port.fixed_ips
    )
    second = world.join(world.blue, world.create("router"))
    assert addresses(second) == ["10.0.0.2", "2001:db8:0:1::2"], "those of the first are taken"


def test_where_there_is_no_gateway_address_one_is_allocated(world: Routed) -> None:
    network = world.create("network")
    world.create("subnet", network_id=network.id, cidr="10.1.0.0/24", gateway_ip=None)
    world.create("subnet", network_id=network.id, cidr="2001:db8:2::/64", gateway_ip="fe80::1")
    world.create("subnet", network_id=network.id, cidr="169.254.8.0/24")
    found = addresses(world.join(network))
    assert sorted(found) == ["10.1.0.1", "169.254.8.1", "2001:db8:2::1"]


def test_an_interface_has_an_address(world: Routed) -> None:
    with refusal(400, "fixed_ips", "no subnet with a free one"):
        world.join(world.create("network"))
    with refusal(400, "fixed_ips", "needs an address"):
        world.join(world.blue, fixed_ips=[])
    full, _ = world.joined("10.9.0.0/32")
    world.create("port", network_id=full.id)
    with refusal(409, "fixed_ips", "10.9.0.0/32", "no free address"):
        world.join(full)


def test_addresses_of_interfaces_that_were_asked_for(world: Routed) -> None:
    port = world.join(world.blue, fixed_ips=[{"ip_address": "10.0.0.254"}])
    assert addresses(port) == ["10.0.0.254"]
    with refusal(409, "fixed_ips[0].ip_address", port.id):
        world.create("port", network_id=world.blue.id, fixed_ips=[{"ip_address": "10.0.0.254"}])
    assert addresses(world.patch(port, fixed_ips=[{"ip_address": "10.0.0.253"}])) == ["10.0.0.253"]


def test_the_gateway_outside_has_an_address_of_each_version(world: Routed) -> None:
    world.create("subnet", network_id=world.outside.id, cidr="2001:db8:ffff::/64")
    world.create("subnet", network_id=world.outside.id, cidr="198.51.100.0/24")
    port = world.join(world.outside)
    assert addresses(port) == ["192.0.2.2", "2001:db8:ffff::2"]
    assert port.device_owner == "network:router_gateway"


def test_a_router_has_one_gateway(world: Routed) -> None:
    gateway = world.join(world.outside)
    other = world.create("network", external=True, physical_network="public", segmentation_id=5)
    world.create("subnet", network_id=other.id, cidr="198.51.100.0/24")
    with refusal(409, "router_id", "its gateway already", gateway.id):
        world.join(other)
    world.delete(gateway)
    world.join(other)


def test_interfaces_do_not_overlap(world: Routed) -> None:
    port = world.join(world.blue)
    for cidr in ("10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/16", "2001:db8:0:1::/64"):
        with refusal(409, "fixed_ips", port.id, "overlaps"):
            world.join(world.joined(cidr)[0])
    with refusal(409, "fixed_ips", port.id):
        world.join(world.blue, fixed_ips=[{"ip_address": "10.0.0.77"}])
    beside = world.joined("10.0.1.0/24", "10.0.0.0/25")
    mine = world.join(beside[0], fixed_ips=[{"subnet_id": beside[1].id}])
    with refusal(409, "fixed_ips", port.id):
        world.patch(mine, fixed_ips=[{"subnet_id": beside[1].id}, {"subnet_id": beside[2].id}])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowed_address_pairs", [{"ip_address": "10.9.9.9"}]),
        ("extra_dhcp_opts", [{"opt_name": "mtu", "opt_value": "1400"}]),
        ("dns_name", "router"),
    ],
)
def test_what_is_for_vms_is_not_for_interfaces(world: Routed, field: str, value: Any) -> None:
    with refusal(400, field, "for VMs"):
        world.join(world.blue, **{field: value})
    port = world.join(world.blue)
    with refusal(400, field, "for VMs"):
        world.patch(port, **{field: value})


def test_a_port_stays_what_it_is(world: Routed) -> None:
    vm, interface = world.create("port", network_id=world.blue.id), world.join(world.blue)
    with refusal(400, "router_id", "cannot be changed"):
        world.patch(vm, router_id=world.router.id)
    with refusal(400, "router_id", "cannot be changed"):
        world.patch(interface, router_id=None)
    with refusal(404, "router_id", NOBODY):
        world.create("port", network_id=world.blue.id, router_id=NOBODY)
    assert world.patch(interface, device_id="mine").device_id == world.router.id, "it tells whose it is"


def test_interfaces_belong_to_the_routers_project(world: Routed) -> None:
    network, _ = world.joined("10.5.0.0/24", project="us")
    router = world.create("router", "us")
    assert world.join(network, router).project_id == "us"
    with refusal(409, "router_id", "'us'"):
        world.join(network, world.create("router", project_id="them"))
    with refusal(400, "project_id", "router's project"):
        world.join(world.outside, router, project_id="them")
    assert world.join(world.outside, router).project_id == "us", "the outside is for everyone"


# --- routes ------------------------------------------------------------------------------------------------------


def test_routes_are_in_canonical_form_and_in_their_order(world: Routed) -> None:
    world.join(world.blue)
    routes = [
        {"destination": "172.16.0.0/12", "nexthop": "10.0.0.9"},
        {"destination": "2001:DB8:5::/48", "nexthop": "2001:DB8:0:1::9"},
        {"destination": "10.7.7.7", "nexthop": "10.0.0.8"},
        {"destination": "0.0.0.0/0", "nexthop": "10.0.0.9"},
    ]
    made = world.patch(world.router, routes=routes)
    assert made.routes == (
        StaticRoute("172.16.0.0/12", "10.0.0.9"),
        StaticRoute("2001:db8:5::/48", "2001:db8:0:1::9"),
        StaticRoute("10.7.7.7/32", "10.0.0.8"),
        StaticRoute("0.0.0.0/0", "10.0.0.9"),
    )
    assert world.replace("router", made.id, **{k: v for k, v in encode(made).items() if k != "id"}) == made


@pytest.mark.parametrize(
    ("route", "status", "field", "word"),
    [
        ({"destination": "172.16.0.1/12", "nexthop": "10.0.0.9"}, 400, "destination", "172.16.0.0/12"),
        ({"destination": "there", "nexthop": "10.0.0.9"}, 400, "destination", "not an IPv4"),
        ({"destination": "172.16.0.0/12", "nexthop": "2001:db8:0:1::9"}, 400, "nexthop", "not IPv4"),
        ({"destination": "::/0", "nexthop": "10.0.0.9"}, 400, "nexthop", "not IPv6"),
        ({"destination": "172.16.0.0/12", "nexthop": "224.0.0.1"}, 400, "nexthop", "unicast"),
        ({"destination": "172.16.0.0/12", "nexthop": "10.0.0.1"}, 400, "nexthop", "own address"),
        ({"destination": "172.16.0.0/12", "nexthop": "10.0.0.255"}, 400, "nexthop", "no host address"),
        ({"destination": "172.16.0.0/12", "nexthop": "10.0.1.9"}, 409, "nexthop", "add the interface first"),
    ],
)
def test_bad_routes(world: Routed, route: dict[str, Any], status: int, field: str, word: str) -> None:
    world.join(world.blue)
    good = {"destination": "172.20.0.0/16", "nexthop": "10.0.0.9"}
    with refusal(status, f"routes[1].{field}", word):
        world.patch(world.router, routes=[good, route])


def test_a_route_is_listed_once(world: Routed) -> None:
    world.join(world.blue)
    hops = [{"destination": "10.7.0.0/16", "nexthop": hop} for hop in ("10.0.0.8", "10.0.0.9")]
    assert len(world.patch(world.router, routes=hops).routes) == 2, "two next hops share the traffic"
    with refusal(400, "routes[2]", "twice"):
        world.patch(world.router, routes=[*hops, {"destination": "10.7.0.0/16", "nexthop": "10.0.0.8"}])


def test_policy_routes(world: Routed) -> None:
    world.join(world.blue)
    policies = [
        {"priority": 9, "source": "10.0.0.0/25", "protocol": "tcp", "destination_port": 443, "nexthops": ["10.0.0.9", "10.0.0.8"]},
        {"priority": 5, "action": "drop", "destination": "2001:DB8:66::/48"},
        {"priority": 1, "action": "allow"},
    ]  # fmt: skip
    made = world.patch(world.router, policy_routes=policies)
    assert made.policy_routes == (
        PolicyRoute(
            priority=9, source="10.0.0.0/25", protocol="tcp", destination_port=443, nexthops=("10.0.0.9", "10.0.0.8")
        ),
        PolicyRoute(priority=5, action="drop", destination="2001:db8:66::/48"),
        PolicyRoute(priority=1, action="allow"),
    )


@pytest.mark.parametrize(
    ("policy", "status", "field", "word"),
    [
        ({"nexthops": []}, 400, ".nexthops", "at least one"),
        ({"action": "drop"}, 400, ".nexthops", "reroute only"),
        ({"action": "allow"}, 400, ".nexthops", "reroute only"),
        ({"destination_port": 80}, 400, ".destination_port", "tcp or udp"),
        ({"destination_port": 80, "protocol": "icmp"}, 400, ".destination_port", "tcp or udp"),
        ({"source": "10.0.0.1/24"}, 400, ".source", "10.0.0.0/24"),
        ({"source": "10.0.0.0/24", "destination": "2001:db8::/32"}, 400, "", "different IP versions"),
        ({"source": "2001:db8::/32"}, 400, ".nexthops[0]", "not IPv6"),
        ({"nexthops": ["10.0.0.9", "10.0.0.9"]}, 400, ".nexthops[1]", "twice"),
        ({"nexthops": ["10.0.5.9"]}, 409, ".nexthops[0]", "add the interface first"),
        ({"priority": 1001}, 400, ".priority", "1000"),
    ],
)
def test_bad_policy_routes(world: Routed, policy: dict[str, Any], status: int, field: str, word: str) -> None:
    world.join(world.blue)
    with refusal(status, f"policy_routes[0]{field}", word):
        world.patch(world.router, policy_routes=[{"priority": 1, "nexthops": ["10.0.0.9"], **policy}])
    same = {"priority": 1, "nexthops": ["10.0.0.9"]}
    with refusal(400, "policy_routes[1]", "twice"):
        world.patch(world.router, policy_routes=[same, same])


def test_an_interface_that_routes_need_stays(world: Routed) -> None:
    port = world.join(world.blue)
    world.patch(world.router, routes=[{"destination": "10.7.0.0/16", "nexthop": "10.0.0.9"}])
    with refusal(409, "", "10.0.0.9", "remove that first"):
        world.delete(port)
    with refusal(409, "fixed_ips", "10.0.0.9"):
        world.patch(port, fixed_ips=[{"subnet_id": world.six.id}])
    with refusal(409, "fixed_ips", "10.0.0.9"):
        world.patch(port, fixed_ips=[{"ip_address": "10.0.0.9"}])
    moved = world.patch(port, fixed_ips=[{"ip_address": "10.0.0.33"}])
    assert addresses(moved) == ["10.0.0.33"], "another address in the same subnet is as good"
    world.patch(world.router, routes=[], policy_routes=[{"priority": 1, "nexthops": ["10.0.0.9"]}])
    with refusal(409, "", "10.0.0.9"):
        world.delete(port)
    world.patch(world.router, policy_routes=[])
    world.delete(port)


def test_routes_wait_for_interfaces(world: Routed) -> None:
    with refusal(409, "routes[0].nexthop", "add the interface first"):
        world.create("router", routes=[{"destination": "0.0.0.0/0", "nexthop": "10.0.0.9"}])
    world.join(world.outside)
    assert world.patch(world.router, routes=[{"destination": "0.0.0.0/0", "nexthop": "192.0.2.99"}]).routes


# --- tenants -----------------------------------------------------------------------------------------------------


def test_tenants_lead_their_routers_outside(world: Routed) -> None:
    network, _ = world.joined("10.5.0.0/24", project="us")
    router = world.create("router", "us")
    world.join(network, router, "us")
    gateway = world.join(world.outside, router, "us")
    assert gateway.project_id == "us" and addresses(gateway) == ["192.0.2.2"]
    with refusal(404, "router_id", world.router.id):
        world.join(network, world.router, "us")
    with refusal(404, "network_id"):
        world.join(world.blue, router, "us")
    world.delete(gateway, "us")


def test_tenants_take_nothing_outside_that_somebody_may_have(world: Routed) -> None:
    pool = [{"start": "192.0.2.100", "end": "192.0.2.109"}]
    world.patch(world.public, allocation_pools=pool)
    router = world.create("router", "us")
    for address in ("192.0.2.99", "192.0.2.110", "192.0.2.1"):
        with refusal(403, "fixed_ips[0].ip_address", "allocation pools"):
            world.join(world.outside, router, "us", fixed_ips=[{"ip_address": address}])
    with refusal(403, "mac_address", "chosen by NovaNet"):
        world.join(world.outside, router, "us", mac_address="02:00:00:00:00:01")
    gateway = world.join(world.outside, router, "us", fixed_ips=[{"ip_address": "192.0.2.109"}])
    with refusal(403, "mac_address"):
        world.patch(gateway, "us", mac_address="02:00:00:00:00:01")
    with refusal(403, "fixed_ips[0].ip_address"):
        world.patch(gateway, "us", fixed_ips=[{"ip_address": "192.0.2.7"}])
    world.patch(gateway, fixed_ips=[{"ip_address": "192.0.2.7"}])
    same = world.patch(
        gateway, "us", name="leg", mac_address=gateway.mac_address, fixed_ips=[{"ip_address": "192.0.2.7"}]
    )
    assert addresses(same) == ["192.0.2.7"], "what the administrator gave them is theirs"


def test_tenants_do_nothing_else_outside(world: Routed) -> None:
    with refusal(403, "network_id", "routers' ports and floating IPs"):
        world.create("port", "us", network_id=world.outside.id)
    with refusal(403, "network_id", "somebody else's"):
        world.create("subnet", "us", network_id=world.outside.id, cidr="10.66.0.0/16")
    with refusal(404, "id"):
        world.patch(world.outside, "us", name="mine")
    with refusal(404, "id"):
        world.delete(world.public, "us")
    for field, value in (("external", True), ("physical_network", "public"), ("segmentation_id", 5)):
        with refusal(403, field, "administrators"):
            world.create("network", "us", **{"physical_network": None, field: value})
