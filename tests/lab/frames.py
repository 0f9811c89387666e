"""Frames as bytes, for tests that send what a well-behaved VM would not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from tools.lab import Sniffer

BROADCAST = "ff:ff:ff:ff:ff:ff"
MARK = b"NovaNet-marks-this"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(data: bytes) -> bytes:
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet II frame."""
    return _mac(destination) + _mac(source) + kind.to_bytes(2, "big") + payload


def udp(source: str, destination: str, eth_src: str, eth_dst: str, *, sport: int = 4242, dport: int = 9) -> bytes:
    """A UDP packet over IPv4 or IPv6 that carries MARK."""
    src, dst = ip_address(source).packed, ip_address(destination).packed
    length = (8 + len(MARK)).to_bytes(2, "big")
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + length
    if ":" in source:
        check = _checksum(src + dst + b"\0\0" + length + b"\0\0\0\x11" + head + b"\0\0" + MARK)
        ip = b"\x60\0\0\0" + length + b"\x11\x40" + src + dst
        return ethernet(eth_src, eth_dst, 0x86DD, ip + head + check + MARK)
    front = b"\x45\0" + (28 + len(MARK)).to_bytes(2, "big") + b"\0\0\x40\0\x40\x11"
    ip = front + _checksum(front + src + dst) + src + dst
    return ethernet(eth_src, eth_dst, 0x0800, ip + head + b"\0\0" + MARK)


def geneve(vni: int, identity: int, port_key: int, frame: bytes) -> bytes:
    """What a hypervisor sends to UDP port 6081 (RFC 8926), with NovaNet's option."""
    option = bytes.fromhex("fff10103") + bytes(4) + identity.to_bytes(4, "big") + port_key.to_bytes(4, "big")
    return bytes.fromhex("04006558") + vni.to_bytes(3, "big") + b"\0" + option + frame


def arp(op: int, sha: str, spa: str, tha: str, tpa: str, *, eth_src: str, eth_dst: str = BROADCAST) -> bytes:
    """An ARP packet; op 1 asks, 2 answers."""
    body = b"\0\x01\x08\0\x06\x04" + op.to_bytes(2, "big")
    body += _mac(sha) + IPv4Address(spa).packed + _mac(tha) + IPv4Address(tpa).packed
    return ethernet(eth_src, eth_dst, 0x0806, body)


def nd(kind: int, source: str, destination: str, target: str, option: str, *, eth_src: str, eth_dst: str) -> bytes:
    """A neighbour solicitation (135) or advertisement (136) with a link-layer address option."""
    src, dst = IPv6Address(source).packed, IPv6Address(destination).packed
    body = b"\x60\0\0\0" if kind == 136 else b"\0\0\0\0"
    body += IPv6Address(target).packed + bytes([1 if kind == 135 else 2, 1]) + _mac(option)
    return ethernet(eth_src, eth_dst, 0x86DD, _icmpv6(kind, src, dst, body))


def router_advertisement(source: str, *, eth_src: str) -> bytes:
    """A router advertisement to all nodes."""
    src, dst = IPv6Address(source).packed, IPv6Address("ff02::1").packed
    body = b"\x40\0\x07\x08" + b"\0" * 8
    return ethernet(eth_src, "33:33:00:00:00:01", 0x86DD, _icmpv6(134, src, dst, body))


def _icmpv6(kind: int, src: bytes, dst: bytes, body: bytes) -> bytes:
    length = (4 + len(body)).to_bytes(2, "big")
    check = _checksum(src + dst + b"\0\0" + length + b"\0\0\0\x3a" + bytes([kind, 0, 0, 0]) + body)
    return b"\x60\0\0\0" + length + b"\x3a\xff" + src + dst + bytes([kind, 0]) + check + body


class Frame:
    """What a sniffer saw."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.eth_dst, self.eth_src = data[:6].hex(":"), data[6:12].hex(":")
        self.eth_type = int.from_bytes(data[12:14], "big")

    @property
    def marked(self) -> bool:
        return MARK in self.data

    @property
    def is_arp_request(self) -> bool:
        return self.eth_type == 0x0806 and self.data[20:22] == b"\0\x01"

    @property
    def is_neighbour_solicitation(self) -> bool:
        return self.eth_type == 0x86DD and self.data[20] == 58 and self.data[54] == 135


def seen(sniffer: Sniffer) -> list[Frame]:
    """Everything that a sniffer has collected."""
    return [Frame(data) for data in sniffer.frames]
