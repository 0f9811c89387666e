"""What quality of service comes to: what uplinks have left, and what holds for a port or a floating IP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from webob import Response

from novanet_apps.qos_verification import VerificationError, Verifier
from topology import qos
from topology.model import Hypervisor, Meters, Network, Port
from topology.qos_status import shaper as shaper_of
from topology.qos_verdicts import Check, Verdict

from . import queries
from .problems import Problem
from .resources import answer
from .views import Views, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .api import Call


LEAST_SECONDS, MOST_SECONDS, DEFAULT_SECONDS = 1.0, 60.0, 5.0
"""How long a port is looked at."""


class PortGuarantee(Struct, frozen=True, kw_only=True):
    """What a port has been promised, in kbit/s."""

    port_id: str
    port_name: str
    project_id: str
    min_kbps: int
    granted_kbps: int
    """Less where more has been promised than there is; 0 without an uplink."""


class UplinkBandwidth(Struct, frozen=True, kw_only=True):
    """An uplink, in kbit/s."""

    interface: str
    physical_networks: list[str]
    """What it carries; the empty one stands for tunnels."""
    bandwidth_kbps: int
    reserve_kbps: int
    """Never promised, for traffic without a guarantee."""
    guaranteed_kbps: int
    left_kbps: int
    """What can still be guaranteed; negative where VMs were plugged that have been promised more than there is."""
    shaper: Literal["agent", "ovsdb"]
    """Who is to keep the promises: the hypervisor's agent, or Open vSwitch with queues by OVSDB, where it honours them."""
    shaped: bool
    """Whether it does."""
    error: str
    """What keeps it from that."""
    guarantees: list[PortGuarantee]


class HypervisorBandwidth(Struct, frozen=True, kw_only=True):
    """What a hypervisor can give, and has given."""

    hypervisor_id: str
    hypervisor_name: str
    uplinks: list[UplinkBandwidth]
    not_guaranteed: list[PortGuarantee]
    """Ports with a guarantee whose network no uplink carries."""
    max_meters: int | None
    """Of its switch; null until it has connected."""
    meters_in_use: int | None


class RateLimit(Struct, frozen=True, kw_only=True):
    """The most of one direction; null: no limit. Bursts are those in force, chosen where a rule names none."""

    max_kbps: int | None
    max_burst_kbps: int | None
    max_pps: int | None
    max_burst_packets: int | None
    shape: bool = False
    """Whether what is beyond ``max_kbps`` waits at the VM's interface; then nothing may be sent at once."""


class EffectiveQos(Struct, frozen=True, kw_only=True):
    """What holds for a port or a floating IP. Egress is what the VM sends."""

    qos_policy_id: str | None
    qos_policy_name: str
    source: str
    """What the policy is attached to: `port`, `network`, `floating-ip`, `gateway`; empty when there is none."""
    egress: RateLimit
    ingress: RateLimit
    dscp_mark: int | None
    trust_dscp: bool
    """Whether the DSCP of what is sent is kept where ``dscp_mark`` is null."""
    priority: int | None
    max_latency_ms: int | None
    min_kbps: int | None
    granted_kbps: int | None
    """What it has of ``min_kbps`` where it is now; null without a guarantee or a place."""
    uplink: str | None
    """The interface of its hypervisor by which its traffic leaves; null where that is not known."""


class QosVerification(Struct, frozen=True, kw_only=True):
    """Whether a port has what its policy says, as far as its own traffic showed it meanwhile."""

    port_id: str
    hypervisor_id: str
    hypervisor_name: str
    seconds: float
    """How long was counted."""
    verdict: Verdict
    """`broken` when one check is, `kept` when one was put to the test and none is broken."""
    checks: list[Check]
    """One for each rule that has a meter or a class."""


