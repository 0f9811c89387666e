"""The log of security groups: from a packet that a switch hands over to an entry, a line, and what is kept."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from novanet_apps import policy_log
from novanet_apps.policy_log import PolicyLog
from pipelines import fields as f
from pipelines.packets import frames
from pipelines.packets.connections import Connection, connection
from pipelines.punting import Reason

from .test_punts import FakeCore

ESTABLISHED = f.CT_TRACKED | f.CT_ESTABLISHED
WEB, DB = 0x0A00000B, 0x0A00010B


class LogCore(FakeCore):
    """web (10.0.0.11, of acme) and db (10.0.1.11, of umbra) behind a router, and rules of group g that log."""

    def __init__(self) -> None:
        super().__init__()
        self.policy_log = PolicyLog(self)  # type: ignore[arg-type]
        self.edit("port", "web", project_id="acme", name="web1")
        self.edit("port", "db", project_id="umbra")
        self.group("g", "db", name="databases")
        self.rule("g", id="in", name="from web", log=True)
        self.rule("g", "egress", id="out", action="deny", log=True)

    def log(self, rule: str, frame: bytes, sender: str | None, receiver: str | None, inward: bool, **more: int) -> None:
        keys = {"OUT_PORT_KEY": self.key(receiver), "FLAGS": f.INWARD.mask if inward else 0}
        key = self.topology.get("security-group-rule", rule).rule_key | f.LOGS.mask
        self.punt(Reason.POLICY_LOG, frame, sender, RULE=key, **{name: n for name, n in keys.items() if n}, **more)

    def key(self, port: str | None) -> int:
        return self.topology.get("port", port).port_key if port else 0

    def entry(self) -> Any:
        return next(self.policy_log.latest(None))


@pytest.fixture
def core() -> LogCore:
    return LogCore()


def udp(source: int = WEB, destination: int = DB) -> bytes:
    return frames.ethernet(2, 1, f.IPV4, frames.udp4(source, destination, 4000, 53, b"x"))


def test_what_an_entry_says(core: LogCore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "novanet_apps.security_groups.log"):
        core.log("in", udp(), "web", "db", inward=True)
    entry = core.entry()
    assert (entry.verdict, entry.direction, entry.project_id) == ("allowed", "ingress", "umbra")
    assert (entry.security_group_rule_id, entry.security_group_rule) == ("in", "from web")
    assert (entry.security_group_id, entry.security_group) == ("g", "databases")
    assert (entry.port_id, entry.port, entry.peer_port_id, entry.peer_port) == ("db", "db", "web", "web1")
    assert (entry.ethertype, entry.protocol, entry.hypervisor) == ("IPv4", "udp", "h1")
    assert (entry.source_ip, entry.source_port) == ("10.0.0.11", 4000)
    assert (entry.destination_ip, entry.destination_port) == ("10.0.1.11", 53)
    assert entry.time.endswith("Z") and (entry.icmp_type, entry.icmp_code) == (None, None)
    [line] = caplog.records
    assert line.getMessage() == "connection allowed" and line.__dict__["peer_port"] == "web1"
    assert not {"icmp_type", "id"} & line.__dict__.keys()
    assert core.policy_log.entries == {"allowed": 1}


def test_an_answer_is_told_as_the_connection_began(core: LogCore) -> None:
    """A reply of db, which its rule of ingress denies by now, as the rule of egress would."""
    tracked = {"CT_STATE": ESTABLISHED | f.CT_REPLY, "CT_NW_PROTO": f.TCP, "CT_NW_SRC": WEB, "CT_NW_DST": DB}
    core.log("in", udp(DB, WEB), "db", "web", inward=False, ETH_TYPE=f.IPV4, CT_TP_SRC=5, CT_TP_DST=80, **tracked)
    entry = core.entry()
    assert (entry.port_id, entry.peer_port_id, entry.protocol) == ("db", "web", "tcp")
    assert (entry.source_ip, entry.source_port) == ("10.0.0.11", 5)
    assert (entry.destination_ip, entry.destination_port) == ("10.0.1.11", 80)


def test_icmp_has_a_type(core: LogCore) -> None:
    core.log("out", frames.ethernet(2, 1, f.IPV4, frames.icmp4(DB, WEB, 8, 0, b"")), "db", None, inward=False)
    entry = core.entry()
    assert (entry.verdict, entry.direction, entry.protocol) == ("denied", "egress", "icmp")
    assert (entry.icmp_type, entry.icmp_code, entry.source_port) == (8, 0, None)


def test_the_peer_is_found_by_its_address_when_the_packet_does_not_say(core: LogCore) -> None:
    core.log("in", udp(), None, "db", inward=True)
    assert core.entry().peer_port_id == "web", "in another network, behind the router"
    core.log("in", udp(source=0x0A000063), None, "db", inward=True)
    assert core.entry().peer_port_id is None
    core.group("clients", "web")
    core.log("in", udp(), None, "db", inward=True, SRC_IDENTITY=99)
    assert core.entry().peer_port_id is None, "who sent it has another identity than who has the address"
    core.log("in", udp(), None, "db", inward=True, SRC_IDENTITY=core.topology.get("port", "web").identity)
    assert core.entry().peer_port_id == "web"


@pytest.mark.parametrize("frame", [b"", b"x" * 20, frames.ethernet(2, 1, f.ARP, bytes(28))])
def test_what_cannot_be_read_makes_no_entry(core: LogCore, frame: bytes) -> None:
    core.log("in", frame, "web", "db", inward=True)
    assert not list(core.policy_log.latest(None))


def test_a_rule_that_is_gone_makes_no_entry(core: LogCore) -> None:
    core.punt(Reason.POLICY_LOG, udp(), "web", RULE=77 | f.LOGS.mask)
    assert not list(core.policy_log.latest(None))


def test_a_project_pushes_out_only_its_own(core: LogCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_log, "KEPT", 3)
    core.log("in", udp(), "db", "web", inward=True)
    for _ in range(5):
        core.log("in", udp(), "web", "db", inward=True)
    assert [entry.id for entry in core.policy_log.latest("umbra")] == [6, 5, 4]
    assert [entry.id for entry in core.policy_log.latest("acme")] == [1]
    assert [entry.id for entry in core.policy_log.latest(None)] == [6, 5, 4, 1]
    assert not list(core.policy_log.latest("nobody"))


def test_projects_that_are_silent_longest_go_first(core: LogCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_log, "PROJECTS", 2)
    for project in ("a", "b", "a", "c"):
        core.edit("port", "db", project_id=project)
        core.log("in", udp(), "web", "db", inward=True)
    assert [entry.project_id for entry in core.policy_log.latest(None)] == ["c", "a", "a"]


def test_what_all_switches_send_is_limited(core: LogCore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic() + 1.0
    monkeypatch.setattr(policy_log.time, "monotonic", lambda: now)
    core.log("in", udp(), "web", "db", inward=True)
    for _ in range(int(policy_log.BURST) + 10):
        core.log("in", udp(), "web", "db", inward=True)
    made = sum(core.policy_log.entries.values())
    assert policy_log.BURST <= made <= policy_log.BURST + 1
    assert core.policy_log.suppressed == policy_log.BURST + 11 - made
    now += 1.0
    for _ in range(int(policy_log.RATE) + 10):
        core.log("in", udp(), "web", "db", inward=True)
    assert sum(core.policy_log.entries.values()) == made + policy_log.RATE


# --- the connection of a packet --------------------------------------------------------------------------------------

V6 = frames.ethernet(2, 1, f.IPV6, frames.udp6(WEB, DB, 4000, 53, b"x"))


def _extended(*headers: tuple[int, bytes], last: int = f.UDP) -> bytes:
    """An IPv6 packet to port 53 behind extension headers, each (number, without its first byte)."""
    numbers = [number for number, _ in headers[1:]] + [last]
    chain = b"".join(bytes((after,)) + rest for (_, rest), after in zip(headers, numbers, strict=True))
    payload = chain + bytes.fromhex("0fa00035") + bytes(4)
    return frames.ethernet(2, 1, f.IPV6, frames.ipv6(WEB, DB, headers[0][0], payload))


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (udp(), Connection(4, f.UDP, WEB, DB, 4000, 53)),
        (udp()[:38], Connection(4, f.UDP, WEB, DB, 4000, 53)),
        (udp()[:36], Connection(4, f.UDP, WEB, DB)),
        (udp()[:30], None),
        (V6, Connection(6, f.UDP, WEB, DB, 4000, 53)),
        (V6[:50], None),
        (_extended((0, b"\0" + bytes(6)), (60, b"\1" + bytes(14))), Connection(6, f.UDP, WEB, DB, 4000, 53)),
        (_extended((51, b"\4" + bytes(22))), Connection(6, f.UDP, WEB, DB, 4000, 53)),
        (_extended((44, b"\0\0\1" + bytes(4))), Connection(6, f.UDP, WEB, DB, 4000, 53)),
        (_extended((44, b"\0\0\x10" + bytes(4))), Connection(6, f.UDP, WEB, DB)),
        (_extended((44, b"\0\0\x10" + bytes(4)), last=60), Connection(6, 60, WEB, DB)),
        (frames.ethernet(2, 1, f.IPV4, frames.ipv4(WEB, DB, 47, b"gre.")), Connection(4, 47, WEB, DB)),
    ],
)
def test_the_connection_of_a_packet(frame: bytes, expected: Connection | None) -> None:
    assert connection(frame) == expected


def test_a_later_fragment_has_no_ports() -> None:
    packet = bytearray(udp()[14:])
    packet[6:8] = b"\0\x10"
    assert connection(frames.ethernet(2, 1, f.IPV4, bytes(packet))) == Connection(4, f.UDP, WEB, DB)
