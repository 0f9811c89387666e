"""What is said of a port after its meters and its class were looked at, and what meters count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from novanet_apps.meter_counters import Limited, MeterCounters
from novanet_apps.qos_verification import VerificationError, Verifier
from pipelines.flow import Meter
from pipelines.qos import Use, meter_id
from pipelines.wire.groups import encode_meter
from pipelines.wire.multipart import MeterCount
from topology.changes import Edit
from topology.model import Answer, Vif
from topology.qos import Quality
from topology.qos_verdicts import Metered, of_class, of_interface, of_meter

from .test_qos import Limited as World

QUALITY = Quality(min_kbps=5000, priority=4, max_latency_ms=20)
GOOD = Answer(
    number=1, interface="eth0", rate_kbps=5000, ceil_kbps=100_000, order=3, queue_bytes=12_500, milliseconds=2000,
    bytes=1_500_000, packets=1000,
)  # fmt: skip


def metered(**fields: Any) -> Metered:
    usual: dict[str, Any] = {
        "rule": "bandwidth_limit", "direction": "egress", "unit": "kbit/s", "asked": (1000, 400), "in_force": (1000, 400),
        "seconds": 2.0, "passed_packets": 200, "passed_bytes": 250_000, "dropped_packets": 50,
    }  # fmt: skip
    return Metered(**(usual | fields))


@pytest.mark.parametrize(
    ("fields", "verdict", "words"),
    [
        ({}, "kept", "was dropped"),
        ({"dropped_packets": 0}, "idle", "nothing had to be dropped"),
        ({"in_force": None}, "broken", "no such meter"),
        ({"in_force": (999, 400)}, "broken", "rate 999"),
        ({"passed_bytes": 330_000}, "broken", "more than the rate"),
        ({"unit": "packets/s", "asked": (50, 20), "in_force": (50, 20), "passed_packets": 100}, "kept", ""),
        (
            {"unit": "packets/s", "asked": (50, 20), "in_force": (50, 20), "passed_packets": 126},
            "broken",
            "burst of 20",
        ),
    ],
)
def test_of_a_limit(fields: dict[str, Any], verdict: str, words: str) -> None:
    check = of_meter(metered(**fields))
    assert check.verdict == verdict and words in check.detail
    if not fields:
        assert (check.asked, check.in_force, check.measured) == (1000, 1000, 1000)


def with_(**fields: Any) -> Answer:
    from msgspec.structs import replace

    return replace(GOOD, **fields)


@pytest.mark.parametrize(
    ("answer", "granted", "verdicts"),
    [
        (GOOD, 5000, ["idle", "kept", "kept"]),
        (with_(dropped_packets=9), 5000, ["kept", "kept", "kept"]),
        (with_(dropped_packets=9, bytes=1_000_000), 5000, ["broken", "kept", "kept"]),
        (with_(backlog_bytes=9, bytes=1_000_000), 5000, ["broken", "kept", "kept"]),
        (with_(rate_kbps=4000), 5000, ["broken", "kept", "broken"]),
        (with_(rate_kbps=4000), 4000, ["broken", "kept", "broken"]),
        (with_(order=7), 5000, ["idle", "broken", "kept"]),
        (with_(queue_bytes=25_000), 5000, ["idle", "kept", "broken"]),
        (with_(packets=0, bytes=0), 5000, ["idle", "idle", "idle"]),
        (Answer(number=1, error="nobody there"), 5000, ["broken", "broken", "broken"]),
    ],
)
def test_of_a_class(answer: Answer, granted: int, verdicts: list[str]) -> None:
    checks = of_class(QUALITY, granted, answer)
    assert [check.rule for check in checks] == ["minimum_bandwidth", "priority", "max_latency"]
    assert [check.verdict for check in checks] == verdicts
    if answer.error:
        assert {check.detail for check in checks} == {"nobody there"} and {check.measured for check in checks} == {None}


@pytest.mark.parametrize(
    ("fields", "verdict", "words"),
    [
        ({"dropped_packets": 9}, "kept", "waited at eth0"),
        ({"backlog_bytes": 9}, "kept", "waited at eth0"),
        ({}, "idle", "at once"),
        ({"bytes": 1_600_000}, "broken", "more than the rate"),
        ({"ceil_kbps": 5000}, "broken", "5000 instead of 6000"),
        ({"error": "nobody there"}, "broken", "nobody there"),
    ],
)
def test_of_a_vms_interface(fields: dict[str, Any], verdict: str, words: str) -> None:
    check = of_interface(6000, with_(**({"ceil_kbps": 6000} | fields)))
    assert (check.rule, check.direction, check.asked, check.verdict) == ("bandwidth_limit", "ingress", 6000, verdict)
    assert words in check.detail and (check.measured is None) == (check.in_force is None) == ("error" in fields)


def test_latency_without_a_priority_is_served_as_voice() -> None:
    [check] = of_class(Quality(max_latency_ms=20), None, with_(order=2))
    assert check.verdict == "kept"
    [check] = of_class(Quality(max_latency_ms=20), None, with_(order=7))
    assert check.verdict == "broken" and "instead of 5" in check.detail


# --- with a switch -----------------------------------------------------------------------------------------------

EGRESS = meter_id(Use.EGRESS_RATE, 3)


class Switch:
    """A core whose hypervisor h1 has these meters; vm1 is its port 3."""

    def __init__(self) -> None:
        self.world = World()
        self.topology = self.world.topology
        self.world.apply(Edit("vif", "vm1", Vif(port_id="vm1", hypervisor_id="h1", interface="tap1", ofport=3)))
        rules = {"type": "bandwidth_limit", "max_kbps": 1000}, {"type": "packet_rate_limit", "max_pps": 50}
        self.world.put("port", "vm1", qos_policy_id=self.world.policy("slow", *rules))
        self.bodies = {
            EGRESS: encode_meter(Meter(EGRESS, 1000, 400)),
            EGRESS + (1 << 24): encode_meter(Meter(EGRESS + (1 << 24), 50, 20, packets=True)),
        }
        self.counts: list[list[MeterCount]] = []
        self.engine = SimpleNamespace(
            connected=lambda id: id == "h1",
            meters=lambda id: 2,
            meter_counters=lambda id, timeout: self.counts.pop(0) if self.counts else None,
            meter_bodies=lambda id, timeout: self.bodies,
        )


@pytest.fixture
def switch() -> Switch:
    return Switch()


def count(
    id: int, packets: int, size: int, dropped: int = 0, dropped_bytes: int = 0, duration: float = 10.0
) -> MeterCount:
    return MeterCount(id, packets, size, dropped, dropped_bytes, duration)


def test_meters_are_read_back_and_counted(switch: Switch) -> None:
    other = EGRESS + (1 << 24)
    switch.counts = [
        [count(EGRESS, 100, 100_000, 10, 10_000), count(other, 5, 500)],
        [count(EGRESS, 300, 400_000, 60, 60_000, 12.0), count(other, 55, 5500, duration=12.0)],
    ]
    found = Verifier(switch).verify("vm1", 0.01)  # type: ignore[arg-type]
    assert found.hypervisor.id == "h1"
    rate, packets = found.checks
    assert (rate.passed_packets, rate.passed_bytes, rate.dropped_packets) == (150, 250_000, 50)
    assert (rate.measured, rate.verdict) == (1000, "kept")
    assert (packets.rule, packets.measured, packets.verdict) == ("packet_rate_limit", 25, "idle")


def test_a_meter_that_is_another_or_missing_is_told(switch: Switch) -> None:
    switch.bodies = {EGRESS: encode_meter(Meter(EGRESS, 2000, 400))}
    switch.counts = [[], [count(EGRESS, 1, 1)]]
    rate, packets = Verifier(switch).verify("vm1", 0.01).checks  # type: ignore[arg-type]
    assert "rate 2000" in rate.detail and "no such meter" in packets.detail


def test_what_cannot_be_verified_says_why(switch: Switch) -> None:
    verifier = Verifier(switch)  # type: ignore[arg-type]
    for port, words in (("vm2", "qos_policy_id"), ("nobody", "VMs' ports"), ("r-ext", "VMs' ports")):
        with pytest.raises(VerificationError, match=words):
            verifier.verify(port, 0.01)
    with pytest.raises(VerificationError, match="h1 does not answer"):
        verifier.verify("vm1", 0.01)


def test_meters_count_for_whom_they_limit(switch: Switch) -> None:
    counters = MeterCounters(switch)  # type: ignore[arg-type]
    floating = meter_id(Use.FLOATING + 2, switch.topology.get("floating-ip", "f1").number)
    strange = meter_id(Use.EGRESS_RATE, 99)
    switch.counts = [
        [count(EGRESS, 100, 100_000, 10, 10_000), count(floating, 7, 700), count(strange, 1, 1), count(7, 9, 9)]
    ]
    counters.refresh()
    vm, out = (
        Limited("port", "vm1", "egress", "bandwidth_limit"),
        Limited("floating-ip", "f1", "ingress", "bandwidth_limit"),
    )
    assert {limited: seen.passed.packets for limited, seen in counters.seen.items()} == {vm: 90, out: 7}
    counters._again = 0.0
    switch.counts = [[count(EGRESS, 130, 130_000, 20, 20_000, 12.0)]]
    counters.refresh()
    counters._again = 0.0
    switch.counts = [[count(EGRESS, 4, 4000, 1, 1000, 0.5)]]  # the switch began anew
    counters.refresh()
    assert (counters.seen[vm].passed.packets, counters.seen[vm].dropped.bytes) == (90 + 20 + 3, 21_000)
    assert ({**vm._asdict(), "result": "dropped"}, 21) in counters.series("packets")
    switch.world.apply(Edit("floating-ip", "f1", None))
    counters._again = 0.0
    counters.refresh()
    assert out not in counters.seen
