"""The ports that NovaNet adds to a hypervisor's bridges: its tunnel, its wires to physical networks, its probes of peers.

Options are those of ovs-vswitchd.conf.db(5), table Interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import NamedTuple

from topology.model import BridgeMapping, Hypervisor, TunnelMesh

PREFIX = "nn-"
"""What the names of all of them begin with."""
TUNNEL_PORT = "nn-tun0"
PROBE_PREFIX = "nn-bfd-"

PROBE_NUMBERS = range(61000, 64000)
WIRE_NUMBERS = range(64000, 65000)
TUNNEL_NUMBERS = range(65000, 65001)
"""OpenFlow ports to ask for: high, where vswitchd's own choice for VMs does not come soon."""

DEFAULT_UDP_PORT = {"geneve": 6081, "vxlan": 4789}


class OwnPort(NamedTuple):
    """A port with one interface of the same name."""

    name: str
    type: str
    options: dict[str, str]
    numbers: range = range(0)
    """OpenFlow ports that it may ask for; it keeps the one that it has."""
    outside: str = ""
    """The operator's bridge without which it makes no sense."""
    there: bool = False
    """Whether it is on that bridge, and not on the integration bridge."""
    bfd: dict[str, str] = {}


class Wire(NamedTuple):
    """The pair of patch ports that leads to a physical network: ``here`` on the integration bridge."""

    physical_network: str
    here: OwnPort
    there: OwnPort


def tunnel(hypervisor: Hypervisor, mesh: TunnelMesh) -> Iterator[OwnPort]:
    """The port that carries the mesh: flow-based, one for all peers; none without tunnel_ip."""
    if hypervisor.tunnel_ip:
        options = {"remote_ip": "flow", "key": "flow", "tos": "inherit"} | _encapsulation(hypervisor.tunnel_ip, mesh)
        yield OwnPort(TUNNEL_PORT, mesh.tunnel_type, options, TUNNEL_NUMBERS)


def wires(mappings: tuple[BridgeMapping, ...]) -> Iterator[Wire]:
    """The pairs of patch ports, ordered by physical network."""
    for mapping in sorted(mappings, key=lambda mapping: mapping.physical_network):
        digest = blake2b(mapping.physical_network.encode(), digest_size=4).hexdigest()
        here, there = f"nn-phy-{digest}", f"nn-int-{digest}"
        yield Wire(
            mapping.physical_network,
            OwnPort(here, "patch", {"peer": there}, WIRE_NUMBERS, mapping.bridge),
            OwnPort(there, "patch", {"peer": here}, outside=mapping.bridge, there=True),
        )


def probe_name(peer_key: int) -> str:
    """The name of the port that watches the hypervisor with this key."""
    return f"{PROBE_PREFIX}{peer_key:x}"


def probes(hypervisor: Hypervisor, mesh: TunnelMesh, peers: Mapping[int, str]) -> Iterator[OwnPort]:
    """A port that watches each peer (hypervisor key -> tunnel_ip) by BFD (RFC 5880), inside the tunnels' own protocol.

    It has tunnel key 0, which no network has: what a peer sends for a network always arrives at the tunnel port, and a
    probe goes the way that data goes. Its DSCP is that of BFD, network control, so that congestion does not kill it.
    """
    interval = str(mesh.bfd_interval)
    bfd = {
        "enable": "true",
        "min_rx": interval,
        "min_tx": interval,
        "mult": str(mesh.bfd_multiplier),
        "check_tnl_key": "true",
        "oam": "true",
    }
    for key, tunnel_ip in sorted(peers.items()) if hypervisor.tunnel_ip else ():
        options = {"remote_ip": tunnel_ip, "tos": "inherit"} | _encapsulation(tunnel_ip, mesh)
        yield OwnPort(probe_name(key), mesh.tunnel_type, options, PROBE_NUMBERS, bfd=bfd)


def _encapsulation(address: str, mesh: TunnelMesh) -> dict[str, str]:
    options = {"dst_port": str(mesh.udp_port or DEFAULT_UDP_PORT[mesh.tunnel_type])}
    if ":" in address:
        options["csum"] = "true"  # RFC 8200 §8.1: UDP over IPv6 without checksum is dropped
    return options
