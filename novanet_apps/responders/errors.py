"""ICMP errors (RFC 792, RFC 4443) in the name of routers, and of the network where a packet is too large for a tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novanet_apps.punts import Punt
from pipelines import fields as f
from pipelines.packets import frames, icmp
from pipelines.punting import Reason
from topology.model import Port
from topology.mtu import max_mtu, network_mtu

if TYPE_CHECKING:
    from novanet_apps.core import Core


class IcmpErrors:
    """Says why a packet does not go on."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def start(self) -> None:
        """Begin to answer."""
        for reason in (
            Reason.TTL_EXCEEDED, Reason.NO_ROUTE, Reason.HOST_UNREACHABLE, Reason.PORT_UNREACHABLE, Reason.TOO_BIG,
        ):  # fmt: skip
            self.core.punts.on(reason, self._answer)

    def _answer(self, punt: Punt) -> None:
        try:
            ethernet = frames.read_ethernet(punt.frame)
            packet = frames.read_ip(ethernet)
        except frames.Malformed:
            return
        if not punt.router_key:
            if punt.reason is Reason.TOO_BIG:  # switched, so nobody is on the way: the destination itself says so
                self._reply(punt, icmp.too_big(punt.frame, self._tunnel_mtu(), ethernet.dst, packet.dst))
            return
        source = self._router_at(punt, packet.version)
        if source is None:
            return
        mac, address = source
        match punt.reason:
            case Reason.TTL_EXCEEDED:
                error = icmp.time_exceeded(punt.frame, mac, address)
            case Reason.NO_ROUTE:
                error = icmp.unreachable(punt.frame, icmp.Unreachable.NO_ROUTE, mac, address)
            case Reason.HOST_UNREACHABLE:
                error = icmp.unreachable(punt.frame, icmp.Unreachable.HOST, mac, address)
            case Reason.PORT_UNREACHABLE if packet.protocol == f.TCP:
                error = icmp.tcp_reset(punt.frame, mac)
            case Reason.PORT_UNREACHABLE:
                error = icmp.unreachable(punt.frame, icmp.Unreachable.PORT, mac, packet.dst)
            case _:
                error = icmp.too_big(punt.frame, self._mtu(punt), mac, address)
        if error is not None:
            self.core.punts.route(punt, error)

    def _reply(self, punt: Punt, frame: bytes | None) -> None:
        if frame is not None:
            self.core.punts.reply(punt, frame)

    def _router_at(self, punt: Punt, version: int) -> tuple[int, int] | None:
        """MAC and IP address of the router in the network that the packet was in, else in any that it has."""
        topology = self.core.topology
        router = topology.router_keys.get(punt.router_key, "")
        network = topology.vnis.get(punt.vni)
        interfaces: list[Port] = sorted(topology.interfaces_of(router), key=lambda port: port.network_id != network)
        for port in interfaces:
            for fixed in port.fixed_ips or ():
                if fixed.ip_address and (":" in fixed.ip_address) == (version == 6):
                    return f.mac(port.mac_address or ""), f.ip(fixed.ip_address)
        return None

    def _mtu(self, punt: Punt) -> int:
        """Bytes that go on: through the network that the packet was routed to, or through the tunnel."""
        network = self.core.topology.get("network", self.core.topology.vnis.get(punt.vni, ""))
        tunnel = self._tunnel_mtu()
        return tunnel if network is None else min(tunnel, network_mtu(self.core.topology, network))

    def _tunnel_mtu(self) -> int:
        return max_mtu(self.core.topology.mesh, self.core.topology.underlay_version)
