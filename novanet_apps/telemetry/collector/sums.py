"""What a collector has seen in an interval, by flow: rows of ``decode.records.AGGREGATE`` from records of any kind."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from novanet_apps.telemetry.decode import netflow
from novanet_apps.telemetry.decode.headers import innermost
from novanet_apps.telemetry.decode.records import AGGREGATE, NO_VNI
from novanet_apps.telemetry.decode.results import Record
from novanet_apps.telemetry.decode.state import Domain

MOST = 1 << 20
"""Flows of an interval that are told apart; what comes for further ones is counted as lost."""
IN, OUT, UNKNOWN = 0, 1, 2
_MAPPED = bytes(10) + b"\xff\xff"
_FIELDS = AGGREGATE.names or ()
_VALUES = _FIELDS.index("bytes")


class Key(NamedTuple):
    """What is one flow; the fields of AGGREGATE before ``bytes``."""

    exporter: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    protocol: int
    version: int
    direction: int
    vni: int
    in_if: int
    out_if: int
    src_mac: int
    dst_mac: int


class Sums:
    """Counts by key, until they are drained."""

    def __init__(self) -> None:
        self._flows: dict[Key, list[int]] = {}
        self.refused = 0
        """Records for which there was no room."""

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, key: Key, bytes: int, packets: int, rate: int, flags: int, tos: int, first: int, last: int) -> None:
        """Count a record whose counts have been multiplied by the sampling rate; times are Unix milliseconds."""
        there = self._flows.get(key)
        if there is None:
            if len(self._flows) >= MOST:
                self.refused += 1
                return
            self._flows[key] = [bytes, packets, 1, rate, flags, tos, first, last]
            return
        there[0] += bytes
        there[1] += packets
        there[2] += 1
        there[3] = rate
        there[4] |= flags
        there[5] = tos
        there[6] = min(there[6], first)
        there[7] = max(there[7], last)

    def drain(self) -> NDArray[Any]:
        """All of them as AGGREGATE rows, and none are left."""
        flows, self._flows = self._flows, {}
        rows = np.zeros(len(flows), AGGREGATE)
        if not flows:
            return rows
        keys, values = list(zip(*flows, strict=True)), list(zip(*flows.values(), strict=True))
        for name, column in zip(_FIELDS, [*keys, *values], strict=True):
            if name in ("src", "dst"):
                rows[name] = np.frombuffer(b"".join(column), "u1").reshape(-1, 16)
            else:
                top = np.iinfo(AGGREGATE[name]).max
                rows[name] = [value if 0 <= value <= top else top for value in column]
        return rows


# --- records -----------------------------------------------------------------------------------------------------


def sample(sums: Sums, exporter: int, record: Record, now: int) -> None:
    """A packet that sFlow has sampled, received at ``now``: it stands for as many as the sampling rate says."""
    rate = max(1, record["sampling_rate"])
    packet = record.get("packet")
    if packet is None:
        packet = _without_header(record)
        length = record.get("length", record.get("ethernet_length", 0))
    else:
        length = record["frame_length"]
    found = innermost(packet)
    told = [
        here.get(name) for here, name in ((found, "layer2SegmentId"), (record, "vni_ingress"), (record, "vni_egress"))
    ]
    vni = next((each for each in told if isinstance(each, int)), NO_VNI)
    key = _key(exporter, found, _direction(record), vni, _interface(record, "input"), _interface(record, "output"))
    sums.add(key, length * rate, rate, rate, found.get("tcpControlBits", 0), found.get("ipClassOfService", 0), now, now)


def _without_header(record: Record) -> Record:
    """An exporter that has parsed the packet itself tells IP addresses and ports, or no more than MAC addresses."""
    found: Record = {
        "sourceMacAddress": record.get("ethernet_src_mac"),
        "destinationMacAddress": record.get("ethernet_dst_mac"),
        "protocolIdentifier": record.get("protocol", 0), "sourceTransportPort": record.get("src_port", 0),
        "destinationTransportPort": record.get("dst_port", 0), "tcpControlBits": record.get("tcp_flags", 0),
        "ipClassOfService": record.get("tos", record.get("priority", 0)),
    }  # fmt: skip
    if "src_ip" in record:
        version = 6 if ":" in record["src_ip"] else 4
        found |= {f"sourceIPv{version}Address": record["src_ip"], f"destinationIPv{version}Address": record["dst_ip"]}
    return found


def _direction(record: Record) -> int:
    """sFlow's source is the interface that has sampled: what came in by it, or goes out by it."""
    if record["source_id_type"] != 0:
        return UNKNOWN
    if record["source_id_index"] == record["input"] and record["input_format"] == 0:
        return IN
    return OUT if record["source_id_index"] == record["output"] and record["output_format"] == 0 else UNKNOWN


def _interface(record: Record, name: str) -> int:
    return int(record[name]) if record[f"{name}_format"] == 0 else 0


