"""What hypervisors tell collectors of their traffic."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import IMMUTABLE, Object, Uuid, reference

Exports = Literal["sflow", "netflow", "ipfix"]

BOUNDS: dict[str, tuple[int, int]] = {
    "sampling": (1, 4_294_967_295),
    "polling": (0, 86_400),
    "header": (64, 256),
    "active_timeout": (0, 4_200),
}
"""The least and the most that each field may be."""
OF_TYPE: dict[str, tuple[str, ...]] = {
    "sflow": ("sampling", "polling", "header"),
    "netflow": ("active_timeout",),
    "ipfix": ("sampling", "active_timeout"),
}
"""Fields that go with each type."""


def _of(name: str, description: str) -> Meta:
    low, high = BOUNDS[name]
    types = [type for type, names in OF_TYPE.items() if name in names]
    return Meta(
        description=f"of {' and '.join(types)}: {description}; null: Open vSwitch's default",
        extra_json_schema={"minimum": low, "maximum": high},
    )


class FlowExporter(Object, frozen=True, kw_only=True):
    """Has hypervisors' integration bridges export sFlow v5, NetFlow v5 or IPFIX; a bridge has one exporter of each type."""

    KIND = "flow-exporter"
    COLLECTION = "flow-exporters"
    TENANT = False

    type: Annotated[Exports, IMMUTABLE]
    hypervisor_ids: Annotated[
        tuple[Uuid, ...],
        reference("hypervisor"),
        Meta(max_length=10_000, description="the hypervisors that export; all of them when empty"),
    ] = ()
    targets: Annotated[
        tuple[Annotated[str, Meta(max_length=64)], ...],
        Meta(
            min_length=1, max_length=8, description="collectors, IP:PORT or [IPv6]:PORT over UDP, e.g. 192.0.2.1:6343"
        ),
    ]
    sampling: Annotated[int, _of("sampling", "one of so many packets is looked at")] | None = None
    polling: (
        Annotated[int, _of("polling", "seconds between two reports of interfaces' counters, 0 for none")] | None
    ) = None
    header: Annotated[int, _of("header", "bytes of a sampled packet that are sent")] | None = None
    active_timeout: (
        Annotated[int, _of("active_timeout", "seconds after which a flow that goes on is reported")] | None
    ) = None
    enabled: bool = True
