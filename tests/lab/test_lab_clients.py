"""VMs that configure themselves by real clients: what the lab reports of them, and that this machine's files stay.

The server is dnsmasq in a VM beside them; NovaNet has no part in this.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.lab import VM, Lab, LabError, namespaces, processes, until

NUMBERS = itertools.count(1)
SERVER = """dnsmasq --keep-in-foreground --conf-file=/dev/null --interface=eth0 --bind-interfaces --no-resolv --no-hosts
--dhcp-range=10.0.0.50,10.0.0.99,10m --dhcp-range=fd00::50,fd00::99,slaac,64,10m --enable-ra --ra-param=eth0,mtu:1442,0,1800
--dhcp-option=option:mtu,1442 --dhcp-option=option:classless-static-route,10.9.0.0/16,10.0.0.2,0.0.0.0/0,10.0.0.1
--domain=cloud.internal --local=/cloud.internal/ --host-record=web.cloud.internal,10.0.0.7,fd00::7 --dhcp-leasefile=/run/leases
--dhcp-option=option6:dns-server,[fd00::1] --dhcp-option=option6:domain-search,cloud.internal"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A hypervisor with a plain switch, and a VM that serves DHCP, router advertisements and DNS."""
    with Lab(1) as running:
        hypervisor = running.hypervisors[0]
        hypervisor.add_bridge()
        server = hypervisor.plug("server", "02:00:00:00:00:01", [("10.0.0.1", 24), ("fd00::1", 64)], mtu=1442)
        server.wait_link_local()
        server.popen(SERVER, private=True)
        until(lambda: not server.exec("dig +tries=1 +time=1 @10.0.0.1 x", check=False).returncode, "the server serves")
        yield running


@pytest.fixture
def vm(lab: Lab) -> Iterator[VM]:
    """A VM without any address."""
    number = next(NUMBERS)
    made = lab.hypervisors[0].plug(f"port-{number}", f"02:00:00:00:01:{number:02x}", mtu=1500)
    yield made
    lab.hypervisors[0].unplug(f"port-{number}")


@pytest.fixture(autouse=True)
def this_machine_stays_as_it_is() -> Iterator[None]:
    """Neither its files nor its name nor its mounts change."""

    def state() -> tuple[object, ...]:
        named = [Path("/etc", name) for name in ("resolv.conf", "hosts", "hostname", "dhcpcd.duid")]
        files = [
            *named,
            *Path("/var/lib/dhcp").glob("*"),
            *Path("/var/lib/dhcpcd").glob("*"),
            *Path("/run").glob("dh*"),
        ]
        seen = {path: path.stat().st_mtime_ns for path in files if path.exists()}
        targets = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return seen, socket.gethostname(), [target for target in targets if not target.startswith("/run/netns")]

    before = state()
    yield
    assert state() == before


def test_dhclient(vm: VM) -> None:
    lease = vm.dhclient()
    address = lease["ip_address"]
    assert (lease["routers"], lease["interface_mtu"], lease["domain_name"]) == ("10.0.0.1", "1442", "cloud.internal")
    assert lease["rfc3442_classless_static_routes"].startswith("16 10 9 10 0 0 2")
    assert list(vm.addresses()) == [f"{address}/24"] and vm.addresses()[f"{address}/24"].valid
    assert {("default", "10.0.0.1"), ("10.9.0.0/16", "10.0.0.2"), ("10.0.0.0/24", None)} == set(vm.routes())
    assert vm.mtu() == 1442
    assert "nameserver 10.0.0.1" in vm.resolv_conf()
    assert [event for event, _ in lease.events] == ["PREINIT", "BOUND"]
    assert lease.renew()["ip_address"] == address
    assert lease.events[-1][0] == "REBOOT"
    lease.release()
    assert not lease.running and not vm.addresses()


def test_dhclient_of_ipv6(vm: VM) -> None:
    lease = vm.dhclient(6)
    assert f"{lease['ip6_address']}/128" in vm.addresses() and lease["ip6_address"].startswith("fd00::")
    assert "nameserver fd00::1" in vm.resolv_conf()
    lease.stop()
    asked = vm.dhclient(6, "-S")
    assert "ip6_address" not in asked and asked["dhcp6_name_servers"] == "fd00::1"


def test_udhcpc(vm: VM) -> None:
    lease = vm.udhcpc()
    assert (lease["router"], lease["mtu"], lease["lease"]) == ("10.0.0.1", "1442", "600")
    assert lease["staticroutes"].split()[:2] == ["10.9.0.0/16", "10.0.0.2"]
    assert list(vm.addresses()) == [f"{lease['ip']}/24"] and vm.mtu() == 1442
    lease.renew()
    assert [event for event, _ in lease.events] == ["deconfig", "bound", "renew"]
    lease.release()
    assert not lease.running and not vm.addresses()


