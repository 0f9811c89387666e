"""Connection tracking as agents read it: the kernel's by netlink, and that of Open vSwitch's own datapath by vswitchd."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from novanet_apps.host_agent.conntrack import ConntrackError, Kernel, Userspace, control_socket, counts_in, entries
from novanet_apps.host_agent.netlink import KernelEntries, KernelEntry, NetlinkError, parse
from tools.lab import namespaces

ESTABLISHED, TIME_WAIT = 3, 7
ORIG, REPLY, STATUS, PROTOINFO, TIMEOUT, MARK, ZONE = 1, 2, 3, 4, 7, 8, 18
NESTED = 0x8000


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(inner))


def tuple_(kind: int, source: int, target: int, ports: tuple[int, int], protocol: int) -> bytes:
    ip = nested(1, attribute(1, struct.pack("!I", source)), attribute(2, struct.pack("!I", target)))
    proto = [
        attribute(1, bytes([protocol])),
        *(attribute(2 + n, struct.pack("!H", each)) for n, each in enumerate(ports)),
    ]
    return nested(kind, ip, nested(2, *proto))


def create(sock: socket.socket, number: int, zone: int, mark: int, protocol: int = 6, state: int = ESTABLISHED) -> None:
    """Put a connection into the kernel's table (IPCTNL_MSG_CT_NEW)."""
    client, server, ports = 0x0A000000 + (number >> 15), 0x0A630001, (1024 + (number & 0x7FFF), 80)
    parts = [
        tuple_(ORIG, client, server, ports, protocol),
        tuple_(REPLY, server, client, ports[::-1], protocol),
        attribute(TIMEOUT, struct.pack("!I", 300)),
        attribute(MARK, struct.pack("!I", mark)),
        attribute(ZONE, struct.pack("!H", zone)),
    ]
    if protocol == 6:
        parts.append(nested(PROTOINFO, nested(1, attribute(1, bytes([state])))))
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + b"".join(parts)
    sock.send(struct.pack("=IHHII", 16 + len(body), 1 << 8, 0x1 | 0x4 | 0x600, 1, 0) + body)
    answer = sock.recv(4096)
    error = struct.unpack_from("=i", answer, 16)[0]
    assert error == 0, os.strerror(-error)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"novanet-ct-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


def test_the_kernels_connections(namespace: str) -> None:
    def run() -> tuple[list[KernelEntry], list[int]]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
            for number in range(600):
                create(sock, number, 0x8001, 7)
            for number in range(3):
                create(sock, number, 0x8002, 2**32 - 1, protocol=17)
            create(sock, 0, 5, 9)
            create(sock, 1, 5, 0)
            create(sock, 2, 0x4001, 1)
            create(sock, 3, 0xC001, 7)
            create(sock, 1000, 0x8001, 8, state=TIME_WAIT)
        found = [each for batch in KernelEntries().read() for each in batch]
        counted = [each.key for batch in Kernel().read(None) for each in batch]
        return found, counted

    found, counted = namespaces.inside(namespace, run)
    assert Counter((each.zone, each.mark, each.live) for each in found) == {
        (0x8001, 7, True): 600, (0x8002, 2**32 - 1, True): 3, (5, 9, True): 1, (5, 0, True): 1, (0x4001, 1, True): 1,
        (0xC001, 7, True): 1, (0x8001, 8, False): 1,
    }  # fmt: skip
    assert len({each.id for each in found}) == len(found)
    assert Counter(counted) == {7: 600, 2**32 - 1: 3, 9: 1}


def test_the_kernel_refuses() -> None:
    refusal = struct.pack("=IHHII", 36, 2, 0, 1, 0) + struct.pack("=i", -1) + bytes(16)
    with pytest.raises(NetlinkError, match="not permitted"):
        parse(refusal)


def test_which_zones_count() -> None:
    """Those of routers and of load balancers; not those of policies, nor the second one of what comes back to its sender."""
    assert [counts_in(zone) for zone in (1, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xBFFF, 0xC000, 0xFFFF)] == [
        True, True, False, False, True, True, False, False,
    ]  # fmt: skip


def line(protocol: str, zone: int, mark: int | None, state: str = "", six: bool = False) -> bytes:
    one, other = ("fd00::1", "fd00::2") if six else ("10.0.0.1", "10.0.0.2")
    marked = "" if mark is None else f",mark={mark}"
    how = f",protoinfo=(state={state})" if state else ""
    return (
        f"{protocol},orig=(src={one},dst={other},sport=7,dport=80),reply=(src={other},dst={one},sport=80,dport=7)"
        f",zone={zone}{marked}{how}\\n"
    ).encode()


def test_lines_of_vswitchd() -> None:
    live = [
        line("tcp", 0x8001, 7, "ESTABLISHED"), line("tcp", 0x8001, 7, "SYN_SENT", six=True), line("udp", 3, 2**32 - 1),
        line("udp", 0x8001, 9),
    ]  # fmt: skip
    others = [
        line("tcp", 0x8001, 7, "TIME_WAIT"), line("tcp", 0x8001, 7, "CLOSING"), line("tcp", 0x8001, None, "ESTABLISHED"),
        line("udp", 0x4001, 1), line("tcp", 0xC001, 7, "ESTABLISHED"), line("icmp", 0x8001, 7),
    ]  # fmt: skip
    mixed = b'{"id":0,"result":"' + b"".join(each for pair in zip(others, live * 2, strict=False) for each in pair)
    assert [each.key for each in entries(mixed)] == [7, 7, 2**32 - 1, 9, 7, 7]
    found = entries(b"".join(live))
    assert len({each.which for each in found}) == 4 and found == entries(b"".join(live))


def test_a_control_socket_that_is_not_there(tmp_path: Path) -> None:
    find = control_socket(f"unix:{tmp_path}/db.sock", "")
    with pytest.raises(ConntrackError, match="set agent_vswitchd"):
        find()
    (tmp_path / "ovs-vswitchd.pid").write_text("17\n")
    assert find() == f"{tmp_path}/ovs-vswitchd.17.ctl"
    assert control_socket(f"unix:{tmp_path}/db.sock", "/x.ctl")() == "/x.ctl"
    with pytest.raises(ConntrackError, match="control socket"):
        Userspace(find).parts(set)
