"""Encodes what a controller asks of a switch, besides flows, groups and meters.

Section numbers are those of the OpenFlow Switch Specification 1.5.1 unless another is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum, IntFlag
from struct import Struct, pack

from .openflow import ALL_GROUPS, ALL_METERS, ALL_TABLES, ANY, NICIRA, OF13, OF15, ONF, Multipart, Type, message

BUNDLE_CONTROL_13, BUNDLE_ADD_13 = 2300, 2301
"""Types of the ONF's bundle extension for OpenFlow 1.3 (EXT-230)."""


def hello(versions: Iterable[int], xid: int) -> bytes:
    """OFPT_HELLO that offers these versions (7.5.1)."""
    offered = set(versions)
    bitmap = sum(1 << version for version in offered)
    return message(max(offered), Type.HELLO, xid, pack(">HHI", 1, 8, bitmap))


def barrier(version: int, xid: int) -> bytes:
    """OFPT_BARRIER_REQUEST: answered when all that was sent before is done."""
    return message(version, Type.BARRIER_REQUEST, xid)


# --- bundles (7.3.9) ---------------------------------------------------------------------------------------------


class Bundle(IntEnum):
    """What a bundle control message says (OFPBCT_*); every request is answered by the next number."""

    OPEN = 0
    CLOSE = 2
    COMMIT = 4
    DISCARD = 6


class BundleFlags(IntFlag):
    """OFPBF_*."""

    ATOMIC = 1
    ORDERED = 2


BUNDLE_FLAGS = BundleFlags.ATOMIC | BundleFlags.ORDERED
"""All or nothing, in the order sent."""

_CONTROL = Struct(">BBHIIHH")
_CONTROL_13 = Struct(">BBHIIIIHH")


def bundle_control(version: int, xid: int, bundle: int, what: Bundle, flags: int = BUNDLE_FLAGS) -> bytes:
    """Open, close, commit or discard a bundle."""
    if version == OF13:
        return _CONTROL_13.pack(version, Type.EXPERIMENTER, 24, xid, ONF, BUNDLE_CONTROL_13, bundle, what, flags)
    return _CONTROL.pack(version, Type.BUNDLE_CONTROL, 16, xid, bundle, what, flags)


def bundle_adds(version: int, bundle: int, inner: Iterable[bytes], flags: int = BUNDLE_FLAGS) -> Iterator[bytes]:
    """Pieces that, joined, add messages to a bundle; each has the transaction id of the message that it adds."""
    if version == OF13:
        pack, kind = _CONTROL_13.pack, (ONF, BUNDLE_ADD_13)
        for data in inner:
            yield pack(version, 4, 24 + len(data), int.from_bytes(data[4:8], "big"), *kind, bundle, 0, flags)
            yield data
    else:
        pack = _CONTROL.pack
        for data in inner:
            yield pack(version, 34, 16 + len(data), int.from_bytes(data[4:8], "big"), bundle, 0, flags)
            yield data


# --- roles and asynchronous messages -----------------------------------------------------------------------------


class Role(IntEnum):
    """OFPCR_ROLE_*."""

    NO_CHANGE = 0
    EQUAL = 1
    MASTER = 2
    SLAVE = 3


def role_request(version: int, xid: int, role: Role, generation: int = 0) -> bytes:
    """OFPT_ROLE_REQUEST (7.3.8); ``generation`` fences off controllers with an older one."""
    return message(version, Type.ROLE_REQUEST, xid, pack(">IIQ", role, 0, generation))


def set_async(version: int, xid: int, packet_in: int = 0, port_status: int = 0, flow_removed: int = 0) -> bytes:
    """OFPT_SET_ASYNC (7.3.10): for which reasons to send these messages to a master; one bit for each reason.

    A slave gets none of them. Reasons that the version does not have are refused.
    """
    masks = (packet_in, port_status, flow_removed)
    if version == OF13:
        return message(version, Type.SET_ASYNC, xid, pack(">6I", *(mask for m in masks for mask in (m, 0))))
    wanted = {2 * n: 0 for n in range(3)} | {2 * n + 1: mask for n, mask in enumerate(masks)}
    properties = [pack(">HHI", kind, 8, mask) for kind, mask in sorted(wanted.items())]
    return message(version, Type.SET_ASYNC, xid, b"".join(properties))


