"""What a hypervisor's connection tracking has of load balancers' connections: whose each is, and which one it is.

A connection with a member has the member's key as its mark, in a zone of the client's port, or of the router that the client outside
came by (``pipelines.policy``, ``pipelines.nat``). Open vSwitch's own datapath is asked by vswitchd's control socket, the kernel by netlink.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import eventlet
from eventlet.green import socket as green

from novanet_apps.host_agent.netlink import KernelEntries, NetlinkError
from pipelines.policy import BALANCING_ZONE, HAIRPIN_ZONE, POLICY_ZONE, ZONES

ANSWER = 30.0
"""Seconds that vswitchd has for an answer."""
PIECE = 1 << 18
"""Bytes that are read, and looked through, at a time: about a millisecond."""
USERSPACE = "netdev@ovs-netdev"
"""The datapath that all bridges share whose datapath_type is netdev."""
_NEWLINE = b"\\n"  # within JSON: a backslash and an n
_ENTRY = re.compile(
    rb"(tcp|udp),orig=\(([^)]*)\),reply=\([^)]*\),zone=(\d+),mark=(\d+)[^\\]*?(?:protoinfo=\(state=(\w+)|\\n)"
)
_LIVE = (None, b"SYN_SENT", b"SYN_RECV", b"ESTABLISHED")
"""States that vswitchd shows of connections that neither end has closed; UDP has none."""
_PORT = re.compile(r"^\s+\S+ (\d+)/(?:\d+|none):", re.MULTILINE)


class ConntrackError(Exception):
    """Connections cannot be counted; the text says why."""


class Tracked(NamedTuple):
    """A live connection with a member."""

    key: int
    """The member's."""
    which: int
    """Tells connections apart while they last."""


class Source(Protocol):
    """Connection tracking that can be read in parts."""

    def parts(self, routers: Callable[[], set[int]]) -> list[int | None]:
        """The parts that are to be read one by one: zones, or None for all at once. ``routers`` says which zones are routers'."""
        ...

    def read(self, part: int | None) -> Iterator[list[Tracked]]:
        """The live connections of a part, in batches of about a millisecond. Raises ConntrackError."""
        ...


def counts_in(zone: int) -> bool:
    """Whether connections of a zone are to be counted: those of policies are no load balancers', and by hairpin they are there twice."""
    return zone < POLICY_ZONE or BALANCING_ZONE <= zone < HAIRPIN_ZONE


# --- Open vSwitch's datapath ---------------------------------------------------------------------------------------------


class Userspace:
    """Asks vswitchd, which stands still while it answers, and with it all packets that no thread of their own polls for.

    So it is asked for everything only when that is not much, else for one zone after another.
    """

    FEW = 5000
    """Connections that are read at once; vswitchd takes 3 microseconds for each."""

    def __init__(self, control: Callable[[], str]) -> None:
        """``control`` finds the control socket; it raises ConntrackError."""
        self._control = control

    def parts(self, routers: Callable[[], set[int]]) -> list[int | None]:
        """The zones of all ports and routers; everything at once where there is little."""
        if int(self.ask("dpctl/ct-get-nconns", USERSPACE)) <= self.FEW:
            return [None]
        ports = {BALANCING_ZONE | int(number) % ZONES for number in _PORT.findall(self.ask("dpif/show"))}
        return [*sorted(ports | routers())]

    def read(self, part: int | None) -> Iterator[list[Tracked]]:
        """The live connections of a zone, or of all."""
        rest = b""
        for data in self._answer("dpctl/dump-conntrack", USERSPACE, *(() if part is None else (f"zone={part}",))):
            rest += data
            end = rest.rfind(_NEWLINE) + len(_NEWLINE)
            if end >= len(_NEWLINE):
                yield entries(rest[:end])
                rest = rest[end:]

    def ask(self, method: str, *params: str) -> str:
        """The text of an answer. Raises ConntrackError."""
        answer = json.loads(b"".join(self._answer(method, *params)))
        if answer.get("error"):
            raise ConntrackError(f"vswitchd: {method}: {answer['error'].strip()}")
        return str(answer["result"])

    def _answer(self, method: str, *params: str) -> Iterator[bytes]:
        """The text of an answer (JSON-RPC), as it comes."""
        path = self._control()
        with eventlet.Timeout(ANSWER, ConntrackError(f"{path}: no answer to {method} within {ANSWER:g} s")):
            try:
                with green.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    sock.connect(path)
                    sock.sendall(json.dumps({"id": 0, "method": method, "params": params}).encode())
                    while True:
                        data = sock.recv(PIECE)
                        if not data:
                            raise ConntrackError(f"{path}: vswitchd has closed the connection")
                        yield data
                        if data.rstrip().endswith(b"}"):
                            return
            except OSError as error:
                raise ConntrackError(f"vswitchd's control socket {path}: {error.strerror or error}") from None


def entries(text: bytes) -> list[Tracked]:
    """The live connections in lines of ``dpctl/dump-conntrack``, as JSON has them (ovs-dpctl(8))."""
    return [
        Tracked(int(mark), hash((protocol, zone, orig)))
        for protocol, orig, zone, mark, state in (found.groups() for found in _ENTRY.finditer(text))
        if state in _LIVE and counts_in(int(zone))
    ]


def control_socket(ovsdb: str, given: str) -> Callable[[], str]:
    """How vswitchd's control socket is found: as it is given, else by vswitchd's pid file beside the socket of its OVSDB."""
    directory = Path(ovsdb.removeprefix("unix:")).parent if ovsdb.startswith("unix:") else Path("/var/run/openvswitch")

    def find() -> str:
        if given:
            return given
        file = directory / "ovs-vswitchd.pid"
        try:
            return str(directory / f"ovs-vswitchd.{int(file.read_text())}.ctl")
        except (OSError, ValueError) as error:
            raise ConntrackError(f"vswitchd's pid file {file}: {error}; or set agent_vswitchd") from None

    return find


# --- the kernel ----------------------------------------------------------------------------------------------------------


class Kernel:
    """Asks the kernel, which goes on meanwhile: everything at once."""

    def parts(self, routers: Callable[[], set[int]]) -> list[int | None]:
        """Everything."""
        return [None]

    def read(self, part: int | None) -> Iterator[list[Tracked]]:
        """All live connections."""
        try:
            for batch in KernelEntries().read():
                yield [
                    Tracked(each.mark, each.id) for each in batch if each.live and each.mark and counts_in(each.zone)
                ]
        except NetlinkError as error:
            raise ConntrackError(str(error)) from None


def source(datapath_type: str, userspace: Userspace) -> Any:
    """The connection tracking of a bridge with this datapath_type."""
    return userspace if datapath_type == "netdev" else Kernel()
