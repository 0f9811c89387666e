"""The metrics of the core: what each is called at /metrics, and where its value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from novanet_apps.telemetry import metrics as telemetry
from topology import qos

if TYPE_CHECKING:
    from novanet_apps.balancing_counters import BalancingCounters
    from novanet_apps.core import Core
    from novanet_apps.histogram import Histogram
    from novanet_apps.punts import Punts

Metric = tuple[str, str, Any]
"""Type (``counter``, ``gauge`` or ``histogram``), help, and a value or a list of (labels, value)."""

ENGINE = {
    "flows_sent": "Flow-mods sent that add or change a flow.",
    "flows_deleted": "Flow-mods sent that delete a flow.",
    "groups_sent": "Group-mods sent.",
    "meters_sent": "Meter-mods sent.",
    "bundles": "OpenFlow bundles committed.",
    "bundle_errors": "Bundles that a switch refused.",
    "resyncs": "Times that a bridge was read whole before it was changed.",
    "audits": "Comparisons of a bridge with what it should have, in the background.",
    "drift_repaired": "Flows, groups and meters found to be otherwise than set, and put right.",
    "connections_flushed": "Requests that a switch forget connections, of a port or of a member that is gone.",
    "flushes_refused": "Such requests that a switch refused.",
    "bytes_sent": "Bytes sent to switches.",
    "messages_received": "OpenFlow messages received from switches.",
    "connections": "OpenFlow connections accepted.",
    "connection_errors": "OpenFlow connections closed because of what came over them.",
}
STORE = {
    "transactions": "Transactions committed to the intent store.",
    "writes": "Objects written to the intent store.",
    "retries": "Transactions repeated because another controller was faster.",
    "refused": "Writes refused.",
    "failed": "Writes that the store's server did not take.",
}


def collect(core: Core) -> dict[str, Metric]:
    """Every metric of the core, by name."""
    engine, store, reconciler = core.engine.counters, core.store.counters, core.reconciler
    found: dict[str, Metric] = {
        f"novanet_{name}_total": ("counter", help, getattr(engine, name)) for name, help in ENGINE.items()
    }
    found |= {f"novanet_store_{name}_total": ("counter", help, store.get(name, 0)) for name, help in STORE.items()}
    compiled = [({"owner": kind}, count) for kind, count in sorted(reconciler.compiler.compiled.items())]
    found |= {
        "novanet_owners_compiled_total": ("counter", "Owners compiled for a hypervisor, by kind.", compiled),
        "novanet_full_recomputes_total": (
            "counter", "Times that everything of a hypervisor was compiled, as when it is first seen.",
            reconciler.full_recomputes,
        ),
        "novanet_captures_saved_total": ("counter", "Files of captures that agents have handed over.", core.captures.saved),
        "novanet_captures_refused_total": (
            "counter", "Files of captures for which there was no room or no use; the log says why.", core.captures.refused,
        ),
        "novanet_punts_total": (
            "counter", "Packets that switches handed to the controller, by reason.", _punts(core.punts.received),
        ),
        "novanet_punts_failed_total": (
            "counter", "Such packets whose answer failed, by reason; the log says why.", _punts(core.punts.failed),
        ),
        "novanet_punts_refused_total": (
            "counter", "What such packets asked for and a limit forbade, by reason.", _punts(core.punts.refused),
        ),
        "novanet_multicast_groups": (
            "gauge", "Multicast groups of networks that VMs want.",
            sum(bool(group.ports) for group in core.topology.all("multicast-group").values()),
        ),
        "novanet_identities": (
            "gauge", "Distinct sets of security groups and labels of ports, retired ones included.",
            len(core.topology.identities),
        ),
        "novanet_identities_collected_total": (
            "counter", "Identities deleted because no port had them.", core.identities.counters["deleted"],
        ),
        "novanet_identity_handovers_total": (
            "counter", "Times that a plugged port got another identity.", core.handovers.counters["begun"],
        ),
        "novanet_identity_handovers_hurried_total": (
            "counter", "Such times when a connected hypervisor was too slow for the others to wait for it.",
            core.handovers.counters["hurried"],
        ),
        "novanet_punt_seconds": (
            "histogram", "How long answers to such packets took in the controller, by reason.", _times(core.punts),
        ),
        "novanet_security_group_packets_total": (
            "counter", "Packets that rules of security groups decided, by group, direction and action.",
            core.rule_counters.series("packets"),
        ),
        "novanet_security_group_bytes_total": (
            "counter", "Bytes of such packets, from the Ethernet header on.", core.rule_counters.series("bytes"),
        ),
        "novanet_security_group_log_entries_total": (
            "counter", "Entries of the log of security groups, by verdict.",
            [({"verdict": verdict}, made) for verdict, made in sorted(core.policy_log.entries.items())],
        ),
        "novanet_security_group_log_suppressed_total": (
            "counter", "Packets that were not logged because there were too many at once for the controller.",
            core.policy_log.suppressed,
        ),
        **_balancing(core.balancing_counters),
        "novanet_qos_packets_total": (
            "counter", "Packets that limits of policies passed and dropped, by port, router or floating IP, direction and rule.",
            core.meter_counters.series("packets"),
        ),
        "novanet_qos_bytes_total": (
            "counter", "Bytes of such packets, from the Ethernet header on.", core.meter_counters.series("bytes"),
        ),
        "novanet_drops_total": ("counter", "Packets dropped, by hypervisor, table and reason.", _drops(core)),
        "novanet_loop_lag_ms_max": (
            "gauge", "Longest time in milliseconds that the event loop was held since the start.", engine.loop_lag_ms_max,
        ),
        "novanet_flows": ("gauge", "Flows that each hypervisor's bridge is to have.", _flows(core)),
        **_uplinks(core),
        **telemetry.collect(core.telemetry),
        "novanet_connected": ("gauge", "Whether a hypervisor is connected, by protocol.", _connected(core)),
    }  # fmt: skip
    return found


def _balancing(counters: BalancingCounters) -> dict[str, Metric]:
    """What members of load balancers have had, and how slots are shared."""
    return {
        "novanet_lb_connections_total": (
            "counter", "Connections that load balancers gave to members, by pool and member.", counters.connections(),
        ),
        "novanet_lb_bytes_total": (
            "counter", "Bytes to members (in) and of their answers (out), from the Ethernet header on.", counters.bytes(),
        ),
        "novanet_lb_slots": ("gauge", "Slots of a pool's table that a member has.", counters.slots_by_member()),
        "novanet_lb_slots_moved_total": (
            "counter", "Slots that went from one member of a pool to another.", counters.slots_moved(),
        ),
        "novanet_lb_members": (
            "gauge", "Members of pools, by how they are doing.", counters.by_operating_status(),
        ),
    }  # fmt: skip


_OF_UPLINKS = {
    "bandwidth": "Bits per second that may leave by an uplink.",
    "guaranteed": "Bits per second of an uplink that have been guaranteed to ports.",
    "left": "Bits per second of an uplink that can still be guaranteed; negative where more has been than there is.",
}


def _uplinks(core: Core) -> dict[str, Metric]:
    """What hypervisors' uplinks have, and have promised."""
    series: dict[str, list[tuple[dict[str, str], int]]] = {name: [] for name in _OF_UPLINKS}
    for hypervisor in core.topology.all("hypervisor").values():
        for account in qos.guarantees(core.topology, hypervisor.id).uplinks if hypervisor.uplinks else ():
            labels = {"hypervisor": hypervisor.name, "interface": account.interface}
            for name, kbps in zip(
                _OF_UPLINKS, (account.bandwidth_kbps, account.promised_kbps, account.left_kbps), strict=True
            ):
                series[name].append((labels, 1000 * kbps))
    return {f"novanet_uplink_{name}_bps": ("gauge", help, series[name]) for name, help in _OF_UPLINKS.items()}


