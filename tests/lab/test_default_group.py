"""What passes when nobody has said anything of security groups, and what without any, with real packets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.frames import MARK, ethernet
from tests.lab.outside import PHYSICAL, WORLD, World, built
from tests.lab.outside import reaches as gets_to
from tests.lab.test_security_groups import PLACES, SIX, connects, reaches
from tools.lab import VM

RESOLVER, RESOLVER6 = "169.254.169.253", "fe80::a9fe:a9fd"
LOCAL_EXPERIMENT = 0x88B5
"""An EtherType for private use (IEEE 802, section 9.2.3)."""


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A tenant's network behind a router with a way outside; ports have the groups that NovaNet gives them."""
    with Cloud(2, mesh={"tunnel_type": request.param}, provider=PHYSICAL) as cloud:
        found = built(cloud)
        cloud.groups = None
        yield found


@pytest.fixture(scope="module")
def cloud(world: World) -> Cloud:
    return world.cloud


@pytest.fixture(scope="module")
def friend(world: World) -> VM:
    """A VM of the project to which the network belongs."""
    return world.cloud.vm(world.network, 0)


@SIX
@PLACES
def test_vms_of_a_project_reach_each_other(world: World, cloud: Cloud, friend: VM, six: bool, here: bool) -> None:
    vm = cloud.vm(world.network, 0 if here else 1)
    assert vm.port["security_groups"] == friend.port["security_groups"] != []
    assert reaches(friend, vm, six) and reaches(vm, friend, six)
    assert connects(friend, vm, 8000, six)


@SIX
def test_also_through_a_router(world: World, cloud: Cloud, friend: VM, six: bool) -> None:
    other = cloud.network(f"10.11.{six:d}.0/24", f"fd11:{six:d}::/64")
    cloud.api.post("/v1/ports", {"network_id": other["id"], "router_id": world.router["id"]})
    vm = cloud.vm(other, 1)
    assert until("reached", lambda: reaches(friend, vm, six)) and reaches(vm, friend, six)


@SIX
@PLACES
def test_a_vm_of_another_project_in_the_same_network_does_not(
    world: World, cloud: Cloud, friend: VM, six: bool, here: bool
) -> None:
    stranger = cloud.vm(world.network, 0 if here else 1, project_id="others")
    assert stranger.port["security_groups"] != friend.port["security_groups"]
    assert not reaches(stranger, friend, six) and not reaches(friend, stranger, six)
    fellow = cloud.vm(world.network, 0, project_id="others")
    assert reaches(fellow, stranger, six)


def test_who_is_outside_does_not_until_a_rule_lets_them(world: World, cloud: Cloud) -> None:
    vm = cloud.vm(world.network, 1)
    floating = world.floating_ip(vm)["floating_ip_address"]
    assert until("it gets outside", lambda: gets_to(vm, WORLD)), "and its answers come in"
    assert not gets_to(world.outside, floating)
    group = cloud.api.post("/v1/security-groups", {"name": "pingable"})["id"]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "icmp", "remote_ip_prefix": f"{WORLD}/32"}
    cloud.api.post("/v1/security-group-rules", rule)
    cloud.api.patch(f"/v1/ports/{vm.port['id']}?wait=10", {"security_groups": [*vm.port["security_groups"], group]})
    assert until("it is reached", lambda: gets_to(world.outside, floating))


def test_a_project_may_open_its_default(cloud: Cloud) -> None:
    network = cloud.network("10.12.0.0/24", project_id="opens")
    vm, stranger = cloud.vm(network, 1), cloud.vm(network, 0, project_id="curious")
    (group,) = vm.port["security_groups"]
    assert not connects(stranger, vm, 8000)
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    rule |= {"port_range_min": 8000, "port_range_max": 8000}
    made = cloud.api.post("/v1/security-group-rules?wait=10", rule)
    until("it is open", lambda: connects(stranger, vm, 8000))
    cloud.api.delete(f"/v1/security-group-rules/{made['id']}")
    until("it is closed", lambda: not connects(stranger, vm, 8000))


@PLACES
def test_in_no_group_a_vm_has_what_novanet_says_and_nothing_else(
    world: World, cloud: Cloud, friend: VM, here: bool
) -> None:
    """It boots, knows its neighbours and asks for names; no packet of a VM gets in or out."""
    vm = cloud.vm(world.network, 0 if here else 1, configure=False, security_groups=[], dns_name=f"alone{here:d}")
    assert vm.port["security_groups"] == []
    vm.accept_ra()
    vm.wait_link_local()
    assert vm.dhclient(4)["ip_address"] == vm.ip
    assert vm.dhclient(6)["ip6_address"] == vm.ip6
    (advertisement,) = vm.rdisc6()
    assert advertisement.managed
    assert vm.dig(f"alone{here:d}.internal", "A", RESOLVER) == [vm.ip]
    for subnet in world.network["subnets"]:
        assert vm.ping(subnet["gateway_ip"], count=1).received == 1, "its router answers"
    for six in (False, True):
        with friend.sniff() as theirs, vm.sniff() as mine:
            assert not reaches(vm, friend, six) and not reaches(friend, vm, six)
            assert not connects(friend, vm, 8000, six) and not connects(vm, friend, 8000, six)
        assert mac(friend) in vm.exec("ip neigh").stdout and mac(vm) in friend.exec("ip neigh").stdout
        assert not [data for data in (*theirs.frames, *mine.frames) if between(vm, friend, data) and not is_nd(data)]
    assert not gets_to(vm, WORLD)


def mac(vm: VM) -> str:
    found: str = vm.port["mac_address"]
    return found


def between(one: VM, two: VM, data: bytes) -> bool:
    """Whether one VM has got an IP packet of the other."""
    ends = {bytes.fromhex(mac(vm).replace(":", "")) for vm in (one, two)}
    return {data[:6], data[6:12]} == ends and data[12:14] in (b"\x08\x00", b"\x86\xdd")


def is_nd(data: bytes) -> bool:
    return data[12:14] == b"\x86\xdd" and data[20] == 58 and data[54] in (135, 136)


def test_without_port_security_administrators_rules_still_hold(world: World, cloud: Cloud) -> None:
    """Everything else passes, tenants' groups or not, and what is not IP as well."""
    n = cloud.api.get("/v1/security-groups")["items"]
    selector = [{"key": "zone", "operator": "In", "values": [f"lab{len(n)}"]}]
    guard = cloud.api.post("/v1/security-groups", {"tier": "admin", "selector": selector})["id"]
    closed = cloud.api.post("/v1/security-groups", {"selector": selector})["id"]
    deny = {"security_group_id": guard, "direction": "ingress", "action": "deny", "protocol": "tcp"}
    cloud.api.post("/v1/security-group-rules", {**deny, "port_range_min": 22, "port_range_max": 22})
    labels = {"zone": f"lab{len(n)}"}
    bare: dict[str, Any] = {"port_security_enabled": False}
    vm, other = cloud.vm(world.network, 1, labels=labels, **bare), cloud.vm(world.network, 0, **bare)
    assert vm.port["security_groups"] == []
    assert cloud.api.get(f"/v1/ports/{vm.port['id']}")["applied_security_groups"] == [guard], f"not {closed}"
    assert reaches(other, vm, False) and reaches(vm, other, True)
    assert connects(other, vm, 8000) and not connects(other, vm, 22)
    for sender, receiver in ((vm, other), (other, vm)):
        with receiver.sniff(lambda data: MARK in data) as sniffer:
            sender.send_frame(ethernet(mac(sender), mac(receiver), LOCAL_EXPERIMENT, MARK.ljust(46, b"\0")))
            sniffer.wait()
