"""The way outside: SNAT, floating IPs, port forwardings and neighbours, with real packets on a provider network."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.frames import arp
from tests.lab.outside import PHYSICAL, WORLD, WORLD6, World, address, announces, built, reaches, sources
from tools.lab import VM

KINDS = {"geneve": {}, "vxlan": {"tunnel_type": "vxlan"}, "vlan": {}}
VERSIONS = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Three wired hypervisors; the network outside is untagged, or in a VLAN."""
    with Cloud(3, mesh=KINDS[request.param], provider=PHYSICAL) as cloud:
        yield built(cloud, 77 if request.param == "vlan" else None)


def target(six: bool) -> str:
    return WORLD6 if six else WORLD


@contextmanager
def routed_in(world: World) -> Iterator[None]:
    """The world has a route to the tenant's network, by the router's address outside."""
    routes = [
        ["10.10.0.0/24", "via", address(world.gateway)],
        ["fd10::/64", "via", address(world.gateway, six=True)],
    ]
    for route in routes:
        world.outside.exec(["ip", "route", "replace", *route])
    try:
        yield
    finally:
        for route in routes:
            world.outside.exec(["ip", "route", "del", *route])


@contextmanager
def small_packets(world: World) -> Iterator[None]:
    """The world sends fragments that fit inside."""
    prefixes = "203.0.113.0/25", "2001:db8:ffff::/65"
    for prefix in prefixes:
        world.outside.exec(f"ip route add {prefix} dev eth0 mtu 1400")
    try:
        yield
    finally:
        for prefix in prefixes:
            world.outside.exec(f"ip route del {prefix} dev eth0")


# --- source NAT --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hypervisor", [0, 1, 2])
def test_vms_reach_the_outside_by_the_gateways_address(world: World, hypervisor: int) -> None:
    vm = world.cloud.vm(world.network, hypervisor)
    for six in (False, True):
        assert until(f"{vm} reaches {target(six)}", lambda six=six: reaches(vm, target(six)))
        sniffer = world.outside.sniff()
        assert vm.ping(target(six)).lost == 0
        assert sources(sniffer.stop(), six) == {address(world.gateway, six)}
        with small_packets(world):
            assert vm.ping(target(six), size=3000).lost == 0


@VERSIONS
def test_the_router_answers_ping_from_outside_and_inside(world: World, six: bool) -> None:
    own = address(world.gateway, six)
    assert until("router answers", lambda: reaches(world.outside, own))
    for hypervisor in range(3):
        vm = world.cloud.vm(world.network, hypervisor)
        assert until(f"router answers {vm}", lambda vm=vm: reaches(vm, own))


@VERSIONS
def test_nobody_outside_reaches_what_is_behind_source_nat(world: World, six: bool) -> None:
    vm = world.cloud.vm(world.network, 0)
    assert until("outside", lambda: reaches(vm, target(six)))
    with routed_in(world):
        sniffer = vm.sniff()
        assert world.outside.ping(vm.ip6 if six else vm.ip).received == 0
        assert not sources(sniffer.stop(), six)


@VERSIONS
def test_without_source_nat_packets_are_routed_as_they_are(world: World, six: bool) -> None:
    vms = [world.cloud.vm(world.network, number) for number in range(3)]
    world.cloud.api.patch(f"/v1/routers/{world.router['id']}", {"enable_snat": False})
    try:
        with routed_in(world):
            for vm in vms:
                own = vm.ip6 if six else vm.ip
                assert until("reached from outside", lambda own=own: reaches(world.outside, own))
                sniffer = world.outside.sniff()
                assert vm.ping(target(six)).lost == 0
                assert sources(sniffer.stop(), six) == {own}
    finally:
        world.cloud.api.patch(f"/v1/routers/{world.router['id']}", {"enable_snat": True})
    assert until("translated again", lambda: reaches(vms[0], target(six)))


@VERSIONS
def test_errors_about_translated_packets_come_back(world: World, six: bool) -> None:
    """UDP to a closed port: the ICMP error quotes what the VM sent, so that traceroute knows it."""
    vm = world.cloud.vm(world.network, world.order()[-1])
    assert until("outside", lambda: reaches(vm, target(six)))
    hops = vm.traceroute(target(six))
    assert hops[-1] == target(six), hops
    assert hops[0] == world.network["subnets"][six]["gateway_ip"], hops


def test_overlapping_tenants_have_their_own_ways_out(world: World) -> None:
    other_network = world.cloud.network("10.10.0.0/24")
    other = world.cloud.router(other_network, world.external)
    mine, theirs = world.cloud.vm(world.network, 0), world.cloud.vm(other_network, 0)
    for vm in (mine, theirs):
        assert until("outside", lambda vm=vm: reaches(vm, WORLD))
    sniffer = world.outside.sniff()
    assert (mine.ping(WORLD).lost, theirs.ping(WORLD).lost) == (0, 0)
    outer = address(next(port for port in other["interfaces"] if port["network_id"] == world.external["id"]))
    assert sources(sniffer.stop(), six=False) == {address(world.gateway), outer}


