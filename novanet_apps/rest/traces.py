"""POST /v1/traces: the way of a packet over all hypervisors, from what their switches have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from webob import Response

from pipelines.trace import Names, NotInterpreted, Question, Trace, Unanswerable, Unknown, trace
from topology.model import FloatingIp, Port

from . import queries
from .bodies import read_json
from .problems import Problem
from .resources import JSON, answer
from .views import Views, scope, sliced

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .api import Call

_PortNumber = Annotated[int, Meta(ge=1, le=65535)]
_Byte = Annotated[int, Meta(ge=0, le=255)]
_WHERE = re.compile(r"(?P<what>.*?) - at `\$\.(?P<field>[^`]*)`\Z", re.DOTALL)


class TraceRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A packet that a VM might send."""

    source: Annotated[str, Meta(min_length=1, description="the VM's port: id, name, dns_name or device_id")]
    destination: Annotated[
        str, Meta(min_length=1, description="an IP address; or a port or floating IP, named as the source is")
    ]
    ip_version: Annotated[
        Literal[4, 6] | None, Meta(description="which addresses of ports are meant; IPv4 where both ends have one")
    ] = None
    protocol: Literal["tcp", "udp", "sctp", "icmp"] = "icmp"
    destination_port: Annotated[_PortNumber | None, Meta(description="needed for tcp, udp and sctp")] = None
    source_port: _PortNumber = 40000
    icmp_type: Annotated[_Byte | None, Meta(description="an echo request when left out")] = None
    icmp_code: _Byte = 0
    size: Annotated[int, Meta(ge=28, le=65535, description="bytes of the IP packet")] = 100
    ttl: Annotated[int, Meta(ge=1, le=255)] = 64
    established: Annotated[bool, Meta(description="a later packet, after the first one and its answer")] = False
    reply: Annotated[bool, Meta(description="whether to trace the answer, too")] = False
    source_ip: Annotated[str | None, Meta(description="the port's own when left out")] = None
    source_mac: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")] | None,
        Meta(description="the port's own when left out"),
    ] = None


class Traces:
    """Traces for those who may ask."""

    def __init__(self, core: Core, views: Views, max_body: int) -> None:
        self.core, self.views, self.max_body = core, views, max_body

    def make(self, call: Call) -> Response:
        """POST /v1/traces. Tenants trace from their own ports, and are shown what they may see."""
        queries.parameters(call.request, ())
        asked = _request(read_json(call.request, self.max_body, JSON))
        return answer(self.trace(asked, scope(call.token)))

    def trace(self, asked: TraceRequest, project: str | None) -> Trace:
        """The trace, as far as ``project`` may know. Raises Problem."""
        source = self._port(asked.source, project)
        question = Question(
            source=source.id, destination=self._destination(asked, source, project), protocol=asked.protocol,
            destination_port=asked.destination_port, source_port=asked.source_port, icmp_type=asked.icmp_type,
            icmp_code=asked.icmp_code, size=asked.size, ttl=asked.ttl, established=asked.established, reply=asked.reply,
            source_ip=_ip(asked.source_ip, "source_ip") if asked.source_ip is not None else None,
            source_mac=asked.source_mac,
        )  # fmt: skip
        topology = self.core.topology
        names = Names(topology, lambda kind, obj: self.views.visible(project, kind, obj))
        seen: dict[str, None] = {}

        def fetch(hypervisor: str) -> Any:
            seen[hypervisor] = None
            return self.core.engine.snapshot(hypervisor)

        compiler = self.core.reconciler.compiler
        try:
            found = trace(topology, compiler, fetch, question, names, sliced, flows=project is None)
        except Unanswerable as problem:
            raise Problem(409, str(problem), field=problem.field) from None
        except Unknown as problem:
            who = names.say("hypervisor", problem.hypervisor)
            text = f"{who} has not been connected since the controller began, so its flows are not known"
            raise Problem(409, text) from None
        except NotInterpreted as problem:
            raise Problem(409, f"the switches have flows that cannot be interpreted: {problem}") from None
        return msgspec.structs.replace(found, warnings=(*found.warnings, *self._warnings(seen, names)))

    def _warnings(self, hypervisors: Iterator[str] | dict[str, None], names: Names) -> Iterator[str]:
        """What may be otherwise in the switches than in what the trace was made from."""
        for id in hypervisors:
            state = self.core.engine.state(id)
            who = names.say("hypervisor", id)
            if not state["connected"]:
                yield f"{who} is not connected: its flows are those that it had last"
            elif state["pending"]:
                yield f"{who} has yet to confirm what {state['pending']} objects want of it; the trace takes it as done"

    # --- who is meant ------------------------------------------------------------------------------------------------

    def _port(self, text: str, project: str | None) -> Port:
        """The VM's port; 404 when there is none that the asker may see, 409 when there are several."""
        found = [port for port in self._named("port", text, project) if isinstance(port, Port)]
        if not found:
            raise Problem(404, f"there is no port {text!r}: no id, name, dns_name or device_id", field="source")
        if len(found) > 1:
            raise _several(text, found, "source")
        return found[0]

    def _named(self, kind: str, text: str, project: str | None) -> list[Any]:
        """Objects with this id, or else called so."""
        every = self.core.topology.all(kind)
        one = every.get(text)
        if one is not None:
            return [one] if self.views.visible(project, kind, one) else []
        return [
            obj
            for obj in sliced(list(every.values()))
            if text in (obj.name, getattr(obj, "dns_name", ""), getattr(obj, "device_id", ""))
            and self.views.visible(project, kind, obj)
        ]

    def _destination(self, asked: TraceRequest, source: Port, project: str | None) -> str:
        """The address that is meant."""
        try:
            return str(ip_address(asked.destination))
        except ValueError:
            pass
        found = [
            *self._named("port", asked.destination, project),
            *self._named("floating-ip", asked.destination, project),
        ]
        if not found:
            text = f"{asked.destination!r} is no address, and there is no port or floating IP that is called so"
            raise Problem(404, text, field="destination")
        if len(found) > 1:
            raise _several(asked.destination, found, "destination")
        addresses = list(_addresses(found[0]))
        own = {6 if ":" in text else 4 for text in _addresses(source)}
        wanted = (asked.ip_version,) if asked.ip_version is not None else (4, 6)
        for version in wanted:
            for text in addresses:
                if version in own and (":" in text) == (version == 6):
                    return text
        raise Problem(
            409, f"{asked.destination} has no address of an IP version that the source has", field="destination"
        )


def _addresses(obj: Port | FloatingIp) -> Iterator[str]:
    if isinstance(obj, FloatingIp):
        yield from (obj.floating_ip_address,) if obj.floating_ip_address else ()
    else:
        yield from (fixed.ip_address for fixed in obj.fixed_ips or () if fixed.ip_address)


def _several(text: str, found: list[Any], field: str) -> Problem:
    ids = ", ".join(sorted(obj.id for obj in found)[:5])
    return Problem(409, f"several are called {text!r}: {ids}; give the id", field=field)


def _ip(text: str, field: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise Problem(400, f"{text!r} is no IP address", field=field) from None


def _request(body: Any) -> TraceRequest:
    try:
        return msgspec.convert(body, TraceRequest)
    except msgspec.ValidationError as problem:
        found = _WHERE.match(str(problem))
        what, field = (found["what"], found["field"]) if found else (str(problem), "")
        raise Problem(400, what[:1].lower() + what[1:], field=field) from None
