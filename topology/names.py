"""Domain names as bytes (RFC 1035 section 3.1), as DHCP, DHCPv6 and router advertisements carry them."""

from __future__ import annotations

import re

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def labels(name: str) -> bytes:
    """The name, uncompressed, with the root's empty label at its end; a final dot makes no difference.

    Raises ValueError when it is no host or domain name.
    """
    parts = name.removesuffix(".").split(".")
    for part in parts:
        if not _LABEL.fullmatch(part):
            raise ValueError(
                f"{name!r} is no domain name: {part!r} is not 1 to 63 letters, digits, '-' or '_', no '-' at an end"
            )
    encoded = b"".join(bytes([len(part)]) + part.encode() for part in parts) + b"\0"
    if len(encoded) > 255:
        raise ValueError(f"{name!r} is no domain name: it is longer than 253 characters")
    return encoded
