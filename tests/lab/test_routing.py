"""Routers with real packets: from subnet to subnet, on one hypervisor and across, over every kind of tunnel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pipelines import fields as f
from pipelines.addresses import link_local
from tools.lab import VM

from .cloud import Cloud, until
from .frames import MARK, udp


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request):
    with Cloud(2, mesh={"tunnel_type": request.param}) as cloud:
        yield cloud


class Pair:
    """Networks a and b joined by a router; VM a on the first hypervisor, b beside it, and far, b's neighbour, on the second."""

    def __init__(self, cloud: Cloud, tenant: int = 1, **router: object) -> None:
        self.cloud = cloud
        self.left = cloud.network(f"10.{tenant}.0.0/24", f"fd00:{tenant}:a::/64")
        self.right = cloud.network(f"10.{tenant}.1.0/24", f"fd00:{tenant}:b::/64")
        self.router = cloud.router(self.left, self.right, **router)
        self.a = cloud.vm(self.left, 0)
        self.b = cloud.vm(self.right, 0)
        self.far = cloud.vm(self.right, 1)

    def change(self, **fields: object) -> None:
        """Change the router, and wait until the switches have it."""
        self.cloud.api.patch(f"/v1/routers/{self.router['id']}", fields)
        self.cloud.wait_active("routers", self.router["id"])

    def mac(self, interface: int = 0) -> str:
        return self.router["interfaces"][interface]["mac_address"]


@pytest.fixture(scope="module")
def pair(cloud) -> Pair:
    return Pair(cloud)


def ttl_at(receiver: VM, sender: VM, frame: bytes) -> int | None:
    """Send a marked frame; the TTL or hop limit with which it comes, None when it does not."""
    with receiver.sniff() as sniffer:
        sender.send_frame(frame)
        found = sniffer.wait(lambda data: MARK in data)
    return found[22 if found[12:14] == b"\x08\0" else 21]


def test_vms_of_different_subnets_reach_each_other(pair: Pair) -> None:
    for one, other in ((pair.a, pair.b), (pair.a, pair.far), (pair.far, pair.a), (pair.b, pair.a)):
        assert one.ping(other.ip, count=2).received == 2, f"{one.ip} -> {other.ip}"
        assert one.ping(other.ip6, count=2).received == 2, f"{one.ip6} -> {other.ip6}"


def test_the_receiver_sees_one_hop_and_the_routers_mac_address(pair: Pair) -> None:
    for receiver in (pair.b, pair.far):
        for source, destination in ((pair.a.ip, receiver.ip), (pair.a.ip6, receiver.ip6)):
            frame = udp(source, destination, pair.a.port["mac_address"], pair.mac())
            with receiver.sniff() as sniffer:
                pair.a.send_frame(frame)
                data = sniffer.wait(lambda data: MARK in data)
            assert data[22 if ":" not in source else 21] == 63
            assert data[6:12].hex(":") == pair.mac(1)


def test_every_address_of_the_router_answers_ping(pair: Pair) -> None:
    for interface in pair.router["interfaces"]:
        for fixed in interface["fixed_ips"]:
            for vm in (pair.a, pair.far):
                assert vm.ping(fixed["ip_address"], count=2).received == 2, f"{vm.ip} -> {fixed['ip_address']}"


def test_fragments_are_routed(pair: Pair) -> None:
    for receiver in (pair.b, pair.far):
        assert pair.a.ping(receiver.ip, count=2, size=4000).received == 2
        assert pair.a.ping(receiver.ip6, count=2, size=4000).received == 2


def test_the_routers_link_local_address_answers_ping(pair: Pair) -> None:
    near = ip_address(link_local(f.mac(pair.mac())))
    pair.a.wait_link_local()
    assert pair.a.ping(f"{near}%eth0", count=2).received == 2


def test_traceroute_shows_the_router(pair: Pair) -> None:
    gateways = {":" in x["ip_address"]: x["ip_address"] for x in pair.router["interfaces"][0]["fixed_ips"]}
    for destination in (pair.b.ip, pair.far.ip, pair.b.ip6, pair.far.ip6):
        assert pair.a.traceroute(destination) == [gateways[":" in destination], destination]
    assert pair.a.traceroute(gateways[False]) == [gateways[False]]


def test_large_packets_fit_or_are_told(cloud) -> None:
    pair = Pair(cloud, tenant=2)
    cloud.api.patch(f"/v1/networks/{pair.right['id']}", {"mtu": 1290})
    cloud.wait_active("routers", pair.router["id"])
    for destination, head in ((pair.far.ip, 28), (pair.far.ip6, 48)):
        assert pair.a.ping(destination, count=1, size=1290 - head, df=True).received == 1
        assert pair.a.ping(destination, count=1, size=1291 - head, df=True).received == 0
        assert pair.a.path_mtu(destination) == 1290


# --- routes ------------------------------------------------------------------------------------------------------

