"""VXLAN endpoints that are not NovaNet's: the Linux kernel's, by unicast and by multicast group."""

from __future__ import annotations

import pytest

from .cloud import Cloud

GROUP = "239.1.1.1"
FOREIGN = "192.168.50.99"


@pytest.fixture(scope="module")
def cloud():
    mesh = {"tunnel_type": "vxlan", "udp_port": 4790, "multicast_group": GROUP, "external_vteps": [FOREIGN]}
    with Cloud(2, mesh=mesh) as cloud:
        yield cloud


def test_vms_and_a_host_behind_a_kernel_vtep_reach_each_other(cloud) -> None:
    network = cloud.network("10.0.0.0/24")
    vms = [cloud.vm(network, 0), cloud.vm(network, 1)]
    vni = cloud.api.get(f"/v1/networks/{network['id']}")["vni"]
    host = cloud.lab.underlay.host("foreign", FOREIGN)
    host.exec(f"ip link add vx0 type vxlan id {vni} group {GROUP} dev eth0 dstport 4790 ttl 4")
    host.exec("ip addr add 10.0.0.250/24 dev vx0")
    host.exec("ip link set vx0 mtu 1450 up")
    assert vms[0].ping(vms[1].ip, count=2).received == 2
    for vm in vms:
        assert vm.ping("10.0.0.250", count=5).received >= 4
        assert host.ping(vm.ip, count=5).received >= 4
