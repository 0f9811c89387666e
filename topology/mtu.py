"""What a tunnel costs and what that leaves for a VM.

Overheads are bytes in front of the VM's IP packet, counted in the MTU of the underlay: outer IP (20 or 40), UDP (8),
tunnel header (Geneve 8 and NovaNet's option of 4 + 12, RFC 8926; VXLAN 8, RFC 7348) and the inner Ethernet header (14).
"""

from __future__ import annotations

from collections.abc import Iterable

from .graph import Topology
from .model import Network, TunnelMesh

GENEVE_OPTION = 4 + 12
_TUNNEL = {"geneve": 8 + 8 + GENEVE_OPTION + 14, "vxlan": 8 + 8 + 14}
_OUTER_IP = {4: 20, 6: 40}
PROVIDER = 1500
"""Bytes of an IP packet on the wire of a provider network that names no MTU (RFC 894)."""


def overhead(tunnel_type: str, ip_version: int) -> int:
    """Bytes that the tunnel adds to a VM's IP packet."""
    return _OUTER_IP[ip_version] + _TUNNEL[tunnel_type]


def underlay_version(tunnel_ips: Iterable[str | None]) -> int:
    """6 as soon as one endpoint has an IPv6 address, since its packets are the larger ones; else 4."""
    return 6 if any(ip and ":" in ip for ip in tunnel_ips) else 4


def max_mtu(mesh: TunnelMesh | None, ip_version: int) -> int:
    """The largest IP packet that a VM may send so that it fits the underlay in a tunnel."""
    mesh = mesh or TunnelMesh(id="")
    return mesh.underlay_mtu - overhead(mesh.tunnel_type, ip_version)


def network_mtu(topology: Topology, network: Network) -> int:
    """The largest IP packet of a network: its own MTU, else that of Ethernet for a wire, and what fits a tunnel else."""
    if network.mtu is not None:
        return network.mtu
    return PROVIDER if network.physical_network is not None else max_mtu(topology.mesh, topology.underlay_version)
