"""Rules are fewer and decide as before: against the plainest way to find out what a packet gets."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from ipaddress import collapse_addresses, ip_network
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import Flow, set_field
from pipelines.minimise import (
    SPACES,
    STEPS,
    Dimension,
    Minimised,
    Rule,
    Space,
    collapse,
    cover,
    cover_set,
    minimise,
    needed,
    prefixes,
    rule,
)
from pipelines.minimise import program as steps
from pipelines.minimise.boxes import has, overlap, within, without
from pipelines.minimise.cubes import MOST, fewer
from pipelines.minimise.flows import flows
from pipelines.minimise.packets import ANY_PORT
from pipelines.wire.decode import Conjunction, Set, instructions, match_values
from pipelines.wire.flows import INSTRUCTIONS, TLVS
from tools.bench import classbench

DENY = "deny"
SMALL: Space = (
    Dimension("source", "prefix", 2, 0),
    Dimension("destination", "prefix", 2, 1),
    Dimension("protocol", "any", 1, 2),
    Dimension("port", "range", 4, 2, (2,)),
    Dimension("flags", "bits", 2, 2, (2,)),
)
POINTS = list(product(*(range(1 << each.width) for each in SMALL)))


def oracle(space: Space, rules: Sequence[Rule], point: Sequence[int], default: Hashable = DENY) -> Hashable:
    """The verdict of the first rule that has the packet."""
    return next((each.verdict for each in rules if has(space, each.box, point)), default)


def meets(pattern: Sequence[tuple[int, int]], point: Sequence[int]) -> bool:
    return all(number & mask == value for (value, mask), number in zip(pattern, point, strict=True))


def verdict(minimised: Minimised, point: Sequence[int], default: Hashable = DENY) -> Hashable:
    """What a switch with these layers does; all that meets a packet in a layer must say the same."""
    for layer in minimised.layers:
        found = {each for pattern, each in layer.patterns.items() if meets(pattern, point)}
        for each in layer.conjunctions:
            if all(any(meets(pattern, point) for pattern in clause) for clause in each.clauses):
                found.add(each.verdict)
        assert len(found) < 2, f"{point} gets {found}"
        if found:
            return found.pop()
    return default


@st.composite
def sets(draw: st.DrawFn, dimension: Dimension) -> tuple[int, int]:
    """What a box may have in a dimension."""
    top = (1 << dimension.width) - 1
    if draw(st.integers(0, 2)) == 0:
        return dimension.everything
    match dimension.kind:
        case "prefix":
            free = draw(st.integers(0, dimension.width))
            low = draw(st.integers(0, top)) >> free << free
            return low, low + (1 << free) - 1
        case "range":
            low, high = sorted(draw(st.tuples(st.integers(0, top), st.integers(0, top))))
            return low, high
        case "any":
            number = draw(st.integers(0, top))
            return number, number
    mask = draw(st.integers(0, top))
    return draw(st.integers(0, top)) & mask, mask


small_boxes = st.tuples(*map(sets, SMALL))


def small_rules(verdicts: Sequence[str]) -> st.SearchStrategy[list[Rule]]:
    return st.lists(st.builds(Rule, small_boxes, st.sampled_from(verdicts)), max_size=14)


@settings(deadline=None, max_examples=200)
@given(rules=small_rules(("allow", "log", DENY)) | small_rules(("allow",)))
def test_every_packet_gets_the_same_verdict(rules: list[Rule]) -> None:
    minimised = minimise(SMALL, rules, DENY)
    for point in POINTS:
        assert verdict(minimised, point) == oracle(SMALL, rules, point), point
    assert minimised.plain - sum(minimised.saved.values()) == minimised.flows <= minimised.plain
    assert all(minimised.saved[step] >= 0 for step in STEPS)


@settings(deadline=None, max_examples=100)
@given(rules=small_rules(("allow", DENY)))
def test_no_rule_is_left_that_is_not_needed(rules: list[Rule]) -> None:
    kept = needed(SMALL, rules, DENY)
    assert all(oracle(SMALL, kept, point) == oracle(SMALL, rules, point) for point in POINTS)
    for number in range(len(kept)):
        fewer = kept[:number] + kept[number + 1 :]
        assert any(oracle(SMALL, kept, point) != oracle(SMALL, fewer, point) for point in POINTS), kept[number]


@given(a=small_boxes, b=small_boxes)
def test_boxes(a, b) -> None:  # type: ignore[no-untyped-def]
    of = {box: {point for point in POINTS if has(SMALL, box, point)} for box in (a, b)}
    assert overlap(SMALL, a, b) == bool(of[a] & of[b])
    assert within(SMALL, a, b) == (of[a] <= of[b])
    left = without(SMALL, a, b)
    points = [point for box in left for point in POINTS if has(SMALL, box, point)]
    assert len(points) == len(set(points)) and set(points) == of[a] - of[b]


# --- packets -----------------------------------------------------------------------------------------------------

CIDRS = {
    4: ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.2.0/24", "10.1.3.0/24", "10.1.2.4/30", "10.1.2.5/32", "10.1.2.6/32"],
    6: ["::/0", "fd00::/8", "fd00::/64", "fd00:0:0:1::/64", "fd00::1/128", "fd00::2/128", "fd00::3/128"],
}  # fmt: skip
PORTS = [ANY_PORT, (1024, 65535), (80, 80), (81, 81), (82, 90), (443, 443), (1, 65534), (20, 23)]
FLAGS = [(0, 0), (2, 0x12), (0x10, 0x10), (0, 2)]


@st.composite
def packet_rules(draw: st.DrawFn, family: int) -> Rule:
    cidr = st.sampled_from(CIDRS[family])
    protocol = draw(st.sampled_from([None, 6, 6, 6, 17, 17, 132, 47, 1 if family == 4 else 58]))
    more: dict[str, object] = {}
    if protocol in (6, 17, 132):
        more = {"source_ports": draw(st.sampled_from(PORTS)), "destination_ports": draw(st.sampled_from(PORTS))}
    if protocol == 6:
        more["flags"] = draw(st.sampled_from(FLAGS))
    if protocol in (1, 58):
        more["icmp_type"] = draw(st.none() | st.integers(0, 3))
        more["icmp_code"] = None if more["icmp_type"] is None else draw(st.none() | st.integers(0, 3))
    found = draw(st.sampled_from(["allow", "allow", "log", DENY]))
    return rule(family, draw(cidr), draw(cidr), found, protocol=protocol, **more)  # type: ignore[arg-type]


@st.composite
def packets(draw: st.DrawFn, family: int, rules: list[Rule]) -> tuple[int, ...]:
    """A packet at the edges of rules, just within or just outside; fields that its protocol lacks are 0."""
    point = []
    for at, dimension in enumerate(SPACES[family]):
        pair = draw(st.sampled_from(rules)).box[at]
        top = (1 << dimension.width) - 1
        near = [pair[0]] if dimension.kind == "bits" else [pair[0], pair[1], pair[0] - 1, pair[1] + 1]
        point.append(draw(st.sampled_from([number for number in near if 0 <= number <= top]) | st.integers(0, top)))
    protocol = point[2]
    if protocol not in (6, 17, 132):
        point[3:5] = 0, 0
    if protocol != 6:
        point[5] = 0
    if protocol != (1 if family == 4 else 58):
        point[6:8] = 0, 0
    return tuple(point)


def packet(family: int, point: Sequence[int]) -> dict[f.Field, int]:
    """The fields of a packet as a switch knows it."""
    source, destination, protocol, source_port, destination_port, flags, kind, code = point
    found = {f.ETH_TYPE: f.IPV4 if family == 4 else f.IPV6, f.IP_PROTO: protocol}
    found |= zip(
        (f.IPV4_SRC, f.IPV4_DST) if family == 4 else (f.IPV6_SRC, f.IPV6_DST), (source, destination), strict=True
    )
    ports = {6: (f.TCP_SRC, f.TCP_DST), 17: (f.UDP_SRC, f.UDP_DST), 132: (f.SCTP_SRC, f.SCTP_DST)}.get(protocol, ())
    found |= zip(ports, (source_port, destination_port), strict=False)
    if protocol == 6:
        found[f.TCP_FLAGS] = flags
    if protocol in (1, 58):
        types = (f.ICMPV4_TYPE, f.ICMPV4_CODE) if family == 4 else (f.ICMPV6_TYPE, f.ICMPV6_CODE)
        found |= zip(types, (kind, code), strict=True)
    return found


NUMBERS = {"allow": 1, "log": 2, DENY: 3}


def decide(priority: int, matched: bytes, verdict: Hashable) -> Flow:
    return Flow(7, priority, matched, (set_field(f.PEER, NUMBERS[str(verdict)]),))


def looked_up(encoded: Sequence[tuple[bytes, bytes]], packet: dict[f.Field, int]) -> int:
    """What encoded flows do with a packet, conjunctive matches as ovs-fields(7) describes them; 0: no flow wants it."""

    def matching(packet: dict[f.Field, int]) -> list[tuple[int, tuple[wire.Step, ...]]]:  # type: ignore[name-defined]
        return sorted(
            (
                (int.from_bytes(key[1:3], "big"), instructions(body[INSTRUCTIONS:]).actions)
                for key, body in encoded
                if all(field in packet and packet[field] & mask == value for field, (value, mask) in match_values(key[TLVS:]).items())
            ),
            key=lambda each: -each[0],
        )  # fmt: skip

    hits = matching(packet)
    for priority in dict.fromkeys(priority for priority, _ in hits):
        actions = [step for level, steps in hits if level == priority for step in steps]
        found = {step.value for step in actions if isinstance(step, Set)}
        clauses = {step for step in actions if isinstance(step, Conjunction)}
        for id, count in {(step.id, step.clauses) for step in clauses}:
            if all(Conjunction(id, clause, count) in clauses for clause in range(1, count + 1)):
                (met,) = (
                    steps
                    for level, steps in matching(packet | {f.CONJ_ID: id})
                    if level == priority and (level, steps) not in hits
                )
                found |= {step.value for step in met if isinstance(step, Set)}
        assert len(found) < 2
        if found:
            return found.pop()
    return 0


@pytest.mark.parametrize("family", [4, 6])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_flows_do_with_packets_what_rules_say(family: int, data: st.DataObject) -> None:
    rules = data.draw(st.lists(packet_rules(family), min_size=1, max_size=25))
    minimised = minimise(SPACES[family], rules, DENY)
    made = list(flows(family, minimised, decide, table=7, priority=1000))
    assert len(made) == minimised.flows == len({flow.key for flow in made})
    encoded = [wire.encode_flow(flow, wire.OF15, 0) for flow in made]
    for point in data.draw(st.lists(packets(family, rules), min_size=20, max_size=20)):
        expected = oracle(SPACES[family], rules, point)
        assert verdict(minimised, point) == expected
        assert looked_up(encoded, packet(family, point)) in (NUMBERS[str(expected)], 0 if expected == DENY else None)


def test_what_cannot_be_is_refused() -> None:
    for wrong in (
        lambda: rule(4, "::/0", "::/0", "allow"),
        lambda: rule(4, "0.0.0.0/0", "0.0.0.0/0", "allow", protocol=47, destination_ports=(1, 2)),
        lambda: rule(4, "0.0.0.0/0", "0.0.0.0/0", "allow", protocol=17, flags=(2, 2)),
        lambda: rule(6, "::/0", "::/0", "allow", protocol=1, icmp_type=8),
        lambda: cover(2, 1),
        lambda: cover(0, 65536),
        lambda: list(flows(4, minimise(SPACES[4], [], DENY), decide, table=0, priority=65536)),
    ):
        with pytest.raises(ValueError):
            wrong()


# --- each step ---------------------------------------------------------------------------------------------------


def tcp(source: str, destination: str, low: int, high: int, verdict: str = "allow", family: int = 4) -> Rule:
    return rule(family, source, destination, verdict, protocol=6, destination_ports=(low, high))


ANY = "0.0.0.0/0"
EXAMPLES: dict[str, tuple[str, list[Rule], int, int]] = {
    "shadowed by one": (steps.REDUNDANT, [tcp(ANY, ANY, 0, 127), tcp(ANY, "10.0.0.0/8", 64, 127, "log")], 1, 1),
    "shadowed by two together": (
        steps.REDUNDANT,
        [tcp(ANY, "10.0.0.0/9", 64, 127), tcp(ANY, "10.128.0.0/9", 64, 127), tcp(ANY, "10.0.0.0/8", 96, 127, "log")],
        1, 1,
    ),
    "made unnecessary by a later one": (
        steps.REDUNDANT, [tcp(ANY, "10.0.0.0/8", 64, 127), tcp("1.0.0.0/8", ANY, 0, 63, "log"), tcp(ANY, ANY, 64, 127)], 1, 2,
    ),
    "made unnecessary by the default": (steps.REDUNDANT, [tcp(ANY, ANY, 80, 80, DENY)], 1, 0),
    "not across another verdict": (
        steps.REDUNDANT, [tcp(ANY, "10.0.0.0/8", 64, 127), tcp("1.0.0.0/8", ANY, 0, 127, "log"), tcp(ANY, ANY, 64, 127)], 0, 3,
    ),
    "siblings": (steps.CIDRS, [tcp(ANY, f"10.0.0.{n}/32", 80, 80) for n in range(16)], 15, 1),
    "siblings past rules that are apart": (
        steps.CIDRS, [tcp(ANY, "10.0.0.0/32", 80, 80), tcp(ANY, ANY, 81, 81, "log"), tcp(ANY, "10.0.0.1/32", 80, 80)], 1, 2,
    ),
    "no siblings past one that is not": (
        steps.CIDRS, [tcp(ANY, "10.0.0.0/32", 80, 80), tcp(ANY, ANY, 80, 81, "log"), tcp(ANY, "10.0.0.1/32", 79, 80)], 0, 4,
    ),
    "adjacent ports": (steps.RANGES, [tcp(ANY, ANY, 64, 80), tcp(ANY, ANY, 81, 127)], 6, 1),
    "overlapping ports": (steps.RANGES, [tcp(ANY, ANY, 0, 99), tcp(ANY, ANY, 32, 127)], 4, 1),
    "two ranges": (steps.COVER, [tcp(ANY, ANY, 1, 65534)], 14, 16),
    "cross product": (
        steps.CONJUNCTIONS, [tcp(f"10.{s}.0.0/16", f"11.{d}.0.0/16", 80, 80) for s in (1, 2, 4) for d in (1, 2, 4, 8)], 4, 8,
    ),
    "shared ranges": (
        steps.CONJUNCTIONS, [rule(4, f"10.{n}.0.0/16", ANY, "allow", protocol=17, source_ports=(1024, 65535), destination_ports=(1024, 65535)) for n in (1, 2, 4)], 92, 16,
    ),
    "bits that do not matter": (steps.QUINE_MCCLUSKEY, [tcp(ANY, f"10.{n}.0.0/16", 80, 80) for n in (0, 2, 4, 6)], 3, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_each_step_saves(name: str) -> None:
    step, rules, saved, left = EXAMPLES[name]
    minimised = minimise(SPACES[4], rules, DENY)
    assert (minimised.saved[step], minimised.flows) == (saved, left), minimised


def test_a_flow_has_room_for_so_many_clauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conjunctions that share a clause are actions of one flow, and an OpenFlow message has 65,535 bytes."""
    rules = [
        rule(4, f"10.{n}.0.0/16", ANY, n, protocol=17, source_ports=(1024, 65535), destination_ports=(1024, 65535))
        for n in range(7)
    ]
    (layer,) = minimise(SPACES[4], rules, DENY).layers
    assert len(layer.conjunctions) == 7
    monkeypatch.setattr(steps, "MOST_CONJUNCTIONS", 3)
    minimised = minimise(SPACES[4], rules, DENY)
    assert [len(layer.conjunctions) for layer in minimised.layers] == [3, 3, 1]
    for n in range(8):
        point = (0x0A000001 + (n << 16), 1, 17, 1024, 65535, 0, 0, 0)
        assert verdict(minimised, point) == oracle(SPACES[4], rules, point) == (DENY if n == 7 else n)


