"""What VMs ask of their network when they boot, with the clients that people use: DHCP, DHCPv6, RA, DNS; and who may not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import dns.message
import pytest

from pipelines.packets.dhcp4 import NAK, REQUEST
from pipelines.punting import PORT_BURST, PORT_RATE, QUESTION_BURST, QUESTION_RATE
from tests.lab.cloud import Cloud, until
from tools.lab import VM, Sniffer, processes

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


# --- networks without a router -----------------------------------------------------------------------------------


def test_without_a_router_vms_are_served_all_the_same(cloud: Cloud) -> None:
    """There is a gateway address, but nobody has it: DHCP's server and the resolver are on the link itself."""
    network = cloud.network("10.20.0.0/24", "fd20::/64")
    vm = cloud.vm(network, 0, configure=False, dns_name="lonely")
    lease = vm.dhclient(4)
    assert (lease["ip_address"], lease["dhcp_server_identifier"]) == (vm.ip, "169.254.169.254")
    assert {route.destination for route in vm.routes()} >= {RESOLVER, "169.254.169.254"}
    assert vm.dig("lonely.internal", "A", RESOLVER) == [vm.ip]
    vm.accept_ra()
    assert vm.dhclient(6)["ip6_address"] == vm.ip6
    assert until("the resolver's route", lambda: RESOLVER6 in {route.destination for route in vm.routes()})
    assert default_routes(vm) == [network["subnets"][0]["gateway_ip"]], "IPv6 has none, as nobody routes"
    assert vm.dig("lonely.internal", "AAAA", RESOLVER6) == [vm.ip6]


def test_a_subnet_without_a_gateway(cloud: Cloud) -> None:
    network = cloud.network()
    subnet = {"network_id": network["id"], "cidr": "10.21.0.0/24", "gateway_ip": None}
    network["subnets"].append(cloud.api.post("/v1/subnets", subnet))
    vm, other = cloud.vm(network, 0, configure=False), cloud.vm(network, 1, dns_name="other")
    lease = vm.dhcpcd(4)
    assert lease["ip_address"] == vm.ip and "routers" not in lease
    assert default_routes(vm) == []
    assert vm.ping(other.ip).lost == 0
    assert vm.dig("other", "A", RESOLVER) == [other.ip]


# --- leases ------------------------------------------------------------------------------------------------------


def dhcp_messages(frames: list[bytes]) -> list[tuple[str, int]]:
    """(destination, type) of the DHCP messages to the server among frames."""
    found = []
    for frame in frames:
        if frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[36:38] == b"\0\x43":
            options = frame[42 + 240 :]
            assert options[0] == 53, "the message type comes first, as all these clients have it"
            found.append((str(IPv4Address(frame[30:34])), options[2]))
    return found


@pytest.mark.parametrize("routed", [True, False], ids=["by the router", "on the link"])
def test_renewal_is_by_unicast(cloud: Cloud, routed: bool) -> None:
    network = booted(cloud, "10.22.0.0/24", "fd22::/64") if routed else cloud.network("10.23.0.0/24")
    server = network["subnets"][0]["gateway_ip"] if routed else "169.254.169.254"
    vm = cloud.vm(network, 1, configure=False)
    lease = vm.udhcpc()
    vm.exec(f"ip route replace {server}/32 dev eth0")  # udhcpc's script sets no routes but the default one
    with vm.sniff(outgoing=True) as sniffer:
        assert lease.renew()["ip"] == vm.ip
        # on a slow machine the client asks everybody too, before the answer has come; that changes nothing here
        assert until("every question answered", lambda: dhcp_answers(sniffer) >= len(dhcp_messages(sniffer.frames)))
        assert dhcp_messages(sniffer.frames)[0] == (server, REQUEST)


def dhcp_answers(sniffer: Sniffer) -> int:
    """DHCP messages from the server."""
    return sum(frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[34:36] == b"\0\x43" for frame in sniffer.frames)