def test_dhcpcd(vm: VM) -> None:
    lease = vm.dhcpcd()
    both = {f"{lease['ip_address']}/24", f"{lease['dhcp6_ia_na1_ia_addr1']}/128", lease["nd1_addr1"]}
    assert both == set(vm.addresses())
    assert {"nameserver 10.0.0.1", "nameserver fd00::1"} <= set(vm.resolv_conf().splitlines())
    assert ("10.9.0.0/16", "10.0.0.2") in vm.routes()
    lease.renew()
    lease.release()
    assert f"{lease['ip_address']}/24" not in vm.addresses()


def test_router_advertisements_are_listened_to_only_when_asked_for(vm: VM) -> None:
    seen = vm.rdisc6()
    assert seen and {one.source for one in seen} == {"fe80::ff:fe00:1"}
    assert seen[0].managed and seen[0].other and seen[0].mtu == 1442 and seen[0].lifetime == 1800
    assert seen[0].prefixes["fd00::/64"]["Autonomous address conf."] == "Yes"
    assert seen[0].link_layer == "02:00:00:00:00:01" and seen[0].dns_servers == ("fd00::1",)
    assert seen[0].search == ("cloud.internal",)
    assert not vm.addresses() and not vm.routes()
    vm.accept_ra()
    until(lambda: vm.addresses(), "an address by SLAAC")
    assert next(iter(vm.addresses())).startswith("fd00::ff:fe00:1")
    assert ("default", "fe80::ff:fe00:1") in vm.routes()


def test_static_addresses_stay_when_router_advertisements_are_accepted(vm: VM) -> None:
    vm.exec("ip addr add fd00::5/64 dev eth0 nodad")
    vm.accept_ra()
    until(lambda: len(vm.addresses()) == 2, "an address by SLAAC beside the static one")
    assert "fd00::5/64" in vm.addresses()


def test_duplicate_addresses_are_detected(vm: VM) -> None:
    vm.exec("ip addr add fd00::1/64 dev eth0")
    until(lambda: vm.addresses()["fd00::1/64"].duplicate, "the server's address is found to be taken")


def test_dig_tells_answer_and_status(vm: VM) -> None:
    vm.udhcpc()
    found = vm.dig("web.cloud.internal", "AAAA")
    assert (found, found.status) == (["fd00::7"], "NOERROR") and "aa" in found.flags and found.ttls == (0,)
    assert vm.dig("web.cloud.internal", server="10.0.0.1") == ["10.0.0.7"]
    assert vm.dig("absent.cloud.internal").status == "NXDOMAIN"
    assert "10.0.0.7" in vm.exec("getent ahostsv4 web", private=True).stdout
    with pytest.raises(LabError, match="no DNS answer"):
        vm.dig("web.cloud.internal", "A", "10.0.0.200", "+tries=1", "+time=1")


def test_a_client_that_is_given_nothing_ends_with_its_words(vm: VM) -> None:
    namespaces.ip(["link set eth0 mtu 1500"], vm.namespace)
    namespaces.ip([f"link set {vm.interface} down"], f"nn-{vm.lab}-hv1")
    with pytest.raises(
        LabError, match=r"udhcpc in hv1-vm\d+: bound or renew: did not happen(?s:.)*deconfig(?s:.)*discover"
    ):
        vm.udhcpc(timeout=2)
    assert not clients_of(vm.namespace)


def test_traceroute_tells_the_hops(vm: VM) -> None:
    vm.exec("ip addr add 10.0.0.20/24 dev eth0")
    assert vm.traceroute("10.0.0.1") == ["10.0.0.1"]
    assert vm.traceroute("10.0.0.201", "-m", "1")[0] in ("10.0.0.20 !H", "*")


def test_clients_end_with_the_lab() -> None:
    """dhcpcd's processes write over their environment and so lose the lab's mark."""
    with Lab(1) as lab:
        hypervisor = lab.hypervisors[0]
        hypervisor.add_bridge()
        vm = hypervisor.plug("port", "02:00:00:00:00:01", mtu=1500)
        with pytest.raises(LabError):
            vm.dhcpcd(4, timeout=1)
        vm.popen(["dhcpcd", "--nobackground", "--noconfigure", "eth0"], private=True)
        vm.popen(["udhcpc", "-b", "-i", "eth0"], private=True)
        until(lambda: len(clients_of(vm.namespace)) >= 2, "clients run")
        namespace = Path(f"/run/netns/{vm.namespace}").stat().st_ino
    until(lambda: not in_namespace(namespace), "nothing is left in the VM", timeout=5)


def clients_of(namespace: str) -> list[str]:
    return processes.run(["ip", "netns", "pids", namespace]).stdout.split()


def in_namespace(inode: int) -> list[str]:
    """Processes whose network namespace it is, by the namespace's inode."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns" / "net").stat().st_ino == inode:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
