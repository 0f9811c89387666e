"""Groups and meters as bytes: what identifies them is their number, the rest is a body.

    group body  type (1), length of the buckets (2), buckets, properties (OpenFlow 1.5)
    meter body  flags (2), bands

Both are cut from OFPT_GROUP_MOD and OFPT_METER_MOD so that what a switch describes has the bytes that were sent.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, error

from pipelines.flow import ALIVE, Bucket, Group, Meter

from .actions import encode_actions
from .openflow import ANY, LONGEST, OF15, Command, Type, message

KINDS = {"all": 0, "select": 1, "indirect": 2, "fast_failover": 3}
"""Types of groups (OFPGT_*)."""

ALL_BUCKETS = 0xFFFFFFFF
"""OFPG_BUCKET_ALL: the command concerns the whole group."""

_BUCKET = Struct(">HHIIxxxx")
_BUCKET_15 = Struct(">HHI")
_WEIGHT_15 = Struct(">HHHxx")
_WATCH_15 = Struct(">HHI")
WEIGHT, WATCH_PORT, WATCH_GROUP = 0, 1, 2
"""Properties of a bucket (OFPGBPT_*, OpenFlow 1.5)."""
_GROUP_MOD = Struct(">HBxI")
_GROUP_MOD_15 = Struct(">HBxIHxxI")

KBPS, PACKETS, BURST = 1, 2, 4
"""Flags of a meter (OFPMF_*)."""
BAND = Struct(">HHIIxxxx")


def encode_group(group: Group, version: int) -> bytes:
    """The group's body. Raises ValueError for an unknown kind, or when it is too long for one message."""
    if group.kind not in KINDS:
        raise ValueError(f"group {group.id}: kind {group.kind!r} is none of {', '.join(KINDS)}")
    buckets = b"".join([_encode_bucket(n, bucket, group.kind, version) for n, bucket in enumerate(group.buckets)])
    if len(buckets) > LONGEST - 64:
        raise ValueError(f"group {group.id}: its {len(group.buckets)} buckets are too long for one OpenFlow message")
    return bytes([KINDS[group.kind]]) + len(buckets).to_bytes(2, "big") + buckets


@lru_cache(maxsize=1 << 15)
def _encode_bucket(number: int, bucket: Bucket, kind: str, version: int) -> bytes:
    """A bucket; only those of a select group have a weight, only those of a fast failover group watch something.

    Remembered: those of a broadcast are encoded again with each port that comes or goes.
    """
    actions = encode_actions(bucket.actions, version)
    weight = bucket.weight if kind == "select" else 0
    watched_port = watched_group = ANY
    if kind == "fast_failover":
        watched_port = ANY if bucket.watch_port is None else bucket.watch_port
        watched_group = ANY if bucket.watch_group is None else bucket.watch_group
        if watched_port == watched_group == ANY:
            watched_group = ALIVE.id
    if version < OF15:
        return _BUCKET.pack(16 + len(actions), weight, watched_port, watched_group) + actions
    properties = _WEIGHT_15.pack(WEIGHT, 8, weight) if kind == "select" else b""
    if watched_port != ANY:
        properties += _WATCH_15.pack(WATCH_PORT, 8, watched_port)
    if watched_group != ANY:
        properties += _WATCH_15.pack(WATCH_GROUP, 8, watched_group)
    return _BUCKET_15.pack(8 + len(actions) + len(properties), len(actions), number) + actions + properties


def group_put(command: Command, id: int, body: bytes, version: int, xid: int) -> bytes:
    """A group-mod that adds or modifies a group."""
    kind, length = body[0], int.from_bytes(body[1:3], "big")
    if version < OF15:
        return message(version, Type.GROUP_MOD, xid, _GROUP_MOD.pack(command, kind, id) + body[3:])
    return message(version, Type.GROUP_MOD, xid, _GROUP_MOD_15.pack(command, kind, id, length, ALL_BUCKETS) + body[3:])


def group_delete(id: int, version: int, xid: int) -> bytes:
    """A group-mod that deletes a group; the switch takes flows that still use it along. No error when it is gone."""
    return group_put(Command.DELETE, id, bytes(3), version, xid)


def encode_meter(meter: Meter) -> bytes:
    """The meter's body, the same in every version. Raises ValueError when a number is out of its range.

    A burst of 0 leaves it to the switch, which takes as much as the rate is.
    """
    flags = (PACKETS if meter.packets else KBPS) | (BURST if meter.burst else 0)
    try:
        return flags.to_bytes(2, "big") + BAND.pack(1, 16, meter.rate, meter.burst or meter.rate)
    except error as wrong:
        raise ValueError(f"{meter}: {wrong}") from wrong


def meter_put(command: Command, id: int, body: bytes, version: int, xid: int) -> bytes:
    """A meter-mod that adds or modifies a meter."""
    return message(
        version, Type.METER_MOD, xid, command.to_bytes(2, "big") + body[:2] + id.to_bytes(4, "big") + body[2:]
    )


def meter_delete(id: int, version: int, xid: int) -> bytes:
    """A meter-mod that deletes a meter; the switch takes flows that still use it along. No error when it is gone."""
    return meter_put(Command.DELETE, id, bytes(2), version, xid)