def test_an_address_that_is_no_longer_the_ports_is_refused(cloud: Cloud) -> None:
    network = booted(cloud, "10.24.0.0/24", "fd24::/64")
    vm = cloud.vm(network, 0, "10.24.0.50", configure=False)
    lease = vm.dhclient(4)
    assert lease["ip_address"] == "10.24.0.50"
    cloud.api.patch(f"/v1/ports/{vm.port['id']}", {"fixed_ips": [{"ip_address": "10.24.0.60"}]})
    cloud.wait_active("ports", vm.port["id"])
    with vm.sniff(lambda frame: frame[34:38] == b"\0\x43\0\x44") as sniffer:
        assert lease.renew()["ip_address"] == "10.24.0.60"
        kinds = [frame[42 + 242] for frame in sniffer.frames]
    assert NAK in kinds


def test_a_vm_with_addresses_in_several_subnets(cloud: Cloud) -> None:
    network = cloud.network("10.25.0.0/24", "10.26.0.0/24", "fd25::/64", "fd26::/64")
    vm, other = cloud.vm(network, 0, configure=False), cloud.vm(network, 1)
    assert vm.dhclient(4)["ip_address"] == vm.ip
    vm.accept_ra()
    vm.dhclient(6)
    both = [fixed["ip_address"] for fixed in vm.port["fixed_ips"] if ":" in fixed["ip_address"]]
    assert len(both) == 2 and until("both IPv6 addresses", lambda: has(vm, *both))
    theirs = [fixed["ip_address"] for fixed in other.port["fixed_ips"]]
    for address in (theirs[0], *theirs[2:]):
        assert vm.ping(address).lost == 0


# --- DHCP servers of one's own -----------------------------------------------------------------------------------


def test_a_trusted_vm_may_be_the_dhcp_server_where_novanet_is_none(cloud: Cloud) -> None:
    network = cloud.network()
    subnet = {"network_id": network["id"], "cidr": "10.27.0.0/24", "enable_dhcp": False}
    network["subnets"].append(cloud.api.post("/v1/subnets", subnet))
    server = cloud.vm(network, 0, port_security_enabled=False)
    vm = cloud.vm(network, 1, configure=False, security_groups=[cloud.open_group()])
    hosts = f"--dhcp-host={vm.port['mac_address']},{vm.ip}"
    command = ["dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--interface=eth0", "--pid-file"]
    command += [
        "--dhcp-range=10.27.0.0,static,255.255.255.0,1h",
        "--dhcp-leasefile=/dev/null",
        hosts,
        "--dhcp-authoritative",
    ]
    running = server.popen(command, private=True)
    try:
        lease = vm.udhcpc()
    finally:
        processes.end(running)
    assert (lease["ip"], lease["serverid"]) == (vm.ip, server.ip)


# --- names elsewhere ---------------------------------------------------------------------------------------------


def test_other_names_are_asked_of_the_forwarder() -> None:
    asked = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                payload, client = upstream.recvfrom(4096)
                if not payload:
                    return
                query = dns.message.from_wire(payload)
                asked.append(query.question[0].name.to_text())
                response = dns.message.make_response(query, recursion_available=True)
                response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.80"))
                upstream.sendto(response.to_wire(), client)

        thread = threading.Thread(target=answer)
        thread.start()
        port = upstream.getsockname()[1]
        try:
            with Cloud(1, options={"dns_forwarders": f"127.0.0.1:{port}"}) as cloud:
                network = cloud.network("10.10.0.0/24")
                vm = cloud.vm(network, 0, configure=False, dns_name="web")
                vm.udhcpc()
                vm.exec(f"ip route replace {RESOLVER}/32 dev eth0")  # udhcpc's script leaves routes to others
                assert vm.dig("www.example.org", "A", RESOLVER) == ["192.0.2.80"]
                assert vm.dig("web.internal", "A", RESOLVER) == [vm.ip]
        finally:
            upstream.sendto(b"", upstream.getsockname())
            thread.join()
    assert asked == ["www.example.org."]


