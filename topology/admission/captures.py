"""Rules for captures."""

from __future__ import annotations

from msgspec.structs import replace

from .. import ip_protocols
from ..model import Capture, Port
from .addresses import parse_prefix
from .context import Context
from .write import Refused

OF_PROJECT = 16
"""Captures that a project has at a time, ended ones included."""
BYTES_OF_PROJECT = 1 << 30
"""Bytes that all of them may have together."""


def capture(context: Context) -> Capture:
    """Packets that there can be, of what is the writer's to look at, and no more than a project may keep."""
    new: Capture = context.new
    if context.old is not None:
        return new  # what is captured is fixed; what it was captured from may be gone
    _check_place(context, new)
    new = _filtered(new)
    if new.project_id:
        _check_quota(context, new)
    return new


def _check_place(context: Context, new: Capture) -> None:
    if new.port_id is not None and (new.hypervisor_id or new.network_id):
        field = "hypervisor_id" if new.hypervisor_id else "network_id"
        raise Refused(400, field, "goes without port_id: it is one port, or the VMs of a hypervisor")
    if new.port_id is not None:
        port: Port = context.visible("port", new.port_id, "port_id")
        if port.router_id is not None:
            what = "is a router's, which exists on many hypervisors: capture the port of a VM behind it"
            raise Refused(400, "port_id", what)
        if new.project_id and new.project_id != port.project_id:
            raise Refused(403, "port_id", f"port {port.id} is not of project {new.project_id!r}")
        return
    if new.hypervisor_id is None:
        raise Refused(400, "port_id", "is needed; administrators may give hypervisor_id instead")
    if context.write.project is not None or new.project_id:
        raise Refused(403, "hypervisor_id", "only administrators may capture other ports than a project's own")
    context.visible("hypervisor", new.hypervisor_id, "hypervisor_id")
    if new.network_id is not None:
        context.visible("network", new.network_id, "network_id")


def _filtered(new: Capture) -> Capture:
    """The filter in its canonical form. Raises Refused where no packet could pass it."""
    prefix = None if new.remote_ip_prefix is None else parse_prefix(new.remote_ip_prefix, "remote_ip_prefix")
    ethertype = new.ethertype
    if prefix is not None and ethertype is None and new.protocol is not None:
        ethertype = f"IPv{prefix.version}"  # type: ignore[assignment]
    if prefix is not None and ethertype in ("IPv4", "IPv6") and ethertype != f"IPv{prefix.version}":
        raise Refused(400, "remote_ip_prefix", f"{prefix} is not {ethertype}")
    if prefix is not None and ethertype == "ARP" and prefix.version == 6:
        raise Refused(400, "remote_ip_prefix", "ARP is about IPv4 addresses")
    try:
        protocol = None if new.protocol is None else ip_protocols.canonical(new.protocol, ethertype or "IPv4")
    except ValueError as problem:
        raise Refused(400, "protocol", str(problem)) from None
    number = ip_protocols.number(protocol)
    if ethertype == "ARP":
        field = "protocol" if number is not None else "transport_port" if new.transport_port is not None else ""
        if field:
            raise Refused(400, field, "goes with IPv4 and IPv6: ARP has none")
    if new.transport_port is not None and number is not None and number not in ip_protocols.WITH_PORTS:
        raise Refused(400, "transport_port", f"protocol {protocol} has no ports; tcp, udp and sctp have")
    return replace(new, protocol=protocol, remote_ip_prefix=None if prefix is None else str(prefix))


def _check_quota(context: Context, new: Capture) -> None:
    there = [each for each in context.view.all("capture").values() if each.project_id == new.project_id]
    if len(there) >= OF_PROJECT:
        raise Refused(409, "", f"the project has {len(there)} captures: delete those that are not needed any more")
    left = BYTES_OF_PROJECT - sum(each.max_bytes for each in there)
    if new.max_bytes > left:
        what = f"a project's captures have {BYTES_OF_PROJECT} bytes together, of which {left} are left: delete others"
        raise Refused(409, "max_bytes", what)
