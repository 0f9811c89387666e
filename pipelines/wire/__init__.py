"""Flows, groups and meters as OpenFlow 1.3, 1.4 and 1.5 bytes, and readers of what a switch answers.

| module       | what it does                                                                    |
|--------------|---------------------------------------------------------------------------------|
| `openflow`   | numbers of the protocol; cutting a stream into messages                         |
| `actions`    | the actions that differ by version                                              |
| `flows`      | a flow as key and body, and the flow-mods made of them                          |
| `groups`     | groups and meters                                                               |
| `conntrack`  | what a switch is to forget of its connections                                   |
| `requests`   | barriers, bundles, roles, questions to the switch, Geneve options               |
| `delta`      | changes of a switch, and the bundles that make them                             |
| `packets`    | packets for the controller and from it                                          |
| `replies`    | what a switch sends: answers, flows that ended                                  |
| `multipart`  | what a switch has: flows with counters, groups, meters, ports                   |
| `structures` | matches and statistics in what a switch sends                                   |
| `errors`     | what a switch refuses, in words                                                 |
| `decode`     | matches, actions and instructions as values                                     |
| `describe`   | flows, groups and meters in a line                                              |
"""

from .conntrack import Tracked, Tuple, ct_flush, ct_flush_zone
from .delta import BUNDLE_SIZE, Batch, Delta, Subject, batches
from .describe import describe, describe_group, describe_meter
from .errors import Error
from .flows import encode_flow, flow_add, flow_delete
from .groups import encode_group, encode_meter, group_delete, group_put, meter_delete, meter_put
from .multipart import (
    FlowEntry,
    MeterCount,
    MeterFeatures,
    Part,
    aggregate,
    flows,
    groups,
    meter_counters,
    meter_features,
    meters,
    ports,
)
from .openflow import OF13, OF14, OF15, VERSIONS, Framer, Message, Multipart, Type, message
from .packets import PacketIn, encode_packet_out, read_packet_in
from .replies import BundleReply, FlowRemoved, PortStatus, Reply, RoleReply, TlvTable, read
from .requests import (
    Bundle,
    Role,
    TlvCommand,
    aggregate_request,
    barrier,
    bundle_adds,
    bundle_control,
    flows_request,
    groups_request,
    hello,
    meter_counters_request,
    meter_features_request,
    meters_request,
    ports_request,
    role_request,
    set_async,
    tlv_mod,
    tlv_request,
)

__all__ = [
    "BUNDLE_SIZE", "OF13", "OF14", "OF15", "VERSIONS", "Batch", "Bundle", "BundleReply", "Delta", "Error", "FlowEntry",
    "FlowRemoved", "Framer", "Message", "MeterCount", "MeterFeatures", "Multipart", "PacketIn", "Part", "PortStatus", "Reply", "Role", "RoleReply", "Subject", "TlvCommand", "TlvTable", "Tracked", "Tuple", "Type",
    "aggregate", "aggregate_request", "barrier", "batches", "bundle_adds", "bundle_control", "ct_flush", "ct_flush_zone", "describe", "describe_group",
    "describe_meter", "encode_flow", "encode_group", "encode_meter", "encode_packet_out", "flow_add", "flow_delete", "flows", "flows_request",
    "group_delete", "group_put", "groups", "groups_request", "hello", "message", "meter_counters", "meter_counters_request", "meter_delete", "meter_features", "meter_features_request", "meter_put", "meters",
    "meters_request", "ports", "ports_request", "read", "read_packet_in", "role_request", "set_async", "tlv_mod", "tlv_request",
]  # fmt: skip