# --- floating IPs ------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_floating_ip_is_the_vm_outside(world: World, six: bool) -> None:
    vm = world.cloud.vm(world.network, world.order()[-1])
    floating = world.floating_ip(vm, six)
    text = floating["floating_ip_address"]
    assert until("outside reaches the VM", lambda: reaches(world.outside, text))
    with small_packets(world):
        assert world.outside.ping(text, size=3000).lost == 0
    sniffer = world.outside.sniff()
    assert vm.ping(target(six)).lost == 0
    assert sources(sniffer.stop(), six) == {text}
    for hypervisor in range(3):
        other = world.cloud.vm(world.network, hypervisor)
        assert until(f"{other} reaches it", lambda other=other: reaches(other, text))
    assert until("itself reaches it", lambda: reaches(vm, text))
    world.cloud.api.patch(f"/v1/floating-ips/{floating['id']}", {"port_id": None})
    assert until("detached", lambda: world.outside.ping(text, count=1).received == 0)
    world.cloud.api.delete(f"/v1/floating-ips/{floating['id']}")


@VERSIONS
def test_errors_about_packets_for_a_floating_ip_quote_it(world: World, six: bool) -> None:
    """From outside: the router's time exceeded, the VM's port unreachable, and what is too big for the network inside."""
    vm = world.cloud.vm(world.network, world.order()[-1])
    text = world.floating_ip(vm, six)["floating_ip_address"]
    assert until("outside reaches the VM", lambda: reaches(world.outside, text))
    assert until("both hops are seen", lambda: world.outside.traceroute(text) == [text, text])
    mtu = world.cloud.api.get(f"/v1/networks/{world.network['id']}")["mtu"]
    assert world.outside.ping(text, size=1450, df=True, count=2).received == 0
    assert until("the world knows", lambda: world.outside.path_mtu(text) == mtu)


def test_two_floating_ips_on_one_hypervisor_reach_each_other(world: World) -> None:
    vms = [world.cloud.vm(world.network, 1) for _ in range(2)]
    floating = [world.floating_ip(vm)["floating_ip_address"] for vm in vms]
    assert until("one reaches the other", lambda: reaches(vms[0], floating[1]))
    assert until("and back", lambda: reaches(vms[1], floating[0]))


@pytest.mark.parametrize("kind", [{}, {"tunnel_type": "vxlan"}], ids=["geneve", "vxlan"])
def test_a_floating_ip_of_a_vm_without_a_wire_is_at_the_gateway(kind: dict[str, str]) -> None:
    with Cloud(3, mesh=kind, provider=PHYSICAL, wired=(0, 1)) as cloud:
        world = built(cloud)
        vm, others = cloud.vm(world.network, 2), [cloud.vm(world.network, number) for number in range(3)]
        text = world.floating_ip(vm)["floating_ip_address"]
        assert until("SNAT", lambda: reaches(others[2], WORLD))
        assert until("outside reaches the VM", lambda: reaches(world.outside, text))
        sniffer = world.outside.sniff()
        assert vm.ping(WORLD).lost == 0
        assert sources(sniffer.stop(), six=False) == {text}
        for other in (vm, *others):
            assert until(f"{other} reaches it", lambda other=other: reaches(other, text))


# --- port forwardings --------------------------------------------------------------------------------------------


@contextmanager
def echo_server(vm: VM, protocol: str, port: int) -> Iterator[None]:
    listen = f"TCP4-LISTEN:{port},reuseaddr,fork" if protocol == "tcp" else f"UDP4-RECVFROM:{port},fork"
    server = vm.popen(["socat", "-b", "8192", listen, "EXEC:/bin/cat"])
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def said(host: Any, protocol: str, to: str, text: str) -> str:
    """What an echo server answers. Datagrams all have one source port, so that they belong to one connection."""
    server = f"TCP4:{to}" if protocol == "tcp" else f"UDP4:{to},sourceport=5555"
    ask = ["timeout", "3", "socat", "-b", "8192", "-T", "1", "-", server]
    done: subprocess.CompletedProcess[str] = host.exec(ask, input=text, check=False)
    return done.stdout


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_forwarded_port_leads_to_the_vm(world: World, protocol: str) -> None:
    vm = world.cloud.vm(world.network, 2)
    floating = world.floating_ip()
    wanted = {
        "floating_ip_id": floating["id"], "protocol": protocol, "external_port": 2222,
        "internal_port_id": vm.port["id"], "internal_port": 22,
    }  # fmt: skip
    forwarding = world.cloud.api.post("/v1/port-forwardings", wanted)
    text = floating["floating_ip_address"]
    clients = [world.outside, *(world.cloud.vm(world.network, number) for number in range(3))]
    with echo_server(vm, protocol, 22), small_packets(world):
        for client in clients:
            # a large datagram is in fragments, only the first of which has the port
            for words in ("hello", "x" * 4000) if client is world.outside else ("hello",):
                answered = until(
                    f"{client} is answered",
                    lambda client=client, words=words: said(client, protocol, f"{text}:2222", words),
                )
                assert answered == words
        assert not said(world.outside, protocol, f"{text}:2223", "hello")
        world.cloud.api.delete(f"/v1/port-forwardings/{forwarding['id']}")
        until("no longer forwarded", lambda: not said(world.outside, protocol, f"{text}:2222", "hello"))


