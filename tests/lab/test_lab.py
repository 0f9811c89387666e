"""The lab itself: what it builds works, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.lab import VM, Hypervisor, Lab, LabError, namespaces, ping, processes, registry, until

ROOT = Path(__file__).resolve().parents[2]
ETHERTYPE_EXPERIMENTAL = bytes.fromhex("88b5")
OWNER = """
import signal
from tools.lab import Lab
with Lab(hypervisors=2) as lab:
    print(lab.run_id, flush=True)
    signal.pause()
"""


def pinged(lab: Lab, source: Hypervisor, destination: str, *options: str) -> ping.PingResult:
    """A ping from a hypervisor itself."""
    argv = ["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", *options, destination]
    return ping.parse(processes.run(argv, lab=lab.run_id, namespace=source.namespace, check=False).stdout)


def remains(run_id: str) -> dict[str, object]:
    """What there still is of a lab."""
    record = [record for record in registry.records() if record.run_id == run_id]
    found = {"processes": processes.marked(run_id), "namespaces": namespaces.names(f"nn-{run_id}-"), "record": record}
    return {name: value for name, value in found.items() if value}


@pytest.fixture(scope="module")
def pair(lab: Lab) -> tuple[VM, VM]:
    """Two VMs on the first hypervisor, on a learning switch."""
    hypervisor = lab.hypervisors[0]
    hypervisor.add_bridge()
    made = [
        hypervisor.plug(f"port-{n}", f"02:00:00:00:00:0{n}", [(f"10.0.0.{n}", 24), (f"fd00::{n}", 64)], mtu=1400)
        for n in (1, 2)
    ]
    hypervisor.synchronise()
    return made[0], made[1]


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has a lab, and has said its run id."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    yield process
    process.kill()
    process.wait()


def run_id_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


# --- what works in it ----------------------------------------------------------------------------------------------


def test_hypervisors_reach_each_other(lab: Lab) -> None:
    first, second, third = lab.hypervisors
    for source, target in ((first, second), (second, third), (third, first)):
        result = pinged(lab, source, target.tunnel_ip)
        assert (result.sent, result.received, result.duplicates) == (3, 3, 0)


def test_the_underlay_carries_its_mtu_and_no_more(lab: Lab) -> None:
    first, second, _ = lab.hypervisors
    assert pinged(lab, first, second.tunnel_ip, "-M", "do", "-s", str(1500 - 28)).received == 3
    argv = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", str(1501 - 28), second.tunnel_ip]
    refused = processes.run(argv, lab=lab.run_id, namespace=first.namespace, check=False)
    assert refused.returncode and "mtu=1500" in refused.stdout + refused.stderr


def test_endpoints_know_each_other_before_the_first_packet(lab: Lab) -> None:
    first, *others = lab.hypervisors
    known = first.appctl("tnl/neigh/show")
    for other in others:
        assert other.tunnel_ip in known and other.mac in known


def test_ipv6_underlay() -> None:
    with Lab(hypervisors=2, ipv6_underlay=True, mtu=9000) as lab:
        first, second = lab.hypervisors
        assert second.tunnel_ip == "fd50::2"
        assert pinged(lab, first, second.tunnel_ip, "-M", "do", "-s", str(9000 - 48)).received == 3


def test_vms_of_one_hypervisor_reach_each_other(pair: tuple[VM, VM]) -> None:
    one, _ = pair
    for address in ("10.0.0.2", "fd00::2"):
        result = one.ping(address, interval=0.1)
        assert (result.sent, result.received, result.lost, len(result.rtts)) == (3, 3, 0, 3)
        assert all(0 < rtt < 1 for rtt in result.rtts)


def test_ping_of_nobody_is_lost(pair: tuple[VM, VM]) -> None:
    result = pair[0].ping("10.0.0.99", count=2, interval=0.1)
    assert (result.sent, result.received, result.lost_sequences) == (2, 0, (1, 2))


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_background_ping_counts_exactly(pair: tuple[VM, VM], lab: Lab, address: str) -> None:
    one, two = pair
    one.ping(address, count=1)  # resolves the neighbour
    running = one.background_ping(address, interval=0.005)
    until(lambda: running.so_far().received >= 20, "20 replies")
    whole = running.stop()
    assert whole.lost == 0 and whole.sent == whole.received == len(whole.rtts) >= 20
    running = one.background_ping(address, interval=0.005)
    until(lambda: running.so_far().received >= 5, "5 replies")
    tap, hypervisor = two.interface, lab.hypervisors[0].namespace
    namespaces.ip([f"link set {tap} down"], hypervisor)
    cut = running.so_far().sent
    until(lambda: running.so_far().sent >= cut + 10, "10 requests into the void")
    broken = running.stop()
    namespaces.ip([f"link set {tap} up"], hypervisor)
    assert broken.lost >= 10 and broken.lost_sequences[-1] == broken.sent


def test_default_routes(lab: Lab) -> None:
    addresses = [("10.9.0.2", 24), ("fd09::2", 64)]
    vm = lab.hypervisors[1].prepare("routed", "02:00:00:00:09:02", addresses, gateways=["10.9.0.1", "fd09::1"])
    assert "default via 10.9.0.1 dev eth0" in vm.exec("ip route show").stdout
    assert "default via fd09::1 dev eth0" in vm.exec("ip -6 route show").stdout
    lab.hypervisors[1].unplug("routed")
    assert vm.namespace not in namespaces.names("nn-")


def test_frames_are_sent_and_seen_as_they_are(pair: tuple[VM, VM]) -> None:
    one, two = pair
    frame = bytes.fromhex("020000000002020000000001") + ETHERTYPE_EXPERIMENTAL + b"novanet".ljust(50, b"\0")
    with two.sniff(lambda seen: seen[12:14] == ETHERTYPE_EXPERIMENTAL) as sniffer:
        one.send_frame(frame, frame)
        sniffer.wait(lambda seen: seen == frame)
        until(lambda: len(sniffer.frames) == 2, "the second frame")
    with one.sniff(lambda seen: seen[12:14] == ETHERTYPE_EXPERIMENTAL) as sniffer:
        one.send_frame(frame)
        with pytest.raises(LabError, match="no such frame"):
            sniffer.wait(timeout=0.3)  # what one sends oneself is not received


def test_nothing_of_the_hypervisor_reaches_a_vm(pair: tuple[VM, VM], lab: Lab) -> None:
    """The hypervisor's kernel neither answers nor speaks on a VM's cable."""
    one, _ = pair
    asked = one.exec(f"ping -c 2 -i 0.2 -W 1 {lab.hypervisors[0].tunnel_ip}", check=False)
    assert asked.returncode
    one.exec(f"ip route replace {lab.hypervisors[0].tunnel_ip}/32 dev eth0")
    assert one.ping(lab.hypervisors[0].tunnel_ip, count=2).received == 0
    assert "02:6e" not in one.exec("ip neigh show").stdout


def test_a_foreign_host_in_the_underlay(lab: Lab) -> None:
    host = lab.host("router", "192.168.60.1")
    assert host.ping(lab.hypervisors[2].tunnel_ip, interval=0.1).received == 3
    assert host.mac in lab.hypervisors[2].appctl("tnl/neigh/show")


@pytest.mark.parametrize(
    ("ipv6", "group", "foreign"), [(False, "239.1.1.1", "192.168.50.99"), (True, "ff05::77", "fd50::99")]
)
def test_tunnels_use_a_multicast_group_of_the_underlay(ipv6: bool, group: str, foreign: str) -> None:
    """Everything goes to the group; every other endpoint gets it, a Linux kernel's included."""
    with Lab(hypervisors=2, ipv6_underlay=ipv6) as lab:
        host = lab.host("foreign", foreign)
        host.exec(f"ip link add vx0 type vxlan id 77 group {group} dev eth0 dstport 4790 ttl 4")
        host.exec("ip link set vx0 mtu 1400 up")
        host.exec("ip addr add 10.0.0.250/24 dev vx0")
        lab.join_group(group)
        tunnel = "type=vxlan options:remote_ip=flow options:key=flow options:dst_port=4790 ofport_request=100"
        field = "tun_ipv6_dst" if ipv6 else "tun_dst"
        for number, hypervisor in enumerate(lab.hypervisors, start=1):
            hypervisor.add_bridge()
            hypervisor.vsctl("add-port", "br-int", "vx", "--", "set", "interface", "vx", *tunnel.split())
            hypervisor.plug(f"p{number}", f"02:00:00:00:00:0{number}", [(f"10.0.0.{number}", 24)])
            hypervisor.synchronise()
            hypervisor.ofctl("del-flows", "br-int")
            hypervisor.ofctl(
                "add-flow", "br-int", f"in_port=vm1 actions=set_field:77->tun_id,set_field:{group}->{field},output:100"
            )
            hypervisor.ofctl("add-flow", "br-int", "in_port=100 actions=output:vm1")
        first = lab.vms[0]
        assert host.ping("10.0.0.1", interval=0.1).received == 3
        assert first.ping("10.0.0.2", interval=0.1).received == 3
        lab.hypervisors[1].kill_vswitchd()
        lab.hypervisors[1].start_vswitchd()
        lab.hypervisors[1].ofctl("add-flow", "br-int", "priority=1,in_port=100 actions=output:vm1")
        lab.hypervisors[1].ofctl(
            "add-flow",
            "br-int",
            f"priority=1,in_port=vm1 actions=set_field:77->tun_id,set_field:{group}->{field},output:100",
        )
        until(lambda: first.ping("10.0.0.2", count=1).received == 1, "the group works after vswitchd's restart")


