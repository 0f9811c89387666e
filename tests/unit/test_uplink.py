"""What is done to an interface: everything at first, then what differs, and what nobody needs any more when it is empty."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import sched_pfifo

from novanet_apps.host_agent import uplink
from novanet_apps.host_agent.traffic_control import Counts, Found, Queue, ShapingError, as_read
from novanet_apps.host_agent.uplink import Uplink
from topology.model.qos import BOUNDS
from topology.shaping import Leaf, Shape, Tunnel, of_interface

A, B = (Leaf(number, name, 5000, 100_000, 7, 50_000) for number, name in ((20, "a"), (21, "b")))


class Linux:
    """What Linux would have."""

    def __init__(self) -> None:
        self.classes: dict[int, dict[str, int]] | None = None
        self.queues: dict[int, Queue] = {}
        self.program = b""
        self.backlog: dict[int, int] = {}
        self.done: list[str] = []

    def index(self, interface: str) -> int:
        return 7

    def read(self, interface: str, qdiscs: object = None) -> Found | None:
        if self.classes is None:
            return None
        counts = {number: Counts(0, 0, 0, self.backlog.get(number, 0)) for number in self.classes}
        return Found(dict(self.classes), dict(self.queues), self.program, counts)

    def mtu(self, interface: str) -> int:
        return 1500

    def begin(self, interface: str) -> None:
        self.classes = {}
        self.done.append("root")

    def put_class(self, interface: str, number: int, options: dict[str, Any]) -> None:
        assert self.classes is not None
        self.classes[number] = as_read(options)
        self.done.append(f"class {number}")

    def put_queue(self, interface: str, number: int, limit: int, handle: int = 0, kind: str = "bfifo") -> None:
        self.queues[number] = Queue(handle or 100 + number, limit, kind)
        self.done.append(f"queue {number}" + (" changed" if handle else ""))

    def put_program(self, interface: str, program: bytes) -> None:
        self.program = program
        self.done.append("program")

    def delete_class(self, interface: str, number: int) -> None:
        assert self.classes is not None
        del self.classes[number]
        self.queues.pop(number, None)
        self.done.append(f"without {number}")


def shape(*leaves: Leaf, kbps: int = 100_000) -> Shape:
    keys = tuple((leaf.number * 1000, leaf.number) for leaf in leaves)
    return Shape("eth0", kbps, leaves, Tunnel("geneve", 6081, "10.0.0.1"), keys)


@pytest.fixture
def linux() -> Linux:
    return Linux()


def made(linux: Linux, eth0: Uplink, what: Shape) -> list[str]:
    linux.done = []
    eth0.make(what, segments=False)
    return linux.done


def test_only_what_differs_is_touched(linux: Linux) -> None:
    eth0 = Uplink(linux, "eth0")  # type: ignore[arg-type]
    assert made(linux, eth0, shape(A, B)) == [
        "root",
        "class 1",
        "class 20",
        "class 21",
        "queue 20",
        "queue 21",
        "program",
    ]
    assert made(linux, eth0, shape(A, B)) == []
    faster = Leaf(21, "b", 6000, 100_000, 7, 50_000)
    assert made(linux, eth0, shape(A, faster)) == ["class 21"]
    shorter = Leaf(21, "b", 6000, 100_000, 7, 40_000)
    assert made(linux, eth0, shape(A, shorter)) == ["queue 21 changed"]
    assert made(linux, Uplink(linux, "eth0"), shape(A, shorter)) == [], "nor by another agent"  # type: ignore[arg-type]
    linux.program = b"12345678"
    assert made(linux, eth0, shape(A, shorter)) == ["program"], "somebody else's hands"


def test_who_goes_is_told_no_packets_before_the_class_goes(linux: Linux, monkeypatch: pytest.MonkeyPatch) -> None:
    eth0 = Uplink(linux, "eth0")  # type: ignore[arg-type]
    made(linux, eth0, shape(A, B))
    linux.backlog = {21: 3000}
    assert made(linux, eth0, shape(A)) == ["program"] and eth0.settling
    assert made(linux, eth0, shape(A)) == [], "while packets wait in it"
    linux.backlog = {}
    assert made(linux, eth0, shape(A)) == ["without 21"] and not eth0.settling
    made(linux, eth0, shape(A, B))
    linux.backlog = {21: 3000}
    monkeypatch.setattr(uplink, "EMPTYING", 0.0)
    assert made(linux, eth0, shape(A)) == ["program", "without 21"], "not for ever"


def test_two_of_the_largest_frames_find_room_everywhere(linux: Linux) -> None:
    short = Leaf(20, "a", 100, 100_000, 2, 10)
    classes, queues = uplink.wanted(shape(short), 1518)
    assert queues[20] == 2 * 1518 and classes[20]["burst"] == 2 * 1518
    _, queues = uplink.wanted(shape(short), uplink.SEGMENTS)
    assert queues[20] == 2 * uplink.SEGMENTS, "the kernel's datapath sends many frames as one"


def test_a_full_queue_of_a_vms_interface_is_no_error_to_vswitchd(linux: Linux) -> None:
    """Which would give up what it has at hand for other classes. The kernel's datapath does not care, and has larger packets."""
    tap = Uplink(linux, "tap1")  # type: ignore[arg-type]
    slow, fast = of_interface("tap1", 64), of_interface("tap1", 80_000)
    made(linux, tap, slow)
    assert {(queue.kind, queue.limit) for queue in linux.queues.values()} == {("pfifo_head_drop", 16)}
    assert made(linux, tap, slow) == []
    made(linux, tap, fast)
    assert {queue.limit for queue in linux.queues.values()} == {500_000 // 1518}
    assert all("changed" in what for what in linux.done if what.startswith("queue")), "packets stay"
    tap.make(fast, segments=True)
    assert {(queue.kind, queue.limit) for queue in linux.queues.values()} == {("bfifo", 500_000)}
    assert not any("changed" in what for what in linux.done[-4:])
    made(linux, Uplink(linux, "eth0"), shape(A))  # type: ignore[arg-type]
    assert linux.queues[A.number].kind == "bfifo"


def test_the_longest_queue_can_be_said() -> None:
    """pyroute2 has a signed number for it."""
    most = of_interface("tap1", BOUNDS["max_kbps"][1])
    promised = Leaf(20, "a", BOUNDS["min_kbps"][1], 800_000_000, 2, BOUNDS["min_kbps"][1] * 1000 // 8)
    for what in (most, shape(promised)):
        _, queues = uplink.wanted(what, uplink.SEGMENTS)
        for limit in queues.values():
            said = sched_pfifo.options()
            said["limit"] = limit
            said.encode()
            assert limit > 1 << 30


def test_more_than_linux_takes_is_said(linux: Linux) -> None:
    many = [Leaf(16 + n, str(n), 1, 1, 7, 1) for n in range(2000)]
    with pytest.raises(ShapingError, match="give fewer ports"):
        Uplink(linux, "eth0").make(shape(*many), False)  # type: ignore[arg-type]
    assert linux.done == []
