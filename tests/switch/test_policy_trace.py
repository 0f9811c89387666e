"""Security groups by ``ofproto/trace``: a real switch gives random packets the verdict of the naive oracle.

A trace does not know how the connection began that a packet belongs to, as conntrack tells. So each time that the packet goes
through conntrack, a new trace takes it up from there, with the fields that conntrack would have added.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from random import Random, randrange

import pytest

from pipelines import fields as f
from pipelines.wire import OF13, OF15
from tests.switch.conftest import TUNNEL_PORT
from tests.switch.policy_model import Case, random_case
from tests.switch.policy_switch import AWAY, HERE, TUNNEL_IPS, GuardedWorld, PolicySwitch
from tests.switch.policy_switch import policy_switch as policy_switch
from tests.unit.policy_oracle import Packet, decide

SEED = int(os.environ.get("NOVANET_SEED", randrange(1 << 32)))
CHUNKS = 4
"""Each speaks one version of OpenFlow."""
WORLDS = 20
"""For each chunk."""
PACKETS = 30
"""For each world."""
PORTS = {f.TCP: "tcp", f.UDP: "udp", f.SCTP: "sctp"}


class Tracer:
    """Follows packets of a world through h1."""

    def __init__(self, world: GuardedWorld, switch: PolicySwitch) -> None:
        self.world, self.switch = world, switch

    def leaves_by(self, case: Case) -> list[int]:
        """The ports by which a packet leaves."""
        text = self.switch.control.ask("ofproto/trace", self.switch.bridge, self._words(case))
        self.told = [text]
        return self._follow(text, case.packet)

    def _follow(self, text: str, packet: Packet) -> list[int]:
        """What a trace sends, up to where conntrack takes the packet, and what comes of that."""
        section, *_ = re.split(r"^=+\n(?=recirc\()", text, flags=re.M)
        ports = [int(port) for port in re.findall(r"^ +(?:>> )?output:(\d+)$", section, re.M)]
        [flow], [final] = re.findall(r"^Flow: (.*)", section, re.M), re.findall(r"^Final flow: (.*)", section, re.M)
        again = _with_connection(flow if final == "unchanged" else final, packet)
        for table in re.findall(r"The forked pipeline will be resumed at table (\d+)", section):
            on = f"resubmit(,{table})"
            forked = self.switch.control.ask("ofproto/trace-packet-out", self.switch.bridge, again, on)
            self.told.append(forked)
            ports += self._follow(forked, packet)
        return ports

    def _words(self, case: Case) -> str:
        """The packet as it comes to h1: from its sender, or through the tunnel."""
        world, packet = self.world, case.packet
        sender, receiver = world.at(case.sender), world.at(case.receiver)
        here = world.topology.location(case.sender) == HERE
        routed = here and sender.network_id != receiver.network_id
        words = {"in_port": str(world.topology.get("vif", case.sender).ofport if here else TUNNEL_PORT)}
        if not here:
            vni = world.topology.get("network", receiver.network_id).vni
            identity = sender.identity or 0
            option = f"{identity << 32 | (receiver.port_key or 0):#x}"
            words |= {"tun_id": str(vni), "tun_src": TUNNEL_IPS[AWAY], "tun_metadata0": option}
        target = world.at(f"r-{sender.network_id}") if routed else receiver
        words |= {"dl_src": sender.mac_address, "dl_dst": target.mac_address}
        six = packet.family == 6
        words |= {"dl_type": "0x86dd" if six else "0x0800", "nw_proto": str(packet.protocol), "nw_ttl": "64"}
        words |= {"ipv6_src" if six else "nw_src": packet.source_address}
        words |= {"ipv6_dst" if six else "nw_dst": packet.destination_address}
        if packet.protocol in PORTS:
            name = PORTS[packet.protocol]
            words |= {f"{name}_src": str(packet.source_port), f"{name}_dst": str(packet.destination_port)}
        elif packet.icmp is not None:
            name = "icmpv6" if six else "icmp"
            words |= {f"{name}_type": str(packet.icmp[0]), f"{name}_code": str(packet.icmp[1])}
        return ",".join(f"{name}={value}" for name, value in words.items())


def _with_connection(flow: str, packet: Packet) -> str:
    """A packet as it comes back from conntrack, with the fields that tell how its connection began: with itself."""
    kept = [word for word in flow.split(",") if not re.match(r"(recirc_id|ct_\w+|tun_\w+|gtpu_\w+|eth$)", word)]
    if packet.protocol in PORTS:
        kept = [re.sub(r"^tp_", f"{PORTS[packet.protocol]}_", word) for word in kept]
    elif packet.family == 6:
        kept = [re.sub(r"^icmp_", "icmpv6_", word) for word in kept]
    ends = ("ct_ipv6_src", "ct_ipv6_dst") if packet.family == 6 else ("ct_nw_src", "ct_nw_dst")
    began = {"ct_state": "trk|new", "ct_nw_proto": packet.protocol}
    began |= {ends[0]: packet.source_address, ends[1]: packet.destination_address}
    first, second = packet.icmp or (packet.source_port, packet.destination_port)
    if first is not None:
        began |= {"ct_tp_src": first, "ct_tp_dst": second}
    return ",".join([*kept, *(f"{name}={value}" for name, value in began.items())])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_trace_ends_as_the_oracle_says(policy_switch: PolicySwitch, chunk: int) -> None:
    rng = Random(f"{SEED} {chunk}")
    fared: Counter[str] = Counter()
    for _ in range(WORLDS):
        world = GuardedWorld(rng, ports=10, rules=30)
        for rule in list(world.topology.all("security-group-rule")):
            world.edit("security-group-rule", rule, log=False)  # so that there is one way only to follow
        policy_switch.load(world, (OF13, OF15)[chunk % 2])
        tracer = Tracer(world, policy_switch)
        cases = [case for number in range(1, 2 * PACKETS) if (case := random_case(rng, world, number))]
        for case in [case for case in cases if case.packet.icmp is None or case.packet.icmp[0]][:PACKETS]:
            # (type 0, the echo reply, begins no connection, and stands for a type that is not seen)
            places = {end: world.topology.location(end) for end in (case.sender, case.receiver)}
            sides = ((case.sender, "egress"), (case.receiver, "ingress"))
            decided = [
                decide(world.topology, case.packet, direction) for end, direction in sides if places[end] == HERE
            ]
            allowed = all(side.allowed for side in decided)
            out = world.topology.get("vif", case.receiver).ofport if places[case.receiver] == HERE else TUNNEL_PORT
            expected = [out] if allowed else []
            found = tracer.leaves_by(case)
            assert found == expected, f"NOVANET_SEED={SEED}: {case} should leave by {expected}\n" + "\n".join(
                tracer.told
            )
            way = "-".join("here" if place == HERE else "away" for place in places.values())
            fared[f"{way} {'passes' if allowed else 'is denied'}"] += 1
            fared[f"IPv{case.packet.family} {'passes' if allowed else 'is denied'}"] += 1
    assert len(fared) == 10 and min(fared.values()) > 10, (SEED, fared)