# --- numbers as value and mask -----------------------------------------------------------------------------------


def numbers(pairs: Sequence[tuple[int, int]], width: int) -> set[int]:
    return {number for number in range(1 << width) if any(number & mask == value for value, mask in pairs)}


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_no_range_has_a_smaller_cover(width: int) -> None:
    """Every choice of fewer pairs, of all that are in the range and not in a larger one, leaves something out."""
    pairs = {(number & mask, mask) for number in range(1 << width) for mask in range(1 << width)}
    has = {pair: numbers([pair], width) for pair in pairs}
    for low in range(1 << width):
        for high in range(low, 1 << width):
            wanted = set(range(low, high + 1))
            found = cover(low, high, width)
            assert numbers(found, width) == wanted
            inside = [has[pair] for pair in pairs if has[pair] <= wanted]
            primes = [each for each in inside if not any(each < other for other in inside)]
            assert all(set().union(*some) != wanted for some in combinations(primes, len(found) - 1)), (low, high)


@given(st.lists(st.integers(0, 0xFFFF), min_size=2, max_size=2).map(sorted))
def test_a_cover_is_the_range_and_never_more_than_prefixes(ends: list[int]) -> None:
    low, high = ends
    found = cover(low, high)
    assert len(found) <= min(len(prefixes(low, high)), 28)
    edges = {
        low,
        high,
        low - 1,
        high + 1,
        0,
        0xFFFF,
        (low + high) // 2,
        low ^ 1,
        high ^ 1,
        *(1 << n for n in range(16)),
    }
    for port in edges & set(range(1 << 16)):
        assert any(port & mask == value for value, mask in found) == (low <= port <= high)


