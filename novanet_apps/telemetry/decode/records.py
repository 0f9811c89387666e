"""The rows in which flows leave a collector: numpy structured types, packed, in the byte order of the machine."""

from __future__ import annotations

import numpy as np

NO_VNI = 0xFFFFFFFF
"""VNI of a packet that was not encapsulated, where its network is not known either."""

AGGREGATE = np.dtype(
    [
        ("exporter", "u4"),
        ("src", "u1", 16),
        ("dst", "u1", 16),
        ("sport", "u2"),
        ("dport", "u2"),
        ("protocol", "u1"),
        ("version", "u1"),
        ("direction", "u1"),
        ("vni", "u4"),
        ("in_if", "u4"),
        ("out_if", "u4"),
        ("src_mac", "u8"),
        ("dst_mac", "u8"),
        ("bytes", "u8"),
        ("packets", "u8"),
        ("samples", "u8"),
        ("rate", "u4"),
        ("tcp_flags", "u1"),
        ("tos", "u1"),
        ("first_ms", "u8"),
        ("last_ms", "u8"),
    ]
)
"""What was seen of a key within an interval.

The key: ``exporter`` (the worker's number of it), the five-tuple of the innermost packet (IPv4 as ::ffff:a.b.c.d; ``version``
4, 6, or 0 for what is not IP), ``direction`` (0 in, 1 out, 2 not known), ``vni``, interfaces, MAC addresses (the first byte
sent is the highest of the 48 bits). The values: ``bytes`` and ``packets``, both multiplied by the sampling rate, ``samples``
counted, the last sampling ``rate``, TCP flags ORed, the last ``tos``, and Unix milliseconds of first and last.
"""
