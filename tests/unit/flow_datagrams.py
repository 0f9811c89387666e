"""Recorded datagrams of exporters, and the values in them, as ``expected`` files have them in InfluxDB's line protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FLOWS = Path(__file__).parents[3] / "shared" / "data" / "flows"
SETS = ("sflow_v5", "netflow_v5", "netflow_v9", "ipfix")
_FIELD = re.compile(r'(\w+)=("[^"]*"|[^,\s]+)')
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58}
_ENDS = {"idle timeout": 1, "active timeout": 2, "end of flow": 3, "forced end": 4, "lack of resources": 5}
_FLAGS = "CEUAPRSF"
_NAMES = {
    "netflow": {
        "protocol": "protocolIdentifier", "src_port": "sourceTransportPort", "dst_port": "destinationTransportPort",
        "in_bytes": "octetDeltaCount", "in_packets": "packetDeltaCount", "in_total_bytes": "octetTotalCount",
        "in_total_packets": "packetTotalCount", "flow_end_reason": "flowEndReason", "vlan_src": "vlanId",
        "flow_start_ms": "flowStartMilliseconds", "flow_end_ms": "flowEndMilliseconds", "src_tos": "ipClassOfService",
        "tcp_flags": "tcpControlBits", "engine_type": "engineType", "engine_id": "engineId", "fwd_status": "forwardingStatus",
        "flows": "flowCount", "first_switched": "flowStartSysUpTime", "last_switched": "flowEndSysUpTime",
        "sys_uptime": "systemUpTime", "bgp_src_as": "bgpSourceAsNumber", "bgp_dst_as": "bgpDestinationAsNumber",
        "src_mask": "sourceIPv4PrefixLength", "dst_mask": "destinationIPv4PrefixLength", "in_snmp": "ingressInterface",
        "out_snmp": "egressInterface", "next_hop": "ipNextHopIPv4Address", "seq_number": "sequenceNumber",
        "sampling_interval": "samplingInterval", "event_time": "observationTimeSeconds", "exporting_pid": "exportingProcessId",
        "observation_domain_id": "observationDomainId", "dropped_packets_total": "droppedPacketTotalCount",
        "exporter": "exporterIPv4Address", "ignored_packet_total": "ignoredPacketTotalCount",
        "notsent_packet_total": "notSentPacketTotalCount", "system_init_ms": "systemInitTimeMilliseconds",
        "total_flows_exported": "exportedFlowRecordTotalCount", "padding": "paddingOctets",
        "src": "sourceIPv4Address", "dst": "destinationIPv4Address",
    },
    "sFlowV5": {
        "agent_ip": "agent_address", "agent_subid": "sub_agent_id", "in_broadcast_packets_total": "ifInBroadcastPkts",
        "in_bytes": "ifInOctets", "in_dropped_packets": "ifInDiscards", "in_errors": "ifInErrors",
        "in_mcast_packets_total": "ifInMulticastPkts", "in_snmp": "source_id_index", "in_unicast_packets_total": "ifInUcastPkts",
        "in_unknown_protocol": "ifInUnknownProtos", "interface": "ifIndex", "interface_type": "ifType",
        "out_broadcast_packets_total": "ifOutBroadcastPkts", "out_bytes": "ifOutOctets", "out_dropped_packets": "ifOutDiscards",
        "out_errors": "ifOutErrors", "out_mcast_packets_total": "ifOutMulticastPkts", "out_unicast_packets_total": "ifOutUcastPkts",
        "port_name": "port_name", "promiscuous": "ifPromiscuousMode", "seq_number": "sample_sequence_number",
        "speed": "ifSpeed", "sys_uptime": "uptime",
    },
}  # fmt: skip
_VALUES: dict[str, Callable[[str], Any]] = {
    "protocol": _PROTOCOLS.__getitem__,
    "flow_end_reason": _ENDS.__getitem__,
    "tcp_flags": lambda text: sum((text[at] != ".") << 7 - at for at in range(8)),
    "engine_type": int,
    "fwd_status": lambda text: {"unknown": 0, "forwarded": 1, "dropped": 2, "consumed": 3}[text] << 6,
}


def datagrams(name: str) -> list[bytes]:
    """Those of an exporter, in their order."""
    found = [path.read_bytes() for path in sorted((FLOWS / f"{name}_example").glob("*.bin"))]
    assert found, f"{FLOWS} has none"
    return found


def expected(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each record what it is (``netflow`` or ``netflow_options``) and its values, by our names."""
    for line in (FLOWS / f"{name}_example" / "expected").read_text().splitlines():
        if line:
            head, rest = line.split(" ", 1)
            names = _NAMES["sFlowV5" if "sFlowV5" in head else "netflow"]
            yield head.split(",")[0], dict(_values(rest, names))


def _values(text: str, names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    for name, value in _FIELD.findall(text):
        plain = value.strip('"')
        if name in ("icmp_type", "icmp_code"):
            yield "icmpTypeCodeIPv4", 0
            assert plain == "0u"
        elif name == "ip_version":
            assert plain == "IPv4"
        elif name == "status":
            yield "ifStatus", {"up": 3, "down": 0}[plain]
        elif name == "fwd_reason":
            assert plain == "unknown"
        elif match := re.fullmatch(r"type_(\d+)_(rev_)?(\d+)", name):
            yield _of_enterprise(int(match[1]), bool(match[2]), int(match[3]), plain.removeprefix("0x"))
        elif name in _VALUES:
            yield names[name], _VALUES[name](plain)
        elif plain.startswith("0x"):
            yield names[name], plain[2:] if name == "padding" else int(plain, 16)
        else:
            yield names[name], int(value[:-1]) if value.endswith("u") else plain


def _of_enterprise(enterprise: int, reverse: bool, id: int, digits: str) -> tuple[str, Any]:
    if enterprise == 29305:
        from novanet_apps.telemetry.decode.elements import ELEMENTS

        name = ELEMENTS[id].name
        return "reverse" + name[0].upper() + name[1:], int(digits, 16)
    return f"{enterprise}/{id & 0x7FFF | (0x4000 if reverse else 0)}", digits
