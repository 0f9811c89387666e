"""What the Open vSwitch of a hypervisor has to look like, derived from the intent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from novanet_apps.hypervisors.ports import OwnPort, Wire, probes, tunnel, wires
from novanet_apps.hypervisors.queues import TABLES as QUEUE_TABLES
from novanet_apps.hypervisors.queues import QueueRows
from topology.exporters import COLUMNS
from topology.model import FlowExporter, Hypervisor, TunnelMesh
from topology.queues import Queues

OWNER = "novanet-owner"
"""Key in external_ids: the id of the hypervisor object for which NovaNet made or took over the row."""
EXPORTER = "novanet-exporter"
"""Key in external_ids of an export: the flow-exporter's id and revision, ``ID/NUMBER``."""
CREATED = "novanet-created"
"""Key in a bridge's external_ids: NovaNet made it and may remove it."""
DATAPATH_TYPE = "novanet-datapath-type"
"""Key in Open_vSwitch's external_ids with which a host says which datapath type a new bridge shall have."""

PROTOCOLS = ["OpenFlow13", "OpenFlow14", "OpenFlow15"]
CONTROLLER = {"connection_mode": ["out-of-band"], "inactivity_probe": [5000], "max_backoff": [1000]}
"""Reconnection within a second; probes that a busy controller still answers."""

TABLES = {
    "Open_vSwitch": ["bridges", "external_ids", "ovs_version"],
    "Bridge": [
        "name", "ports", "datapath_type", "datapath_id", "fail_mode", "protocols", "controller", "other_config",
        "external_ids", "sflow", "netflow", "ipfix",
    ],
    "sFlow": ["targets", "agent", "sampling", "polling", "header", "external_ids"],
    "NetFlow": ["targets", "active_timeout", "add_id_to_interface", "external_ids"],
    "IPFIX": ["targets", "sampling", "cache_active_timeout", "obs_domain_id", "other_config", "external_ids"],
    "Port": ["name", "interfaces", "qos", "external_ids"],
    "Interface": [
        "name", "type", "ofport", "ofport_request", "external_ids", "options", "mtu", "error", "admin_state", "bfd",
        "bfd_status",
    ],
    **QUEUE_TABLES,
    "Controller": ["target", "is_connected", "connection_mode", "inactivity_probe", "max_backoff"],
}  # fmt: skip
"""What is replicated: no column with statistics, so that a hypervisor at rest sends nothing.

``bfd_status`` changes with the state of a session, not with its packets.
"""


def datapath_id(hypervisor_key: int) -> int:
    """The OpenFlow datapath id of a hypervisor's bridge: "NN", then the 48-bit key."""
    return 0x4E4E << 48 | hypervisor_key


class Exporter(NamedTuple):
    """A row of the table ``sFlow``, ``NetFlow`` or ``IPFIX``, which the bridge's column ``column`` refers to."""

    column: str
    table: str
    mark: str
    """What ``EXPORTER`` is."""
    columns: dict[str, Any]


def exporters(found: Iterable[FlowExporter], hypervisor: Hypervisor) -> Iterator[Exporter]:
    """The rows of a hypervisor's flow exporters (ovs-vswitchd.conf.db(5)). What the exporter leaves out stays empty."""
    for each in found:
        columns: dict[str, Any] = {"targets": sorted(each.targets)}
        if each.type == "sflow":
            columns |= {name: _optional(getattr(each, name)) for name in ("sampling", "polling", "header")}
            agent = hypervisor.tunnel_ip or hypervisor.underlay_interface
            columns["agent"] = [agent] if agent else []
        elif each.type == "netflow":
            columns |= {"active_timeout": each.active_timeout or 0, "add_id_to_interface": False}
        else:
            columns |= {"sampling": _optional(each.sampling), "cache_active_timeout": _optional(each.active_timeout)}
            columns |= {
                "obs_domain_id": [hypervisor.hypervisor_key or 0],
                "other_config": {"enable-tunnel-sampling": "true"},
            }
        yield Exporter(each.type, COLUMNS[each.type], f"{each.id}/{each.revision_number}", columns)


def _optional(value: int | None) -> list[int]:
    return [] if value is None else [value]


class Desired(NamedTuple):
    """What a hypervisor's integration bridge has to be, and the ports that NovaNet needs there and on other bridges."""

    owner: str
    bridge: str
    datapath_type: str
    datapath_id: int
    controllers: tuple[str, ...]
    ports: tuple[OwnPort, ...]
    wires: tuple[Wire, ...]
    """Their ports are among ``ports``."""
    probing: bool
    """Whether it is known which peers are to be watched; until then probes that are there stay."""
    exporters: tuple[Exporter, ...] | None = None
    """None while it is not known what is to be exported; until then what there is stays."""
    queues: tuple[QueueRows, ...] | None = None
    """Of the uplinks that Open vSwitch has to shape; None while it is not known what they are to have."""


def desired(
    hypervisor: Hypervisor,
    mesh: TunnelMesh | None,
    controllers: tuple[str, ...],
    peers: Mapping[int, str] | None = None,
    exporting: Iterable[FlowExporter] | None = None,
    queueing: Iterable[Queues] | None = None,
) -> Desired:
    """Derive it; ``peers`` are those to be watched (hypervisor key -> tunnel_ip), None while that is not known.

    ``exporting`` are the flow exporters that there are to be, and ``queueing`` what uplinks are to have that Open vSwitch has to shape;
    None while that is not known.
    """
    mesh = mesh or TunnelMesh(id="")
    pairs = tuple(wires(hypervisor.bridge_mappings))
    return Desired(
        owner=hypervisor.id,
        bridge=hypervisor.bridge,
        datapath_type=hypervisor.datapath_type,
        datapath_id=datapath_id(hypervisor.hypervisor_key or 0),
        controllers=controllers,
        ports=(
            *tunnel(hypervisor, mesh),
            *(port for wire in pairs for port in (wire.here, wire.there)),
            *probes(hypervisor, mesh, peers or {}),
        ),
        wires=pairs,
        probing=peers is not None,
        exporters=None if exporting is None else tuple(exporters(exporting, hypervisor)),
        queues=None if queueing is None else tuple(map(QueueRows.of, queueing)),
    )
