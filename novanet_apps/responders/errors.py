"""ICMP errors (RFC 792, RFC 4443) and TCP resets in the name of routers, and of destinations: where a packet is too large for a
tunnel, and where a load balancer does not listen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from novanet_apps.punts import Punt, through
from pipelines import fields as f
from pipelines.packets import frames, icmp
from pipelines.punting import Reason
from pipelines.tables import PROVIDER_OUTPUT
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
            self.core.punts.on(reason, self.answer)

    def answer(self, punt: Punt) -> None:
        """Say so, in the name of whoever has to."""
        offender = _offender(punt.frame)
        if offender is None:
            return
        if punt.router_key:
            self._answer_as_router(punt, offender)
        elif punt.reason in (Reason.TOO_BIG, Reason.PORT_UNREACHABLE):
            self._answer_as_destination(punt, offender)

    def _answer_as_destination(self, punt: Punt, offender: _Offender) -> None:
        """A packet that was only switched met nobody on its way, so the destination itself says what is wrong with it."""
        mac, address = offender.eth_dst, offender.ip_dst
        if punt.reason is Reason.TOO_BIG:
            error = icmp.too_big(punt.frame, self._tunnel_mtu(), mac, address)
        else:
            error = _no_such_port(punt.frame, offender, mac)
        if error is None:
            return
        if punt.fields.get(f.FLAGS, 0) & f.FROM_PROVIDER.mask:
            self.core.punts.inject(punt.hypervisor_id, error, through(PROVIDER_OUTPUT, punt.vni))
        else:
            self.core.punts.reply(punt, error)

    def _answer_as_router(self, punt: Punt, offender: _Offender) -> None:
        source = self._router_at(punt, offender.version)
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
            case Reason.PORT_UNREACHABLE:
                error = _no_such_port(punt.frame, offender, mac)
            case _:
                error = icmp.too_big(punt.frame, self._mtu(punt), mac, address)
        if error is not None:
            self.core.punts.route(punt, error)

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
        """Bytes that go on: through the tunnel that the packet was to take, else in the network that it was routed to."""
        network = self.core.topology.get("network", self.core.topology.vnis.get(punt.vni, ""))
        if punt.fields.get(f.PEER) or network is None:
            return self._tunnel_mtu()
        return network_mtu(self.core.topology, network)

    def _tunnel_mtu(self) -> int:
        return max_mtu(self.core.topology.mesh, self.core.topology.underlay_version)


class _Offender(NamedTuple):
    """Of a packet that is answered with an error, what the answer depends on."""

    version: int
    eth_dst: int
    ip_dst: int
    protocol: int


def _no_such_port(frame: bytes, offender: _Offender, mac: int) -> bytes | None:
    """The refusal that comes from where a packet was sent to."""
    if offender.protocol == f.TCP:
        return icmp.tcp_reset(frame, mac)
    return icmp.unreachable(frame, icmp.Unreachable.PORT, mac, offender.ip_dst)


class _Header(NamedTuple):
    """Where an IP header has what is needed."""

    version: int
    protocol: int
    destination: slice


_HEADERS = {f.IPV4: _Header(4, 9, slice(16, 20)), f.IPV6: _Header(6, 6, slice(24, 40))}


def _offender(frame: bytes) -> _Offender | None:
    """None for what is no IP packet; whether it may be answered at all, ``icmp`` knows."""
    try:
        ethernet = frames.read_ethernet(frame)
    except frames.Malformed:
        return None
    header, packet = _HEADERS.get(ethernet.ethertype), ethernet.payload
    if header is None or len(packet) < header.destination.stop:
        return None
    ip_dst = int.from_bytes(packet[header.destination], "big")
    return _Offender(header.version, ethernet.dst, ip_dst, packet[header.protocol])