# --- multipart requests (7.3.5) ----------------------------------------------------------------------------------


def _multipart(version: int, xid: int, kind: Multipart, body: bytes = b"") -> bytes:
    return message(version, Type.MULTIPART_REQUEST, xid, pack(">HHxxxx", kind, 0) + body)


def _which_flows(table: int, cookie: int, mask: int, match: bytes) -> bytes:
    head = pack(">BxxxIIxxxxQQHH", table, ANY, ANY, cookie, mask, 1, 4 + len(match))
    return head + match + bytes(-(4 + len(match)) % 8)


def flows_request(
    version: int, xid: int, table: int = ALL_TABLES, cookie: int = 0, mask: int = 0, match: bytes = b""
) -> bytes:
    """What flows there are: OFPMP_FLOW, from OpenFlow 1.5 OFPMP_FLOW_DESC, which has the same number.

    ``cookie`` under ``mask`` and the canonical ``match`` choose among them.
    """
    return _multipart(version, xid, Multipart.FLOWS, _which_flows(table, cookie, mask, match))


def aggregate_request(version: int, xid: int, table: int = ALL_TABLES, cookie: int = 0, mask: int = 0) -> bytes:
    """Sums over flows (OFPMP_AGGREGATE)."""
    return _multipart(version, xid, Multipart.AGGREGATE, _which_flows(table, cookie, mask, b""))


def groups_request(version: int, xid: int) -> bytes:
    """What groups there are (OFPMP_GROUP_DESC)."""
    return _multipart(version, xid, Multipart.GROUPS, pack(">Ixxxx", ALL_GROUPS) if version == OF15 else b"")


def meters_request(version: int, xid: int) -> bytes:
    """What meters there are (OFPMP_METER_CONFIG, later OFPMP_METER_DESC)."""
    return _multipart(version, xid, Multipart.METERS, pack(">Ixxxx", ALL_METERS))


def meter_counters_request(version: int, xid: int, id: int = ALL_METERS) -> bytes:
    """What meters have seen (OFPMP_METER, later OFPMP_METER_STATS)."""
    return _multipart(version, xid, Multipart.METER_COUNTERS, pack(">Ixxxx", id))


def meter_features_request(version: int, xid: int) -> bytes:
    """What meters a switch can have (OFPMP_METER_FEATURES)."""
    return _multipart(version, xid, Multipart.METER_FEATURES)


def ports_request(version: int, xid: int) -> bytes:
    """What ports there are (OFPMP_PORT_DESC)."""
    return _multipart(version, xid, Multipart.PORTS, pack(">Ixxxx", ANY) if version == OF15 else b"")


# --- Geneve options: Nicira's TLV table (ovs-fields(7), "tun_metadata") --------------------------------------------

TLV_MOD, TLV_REQUEST, TLV_REPLY = 24, 25, 26


class TlvCommand(IntEnum):
    """NXTTMC_*."""

    ADD = 0
    DELETE = 1
    CLEAR = 2


def tlv_mod(version: int, xid: int, command: TlvCommand, *options: tuple[int, int, int, int]) -> bytes:
    """Map Geneve options, each (class, type, length in bytes, index), to ``tun_metadata<index>``.

    Adding one that is mapped already is an error, and so is deleting one that a flow uses.
    """
    maps = b"".join(pack(">HBBHxx", *option) for option in options)
    return message(version, Type.EXPERIMENTER, xid, pack(">IIHxxxxxx", NICIRA, TLV_MOD, command) + maps)


def tlv_request(version: int, xid: int) -> bytes:
    """Ask for the map of Geneve options."""
    return message(version, Type.EXPERIMENTER, xid, pack(">II", NICIRA, TLV_REQUEST))
