"""The ledger against a naive model: whatever owners want, in whatever order, is what the switch ends up with."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import Bucket, Flow, Group, Meter, Rule, group, match, output, set_field
from pipelines.ledger import Ledger, Owner
from pipelines.tables import PIPELINE
from tests.unit.naive_switch import NaiveSwitch

A, B, C = ("port", "a"), ("port", "b"), ("network", "c")
versions = pytest.mark.parametrize("version", wire.VERSIONS)


def flow(n: int, goto: int = 5) -> Flow:
    return Flow(3, 7, match(f.NETWORK(n)), (set_field(f.OUT_PORT_KEY, n),), goto=goto)


def send(switch: NaiveSwitch, delta: wire.Delta, size: int = 100) -> list[wire.Batch]:
    sent = list(wire.batches(delta, switch.version, count(1), size))
    for batch in sent:
        switch.receive(batch.data)
    return sent


def flows(version: int, rules: Iterable[Rule], cookie: int) -> dict[bytes, bytes]:
    return dict(wire.encode_flow(rule, version, cookie) for rule in rules if isinstance(rule, Flow))


# --- one owner, several owners -----------------------------------------------------------------------------------


@versions
def test_put_adds_changes_and_takes_away(version: int) -> None:
    ledger, switch = Ledger(version), NaiveSwitch(version)
    send(switch, ledger.put(A, [flow(1), flow(2)], 9))
    assert switch.flows == flows(version, [flow(1), flow(2)], 9)
    delta = ledger.put(A, [flow(2, goto=6), flow(3)], 9)
    assert len(delta) == 3
    send(switch, delta)
    assert switch.flows == flows(version, [flow(2, goto=6), flow(3)], 9)
    assert len(ledger.put(A, [flow(3), flow(2, goto=6)], 9)) == 0
    send(switch, ledger.put(A, [], 9))
    assert switch.flows == {} and (ledger.flows, ledger.owners) == (0, 0)


def test_what_two_want_goes_with_the_last_and_keeps_the_first_cookie() -> None:
    ledger = Ledger(4)
    key, body = wire.encode_flow(flow(1), 4, 0xA)
    assert ledger.put(A, [flow(1)], 0xA).flows == {key: body}
    assert len(ledger.put(B, [flow(1)], 0xB)) == 0
    assert len(ledger.put(C, [flow(1)], 0xC)) == 0
    assert (ledger.flows, ledger.owners, ledger.owners_of(key)) == (1, 3, [A, B, C])
    assert len(ledger.put(A, [], 0xA)) == 0
    assert ledger.flow(key) == body
    assert len(ledger.put(B, [], 0xB)) == 0
    assert ledger.put(C, [], 0xC).flows == {key: None}


def test_a_contradiction_names_both_flows_and_changes_nothing() -> None:
    ledger = Ledger(4)
    ledger.put(A, [flow(1), flow(2)], 1)
    before = ledger.digest()
    with pytest.raises(ValueError) as refused:
        ledger.put(B, [flow(3), flow(1, goto=6)], 2)
    assert "port/a" in str(refused.value)
    for table in PIPELINE[5:7]:
        assert f"goto:{table.number}({table.name})" in str(refused.value)
    assert (ledger.digest(), ledger.owners, ledger.flows) == (before, 1, 2)
    with pytest.raises(ValueError, match="wants one flow to do two things"):
        ledger.put(B, [flow(3), flow(3, goto=6)], 2)
    with pytest.raises(ValueError, match="contradicts group=0x7"):
        ledger.put(A, [Group(7, "all", ())], 1)
        ledger.put(B, [flow(4), Group(7, "indirect", (Bucket((output(1),)),))], 2)
    with pytest.raises(ValueError, match="contradicts meter=7, band type=1, rate=6 kbit/s"):
        ledger.put(C, [Meter(7, 5, 5)], 1)
        ledger.put(B, [flow(4), Meter(7, 6, 5)], 2)
    assert ledger.owners_of(wire.encode_flow(flow(4), 4, 2)[0]) == []


def test_owners_that_share_a_flow_change_it_together() -> None:
    ledger = Ledger(5)
    ledger.put_all({A: ([flow(1)], 1), B: ([flow(1)], 2)})
    with pytest.raises(ValueError):
        ledger.put(A, [flow(1, goto=9)], 1)
    delta = ledger.put_all({A: ([flow(1, goto=9)], 1), B: ([flow(1, goto=9)], 2)})
    assert delta.flows == flows(5, [flow(1, goto=9)], 1)
    with pytest.raises(ValueError):
        ledger.put_all({A: ([flow(1, goto=10)], 1), B: ([flow(1, goto=11)], 2)})
    assert len(ledger.put_all({B: ([flow(1, goto=9)], 2), A: ([flow(1, goto=9)], 1)})) == 0
    assert len(ledger.put(A, [], 1)) == 0
    assert len(ledger.put(B, [], 1)) == 1


@pytest.mark.parametrize(
    "rule",
    [
        Flow(256, 1, b""), Flow(1, 65536, b""), Flow(1, 1, b"", idle_timeout=65536), Flow(1, 1, b"", goto=255),
        Flow(1, 1, b"", metadata=1 << 64), Flow(1, 1, b"", meter=1 << 32), Flow(1, 1, b"", tuple([output(1)] * 5000)),
        Group(1, "some", ()), Group(1, "all", (Bucket((output(1),)),) * 3000), Meter(1, -1, 5),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_encoded_is_refused(rule: Rule) -> None:
    ledger = Ledger(4)
    with pytest.raises(ValueError):
        ledger.put(A, [flow(1), rule], 1)
    assert (ledger.flows, ledger.owners) == (0, 0)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="0x01"):
        Ledger(1)


# --- order, bundles and composition ------------------------------------------------------------------------------


@versions
def test_the_order_lets_each_change_find_what_it_needs(version: int) -> None:
    ledger, switch = Ledger(version), NaiveSwitch(version)
    rules: list[Rule] = [
        Flow(1, 1, b"", (group(7),), meter=3), Group(7, "all", (Bucket((output(1),)),)), Meter(3, 100, 100),
    ]  # fmt: skip
    sent = send(switch, ledger.put(A, rules, 1), size=1)
    assert [batch.bundle is None for batch in sent] == [True, False, False]
    assert [[subject.kind for subject in batch.subjects.values()] for batch in sent] == [["meter"], ["group"], ["flow"]]
    assert (len(switch.flows), len(switch.groups), len(switch.meters)) == (1, 1, 1)
    send(switch, ledger.put(A, [*rules[:1], Group(7, "all", ()), Meter(3, 200, 100)], 1), size=1)
    assert switch.outputs(7) == 0 and switch.meters[3] == wire.encode_meter(Meter(3, 200, 100))
    sent = send(switch, ledger.put(A, [], 1), size=1)
    assert [[subject.kind for subject in batch.subjects.values()] for batch in sent] == [["flow"], ["group"], ["meter"]]
    assert not (switch.flows or switch.groups or switch.meters)


@versions
def test_large_deltas_are_cut_and_every_message_can_be_traced(version: int) -> None:
    ledger, switch = Ledger(version), NaiveSwitch(version)
    xids = count(1000)
    steps = wire.batches(ledger.put(A, [flow(n) for n in range(25)], 1), version, xids, 10)
    first = next(steps)
    assert next(xids) == 1012, "nothing is encoded before it is asked for"
    batches = [first, *steps]
    for batch in batches:
        switch.receive(batch.data)
        messages = wire.Framer().feed(batch.data)
        assert {message.xid for message in messages} == {batch.bundle, batch.last, *batch.subjects}
        assert messages[-1].xid == batch.last
    assert switch.bundles == [10, 10, 5]
    told = [subject.id for batch in batches for subject in batch.subjects.values()]
    assert told == list(switch.flows) == list(flows(version, [flow(n) for n in range(25)], 1))


def test_changes_not_yet_sent_become_one() -> None:
    ledger, switch = Ledger(6), NaiveSwitch(6)
    send(switch, ledger.put(A, [flow(1), Meter(1, 5, 5), Group(1, "all", ())], 1))
    delta = ledger.put(A, [flow(1, goto=6), flow(2), Meter(1, 6, 5), Meter(2, 1, 1), Group(2, "all", ())], 1)
    delta.then(ledger.put(A, [flow(3), Meter(2, 2, 2)], 1))
    delta.then(ledger.put(A, [flow(1, goto=9), flow(3), Meter(1, 7, 5), Meter(3, 1, 1)], 1))
    meters, bundle = send(switch, delta)
    assert switch.flows == flows(6, [flow(1, goto=9), flow(3)], 1)
    assert switch.meters == {1: wire.encode_meter(Meter(1, 7, 5)), 3: wire.encode_meter(Meter(3, 1, 1))}
    assert switch.groups == {}
    assert (len(meters.subjects), len(bundle.subjects)) == (2, 5)


def test_change_and_revert_gives_the_same_digest() -> None:
    ledger = Ledger(4)
    rules: list[Rule] = [flow(1), flow(2), Group(1, "all", ()), Meter(1, 5, 5)]
    ledger.put(A, rules, 1)
    ledger.put(B, [flow(2), flow(3)], 2)
    before = ledger.digest()
    seen = {before}
    for change in (
        [flow(1)],
        [*rules, flow(4)],
        [*rules[:2], Group(1, "select", ()), Meter(1, 5, 5)],
        [*rules[:3], Meter(1, 6, 5)],
    ):
        ledger.put(A, change, 1)
        assert ledger.digest() not in seen
        seen.add(ledger.digest())
        ledger.put(A, rules, 3)
        assert ledger.digest() == before
    other = Ledger(4)
    other.put(B, [flow(3), flow(2)], 7)
    other.put(A, list(reversed(rules)), 8)
    assert other.digest() == before


# --- steps -------------------------------------------------------------------------------------------------------


@versions
def test_steps_end_where_put_does(version: int) -> None:
    ledger, switch, whole = Ledger(version), NaiveSwitch(version), Ledger(version)
    before: list[Rule] = [flow(n) for n in range(20)] + [Group(1, "all", ()), Meter(1, 1, 1)]
    after: list[Rule] = [flow(n, goto=6) for n in range(10, 45)] + [Group(2, "all", ()), Meter(2, 1, 1)]
    send(switch, ledger.put(A, before, 1))
    ledger.put(B, [flow(3)], 2)
    steps = []
    for delta in ledger.put_steps(A, after, 1, size=10):
        steps.append((len(delta.flows), len(delta.groups), len(delta.meters)))
        send(switch, delta)
        ledger.put(C, [flow(1000 + len(steps))], 3)
    assert steps == [(0, 1, 1), (10, 0, 0), (10, 0, 0), (10, 0, 0), (5, 0, 0), (9, 0, 0), (0, 1, 1)]
    assert switch.flows == flows(version, [*after, flow(3)], 1)
    ledger.put(C, [], 3)
    whole.put(A, after, 1)
    whole.put(B, [flow(3)], 2)
    assert (ledger.digest(), ledger.owners) == (whole.digest(), 2)


def test_steps_not_taken_leave_the_old_and_what_was_got_so_far() -> None:
    ledger = Ledger(4)
    ledger.put(A, [flow(1), flow(2)], 1)
    steps = ledger.put_steps(A, [flow(n) for n in range(2, 40)], 1, size=10)
    next(steps)
    assert len(next(steps).flows) == 9
    with pytest.raises(RuntimeError):
        ledger.put(A, [], 1)
    steps.close()
    assert ledger.flows == 11
    ledger.put(B, [flow(50)], 2)
    with pytest.raises(ValueError):
        list(ledger.put_steps(A, [*(flow(n) for n in range(60, 75)), flow(50, goto=6)], 1, size=10))
    assert ledger.flows == 22
    with pytest.raises(ValueError, match=r"goto:5.*goto:6"):
        list(ledger.put_steps(C, [*(flow(n) for n in range(80, 95)), flow(80, goto=6)], 1, size=10))
    assert len(ledger.put(C, [], 1)) == 10
    assert len(ledger.put(A, [flow(1)], 1)) == 20
    assert (ledger.flows, ledger.owners) == (2, 2)


def test_what_was_taken_away_can_be_put_back() -> None:
    """Encoded as it was, with its groups and meters, and what it shares with others."""
    ledger = Ledger(5)
    everything = [*(flow(n) for n in range(5)), Group(7, "all", (Bucket((output(1),)),)), Meter(3, 1000, 100)]
    ledger.put(B, [flow(4)], 2)
    ledger.put(A, everything, 1)
    before, wanted = ledger.digest(), ledger.wanted(A)
    assert len(wanted) == 7
    ledger.put(A, [], 1)
    assert (ledger.flows, ledger.groups, ledger.meters) == (1, 0, 0)
    assert len(ledger.put(A, wanted, 1)) == 6
    assert ledger.digest() == before
    assert len(ledger.wanted(("port", "nobody"))) == 0


# --- what the bridge has -----------------------------------------------------------------------------------------


@versions
def test_differences_come_in_steps_and_foreign_flows_go_last(version: int) -> None:
    ledger = Ledger(version)
    ledger.put(A, [flow(n) for n in range(30)], 1)
    actual = flows(version, [*(flow(n) for n in range(20)), *(flow(n) for n in range(100, 115))], 1)
    steps = [delta.flows for delta in ledger.differences(actual.items(), {}, {}, size=10) if delta]
    assert [len(step) for step in steps] == [10, 10, 5]
    assert [all(body is not None for body in step.values()) for step in steps] == [True, False, False]


def test_a_bridge_that_has_everything_is_compared_in_steps_too() -> None:
    """So that whoever takes them can let others run: nothing to change is no reason to look at it all at once."""
    ledger = Ledger(5)
    ledger.put(A, [flow(n) for n in range(1000)], 1)
    steps = list(ledger.differences(flows(5, (flow(n) for n in range(1000)), 1).items(), {}, {}, size=10))
    assert sum(map(len, steps)) == 0
    assert len(steps) >= 100 + 100


def test_a_shared_flow_may_have_any_owners_cookie() -> None:
    ledger = Ledger(4)
    ledger.put(A, [flow(1), flow(2)], 1)
    ledger.put(B, [flow(1)], 2)
    assert len(ledger.difference(flows(4, [flow(1)], 2).items(), {}, {})) == 1
    assert set(ledger.difference(flows(4, [flow(1), flow(2)], 2).items(), {}, {}).flows) == set(flows(4, [flow(2)], 1))


def test_changes_while_the_bridge_is_read_are_kept() -> None:
    ledger, switch = Ledger(4), NaiveSwitch(4)
    send(switch, ledger.put(A, [flow(n) for n in range(40)], 1))
    pending = wire.Delta()
    for number, delta in enumerate(ledger.differences(list(switch.flows.items()), {}, {}, size=10)):
        pending.then(delta)
        pending.then(ledger.put(B, [flow(n) for n in range(100 + number, 130)], 2))
        pending.then(ledger.put(A, [flow(n) for n in range(number, 40)], 1))
    send(switch, pending)
    assert switch.flows.keys() == {
        *flows(4, (flow(n) for n in range(number, 40)), 1),
        *flows(4, (flow(n) for n in range(100 + number, 130)), 2),
    }


def test_a_flow_takes_few_bytes_even_when_it_is_put_again() -> None:
    number = 20_000
    tracemalloc.start()
    try:
        ledger = Ledger(4)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(3):
            rules = [
                Flow(
                    3,
                    7,
                    match(f.NETWORK(7), f.ETH_TYPE(f.IPV4), f.IPV4_DST(n)),
                    (set_field(f.OUT_PORT_KEY, n),),
                    goto=5,
                )
                for n in range(number)
            ]
            for _ in ledger.put_steps(A, rules, 1):
                pass
        del rules
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ledger.flows == number
    assert (after - before) / number < 250


# --- against a model ---------------------------------------------------------------------------------------------

KEYS = 6
COOKIES = {A: 1, B: 2, C: 3}


@st.composite
def wants(draw: st.DrawFn) -> list[Rule]:
    """Rules of an owner: flows, and the groups and meters that they use. A key's rules differ by its variant."""
    rules: dict[tuple[str, int], Rule] = {}
    for key in draw(st.lists(st.integers(0, KEYS - 1), max_size=KEYS, unique=True)):
        variant = draw(st.sampled_from([0, 0, 0, 1]))
        used, meter = draw(st.sampled_from([None, 1, 2])) if variant else None, 1 if key % 3 == 2 else None
        if used is not None:
            rules["group", used] = Group(used, "all", (Bucket((output(1),)),) * draw(st.sampled_from([1, 1, 2])))
        if meter is not None:
            rules["meter", meter] = Meter(meter, draw(st.sampled_from([100, 100, 200])), 10)
        actions = (output(variant),) if used is None else (group(used),)
        rules["flow", key] = Flow(key % 2, 5, match(f.NETWORK(key)), actions, meter=meter)
    return list(rules.values())


