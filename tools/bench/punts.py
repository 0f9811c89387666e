"""How quickly a VM is answered, and whether another VM that floods its hypervisor with questions delays that.

Two VMs of one hypervisor; one asks for what the controller answers (DHCP, DHCPv6, router solicitations, DNS) and for what the switch answers
itself (ARP, neighbour discovery), question after question. Meanwhile the other one is silent, or sends one kind of question as
fast as it can: always the same, or each for another address or from another port (``scan``). Beside silence it is held
against frames of an unknown kind that the switch drops at the port: those take the same cores, and ask nothing. The three
take turns, so that what else goes on on the machine disturbs all of them. Times are those that the VM sees; what the
controller takes for an answer, from the switch's message to its own, is read from /metrics.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipelines import fields as f
from pipelines.addresses import link_local
from pipelines.packets import frames, neighbours
from pipelines.services import RESOLVER, SERVICE_MAC
from tools.bench import asking
from tools.bench.groups import OPEN
from tools.bench.novanet import rules
from tools.bench.report import line
from tools.bench.samples import percentile
from tools.lab import VM, Controller, Lab, processes
from tools.lab.errors import LabError

ROUNDS = int(os.environ.get("NOVANET_BENCH_ROUNDS", "5"))
QUESTIONS, INTERVAL = 40, 0.01
"""Of each kind in a turn, and seconds between an answer and the next question."""
SETTLE = 0.5
"""Seconds of a flood before a time counts."""
ADDRESSES = ("10.0.0.0/8", "fd10::/64")
DIFFERENT = 20000
"""Frames of a scan until it begins again."""
UNKNOWN = b"\x88\xb5"
"""An EtherType for experiments (IEEE 802), of which no port may send frames."""
DROPPED = "flood that is dropped"
_BUCKET = re.compile(r'novanet_punt_seconds_bucket\{reason="(\w+)",le="([^"]+)"\} (\d+)')


class Question(NamedTuple):
    """A frame that asks, and what its answer has at which offset."""

    frame: bytes
    signs: dict[int, bytes]


class Asker(NamedTuple):
    """A VM as frames name it."""

    vm: VM
    mac: int
    ip: int
    ip6: int

    def arp(self, target: int) -> Question:
        """Who has an IPv4 address?"""
        return Question(neighbours.arp_request(self.mac, self.ip, target), {12: b"\x08\x06", 20: b"\0\2"})

    def nd(self, target: int) -> Question:
        """Who has an IPv6 address?"""
        return Question(
            neighbours.solicitation(self.mac, self.ip6, target), {12: b"\x86\xdd", 20: b"\x3a", 54: b"\x88"}
        )

    def dns(self, port: int = 4242) -> Question:
        """The address of the VM ``target``, of the resolver."""
        query = bytes.fromhex("4e4e0100 0001000000000000") + b"\6target\x08internal\0\0\1\0\1"
        packet = frames.udp4(self.ip, RESOLVER, port, 53, query)
        return Question(frames.ethernet(SERVICE_MAC, self.mac, f.IPV4, packet), {12: b"\x08\0", 34: b"\0\x35"})

    def dhcp(self, _: int = 0) -> Question:
        """DHCPDISCOVER (RFC 2131)."""
        mac = self.mac.to_bytes(6, "big")
        message = b"\1\1\6\0\x4e\x4e\x4e\x4e" + bytes(20) + mac + bytes(202) + b"\x63\x82\x53\x63\x35\1\1\xff"
        packet = frames.udp4(0, frames.BROADCAST_IPV4, 68, 67, message)
        return Question(frames.ethernet(frames.BROADCAST_MAC, self.mac, f.IPV4, packet), {12: b"\x08\0", 34: b"\0\x43"})

    def dhcpv6(self) -> Question:
        """Solicit (RFC 8415) for one address."""
        duid = b"\0\3\0\1" + self.mac.to_bytes(6, "big")
        message = b"\1\x4e\x4e\x4e\0\1\0\x0a" + duid + b"\0\3\0\x0c" + bytes(12)
        to = f.ip("ff02::1:2")
        packet = frames.udp6(link_local(self.mac), to, 546, 547, message)
        ethernet = frames.ethernet(frames.multicast_mac(to), self.mac, f.IPV6, packet)
        return Question(ethernet, {12: b"\x86\xdd", 54: b"\x02\x23"})

    def router_solicitation(self) -> Question:
        """Router solicitation (RFC 4861)."""
        packet = frames.icmp6(link_local(self.mac), frames.ALL_ROUTERS, 133, 0, bytes(4), hop_limit=255)
        ethernet = frames.ethernet(frames.multicast_mac(frames.ALL_ROUTERS), self.mac, f.IPV6, packet)
        return Question(ethernet, {12: b"\x86\xdd", 54: b"\x86"})

    def questions(self, target: Asker) -> dict[str, Question]:
        """What is asked and timed."""
        return {
            "dhcpv4": self.dhcp(),
            "dhcpv6": self.dhcpv6(),
            "router_solicitation": self.router_solicitation(),
            "dns": self.dns(),
            "arp": self.arp(target.ip),
            "nd": self.nd(target.ip6),
        }

    def floods(self, target: Asker) -> dict[str, list[bytes]]:
        """What is flooded."""
        some = random.Random(1)
        scans: dict[str, Callable[[], Question]] = {
            "DNS scan": lambda: self.dns(some.randrange(1024, 65536)),
            "ARP scan": lambda: self.arp(0x0A000000 | some.randrange(1 << 24)),
            "ND scan": lambda: self.nd(f.ip("fd10::") | some.randrange(1 << 32)),
        }
        same = {"DHCP": self.dhcp(), "DNS": self.dns(), "ARP": self.arp(target.ip), "ND": self.nd(target.ip6)}
        return {name: [question.frame] for name, question in same.items()} | {
            name: [make().frame for _ in range(DIFFERENT)] for name, make in scans.items()
        }


def main() -> int:
    """Measure and print; 0 when done. Raises LabError when something does not work."""
    with Lab(1) as lab, Controller(lab) as controller:
        lab.deploy(controller)
        asker, flooder, target = _vms(lab, controller)
        questions = asker.questions(target)
        _measure(asker, questions)  # the first of each kind prepares the answer
        for name, flood in flooder.floods(target).items():
            paths = {"flood": lab.directory / "flood.frames", DROPPED: lab.directory / "dropped.frames"}
            _write(paths["flood"], flood)
            _write(paths[DROPPED], [frame[:12] + UNKNOWN + frame[14:] for frame in flood])
            times = {state: defaultdict[str, list[float]](list) for state in ("idle", *paths)}
            for _ in range(ROUNDS):
                _add(times["idle"], _measure(asker, questions))
                for state, path in paths.items():
                    with _flooding(flooder.vm, path):
                        _add(times[state], _measure(asker, questions))
            for kind in questions:
                for percent in (50, 95):
                    ours, *peers = (percentile(times[each][kind], percent) * 1e3 for each in ("flood", "idle", DROPPED))
                    for peer, theirs in zip(("idle", DROPPED), peers, strict=True):
                        case = f"{kind} during a flood of {name}, p{percent}"
                        line("punts", case, ours, peer, theirs, "ms", higher_is_better=False)
        _report_controller(controller, questions)
    return 0


def _write(path: Path, frames_: list[bytes]) -> None:
    path.write_bytes(b"".join(len(frame).to_bytes(2, "big") + frame for frame in frames_))


def _report_controller(controller: Controller, questions: dict[str, Question]) -> None:
    """What answers took in the controller, all the time, floods included."""
    for kind, buckets in _histograms(controller).items():
        if kind in questions:
            for percent in (50, 95):
                ours = _quantile(buckets, percent / 100) * 1e3
                line("punts", f"{kind} in the controller, p{percent}", ours, None, None, "ms", higher_is_better=False)


def _vms(lab: Lab, controller: Controller) -> list[Asker]:
    """The one that asks, the one that floods, and the one that they ask for, in a network with a router."""
    api = controller.api
    network = api.post("/v1/networks", {"name": "net"})["id"]
    for cidr in ADDRESSES:
        api.post("/v1/subnets", {"network_id": network, "cidr": cidr})
    router = api.post("/v1/routers", {"name": "router"})["id"]
    api.post("/v1/ports", {"network_id": network, "router_id": router})
    api.post("/v1/security-groups", {"id": OPEN.id, "name": OPEN.name, "stateful": OPEN.stateful})
    api.post("/v1/security-group-rules", list(rules(OPEN)))
    return [_vm(lab, controller, network, name) for name in ("asker", "flooder", "target")]


def _vm(lab: Lab, controller: Controller, network: str, name: str) -> Asker:
    port = controller.api.post("/v1/ports", {"network_id": network, "dns_name": name, "security_groups": [OPEN.id]})
    vm = lab.boot(controller, lab.hypervisors[0], port["id"])
    controller.wait_status(f"/v1/ports/{port['id']}")
    vm.wait_link_local()
    ips = {":" in fixed["ip_address"]: f.ip(fixed["ip_address"]) for fixed in port["fixed_ips"]}
    return Asker(vm, f.mac(port["mac_address"]), ips[False], ips[True])


def _measure(asker: Asker, questions: dict[str, Question]) -> dict[str, list[float]]:
    """Seconds until the answers, by kind. LabError when some are missing."""
    found = {}
    for kind, question in questions.items():
        signs = ",".join(f"{at}={sign.hex()}" for at, sign in question.signs.items())
        command = ["ask", str(QUESTIONS), str(INTERVAL), question.frame.hex(), signs]
        times: list[Any] = json.loads(asker.vm.exec([sys.executable, "-IS", asking.__file__, *command]).stdout)
        if None in times:
            raise LabError(f"{kind}: {times.count(None)} of {QUESTIONS} questions were not answered within a second")
        found[kind] = times
    return found


def _add(all: defaultdict[str, list[float]], some: dict[str, list[float]]) -> None:
    for kind, times in some.items():
        all[kind] += times


@contextmanager
def _flooding(vm: VM, path: Path) -> Iterator[None]:
    """While the VM sends what it can."""
    command = [sys.executable, "-IS", asking.__file__, "flood", "60", str(path)]
    process = vm.popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise LabError(f"the flood did not start in {vm.name}")
        time.sleep(SETTLE)
        yield
    finally:
        processes.end(process)


def _histograms(controller: Controller) -> dict[str, list[tuple[float, int]]]:
    """By reason, the upper end of each bucket in seconds, and how many answers took no longer."""
    found: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for reason, bound, count in _BUCKET.findall(controller.api.get("/metrics")):
        found[reason].append((float(bound), int(count)))
    return dict(found)


def _quantile(buckets: list[tuple[float, int]], share: float) -> float:
    """The time within which a share of the answers was there, interpolated within a bucket, as Prometheus does."""
    wanted, low, before = share * buckets[-1][1], 0.0, 0
    for bound, count in buckets:
        if count >= wanted and count > before:
            return low if bound == float("inf") else low + (bound - low) * (wanted - before) / (count - before)
        low, before = bound, count
    return low


if __name__ == "__main__":
    sys.exit(main())
