"""Linux's traffic control (tc(8)) on one interface by rtnetlink: NovaNet's classes, their queues, and what tells who is in which.

All of it is below a queueing discipline of ours, known by its handle. Open vSwitch, which looks for handle 1: while it runs, leaves it
alone where the interface is one of its ports; ``hands_off`` is for when it starts.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import TC_H_ROOT, tcmsg
from pyroute2.netlink.rtnl.tcmsg import sched_bpf, sched_htb, sched_pfifo
from pyroute2.protocols import ETH_P_ALL

from topology.shaping import OTHERS, ROOT

MAJOR = 0x4E4E
"""Of our handles: "NN"."""
FILTER = 1
TAIL_DROP, HEAD_DROP = "bfifo", "pfifo_head_drop"
"""What holds a class' packets (tc-bfifo(8)), the second one told in packets: when it is full the oldest goes. To who sends by a packet
socket that is no error (net_xmit_errno), as a drop is, at which vswitchd gives up the rest of the packets it has at hand."""
RATE_MS, CEIL_MS = 2, 1
"""What a class may send at once, in milliseconds of its rate, and of the uplink's."""
_SEEN = ("rate", "ceil", "buffer", "cbuffer", "quantum", "prio")
_LACKS = (errno.ENOENT, errno.EOPNOTSUPP)


class ShapingError(Exception):
    """An interface cannot be shaped; the text says why, and what to do."""


class Counts(NamedTuple):
    """What a class has seen."""

    bytes: int
    packets: int
    dropped: int
    """Packets."""
    backlog: int
    """Bytes that wait."""


class Queue(NamedTuple):
    """What holds a class' packets."""

    handle: int
    limit: int
    """Bytes, or with HEAD_DROP packets."""
    kind: str = "bfifo"


class Found(NamedTuple):
    """What an interface has of ours; all by number of class."""

    classes: dict[int, dict[str, int]]
    queues: dict[int, Queue]
    program: bytes
    """Of the classifier; empty: there is none."""
    counts: dict[int, Counts]


NOTHING = Found({}, {}, b"", {})

Qdiscs = dict[int, list[Any]]
"""Queueing disciplines as pyroute2 has them, by the number of their interface."""


