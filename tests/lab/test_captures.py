"""Captures of VMs' packets by the hypervisors' agents, read by tshark."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novanet_apps.host_agent.captures import AT_ONCE
from tools.lab import VM, HostAgent, processes
from tools.lab.controller import ROOT, ApiError
from tools.lab.openvswitch import INTEGRATION

from .cloud import Cloud, until

INBOUND, OUTBOUND = 1, 2


class Captured:
    """A cloud with an agent on each of two hypervisors, and three VMs in a network, of which two are on the first.

    The second one has ``disk`` for captures.
    """

    def __init__(self, cloud: Cloud, disk: Path) -> None:
        self.cloud, self.api = cloud, cloud.api
        first, second = cloud.lab.hypervisors
        self.agents = [
            HostAgent(first, cloud.controller), HostAgent(second, cloud.controller, {"agent_capture_dir": disk})
        ]  # fmt: skip
        for agent in self.agents:
            agent.start()
        self.network = cloud.network("10.0.0.0/24", "fd00:a::/64")
        self.one, self.neighbour, self.other = (cloud.vm(self.network, where) for where in (0, 0, 1))
        assert self.one.ping(self.other.ip or "", count=1).received == 1

    def start(self, **fields: Any) -> str:
        """A capture that runs."""
        return str(self.begin(**fields)["id"])

    def begin(self, **fields: Any) -> dict[str, Any]:
        body = {"port_id": self.one.port["id"], "max_seconds": 30, **fields}
        made = self.api.post("/v1/captures?wait=20", body)
        assert (made["status"], made["state"]) == ("ACTIVE", "RUNNING"), made
        return dict(made)

    def start_of_all(self, **fields: Any) -> str:
        """The same of all VMs of the first hypervisor: by mirrors."""
        here = self.api.get("/v1/hypervisors", name="hv1")["items"][0]["id"]
        return self.start(port_id=None, hypervisor_id=here, **fields)

    def state(self, id: str) -> str:
        return str(self.api.get(f"/v1/captures/{id}")["state"])

    def wait(self, id: str, state: str = "DONE") -> dict[str, Any]:
        until(f"capture is {state}", lambda: self.state(id) in (state, "ERROR"), 40)
        found: dict[str, Any] = self.api.get(f"/v1/captures/{id}")
        assert found["state"] == state, (found, [agent.tail() for agent in self.agents])
        return found

    def left(self, hypervisor: int = 0) -> list[str]:
        """Mirrors, ports and interfaces of captures on a hypervisor."""
        host = self.cloud.lab.hypervisors[hypervisor]
        mirrors = host.vsctl("--bare", "--columns=name", "list", "Mirror").split()
        ports = [name for name in host.vsctl("list-ports", INTEGRATION).split() if name.startswith("nnc")]
        devices = [
            line
            for line in processes.run(["ip", "-o", "link"], namespace=host.namespace).stdout.splitlines()
            if " nnc" in line
        ]
        return mirrors + ports + devices


class File:
    """A capture's file, as tshark reads it."""

    def __init__(self, captured: Captured, id: str, directory: Path) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", captured.api.port, timeout=60)
        connection.request("GET", f"/v1/captures/{id}/file", headers={"Authorization": f"Bearer {captured.api.token}"})
        answer = connection.getresponse()
        self.data = answer.read()
        assert answer.status == 200, self.data
        assert answer.getheader("Content-Type") == "application/x-pcapng"
        self.path = directory / f"{id}.pcapng"
        self.path.write_bytes(self.data)

    def fields(self, *names: str, only: str = "") -> list[tuple[str, ...]]:
        """These fields of each packet that passes tshark's filter."""
        wanted = [word for name in names for word in ("-e", name)]
        command = ["tshark", "-n", "-r", str(self.path), "-T", "fields", "-E", "separator=;", *wanted]
        done = subprocess.run([*command, "-Y", only] if only else command, capture_output=True, text=True, check=True)
        return [tuple(line.split(";")) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 512 KiB."""
    where = tmp_path_factory.mktemp("disk")
    processes.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(where)])
    yield where
    processes.run(["umount", str(where)])


@pytest.fixture(scope="module")
def captured(small_disk: Path) -> Iterator[Captured]:
    with Cloud(hypervisors=2) as cloud:
        world = Captured(cloud, small_disk)
        try:
            yield world
        finally:
            for agent in world.agents:
                print(agent.tail(60))
                agent.terminate()


@pytest.fixture(autouse=True)
def nothing_left(captured: Captured) -> Iterator[None]:
    """Whatever happens, no capture leaves anything on the switch."""
    yield
    for each in captured.api.get("/v1/captures", limit=1000)["items"]:
        captured.api.delete(f"/v1/captures/{each['id']}")
    until("nothing is left", lambda: not captured.left(0) and not captured.left(1))
    files = captured.cloud.controller.state_dir / "captures"
    until("no file is left", lambda: not list(files.iterdir()))


def ping(vm: VM, other: VM, count: int = 5, size: int = 56) -> None:
    done = vm.exec(f"ping -c {count} -i 0.02 -s {size} {other.ip}")
    assert f" {count} received" in done.stdout


def test_what_was_said_is_in_the_file(captured: Captured, tmp_path: Path) -> None:
    id = captured.start(max_seconds=3, ethertype="IPv4")
    ping(captured.one, captured.other)
    ping(captured.neighbour, captured.other, count=7)
    told = captured.wait(id)
    assert told["state_detail"] == "max_seconds have passed" and told["started_at"] <= told["ended_at"]
    file = File(captured, id, tmp_path)
    names = "ip.src", "ip.dst", "icmp.type", "icmp.seq", "frame.packet_flags_direction", "frame.len"
    here, there = captured.one.ip or "", captured.other.ip or ""
    expected = []
    for sequence in range(1, 6):
        expected += [(here, there, "8", str(sequence), f"0x{OUTBOUND:08x}", "98")]
        expected += [(there, here, "0", str(sequence), f"0x{INBOUND:08x}", "98")]
    assert file.fields(*names, only="icmp") == expected
    assert file.fields("frame.number", only=f"ip.addr == {captured.neighbour.ip} || !ip") == []
    counted = len(file.fields("frame.number")), len(file.data), 0
    assert (told["packets"], told["file_bytes"], told["dropped_packets"]) == counted
    assert file.fields("frame.interface_name")[0] == (captured.one.interface,)


def test_a_port_is_read_where_it_is(captured: Captured) -> None:
    """The switch copies nothing."""
    captured.start()
    assert captured.left() == []


@pytest.mark.parametrize(("direction", "expected"), [("egress", {"8"}), ("ingress", {"0"})])
def test_a_direction(captured: Captured, tmp_path: Path, direction: str, expected: set[str]) -> None:
    id = captured.start(max_seconds=2, direction=direction, protocol="icmp")
    ping(captured.one, captured.other)
    captured.wait(id)
    types = [type for (type,) in File(captured, id, tmp_path).fields("icmp.type")]
    assert len(types) == 5 and set(types) == expected


def test_a_filter(captured: Captured, tmp_path: Path) -> None:
    prefix = f"{captured.other.ip}/32"
    id = captured.start(max_seconds=3, protocol="udp", transport_port=5300, remote_ip_prefix=prefix)
    for target, port in ((captured.other, 5300), (captured.other, 5301), (captured.neighbour, 5300)):
        captured.one.exec(["bash", "-c", f"echo hello > /dev/udp/{target.ip}/{port}"])
    ping(captured.one, captured.other, count=1)
    captured.wait(id)
    seen = File(captured, id, tmp_path).fields("ip.dst", "udp.dstport", only="udp")
    assert seen == [(captured.other.ip, "5300")]
    assert len(File(captured, id, tmp_path).fields("frame.number")) == 1


def test_no_more_bytes_than_asked_for(captured: Captured, tmp_path: Path) -> None:
    id = captured.start(max_bytes=20_000, protocol="icmp", snaplen=200)
    captured.one.exec(f"ping -c 100 -i 0.002 -s 1000 {captured.other.ip}")
    told = captured.wait(id)
    assert told["state_detail"].startswith("max_bytes")
    file = File(captured, id, tmp_path)
    assert 20_000 - 600 < len(file.data) <= 20_000
    kept = file.fields("frame.len", "frame.cap_len")
    assert len(kept) == told["packets"] > 50 and set(kept) == {("1042", "200")}


def test_ended_by_its_deletion(captured: Captured) -> None:
    id, copied = captured.start(), captured.start_of_all()
    assert captured.left(0) and not captured.left(1)
    assert captured.agents[0].metric("novanet_agent_captures") == 2
    with pytest.raises(ApiError) as refused:
        captured.api.get(f"/v1/captures/{id}/file")
    assert refused.value.status == 409
    for each in (id, copied):
        captured.api.delete(f"/v1/captures/{each}")
    until("nothing is left", lambda: not captured.left())
    until("no process is left", lambda: captured.agents[0].metric("novanet_agent_captures") == 0)


def test_an_agent_that_was_killed_leaves_nothing(captured: Captured) -> None:
    id, copied, agent = captured.start(), captured.start_of_all(), captured.agents[0]
    agent.kill()
    ping(captured.one, captured.other)
    until("its processes and interfaces go with it", lambda: not [each for each in captured.left() if "@" in each])
    assert captured.left()
    agent.start()
    until("its mirrors are removed", lambda: not captured.left())
    for each in (id, copied):
        told = captured.wait(each, "ERROR")
        assert "restarted" in told["state_detail"] and told["status"] == "ERROR"
    again = captured.start(max_seconds=1)
    captured.wait(again)


def test_an_agent_that_ends_takes_its_mirrors_away(captured: Captured) -> None:
    captured.start_of_all()
    captured.agents[0].terminate()
    assert not [each for each in captured.left() if "@" not in each]
    until("its interfaces go, too", lambda: not captured.left())
    captured.agents[0].start()


@pytest.mark.parametrize("start", [Captured.start, Captured.start_of_all])
def test_vswitchd_is_restarted(captured: Captured, tmp_path: Path, start: Callable[..., str]) -> None:
    id = start(captured, max_seconds=600, protocol="icmp", direction="ingress")
    ping(captured.one, captured.other)
    host = captured.cloud.lab.hypervisors[0]
    host.stop_vswitchd()
    host.start_vswitchd()
    until("VMs reach each other", lambda: captured.one.ping(captured.other.ip or "", count=1).received == 1)
    ping(captured.one, captured.other, size=100)
    captured.api.patch(f"/v1/captures/{id}", {"enabled": False})
    assert captured.wait(id)["state_detail"] == "it was stopped"
    sizes = [size for (size,) in File(captured, id, tmp_path).fields("frame.len", only="icmp.type == 0")]
    assert sizes.count("142") == 5 and sizes.count("98") >= 5


def test_the_controller_is_away_when_it_ends(captured: Captured, tmp_path: Path) -> None:
    id = captured.start(max_seconds=2, protocol="icmp")
    captured.cloud.controller.kill()
    ping(captured.one, captured.other)
    until("it has ended", lambda: not captured.left())
    captured.cloud.controller.start()
    captured.cloud.controller.wait_ready()
    told = captured.wait(id)
    assert told["packets"] == 10 and len(File(captured, id, tmp_path).fields("frame.number")) == 10


def test_all_vms_of_a_hypervisor(captured: Captured, tmp_path: Path) -> None:
    """Those that come later, too; packets from the one to the other are there twice, as one has sent them and one got them."""
    id = captured.start_of_all(ethertype="IPv4", protocol="icmp", max_seconds=600)
    late = captured.cloud.vm(captured.network, 0)
    ping(captured.one, captured.other, 2)
    ping(captured.neighbour, captured.one, 3)
    until("the new VM's port is mirrored", lambda: len(selected(captured)) == 3)
    ping(late, captured.other, 1)
    captured.api.patch(f"/v1/captures/{id}", {"enabled": False})
    captured.wait(id)
    seen = File(captured, id, tmp_path).fields("ip.src", "ip.dst", "icmp.type", "frame.packet_flags_direction")
    out, in_ = f"0x{OUTBOUND:08x}", f"0x{INBOUND:08x}"
    expected: Counter[tuple[str, ...]] = Counter()
    for vm, other, count, both in (
        (captured.one, captured.other, 2, False), (captured.neighbour, captured.one, 3, True), (late, captured.other, 1, False)
    ):  # fmt: skip
        there, back = (vm.ip or "", other.ip or "", "8"), (other.ip or "", vm.ip or "", "0")
        expected += Counter({(*there, out): count, (*back, in_): count})
        expected += Counter({(*there, in_): count, (*back, out): count}) if both else Counter()
    if captured.cloud.lab.programs.version.startswith(("3.2.", "3.3.")):  # their mirrors repeat what VMs send
        seen = [*dict.fromkeys(each for each in seen if each[-1] == out), *(each for each in seen if each[-1] == in_)]
        expected = Counter({each: 1 if each[-1] == out else count for each, count in expected.items()})
    assert Counter(seen) == expected
    captured.cloud.lab.hypervisors[0].unplug(late.port["id"])
    captured.api.delete(f"/v1/ports/{late.port['id']}")


def selected(captured: Captured) -> list[str]:
    text = captured.cloud.lab.hypervisors[0].vsctl("--bare", "--columns=select_src_port", "list", "Mirror")
    return text.split()


def test_the_file_stays_when_the_port_goes(captured: Captured, tmp_path: Path) -> None:
    vm = captured.cloud.vm(captured.network, 0)
    first = captured.start(port_id=vm.port["id"], max_seconds=1, protocol="icmp")
    captured.wait(first)
    second = captured.start(port_id=vm.port["id"], protocol="icmp")
    ping(vm, captured.other, 2)
    captured.cloud.lab.hypervisors[0].unplug(vm.port["id"])
    captured.api.delete(f"/v1/ports/{vm.port['id']}")
    told = captured.wait(second)
    assert told["port_id"] is None and "unplugged" in told["state_detail"]
    assert len(File(captured, second, tmp_path).fields("frame.number")) == 4
    assert captured.api.get(f"/v1/captures/{first}")["status"] == "ACTIVE"


def test_one_whose_vm_is_to_come(captured: Captured, tmp_path: Path) -> None:
    port = captured.cloud.port(captured.network)
    made = captured.api.post("/v1/captures", {"port_id": port["id"], "max_seconds": 2})
    assert (made["state"], made["status"]) == ("PENDING", "DOWN")
    vm = captured.cloud.plug(captured.network, port, 1)
    until("it runs", lambda: captured.state(made["id"]) == "RUNNING")
    ping(vm, captured.other, 1)
    captured.wait(made["id"])
    assert File(captured, made["id"], tmp_path).fields("ip.src", only="icmp.type == 8") == [(vm.ip,)]
    captured.cloud.lab.hypervisors[1].unplug(port["id"])
    captured.api.delete(f"/v1/ports/{port['id']}")


def test_a_full_disk_is_told_and_stops_nothing(captured: Captured, small_disk: Path) -> None:
    id = captured.start(port_id=captured.other.port["id"], protocol="icmp")
    captured.other.exec(f"ping -c 1200 -i 0.001 -s 1000 {captured.one.ip}")
    told = captured.wait(id, "ERROR")
    assert told["state_detail"] == "the hypervisor's disk: No space left on device"
    assert told["status_reason"] == [told["state_detail"]]
    again = captured.start(port_id=captured.other.port["id"], max_seconds=1)
    captured.wait(again)
    assert list(small_disk.iterdir()) == []


def test_more_than_run_at_a_time_wait_for_their_turn(captured: Captured, tmp_path: Path) -> None:
    first = [captured.start(max_seconds=600, direction="egress", protocol="icmp") for _ in range(AT_ONCE)]
    late = captured.api.post("/v1/captures", {"port_id": captured.one.port["id"], "max_seconds": 2})["id"]
    ping(captured.one, captured.other, 3)
    assert captured.state(late) == "PENDING"
    for id in first:
        captured.api.patch(f"/v1/captures/{id}", {"enabled": False})
    for id in first:
        captured.wait(id)
        assert len(File(captured, id, tmp_path).fields("frame.number")) == 3
    assert captured.wait(late)["started_at"]


def test_from_the_command_line(captured: Captured, tmp_path: Path) -> None:
    target = tmp_path / "x.pcapng"
    environment = {**os.environ, "NOVANET_ENDPOINT": captured.cloud.controller.url, "NOVANET_TOKEN": captured.api.token}
    words = ["capture", "run", captured.one.port["id"], "-w", str(target), "--protocol", "icmp", "--max-seconds", "600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.cli.main", *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    running = "GET", "/v1/captures?state=RUNNING"
    until("it runs", lambda: captured.api.request(*running)["items"])
    ping(captured.one, captured.other, 3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0 and told == "6 packets, 0 dropped: it was stopped\n"
    done = subprocess.run(["tshark", "-n", "-r", str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.count("Echo (ping) request") == done.stdout.count("Echo (ping) reply") == 3
    assert captured.api.get("/v1/captures")["items"] == []
