"""What makes a switch forget connections is byte for byte what ovs-ofctl sends. That switches take it, tests/lab shows."""

from __future__ import annotations

import socket
import subprocess
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

from pipelines.wire import Framer, Message, Tracked, Tuple, Type, ct_flush, message

from .conftest import program

VERSIONS = {"OpenFlow13": 4, "OpenFlow14": 5, "OpenFlow15": 6}
CASES = {
    "a member's flows in a zone": (
        ["zone=5", "ct_nw_proto=17,ct_nw_dst=10.1.0.9", "ct_nw_src=10.1.0.3,ct_tp_src=8080"],
        (5, Tracked(4, 17, Tuple(destination=0x0A010009), Tuple(source=0x0A010003, source_port=8080))),
    ),
    "in all zones": (
        ["ct_nw_proto=17,ct_nw_dst=10.1.0.9", "ct_nw_src=10.1.0.3"],
        (None, Tracked(4, 17, Tuple(destination=0x0A010009), Tuple(source=0x0A010003))),
    ),
    "IPv6, by who answers": (
        ["zone=65535", "ct_nw_proto=17", "ct_ipv6_src=fd01::3,ct_tp_src=53"],
        (0xFFFF, Tracked(6, 17, reply=Tuple(source=int(ip_address("fd01::3")), source_port=53))),
    ),
    "one connection": (
        ["zone=0", "ct_nw_proto=6,ct_nw_src=10.1.0.2,ct_nw_dst=10.1.0.9,ct_tp_src=1234,ct_tp_dst=80"],
        (0, Tracked(4, 6, Tuple(0x0A010002, 0x0A010009, 1234, 80))),
    ),
    "one of IPv6": (
        ["zone=7", "ct_nw_proto=6,ct_ipv6_src=fd01::2,ct_ipv6_dst=fd01::9,ct_tp_src=1234,ct_tp_dst=80"],
        (7, Tracked(6, 6, Tuple(*(int(ip_address(each)) for each in ("fd01::2", "fd01::9")), 1234, 80))),
    ),
}  # fmt: skip


class Listener:
    """A switch that takes what it gets: enough for ovs-ofctl to be content."""

    def __init__(self, path: Path, version: int) -> None:
        self.version = version
        self.got: list[Message] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        framer = Framer()
        with connection:
            connection.sendall(message(self.version, Type.HELLO, 1))
            while data := connection.recv(65536):
                for each in framer.feed(data):
                    self.got.append(each)
                    if each.type == Type.BARRIER_REQUEST:
                        connection.sendall(message(self.version, Type.BARRIER_REPLY, each.xid))

    def end(self) -> None:
        self._thread.join(20)
        self._listener.close()


@pytest.mark.parametrize("protocol", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_as_ovs_ofctl_sends_it(tmp_path: Path, protocol: str, case: str) -> None:
    arguments, wanted = CASES[case]
    listener = Listener(tmp_path / "s", VERSIONS[protocol])
    command = [program("ovs-ofctl"), "-O", protocol, "ct-flush", f"unix:{tmp_path / 's'}", *arguments]
    subprocess.run(command, check=True, timeout=20)
    listener.end()
    [sent] = [each for each in listener.got if each.type == Type.EXPERIMENTER]
    assert message(*sent) == ct_flush(VERSIONS[protocol], sent.xid, *wanted)
