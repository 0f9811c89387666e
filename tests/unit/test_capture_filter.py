"""Which frames a capture keeps, against a reader of frames that is written another way."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import pairwise
from struct import pack
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.capture_filter import LEVELS, compiled, program
from pipelines.classifier import LONGEST
from topology import ip_protocols
from topology.admission.captures import _filtered
from topology.admission.write import Refused
from topology.model import Capture

from .bpf import run

MINE, THEIRS, OTHERS = "10.0.0.1", "10.0.1.9", "192.0.2.7"
MINE6, THEIRS6, OTHERS6 = "2001:db8::1", "2001:db8:5::9", "fe80::7"
ARP = -1
"""Beside numbers of IP protocols."""


class Frame(NamedTuple):
    """What a VM sends or gets; the VM's own address is ``MINE``."""

    remote: str
    protocol: int
    ports: tuple[int, int] = (0, 0)
    fragment: bool = False
    """Not the first one."""
    headers: tuple[int, ...] = ()
    """Extension headers of IPv6."""
    options: int = 0
    """Words of options of IPv4."""
    tagged: bool = False

    @property
    def version(self) -> int:
        return ip_address(self.remote).version

    def encoded(self, egress: bool) -> bytes:
        mine = MINE if self.version == 4 else MINE6
        source, target = (mine, self.remote) if egress else (self.remote, mine)
        ends = ip_address(source).packed, ip_address(target).packed
        tag = b"\x81\0\0\x07" if self.tagged else b""
        if self.protocol == ARP:
            body = pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + ends[0] + bytes(6) + ends[1]
            return bytes(12) + tag + b"\x08\x06" + body
        payload = pack("!HH", *self.ports) + bytes(16)
        if self.version == 4:
            head = pack(
                "!BBHHHBBH", 0x45 + self.options, 0, 0, 0, 0x2003 if self.fragment else 0x4000, 64, self.protocol, 0
            )
            return bytes(12) + tag + b"\x08\0" + head + b"".join(ends) + bytes(4 * self.options) + payload
        following = (*self.headers, *((44,) if self.fragment else ()), self.protocol)
        extended = b"".join(
            pack("!BBHI", after, 0, 0x18, 0) if header == 44 else pack("!BB", after, 1) + bytes(14)
            for header, after in pairwise(following)
        )
        head = pack("!IHBB", 6 << 28, len(extended) + len(payload), following[0], 64)
        return bytes(12) + tag + b"\x86\xdd" + head + b"".join(ends) + extended + payload


def wanted(capture: Capture, frame: Frame) -> bool:
    """By what its fields say."""
    type = "ARP" if frame.protocol == ARP else f"IPv{frame.version}"
    if capture.ethertype not in (None, type):
        return False
    if capture.remote_ip_prefix is not None:
        prefix = ip_network(capture.remote_ip_prefix)
        if prefix.version != frame.version or ip_address(frame.remote) not in prefix:
            return False
    if capture.protocol is not None and ip_protocols.number(capture.protocol) != frame.protocol:
        return False
    if capture.transport_port is None:
        return True
    return frame.protocol in (6, 17, 132) and not frame.fragment and capture.transport_port in frame.ports


def frames() -> st.SearchStrategy[Frame]:
    four = st.builds(
        Frame, st.sampled_from([THEIRS, OTHERS]), st.sampled_from([ARP, 1, 6, 17, 47, 132]),
        st.tuples(st.sampled_from([80, 81, 40000]), st.sampled_from([80, 81, 40000])), st.booleans(), st.just(()),
        st.integers(0, 10), st.booleans(),
    )  # fmt: skip
    six = st.builds(
        Frame, st.sampled_from([THEIRS6, OTHERS6]), st.sampled_from([6, 17, 58, 132]),
        st.tuples(st.sampled_from([80, 81, 40000]), st.sampled_from([80, 81, 40000])), st.booleans(),
        st.lists(st.sampled_from([0, 43, 60]), max_size=LEVELS - 1, unique=True).map(tuple), st.just(0), st.booleans(),
    )  # fmt: skip
    return st.one_of(four, six)


def captures() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "ethertype": st.sampled_from([None, None, "IPv4", "IPv6", "ARP"]),
            "protocol": st.sampled_from([None, None, "tcp", "udp", "icmp", "sctp", "gre"]),
            "remote_ip_prefix": st.sampled_from(
                [None, None, "10.0.1.0/24", "10.0.1.9", "0.0.0.0/0", "2001:db8::/32", "2001:db8:5::9/128", "fe80::/10"]
            ),
            "transport_port": st.sampled_from([None, None, 80]),
            "snaplen": st.sampled_from([64, 65535]),
        }
    )


@given(fields=captures(), frame=frames(), egress=st.booleans())
def test_what_is_kept(fields: dict[str, Any], frame: Frame, egress: bool) -> None:
    """Of every filter that is admitted, and every frame."""
    try:
        capture = _filtered(Capture(id="", **fields))
    except Refused:
        return
    code = program(capture, egress)
    kept = capture.snaplen if wanted(capture, frame) else 0
    assert run(code, frame.encoded(egress)) == kept
    assert len(code) <= LONGEST and len(compiled(capture, egress)) == 8 * len(code)


@given(fields=captures(), frame=frames(), egress=st.booleans(), length=st.integers(0, 60))
def test_what_is_cut_off_ends_well(fields: dict[str, Any], frame: Frame, egress: bool, length: int) -> None:
    try:
        capture = _filtered(Capture(id="", **fields))
    except Refused:
        return
    assert run(program(capture, egress), frame.encoded(egress)[:length]) in (0, capture.snaplen)


def test_everything_without_a_filter() -> None:
    assert run(program(Capture(id="", snaplen=96), True), b"") == 96


@pytest.mark.parametrize("egress", [True, False])
def test_the_vms_own_address_is_not_the_remote_one(egress: bool) -> None:
    for frame in (Frame(THEIRS, 6), Frame(THEIRS6, 6), Frame(THEIRS, ARP)):
        mine = MINE if frame.version == 4 else MINE6
        for prefix, kept in ((f"{mine}/{32 if frame.version == 4 else 128}", 0), (frame.remote, 65535)):
            capture = _filtered(Capture(id="", remote_ip_prefix=prefix))
            assert run(program(capture, egress), frame.encoded(egress)) == kept