def test_the_widest_gap_between_prefixes_and_masks() -> None:
    assert len(prefixes(1, 65534)) == 30 and len(cover(1, 65534)) == 16


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)).map(sorted).map(tuple), max_size=8))
def test_sets_of_numbers(spans: list[tuple[int, int]]) -> None:
    found = cover_set(spans, 8)
    assert numbers(found, 8) == {number for low, high in spans for number in range(low, high + 1)}


def test_sets_of_numbers_that_share_bits() -> None:
    assert len(cover_set([(n, n) for n in range(1, 256, 2)], 8)) == 1
    assert len(cover_set([(1, 2), (5, 6)], 8)) == 2
    assert len(cover_set([(1, 7), (9, 14)], 4)) == 4


def test_classbench_sets_are_read(tmp_path: Path) -> None:
    lines = (
        "@10.0.0.0/8\t10.1.2.3/32\t0 : 65535\t80 : 81\t0x06/0xFF\t0x0200/0x1200\t",
        "@0.0.0.0/0\t10.1.2.0/24\t0 : 65535\t0 : 65535\t0x01/0xFF\t0x0800/0xff00\t",
        "@0.0.0.0/0\t0.0.0.0/0\t53 : 53\t0 : 65535\t0x00/0x00\t0x0000/0x0000\t",
    )
    (tmp_path / "set").write_text("\n".join(lines) + "\n")
    assert list(classbench.read(tmp_path / "set", lambda number: number)) == [
        rule(4, "10.0.0.0/8", "10.1.2.3/32", 0, protocol=6, destination_ports=(80, 81), flags=(2, 0x12)),
        rule(4, "0.0.0.0/0", "10.1.2.0/24", 1, protocol=1, icmp_type=8),
        *(rule(4, "0.0.0.0/0", "0.0.0.0/0", 2, protocol=each, source_ports=(53, 53)) for each in (6, 17, 132)),
    ]
    for wrong in ("10.0.0.0/8 10.0.0.0/8", lines[0].replace("0xFF", "0xF0"), lines[0].replace("/32", "/33")):
        (tmp_path / "wrong").write_text(f"{lines[0]}\n{wrong}\n")
        with pytest.raises(ValueError, match="wrong, line 2: "):
            list(classbench.read(tmp_path / "wrong", lambda number: number))


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=20))
def test_collapsing_prefixes(drawn: list[tuple[int, int]]) -> None:
    networks = [ip_network((0x0A000000 + number, length), strict=False) for number, length in drawn]
    spans = [(int(each[0]), int(each[-1])) for each in networks]
    expected = [(int(each[0]), int(each[-1])) for each in collapse_addresses(networks)]
    assert collapse(spans) == expected


def test_patterns_that_overlap_lose_none_of_each_other() -> None:
    """Two that make a third which is there already stand for what that one stands for, and the other way round."""
    rng = random.Random(7)
    for _ in range(3000):
        patterns = [tuple((rng.randrange(16), rng.randrange(16)) for _ in range(2)) for _ in range(rng.randrange(1, 9))]
        patterns = [tuple((value & mask, mask) for value, mask in pattern) for pattern in patterns]

        def met(some, a: int, b: int) -> bool:
            return any(a & m == v and b & n == w for (v, m), (w, n) in some)

        for most in (MOST, 3):
            found = fewer(patterns, (0, 1), most)
            assert len(found) <= len(set(patterns))
            assert all(met(found, a, b) == met(patterns, a, b) for a in range(16) for b in range(16))
