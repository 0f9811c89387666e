"""Packets of VMs, kept in a file."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import IMMUTABLE, READ_ONLY, Cidr, Object, Uuid

CaptureState = Literal["PENDING", "RUNNING", "SAVING", "DONE", "ERROR"]


def _of(kind: str, description: str) -> Meta:
    """A reference that does not keep what it refers to."""
    return Meta(extra={"ref": kind, "weak": True}, description=description)


class Capture(Object, frozen=True, kw_only=True):
    """Packets of a VM's port, or of the VMs of a hypervisor, in a file (pcapng).

    It begins when a hypervisor's agent takes it on, and ends by itself; the file goes with it.
    """

    KIND = "capture"
    COLLECTION = "captures"

    port_id: Annotated[Uuid | None, _of("port", "the VM's port whose packets are captured"), IMMUTABLE] = None
    hypervisor_id: Annotated[
        Uuid | None, _of("hypervisor", "instead of a port: all VMs of this hypervisor; administrators only"), IMMUTABLE
    ] = None
    network_id: Annotated[
        Uuid | None, _of("network", "of those VMs' ports only the ones in this network"), IMMUTABLE
    ] = None
    direction: Annotated[
        Literal["both", "ingress", "egress"], IMMUTABLE, Meta(description="towards the VM, from it, or both")
    ] = "both"
    ethertype: Annotated[Literal["IPv4", "IPv6", "ARP"] | None, IMMUTABLE, Meta(description="these packets only")] = (
        None
    )
    protocol: (
        Annotated[
            str,
            Meta(
                max_length=10,
                extra={"immutable": True},
                description="packets of this protocol only: name (`tcp`, `udp`, `icmp` …) or number",
            ),
        ]
        | None
    ) = None
    remote_ip_prefix: (
        Annotated[
            Cidr,
            Meta(
                extra={"immutable": True}, description="packets only that go to this prefix, or come to the VM from it"
            ),
        ]
        | None
    ) = None
    transport_port: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=65535,
                extra={"immutable": True},
                description="packets only from or to this port of tcp, udp or sctp; fragments but the first have none",
            ),
        ]
        | None
    ) = None
    snaplen: Annotated[
        int, Meta(ge=64, le=65535, extra={"immutable": True}, description="bytes that are kept of a packet")
    ] = 65535
    max_bytes: Annotated[
        int, Meta(ge=4096, le=1 << 30, extra={"immutable": True}, description="bytes that the file has at most")
    ] = 10 << 20
    max_seconds: Annotated[
        int, Meta(ge=1, le=86400, extra={"immutable": True}, description="seconds after which it ends")
    ] = 60
    enabled: Annotated[bool, Meta(description="false ends it before its time; the file is kept")] = True
    state: Annotated[
        CaptureState,
        READ_ONLY,
        Meta(description="SAVING: it has ended, and the file is on its way; DONE: the file is there"),
    ] = "PENDING"
    state_detail: Annotated[str, READ_ONLY, Meta(max_length=1024, description="why it has ended, or failed")] = ""
    host_id: Annotated[Uuid | None, READ_ONLY, _of("hypervisor", "the hypervisor whose agent captures")] = None
    packets: Annotated[int, READ_ONLY, Meta(description="packets in the file")] = 0
    file_bytes: Annotated[int, READ_ONLY, Meta(description="bytes of the file")] = 0
    dropped_packets: Annotated[int, READ_ONLY, Meta(description="packets that came too fast to be captured")] = 0
    started_at: Annotated[int | None, READ_ONLY, Meta(description="when it began, in seconds since 1970")] = None
    ended_at: Annotated[int | None, READ_ONLY, Meta(description="when it ended, in seconds since 1970")] = None
