"""What rate gets through between two VMs: traffic of iperf3, counted in Ethernet frames where it arrives."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from tools.lab import processes
from tools.lab.vm import Host

ETHERNET, UDP_OVERHEAD, TCP_OVERHEAD = 14, 28, 52
"""Bytes of headers: of the frame, of IPv4 and UDP, and of IPv4 and TCP with timestamps."""
LEAST_MSS = 88
"""Bytes: Linux takes no smaller TCP_MAXSEG (tcp(7))."""
WARM_UP = 2.0
"""Seconds until a rate counts: what a burst lets through, and TCP's beginning, are over."""


class Stream(NamedTuple):
    """Traffic from one VM to another: frames of ``size`` bytes, or as near as TCP comes; UDP is sent at ``offered`` kbit/s."""

    sender: Host
    receiver: Host
    protocol: str
    size: int
    offered: int = 0
    port: int = 5201
    dscp: int = 0
    to: str = ""
    """Where it is sent, when that is not the receiver's own address."""


def rates(streams: list[Stream], seconds: float, count: Callable[[], Sequence[float]] | None = None) -> list[float]:
    """kbit/s of Ethernet frames that each stream's receiver gets meanwhile, all streams at once. A VM receives one of them.

    ``count`` tells other bytes whose rates are to be known.
    """
    count = count or (lambda: [received(stream.receiver) for stream in streams])
    with sending(streams, seconds + 5):
        before, began = count(), time.monotonic()
        time.sleep(seconds)
        after, took = count(), time.monotonic() - began
        return [(last - first) * 8 / took / 1000 for last, first in zip(after, before, strict=True)]


@contextmanager
def sending(streams: list[Stream], seconds: float) -> Iterator[None]:
    """All streams at once, from when they have warmed up, for so long at most."""
    with ExitStack() as running:
        for stream in streams:
            listen = ["iperf3", "--server", "--one-off", "--port", str(stream.port)]
            server = stream.receiver.popen(listen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.callback(processes.end, server)
        for stream in streams:
            processes.until(lambda stream=stream: _listens(stream), f"iperf3 in {stream.receiver.name}")  # type: ignore[misc]
        for stream in streams:
            client = stream.sender.popen(_command(stream, WARM_UP + seconds), stdout=subprocess.PIPE, text=True)
            running.callback(processes.end, client)
        time.sleep(WARM_UP)
        yield


def received(vm: Host) -> int:
    """Bytes of frames that the VM's interface has got, Ethernet headers included."""
    shown = json.loads(vm.exec(["ip", "-s", "-j", "link", "show", vm.interface_name]).stdout)
    return int(shown[0]["stats64"]["rx"]["bytes"])


def _address(host: Host) -> str:
    """The first IPv4 address that a host has."""
    return next(each.split("/")[0] for each in host.addresses() if ":" not in each)


def _listens(stream: Stream) -> bool:
    return f":{stream.port} " in stream.receiver.exec(["ss", "-Hltn"]).stdout


def _command(stream: Stream, seconds: float) -> list[str]:
    found = [
        "iperf3",
        "--client",
        stream.to or _address(stream.receiver),
        "--port",
        str(stream.port),
        "--time",
        str(int(seconds) + 1),
    ]
    found += ["--tos", str(stream.dscp << 2), "--json"]
    if stream.protocol == "udp":
        length = stream.size - ETHERNET - UDP_OVERHEAD
        return [*found, "--udp", "--bitrate", f"{stream.offered}K", "--length", str(length)]
    segment = max(stream.size - ETHERNET - TCP_OVERHEAD + 12, LEAST_MSS)
    return [*found, "--set-mss", str(segment), "--no-delay"]