class Qos:
    """Sums, for those whom they concern."""

    def __init__(self, core: Core, views: Views) -> None:
        self.core, self.views = core, views
        self._verifier = Verifier(core)

    def bandwidth(self, call: Call) -> Response:
        """GET /v1/hypervisors/{id}/bandwidth."""
        hypervisor: Hypervisor = self._seen(call, "hypervisor")
        accounts = qos.guarantees(self.core.topology, hypervisor.id)
        meters: Meters | None = self.core.topology.get("meters", hypervisor.id)
        return answer(
            HypervisorBandwidth(
                hypervisor_id=hypervisor.id,
                hypervisor_name=hypervisor.name,
                uplinks=[self._uplink(hypervisor, account) for account in accounts.uplinks],
                not_guaranteed=[self._guarantee(each, 0) for each in accounts.without],
                max_meters=None if meters is None else meters.max_meters,
                meters_in_use=None if meters is None else meters.in_use,
            )
        )

    def of_port(self, call: Call) -> Response:
        """GET /v1/ports/{id}/qos."""
        port: Port = self._seen(call, "port")
        found = qos.of_port(self.core.topology, port.id)
        here = None if port.router_id is not None else self.core.topology.location(port.id)
        network: Network | None = self.core.topology.get("network", port.network_id)
        account = None
        if here is not None and network is not None:
            account = qos.guarantees(self.core.topology, here).of(qos.carrier(network))
        return answer(self._effective(call, found, account))

    def of_floating_ip(self, call: Call) -> Response:
        """GET /v1/floating-ips/{id}/qos."""
        floating = self._seen(call, "floating-ip")
        return answer(self._effective(call, qos.of_floating_ip(self.core.topology, floating.id) or qos.UNTOUCHED, None))

    def verify(self, call: Call) -> Response:
        """GET /v1/ports/{id}/qos/verification?seconds=."""
        if scope(call.token) is not None:
            raise Problem(403, "administrators verify what is in force: it counts in switches, for seconds")
        seconds = queries.seconds(call.request, "seconds", LEAST_SECONDS, MOST_SECONDS, DEFAULT_SECONDS)
        port: Port = self._seen(call, "port", ("seconds",))
        try:
            found = self._verifier.verify(port.id, seconds)
        except VerificationError as problem:
            raise Problem(409, str(problem)) from None
        verdicts = [check.verdict for check in found.checks]
        verdict: Verdict = "broken" if "broken" in verdicts else "kept" if "kept" in verdicts else "idle"
        return answer(
            QosVerification(
                port_id=port.id,
                hypervisor_id=found.hypervisor.id,
                hypervisor_name=found.hypervisor.name,
                seconds=found.seconds,
                verdict=verdict,
                checks=found.checks,
            )
        )

    def _seen(self, call: Call, kind: str, asked: tuple[str, ...] = ()) -> Any:
        """The object that the path names, when the caller may see it; a query may have what is ``asked``."""
        queries.parameters(call.request, asked)
        obj = self.core.topology.get(kind, call.path["id"])
        if obj is None or not self.views.visible(scope(call.token), kind, obj):
            raise Problem(404, f"there is no {kind} {call.path['id']}")
        return obj

    def _uplink(self, hypervisor: Hypervisor, account: qos.Account) -> UplinkBandwidth:
        shaper = shaper_of(self.core.topology, hypervisor, account.interface)
        return UplinkBandwidth(
            interface=account.interface,
            physical_networks=list(account.physical_networks),
            bandwidth_kbps=account.bandwidth_kbps,
            reserve_kbps=account.reserve_kbps,
            guaranteed_kbps=account.promised_kbps,
            left_kbps=account.left_kbps,
            shaper=shaper.name,
            shaped=shaper.done,
            error=shaper.error,
            guarantees=[self._guarantee(each, account.granted(each.min_kbps)) for each in account.guarantees],
        )

    def _guarantee(self, guarantee: qos.Guarantee, granted: int) -> PortGuarantee:
        port: Port = self.core.topology.get("port", guarantee.port_id)
        return PortGuarantee(
            port_id=port.id,
            port_name=port.name,
            project_id=port.project_id,
            min_kbps=guarantee.min_kbps,
            granted_kbps=granted,
        )

    def _effective(self, call: Call, found: qos.Quality, account: qos.Account | None) -> EffectiveQos:
        policy = self.core.topology.get("qos-policy", found.policy_id or "")
        seen = policy is not None and self.views.visible(scope(call.token), "qos-policy", policy)
        granted = None if found.min_kbps is None or account is None else account.granted(found.min_kbps)
        return EffectiveQos(
            qos_policy_id=found.policy_id,
            qos_policy_name=policy.name if seen else "",
            source=found.source,
            egress=_limit(found.egress),
            ingress=_limit(found.ingress),
            dscp_mark=found.dscp,
            trust_dscp=found.trusted,
            priority=found.priority,
            max_latency_ms=found.max_latency_ms,
            min_kbps=found.min_kbps,
            granted_kbps=granted,
            uplink=None if account is None else account.interface,
        )


def _limit(limit: qos.Limit) -> RateLimit:
    return RateLimit(
        max_kbps=limit.kbps,
        max_burst_kbps=None if limit.kbps is None or limit.shaped else limit.burst_kbit,
        max_pps=limit.pps,
        max_burst_packets=None if limit.pps is None else limit.burst_packets,
        shape=limit.shaped,
    )
