"""Admission of provider networks, floating IPs, port forwardings and hosts outside; and of what VMs are told."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pipelines import services
from topology.admission import Draft, Write, admit, consequences
from topology.admission.allocation import SERVICE_MAC
from topology.model import FixedIp, HostRoute, encode

from .test_admission import refusal
from .test_admission_routers import NOBODY, Routed, addresses


class Outside(Routed):
    """The router joins ``blue`` with ``outside``; ``vm`` is in blue."""

    def __init__(self) -> None:
        super().__init__()
        self.interface, self.gateway = self.join(self.blue), self.join(self.outside)
        self.vm = self.create("port", network_id=self.blue.id)

    def floating(self, project: str | None = None, **fields: Any) -> Any:
        return self.create("floating-ip", project, floating_network_id=self.outside.id, **fields)

    def forwarding(self, floating: Any, **fields: Any) -> Any:
        wanted = {"protocol": "tcp", "external_port": 80, "internal_port_id": self.vm.id, "internal_port": 8080}
        return self.create("port-forwarding", floating_ip_id=floating.id, **{**wanted, **fields})


@pytest.fixture
def world() -> Outside:
    return Outside()


# --- provider networks -------------------------------------------------------------------------------------------


def test_a_wire_and_vlan_are_one_networks(world: Outside) -> None:
    flat = world.create("network", physical_network="lab")
    tagged = world.create("network", physical_network="lab", segmentation_id=7)
    with refusal(409, "segmentation_id", "untagged", flat.id):
        world.create("network", physical_network="lab")
    with refusal(409, "segmentation_id", "VLAN 7", tagged.id):
        world.create("network", physical_network="lab", segmentation_id=7)
    world.create("network", physical_network="lab2", segmentation_id=7)
    world.delete(flat)
    world.create("network", physical_network="lab")


def test_what_needs_a_wire(world: Outside) -> None:
    with refusal(400, "segmentation_id", "physical_network"):
        world.create("network", segmentation_id=7)
    with refusal(400, "external", "physical_network", "gateways"):
        world.create("network", external=True)
    for vlan in (0, 4095):
        with refusal(400, "segmentation_id"):
            world.create("network", physical_network="lab", segmentation_id=vlan)
    for field, value in (("physical_network", "other"), ("segmentation_id", 9), ("external", False)):
        with refusal(400, field, "cannot be changed"):
            world.patch(world.outside, **{field: value})


def test_tunnels_do_not_limit_the_mtu_of_a_wire(world: Outside) -> None:
    assert world.create("network", physical_network="lab", mtu=9000).mtu == 9000
    world.patch(world.mesh, underlay_mtu=1400)


def test_dns_domains_are_canonical(world: Outside) -> None:
    assert world.create("network", dns_domain="Lab.Example.").dns_domain == "lab.example"
    for bad in ("a..b", "-x.example", "a b", "x" * 64, "ü.example"):
        with refusal(400, "dns_domain", "no domain name"):
            world.create("network", dns_domain=bad)


def test_bridge_mappings(world: Outside) -> None:
    mapping = {"physical_network": "public", "bridge": "br-ex"}
    made = world.create("hypervisor", name="h1", bridge_mappings=[mapping])
    assert encode(made)["bridge_mappings"] == (mapping,)
    with refusal(400, "bridge_mappings[1].physical_network", "public", "twice"):
        world.patch(made, bridge_mappings=[mapping, {**mapping, "bridge": "br-ex2"}])
    with refusal(400, "bridge_mappings[1].bridge", "br-ex", "another physical network"):
        world.patch(made, bridge_mappings=[mapping, {**mapping, "physical_network": "lab"}])
    with refusal(400, "bridge_mappings[0].bridge", "br-int", "NovaNet's own"):
        world.patch(made, bridge_mappings=[{**mapping, "bridge": "br-int"}])
    with refusal(400, "bridge_mappings[0].bridge", "br-own"):
        world.create("hypervisor", name="h2", bridge="br-own", bridge_mappings=[{**mapping, "bridge": "br-own"}])


def test_how_gateways_are_watched(world: Outside) -> None:
    made = world.patch(world.mesh, bfd_interval=50, bfd_multiplier=5)
    assert (made.bfd_interval, made.bfd_multiplier) == (50, 5)
    for field, value in (("bfd_interval", 9), ("bfd_multiplier", 1)):
        with refusal(400, field):
            world.patch(world.mesh, **{field: value})


# --- what VMs are told -------------------------------------------------------------------------------------------


def test_name_servers_and_routes_of_a_subnet(world: Outside) -> None:
    network = world.create("network")
    made = world.create(
        "subnet", network_id=network.id, cidr="10.1.0.0/24",
        dns_nameservers=["10.1.0.9", "2001:DB8::53", "10.1.0.8", "2001:db8::53"],
        host_routes=[{"destination": "172.16.0.0/12", "nexthop": "10.1.0.7"}],
    )  # fmt: skip
    assert made.dns_nameservers == ("10.1.0.9", "2001:db8::53", "10.1.0.8"), "in their order, each once"
    assert made.host_routes == (HostRoute("172.16.0.0/12", "10.1.0.7"),)
    for field, value, path in (
        ("dns_nameservers", ["10.1.0.9", "224.0.0.1"], "dns_nameservers[1]"),
        ("dns_nameservers", ["dns.example"], "dns_nameservers[0]"),
        ("host_routes", [{"destination": "172.16.0.1/12", "nexthop": "10.1.0.7"}], "host_routes[0].destination"),
        ("host_routes", [{"destination": "2001:db8::/32", "nexthop": "10.1.0.7"}], "host_routes[0].destination"),
        ("host_routes", [{"destination": "172.16.0.0/12", "nexthop": "2001:db8::7"}], "host_routes[0].nexthop"),
        ("host_routes", [{"destination": "172.16.0.0/12", "nexthop": "0.0.0.0"}], "host_routes[0].nexthop"),
    ):
        with refusal(400, path):
            world.patch(made, **{field: value})
    with refusal(400, "host_routes[0]", "IPv4 only"):
        route = {"destination": "2001:db8:9::/48", "nexthop": "2001:db8:0:1::9"}
        world.patch(world.six, host_routes=[route])


def test_how_vms_get_their_ipv6_addresses(world: Outside) -> None:
    assert (world.four.ipv6_address_mode, world.six.ipv6_address_mode) == (None, "dhcpv6-stateful")
    network = world.create("network")
    with refusal(400, "ipv6_address_mode", "IPv4"):
        world.create("subnet", network_id=network.id, cidr="10.1.0.0/24", ipv6_address_mode="slaac")
    for mode in ("slaac", "dhcpv6-stateless"):
        with refusal(400, "ipv6_address_mode", "/64"):
            world.create("subnet", network_id=network.id, cidr="2001:db8:1::/72", ipv6_address_mode=mode)
    with refusal(400, "ipv6_address_mode", "cannot be changed"):
        world.patch(world.six, ipv6_address_mode="slaac")


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless"])
def test_addresses_that_vms_make_of_their_mac(world: Outside, mode: str) -> None:
    network = world.create("network")
    subnet = world.create("subnet", network_id=network.id, cidr="2001:db8:1::/64", ipv6_address_mode=mode)
    port = world.create("port", network_id=network.id, mac_address="52:54:00:12:34:56")
    assert port.fixed_ips == (FixedIp(subnet.id, "2001:db8:1:0:5054:ff:fe12:3456"),), "RFC 4291, appendix A"
    with refusal(400, "fixed_ips[0].ip_address", mode, "2001:db8:1:0:5054:ff:fe12:3457"):
        wish = [{"ip_address": "2001:db8:1::5"}]
        world.create("port", network_id=network.id, mac_address="52:54:00:12:34:57", fixed_ips=wish)
    asked = world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": subnet.id}])
    assert asked.mac_address.startswith("02:4e:56") and addresses(asked)[0].startswith("2001:db8:1:0:4e:56ff:fe")
    with refusal(400, "fixed_ips[1]", "one address in subnet"):
        world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": subnet.id}] * 2)
    moved = world.patch(port, mac_address="52:54:00:ab:cd:ef")
    assert addresses(moved) == ["2001:db8:1:0:5054:ff:feab:cdef"], "it follows the MAC address"
    with refusal(400, "fixed_ips[0].ip_address", "5054:ff:feab:cdee"):
        world.patch(moved, mac_address="52:54:00:ab:cd:ee", fixed_ips=encode(moved)["fixed_ips"])
    router = world.join(network)
    assert addresses(router) == ["2001:db8:1::1"], "a router's is given"


def test_host_names_are_unique_in_their_network(world: Outside) -> None:
    port = world.patch(world.vm, dns_name="Web-1")
    assert port.dns_name == "web-1"
    with refusal(409, "dns_name", "web-1", port.id):
        world.create("port", network_id=world.blue.id, dns_name="WEB-1")
    other, _ = world.joined("10.4.0.0/24")
    world.create("port", network_id=other.id, dns_name="web-1")
    for bad in ("a.b", "-a", "a b", "ü"):
        with refusal(400, "dns_name"):
            world.create("port", network_id=world.blue.id, dns_name=bad)
    assert world.patch(port, dns_name="web-1") == port
    world.patch(port, dns_name="web-2")
    world.create("port", network_id=world.blue.id, dns_name="web-1")


def test_dhcp_options_are_understood(world: Outside) -> None:
    options = [{"opt_name": "mtu", "opt_value": "1400"}, {"opt_name": "ntp-server", "opt_value": "192.0.2.1"}]
    assert len(world.patch(world.vm, extra_dhcp_opts=options).extra_dhcp_opts) == 2
    for bad in ({"opt_name": "mtu", "opt_value": "large"}, {"opt_name": "no-such-option", "opt_value": "1"}):
        with refusal(400, "extra_dhcp_opts[1]"):
            world.patch(world.vm, extra_dhcp_opts=[options[0], bad])
    with refusal(400, "extra_dhcp_opts[1]", "twice"):
        world.patch(world.vm, extra_dhcp_opts=[options[0], {"opt_name": "26", "opt_value": "1300"}])
    six = {"opt_name": "dns-server", "opt_value": "2001:db8::53", "ip_version": 6}
    assert len(world.patch(world.vm, extra_dhcp_opts=[six]).extra_dhcp_opts) == 1


def test_novanets_own_mac_address_is_nobody_elses(world: Outside) -> None:
    assert int(SERVICE_MAC.replace(":", ""), 16) == services.SERVICE_MAC
    with refusal(409, "mac_address", "NovaNet itself"):
        world.create("port", network_id=world.blue.id, mac_address=SERVICE_MAC.upper())

    class Fixed:
        numbers = iter((0xFFFFFE, 0x000001))

        def randrange(self, stop: int) -> int:
            return next(self.numbers)

    world.allocator._random = Fixed()  # type: ignore[assignment]
    assert world.allocator.mac(world.topology, world.blue.id) == "02:4e:56:00:00:01"


# --- floating IPs ------------------------------------------------------------------------------------------------


def test_a_floating_ip_waits_and_is_attached(world: Outside) -> None:
    waiting = world.floating()
    assert (waiting.floating_ip_address, waiting.subnet_id) == ("192.0.2.3", world.public.id)
    assert waiting.mac_address.startswith("02:4e:56") and waiting.fixed_ip_address is None
    attached = world.patch(waiting, port_id=world.vm.id)
    assert attached.fixed_ip_address == "10.0.0.2"
    assert world.write(Write("replace", "floating-ip", attached.id, encode(attached))) == attached
    with refusal(400, "floating_ip_address", "cannot be changed"):
        world.patch(attached, floating_ip_address="192.0.2.77")
    detached = world.patch(attached, port_id=None)
    assert (detached.port_id, detached.fixed_ip_address) == (None, None)
    with refusal(400, "fixed_ip_address", "port_id"):
        world.floating(fixed_ip_address="10.0.0.2")
    with refusal(400, "mac_address", "set by NovaNet"):
        world.floating(mac_address="02:00:00:00:00:01")


def test_a_floating_ip_moves_from_vm_to_vm(world: Outside) -> None:
    floating = world.floating(port_id=world.vm.id)
    other = world.create("port", network_id=world.blue.id)
    assert world.patch(floating, port_id=other.id).fixed_ip_address == addresses(other)[0]
    assert world.floating(port_id=world.vm.id).fixed_ip_address == addresses(world.vm)[0]


def test_addresses_outside_that_were_asked_for(world: Outside) -> None:
    second = world.create("subnet", network_id=world.outside.id, cidr="2001:db8:ff::/64")
    assert world.floating(floating_ip_address="192.0.2.77").floating_ip_address == "192.0.2.77"
    six = world.floating(floating_ip_address="2001:DB8:FF::7")
    assert (six.floating_ip_address, six.subnet_id) == ("2001:db8:ff::7", second.id)
    assert world.patch(six, floating_ip_address="2001:DB8:FF::7") == six
    assert world.floating(subnet_id=second.id).floating_ip_address == "2001:db8:ff::2"
    for address, status, word in (
        ("192.0.2.77", 409, "floating-ip"),
        (addresses(world.gateway)[0], 409, world.gateway.id),
        ("192.0.2.1", 409, "gateway"),
        ("192.0.2.255", 400, "no host address"),
        ("198.51.100.1", 400, "not in a subnet"),
        ("224.0.0.1", 400, "unicast"),
    ):
        with refusal(status, "floating_ip_address", word):
            world.floating(floating_ip_address=address)
    with refusal(400, "floating_ip_address", second.id):
        world.floating(floating_ip_address="192.0.2.78", subnet_id=second.id)
    with refusal(404, "subnet_id", world.four.id):
        world.floating(subnet_id=world.four.id)
    with refusal(409, "fixed_ips[0].ip_address", "floating-ip"):
        world.create("port", network_id=world.outside.id, fixed_ips=[{"ip_address": "192.0.2.77"}])
    taken = {address for _, address in world.topology.addresses}
    assert addresses(world.create("port", network_id=world.outside.id))[0] not in taken


def test_the_addresses_outside_run_out(world: Outside) -> None:
    world.patch(world.public, allocation_pools=[{"start": "192.0.2.10", "end": "192.0.2.11"}])
    last = [world.floating() for _ in range(2)]
    world.create("subnet", network_id=world.outside.id, cidr="2001:db8:ff::/64")
    with refusal(409, "floating_network_id", "no address is free", world.public.id):
        world.floating()
    world.delete(last[0])
    assert world.floating().floating_ip_address == last[0].floating_ip_address


def test_only_outside(world: Outside) -> None:
    with refusal(400, "floating_network_id", "not external"):
        world.create("floating-ip", floating_network_id=world.blue.id)
    with refusal(404, "floating_network_id", NOBODY):
        world.create("floating-ip", floating_network_id=NOBODY)
    with refusal(409, "floating_network_id", "which there is none"):
        bare = world.create("network", external=True, physical_network="bare")
        world.create("floating-ip", floating_network_id=bare.id)


def test_a_router_must_lead_to_the_vm(world: Outside) -> None:
    alone, subnet = world.joined("10.4.0.0/24")
    vm = world.create("port", network_id=alone.id)
    with refusal(409, "port_id", subnet.id, "no router has an interface"):
        world.floating(port_id=vm.id)
    router = world.create("router")
    world.join(alone, router)
    with refusal(409, "port_id", router.id, "has no gateway in network", world.outside.id):
        world.floating(port_id=vm.id)
    world.join(world.outside, router)
    world.floating(port_id=vm.id)
    with refusal(404, "port_id", NOBODY):
        world.floating(port_id=NOBODY)
    with refusal(400, "port_id", "is a router's"):
        world.floating(port_id=world.interface.id)


def test_the_router_is_in_the_subnet_of_the_address(world: Outside) -> None:
    network, _, later = world.joined("10.4.0.0/24", "10.5.0.0/24")
    router = world.create("router")
    world.join(world.outside, router)
    world.join(network, router, fixed_ips=[{"ip_address": "10.4.0.1"}])
    vm = world.create("port", network_id=network.id, fixed_ips=[{"subnet_id": later.id}])
    with refusal(409, "port_id", later.id):
        world.floating(port_id=vm.id)
    other = world.create("router")
    world.join(world.outside, other)
    world.join(network, other, fixed_ips=[{"ip_address": "10.5.0.1"}])
    floating = world.floating(port_id=vm.id)
    assert world.topology.router_of_floating(floating.id) == other.id


def test_which_of_the_ports_addresses(world: Outside) -> None:
    fixed = [{"ip_address": "10.0.0.50"}, {"ip_address": "10.0.0.51"}, {"subnet_id": world.six.id}]
    vm = world.create("port", network_id=world.blue.id, fixed_ips=fixed)
    first = world.floating(port_id=vm.id)
    assert first.fixed_ip_address == "10.0.0.50"
    with refusal(409, "port_id", "10.0.0.50", first.id):
        world.floating(port_id=vm.id)
    second = world.floating(port_id=vm.id, fixed_ip_address="10.0.0.51")
    for wrong in ("10.0.0.52", addresses(vm)[2], "10.0.0.2"):
        with refusal(400, "fixed_ip_address", wrong):
            world.floating(port_id=vm.id, fixed_ip_address=wrong)
    with refusal(409, "port_id", "10.0.0.50"):
        world.patch(second, fixed_ip_address="10.0.0.50")
    only_six = world.create("port", network_id=world.blue.id, fixed_ips=[{"subnet_id": world.six.id}])
    with refusal(409, "fixed_ip_address", "same IP version"):
        world.floating(port_id=only_six.id)


def test_a_vm_keeps_the_addresses_that_are_known_outside(world: Outside) -> None:
    world.patch(world.vm, fixed_ips=[{"ip_address": "10.0.0.50"}, {"ip_address": "10.0.0.51"}])
    floating = world.floating(port_id=world.vm.id)
    with refusal(409, "fixed_ips", floating.id, "10.0.0.50"):
        world.patch(world.vm, fixed_ips=[{"ip_address": "10.0.0.51"}])
    world.patch(world.vm, fixed_ips=[{"ip_address": "10.0.0.50"}])
    world.patch(floating, port_id=None)
    forwarding = world.forwarding(floating)
    with refusal(409, "fixed_ips", forwarding.id, "10.0.0.50"):
        world.patch(world.vm, fixed_ips=[])
    world.delete(forwarding)
    world.patch(world.vm, fixed_ips=[])


def test_a_deleted_vm_leaves_its_floating_ip_waiting(world: Outside) -> None:
    floating = world.floating(port_id=world.vm.id)
    world.delete(world.vm)
    now = world.now(floating)
    assert (now.port_id, now.fixed_ip_address, now.revision_number) == (None, None, 2)
    again = world.create("port", network_id=world.blue.id)
    assert world.patch(now, port_id=again.id).fixed_ip_address == addresses(again)[0]


def test_what_leads_to_a_floating_ip_stays(world: Outside) -> None:
    floating = world.floating(port_id=world.vm.id)
    with refusal(409, "", floating.id, world.router.id):
        world.delete(world.gateway)
    with refusal(409, "", floating.id):
        world.delete(world.interface)
    with refusal(409, "fixed_ips", floating.id):
        world.patch(world.interface, fixed_ips=[{"subnet_id": world.six.id}])
    world.patch(world.interface, fixed_ips=[{"subnet_id": world.four.id}])
    world.patch(world.gateway, fixed_ips=[{"ip_address": "192.0.2.200"}])
    with refusal(409, "", "floating-ip"):
        world.delete(world.public)
    world.patch(floating, port_id=None)
    forwarding = world.forwarding(floating)
    with refusal(409, "", floating.id):
        world.delete(world.gateway)
    world.delete(forwarding)
    world.delete(world.gateway)
    world.delete(world.interface)


def test_tenants_have_floating_ips_in_networks_of_others(world: Outside) -> None:
    network, _ = world.joined("10.5.0.0/24", project="us")
    router = world.create("router", "us")
    world.join(network, router, "us")
    world.join(world.outside, router, "us")
    vm = world.create("port", "us", network_id=network.id)
    floating = world.floating("us", port_id=vm.id)
    assert floating.project_id == "us" and floating.fixed_ip_address == addresses(vm)[0]
    assert world.floating("us", subnet_id=world.public.id, floating_ip_address="192.0.2.99")
    with refusal(404, "port_id", world.vm.id):
        world.floating("us", port_id=world.vm.id)
    world.patch(world.public, allocation_pools=[{"start": "192.0.2.10", "end": "192.0.2.40"}])
    with refusal(403, "floating_ip_address", "allocation pools"):
        world.floating("us", floating_ip_address="192.0.2.50")
    assert world.floating(floating_ip_address="192.0.2.50", project_id="us").project_id == "us"


# --- port forwardings --------------------------------------------------------------------------------------------


def test_port_forwardings(world: Outside) -> None:
    floating = world.floating(project_id="us")
    made = world.forwarding(floating)
    assert (made.internal_ip_address, made.project_id) == ("10.0.0.2", "us")
    with refusal(409, "external_port", "tcp port 80", made.id):
        world.forwarding(floating)
    world.forwarding(floating, protocol="udp")
    world.forwarding(floating, external_port=81)
    world.forwarding(world.floating())
    with refusal(409, "port_id", "port forwardings"):
        world.patch(floating, port_id=world.vm.id)
    with refusal(409, "", "port-forwarding"):
        world.delete(floating)
    with refusal(409, "", "port-forwarding"):
        world.delete(world.vm)
    for field, value in (("protocol", "sctp"), ("external_port", 0), ("internal_port", 65536)):
        with refusal(400, field):
            world.forwarding(floating, **{field: value})


def test_port_forwardings_are_in_reach_too(world: Outside) -> None:
    floating = world.floating()
    alone, subnet = world.joined("10.4.0.0/24")
    far = world.create("port", network_id=alone.id)
    with refusal(409, "internal_port_id", subnet.id):
        world.forwarding(floating, internal_port_id=far.id)
    with refusal(400, "internal_port_id", "is a router's"):
        world.forwarding(floating, internal_port_id=world.interface.id)
    with refusal(400, "internal_ip_address", "10.0.0.99"):
        world.forwarding(floating, internal_ip_address="10.0.0.99")
    attached = world.floating(port_id=world.vm.id)
    with refusal(409, "floating_ip_id", "as a whole"):
        world.forwarding(attached)
    with refusal(409, "internal_port_id", attached.id, "leads to 10.0.0.2"):
        world.forwarding(floating)
    world.patch(attached, port_id=None)
    made = world.forwarding(floating)
    other = world.create("port", network_id=world.blue.id)
    moved = world.patch(made, internal_port_id=other.id)
    assert moved.internal_ip_address == addresses(other)[0], "the address follows the port"
    with refusal(409, "external_port"):
        world.patch(world.forwarding(floating, external_port=81), external_port=80)
    with refusal(409, "port_id", made.id, "leads to"):
        world.patch(attached, port_id=other.id)


# --- hosts outside -----------------------------------------------------------------------------------------------


def test_neighbours_are_hosts_of_provider_networks(world: Outside) -> None:
    made = world.create(
        "neighbour", network_id=world.outside.id, ip_address="2001:DB8::9", mac_address="02:00:00:00:00:0A"
    )
    assert (made.ip_address, made.mac_address, made.learned) == ("2001:db8::9", "02:00:00:00:00:0a", False)
    with refusal(409, "ip_address", made.id):
        world.create(
            "neighbour", network_id=world.outside.id, ip_address="2001:db8::9", mac_address="02:00:00:00:00:0b"
        )
    with refusal(400, "network_id", "no provider network"):
        world.create("neighbour", network_id=world.blue.id, ip_address="10.0.0.9", mac_address="02:00:00:00:00:0a")
    with refusal(403, ""):
        world.create(
            "neighbour", "us", network_id=world.outside.id, ip_address="192.0.2.9", mac_address="02:00:00:00:00:0a"
        )
    with refusal(400, "learned", "set by NovaNet"):
        world.patch(made, learned=True)
    with refusal(400, "mac_address", "multicast"):
        world.patch(made, mac_address="01:00:00:00:00:01")
    with refusal(409, "", made.id):
        world.delete(replace(world.outside))


def learned(world: Outside, address: str, mac: str = "02:00:00:00:00:0a") -> Any:
    fields = {"network_id": world.outside.id, "ip_address": address, "mac_address": mac, "learned": True}
    return world.write(Write("create", "neighbour", fields=fields, system=True))


def test_what_an_administrator_writes_is_not_learned_any_more(world: Outside) -> None:
    made = learned(world, "192.0.2.9")
    assert made.learned
    static = world.patch(made, mac_address="02:00:00:00:00:0b")
    assert not static.learned
    with refusal(409, "", "administrator"):
        fields = {"mac_address": "02:00:00:00:00:0c", "learned": True}
        world.write(Write("patch", "neighbour", made.id, fields, system=True))


def test_what_was_learned_goes_with_its_network(world: Outside) -> None:
    alone = world.create("network", external=True, physical_network="lab")
    fields = {"network_id": alone.id, "ip_address": "192.0.2.9", "mac_address": "02:00:00:00:00:0a", "learned": True}
    made = world.write(Write("create", "neighbour", fields=fields, system=True))
    draft = Draft(world.topology)
    edit = admit(draft, Write("delete", "network", alone.id), world.allocator, "")
    assert [(each.kind, each.id, each.value) for each in consequences(draft, edit, world.allocator)] == [
        ("neighbour", made.id, None)
    ]
    world.delete(alone)
    assert world.now(made) is None and not world.topology.neighbours
