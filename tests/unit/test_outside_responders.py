"""What the controller asks and tells hosts outside, with the graph as it is and nothing sent anywhere."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from novanet_apps.punts import Punt
from novanet_apps.responders.gateways import Gateways
from novanet_apps.responders.neighbours import GIVE_UP, KEEP, MOST, Neighbours
from pipelines import fields as f
from pipelines.packets import frames, neighbours
from pipelines.punting import Reason
from topology.changes import Edit
from topology.model import Link, Neighbour

from .outside import EXT, OUTER, OUTER6, Outside

HOST, HOST_MAC = f.ip("203.0.113.7"), f.mac("02:77:00:00:00:07")
OWN_MAC = f.mac("02:66:66:66:66:66")


class Desk:
    """A core without connections: what was sent and written down."""

    def __init__(self, world: Outside) -> None:
        self.world, self.topology = world, world.topology
        self.sent: list[tuple[str, bytes]] = []
        self.written: list[tuple[str, ...]] = []
        self.dead: set[str] = set()
        self.store = SimpleNamespace(
            ready=True,
            learn=lambda *row: self.written.append(row),
            forget=lambda *row: self.written.append(("forget", *row)),
        )
        self.punts = SimpleNamespace(
            refused=Counter(), on=lambda *_: None, inject=lambda where, frame, _: self.sent.append((where, frame))
        )

    def active_gateway(self, router: str) -> str | None:
        return next((id for id in self.topology.gateways_of(router) if id not in self.dead), None)

    def taken(self) -> list[tuple[str, bytes]]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def desk() -> Desk:
    return Desk(Outside())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("novanet_apps.responders.neighbours.time.monotonic", lambda: now[0])
    return now


def packet(number: int, target: int = HOST, router: int = 1) -> Punt:
    """A packet from the router's address outside, whose next hop nobody knows."""
    ip = frames.ipv4(f.ip(OUTER), target, f.UDP, bytes([number]) * 8)
    frame = frames.ethernet(0, OWN_MAC, f.IPV4, ip)
    return Punt("h2", Reason.RESOLVE, frame, 0, 0, EXT, 0, router, {f.NEXT_HOP: target})


def tells(mac: int, address: int = HOST) -> Punt:
    """An ARP reply."""
    frame = neighbours.arp_reply(mac, address, OWN_MAC, f.ip(OUTER))
    return Punt("h2", Reason.NEIGHBOUR, frame, 0, 0, EXT, 0, 0, {})


def known(desk: Desk, mac: str, *, learned: bool) -> None:
    host = Neighbour(id="n7", network_id="ext", ip_address="203.0.113.7", mac_address=mac, learned=learned)
    desk.world.apply(Edit("neighbour", "n7", host))


# --- asking ------------------------------------------------------------------------------------------------------


def test_it_is_asked_for_once_a_second_and_the_last_packets_wait(desk: Desk, clock: list[float]) -> None:
    asks = Neighbours(desk)
    for number in range(KEEP + 2):
        asks._resolve(packet(number))
    [(where, frame)] = desk.taken()
    question = neighbours.parse(frame)
    assert (where, question.ip, question.target, question.mac) == ("h2", f.ip(OUTER), HOST, OWN_MAC)
    clock[0] += 1.1
    asks._resolve(packet(9))
    assert len(desk.taken()) == 1
    asks._learn(tells(HOST_MAC))
    assert desk.written == [("ext", "203.0.113.7", "02:77:00:00:00:07")]
    sent = [frame for _, frame in desk.taken()]
    assert [frame[-1] for frame in sent] == [3, 4, 9]
    assert all(frame[:6] == HOST_MAC.to_bytes(6, "big") for frame in sent)


def test_what_was_just_learned_is_used_before_the_switches_know(desk: Desk, clock: list[float]) -> None:
    asks = Neighbours(desk)
    asks._resolve(packet(1))
    asks._learn(tells(HOST_MAC))
    desk.taken()
    asks._resolve(packet(2))
    [(_, frame)] = desk.taken()
    assert (frame[:6], frame[-1]) == (HOST_MAC.to_bytes(6, "big"), 2)
    asks._learn(tells(HOST_MAC))
    assert len(desk.written) == 1


def test_who_looks_through_a_prefix_keeps_only_itself_waiting(desk: Desk, clock: list[float]) -> None:
    asks = Neighbours(desk)
    for number in range(MOST + 50):
        asks._resolve(packet(1, target=HOST + number))
    assert len(desk.taken()) == MOST
    assert desk.punts.refused == {"RESOLVE": 50}
    asks._resolve(packet(1, target=HOST - 1, router=2))
    assert len(desk.taken()) == 1
    clock[0] += GIVE_UP + 1
    asks._resolve(packet(1, target=HOST + 400))
    assert len(desk.taken()) == 1
    assert len(asks._open) == 1, "what nobody has answered is forgotten"


