"""One capture, as a process of its own: ``python -m novanet_apps.host_agent.capture_process FD``, which the agent starts.

It gets its orders as one line of JSON (``Orders``) on standard input, and ``go`` as a second one when the time runs. It reads from a VM's
device, or else from copies: then it has a network namespace without a name, in which one end of a veth pair for each direction is; the
other is the agent's to make a port of a bridge. Nothing else is in there that could answer what VMs say.

It writes to the open file FD, and tells on standard output, one line of JSON each, that it is ready, how far it is, and at last why it
has ended. When its standard input ends, however that comes, it ends; then the kernel removes the pairs.

It imports nothing but the standard library, so that it starts fast.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import select
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypedDict

from novanet_apps.host_agent import pcapng
from novanet_apps.host_agent.packet_ring import RETIRE, Packet, PacketRing

TELL = 1.0
"""Seconds between two words on how far it is."""
_SETTLED = 3 * RETIRE * 1_000_000
"""Nanoseconds after which all packets of a time have come, from whichever ring."""
_WRITE = 1 << 18
"""Bytes that are written at once."""
_RESERVED = 256
"""Bytes that are kept for what is said of the interface at the end."""
_MTU = 65535
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
INGRESS, EGRESS = "ingress", "egress"
_FLAGS = {INGRESS: pcapng.INBOUND, EGRESS: pcapng.OUTBOUND}


class Orders(TypedDict):
    """What is to be done."""

    device: str
    """The VM's; empty: it reads copies."""
    interfaces: dict[str, str]
    """By direction, the name of the end of the pair that is the bridge's; there is none with a device."""
    filters: dict[str, str]
    """By direction, struct sock_filter of each step, in hexadecimal."""
    name: str
    """Of the interface, in the file."""
    description: str
    filter: str
    snaplen: int
    max_bytes: int
    max_seconds: float


class Refused(Exception):
    """The kernel or the disk refused; the text says what."""


# --- where packets come from --------------------------------------------------------------------------------------


def connect(interfaces: dict[str, str]) -> None:
    """Enter a namespace of its own, with pairs to the one it came from. Raises Refused."""
    with open("/proc/self/ns/net") as outside:
        if _LIBC.unshare(_CLONE_NEWNET):
            raise Refused(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}; the agent needs root")
        _quiet("default")
        for inner, outer in interfaces.items():
            _ip(f"link add {inner} mtu {_MTU} type veth peer name {outer} mtu {_MTU} netns {os.getppid()}")
            _ip(f"link set {inner} arp off up")
        with open("/proc/self/ns/net") as inside:
            _enter(outside.fileno())
            try:
                for outer in interfaces.values():
                    _quiet(outer)
                    _ip(f"link set {outer} arp off up")
            finally:
                _enter(inside.fileno())


def not_taken(interfaces: Collection[str]) -> int:
    """Packets that the bridge's ends of pairs had to drop, since the kernel was too slow on the other side (proc_net(5), dev)."""
    dropped = 0
    for line in Path(f"/proc/{os.getppid()}/net/dev").read_text().splitlines():
        name, _, counts = line.strip().partition(":")
        if name in interfaces:
            dropped += int(counts.split()[11])
    return dropped


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        raise Refused(f"the namespace cannot be changed: {os.strerror(ctypes.get_errno())}")


def _quiet(interface: str) -> None:
    """The kernel has nothing to say by this interface itself."""
    disable = Path("/proc/sys/net/ipv6/conf", interface, "disable_ipv6")
    if disable.exists():
        disable.write_text("1")


def _ip(line: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            ["ip", *line.split()], capture_output=True, text=True, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL
        )  # fmt: skip
    except FileNotFoundError:
        raise Refused("ip is missing: install iproute2") from None
    if done.returncode:
        raise Refused(f"`ip {line}` failed: {done.stderr.strip()}")


# --- where they go ------------------------------------------------------------------------------------------------


