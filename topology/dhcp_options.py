"""DHCP options that a user gives to a port, from Neutron's (dnsmasq's) names and texts to option codes and bytes.

Sources: RFC 2132 and the IANA registries of DHCP and DHCPv6 options; names as in ``dnsmasq --help dhcp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from .names import labels

Encoder = Callable[[str], bytes]

NEXT_SERVER = 256
"""Not an option but the header field siaddr, which Neutron names ``server-ip-address``."""
LONGEST = 1024
"""Bytes of one option. What is longer than 255 goes out in several pieces (RFC 3396)."""


def option4(name: str, value: str) -> tuple[int, bytes]:
    """Code and bytes of a DHCPv4 option; ``name`` is Neutron's or the code as a number.

    The code is 1 to 254, or NEXT_SERVER. An option without a format of its own takes bytes (``0x0a0b`` or
    ``0a:0b``), IPv4 addresses separated by commas, or text. Raises ValueError, which says what is wrong with which.
    """
    return _option(name, value, "DHCP", _NAMES4, _FORMATS4, OWN4, 254)


def option6(name: str, value: str) -> tuple[int, bytes]:
    """Code (1 to 65535) and bytes of a DHCPv6 option, otherwise as ``option4``."""
    return _option(name, value, "DHCPv6", _NAMES6, _FORMATS6, OWN6, 0xFFFF)


def _option(
    name: str,
    value: str,
    protocol: str,
    names: dict[str, int],
    formats: dict[int, Encoder],
    own: frozenset[int],
    last: int,
) -> tuple[int, bytes]:
    key = name.strip().removeprefix("option:").removeprefix("option6:")
    if key.isascii() and key.isdigit():
        code = int(key) if len(key) < 6 else 0
        if not 1 <= code <= last:
            raise ValueError(f"{protocol} option {name!r}: numbers go from 1 to {last}")
    elif key in names:
        code = names[key]
    else:
        raise ValueError(f"{protocol} option {name!r} is not known; give its number, 1 to {last}")
    if code in own:
        raise ValueError(
            f"{protocol} option {name!r} cannot be given: it is part of the protocol and set for every answer"
        )
    try:
        encoded = formats.get(code, _raw6 if last > 254 else _raw4)(value.strip())
    except ValueError as error:
        raise ValueError(f"{protocol} option {name!r}: {error}") from None
    if len(encoded) > LONGEST:
        raise ValueError(f"{protocol} option {name!r}: {len(encoded)} bytes, at most {LONGEST} are possible")
    return code, encoded


# --- formats: the text of a value to its bytes; each raises ValueError ---------------------------------------------


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.strip("{}").split(",")]
    if not all(parts):
        raise ValueError(f"{text!r} is not a list separated by commas")
    return parts


def _address4(text: str) -> bytes:
    return IPv4Address(text).packed


def _addresses4(text: str) -> bytes:
    return b"".join(IPv4Address(part).packed for part in _parts(text))


def _pairs4(text: str) -> bytes:
    encoded = _addresses4(text)
    if len(encoded) % 8:
        raise ValueError(f"{text!r} is not pairs of addresses")
    return encoded


def _addresses6(text: str) -> bytes:
    return b"".join(IPv6Address(part.strip("[]")).packed for part in _parts(text))


def _netmask(text: str) -> bytes:
    return IPv4Network(f"0.0.0.0/{IPv4Address(text)}").netmask.packed


def _integer(size: int, low: int = 0, high: int | None = None) -> Encoder:
    top = (1 << 8 * size) - 1 if high is None else high

    def encode(text: str) -> bytes:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= top):
            raise ValueError(f"{text!r} is not a number from {low} to {top}")
        return int(text).to_bytes(size, "big")

    return encode


def _flag(text: str) -> bytes:
    values = {"1": b"\1", "true": b"\1", "0": b"\0", "false": b"\0"}
    if text.lower() not in values:
        raise ValueError(f"{text!r} is neither true (1) nor false (0)")
    return values[text.lower()]


def _text(text: str) -> bytes:
    if not (text and text.isascii() and text.isprintable() and len(text) <= 255):
        raise ValueError(f"{text[:64]!r} is not 1 to 255 printable ASCII characters")
    return text.encode()


def _domain(text: str) -> bytes:
    labels(text)
    return text.removesuffix(".").encode()


def _domains(text: str) -> bytes:
    return b"".join(map(labels, _parts(text)))


def _route_list(text: str) -> bytes:
    parts = _parts(text)
    if len(parts) % 2:
        raise ValueError(f"{text!r} is not pairs of prefix and next hop, like 10.0.0.0/8,192.0.2.1")
    pairs = zip(map(IPv4Network, parts[::2]), map(IPv4Address, parts[1::2]), strict=True)
    return routes((int(prefix.network_address), prefix.prefixlen, int(hop)) for prefix, hop in pairs)


def _hex(text: str) -> bytes | None:
    """The bytes that ``0x0a0b`` or ``0a:0b`` stands for, None when it is something else."""
    digits = text[2:] if text[:2].lower() == "0x" else text.replace(":", "") if _colons(text) else None
    if digits is None:
        return None
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not pairs of hexadecimal digits") from None


def _colons(text: str) -> bool:
    parts = text.split(":")
    return len(parts) > 1 and all(len(part) == 2 for part in parts)


def _raw(addresses: Encoder, separator: str) -> Encoder:
    def encode(text: str) -> bytes:
        known = _hex(text)
        if known is not None:
            return known
        if separator in text:
            try:
                return addresses(text)
            except ValueError:
                return _text(text)
        if text.isdigit():
            raise ValueError(f"how many bytes {text!r} takes is not known; write it as bytes, like 0x0001")
        return _text(text)

    return encode


_raw4, _raw6 = _raw(_addresses4, "."), _raw(_addresses6, ":")


def _time_servers6(text: str) -> bytes:
    """NTP servers (RFC 5908): one sub-option with each address."""
    return ntp_servers(int(IPv6Address(part.strip("[]"))) for part in _parts(text))


def _boot_parameters(text: str) -> bytes:
    """Parameters for the boot file (RFC 5970 section 3.2), each with its length."""
    return b"".join(len(part).to_bytes(2, "big") + _text(part) for part in _parts(text))


# --- what the protocols' own code writes the same way --------------------------------------------------------------


def routes(table: Iterable[tuple[int, int, int]]) -> bytes:
    """Classless static routes (RFC 3442): (prefix, length, next hop), only the significant bytes of each prefix."""
    encoded = b""
    for prefix, length, hop in table:
        encoded += bytes([length]) + prefix.to_bytes(4, "big")[: (length + 7) // 8] + hop.to_bytes(4, "big")
    return encoded


def ntp_servers(addresses: Iterable[int]) -> bytes:
    """The value of DHCPv6's NTP option (RFC 5908) with these servers."""
    return b"".join(b"\0\1\0\x10" + address.to_bytes(16, "big") for address in addresses)


