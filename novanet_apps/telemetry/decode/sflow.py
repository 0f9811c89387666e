"""sFlow version 5 (sflow.org/sflow_version_5.txt and the structures at sflow.org/developers/structures.php).

Field names are those of the structures. All samples of a datagram are read: flows, counters, expanded ones, and discarded packets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import headers
from .reader import Reader, Truncated
from .results import Decoded, Record

Read = Callable[[Reader], Record]

_FORMATS = {1: "generic", 2: "ethernet", 3: "token ring", 11: "IPv4", 12: "IPv6", 13: "MPLS"}
RAW, ETHERNET, MPLS = 1, 1, 13
"""Flow record of sampled headers, and protocols of such."""


def decode(datagram: bytes) -> Decoded:
    """All samples; ``flows`` have the headers of the sampled packet, and ``counters`` the records of an interface or host.

    Raises Truncated where the datagram's own header is cut off.
    """
    reader, found = Reader(datagram), Decoded()
    reader.skip(4)
    kind = reader.u32()
    agent = reader.ip4() if kind == 1 else reader.ip6() if kind == 2 else ""
    head: Record = {
        "agent_address": agent,
        "sub_agent_id": reader.u32(),
        "sequence_number": reader.u32(),
        "uptime": reader.u32(),
    }
    found.domain, found.sequence = head["sub_agent_id"], head["sequence_number"]
    for _ in range(reader.u32()):
        try:
            format, sample = reader.u32(), reader.part(reader.u32())
        except Truncated as cut:
            found.problems.append(f"sample: {cut}")
            break
        read = _SAMPLES.get(format)
        if read is None:
            found.skipped += 1
            continue
        try:
            read(sample, head, found)
        except Truncated as cut:
            found.problems.append(f"sample of format {format >> 12}/{format & 0xFFF}: {cut}")
    return found


# --- samples -----------------------------------------------------------------------------------------------------


def _interface(reader: Reader, expanded: bool) -> tuple[int, int]:
    """Format and value: format 0 is an ifIndex, 1 a reason of discarding, 2 a number of interfaces."""
    if expanded:
        return reader.u32(), reader.u32()
    word = reader.u32()
    return word >> 30, word & 0x3FFFFFFF


def _source(reader: Reader, expanded: bool) -> tuple[int, int]:
    if expanded:
        return reader.u32(), reader.u32()
    word = reader.u32()
    return word >> 24, word & 0xFFFFFF


def _flow(expanded: bool) -> Callable[[Reader, Record, Decoded], None]:
    def read(reader: Reader, head: Record, found: Decoded) -> None:
        sample: Record = dict(head, sample_sequence_number=reader.u32())
        sample["source_id_type"], sample["source_id_index"] = _source(reader, expanded)
        sample["sampling_rate"], sample["sample_pool"], sample["drops"] = reader.u32(), reader.u32(), reader.u32()
        sample["input_format"], sample["input"] = _interface(reader, expanded)
        sample["output_format"], sample["output"] = _interface(reader, expanded)
        _records(reader, _FLOW_RECORDS, sample, found)
        found.flows.append(sample)

    return read


def _counters(expanded: bool) -> Callable[[Reader, Record, Decoded], None]:
    def read(reader: Reader, head: Record, found: Decoded) -> None:
        sample: Record = dict(head, sample_sequence_number=reader.u32())
        sample["source_id_type"], sample["source_id_index"] = _source(reader, expanded)
        _records(reader, _COUNTER_RECORDS, sample, found)
        found.counters.append(sample)

    return read


def _discarded(reader: Reader, head: Record, found: Decoded) -> None:
    """sflow.org/sflow_drops.txt"""
    sample: Record = dict(head, sample_sequence_number=reader.u32())
    sample["source_id_type"], sample["source_id_index"] = _source(reader, True)
    sample["drops"], sample["input"], sample["output"] = reader.u32(), reader.u32(), reader.u32()
    sample["reason"] = reader.u32()
    _records(reader, _FLOW_RECORDS, sample, found)
    found.discards.append(sample)


_SAMPLES: dict[int, Callable[[Reader, Record, Decoded], None]] = {
    1: _flow(False), 2: _counters(False), 3: _flow(True), 4: _counters(True), 5: _discarded,
}  # fmt: skip


def _records(reader: Reader, known: dict[int, Read], sample: Record, found: Decoded) -> None:
    for _ in range(reader.u32()):
        format, record = reader.u32(), reader.part(reader.u32())
        read = known.get(format)
        if read is None:
            found.skipped += 1
            continue
        try:
            sample.update(read(record))
        except Truncated as cut:
            found.problems.append(f"record of format {format >> 12}/{format & 0xFFF}: {cut}")


# --- records -----------------------------------------------------------------------------------------------------


def _opaque(reader: Reader) -> bytes:
    size = reader.u32()
    data = reader.take(size)
    reader.skip(min(-size % 4, reader.left))
    return data


def _text(reader: Reader) -> str:
    return _opaque(reader).decode("utf-8", "replace")


def _address(reader: Reader) -> str:
    kind = reader.u32()
    return reader.ip4() if kind == 1 else reader.ip6() if kind == 2 else ""


def _mac(reader: Reader) -> str:
    """With the two bytes that fill it up."""
    found = reader.mac()
    reader.skip(min(2, reader.left))
    return found


def _numbers(reader: Reader, prefix: str = "") -> list[int]:
    return [reader.u32() for _ in range(min(reader.u32(), reader.left // 4))]


_READ: dict[str, Callable[[Reader], Any]] = {
    "i": Reader.u32, "q": Reader.u64, "s": _text, "a": _address, "4": Reader.ip4, "6": Reader.ip6, "m": _mac,
    "l": _numbers, "o": lambda reader: _opaque(reader).hex(), "b": lambda reader: bool(reader.u32()),
    "u": lambda reader: reader.take(16).hex(), "p": lambda reader: reader.u32() / 100,
}  # fmt: skip


def _structure(text: str) -> Read:
    """A reader of fields in their order, each a name and how it is read: ``_READ``; ``i`` is left out."""
    fields = [(name, _READ[kind or "i"]) for name, _, kind in (field.partition(":") for field in text.split())]
    return lambda reader: {name: read(reader) for name, read in fields}


def _prefixed(prefix: str, read: Read) -> Read:
    return lambda reader: {prefix + name: value for name, value in read(reader).items()}


def _raw(reader: Reader) -> Record:
    protocol = reader.u32()
    found: Record = {"header_protocol": protocol, "frame_length": reader.u32(), "stripped": reader.u32()}
    size = reader.u32()
    packet = reader.part(min(size, reader.left))
    if protocol == ETHERNET:
        found["packet"] = headers.ethernet(packet)
    elif protocol in (11, 12):
        found["packet"] = headers.internet(packet)
    return found


def _gateway(reader: Reader) -> Record:
    """extended_gateway"""
    found: Record = {
        "next_hop": _address(reader),
        "as": reader.u32(),
        "src_as": reader.u32(),
        "src_peer_as": reader.u32(),
    }
    path: list[int] = []
    for _ in range(min(reader.u32(), reader.left // 8)):
        reader.skip(4)
        path += _numbers(reader)
    found["dst_as_path"] = path
    found["communities"], found["localpref"] = _numbers(reader), reader.u32()
    return found


_IPV4 = "length protocol src_ip:4 dst_ip:4 src_port dst_port tcp_flags"
_IPV6 = "length protocol src_ip:6 dst_ip:6 src_port dst_port tcp_flags"
_L2 = "length src_mac:m dst_mac:m eth_type"
_FLOW_RECORDS: dict[int, Read] = {
    1: _raw,
    2: _prefixed("ethernet_", _structure(_L2)),
    3: _structure(f"{_IPV4} tos"),
    4: _structure(f"{_IPV6} priority"),
    1001: _structure("src_vlan src_priority dst_vlan dst_priority"),
    1002: _structure("nexthop:a src_mask_len dst_mask_len"),
    1003: _gateway,
    1004: _structure("src_charset src_user:s dst_charset dst_user:s"),
    1005: _structure("url_direction url:s host:s"),
    1006: _structure("mpls_nexthop:a mpls_in_stack:l mpls_out_stack:l"),
    1007: _structure("nat_src_address:a nat_dst_address:a"),
    1008: _structure("mpls_tunnel_lsp_name:s mpls_tunnel_id mpls_tunnel_cos"),
    1009: _structure("mpls_vc_instance_name:s mpls_vll_vc_id mpls_vc_label_cos"),
    1010: _structure("mpls_ftn_descr:s mpls_ftn_mask"),
    1011: _structure("mpls_fec_addr_prefix_length"),
    1012: _structure("vlan_stack:l"),
    1020: _structure("nat_src_port nat_dst_port"),
    1021: _prefixed("tunnel_egress_", _structure(_L2)),
    1022: _prefixed("tunnel_ingress_", _structure(_L2)),
    1023: _prefixed("tunnel_egress_", _structure(f"{_IPV4} tos")),
    1024: _prefixed("tunnel_ingress_", _structure(f"{_IPV4} tos")),
    1025: _prefixed("tunnel_egress_", _structure(f"{_IPV6} priority")),
    1026: _prefixed("tunnel_ingress_", _structure(f"{_IPV6} priority")),
    1027: _structure("decapsulate_egress_inner_header_offset"),
    1028: _structure("decapsulate_ingress_inner_header_offset"),
    1029: _structure("vni_egress"),
    1030: _structure("vni_ingress"),
    1036: _structure("egress_queue"),
    1037: _structure("acl_number acl_name:s acl_direction"),
    1038: _structure("function_symbol:s"),
    1039: _structure("transit_delay"),
    1040: _structure("queue_depth"),
    2100: _structure("socket_protocol socket_local_ip:4 socket_remote_ip:4 socket_local_port socket_remote_port"),
    2101: _structure("socket_protocol socket_local_ip:6 socket_remote_ip:6 socket_local_port socket_remote_port"),
}
_COUNTER_RECORDS: dict[int, Read] = {
    1: _structure(
        "ifIndex ifType ifSpeed:q ifDirection ifStatus ifInOctets:q ifInUcastPkts ifInMulticastPkts ifInBroadcastPkts"
        " ifInDiscards ifInErrors ifInUnknownProtos ifOutOctets:q ifOutUcastPkts ifOutMulticastPkts ifOutBroadcastPkts"
        " ifOutDiscards ifOutErrors ifPromiscuousMode"
    ),
    2: _structure(
        "dot3StatsAlignmentErrors dot3StatsFCSErrors dot3StatsSingleCollisionFrames dot3StatsMultipleCollisionFrames"
        " dot3StatsSQETestErrors dot3StatsDeferredTransmissions dot3StatsLateCollisions dot3StatsExcessiveCollisions"
        " dot3StatsInternalMacTransmitErrors dot3StatsCarrierSenseErrors dot3StatsFrameTooLongs"
        " dot3StatsInternalMacReceiveErrors dot3StatsSymbolErrors"
    ),
    5: _structure("vlan_id octets:q ucastPkts multicastPkts broadcastPkts discards"),
    7: _structure(
        "dot3adAggPortActorSystemID:m dot3adAggPortPartnerOperSystemID:m dot3adAggPortAttachedAggID"
        " dot3adAggPortState LACPDUsRx MarkerPDUsRx MarkerResponsePDUsRx UnknownRx IllegalRx LACPDUsTx MarkerPDUsTx"
        " MarkerResponsePDUsTx"
    ),
    1001: _structure("5s_cpu:p 1m_cpu:p 5m_cpu:p total_memory:q free_memory:q"),
    1004: _structure("datapath_id:q port_no"),
    1005: _structure("port_name:s"),
    2000: _structure("hostname:s uuid:u machine_type os_name os_release:s"),
    2002: _structure("parent_type parent_index"),
    2003: _structure(
        "load_one load_five load_fifteen proc_run proc_total cpu_num cpu_speed cpu_uptime cpu_user cpu_nice cpu_system"
        " cpu_idle cpu_wio cpu_intr cpu_sintr interrupts contexts"
    ),
    2004: _structure(
        "mem_total:q mem_free:q mem_shared:q mem_buffers:q mem_cached:q swap_total:q swap_free:q page_in page_out swap_in swap_out"
    ),
    2005: _structure(
        "disk_total:q disk_free:q part_max_used:p reads bytes_read:q read_time writes bytes_written:q write_time"
    ),
    2006: _structure("bytes_in:q pkts_in errs_in drops_in bytes_out:q pkts_out errs_out drops_out"),
    2207: _structure("dp_hits dp_misses dp_lost dp_mask_hits dp_flows dp_masks"),
}