# --- floods ------------------------------------------------------------------------------------------------------

SCANNED = 5000
"""Frames of a scan, each with a question of its own, until it begins again."""


def flood_frames(flood: str, rogue: VM, other: VM) -> list[bytes]:
    """What the rogue sends over and over."""
    ours = rogue.port["mac_address"]
    everyone, nobody = "33:33:00:00:00:01", "00:00:00:00:00:00"
    match flood:
        case "dhcp":
            return [udp("0.0.0.0", "255.255.255.255", ours, BROADCAST, sport=68, dport=67)]
        case "dns":
            return [udp(rogue.ip, RESOLVER, ours, SERVICE_MAC, sport=port, dport=53) for port in range(4000, 4100)]
        case "arp":
            return [arp(1, ours, rogue.ip, nobody, other.ip, eth_src=ours)]
        case "nd":
            return [nd(135, rogue.ip6, "ff02::1", other.ip6, ours, eth_src=ours, eth_dst=everyone)]
        case "arp scan":
            scanned = (f"10.{n % 256}.{n // 256}.7" for n in range(SCANNED))
            return [arp(1, ours, rogue.ip, nobody, address, eth_src=ours) for address in (other.ip, *scanned)]
        case _:
            scanned = (f"fd10::7:{n:x}" for n in range(SCANNED))
            addresses = (other.ip6, *scanned)
            return [nd(135, rogue.ip6, "ff02::1", each, ours, eth_src=ours, eth_dst=everyone) for each in addresses]


@pytest.mark.parametrize("flood", ["dhcp", "dns", "arp", "nd", "arp scan", "nd scan"])
def test_a_flood_leaves_others_their_answers(cloud: Cloud, flood: str) -> None:
    """The other VM's questions are all answered by themselves, and no more of the flood is looked at than the meters let through.

    How long the answers take meanwhile, ``make bench NAME=punts`` measures.
    """
    network = booted(cloud)
    rogue, other = cloud.vm(network, 0), cloud.vm(network, 0, dns_name="other")
    neighbour = cloud.vm(network, 0)
    frames = flood_frames(flood, rogue, other)
    before, began = cloud.counter("novanet_punts_total"), time.monotonic()
    answered = rogue.sniff(
        lambda frame: frame[12:14] == b"\x08\x06" or (frame[20:21] == b"\x3a" and frame[54:55] == b"\x88")
    )
    stop = threading.Event()
    sent: list[int] = []
    flooding = threading.Thread(target=send_until, args=(rogue, frames, stop, sent))
    flooding.start()
    try:
        assert answers(other) == [other.ip] * ASKED
        for address in (neighbour.ip, neighbour.ip6):
            for _ in range(ASKED):
                other.exec("ip neigh flush dev eth0")
                assert other.ping(address, count=1).received == 1
    finally:
        stop.set()
        flooding.join()
    seconds = time.monotonic() - began + 2
    looked_at = cloud.counter("novanet_punts_total") - before
    assert looked_at <= seconds * PORT_RATE + PORT_BURST + 4 * ASKED
    assert len(answered.stop()) <= seconds * QUESTION_RATE + QUESTION_BURST
    assert sum(sent) > 2 * (seconds * QUESTION_RATE + QUESTION_BURST), "else it was no flood"


ASKED = 20


def answers(vm: VM) -> list[str]:
    """ASKED answers of the resolver, one after the other; each within dig's first try."""
    return [answer for _ in range(ASKED) for answer in vm.dig("other.internal", "A", RESOLVER, "+tries=1", "+time=1")]


def send_until(vm: VM, frames: list[bytes], stop: threading.Event, sent: list[int]) -> None:
    """Send as fast as it goes."""
    some = frames * max(1, 2000 // len(frames))
    while not stop.is_set():
        vm.send_frame(*some)
        sent.append(len(some))