def test_plug_tells_ovs_what_a_platform_tells(pair: tuple[VM, VM], lab: Lab) -> None:
    ids = lab.hypervisors[0].vsctl("get", "Interface", pair[0].interface, "external_ids")
    assert "iface-id=port-1" in ids and 'attached-mac="02:00:00:00:00:01"' in ids


def test_plug_without_a_bridge_says_so(lab: Lab) -> None:
    with pytest.raises(LabError, match="hv3 has no bridge br-int"):
        lab.hypervisors[2].plug_dummy(["anything"])


def test_dummy_ports_come_in_batches_and_go(pair: tuple[VM, VM], lab: Lab) -> None:
    hypervisor = lab.hypervisors[0]
    hypervisor.plug_dummy([f"dummy-{n}" for n in range(120)], batch=50)
    hypervisor.synchronise()
    assert len(hypervisor.vsctl("list-ports", "br-int").split()) == 122
    opened = hypervisor.vsctl("--columns=ofport", "--bare", "find", "Interface", "type=dummy").split()
    assert len(opened) == 120 and all(int(number) > 0 for number in opened)
    hypervisor.unplug(*(f"dummy-{n}" for n in range(120)))
    hypervisor.synchronise()
    assert len(hypervisor.vsctl("list-ports", "br-int").split()) == 2


