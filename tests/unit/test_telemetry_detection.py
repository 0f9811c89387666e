"""What is odd, and what is not: sketches against exact counts, detectors against traffic that is known."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novanet_apps.telemetry.detection.cusum import Cusum
from novanet_apps.telemetry.detection.entropy import spread
from novanet_apps.telemetry.detection.ewma import Ewma
from novanet_apps.telemetry.detection.features import features
from novanet_apps.telemetry.detection.forest import Outliers
from novanet_apps.telemetry.detection.hashing import mixed
from novanet_apps.telemetry.detection.sketches import CountMin, HeavyHitters, HyperLogLog, Recent
from novanet_apps.telemetry.detection.window import Answers
from novanet_apps.telemetry.recorder.enrichment import Index
from novanet_apps.telemetry.recorder.intake import Batch
from novanet_apps.telemetry.recorder.watch import Event, Watch

from .telemetry_world import CLIENT, DB, EXPORTERS, WEB, directory, endpoint, rows

HERE = np.zeros(1, np.int64)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_ewma_learns_a_level_and_its_noise() -> None:
    noise, ewma = np.random.default_rng(1), Ewma()
    ewma.grow(1)
    for _ in range(2000):
        ewma.update(np.array([noise.normal(50, 5)]), HERE)
    assert abs(ewma.mean[0] - 50) < 3 and 3 < ewma.variance[0] ** 0.5 < 7
    assert ewma.deviation(np.array([100.0]), HERE, 0.1)[0] > 6


def test_cusum_sums_a_little_too_much_and_forgets() -> None:
    cusum = Cusum(slack=1.0, threshold=5.0)
    cusum.grow(1)
    exceeded = [bool(cusum.update(np.array([2.0]), np.zeros(1), HERE)[0]) for _ in range(8)]
    assert exceeded == [False] * 5 + [True] * 3  # one more than the slack, each time
    for _ in range(20):
        last = cusum.update(np.zeros(1), np.zeros(1), HERE)[0]
    assert not last and cusum.sums[0] == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 50)), min_size=1, max_size=60))
def test_entropy_is_shannons(found: list[tuple[int, int, int]]) -> None:
    groups, keys, weights = (np.array(column, np.float64) for column in zip(*found, strict=True))
    distinct, entropy, heaviest = spread(groups.astype(np.int64), keys.astype(np.uint64), weights, 4)
    for group in range(4):
        counts: Counter[int] = Counter()
        for g, key, weight in found:
            counts[key] += weight if g == group else 0
        kept = np.array([count for count in counts.values() if count], np.float64)
        assert distinct[group] == len(kept)
        if len(kept) > 1:
            shares = kept / kept.sum()
            assert entropy[group] == pytest.approx(-(shares * np.log2(shares)).sum() / np.log2(len(kept)), abs=1e-6)
            assert heaviest[group] == pytest.approx(shares.max())


@given(st.lists(st.integers(0, 500), min_size=1, max_size=400))
@settings(max_examples=30)
def test_a_count_min_sketch_is_never_too_low(keys: list[int]) -> None:
    sketch, counts = CountMin(width=512), Counter(keys)
    sketch.add(np.array(keys, np.uint64), np.ones(len(keys)))
    asked = np.array(sorted(counts), np.uint64)
    exact = np.array([counts[int(key)] for key in asked])
    estimate = sketch.estimate(asked)
    assert (estimate >= exact).all() and (estimate - exact <= 2.72 / 512 * len(keys) + 2).mean() > 0.95


def test_heavy_hitters_are_found_among_forged_addresses() -> None:
    chance, heavy = np.random.default_rng(2), HeavyHitters(size=16)
    for _ in range(20):
        noise = chance.integers(0, 2**63, 5000).astype(np.uint64)
        keys = np.concatenate((noise, np.full(600, 7, np.uint64), np.full(400, 8, np.uint64)))
        heavy.add(keys, np.ones(len(keys)), keys.tolist())
    assert [name for name, _ in heavy.top(2)] == [7, 8]
    assert heavy.top(1)[0][1] >= 12000 and len(heavy._kept) <= 32


@pytest.mark.parametrize("count", [0, 1, 50, 1000, 30000])
def test_hyperloglog_counts_what_differs(count: int) -> None:
    sketch = HyperLogLog()
    keys = mixed(np.arange(count, dtype=np.uint64).reshape(-1, 1), 1)
    sketch.add(np.concatenate((keys, keys)))
    assert sketch.count() == pytest.approx(count, rel=0.12, abs=1)


def test_addresses_of_one_subnet_are_counted_as_well() -> None:
    """They differ in eight bits, the highest of a word; with every key of the hash."""
    columns = np.zeros((250, 2), np.uint64)
    columns[:, 1] = np.arange(250, dtype=np.uint64) << np.uint64(56)
    counts = []
    for seed in range(100):
        sketch = HyperLogLog(8)
        sketch.add(mixed(columns, seed << 57 | seed * 0x5851F42D4C957F2D % 2**57))
        counts.append(sketch.count())
    assert np.mean(counts) == pytest.approx(250, rel=0.03) and np.std(counts) < 20


def test_recent_forgets_after_two_turns() -> None:
    recent = Recent(1 << 16)
    keys = mixed(np.arange(100, dtype=np.uint64).reshape(-1, 1))
    recent.add(keys)
    assert recent.has(keys).all()
    recent.turn()
    assert recent.has(keys).all() and recent.has(keys + np.uint64(1)).mean() < 0.05
    recent.turn()
    assert not recent.has(keys).any()


# --- what is answered ------------------------------------------------------------------------------------------------


def reverse(found: Any) -> Any:
    """The other direction."""
    back = found.copy()
    for one, other in (("src", "dst"), ("sport", "dport"), ("src_mac", "dst_mac")):
        back[one], back[other] = found[other], found[one]
    return back


def unanswered(*parts: Any) -> float:
    """Packets without an answer of the first part."""
    found = np.concatenate(parts)
    ends = np.zeros(len(found), np.int64)
    return float(Answers().window(found, ends, ends).unanswered[: len(parts[0])].sum())


def test_both_directions_are_an_answer() -> None:
    asked = rows(4, sport=[1, 2, 3, 4])
    assert unanswered(asked) == 8 and unanswered(asked, reverse(asked)) == 0
    ping = rows(protocol=1, sport=0, dport=0x800)
    assert unanswered(ping, rows(src=DB, dst=WEB, protocol=1, sport=0, dport=0)) == 0


@pytest.mark.parametrize(("flags", "answer"), [(0x12, False), (0x14, False), (0x04, False), (0x10, True), (0x1B, True)])
def test_a_refusal_or_a_mere_greeting_is_no_answer(flags: int, answer: bool) -> None:
    syn = rows(tcp_flags=2, packets=1, samples=1)
    back = reverse(syn)
    back["tcp_flags"] = flags
    assert (unanswered(syn, back) == 0) is answer


def test_few_samples_prove_nothing() -> None:
    """One packet of ten thousand was sampled: that is no rate of ten thousand."""
    ends = np.zeros(1, np.int64)
    window = Answers().window(rows(protocol=17, packets=10000, samples=1, rate=10000), ends, ends)
    found = features(window, np.ones(1, np.uint64))
    assert found.unanswered[0] == 10000 and found.certain[0] == 0


# --- events ----------------------------------------------------------------------------------------------------------


class Seconds:
    """A watch, and an index to enrich by."""

    def __init__(self, **options: Any) -> None:
        self.watch, self.index = Watch(**options), Index(directory())
        self.active = {0, 1}

    def __call__(self, *parts: Any) -> list[Event]:
        """What a second with these rows makes."""
        found = np.concatenate(parts) if parts else rows(0)
        enriched = self.index.enrich(found, EXPORTERS, self.active)
        self.watch.take(Batch(found, enriched, self.index, EXPORTERS))
        return self.watch.look(self.index)


def forged(count: int, chance: Any, **fields: Any) -> Any:
    """To db from random addresses outside."""
    found = rows(count, src=CLIENT, src_mac=99, exporter=1, packets=1, samples=1, bytes=60, **fields)
    found["src"][:, 12:] = chance.integers(1, 255, (count, 4))
    found["sport"] = chance.integers(1024, 65535, count)
    return found


def usual(chance: Any, count: int = 40) -> list[Any]:
    """Answered requests from web to db."""
    asked = rows(count, sport=chance.integers(30000, 60000, count))
    answers = reverse(asked)
    answers["exporter"] = 1
    return [asked, answers]


def test_a_steady_download_never_fires() -> None:
    """An hour at a gigabit, from the first second on, sampled 1 in 1,000, with the noise of that; the benchmark has all 20."""
    chance, seconds = np.random.default_rng(3), Seconds()
    data = rows(src=CLIENT, src_mac=99, exporter=1, sport=443, dport=50000, bytes=0, rate=1000, tcp_flags=0x18)
    acknowledgements = reverse(data)
    acknowledgements["tcp_flags"] = 0x10
    samples = chance.poisson(83, 3600), chance.poisson(40, 3600)
    for down, up in zip(*(column.tolist() for column in samples), strict=True):
        data["samples"], data["packets"], data["bytes"] = down, 1000 * down, 1_500_000 * down
        acknowledgements["samples"], acknowledgements["packets"], acknowledgements["bytes"] = up, 1000 * up, 52_000 * up
        assert seconds(data, acknowledgements) == []


def test_a_syn_flood_fires_in_its_first_second_and_once() -> None:
    chance, seconds = np.random.default_rng(4), Seconds()
    for _ in range(60):
        assert seconds(*usual(chance)) == []
    (event,) = seconds(*usual(chance), forged(4000, chance, protocol=6, tcp_flags=2, dport=80))
    assert (event.kind, event.subject_kind, event.subject, event.project) == ("flood", "port", "db", "umbra")
    assert event.text.startswith(
        "SYN flood towards port db: 4,000 packets a second that it does not answer, usual are 0;"
    )
    assert event.detail["sources"] > 3900 and event.score >= 4
    for _ in range(20):
        assert seconds(*usual(chance), forged(4000, chance, protocol=6, tcp_flags=2, dport=80)) == []


def test_a_flood_after_a_calm_fires_again() -> None:
    chance, seconds = np.random.default_rng(5), Seconds()
    flood = forged(4000, chance, protocol=17, dport=53)
    assert len(seconds(flood)) == 1
    for _ in range(40):
        assert seconds(*usual(chance)) == []
    assert [event.kind for event in seconds(flood)] == ["flood"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"protocol": 17, "dport": 9}, "UDP flood towards port db"),
        ({"protocol": 17, "dport": 9, "amplifier": 123}, "UDP amplification towards port db"),
        ({"protocol": 1, "dport": 0}, "flood towards port db"),
    ],
)
def test_floods_are_named_after_what_they_are_made_of(fields: dict[str, Any], words: str) -> None:
    chance, seconds = np.random.default_rng(6), Seconds()
    wanted = dict(fields)
    amplifier = wanted.pop("amplifier", None)
    flood = forged(3000, chance, **wanted)
    if amplifier:
        flood["sport"] = amplifier
    (event,) = seconds(flood)
    assert event.text.startswith(words)


def test_the_source_is_named_where_there_is_one() -> None:
    seconds = Seconds()
    flood = rows(src=CLIENT, src_mac=99, exporter=1, protocol=17, dport=9, packets=20000, samples=20000)
    (event,) = seconds(flood)
    assert event.text.endswith("from one source, 100% of them UDP; most from 203.0.113.9")


def test_a_vm_that_floods_others_is_told() -> None:
    flood = rows(dst=CLIENT, dst_mac=99, protocol=17, packets=30000, samples=30000)
    (event,) = Seconds()(flood)
    assert (event.kind, event.subject, event.project) == ("outgoing-flood", "web", "acme")


@pytest.mark.parametrize(
    ("hosts", "ports"), [(1, 300), (250, 1)], ids=["many ports of a host", "one port of many hosts"]
)
def test_a_scan_is_told_with_what_was_tried(hosts: int, ports: int) -> None:
    count = hosts * ports
    probe = rows(count, packets=1, samples=1, tcp_flags=2, dport=np.arange(count) % ports + 1, dst_mac=0)
    probe["dst"][:, 15] = np.arange(count) // ports + 1
    (event,) = Seconds()(probe)
    assert (
        event.kind == "scan"
        and event.subject == "web"
        and event.text.startswith("scan by port web (192.168.0.1): about ")
    )
    assert event.detail["hosts"] == pytest.approx(hosts, rel=0.2) and event.detail["ports"] == pytest.approx(
        ports, rel=0.2
    )


def test_a_slow_scan_is_told_within_a_minute() -> None:
    seconds, told = Seconds(), []
    for second in range(30):
        probe = rows(10, packets=1, samples=1, tcp_flags=2, dport=second * 10 + np.arange(10) + 1)
        told += seconds(probe)
    assert [event.kind for event in told] == ["scan"]


def test_a_resolver_that_asks_many_is_no_scan() -> None:
    seconds = Seconds()
    asked = rows(400, protocol=17, dport=53, packets=1, samples=1, dst_mac=0, sport=np.arange(400) + 2000)
    asked["dst"][:, 14:] = np.random.default_rng(8).integers(0, 255, (400, 2))
    assert seconds(asked, reverse(asked)) == []


def test_a_surge_of_answered_requests_from_many_is_told() -> None:
    chance, seconds = np.random.default_rng(9), Seconds()

    def requests(count: int) -> list[Any]:
        asked = forged(count, chance, protocol=6, tcp_flags=0x1B, dport=443)
        return [asked, reverse(asked)]

    for _ in range(60):
        assert seconds(*requests(40)) == []
    told = [event for _ in range(3) for event in seconds(*requests(2000))]
    assert [event.kind for event in told] == ["surge"] and "tcp/443 of port db" in told[0].text
    assert told[0].subject == "db/tcp/443"


def test_a_little_for_each_of_many_is_a_flood_of_the_network() -> None:
    known = directory()
    known.take({"endpoints": [endpoint(f"p{n}", f"192.168.0.{n}", mac=100 + n) for n in range(10, 40)]})
    seconds = Seconds()
    seconds.index = Index(known)
    chance = random.Random(10)
    flood = rows(6000, src=CLIENT, src_mac=99, exporter=2, protocol=17, dport=9, packets=1, samples=1, dst_mac=110)
    flood["dst"][:, 15] = [chance.randint(10, 39) for _ in range(6000)]
    flood["dst_mac"] = flood["dst"][:, 15].astype(np.uint64) + 100
    (event,) = seconds(flood)
    assert (event.kind, event.subject_kind, event.subject) == ("flood", "network", "blue")


def test_the_forest_finds_what_it_has_not_seen() -> None:
    chance, forest = np.random.default_rng(11), Outliers(background=False)

    def second(strange: bool) -> list[Any]:
        parts, keys = [], []
        for subject in range(1, 11):
            count = 30 + int(chance.integers(0, 10))
            asked = rows(count, sport=chance.integers(30000, 60000, count), samples=5)
            odd = strange and subject == 4
            parts += [forged(200, chance, protocol=17, dport=9)] if odd else [asked, reverse(asked)]
            keys += [subject] * 200 if odd else [subject] * count + [0] * count
        found, ends = np.concatenate(parts), np.zeros(len(keys), np.int64)
        return forest.look(features(Answers().window(found, ends, ends), np.array(keys, np.uint64)))

    for _ in range(250):
        assert second(False) == []
    told = [finding for _ in range(4) for finding in second(True)]
    assert [(finding.kind, finding.subject) for finding in told] == [("outlier", 4)]
    assert told[0].score > 1 and "sources" in told[0].numbers["unusual"]
