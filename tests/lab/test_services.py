"""What VMs ask of their network when they boot, with the clients that people use: DHCP, DHCPv6, RA, DNS; and who may not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.punting import PORT_BURST, PORT_RATE
from tests.lab.cloud import Cloud, until
from tools.lab import VM

from .frames import BROADCAST, arp, nd, router_advertisement, seen, udp

RESOLVER, RESOLVER6, SERVICE_MAC = "169.254.169.253", "fd00:4e4e::53", "02:4e:56:ff:ff:fe"


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with Cloud(2, mesh={"tunnel_type": request.param}) as cloud:
        yield cloud


def booted(cloud: Cloud, cidr: str = "10.10.0.0/24", cidr6: str = "fd10::/64", **subnet: object) -> dict:
    """A network with a router in it, and a VM that knows nothing yet."""
    network = cloud.network(cidr)
    six = cloud.api.post("/v1/subnets", {"network_id": network["id"], "cidr": cidr6, **subnet})
    network["subnets"].append(six)
    cloud.router(network)
    return network


def mtu_of(cloud: Cloud, network: dict) -> int:
    return cloud.api.get(f"/v1/networks/{network['id']}")["mtu"]


def has(vm: VM, *addresses: str) -> bool:
    """Whether the VM has these addresses, ready for use."""
    own = {address.ip for address in vm.addresses().values() if not address.tentative}
    return set(addresses) <= own


def default_routes(vm: VM) -> list[str | None]:
    return [route.via for route in vm.routes() if route.destination == "default"]


def test_dhclient_gets_what_the_port_has(cloud: Cloud) -> None:
    network = booted(cloud)
    vm = cloud.vm(network, 0, configure=False, dns_name="web")
    lease = vm.dhclient(4)
    gateway = network["subnets"][0]["gateway_ip"]
    assert (lease["ip_address"], lease["routers"], lease["host_name"]) == (vm.ip, gateway, "web")
    assert vm.mtu() == mtu_of(cloud, network)
    assert RESOLVER in vm.resolv_conf()
    assert default_routes(vm) == [gateway]
    assert vm.ping(gateway).lost == 0
    assert lease.renew()["ip_address"] == vm.ip


def test_udhcpc_routes_name_servers_and_extra_options(cloud: Cloud) -> None:
    network = booted(cloud)
    routes = [{"destination": "192.0.2.0/24", "nexthop": "10.10.0.200"}]
    subnet = {"host_routes": routes, "dns_nameservers": ["192.0.2.53", "192.0.2.54"]}
    cloud.api.patch(f"/v1/subnets/{network['subnets'][0]['id']}", subnet)
    vm = cloud.vm(network, 1, configure=False, extra_dhcp_opts=[{"opt_name": "ntp-server", "opt_value": "192.0.2.123"}])
    lease = vm.udhcpc("-O", "ntpsrv", "-O", "staticroutes")
    assert (lease["ip"], lease["ntpsrv"], lease["dns"]) == (vm.ip, "192.0.2.123", "192.0.2.53 192.0.2.54")
    assert "192.0.2.0/24 10.10.0.200" in lease["staticroutes"]
    assert lease.renew()["ip"] == vm.ip


def test_dhcpv6_gives_the_ports_address(cloud: Cloud) -> None:
    network = booted(cloud)
    vm = cloud.vm(network, 0, configure=False)
    vm.accept_ra()
    vm.wait_link_local()
    lease = vm.dhclient(6)
    assert lease["ip6_address"] == vm.ip6
    assert lease["dhcp6_name_servers"] == RESOLVER6
    (advertisement,) = vm.rdisc6()
    assert (advertisement.managed, advertisement.lifetime > 0, advertisement.mtu) == (
        True,
        True,
        mtu_of(cloud, network),
    )
    assert until("default route", lambda: default_routes(vm))
    assert vm.ping(network["subnets"][1]["gateway_ip"]).lost == 0


def test_slaac_gives_the_ports_address(cloud: Cloud) -> None:
    network = booted(cloud, ipv6_address_mode="slaac")
    vm = cloud.vm(network, 0, configure=False)
    vm.accept_ra()
    assert until("SLAAC address", lambda: has(vm, vm.ip6))
    (advertisement,) = vm.rdisc6()
    assert (advertisement.managed, advertisement.dns_servers) == (False, (RESOLVER6,))
    assert vm.ping(network["subnets"][1]["gateway_ip"]).lost == 0


def test_dhcpcd_and_stateless_dhcpv6(cloud: Cloud) -> None:
    network = booted(cloud, ipv6_address_mode="dhcpv6-stateless")
    vm = cloud.vm(network, 1, configure=False)
    vm.accept_ra()
    lease = vm.dhcpcd()
    assert lease["ip_address"] == vm.ip
    assert until("both addresses", lambda: has(vm, vm.ip, vm.ip6))


def test_names_of_vms(cloud: Cloud) -> None:
    network = booted(cloud)
    cloud.api.patch(f"/v1/networks/{network['id']}", {"dns_domain": "example.test"})
    web = cloud.vm(network, 0, dns_name="web")
    client = cloud.vm(network, 1, dns_name="client")
    assert client.dig("web.example.test", "A", RESOLVER) == [web.ip]
    assert client.dig("WEB.example.test", "AAAA", RESOLVER6) == [web.ip6]
    assert client.dig("-x", web.ip, RESOLVER) == ["web.example.test."]
    assert client.dig("nobody.example.test", "A", RESOLVER).status == "NXDOMAIN"
    assert client.dig("www.example.org", "A", RESOLVER).status == "REFUSED"
    cloud.api.patch(f"/v1/ports/{web.port['id']}", {"dns_name": "www"})
    assert client.dig("www.example.test", "A", RESOLVER) == [web.ip]
    assert client.dig("web.example.test", "A", RESOLVER).status == "NXDOMAIN"


def test_a_vm_is_no_dhcp_server_and_no_router(cloud: Cloud) -> None:
    network = booted(cloud)
    rogue, victim = cloud.vm(network, 0), cloud.vm(network, 0)
    ours, theirs = rogue.port["mac_address"], victim.port["mac_address"]
    link_local = next(iter(rogue.addresses("link").values())).ip
    sniffer = victim.sniff(lambda frame: frame[6:12] == bytes.fromhex(ours.replace(":", "")))
    rogue.send_frame(*[udp(rogue.ip, victim.ip, ours, theirs, sport=67, dport=68)] * 5)
    rogue.send_frame(*[udp(rogue.ip6, victim.ip6, ours, theirs, sport=547, dport=546)] * 6)
    rogue.send_frame(*[router_advertisement(link_local, eth_src=ours)] * 7)
    wanted = {
        "a VM may not be a DHCP server": 5,
        "a VM may not be a DHCPv6 server": 6,
        "router advertisement of somebody else": 7,
    }
    for reason, least in wanted.items():
        assert until(reason, lambda reason=reason, least=least: dropped(cloud, reason) >= least)
    assert [frame for frame in seen(sniffer) if not frame.is_neighbour_solicitation] == []


def dropped(cloud: Cloud, reason: str) -> int:
    """Packets counted at /metrics as dropped for a reason, on all hypervisors."""
    lines = (line for line in cloud.api.get("/metrics").splitlines() if line.startswith("novanet_drops_total{"))
    return sum(int(line.split()[-1]) for line in lines if f'reason="{reason}"' in line)


@pytest.mark.parametrize("flood", ["dhcp", "dns", "arp", "nd"])
def test_a_flood_does_not_delay_the_service_of_others(cloud: Cloud, flood: str) -> None:
    """The other VM's packets are all answered, and the controller sees no more of the flood than the meter lets through."""
    network = booted(cloud)
    rogue, other = cloud.vm(network, 0), cloud.vm(network, 0, dns_name="other")
    ours = rogue.port["mac_address"]
    frame = {
        "dhcp": udp("0.0.0.0", "255.255.255.255", ours, BROADCAST, sport=68, dport=67),
        "dns": udp(rogue.ip, RESOLVER, ours, SERVICE_MAC, sport=4242, dport=53),
        "arp": arp(1, ours, rogue.ip, "00:00:00:00:00:00", other.ip, eth_src=ours),
        "nd": nd(135, rogue.ip6, "ff02::1", other.ip6, ours, eth_src=ours, eth_dst="33:33:00:00:00:01"),
    }[flood]
    idle = answer_times(other)
    before, began = cloud.counter("novanet_punts_total"), time.monotonic()
    stop = threading.Event()
    flooding = threading.Thread(target=send_until, args=(rogue, frame, stop))
    flooding.start()
    try:
        busy = answer_times(other)
    finally:
        stop.set()
        flooding.join()
    seconds = time.monotonic() - began
    punts = cloud.counter("novanet_punts_total") - before
    assert len(idle) == len(busy) == ASKED  # every question was answered, by itself, while the flood went on
    assert punts <= (seconds + 2) * PORT_RATE + PORT_BURST + 4 * ASKED


ASKED = 20


def answer_times(vm: VM) -> list[str]:
    """ASKED answers of the resolver, one after the other; each within dig's first try."""
    return [answer for _ in range(ASKED) for answer in vm.dig("other.internal", "A", RESOLVER, "+tries=1", "+time=1")]


def send_until(vm: VM, frame: bytes, stop: threading.Event) -> None:
    """Send as fast as it goes, for ten seconds at most."""
    end = time.monotonic() + 10
    while not stop.is_set() and time.monotonic() < end:
        vm.send_frame(*[frame] * 2000)