class _Classifier:
    """cls_bpf with a classic program, which pyroute2 does not know."""

    parent = TC_H_ROOT
    fix_request = staticmethod(sched_bpf.fix_request)

    class options(nla):
        nla_map = (
            ("TCA_BPF_UNSPEC", "none"),
            ("TCA_BPF_ACT", "hex"),
            ("TCA_BPF_POLICE", "hex"),
            ("TCA_BPF_CLASSID", "uint32"),
            ("TCA_BPF_OPS_LEN", "uint16"),
            ("TCA_BPF_OPS", "cdata"),
            ("TCA_BPF_FD", "uint32"),
            ("TCA_BPF_NAME", "asciiz"),
            ("TCA_BPF_FLAGS", "uint32"),
            ("TCA_BPF_FLAGS_GEN", "uint32"),
            ("TCA_BPF_TAG", "hex"),
            ("TCA_BPF_ID", "uint32"),
        )

    @staticmethod
    def get_parameters(wanted: dict[str, Any]) -> dict[str, Any]:
        code = wanted["program"]
        return {"attrs": [["TCA_BPF_OPS_LEN", len(code) // 8], ["TCA_BPF_OPS", code]]}


tcmsg.plugins["bpf"] = _Classifier
tcmsg.plugins[TAIL_DROP] = tcmsg.plugins[HEAD_DROP] = sched_pfifo


class TrafficControl:
    """One rtnetlink socket, and the queueing disciplines with handle ``major``: ours, or Open vSwitch's. Its calls take a millisecond
    or so, and raise ShapingError."""

    def __init__(self, major: int = MAJOR) -> None:
        self._netlink, self._major = IPRoute(), major
        self._qdisc = major << 16

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def index(self, interface: str) -> int:
        """The number of an interface."""
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            raise ShapingError(
                f"this hypervisor has no interface {interface}: correct its uplinks, or plug the VM in again"
            ) from None

    def mtu(self, interface: str) -> int:
        """The largest IP packet that an interface sends, in bytes."""
        [link] = self._try("reading it", lambda: self._netlink.get_links(self.index(interface)))
        return int(link.get_attr("IFLA_MTU"))

    def qdiscs(self) -> Qdiscs:
        """Those of all interfaces. Linux does not tell of fewer, so who looks at many interfaces asks once."""
        found: Qdiscs = defaultdict(list)
        for qdisc in self._try("reading queueing disciplines", self._netlink.get_qdiscs):
            found[qdisc["index"]].append(qdisc)
        return dict(found)

    def shaped(self, qdiscs: Qdiscs) -> list[str]:
        """The interfaces that have something of ours."""
        found = []
        for index, those in qdiscs.items():
            if any(qdisc["handle"] == self._qdisc and qdisc["parent"] == TC_H_ROOT for qdisc in those):
                try:
                    found.append(socket.if_indextoname(index))
                except OSError:
                    continue  # it went in between
        return found

    def read(self, interface: str, qdiscs: Callable[[], Qdiscs] | None = None) -> Found | None:
        """What is there of ours; None: nothing. ``qdiscs`` tells what all interfaces have, when that is known."""
        index, queues = self.index(interface), {}
        ours = False
        for qdisc in (qdiscs or self.qdiscs)().get(index, ()):
            if qdisc["parent"] == TC_H_ROOT:
                ours = qdisc["handle"] == self._qdisc
                if not ours and qdisc["handle"]:
                    kind = qdisc.get_attr("TCA_KIND")
                    raise ShapingError(
                        f"{interface} is shaped by somebody else ({kind} {qdisc['handle'] >> 16:x}:): remove that"
                        f" (tc qdisc del dev {interface} root), or the uplink or the policy's shape"
                    )
            elif qdisc["parent"] >> 16 == self._major:
                options, kind = qdisc.get_attr("TCA_OPTIONS"), qdisc.get_attr("TCA_KIND")
                limit = options["limit"] if kind in (TAIL_DROP, HEAD_DROP) else -1
                queues[qdisc["parent"] & 0xFFFF] = Queue(qdisc["handle"], limit, kind)
        if not ours:
            return None
        there = self._classes(index)
        classes = {number: _parameters(each.get_attr("TCA_OPTIONS")) for number, each in there.items()}
        counts = {number: _counts(each.get_attr("TCA_STATS2")) for number, each in there.items()}
        return Found(classes, queues, self._program(index), counts)

    def counts(self, interface: str) -> dict[int, Counts]:
        """What classes of ours have seen, by number."""
        there = self._classes(self.index(interface))
        return {number: _counts(each.get_attr("TCA_STATS2")) for number, each in there.items()}

    def begin(self, interface: str) -> None:
        """Take the interface's root, with no class yet."""
        index = self.index(interface)
        self._try("taking its root", lambda: self._netlink.tc("replace", "htb", index, self._qdisc, default=OTHERS))

    def end(self, interface: str) -> None:
        """Give it back."""
        index = self.index(interface)
        self._try("giving it back", lambda: self._netlink.tc("del", "htb", index, self._qdisc))

    def put_class(self, interface: str, number: int, options: dict[str, Any]) -> None:
        """Add a class, or change its numbers; packets that wait in it stay."""
        index = self.index(interface)
        parent = self._qdisc | (ROOT if number != ROOT else 0)
        self._try(
            f"class {number:x}",
            lambda: self._netlink.tc("replace-class", "htb", index, self._qdisc | number, parent=parent, **options),
        )

    def put_queue(self, interface: str, number: int, limit: int, handle: int = 0, kind: str = TAIL_DROP) -> None:
        """Give a class a queue, or with the ``handle`` that it has another length; packets stay."""
        index = self.index(interface)
        self._try(
            f"queue of class {number:x}",
            lambda: self._netlink.tc("replace", kind, index, handle, parent=self._qdisc | number, limit=limit),
        )

    def put_program(self, interface: str, program: bytes) -> None:
        """Have frames classified so from the next one on."""
        index = self.index(interface)
        self._try(
            "its classifier",
            lambda: self._netlink.tc(
                "replace-filter", "bpf", index, FILTER, parent=self._qdisc, prio=1, protocol=ETH_P_ALL, program=program
            ),
        )  # fmt: skip

    def delete_class(self, interface: str, number: int) -> None:
        """Remove a class, and packets that wait in it."""
        index = self.index(interface)
        self._try(
            f"class {number:x}", lambda: self._netlink.tc("del-class", "htb", index, self._qdisc | number, rate=1000)
        )

    def _classes(self, index: int) -> dict[int, Any]:
        found = self._try("reading its classes", lambda: self._netlink.get_classes(index=index))
        return {each["handle"] & 0xFFFF: each for each in found if each["handle"] >> 16 == self._major}

    def _program(self, index: int) -> bytes:
        for each in self._try(
            "reading its classifier", lambda: self._netlink.get_filters(index=index, parent=self._qdisc)
        ):
            options = each.get_attr("TCA_OPTIONS")
            if each.get_attr("TCA_KIND") == "bpf" and options is not None and options.get_attr("TCA_BPF_OPS"):
                return bytes(options.get_attr("TCA_BPF_OPS"))
        return b""

    def _try(self, what: str, call: Any) -> Any:
        try:
            found = call()
            return list(found) if isinstance(found, Iterator) else found
        except NetlinkError as error:
            hint = "; it may lack the modules sch_htb, sch_fifo or cls_bpf" if error.code in _LACKS else ""
            raise ShapingError(f"{what}: Linux says: {os.strerror(error.code)}{hint}") from None
        except OSError as error:
            raise ShapingError(f"{what}: {error}") from None


def total(counts: dict[int, Counts]) -> Counts:
    """What an interface's classes have seen together."""
    leaves = [each for number, each in counts.items() if number != ROOT]
    return Counts(*map(sum, zip(*leaves, strict=True))) if leaves else Counts(0, 0, 0, 0)


def parameters(rate_kbps: int, ceil_kbps: int, order: int, largest: int) -> dict[str, Any]:
    """A class as ``put_class`` takes it; ``largest`` is the bytes of the largest frame that Linux is given."""
    rate, ceil = rate_kbps * 125, ceil_kbps * 125
    return {
        "rate": rate,
        "ceil": ceil,
        "burst": max(rate * RATE_MS // 1000, 2 * largest),
        "cburst": max(ceil * CEIL_MS // 1000, 2 * largest),
        "prio": order,
        "quantum": largest,
    }


def as_read(options: dict[str, Any]) -> dict[str, int]:
    """The numbers by which a class is recognised."""
    return _parameters_of(dict(sched_htb.get_class_parameters(options)["attrs"]))


def _parameters(options: Any) -> dict[str, int]:
    return _parameters_of(
        {name: options.get_attr(name) for name in ("TCA_HTB_PARMS", "TCA_HTB_RATE64", "TCA_HTB_CEIL64")}
    )


def _parameters_of(attributes: dict[str, Any]) -> dict[str, int]:
    found = {name: int(attributes["TCA_HTB_PARMS"][name]) for name in _SEEN}
    for name, wide in (("rate", "TCA_HTB_RATE64"), ("ceil", "TCA_HTB_CEIL64")):
        found[name] = int(attributes.get(wide) or found[name])
    return found


def _counts(stats: Any) -> Counts:
    basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
    return Counts(basic["bytes"], basic["packets"], queue["drops"], queue["backlog"])
