"""What can be asked, as values; the controller makes them of REST calls, the recorder answers them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

By = Literal["port", "vm", "network", "project", "hypervisor", "group", "address", "service", "protocol", "exporter"]
Order = Literal["bytes", "packets", "flows"]
Limit = Annotated[int, Meta(ge=1, le=1000)]
INFRASTRUCTURE = ("hypervisor", "exporter")
"""What only those may ask by who see everything."""


class Filter(Struct, frozen=True, kw_only=True):
    """Which flows. Everything that is given has to hold; an empty text or None asks for nothing."""

    start: int
    """Unix seconds, and so is ``end``, which is not part of it."""
    end: int
    scope: str | None = None
    """The project whose ports' flows may be told; None: everything."""
    port: str = ""
    network: str = ""
    project: str = ""
    hypervisor: str = ""
    group: str = ""
    """Id of a security group, of either end; and so on."""
    address: str = ""
    peer_port: str = ""
    """Id of the port that the other end is, beside ``port``."""
    protocol: int | None = None
    service: int | None = None


class Top(Struct, frozen=True, kw_only=True, tag="top"):
    """Who sent and received most."""

    filter: Filter
    by: By = "port"
    order: Order = "bytes"
    limit: Limit = 10


class Conversations(Struct, frozen=True, kw_only=True, tag="conversations"):
    """Pairs of hosts with most traffic, both directions together."""

    filter: Filter
    order: Order = "bytes"
    limit: Limit = 10


class Series(Struct, frozen=True, kw_only=True, tag="series"):
    """Sums of each ``step`` seconds; 0 lets the recorder choose."""

    filter: Filter
    step: Annotated[int, Meta(ge=0, le=86400)] = 0


class Matrix(Struct, frozen=True, kw_only=True, tag="matrix"):
    """Traffic from hypervisor to hypervisor, by where the sending and the receiving port are."""

    filter: Filter
    order: Order = "bytes"
    limit: Limit = 1000


class Records(Struct, frozen=True, kw_only=True, tag="records"):
    """Flows as they came, the newest first."""

    filter: Filter
    limit: Limit = 100


class Anomalies(Struct, frozen=True, kw_only=True, tag="anomalies"):
    """What was odd, the newest first."""

    filter: Filter
    limit: Limit = 100


Question = Top | Conversations | Series | Matrix | Records | Anomalies