operations = st.lists(
    st.one_of(
        st.dictionaries(st.sampled_from([A, B, C]), wants(), min_size=1, max_size=3),
        st.tuples(st.sampled_from([A, B, C]), wants(), st.integers(1, 3)),
        st.tuples(st.just("send"), st.integers(1, 7)),
    ),
    max_size=12,
)


class Model:
    """What owners want, as plain dictionaries."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.wanted: dict[Owner, list[Rule]] = {}

    def union(self, wanted: dict[Owner, list[Rule]]) -> dict[object, Rule] | None:
        """Everything wanted, by what it is; None when two want one thing to be two."""
        union: dict[object, Rule] = {}
        for rules in wanted.values():
            for rule in rules:
                identity = rule.match if isinstance(rule, Flow) else (type(rule), rule.id)
                if union.setdefault(identity, rule) != rule:
                    return None
        return union

    def fits(self, switch: NaiveSwitch) -> None:
        """The switch has exactly what is wanted (cookies aside)."""
        union = self.union(self.wanted)
        assert union is not None
        bodies = {key: body[8:] for key, body in flows(self.version, union.values(), 0).items()}
        assert {key: body[8:] for key, body in switch.flows.items()} == bodies
        assert switch.groups == {
            r.id: wire.encode_group(r, self.version) for r in union.values() if isinstance(r, Group)
        }
        assert switch.meters == {r.id: wire.encode_meter(r) for r in union.values() if isinstance(r, Meter)}


@versions
@settings(deadline=None, max_examples=200)
@given(operations=operations)
def test_whatever_owners_want_is_what_the_switch_gets(version: int, operations: list[object]) -> None:
    ledger, switch, model = Ledger(version), NaiveSwitch(version), Model(version)
    pending = wire.Delta()
    for operation in [*operations, ("send", 3)]:
        match operation:
            case ("send", size):
                send(switch, pending, size)
                pending = wire.Delta()
                model.fits(switch)
            case dict():
                wanted = model.wanted | operation
                if model.union(wanted) is None:
                    before = ledger.digest()
                    with pytest.raises(ValueError):
                        ledger.put_all({owner: (rules, COOKIES[owner]) for owner, rules in operation.items()})
                    assert ledger.digest() == before
                else:
                    model.wanted = wanted
                    pending.then(ledger.put_all({owner: (rules, COOKIES[owner]) for owner, rules in operation.items()}))
            case (owner, rules, size):
                # in between, the owner has the old and the new: both must be possible beside the others
                wanted = {**model.wanted, owner: rules}
                if model.union(wanted) is not None:
                    model.wanted = wanted
                    for step in ledger.put_steps(owner, rules, 1, size):
                        pending.then(step)
    fresh = Ledger(version)
    for owner, rules in model.wanted.items():
        fresh.put(owner, rules, 77)
    assert fresh.digest() == ledger.digest()
    assert (fresh.flows, fresh.groups, fresh.meters, fresh.owners) == (
        ledger.flows,
        ledger.groups,
        ledger.meters,
        ledger.owners,
    )
    assert len(ledger.difference(switch.flows.items(), switch.groups, switch.meters)) == 0


@versions
@settings(deadline=None)
@given(wanted=wants(), found=wants(), size=st.integers(1, 4))
def test_any_bridge_becomes_what_is_wanted(version: int, wanted: list[Rule], found: list[Rule], size: int) -> None:
    switch = NaiveSwitch(version)
    send(switch, Ledger(version).put(B, found, 1))
    ledger, model = Ledger(version), Model(version)
    ledger.put(A, wanted, 2)
    model.wanted[A] = wanted
    for delta in ledger.differences(list(switch.flows.items()), dict(switch.groups), dict(switch.meters), size):
        send(switch, delta, size)
    model.fits(switch)
