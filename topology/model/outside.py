"""The outside: floating IPs, port forwardings, and neighbours on physical networks."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import IMMUTABLE, READ_ONLY, Ip, Mac, Object, Uuid, reference


class FloatingIp(Object, frozen=True, kw_only=True):
    """An address outside that stands for a VM's address, on the VM's own hypervisor; or for a load balancer's."""

    KIND = "floating-ip"
    COLLECTION = "floating-ips"
    UNIQUE = (("subnet_id", "floating_ip_address"), ("floating_network_id", "mac_address"))

    floating_network_id: Annotated[Uuid, reference("network"), IMMUTABLE]
    subnet_id: Annotated[Uuid | None, Meta(extra={"ref": "subnet", "immutable": True, "allocated": True})] = None
    floating_ip_address: Annotated[Ip | None, Meta(extra={"immutable": True, "allocated": True})] = None
    mac_address: Annotated[Mac | None, READ_ONLY] = None
    port_id: Annotated[
        Uuid | None, Meta(extra={"ref": "port", "weak": True}, description="the VM's port; none: it waits")
    ] = None
    fixed_ip_address: Annotated[
        Ip | None, Meta(description="which of the port's addresses; the first of the same version when left out")
    ] = None
    loadbalancer_id: Annotated[
        Uuid | None,
        Meta(
            extra={"ref": "load-balancer", "weak": True},
            description="the load balancer that it is the way to, not a VM",
        ),
    ] = None
    qos_policy_id: Annotated[
        Uuid | None,
        reference("qos-policy"),
        Meta(description="what holds for all that passes it; the policy of its router's gateway when null"),
    ] = None

    @property
    def number(self) -> int:
        """24 bits that tell it from all other floating IPs: the lower half of its MAC address."""
        return int((self.mac_address or "")[9:].replace(":", "") or "0", 16)


class PortForwarding(Object, frozen=True, kw_only=True):
    """One TCP or UDP port of a floating IP that stands for a port of a VM; done on the router's gateway."""

    KIND = "port-forwarding"
    COLLECTION = "port-forwardings"
    UNIQUE = (("floating_ip_id", "protocol", "external_port"),)

    floating_ip_id: Annotated[Uuid, reference("floating-ip"), IMMUTABLE]
    protocol: Literal["tcp", "udp"]
    external_port: Annotated[int, Meta(ge=1, le=65535)]
    internal_port_id: Annotated[Uuid, reference("port")]
    internal_ip_address: Annotated[
        Ip | None, Meta(extra={"allocated": True}, description="the first of the port's of the same version")
    ] = None
    internal_port: Annotated[int, Meta(ge=1, le=65535)]


class Neighbour(Object, frozen=True, kw_only=True):
    """The MAC address of a host outside, in a provider network: learned by NovaNet, or set by an administrator."""

    KIND = "neighbour"
    COLLECTION = "neighbours"
    TENANT = False
    UNIQUE = (("network_id", "ip_address"),)

    network_id: Annotated[Uuid, reference("network"), IMMUTABLE]
    ip_address: Annotated[Ip, IMMUTABLE]
    mac_address: Mac
    learned: Annotated[bool, READ_ONLY] = False