def _punts(counts: Mapping[str, float]) -> list[tuple[dict[str, str], float]]:
    return [({"reason": reason.lower()}, count) for reason, count in sorted(counts.items())]


def _times(punts: Punts) -> list[tuple[dict[str, str], Histogram]]:
    return [({"reason": reason.lower()}, times) for reason, times in sorted(punts.times.items())]


def _drops(core: Core) -> list[tuple[dict[str, str], int]]:
    found = []
    for hypervisor, counted in core.drops.packets.items():
        obj = core.topology.get("hypervisor", hypervisor)
        name = obj.name if obj is not None else hypervisor
        for (table, reason), packets in sorted(counted.items()):
            found.append(({"hypervisor": name, "table": table, "reason": reason}, packets))
    return found


def _flows(core: Core) -> list[tuple[dict[str, str], int]]:
    hypervisors = core.topology.all("hypervisor").values()
    return [({"hypervisor": obj.name}, int(core.engine.state(obj.id).get("flows", 0))) for obj in hypervisors]


def _connected(core: Core) -> list[tuple[dict[str, str], int]]:
    found = []
    for obj in core.topology.all("hypervisor").values():
        for protocol, part in (("openflow", core.engine), ("ovsdb", core.hypervisors)):
            state: dict[str, Any] = part.state(obj.id)
            found.append(({"hypervisor": obj.name, "protocol": protocol}, int(bool(state.get("connected")))))
    return found