BEHIND, BEHIND6 = "192.0.2.7", "2001:db8:7::7"


def behind(vm: VM) -> None:
    """Give a VM further addresses, which nobody knows."""
    vm.exec(f"ip addr add {BEHIND}/32 dev lo")
    vm.exec(f"ip -6 addr add {BEHIND6}/128 dev lo")


def forward(vm: VM, target: VM) -> None:
    """Have a VM forward what is for the addresses behind ``target``."""
    vm.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv4/conf/all/send_redirects": 0,
               "ipv4/conf/eth0/send_redirects": 0})  # fmt: skip
    vm.exec(f"ip route add {BEHIND}/32 via {target.ip}")
    vm.exec(f"ip -6 route add {BEHIND6}/128 via {target.ip6}")
    for host in (vm, target):
        host.wait_link_local()  # who forwards asks for neighbours with that address


def test_a_static_route_leads_through_a_vm_that_forwards(cloud) -> None:
    pair = Pair(cloud, tenant=3)
    middle = cloud.vm(pair.right, 1, port_security_enabled=False)
    end = cloud.vm(pair.right, 0, port_security_enabled=False)
    behind(end)
    forward(middle, end)
    assert pair.a.ping(BEHIND, count=1, timeout=0.3).received == 0
    pair.change(routes=[
        {"destination": "192.0.2.0/24", "nexthop": middle.ip}, {"destination": "2001:db8:7::/48", "nexthop": middle.ip6},
    ])  # fmt: skip
    assert pair.a.ping(BEHIND, count=2).received == 2
    assert pair.a.ping(BEHIND6, count=2).received == 2
    for source, destination in ((pair.a.ip, BEHIND), (pair.a.ip6, BEHIND6)):
        frame = udp(source, destination, pair.a.port["mac_address"], pair.mac())
        assert ttl_at(end, pair.a, frame) == 62


def test_policy_routes_drop_and_reroute(cloud) -> None:
    pair = Pair(cloud, tenant=4)
    second = cloud.vm(pair.left, 1)
    end, other = (cloud.vm(pair.right, n, port_security_enabled=False) for n in (0, 1))
    for vm in (end, other):
        behind(vm)
    prefix = {"destination": "192.0.2.0/24"}
    pair.change(
        routes=[{**prefix, "nexthop": end.ip}],
        policy_routes=[
            {"priority": 10, "source": f"{pair.a.ip}/32", **prefix, "nexthops": [other.ip]},
            {"priority": 20, "protocol": "icmp", "destination": f"{pair.b.ip}/32", "action": "drop"},
        ],
    )
    for sender, receiver in ((pair.a, other), (second, end)):
        frame = udp(sender.ip, BEHIND, sender.port["mac_address"], pair.mac())
        assert ttl_at(receiver, sender, frame) == 63
    assert pair.a.ping(pair.b.ip, count=2, interval=0.1, timeout=0.3).received == 0
    assert pair.a.ping(pair.far.ip, count=1).received == 1
    assert ttl_at(pair.b, pair.a, udp(pair.a.ip, pair.b.ip, pair.a.port["mac_address"], pair.mac())) == 63
    pair.change(policy_routes=[])
    assert pair.a.ping(pair.b.ip, count=1).received == 1


FLOWS = range(40)


def spread(pair: Pair, hops: dict[str, VM], packets: int = 1) -> dict[int, list[str]]:
    """The next hops that the packets of each flow came to, by its source port."""
    mac = pair.a.port["mac_address"]
    frames = [udp(pair.a.ip, BEHIND, mac, pair.mac(), sport=3000 + flow) for flow in FLOWS for _ in range(packets)]
    sniffers = {name: vm.sniff(lambda data: MARK in data) for name, vm in hops.items()}
    for frame in frames:
        pair.a.send_frame(frame)
    until("every packet at a next hop", lambda: sum(len(each.frames) for each in sniffers.values()) >= len(frames))
    found: dict[int, list[str]] = {flow: [] for flow in FLOWS}
    for name, sniffer in sniffers.items():
        sniffer.stop()
        for data in sniffer.frames:
            found[int.from_bytes(data[34:36], "big") - 3000].append(name)
    return found


def paths(pair: Pair, hops: dict[str, VM]) -> dict[int, str]:
    """The next hop of each flow; every one has several packets, and all of them take the same."""
    found = spread(pair, hops, packets=3)
    assert all(len(names) == 3 and len(set(names)) == 1 for names in found.values()), found
    return {flow: names[0] for flow, names in found.items()}


def test_flows_are_spread_over_next_hops_and_stay_with_theirs(cloud) -> None:
    pair = Pair(cloud, tenant=5)
    hops = {name: cloud.vm(pair.right, n) for name, n in (("near", 0), ("far", 1), ("third", 1))}
    routes = [{"destination": "192.0.2.0/24", "nexthop": vm.ip} for vm in hops.values()]
    pair.change(routes=routes)
    before = paths(pair, hops)
    assert set(before.values()) == {"near", "far", "third"}
    assert paths(pair, hops) == before
    pair.change(routes=routes[:2])
    # the datapath's own cache follows a moment after the switch has confirmed
    until("no flow at the next hop that is gone", lambda: not any("third" in n for n in spread(pair, hops).values()))
    after = paths(pair, hops)
    assert set(after.values()) == {"near", "far"}
    assert all(after[flow] == hop for flow, hop in before.items() if hop != "third")