# --- learning ----------------------------------------------------------------------------------------------------


def test_what_nobody_asked_for_is_not_learned(desk: Desk, clock: list[float]) -> None:
    Neighbours(desk)._learn(tells(HOST_MAC))
    assert desk.written == desk.sent == []


def test_two_that_claim_one_address_are_believed_once_a_second(desk: Desk, clock: list[float]) -> None:
    known(desk, "02:77:00:00:00:01", learned=True)
    asks = Neighbours(desk)
    for number in range(10):
        asks._learn(tells(HOST_MAC + number % 2))
    assert len(desk.written) == 1
    clock[0] += 1.1
    asks._learn(tells(HOST_MAC + 1))
    assert len(desk.written) == 2


def test_what_an_administrator_has_set_stays(desk: Desk, clock: list[float]) -> None:
    known(desk, "02:77:00:00:00:01", learned=False)
    Neighbours(desk)._learn(tells(HOST_MAC))
    assert desk.written == []


def test_a_silent_neighbour_is_asked_then_everybody_and_then_forgotten(desk: Desk, clock: list[float]) -> None:
    known(desk, "02:77:00:00:00:07", learned=True)
    asks, host = Neighbours(desk), desk.topology.get("neighbour", "n7")
    for _ in range(3):
        asks._check_one(host)
    to = [frame[:6] for _, frame in desk.taken()]
    assert to == [HOST_MAC.to_bytes(6, "big"), b"\xff" * 6, b"\xff" * 6]
    asks._learn(tells(HOST_MAC))
    asks._check_one(host)
    assert desk.written == [], "it has answered"
    for _ in range(3):
        asks._check_one(host)
    assert desk.written == [("forget", "ext", "203.0.113.7")]


# --- announcing --------------------------------------------------------------------------------------------------


def announced(desk: Desk, gateways: Gateways) -> set[tuple[str, int, int]]:
    """(hypervisor, address, MAC) of what is announced, each once."""
    gateways._look()
    news, gateways._news = gateways._news, {}
    for place, announcement in news.items():
        gateways._send(place, announcement)
    found = set()
    for where, frame in desk.taken():
        said = neighbours.parse(frame)
        assert said.kind is neighbours.Kind.ANNOUNCEMENT
        found.add((where, said.ip, said.mac))
    return found


@pytest.fixture
def gateways(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Gateways:
    """One that has looked at what there is; nothing happens by itself."""
    monkeypatch.setattr("novanet_apps.responders.gateways.eventlet.spawn_after", lambda *_: None)
    monkeypatch.setattr("novanet_apps.responders.gateways.eventlet.spawn", lambda *_: None)
    made = Gateways(desk)
    desk.store.ready = False
    made._changed(desk.world.edit("router", "r", description="there when the controller begins"))
    assert announced(desk, made) == set()
    desk.store.ready = True
    return made


def test_the_next_gateway_announces_what_it_has(desk: Desk, gateways: Gateways) -> None:
    desk.world.port("x9", "b", on="h1", ips=("10.0.1.99",))
    for text, port in (("203.0.113.50", "b2"), ("203.0.113.51", "x9")):  # with its VM, and at the gateway
        desk.world.floating(text, port, id=text)
        gateways._doubtful["floating-ip", text] = None
    own = desk.world.outer_mac
    with_vm = f.mac(desk.topology.get("floating-ip", "203.0.113.50").mac_address)
    shared = f.ip("203.0.113.51")
    assert announced(desk, gateways) == {("h2", f.ip("203.0.113.50"), with_vm), ("h2", shared, own)}

    desk.dead.add("h2")
    link = Link(hypervisor_id="h1", peer_id="h2", ofport=2002, up=False)
    gateways._changed(desk.world.apply(Edit("link", "h1/h2", link)))
    assert announced(desk, gateways) == {("h3", f.ip(text), own) for text in (OUTER, OUTER6)} | {("h3", shared, own)}
    gateways._changed(desk.world.apply(Edit("link", "h1/h2", None)))
    assert announced(desk, gateways) == set(), "once is enough"


def test_a_floating_ip_is_announced_where_its_vm_goes(desk: Desk, gateways: Gateways) -> None:
    mac = desk.world.floating("203.0.113.50", "b2")
    gateways._doubtful["floating-ip", "f"] = None
    assert announced(desk, gateways) == {("h2", f.ip("203.0.113.50"), mac)}
    gateways._changed(desk.world.plug("b2", "h3"))
    assert announced(desk, gateways) == {("h3", f.ip("203.0.113.50"), mac)}
    gateways._changed(desk.world.apply(Edit("floating-ip", "f", None)))
    assert announced(desk, gateways) == set()
    assert not gateways._of.get(("floating-ip", "f"))
