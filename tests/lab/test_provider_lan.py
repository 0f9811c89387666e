"""The lab's LAN outside: who reaches whom on it, what is on the wire, and that it goes with the lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.lab import VM, Host, Lab, LabError, namespaces, processes, until
from tools.lab.provider import EXTERNAL, NIC

VLAN_TAG_100 = bytes.fromhex("81000064")
ICMP = 1


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hypervisors with a NIC outside, one without."""
    with Lab(3, provider="outside1", wired=(0, 1)) as running:
        yield running


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> dict[str, Host]:
    """Two hosts untagged, two in VLAN 100, one in VLAN 200; the second of each pair is .2."""
    return {
        "one": lab.outside("one", "203.0.113.1/24", "2001:db8::1/64"),
        "two": lab.outside("two", "203.0.113.2/24", "2001:db8::2/64", routes=["default via 203.0.113.1"]),
        "red one": lab.outside("red1", "203.0.113.1/24", "2001:db8::1/64", vlan=100),
        "red two": lab.outside("red2", "203.0.113.2/24", "2001:db8::2/64", vlan=100, mac="02:00:00:00:aa:02"),
        "blue three": lab.outside("blue3", "203.0.113.3/24", "2001:db8::3/64", vlan=200),
    }


@pytest.fixture(scope="module")
def vm(lab: Lab, hosts: dict[str, Host]) -> VM:
    """A VM on a hypervisor's bridge to the outside, in VLAN 100."""
    hypervisor = lab.hypervisors[0]
    made = hypervisor.plug("port", "02:00:00:00:00:09", [("203.0.113.9", 24)], mtu=1500, bridge=EXTERNAL)
    hypervisor.vsctl("set", "Port", made.interface, "tag=100")
    return made


@pytest.mark.parametrize("source", ["one", "red one"])
@pytest.mark.parametrize("address", ["203.0.113.2", "2001:db8::2"])
def test_hosts_of_one_lan_reach_each_other(hosts: dict[str, Host], source: str, address: str) -> None:
    assert hosts[source].ping(address, interval=0.1).received == 3


@pytest.mark.parametrize("source", ["one", "red one"])
@pytest.mark.parametrize("address", ["203.0.113.3", "2001:db8::3"])
def test_vlans_are_apart(hosts: dict[str, Host], source: str, address: str) -> None:
    assert hosts[source].ping(address, count=2, interval=0.1).received == 0


def test_a_host_has_the_routes_and_the_mac_address_that_were_asked_for(hosts: dict[str, Host]) -> None:
    assert ("default", "203.0.113.1") in hosts["two"].routes()
    assert "02:00:00:00:aa:02" in hosts["red two"].exec("ip link show eth0").stdout


def test_tagged_frames_cross_the_lan_with_their_tags(lab: Lab, hosts: dict[str, Host], vm: VM) -> None:
    with lab.provider.sniff("hv1", lambda frame: ICMP in frame[27:28]) as wire:
        assert vm.ping("203.0.113.2", size=1472, df=True, interval=0.1).received == 3
        seen = wire.wait()
    assert seen[12:16] == VLAN_TAG_100
    with hosts["one"].sniff(lambda frame: frame[6:12] == bytes.fromhex("020000000009")) as untagged:
        assert vm.ping("203.0.113.3", count=2, interval=0.1).received == 0
    assert all(frame[12:16] == VLAN_TAG_100 for frame in untagged.frames), "broadcast, but never without its tag"


def test_the_lan_carries_its_mtu_and_no_more() -> None:
    with Lab(1, provider=True, provider_mtu=9000) as lab:
        one, _ = lab.outside("one", "203.0.113.1/24", vlan=7), lab.outside("two", "203.0.113.2/24", vlan=7)
        assert one.ping("203.0.113.2", size=9000 - 28, df=True, interval=0.1).received == 3
        with pytest.raises(LabError, match="mtu=9000"):
            one.exec("ping -c 1 -M do -s 8973 203.0.113.2")
        assert lab.hypervisors[0].vsctl("get", "Interface", EXTERNAL, "mtu") == "9000"


def test_hypervisors_are_wired_as_asked(lab: Lab) -> None:
    wired, bare = lab.hypervisors[0], lab.hypervisors[2]
    assert wired.bridge_mappings == [{"physical_network": "outside1", "bridge": EXTERNAL}]
    assert wired.vsctl("list-ports", EXTERNAL) == NIC or NIC in wired.vsctl("list-ports", EXTERNAL).split()
    assert wired.vsctl("get", "Bridge", EXTERNAL, "datapath_type") == "netdev"
    assert wired.vsctl("get-controller", EXTERNAL) == "" and wired.vsctl("get-fail-mode", EXTERNAL) == ""
    identities = {h.vsctl("get", "Bridge", b, "datapath_id") for h in lab.hypervisors[:2] for b in ("br-phy", EXTERNAL)}
    assert len(identities) == 4
    assert bare.bridge_mappings == [] and EXTERNAL not in bare.vsctl("list-br").split()
    assert NIC not in processes.run(["ip", "link"], namespace=bare.namespace).stdout


def test_a_hypervisor_is_cut_off_one_lan_or_the_other(lab: Lab, vm: VM, hosts: dict[str, Host]) -> None:
    first, second = lab.hypervisors[:2]
    ping = ["ping", "-c", "1", "-W", "1", second.tunnel_ip]
    first.link_down(NIC)
    assert vm.ping("203.0.113.2", count=1).received == 0
    processes.run(ping, namespace=first.namespace)
    first.link_up(NIC)
    until(lambda: vm.ping("203.0.113.2", count=1).received, "the LAN is back")


def test_a_killed_hypervisor_is_gone_from_both_lans_and_comes_back(lab: Lab, vm: VM, hosts: dict[str, Host]) -> None:
    first, second = lab.hypervisors[:2]
    ping = ["ping", "-c", "1", "-W", "1", first.tunnel_ip]
    first.kill()
    assert not first.daemons
    assert vm.ping("203.0.113.2", count=1).received == 0
    assert processes.run(ping, namespace=second.namespace, check=False).returncode
    first.start()
    until(lambda: vm.ping("203.0.113.2", count=1).received, "its VM reaches the outside again")
    until(lambda: not processes.run(ping, namespace=second.namespace, check=False).returncode, "its tunnel end is back")


def test_a_lab_without_it_says_so() -> None:
    with Lab(0) as lab, pytest.raises(LabError, match="provider=True"):
        lab.outside("anyone", "203.0.113.1/24")


def test_nothing_of_it_stays() -> None:
    with Lab(1, provider=True) as lab:
        run_id = lab.run_id
        lab.outside("one", "203.0.113.1/24")
        lab.outside("two", "203.0.113.2/24", vlan=5)
        assert len(namespaces.names(f"nn-{run_id}-")) == 5
        assert len(processes.marked(run_id)) == 4
    assert not namespaces.names(f"nn-{run_id}-") and not processes.marked(run_id)
