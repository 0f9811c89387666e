"""What objects refer to: the edges of the graph."""

from __future__ import annotations

from typing import Any

from .model import (
    Bridge,
    FloatingIp,
    FlowExporter,
    HealthMonitor,
    Link,
    Listener,
    LoadBalancer,
    Member,
    Meters,
    MulticastGroup,
    Neighbour,
    Network,
    Pool,
    Port,
    PortForwarding,
    QosRule,
    Router,
    SecurityGroupRule,
    Subnet,
    Vif,
)

Node = tuple[str, str]
"""(kind, id)."""


def references(kind: str, obj: Any) -> list[tuple[str, Node]]:
    """The nodes that an object refers to: ``(field, (kind, id))`` each."""
    match obj:
        case Network():
            return _policy(obj.qos_policy_id)
        case QosRule():
            return _policy(obj.qos_policy_id)
        case Subnet():
            return [("network_id", ("network", obj.network_id))]
        case Port():
            found = [("network_id", ("network", obj.network_id))]
            subnets = {f.subnet_id for f in obj.fixed_ips or () if f.subnet_id}
            found += [("fixed_ips", ("subnet", subnet)) for subnet in sorted(subnets)]
            found += [("security_groups", ("security-group", group)) for group in obj.security_groups or ()]
            if obj.router_id is not None:
                found.append(("router_id", ("router", obj.router_id)))
            return found + _policy(obj.qos_policy_id)
        case Router():
            named = {each.hypervisor_id for each in obj.gateway_hypervisors}
            return [("gateway_hypervisors", ("hypervisor", id)) for id in sorted(named)]
        case FloatingIp():
            found = [("floating_network_id", ("network", obj.floating_network_id)), *_policy(obj.qos_policy_id)]
            return found + ([("subnet_id", ("subnet", obj.subnet_id))] if obj.subnet_id else [])
        case LoadBalancer():
            found = [("vip_network_id", ("network", obj.vip_network_id))] if obj.vip_network_id else []
            found += [("vip_subnet_id", ("subnet", obj.vip_subnet_id))] if obj.vip_subnet_id else []
            return found + ([("router_id", ("router", obj.router_id))] if obj.router_id else [])
        case Pool():
            return [("loadbalancer_id", ("load-balancer", obj.loadbalancer_id))]
        case Listener():
            found = [("loadbalancer_id", ("load-balancer", obj.loadbalancer_id))]
            return found + ([("default_pool_id", ("pool", obj.default_pool_id))] if obj.default_pool_id else [])
        case Member():
            found = [("pool_id", ("pool", obj.pool_id))]
            return found + ([("subnet_id", ("subnet", obj.subnet_id))] if obj.subnet_id else [])
        case HealthMonitor():
            return [("pool_id", ("pool", obj.pool_id))]
        case SecurityGroupRule():
            found = [("security_group_id", ("security-group", obj.security_group_id))]
            found += [("remote_group_id", ("security-group", id)) for id in (obj.remote_group_id,) if id]
            return found + [
                ("remote_address_group_id", ("address-group", id)) for id in (obj.remote_address_group_id,) if id
            ]
        case PortForwarding():
            return [
                ("floating_ip_id", ("floating-ip", obj.floating_ip_id)),
                ("internal_port_id", ("port", obj.internal_port_id)),
            ]
        case FlowExporter():
            return [("hypervisor_ids", ("hypervisor", id)) for id in obj.hypervisor_ids]
        case Neighbour() | MulticastGroup():
            return [("network_id", ("network", obj.network_id))]
        case Link():
            return [("hypervisor_id", ("hypervisor", obj.hypervisor_id)), ("peer_id", ("hypervisor", obj.peer_id))]
        case Vif():
            return [("port_id", ("port", obj.port_id)), ("hypervisor_id", ("hypervisor", obj.hypervisor_id))]
        case Bridge() | Meters():
            return [("hypervisor_id", ("hypervisor", obj.hypervisor_id))]
    return []


def _policy(id: str | None) -> list[tuple[str, Node]]:
    return [] if id is None else [("qos_policy_id", ("qos-policy", id))]
