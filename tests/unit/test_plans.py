"""What VMs are told when they boot, derived from the graph: addresses, routers, resolvers, MTU, names."""

from __future__ import annotations

import pytest

from pipelines import fields as f
from pipelines import plans
from pipelines.addresses import link_local
from pipelines.packets import dhcp4, dhcp6, router_advertisement
from pipelines.services import DHCP_SERVER, RESOLVER, RESOLVER6, SERVICE_MAC
from topology.changes import Edit
from topology.model import DhcpOption, FixedIp, HostRoute, TunnelMesh
from topology.mtu import overhead

from .world import World

GATEWAY, GATEWAY6 = f.ip("10.0.0.1"), f.ip("fd00:a::1")
TUNNEL_MTU = 1500 - overhead("geneve", 4)


def world(*, router: bool = True, **fields: object) -> World:
    """Network a with 10.0.0.0/24 and fd00:a::/64, VM p in it, and a router unless told otherwise."""
    made = World()
    made.network("a", 1, "10.0.0.0/24", "fd00:a::/64", **fields)
    made.port("p", "a", on="h1", ips=("10.0.0.11", "fd00:a::11"))
    if router:
        made.router("r", "a")
    return made


def told4(made: World, port: str = "p") -> dhcp4.Plan:
    plan = plans.dhcp4_plan(made.topology, made.topology.get("port", port))
    assert plan is not None
    dhcp4.prepare(plan)
    return plan


def told6(made: World, port: str = "p") -> dhcp6.Plan:
    plan = plans.dhcp6_plan(made.topology, made.topology.get("port", port))
    assert plan is not None
    dhcp6.prepare(plan)
    return plan


def advertised(made: World, network: str = "a") -> router_advertisement.Plan:
    plan = plans.advertisement_plan(made.topology, network)
    assert plan is not None
    router_advertisement.prepare(plan)
    return plan


def router_mac(made: World, interface: str = "r-a") -> int:
    return f.mac(made.topology.get("port", interface).mac_address)


# --- DHCP --------------------------------------------------------------------------------------------------------


def test_a_vm_is_told_its_address_router_resolver_mtu_and_name() -> None:
    made = world()
    plan = told4(made)
    assert (plan.address, plan.prefix_length) == (f.ip("10.0.0.11"), 24)
    assert plan.client_mac == f.mac(made.topology.get("port", "p").mac_address)
    assert (plan.server_id, plan.server_mac, plan.routers) == (GATEWAY, router_mac(made), (GATEWAY,))
    assert (plan.dns, plan.routes) == ((RESOLVER,), ())
    assert plan.mtu == TUNNEL_MTU
    assert (plan.hostname, plan.domain) == ("host-10-0-0-11", "internal")


def test_what_subnet_network_and_port_say_comes_first() -> None:
    made = world(mtu=1400, dns_domain="example.test")
    routes = (HostRoute("192.0.2.0/24", "10.0.0.9"),)
    made.edit("subnet", "a-4", dns_nameservers=("192.0.2.53", "192.0.2.54"), host_routes=routes)
    options = (DhcpOption("ntp-server", "192.0.2.123"), DhcpOption("59", "http://x", 6))
    made.edit("port", "p", dns_name="web", extra_dhcp_opts=options)
    plan = told4(made)
    assert plan.dns == (f.ip("192.0.2.53"), f.ip("192.0.2.54"))
    assert plan.routes == ((f.ip("192.0.2.0"), 24, f.ip("10.0.0.9")),)
    assert (plan.mtu, plan.domain, plan.hostname) == (1400, "example.test", "web")
    assert plan.extra == (dhcp4.option("ntp-server", "192.0.2.123"),)
    assert told6(made).extra == (dhcp6.option("59", "http://x"),)
    assert told6(made).search == ("example.test",)


ON_LINK = ((DHCP_SERVER, 32, 0), (RESOLVER, 32, 0))


def test_without_a_gateway_the_service_addresses_are_on_the_link() -> None:
    made = world(router=False)
    made.edit("subnet", "a-4", gateway_ip=None)
    plan = told4(made)
    assert (plan.server_id, plan.server_mac, plan.routers) == (DHCP_SERVER, SERVICE_MAC, ())
    assert plan.routes == ON_LINK
    made.edit("subnet", "a-4", dns_nameservers=("192.0.2.53",))
    assert told4(made).routes == ON_LINK[:1]


def test_a_gateway_address_that_nobody_has_leads_nowhere_yet() -> None:
    """The VM keeps the default route for a router to come, but what it needs now does not depend on it."""
    made = world(router=False)
    plan = told4(made)
    assert (plan.server_id, plan.server_mac, plan.routers, plan.routes) == (
        DHCP_SERVER, SERVICE_MAC, (GATEWAY,), ON_LINK,
    )  # fmt: skip
    made.router("r", "a")
    assert (told4(made).server_id, told4(made).routes) == (GATEWAY, ())


def test_a_vm_may_be_the_gateway() -> None:
    made = world(router=False)
    made.port("gateway", "a", ips=("10.0.0.1",))
    plan = told4(made)
    assert (plan.server_id, plan.server_mac, plan.routes) == (GATEWAY, SERVICE_MAC, ())


def test_the_gateway_of_a_provider_network_is_a_host_on_the_wire() -> None:
    made = world(router=False, physical_network="physnet1")
    plan = told4(made)
    assert (plan.server_id, plan.server_mac, plan.mtu, plan.routes) == (GATEWAY, SERVICE_MAC, 1500, ())
    assert (advertised(made).lifetime, advertised(made).router_mac) == (0, SERVICE_MAC)


