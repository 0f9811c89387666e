"""A real switch decides as the rules say, packet by packet, with the few flows that they were made into."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from random import Random

import pytest

from pipelines import wire
from pipelines.flow import Flow, output
from pipelines.ledger import Ledger
from pipelines.minimise import SPACES, Box, Rule, minimise
from pipelines.minimise.boxes import has
from pipelines.minimise.flows import flows
from tests.switch.conftest import Switch
from tests.switch.speaker import Speaker
from tests.switch.test_readback import speaker as speaker
from tests.switch.unixctl import Unixctl
from tools.bench import classbench

SETS = sorted((Path(__file__).parents[1] / "classbench").glob("*.rules"))
"""Every fifth rule of ClassBench sets of some 1,000 rules made from the seeds acl1, fw1 and ipc1."""
OWNER = ("network", "n1")
DROP, IN_PORT = 0, 4
PACKETS = 2500
"""How many packets each set is tried with."""
MAPPED = 0xFD00 << 112
"""Where the IPv4 addresses of a set are when its rules are on IPv6: in their last 32 bits."""


@pytest.fixture
def control(switch: Switch) -> Iterator[Unixctl]:
    connection = Unixctl(switch.directory / "vswitchd.ctl")
    yield connection
    connection.close()


def verdicts(name: str, random: Random) -> Sequence[int]:
    """The ports that rules send packets to: all to one as in a security group, or several and none."""
    return [1] * 10_000 if name == "one verdict" else random.choices([1, 1, 2, 3, DROP], k=10_000)


def mapped(rule: Rule) -> Rule:
    """An IPv4 rule as one on IPv6; ICMP becomes ICMPv6."""
    source, destination, protocol, *rest = rule.box
    six = [
        (MAPPED + low, MAPPED + high) if high - low < 0xFFFFFFFF else (0, (1 << 128) - 1)
        for low, high in (source, destination)
    ]
    return Rule((*six, (58, 58) if protocol == (1, 1) else protocol, *rest), rule.verdict)


def point(family: int, random: Random, boxes: Sequence[Box]) -> tuple[int, ...]:
    """A packet at the edges of one rule or of two, or just outside; what its protocol lacks is 0."""
    boxes = random.choices(boxes, k=random.choice((1, 1, 2)))
    found = []
    for at, dimension in enumerate(SPACES[family]):
        low, high = random.choice(boxes)[at]
        if dimension.kind == "bits":
            found.append(low | random.getrandbits(dimension.width) & ~high & 0xFF)
        else:
            near = (low, high, random.randint(low, high), random.randint(low, high), low - 1, high + 1)
            found.append(min(max(random.choice(near), 0), (1 << dimension.width) - 1))
    protocol = found[2] = random.choice((6, 17, 47)) if found[2] not in (6, 17, 132, 47, 1, 58) else found[2]
    if protocol not in (6, 17, 132):
        found[3:5] = 0, 0
    if protocol != 6:
        found[5] = 0
    if protocol != (1 if family == 4 else 58):
        found[6:8] = 0, 0
    return tuple(found)


def words(family: int, point: Sequence[int]) -> str:
    """A packet in the words of ``ofproto/trace``."""
    source, destination, protocol, source_port, destination_port, flags, kind, code = point
    if family == 4:
        addresses = f"dl_type=0x800,nw_src={IPv4Address(source)},nw_dst={IPv4Address(destination)}"
    else:
        addresses = f"dl_type=0x86dd,ipv6_src={IPv6Address(source)},ipv6_dst={IPv6Address(destination)}"
    more = ""
    if protocol in (6, 17, 132):
        name = {6: "tcp", 17: "udp", 132: "sctp"}[protocol]
        more = f",{name}_src={source_port},{name}_dst={destination_port}"
    if protocol == 6:
        more += f",tcp_flags={flags:#x}"
    if protocol == (1 if family == 4 else 58):
        name = "icmp" if family == 4 else "icmpv6"
        more = f",{name}_type={kind},{name}_code={code}"
    return f"in_port={IN_PORT},{addresses},nw_proto={protocol},nw_ttl=64{more}"


def decide(priority: int, matched: bytes, verdict: Hashable) -> Flow:
    assert isinstance(verdict, int)
    return Flow(0, priority, matched, (output(verdict),) if verdict else ())


@pytest.mark.parametrize("speaker", [wire.OF15], indirect=True)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("given", ["one verdict", "several"])
@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_classbench(speaker: Speaker, switch: Switch, control: Unixctl, path: Path, given: str, family: int) -> None:
    random = Random(f"{path.stem} {given} {family}")
    chosen = verdicts(given, random)
    rules = list(classbench.read(path, lambda number: chosen[number]))
    rules = rules if family == 4 else [mapped(rule) for rule in rules]
    minimised = minimise(SPACES[family], rules, DROP)
    assert minimised.flows < minimised.plain
    ledger = Ledger(speaker.version)
    speaker.apply(ledger.put(OWNER, list(flows(family, minimised, decide, table=0, priority=1000)), 1))
    assert len(speaker.flows()) == minimised.flows
    assert any(layer.conjunctions for layer in minimised.layers)

    met = []
    for _ in range(PACKETS):
        packet = point(family, random, [rule.box for rule in rules])
        expected = next((rule.verdict for rule in rules if has(SPACES[family], rule.box, packet)), DROP)
        text = control.ask("ofproto/trace", switch.bridge, words(family, packet))
        sent = [int(port) for port in re.findall(r"^ +(?:>> )?output:(\d+)$", text, re.MULTILINE)]
        assert sent == ([expected] if expected else []), f"{words(family, packet)} should go to {expected}:\n{text}"
        met.append(expected)
    assert {met.count(verdict) > 50 for verdict in {rule.verdict for rule in rules} | {DROP}} == {True}
