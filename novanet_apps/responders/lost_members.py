"""Connections with load balancers whose member is gone: forgotten, and reset at both ends or begun anew with another member."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from novanet_apps.punts import Punt
from pipelines import fields as f
from pipelines.flow import Action, resubmit, set_field
from pipelines.packets import frames
from pipelines.packets.connections import Connection, connection
from pipelines.punting import Reason
from pipelines.tables import CLASSIFY, LB_VIP
from pipelines.wire import Tracked, Tuple
from topology import balancing
from topology.model import Member, Port, Vif

from .errors import IcmpErrors

if TYPE_CHECKING:
    from novanet_apps.core import Core

_REGISTERS = [f.METADATA, *(f.register(number) for number in range(16) if f.register(number) is not f.PUNT)]
"""What the pipeline knows of a packet."""
_DESTINATION = {
    (4, f.TCP): (f.IPV4_DST, f.TCP_DST), (4, f.UDP): (f.IPV4_DST, f.UDP_DST),
    (6, f.TCP): (f.IPV6_DST, f.TCP_DST), (6, f.UDP): (f.IPV6_DST, f.UDP_DST),
}  # fmt: skip
_RST, _ACK = 4, 16


class LostMembers:
    """Has switches forget such connections, one by one, as their clients use them (``pipelines.balancing_ends``).

    What it gets is translated already; the switch tells what it was before.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._errors = IcmpErrors(core)

    def start(self) -> None:
        """Begin to answer."""
        self.core.punts.on(Reason.MEMBER_GONE, self._reset)
        self.core.punts.on(Reason.ANOTHER_MEMBER, self._begin_anew)

    def _reset(self, punt: Punt) -> None:
        """Both ends are told that the connection is no more; the member too, which may live: it was only taken from the pool."""
        asked = self._forgotten(punt)
        if asked is None:
            return
        try:
            lost = frames.read_tcp(punt.frame)
        except frames.Malformed:
            return
        ethernet, ip = lost.ethernet, lost.ip
        sent = frames.tcp(
            ip.version, ip.src, asked.destination, lost.src_port, asked.second or 0, lost.seq, lost.ack, lost.flags
        )
        frame = frames.ethernet(ethernet.dst, ethernet.src, ethernet.ethertype, sent, ethernet.tci)
        self._errors.answer(punt._replace(reason=Reason.PORT_UNREACHABLE, frame=frame))
        self._tell_member(punt, lost)

    def _tell_member(self, punt: Punt, lost: frames.Tcp) -> None:
        """A reset from the client's own port, so that whatever has tracked the connection on the way learns of it as well."""
        topology = self.core.topology
        port: Port | None = topology.get("port", topology.port_keys.get(punt.port_key, ""))
        vif: Vif | None = topology.get("vif", port.id) if port is not None else None
        mac = self._next_hop(port, lost.ip) if port is not None else None
        if port is None or vif is None or vif.ofport is None or mac is None:
            return
        packet = frames.tcp(
            lost.ip.version, lost.ip.src, lost.ip.dst, lost.src_port, lost.dst_port, lost.seq, lost.ack, _RST | _ACK
        )
        frame = frames.ethernet(f.mac(mac), f.mac(port.mac_address or ""), lost.ethernet.ethertype, packet)
        self.core.engine.packet_out(punt.hypervisor_id, frame, (resubmit(CLASSIFY.number),), vif.ofport)

    def _next_hop(self, port: Port, ip: frames.Ip) -> str | None:
        """MAC address of the port that has a packet's destination, or of the network's router; None where there is neither."""
        topology, address = self.core.topology, str((IPv4Address if ip.version == 4 else IPv6Address)(ip.dst))
        here = [topology.addresses.get((subnet, address)) for subnet in topology.subnets_of(port.network_id)]
        beside: list[Port] = [topology.get("port", id) for id in here if id is not None]
        routers = sorted(topology.routed_by(port.network_id), key=lambda each: each.id)
        return next((each.mac_address for each in (*beside, *routers)), None)

    def _begin_anew(self, punt: Punt) -> None:
        """The packet is as it was sent again, and gets another member, as a new connection does."""
        asked = self._forgotten(punt)
        if asked is not None:
            address, port = _DESTINATION[asked.version, asked.protocol]
            restored: list[Action] = [set_field(address, asked.destination), set_field(port, asked.second or 0)]
            known = [set_field(each, punt.fields[each]) for each in _REGISTERS if each in punt.fields]
            again = (*restored, *known, resubmit(LB_VIP.number))
            self.core.engine.packet_out(punt.hypervisor_id, punt.frame, again, punt.in_port)

    def _forgotten(self, punt: Punt) -> Connection | None:
        """The connection as its client knows it, of which the switch knows no more; None where it still does.

        That is so where the switch cannot forget, and while the member is there for its connections after all: its flows are on their way.
        """
        fields, sent = punt.fields, connection(punt.frame)
        if sent is None or sent.first is None or self._is_kept(fields.get(f.CT_MARK, 0)):
            return None
        address = fields.get(f.CT_IPV6_DST if sent.version == 6 else f.CT_NW_DST, 0)
        asked = sent._replace(destination=address, second=fields.get(f.CT_TP_DST, 0))
        its = Tracked(asked.version, asked.protocol, Tuple(asked.source, asked.destination, asked.first, asked.second))
        known = self.core.engine.forget_connections(punt.hypervisor_id, fields.get(f.CT_ZONE, 0), its)
        return asked if known or punt.reason is Reason.MEMBER_GONE else None

    def _is_kept(self, member_key: int) -> bool:
        topology = self.core.topology
        member: Member | None = topology.get("member", topology.member_keys.get(member_key, ""))
        return member is not None and balancing.keeps(topology, member)