def test_failed_commands_are_told(pair: tuple[VM, VM], lab: Lab) -> None:
    with pytest.raises(LabError, match=r"ip link show nothing.*does not exist"):
        pair[0].exec("ip link show nothing")
    with pytest.raises(LabError, match="no-such-command"):
        lab.hypervisors[0].appctl("no-such-command")
    with pytest.raises(LabError, match="no row"):
        lab.hypervisors[0].vsctl("get", "Bridge", "absent", "name")
    with pytest.raises(LabError, match="did not end within"):
        pair[0].exec("sleep 10", timeout=0.1)


# --- what happens to hypervisors -----------------------------------------------------------------------------------


def test_a_hypervisor_is_cut_off_and_comes_back(lab: Lab) -> None:
    first, second, _ = lab.hypervisors
    second.link_down()
    assert pinged(lab, first, second.tunnel_ip).received == 0
    second.link_up()
    until(lambda: pinged(lab, first, second.tunnel_ip).received == 3, "the hypervisor is back")


def test_vswitchd_is_killed_and_started_again(pair: tuple[VM, VM], lab: Lab) -> None:
    first, second, _ = lab.hypervisors
    before = first.vswitchd_pid
    first.kill_vswitchd()
    assert pinged(lab, second, first.tunnel_ip).received == 0
    with pytest.raises(LabError, match="does not run"):
        _ = first.vswitchd_pid
    first.start_vswitchd()
    assert first.vswitchd_pid != before
    until(lambda: pair[0].ping("10.0.0.2", interval=0.1).received == 3, "the VMs reach each other again")
    until(lambda: pinged(lab, second, first.tunnel_ip).received == 3, "the tunnel endpoint is back")
    assert second.tunnel_ip in first.appctl("tnl/neigh/show")


def test_a_whole_hypervisor_goes_and_comes_back(lab: Lab) -> None:
    first, _, third = lab.hypervisors
    third.stop()
    assert not third.daemons
    third.start()
    assert third.vsctl("get", "Open_vSwitch", ".", "external_ids:system-id").strip('"') == "hv3"
    until(lambda: pinged(lab, first, third.tunnel_ip).received == 3, "it is back")


def test_ovs_connects_to_a_controller_through_the_link(lab: Lab) -> None:
    """OVS accepts Unix sockets below its run directory only; a symbolic link there leads to the controller."""
    hypervisor = lab.hypervisors[1]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(lab.directory / "listener.sock"))
    listener.listen()
    listener.settimeout(10)
    hypervisor.listen_for(lab.directory / "listener.sock")
    hypervisor.add_bridge("br-test")
    hypervisor.vsctl("set-controller", "br-test", f"unix:{hypervisor.directory}/controller.sock")
    connection, _ = listener.accept()
    with connection, listener:
        connection.settimeout(10)
        assert connection.recv(8)[1] == 0, "an OFPT_HELLO"
    hypervisor.vsctl("del-br", "br-test")


