"""Whether a port has what its policy says: meters read back from its switch, its class from its hypervisor's agent, and both counted.

Nothing is sent for it: what a tenant has paid for is not used up, and no uplink is filled. So what is measured is the VM's own traffic.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import eventlet
from eventlet.semaphore import Semaphore

from pipelines import qos as meters
from pipelines.wire.groups import BAND
from topology import qos
from topology.model import Answer, Hypervisor, Network, Port, Question
from topology.model.qos import Direction
from topology.qos_verdicts import Check, Metered, of_class, of_interface, of_meter
from topology.shaping import has_class

if TYPE_CHECKING:
    from novanet_apps.core import Core
    from pipelines.flow import Meter
    from pipelines.wire.multipart import MeterCount

SWITCH, AGENT = 5.0, 4.0
"""Seconds that a switch has for an answer, and an agent beyond those that it counts."""


class VerificationError(Exception):
    """There is nothing to verify, or nobody to ask; the text says why."""


class Verification(NamedTuple):
    """What came out."""

    hypervisor: Hypervisor
    seconds: float
    checks: list[Check]


class Verifier:
    """Asks. One question at a time for each hypervisor."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turns: defaultdict[str, Semaphore] = defaultdict(Semaphore)
        self._random = Random()

    def verify(self, port_id: str, seconds: float) -> Verification:
        """Look at a VM's port for so long. Raises VerificationError."""
        topology = self._core.topology
        port: Port | None = topology.get("port", port_id)
        here = topology.location(port_id)
        hypervisor: Hypervisor | None = topology.get("hypervisor", here or "")
        if port is None or port.router_id is not None:
            raise VerificationError("only VMs' ports have meters and classes of their own to be verified")
        if hypervisor is None:
            raise VerificationError("no VM is plugged into this port, so nothing is in force")
        quality = qos.of_port(topology, port_id)
        if quality.policy_id is None:
            raise VerificationError("neither the port nor its network has a qos_policy_id, so nothing is asked for")
        with self._turns[hypervisor.id]:
            has: dict[Direction, bool] = {"egress": has_class(quality), "ingress": quality.ingress.shaped}
            directions = [direction for direction, asked in has.items() if asked]
            pending = eventlet.spawn(self._ask, hypervisor.id, port_id, seconds, directions)
            checks = self._meters(hypervisor, port_id, seconds, shaped=quality.ingress.shaped)
            answers = pending.wait()
            if "egress" in answers:
                checks += of_class(quality, self._granted(hypervisor, port, quality), answers["egress"])
            if "ingress" in answers:
                checks.append(of_interface(quality.ingress.kbps or 0, answers["ingress"]))
        return Verification(hypervisor, seconds, checks)

    # --- meters ------------------------------------------------------------------------------------------------------

    def _meters(self, hypervisor: Hypervisor, port_id: str, seconds: float, shaped: bool) -> list[Check]:
        """``shaped``: the VM's interface keeps the limit of what it gets, and the meter behind it is no rule of anybody's."""
        wanted = [
            (direction, meter)
            for direction, meter in meters.meters_of(self._core.topology, hypervisor.id, port_id)
            if not shaped or direction == "egress" or meter.packets
        ]
        if not wanted:
            eventlet.sleep(seconds)
            return []
        before, began = self._counted(hypervisor), time.monotonic()
        eventlet.sleep(seconds)
        after, took = self._counted(hypervisor), time.monotonic() - began
        bodies = self._read(hypervisor, self._core.engine.meter_bodies)
        return [
            of_meter(_metered(direction, meter, bodies.get(meter.id), before.get(meter.id), after.get(meter.id), took))
            for direction, meter in wanted
        ]

    def _counted(self, hypervisor: Hypervisor) -> dict[int, MeterCount]:
        return {count.id: count for count in self._read(hypervisor, self._core.engine.meter_counters)}

    def _read(self, hypervisor: Hypervisor, how: Callable[[str, float], Any]) -> Any:
        found = how(hypervisor.id, SWITCH)
        if found is None:
            name = hypervisor.name or hypervisor.id
            raise VerificationError(f"the switch of hypervisor {name} does not answer: see its status")
        return found

    # --- classes, on the uplink and at the VM's interface ------------------------------------------------------------

    def _ask(
        self, hypervisor_id: str, port_id: str, seconds: float, directions: Sequence[Direction]
    ) -> dict[str, Answer]:
        """What the agent says, by direction; its error where it does not."""
        if not directions:
            return {}
        core, number = self._core, self._random.randrange(1, 1 << 31)
        questions = tuple(
            Question(number=number + n, port_id=port_id, direction=direction, milliseconds=round(seconds * 1000))
            for n, direction in enumerate(directions)
        )
        core.store.record("hypervisor", hypervisor_id, question=questions)
        end = time.monotonic() + seconds + AGENT
        while time.monotonic() < end:
            hypervisor: Hypervisor | None = core.topology.get("hypervisor", hypervisor_id)
            found = {answer.number: answer for answer in hypervisor.answer} if hypervisor is not None else {}
            if all(question.number in found for question in questions):
                return {question.direction: found[question.number] for question in questions}
            eventlet.sleep(0.05)
        error = "the hypervisor's agent does not answer: does novanet-host-agent run there?"
        return {question.direction: Answer(number=question.number, error=error) for question in questions}

    def _granted(self, hypervisor: Hypervisor, port: Port, quality: qos.Quality) -> int | None:
        network: Network = self._core.topology.get("network", port.network_id)
        account = qos.guarantees(self._core.topology, hypervisor.id).of(qos.carrier(network))
        return None if account is None or quality.min_kbps is None else account.granted(quality.min_kbps)


def _metered(
    direction: str, meter: Meter, body: bytes | None, before: MeterCount | None, after: MeterCount | None, took: float
) -> Metered:
    """A meter at both ends of the time that it was looked at. Its counters began anew when it did."""
    if after is None:
        body = None
    anew = before is None or (after is not None and after.duration < before.duration)
    counts = [0, 0, 0]
    if after is not None:
        counts = [after.packets - after.dropped_packets, after.bytes - after.dropped_bytes, after.dropped_packets]
        if before is not None and not anew:
            earlier = (
                before.packets - before.dropped_packets,
                before.bytes - before.dropped_bytes,
                before.dropped_packets,
            )
            counts = [now - then for now, then in zip(counts, earlier, strict=True)]
            took = after.duration - before.duration or took
    return Metered(
        "packet_rate_limit" if meter.packets else "bandwidth_limit", direction,
        "packets/s" if meter.packets else "kbit/s", (meter.rate, meter.burst),
        None if body is None else BAND.unpack_from(body, 2)[2:4], took, *counts,
    )  # fmt: skip