# --- neighbours outside ------------------------------------------------------------------------------------------


def neighbours(world: World) -> dict[str, dict[str, Any]]:
    found = world.cloud.api.get(f"/v1/neighbours?network_id={world.external['id']}")["items"]
    return {each["ip_address"]: each for each in found}


@VERSIONS
def test_the_first_packet_to_a_new_neighbour_is_not_lost(world: World, six: bool) -> None:
    vm = world.cloud.vm(world.network, world.order()[-1])
    assert until("outside", lambda: reaches(vm, target(six)))
    text = "2001:db8:ffff::99" if six else "203.0.113.99"
    host = world.host(f"new{int(six)}", f"{text}/{64 if six else 24}")
    assert vm.ping(text, count=1, timeout=3).received == 1
    learned = until("learned", lambda: neighbours(world).get(text))
    assert (learned["mac_address"], learned["learned"]) == (host.mac, True)


def test_a_neighbours_new_mac_address_is_learned_from_its_announcement(world: World) -> None:
    vm = world.cloud.vm(world.network, world.order()[-1])
    host = world.host("moving", "203.0.113.98/24")
    assert until("reached", lambda: reaches(vm, "203.0.113.98"))
    until("learned", lambda: neighbours(world).get("203.0.113.98"))
    new = "02:6e:6e:fe:99:99"
    host.exec(["ip", "link", "set", "eth0", "address", new])
    announcement = arp(1, new, "203.0.113.98", "00:00:00:00:00:00", "203.0.113.98", eth_src=new)
    host.send_frame(announcement)
    until("learned anew", lambda: neighbours(world)["203.0.113.98"]["mac_address"] == new)
    assert until("reached again", lambda: reaches(vm, "203.0.113.98"))


def test_a_neighbour_that_an_administrator_has_set_is_not_asked(world: World) -> None:
    vm = world.cloud.vm(world.network, world.order()[-1])
    host = world.host("static", "203.0.113.97/24")
    host.exec(["ip", "link", "set", "eth0", "arp", "off"])
    host.exec(["ip", "neigh", "replace", address(world.gateway), "lladdr", world.gateway["mac_address"], "dev", "eth0"])
    assert vm.ping("203.0.113.97", count=1).received == 0
    wanted = {"network_id": world.external["id"], "ip_address": "203.0.113.97", "mac_address": host.mac}
    made = world.cloud.api.post("/v1/neighbours", wanted)
    assert until("reached", lambda: reaches(vm, "203.0.113.97"))
    other = "02:6e:6e:fe:98:98"
    host.send_frame(arp(1, other, "203.0.113.97", "00:00:00:00:00:00", "203.0.113.97", eth_src=other))
    assert reaches(vm, "203.0.113.97")
    world.cloud.api.delete(f"/v1/neighbours/{made['id']}")


def test_known_neighbours_are_answered_too(world: World) -> None:
    """Their messages are looked at for a new MAC address, and still answered."""
    vm = world.cloud.vm(world.network, 0)
    floating = world.floating_ip(vm)["floating_ip_address"]
    assert until("known", lambda: reaches(vm, WORLD) and WORLD in neighbours(world))
    for text in (floating, address(world.gateway)):
        world.outside.exec(["ip", "neigh", "flush", "all"])
        assert until(f"{text} answers", lambda text=text: reaches(world.outside, text))


@VERSIONS
def test_a_floating_ip_is_announced_where_its_vm_comes_to_be(world: World, six: bool) -> None:
    vm = world.cloud.vm(world.network, 0)
    sniffer = world.outside.sniff()
    floating = world.floating_ip(vm, six)
    frame = sniffer.wait(lambda frame: announces(frame, floating["floating_ip_address"]))
    sniffer.stop()
    assert frame[6:12].hex(":") == floating["mac_address"]