def flow(sums: Sums, exporter: int, record: Record, domain: Domain, now: int) -> None:
    """A record of NetFlow or IPFIX, received at ``now``. One of both directions (RFC 5103) is two."""
    rate = netflow.rate_of(record, domain)
    first, last = _time(record, "Start", now), _time(record, "End", now)
    found = _section(record)
    vni = _number(record, "layer2SegmentId")
    interfaces = _number(record, "ingressInterface") or 0, _number(record, "egressInterface") or 0
    direction = _number(record, "flowDirection")
    towards = direction if direction in (IN, OUT) else UNKNOWN
    segment = NO_VNI if vni is None else vni & 0xFFFFFF
    key = _key(exporter, found, towards, segment, *interfaces)
    flags, tos = _number(found, "tcpControlBits") or 0, _number(found, "ipClassOfService") or 0
    counts = _counts(record, "")
    if counts is not None:
        sums.add(key, counts[0] * rate, counts[1] * rate, rate, flags & 0xFF, tos & 0xFF, first, last)
    back = _counts(record, "reverse")
    if back is not None and any(back):
        other = key._replace(
            src=key.dst, dst=key.src, sport=key.dport, dport=key.sport, in_if=key.out_if, out_if=key.in_if,
            src_mac=key.dst_mac, dst_mac=key.src_mac, direction=UNKNOWN,
        )  # fmt: skip
        sums.add(other, back[0] * rate, back[1] * rate, rate, 0, tos & 0xFF, first, last)


def _section(record: Record) -> Record:
    """The headers of which a record tells: its own fields, or the sampled bytes of a packet (RFC 5477)."""
    raw = record.get("dataLinkFrameSection") or record.get("ipHeaderPacketSection")
    if not isinstance(raw, str):
        return record
    from novanet_apps.telemetry.decode import headers
    from novanet_apps.telemetry.decode.reader import Reader

    read = headers.ethernet if "dataLinkFrameSection" in record else headers.internet
    return {**record, **innermost(read(Reader(bytes.fromhex(raw))))}


_COUNTS = (
    ("octetDeltaCount", "packetDeltaCount"), ("octetTotalCount", "packetTotalCount"),
    ("layer2OctetDeltaCount", "packetDeltaCount"), ("initiatorOctets", "initiatorPackets"),
)  # fmt: skip


def _counts(record: Record, way: str) -> tuple[int, int] | None:
    """Bytes and packets of a direction; a sampled packet is one."""
    for names in _COUNTS:
        octets, packets = (_number(record, way + name[0].upper() + name[1:] if way else name) for name in names)
        if octets is not None or packets is not None:
            return octets or 0, packets or 0
    size = _number(record, "dataLinkFrameSize")
    return (size, 1) if size is not None and not way else None


def _time(record: Record, end: str, now: int) -> int:
    """Milliseconds since 1970 of an end of a flow."""
    for unit, divided, times in (("Milliseconds", 1, 1), ("Seconds", 1, 1000), ("Nanoseconds", 1_000_000, 1)):
        found = _number(record, f"flow{end}{unit}")
        if found is not None:
            return max(0, found // divided * times)
    found = _number(record, f"flow{end}Microseconds")
    return now if found is None else max(0, found // 1_000_000)


def _number(record: Record, name: str) -> int | None:
    found = record.get(name)
    return found if isinstance(found, int) else None


def _key(exporter: int, found: Record, direction: int, vni: int, in_if: int, out_if: int) -> Key:
    src, dst, version = b"", b"", 0
    for number in (4, 6):
        one, other = found.get(f"sourceIPv{number}Address"), found.get(f"destinationIPv{number}Address")
        if isinstance(one, str) and isinstance(other, str):
            src, dst, version = _packed(one, number), _packed(other, number), number
    sport, dport = (_number(found, name) or 0 for name in ("sourceTransportPort", "destinationTransportPort"))
    if not sport and not dport:
        sport, dport = _icmp(found)
    return Key(
        exporter, src or bytes(16), dst or bytes(16), sport & 0xFFFF, dport & 0xFFFF,
        (_number(found, "protocolIdentifier") or 0) & 0xFF, version, direction, vni, in_if, out_if,
        _mac(found.get("sourceMacAddress")), _mac(found.get("destinationMacAddress")),
    )  # fmt: skip


def _icmp(found: Record) -> tuple[int, int]:
    """Type and code of ICMP in place of the destination port, as NetFlow has it."""
    for version in (4, 6):
        both = _number(found, f"icmpTypeCodeIPv{version}")
        if both:
            return 0, both
        kind = _number(found, f"icmpTypeIPv{version}")
        if kind is not None:
            return 0, kind << 8 | (_number(found, f"icmpCodeIPv{version}") or 0)
    return 0, 0


def _packed(text: str, version: int) -> bytes:
    try:
        packed = ip_address(text).packed
    except ValueError:
        return b""
    return _MAPPED + packed if version == 4 else packed


def _mac(text: object) -> int:
    return int(text.replace(":", ""), 16) if isinstance(text, str) and text else 0
