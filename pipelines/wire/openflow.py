"""Numbers of the OpenFlow protocol, the message header, and cutting a stream of bytes into messages.

OpenFlow Switch Specification 1.3.5, 1.4.1 and 1.5.1; the extensions of Nicira and of the ONF as Open vSwitch has
them. Every number is in network byte order, every length in bytes.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

OF13, OF14, OF15 = 4, 5, 6
VERSIONS = (OF13, OF14, OF15)
"""Version bytes of OpenFlow 1.3, 1.4 and 1.5, the ones that NovaNet speaks."""

NICIRA, ONF = 0x00002320, 0x4F4E4600
"""Experimenter ids."""

ANY = 0xFFFFFFFF
"""OFPP_ANY, OFPG_ANY and OFP_NO_BUFFER."""
ALL_GROUPS = 0xFFFFFFFC
ALL_METERS = 0xFFFFFFFF
ALL_TABLES = 0xFF

LONGEST = 0xFFFF
"""Bytes of the longest message."""


class Type(IntEnum):
    """Types of messages (OFPT_*)."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    EXPERIMENTER = 4
    FEATURES_REQUEST = 5
    FEATURES_REPLY = 6
    SET_CONFIG = 9
    PACKET_IN = 10
    FLOW_REMOVED = 11
    PORT_STATUS = 12
    PACKET_OUT = 13
    FLOW_MOD = 14
    GROUP_MOD = 15
    MULTIPART_REQUEST = 18
    MULTIPART_REPLY = 19
    BARRIER_REQUEST = 20
    BARRIER_REPLY = 21
    ROLE_REQUEST = 24
    ROLE_REPLY = 25
    SET_ASYNC = 28
    METER_MOD = 29
    BUNDLE_CONTROL = 33
    BUNDLE_ADD = 34


class Multipart(IntEnum):
    """Types of multipart messages (OFPMP_*). In OpenFlow 1.5 FLOWS is called OFPMP_FLOW_DESC."""

    FLOWS = 1
    AGGREGATE = 2
    GROUPS = 7
    METER_COUNTERS = 9
    METERS = 10
    METER_FEATURES = 11
    PORTS = 13


class Command(IntEnum):
    """What a flow-mod, group-mod or meter-mod does."""

    ADD = 0
    MODIFY = 1
    DELETE = 2
    MODIFY_STRICT = 3
    DELETE_STRICT = 4
    """For flows: delete exactly this match and priority. For groups and meters ``DELETE`` does it."""
    ADD_OR_MODIFY = 0x8000
    """For groups: an extension of Open vSwitch, in every version (ovs-ofctl(8), ``--may-create``)."""


_HEADER = Struct(">BBHI")


class Message(NamedTuple):
    """One message: its header's version, type (see ``Type``) and transaction id, and what follows the header."""

    version: int
    type: int
    xid: int
    body: bytes


def message(version: int, type: int, xid: int, body: bytes = b"") -> bytes:
    """A message's bytes. Raises ValueError when it would be longer than OpenFlow allows."""
    length = 8 + len(body)
    if length > LONGEST:
        raise ValueError(f"OpenFlow message of type {type} would be {length} bytes long, more than {LONGEST}")
    return _HEADER.pack(version, type, length, xid) + body


class Framer:
    """Cuts the bytes of a connection into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order; what is left waits for more.

        Raises ValueError when the bytes are not OpenFlow; the connection is then of no use.
        """
        data = self._rest + data if self._rest else data
        found = []
        at, end = 0, len(data)
        while end - at >= 8:
            version, type, length, xid = _HEADER.unpack_from(data, at)
            if length < 8 or not (version in (1, 2, 3, *VERSIONS) or type == Type.HELLO):
                raise ValueError(f"not OpenFlow: header {data[at : at + 8].hex()} (version {version}, length {length})")
            if end - at < length:
                break
            found.append(Message(version, type, xid, data[at + 8 : at + length]))
            at += length
        self._rest = data[at:]
        return found


def check_version(version: int) -> None:
    """Raise ValueError unless the version byte is one that NovaNet speaks."""
    if version not in VERSIONS:
        raise ValueError(f"OpenFlow version byte {version:#04x} is none of 0x04 (1.3), 0x05 (1.4), 0x06 (1.5)")