# --- and nothing stays -----------------------------------------------------------------------------------------------


def test_nothing_stays_after_the_end() -> None:
    with Lab(hypervisors=2) as lab:
        run_id, directory = lab.run_id, lab.directory
        lab.hypervisors[0].add_bridge()
        vm = lab.hypervisors[0].plug("port", "02:00:00:00:00:01", [("10.0.0.1", 24)])
        vm.popen("sleep 300")
        detached = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(300)"
        vm.exec([sys.executable, "-c", detached.replace("time.sleep", "os.close(1), os.close(2), time.sleep")])
        assert len(processes.marked(run_id)) == 6
        assert len(namespaces.names(f"nn-{run_id}-")) == 4
    assert not remains(run_id)
    assert not directory.exists()


def test_nothing_stays_after_an_exception() -> None:
    run_id = ""
    with pytest.raises(ZeroDivisionError), Lab(hypervisors=1) as lab:
        run_id = lab.run_id
        1 / 0  # noqa: B018
    assert run_id and not remains(run_id)


def test_nothing_stays_of_a_lab_that_does_not_come_up(tmp_path: Path) -> None:
    (tmp_path / "ovs-vswitchd").write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo ovs-vswitchd 0 || { echo broken >&2; exit 3; }\n"
    )
    (tmp_path / "ovs-vswitchd").chmod(0o755)
    for name in ("ovsdb-server", "ovsdb-tool", "ovs-vsctl"):
        (tmp_path / name).symlink_to(Lab(0).programs.path(name))
    share = tmp_path.parent / "share" / "openvswitch"
    share.mkdir(parents=True, exist_ok=True)
    (share / "vswitch.ovsschema").write_bytes(Lab(0).programs.schema().read_bytes())
    lab = Lab(hypervisors=1, run_id=f"t{os.getpid()}", ovs_bindir=tmp_path)
    with pytest.raises(LabError, match=r"ovs-vswitchd of hv1 ended \(3\): broken"):
        lab.up()
    assert not remains(f"t{os.getpid()}")


def test_a_run_id_is_taken_once(lab: Lab) -> None:
    with pytest.raises(LabError, match="is taken"):
        Lab(hypervisors=0, run_id=lab.run_id).up()
    assert pinged(lab, lab.hypervisors[0], lab.hypervisors[1].tunnel_ip).received == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_after_a_signal(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    run_id = run_id_of(owner)
    assert len(processes.marked(run_id)) == 4
    owner.send_signal(number)
    assert owner.wait(timeout=30) != 0
    assert not remains(run_id)


def test_killed_owners_processes_die_and_clean_removes_the_rest(owner: subprocess.Popen[str]) -> None:
    run_id = run_id_of(owner)
    assert len(processes.marked(run_id)) == 4
    owner.kill()
    owner.wait()
    until(lambda: not processes.marked(run_id), "the daemons die with their owner")
    done = subprocess.run([sys.executable, "-m", "tools.lab", "clean"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not remains(run_id)


def test_clean_leaves_living_labs_alone(lab: Lab) -> None:
    assert lab.run_id not in {record.run_id for record in registry.clean()}
    assert pinged(lab, lab.hypervisors[0], lab.hypervisors[1].tunnel_ip).received == 3


def test_labs_stand_side_by_side(lab: Lab) -> None:
    """The same addresses in both, and neither hears the other."""
    with Lab(hypervisors=2) as other:
        assert other.run_id != lab.run_id
        assert pinged(other, other.hypervisors[0], "192.168.50.2").received == 3
        assert pinged(other, other.hypervisors[0], "192.168.50.3").received == 0
        assert pinged(lab, lab.hypervisors[0], "192.168.50.3").received == 3
    assert pinged(lab, lab.hypervisors[0], "192.168.50.2").received == 3


def test_up_shows_the_lab_until_ctrl_c() -> None:
    command = [sys.executable, "-u", "-m", "tools.lab", "up", "--hypervisors", "2", "--vms", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout
        lines = []
        for line in shown.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        run_id = lines[0].split()[1].rstrip(":")
        assert {"hv1", "hv2", "hv1-vm1", "hv1-vm2", "hv2-vm1", "hv2-vm2"} <= {
            line.split()[0] for line in lines if line.strip()
        }
        vm = f"nn-{run_id}-hv1-vm1"
        assert ping.parse(processes.run(["ping", "-c", "1", "10.0.0.2"], namespace=vm).stdout).received == 1
        shown.send_signal(signal.SIGINT)
        assert shown.wait(timeout=30) == 0
    assert not remains(run_id)
