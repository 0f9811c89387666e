"""The packet generator of the benchmarks: what it says got through is what got through."""

from __future__ import annotations

import json
import subprocess
import sys

from tools.bench import stream
from tools.lab import VM, Lab, namespaces

SCRIPT = [sys.executable, "-IS", stream.__file__]


def received(vm: VM) -> int:
    """Packets that the VM's interface has received."""
    shown = vm.exec("ip -j -s link show dev eth0").stdout
    return int(json.loads(shown)[0]["stats64"]["rx"]["packets"])


def test_small_packets_are_counted_and_none_is_lost() -> None:
    with Lab(1) as lab:
        hypervisor = lab.hypervisors[0]
        hypervisor.add_bridge()
        one, two = (hypervisor.plug(f"p{n}", f"02:00:00:00:00:0{n}", [(f"10.0.0.{n}", 24)]) for n in (1, 2))
        assert one.ping("10.0.0.2").received
        before = received(two)
        receiver = two.popen([*SCRIPT, "receive", "7000"], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout and receiver.stdout.readline() == "ready\n"
        result = json.loads(one.exec([*SCRIPT, "send", "10.0.0.2", "7000", "0.5"]).stdout)
        assert result["lost"] == 0 and result["packets"] >= stream.BATCH
        arrived = received(two) - before
        assert result["packets"] <= arrived <= result["packets"] + stream.WINDOW + 20
        receiver.kill()
        receiver.wait()


def test_packets_that_nobody_receives_are_lost_and_not_counted() -> None:
    with Lab(1) as lab:
        hypervisor = lab.hypervisors[0]
        hypervisor.add_bridge()
        one, two = (hypervisor.plug(f"p{n}", f"02:00:00:00:00:0{n}", [(f"10.0.0.{n}", 24)]) for n in (1, 2))
        assert one.ping("10.0.0.2").received
        receiver = two.popen([*SCRIPT, "receive", "7000"], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout and receiver.stdout.readline() == "ready\n"
        sender = one.popen([*SCRIPT, "send", "10.0.0.2", "7000", "1"], stdout=subprocess.PIPE, text=True)
        while received(two) < 2000:
            pass
        namespaces.ip([f"link set {two.interface} down"], hypervisor.namespace)
        result = json.loads(sender.communicate(timeout=30)[0])
        assert result["lost"] >= stream.BATCH and result["packets"] <= received(two)
        receiver.kill()
        receiver.wait()