def test_only_the_router_with_the_gateway_address_counts() -> None:
    made = world(router=False)
    made.router("second")
    made.interface("second", "a", "10.0.0.2", "fd00:a::2")
    assert told4(made).server_id == DHCP_SERVER
    assert advertised(made).lifetime == 0
    made.router("r", "a")
    assert told4(made).server_mac == router_mac(made)
    assert advertised(made).router_mac == router_mac(made)


def test_dhcp_is_for_subnets_that_have_it_on() -> None:
    made = world()
    made.edit("subnet", "a-4", enable_dhcp=False)
    port = made.topology.get("port", "p")
    assert plans.dhcp4_plan(made.topology, port) is None
    assert plans.dhcp6_plan(made.topology, port) is not None
    made.edit("subnet", "a-6", enable_dhcp=False)
    assert plans.dhcp6_plan(made.topology, port) is None
    assert plans.advertisement_plan(made.topology, "a") is None


def test_of_several_subnets_the_first_that_has_dhcp_on_is_given() -> None:
    made = world()
    made.subnet("a-4b", "a", "10.9.0.0/24")
    made.edit("port", "p", fixed_ips=(*made.topology.get("port", "p").fixed_ips, FixedIp("a-4b", "10.9.0.5")))
    assert told4(made).address == f.ip("10.0.0.11")
    made.edit("subnet", "a-4", enable_dhcp=False)
    assert (told4(made).address, told4(made).routers) == (f.ip("10.9.0.5"), (f.ip("10.9.0.1"),))


@pytest.mark.parametrize(
    ("mode", "addresses", "stateless"), [("dhcpv6-stateful", 1, False), (None, 1, False), ("dhcpv6-stateless", 0, True)]
)
def test_dhcpv6(mode: str | None, addresses: int, stateless: bool) -> None:
    made = world()
    made.edit("subnet", "a-6", ipv6_address_mode=mode)
    plan = told6(made)
    assert plan.addresses == (f.ip("fd00:a::11"),)[:addresses]
    assert (plan.stateless, plan.dns) == (stateless, (RESOLVER6,))
    assert (plan.server_mac, plan.server_address) == (SERVICE_MAC, link_local(SERVICE_MAC))


def test_dhcpv6_is_not_answered_where_there_is_slaac_alone() -> None:
    made = world()
    made.edit("subnet", "a-6", ipv6_address_mode="slaac")
    assert plans.dhcp6_plan(made.topology, made.topology.get("port", "p")) is None


def test_a_name_is_made_of_the_first_address() -> None:
    made = world()
    made.port("six", "a", ips=("fd00:a::12",))
    made.port("none", "a", ips=("10.0.0.13",))
    made.edit("port", "none", fixed_ips=())
    names = [plans.host_name(made.topology.get("port", port)) for port in ("p", "six", "none")]
    assert names == ["host-10-0-0-11", "host-fd00-a--12", ""]


# --- router advertisements ---------------------------------------------------------------------------------------


def test_the_router_is_advertised_with_prefix_and_resolver() -> None:
    made = world()
    plan = advertised(made)
    mac = router_mac(made)
    assert (plan.router_mac, plan.link_local, plan.lifetime) == (mac, link_local(mac), plans.ROUTER_LIFETIME)
    assert plan.prefixes == ((f.ip("fd00:a::"), 64, False, True, plans.LEASE, plans.LEASE),)
    assert (plan.managed, plan.other) == (True, True)
    assert (plan.mtu, plan.dns, plan.search) == (TUNNEL_MTU, (RESOLVER6,), ("internal",))


@pytest.mark.parametrize(
    ("mode", "managed", "other", "autonomous"),
    [("slaac", False, False, True), ("dhcpv6-stateless", False, True, True), ("dhcpv6-stateful", True, True, False)],
)
def test_how_addresses_are_had(mode: str, managed: bool, other: bool, autonomous: bool) -> None:
    made = world()
    made.edit("subnet", "a-6", ipv6_address_mode=mode)
    plan = advertised(made)
    assert (plan.managed, plan.other, plan.prefixes[0][2]) == (managed, other, autonomous)


def test_without_a_router_there_is_no_default_route_and_the_resolver_is_on_the_link() -> None:
    made = world(router=False)
    plan = advertised(made)
    assert (plan.lifetime, plan.router_mac) == (0, SERVICE_MAC)
    assert (RESOLVER6, 128, False, True, plans.LEASE, plans.LEASE) in plan.prefixes
    made.edit("subnet", "a-6", dns_nameservers=("2001:db8::53",))
    plan = advertised(made)
    assert (plan.dns, len(plan.prefixes)) == ((f.ip("2001:db8::53"),), 1)


def test_a_router_that_is_down_is_no_default_router() -> None:
    made = world()
    made.edit("router", "r", admin_state_up=False)
    assert advertised(made).lifetime == 0
    made.edit("router", "r", admin_state_up=True)
    made.edit("port", "r-a", admin_state_up=False)
    assert advertised(made).lifetime == 0


def test_the_mtu_follows_the_tunnels() -> None:
    made = world()
    made.apply(Edit("tunnel-mesh", "mesh", TunnelMesh(id="mesh", tunnel_type="vxlan", underlay_mtu=9000)))
    assert told4(made).mtu == advertised(made).mtu == 9000 - overhead("vxlan", 4)
