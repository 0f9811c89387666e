"""Rules for flow exporters."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address

from msgspec.structs import replace

from ..model import FlowExporter, Object
from ..model.telemetry import BOUNDS, OF_TYPE
from .context import Context
from .write import Refused

_TARGET = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})\Z")


def flow_exporter(context: Context) -> FlowExporter:
    """Targets are addresses, fields go with the type, and no bridge has two of a type."""
    new: FlowExporter = context.new
    new = replace(new, targets=tuple(dict.fromkeys(_target(text, at) for at, text in enumerate(new.targets))))
    if not new.targets:
        raise Refused(400, "targets", "an exporter needs a collector: IP:PORT or [IPv6]:PORT")
    if new.type == "netflow" and any(target.startswith("[") for target in new.targets):
        raise Refused(400, "targets", "Open vSwitch sends NetFlow v5 over IPv4 only")
    for name, (low, high) in BOUNDS.items():
        value = getattr(new, name)
        if value is None:
            continue
        if name not in OF_TYPE[new.type]:
            raise Refused(400, name, f"does not go with {new.type}, which has {', '.join(OF_TYPE[new.type])}")
        if not low <= value <= high:
            raise Refused(400, name, f"{value} is not within {low} to {high}")
    new = replace(new, hypervisor_ids=tuple(sorted(set(new.hypervisor_ids))))
    for at, id in enumerate(new.hypervisor_ids):
        context.visible("hypervisor", id, f"hypervisor_ids[{at}]")
    _check_alone(context, new)
    return new


def _target(text: str, position: int) -> str:
    match, field = _TARGET.match(text.removeprefix("udp:")), f"targets[{position}]"
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise Refused(400, field, f"{text} is not IP:PORT or [IPv6]:PORT, such as 192.0.2.1:6343")
    try:
        address = ip_address(match["six"] or match["four"])
    except ValueError as problem:
        raise Refused(400, field, str(problem)) from None
    if (address.version == 6) != bool(match["six"]) or address.is_unspecified or address.is_multicast:
        raise Refused(400, field, f"{address} is not a collector's address")
    return f"[{address}]:{int(match['port'])}" if match["six"] else f"{address}:{int(match['port'])}"


def _check_alone(context: Context, new: FlowExporter) -> None:
    """Also against those that are switched off: switching on must not be refused later."""
    for id, other in context.view.all("flow-exporter").items():
        if id == new.id or other.type != new.type:
            continue
        both = set(new.hypervisor_ids) & set(other.hypervisor_ids)
        if both or not new.hypervisor_ids or not other.hypervisor_ids:
            where = "everywhere" if not both else f"on hypervisor {min(both)}"
            name = f"{other.name} ({id})" if other.name else id
            what = f"flow-exporter {name} exports {new.type} {where}, and a bridge has one of a type: change that one, or name its hypervisors"
            raise Refused(409, "hypervisor_ids", what)


RULES: dict[str, Callable[[Context], Object]] = {"flow-exporter": flow_exporter}
"""By kind."""