# --- several routers ---------------------------------------------------------------------------------------------


def test_two_routers_in_a_row(cloud) -> None:
    pair = Pair(cloud, tenant=6)
    transit = cloud.network("10.6.8.0/24", "fd00:6:8::/64")
    beyond = cloud.network("10.6.9.0/24", "fd00:6:9::/64")
    second = cloud.router(beyond)

    def interface(router: dict, host: int) -> None:
        fixed = [{"ip_address": f"10.6.8.{host}"}, {"ip_address": f"fd00:6:8::{host}"}]
        fields = {"network_id": transit["id"], "router_id": router["id"], "fixed_ips": fixed}
        cloud.api.post("/v1/ports", fields)

    interface(pair.router, 1)
    interface(second, 2)
    routes = [
        {"destination": "10.6.9.0/24", "nexthop": "10.6.8.2"},
        {"destination": "fd00:6:9::/64", "nexthop": "fd00:6:8::2"},
    ]
    pair.change(routes=routes)
    back = [{"destination": "0.0.0.0/0", "nexthop": "10.6.8.1"}, {"destination": "::/0", "nexthop": "fd00:6:8::1"}]
    cloud.api.patch(f"/v1/routers/{second['id']}", {"routes": back})
    # VXLAN tells the identity of who is behind one router, not of who is behind two
    end = cloud.vm(beyond, 1, security_groups=[cloud.open_group()])
    cloud.wait_active("routers", second["id"])
    for vm in (pair.a, pair.far):
        assert vm.ping(end.ip, count=2).received == 2
        assert vm.ping(end.ip6, count=2).received == 2
    frame = udp(pair.a.ip, end.ip, pair.a.port["mac_address"], pair.mac())
    assert ttl_at(end, pair.a, frame) == 62
    assert pair.a.traceroute(end.ip) == ["10.6.0.1", "10.6.8.2", end.ip]
    assert pair.a.traceroute(end.ip6) == ["fd00:6:a::1", "fd00:6:8::2", end.ip6]


def test_tenants_with_the_same_addresses_never_meet(cloud, pair: Pair) -> None:
    twin = Pair(cloud)
    alone = cloud.vm(twin.right, 1, "10.1.1.77", "fd00:1:b::77")
    for destination in (alone.ip, alone.ip6):
        assert twin.a.ping(destination, count=2).received == 2
        with alone.sniff() as sniffer:
            assert pair.a.ping(destination, count=2, interval=0.1, timeout=0.3).received == 0
        assert not [data for data in sniffer.frames if data[6:12].hex(":") == pair.mac(1)]


def test_removing_an_interface_stops_traffic_and_adding_it_again_brings_it_back(cloud) -> None:
    pair = Pair(cloud, tenant=7)
    assert pair.a.ping(pair.far.ip, count=1).received == 1
    interface = pair.router["interfaces"][1]
    cloud.api.delete(f"/v1/ports/{interface['id']}")
    cloud.wait_active("routers", pair.router["id"])
    for destination in (pair.far.ip, pair.far.ip6):
        until("silence", lambda to=destination: not pair.a.ping(to, count=1, timeout=0.3).received)
    fields = {"network_id": pair.right["id"], "router_id": pair.router["id"], "mac_address": interface["mac_address"]}
    again = cloud.api.post("/v1/ports", fields)  # the MAC address that the VMs still know
    cloud.wait_active("ports", again["id"])
    assert pair.a.ping(pair.far.ip, count=2).received == 2
    assert pair.a.ping(pair.far.ip6, count=2).received == 2


def test_a_router_that_is_down_routes_nothing(cloud) -> None:
    pair = Pair(cloud, tenant=8)
    pair.change(admin_state_up=False)
    assert pair.a.ping(pair.b.ip, count=2, interval=0.1, timeout=0.3).received == 0
    pair.change(admin_state_up=True)
    assert pair.a.ping(pair.b.ip, count=2).received == 2


def test_one_more_vm_compiles_only_its_own_owners(cloud, pair: Pair) -> None:
    before = {name: cloud.counter(name) for name in ("novanet_full_recomputes_total", "novanet_owners_compiled_total")}
    cloud.vm(pair.left, 1)
    assert cloud.counter("novanet_full_recomputes_total") == before["novanet_full_recomputes_total"]
    compiled = cloud.counter("novanet_owners_compiled_total") - before["novanet_owners_compiled_total"]
    assert compiled <= 12, "the port on two hypervisors, its network, and once more when its ofport is known"
