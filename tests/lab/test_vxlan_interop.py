"""VXLAN endpoints that are not NovaNet's: the Linux kernel's, by unicast and by multicast group."""

from __future__ import annotations

from tools.lab import Host

from .cloud import Cloud

GROUP, GROUP_MAC = "239.1.1.1", "01:00:5e:01:01:01"
FOREIGN, UNUSED = "192.168.50.99", "192.168.50.254"
PORT = 4790
MESH = {"tunnel_type": "vxlan", "udp_port": PORT, "external_vteps": [FOREIGN]}


def foreign_host(cloud: Cloud, vni: int, link: str, port: int = PORT) -> Host:
    """A host in the underlay with a kernel VXLAN device that has 10.0.0.250."""
    host = cloud.lab.host("foreign", FOREIGN)
    host.exec(f"ip link add vx0 type vxlan id {vni} dev eth0 dstport {port} ttl 4 {link}")
    host.exec("ethtool -K vx0 tx off")
    host.exec("ip addr add 10.0.0.250/24 dev vx0")
    host.exec("ip link set vx0 mtu 1450 up")
    return host


def check(vms: list, host: Host) -> None:
    assert vms[0].ping(vms[1].ip, count=2).received == 2
    for vm in vms:
        assert vm.ping("10.0.0.250", count=5).received >= 4
        assert host.ping(vm.ip, count=5).received >= 4


def test_a_kernel_vtep_is_reached_by_unicast() -> None:
    with Cloud(2, mesh=MESH) as cloud:
        network = cloud.network("10.0.0.0/24")
        vms = [cloud.vm(network, n, security_groups=[cloud.open_group()]) for n in (0, 1)]
        vni = cloud.api.get(f"/v1/networks/{network['id']}")["vni"]
        host = foreign_host(cloud, vni, "")
        for hypervisor in cloud.lab.hypervisors:
            host.exec(f"bridge fdb append 00:00:00:00:00:00 dev vx0 dst {hypervisor.tunnel_ip}")
        check(vms, host)


def test_a_kernel_vtep_is_reached_by_multicast_group() -> None:
    with Cloud(2, mesh=MESH | {"multicast_group": GROUP}) as cloud:
        network = cloud.network("10.0.0.0/24")
        vms = [cloud.vm(network, n, security_groups=[cloud.open_group()]) for n in (0, 1)]
        for hypervisor in cloud.lab.hypervisors:  # what docs/operations.md says of the userspace datapath
            hypervisor.appctl("ovs/route/add", f"{GROUP}/32", "br-phy", UNUSED)
            hypervisor.appctl("tnl/neigh/set", "br-phy", UNUSED, GROUP_MAC)
            to_self = f"mod_dl_dst:{hypervisor.mac},mod_nw_dst:{hypervisor.tunnel_ip},LOCAL"
            to_group = f"priority=100,in_port=eth0,udp,nw_dst={GROUP},tp_dst={PORT}"
            hypervisor.ofctl("--names", "add-flow", "br-phy", f"{to_group},actions={to_self}")
        vni = cloud.api.get(f"/v1/networks/{network['id']}")["vni"]
        check(vms, foreign_host(cloud, vni, f"group {GROUP}"))
