"""The pipeline: its tables in order, what each reads and where it may go.

Table numbers follow from the order here; docs/pipeline.md is generated from it, and ``check`` holds every flow
against it. A table belongs to a feature; while the feature's app is not loaded, the table just passes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import fields as f
from .flow import Flow


class Table(NamedTuple):
    """A declared table."""

    number: int
    name: str
    feature: str
    summary: str
    reads: tuple[f.Field, ...]
    goes_to: tuple[str, ...]
    """Names of the tables that flows here may go to or resubmit to."""
    otherwise: str
    """Where a packet goes that no flow wants: the name of a table, or empty: it is dropped."""
    reason: str
    """Why such a packet is dropped, in the words that a user reads."""


_ND = (f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE, f.ND_TARGET, f.ND_SLL, f.ND_TLL)
_ARP = (f.ETH_TYPE, f.ARP_OP, f.ARP_SPA, f.ARP_TPA, f.ARP_SHA)

PIPELINE: tuple[Table, ...] = tuple(
    Table(number, *declared)
    for number, declared in enumerate(
        [
            (
                "classify",
                "switching",
                "Which VM port or tunnel the packet comes from; puts it into its network.",
                (f.IN_PORT,),
                ("tunnel_admit", "port_security"),
                "",
                "no VM is plugged into this port",
            ),
            (
                "tunnel_admit",
                "overlay",
                "Accepts tunnel packets from known hypervisors only; reads destination and identity from the Geneve option.",
                (f.TUN_SRC, f.TUN_IPV6_SRC, f.TUN_OPTION),
                ("l2_lookup", "flood", "local_output"),
                "",
                "tunnel packet from an address that is no hypervisor's",
            ),
            (
                "port_security",
                "switching",
                "Anti-spoofing: the MAC and IP addresses, ARP senders and DHCP requests that a port may send.",
                (f.IN_PORT_KEY, f.ETH_SRC, f.IPV4_SRC, f.IPV4_DST, f.IPV6_SRC, f.UDP_SRC, f.UDP_DST, *_ARP, *_ND),
                ("nd_security", "services"),
                "",
                "source address is not the port's",
            ),
            (
                "nd_security",
                "switching",
                "Anti-spoofing of IPv6 neighbour discovery; router advertisements and redirects of VMs.",
                (f.IN_PORT_KEY, *_ND),
                ("services",),
                "services",
                "",
            ),
            (
                "services",
                "services",
                "Answers ARP requests and neighbour solicitations for the network's ports.",
                (f.NETWORK, f.IN_PORT_KEY, *_ARP, *_ND),
                ("nd_reply", "l2_lookup"),
                "l2_lookup",
                "",
            ),
            (
                "nd_reply",
                "services",
                "Completes a neighbour advertisement that `services` began, and sends it back.",
                (f.ETH_TYPE, f.IP_PROTO, f.ICMPV6_TYPE),
                (),
                "",
                "not a neighbour advertisement",
            ),
            (
                "l2_lookup",
                "switching",
                "Where the destination MAC address is: a VM here, a VM behind a tunnel, or several.",
                (f.NETWORK, f.ETH_DST, f.FLAGS),
                ("flood", "tunnel_flood", "local_output", "tunnel_output"),
                "",
                "destination MAC is unknown in the network",
            ),
            (
                "flood",
                "switching",
                "Broadcast and multicast: a copy for every VM of the network here.",
                (f.NETWORK,),
                ("tunnel_flood", "local_output"),
                "tunnel_flood",
                "",
            ),
            (
                "tunnel_flood",
                "overlay",
                "Broadcast and multicast: one copy for every other hypervisor of the network.",
                (f.NETWORK, f.FLAGS),
                ("tunnel_output",),
                "",
                "delivered here; nobody else to send it to",
            ),
            (
                "local_output",
                "switching",
                "Hands the packet to the VM.",
                (f.OUT_PORT_KEY, f.NETWORK),
                (),
                "",
                "destination port is not on this hypervisor",
            ),
            (
                "tunnel_output",
                "overlay",
                "Puts the packet into the tunnel to its hypervisor, with VNI, destination port and identity.",
                (f.PEER,),
                (),
                "",
                "no tunnel to the destination's hypervisor",
            ),
        ]
    )
)

(
    CLASSIFY,
    TUNNEL_ADMIT,
    PORT_SECURITY,
    ND_SECURITY,
    SERVICES,
    ND_REPLY,
    L2_LOOKUP,
    FLOOD,
    TUNNEL_FLOOD,
    LOCAL_OUTPUT,
    TUNNEL_OUTPUT,
) = PIPELINE

BY_NAME: dict[str, Table] = {table.name: table for table in PIPELINE}

MISS = 0
"""Priority of a table's flow for packets that no other wants."""


def check(flow: Flow) -> None:
    """Raise ValueError where a flow does what its table does not declare."""
    if not 0 <= flow.table < len(PIPELINE):
        raise ValueError(f"table {flow.table} is not declared")
    table = PIPELINE[flow.table]
    readable = {(field.oxm_class, field.field) for field in table.reads}
    for key in _matched(flow.match):
        if key not in readable:
            raise ValueError(f"{table.name}: matches {f.FIELDS.get(key, key)}, which the table does not declare")
    targets = {BY_NAME[name].number for name in (*table.goes_to, table.otherwise) if name}
    if flow.goto is not None and flow.goto not in targets:
        raise ValueError(f"{table.name}: goes to table {flow.goto}, which the table does not declare")


def _matched(match: bytes) -> Iterator[tuple[int, int]]:
    """(class, number) of every field in a match."""
    at = 0
    while at < len(match):
        yield int.from_bytes(match[at : at + 2], "big"), match[at + 2] >> 1
        at += 4 + match[at + 3]