class File:
    """The capture's file, and how full it is. What is written raises Refused."""

    def __init__(self, descriptor: int, orders: Orders) -> None:
        self._descriptor, self._limit, self._snaplen = descriptor, orders["max_bytes"] - _RESERVED, orders["snaplen"]
        self._waiting: list[bytes] = []
        self._waits = 0
        self.packets = self.bytes = 0
        self._put(pcapng.section(f"NovaNet, Python {platform.python_version()}"))
        self._put(pcapng.interface(orders["name"], self._snaplen, orders["description"], orders["filter"]))

    def add(self, packet: Packet) -> bool:
        """Whether there was room."""
        data = packet.data[: self._snaplen]
        if self.bytes + pcapng.PACKET_OVERHEAD + len(data) + 3 > self._limit:
            return False
        self._put(pcapng.packet(data, packet.length, packet.at, packet.flags))
        self.packets += 1
        return True

    def end(self, statistics: bytes) -> None:
        """What is said at the end."""
        self._put(statistics)
        self.flush()

    def flush(self) -> None:
        """Write what waits; of what the disk has no room for, nothing, so that blocks are whole."""
        data, start = b"".join(self._waiting), self.bytes - self._waits
        self._waiting, self._waits = [], 0
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError as problem:
            os.ftruncate(self._descriptor, start)
            self.bytes = start
            raise Refused(f"the hypervisor's disk: {problem.strerror}") from None

    def _put(self, block: bytes) -> None:
        self._waiting.append(block)
        self._waits += len(block)
        self.bytes += len(block)
        if self._waits >= _WRITE:
            self.flush()


# --- the capture --------------------------------------------------------------------------------------------------


class Capture:
    """From ``ready`` to the end."""

    def __init__(self, descriptor: int, orders: Orders) -> None:
        self._orders = orders
        self._file = File(descriptor, orders)
        self._rings = [
            PacketRing(
                orders["device"] or direction, bytes.fromhex(filter), _FLAGS[direction],
                leaving=bool(orders["device"]) and direction == INGRESS,
            )
            for direction, filter in orders["filters"].items()
        ]  # fmt: skip
        self._waiting: list[Packet] = []
        self._began = time.time_ns()
        self._ends, self._reason = 0, "max_seconds"
        """When, nanoseconds since 1970, and why; 0: the time does not run yet."""

    def run(self) -> str:
        """Capture until there is a reason not to, and return it."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        for ring in self._rings:
            poll.register(ring, select.POLLIN)
        tell = time.monotonic() + TELL
        reason = ""
        while not reason:
            ready = dict(poll.poll(100))
            if 0 in ready and not self._ordered():
                poll.unregister(0)
            for ring in self._rings:
                if ready.get(ring.fileno(), 0) & select.POLLERR:
                    poll.unregister(ring)
                    self._finish("unplugged")
            reason = self._keep()
            if time.monotonic() >= tell:
                self._file.flush()
                say(**self.state())
                tell = time.monotonic() + TELL
        self._end()
        return reason

    def state(self) -> dict[str, int]:
        """How far it is."""
        for ring in self._rings:
            ring.count()
        dropped = sum(ring.dropped for ring in self._rings) + not_taken(self._orders["interfaces"].values())
        return {"packets": self._file.packets, "bytes": self._file.bytes, "dropped": dropped}

    def _ordered(self) -> bool:
        """Whether there may be more orders."""
        if not os.read(0, 4096):
            self._finish("stopped")
            return False
        if not self._ends:
            self._began = time.time_ns()
            self._ends = self._began + int(self._orders["max_seconds"] * 1e9)
        return True

    def _finish(self, reason: str) -> None:
        """End when the packets are here that there were until now."""
        now = time.time_ns()
        if not self._ends or now < self._ends:
            self._ends, self._reason = now, reason

    def _keep(self) -> str:
        """Write the packets that have come, in the order in which they did; those of the last milliseconds wait for others.

        Returns why there are to be no more.
        """
        for ring in self._rings:
            self._waiting.extend(ring.take())
        now = time.time_ns()
        settled = min(now - _SETTLED, self._ends or now)
        self._waiting.sort(key=_at)
        count = 0
        for packet in self._waiting:
            if packet.at > settled:
                break
            if not self._file.add(packet):
                return "max_bytes"
            count += 1
        del self._waiting[:count]
        return self._reason if self._ends and now - _SETTLED > self._ends else ""

    def _end(self) -> None:
        counts = self.state()
        received = sum(ring.received for ring in self._rings)
        self._file.end(pcapng.statistics(self._began, time.time_ns(), received, counts["dropped"]))


def _at(packet: Packet) -> int:
    return packet.at


def say(**what: Any) -> None:
    """A line to the agent, which may be gone."""
    try:
        print(json.dumps(what), flush=True)
    except OSError:
        sys.exit(1)


def main(descriptor: int) -> int:
    """Until standard input ends."""
    orders: Orders = json.loads(_line())
    try:
        if orders["interfaces"]:
            connect(orders["interfaces"])
        capture = Capture(descriptor, orders)
        say(ready=True)
        reason = capture.run()
        say(**capture.state(), ended=reason)
    except (Refused, OSError) as problem:
        say(error=str(problem))
    while os.read(0, 4096):  # the ends of the pairs stay until nobody uses them
        pass
    return 0


def _line() -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        read = os.read(0, 1)
        if not read:
            sys.exit(0)
        found += read
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