# --- names, formats, and what users may not set --------------------------------------------------------------------

_NAMES4 = {
    "netmask": 1, "time-offset": 2, "router": 3, "dns-server": 6, "log-server": 7, "lpr-server": 9, "hostname": 12,
    "boot-file-size": 13, "domain-name": 15, "swap-server": 16, "root-path": 17, "extension-path": 18,
    "ip-forward-enable": 19, "non-local-source-routing": 20, "policy-filter": 21, "max-datagram-reassembly": 22,
    "default-ttl": 23, "mtu": 26, "all-subnets-local": 27, "broadcast": 28, "router-discovery": 31,
    "router-solicitation": 32, "static-route": 33, "trailer-encapsulation": 34, "arp-timeout": 35,
    "ethernet-encap": 36, "tcp-ttl": 37, "tcp-keepalive": 38, "nis-domain": 40, "nis-server": 41, "ntp-server": 42,
    "vendor-encap": 43, "netbios-ns": 44, "netbios-dd": 45, "netbios-nodetype": 46, "netbios-scope": 47,
    "x-windows-fs": 48, "x-windows-dm": 49, "lease-time": 51, "T1": 58, "T2": 59, "vendor-class": 60,
    "nis+-domain": 64, "nis+-server": 65, "tftp-server": 66, "bootfile-name": 67, "mobile-ip-home": 68,
    "smtp-server": 69, "pop3-server": 70, "nntp-server": 71, "irc-server": 74, "user-class": 77, "client-arch": 93,
    "client-interface-id": 94, "client-machine-id": 97, "posix-timezone": 100, "tzdb-timezone": 101,
    "ipv6-only": 108, "captive-portal": 114, "domain-search": 119, "sip-server": 120, "classless-static-route": 121,
    "vendor-id-encap": 125, "tftp-server-address": 150, "config-file": 209, "path-prefix": 210, "reboot-time": 211,
    "ms-classless-static-route": 249, "wpad": 252, "server-ip-address": NEXT_SERVER,
}  # fmt: skip
_FORMATS4: dict[int, Encoder] = {
    **dict.fromkeys((3, 4, 5, 6, 7, 8, 9, 10, 11, 41, 42, 44, 45, 48, 49, 65, 68, 69, 70, 71, 72, 73, 74), _addresses4),
    **dict.fromkeys((12, 14, 17, 18, 47, 60, 66, 67, 100, 101, 114, 209, 210, 252), _text),
    **dict.fromkeys((15, 40, 64), _domain),
    **dict.fromkeys((19, 20, 27, 29, 30, 31, 34, 36, 39), _flag),
    **dict.fromkeys((2, 24, 35, 38, 58, 59, 108, 211), _integer(4)),
    **dict.fromkeys((16, 28, 32, NEXT_SERVER), _address4),
    **dict.fromkeys((21, 33), _pairs4),
    **dict.fromkeys((23, 37), _integer(1, 1)),
    **dict.fromkeys((121, 249), _route_list),
    1: _netmask, 13: _integer(2), 22: _integer(2, 576), 26: _integer(2, 68), 46: _integer(1), 51: _integer(4, 60),
    93: _integer(2), 119: _domains, 150: _addresses4,
}  # fmt: skip
OWN4 = frozenset({50, 52, 53, 54, 55, 56, 57, 61, 80, 81, 82, 118})

_NAMES6 = {
    "sip-server-domain": 21, "sip-server": 22, "dns-server": 23, "domain-search": 24, "nis-server": 27,
    "nis+-server": 28, "nis-domain": 29, "nis+-domain": 30, "sntp-server": 31, "information-refresh-time": 32,
    "posix-timezone": 41, "tzdb-timezone": 42, "ntp-server": 56, "bootfile-url": 59, "bootfile-param": 60,
    "captive-portal": 103,
}  # fmt: skip
_FORMATS6: dict[int, Encoder] = {
    **dict.fromkeys((22, 23, 27, 28, 31), _addresses6),
    **dict.fromkeys((21, 24, 29, 30), _domains),
    **dict.fromkeys((41, 42, 59, 103), _text),
    32: _integer(4, 600), 56: _time_servers6, 60: _boot_parameters,
}  # fmt: skip
OWN6 = frozenset({*range(1, 17), 18, 19, 20, 25, 26, 39, 82, 83})
