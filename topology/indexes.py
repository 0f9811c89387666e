"""Indexes of the graph that follow from one object each; the graph keeps them true, edit by edit."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from .balancing_index import BalancingIndex
from .membership import Membership, discard
from .model import (
    RULE_MATCH,
    FloatingIp,
    Hypervisor,
    Identity,
    LoadBalancer,
    MulticastGroup,
    Neighbour,
    Network,
    Object,
    Port,
    PortForwarding,
    QosRule,
    Router,
    SecurityGroupRule,
    Subnet,
)


def rule_match(rule: SecurityGroupRule) -> tuple[Any, ...]:
    """What a rule of a security group does, which no other rule does."""
    return tuple(getattr(rule, name) for name in RULE_MATCH)


class Indexes(BalancingIndex):
    """Who has a number, a name or an address, and what belongs to what."""

    def __init__(self) -> None:
        super().__init__()
        self.vnis: dict[int, str] = {}
        self.port_keys: dict[int, str] = {}
        self.hypervisor_keys: dict[int, str] = {}
        self.macs: dict[tuple[str, str], str] = {}
        self.addresses: dict[tuple[str, str], str] = {}
        self.router_keys: dict[int, str] = {}
        self.neighbours: dict[tuple[str, str], str] = {}
        self.names: dict[tuple[str, str, str], str] = {}
        self.host_names: dict[tuple[str, str], str] = {}
        self._subnets: defaultdict[str, set[str]] = defaultdict(set)
        self._ports: defaultdict[str, set[str]] = defaultdict(set)
        self._interfaces: defaultdict[str, set[str]] = defaultdict(set)
        self._routed: defaultdict[str, set[str]] = defaultdict(set)
        self._floating: defaultdict[str, set[str]] = defaultdict(set)
        self._forwardings: defaultdict[str, set[str]] = defaultdict(set)
        self._wires: defaultdict[str, set[str]] = defaultdict(set)
        self._multicast_groups: defaultdict[str, set[str]] = defaultdict(set)
        self._wanted: defaultdict[str, set[str]] = defaultdict(set)
        self._neighbours: defaultdict[str, set[str]] = defaultdict(set)
        self._ipv6_endpoints = 0
        self._paired: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._lent: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.identities: dict[int, str] = {}
        self.rule_keys: dict[int, str] = {}
        self.rules: dict[tuple[Any, ...], str] = {}
        self._rules: defaultdict[str, set[str]] = defaultdict(set)
        self._peers: defaultdict[str, set[str]] = defaultdict(set)
        self._membership = Membership()
        self._qos_rules: defaultdict[str, set[str]] = defaultdict(set)

    def _index(self, kind: str, id: str, obj: Any) -> None:
        if isinstance(obj, Object) and obj.name:
            self.names[kind, obj.project_id, obj.name] = id
        self._list(id, obj)
        match obj:
            case Network():
                if obj.vni is not None:
                    self.vnis[obj.vni] = id
            case Subnet():
                self._subnets[obj.network_id].add(id)
            case Port():
                self._ports[obj.network_id].add(id)
                if obj.port_key is not None:
                    self.port_keys[obj.port_key] = id
                if obj.mac_address is not None:
                    self.macs[obj.network_id, obj.mac_address] = id
                if obj.dns_name:
                    self.host_names[obj.network_id, obj.dns_name] = id
                for fixed in obj.fixed_ips or ():
                    if fixed.subnet_id and fixed.ip_address:
                        self.addresses[fixed.subnet_id, fixed.ip_address] = id
                for pair in obj.allowed_address_pairs:
                    self._paired[obj.network_id, pair.ip_address].add(id)
                    if pair.mac_address is not None:
                        self._lent[obj.network_id, pair.mac_address].add(id)
                if obj.router_id is not None:
                    self._interfaces[obj.router_id].add(id)
                    self._routed[obj.network_id].add(id)
                if obj.identity is not None:
                    self._membership.ports[obj.identity].add(id)
            case Identity():
                self.identities[obj.number] = id
            case SecurityGroupRule():
                self._rules[obj.security_group_id].add(id)
                self.rules[rule_match(obj)] = id
                if obj.rule_key is not None:
                    self.rule_keys[obj.rule_key] = id
                for peer in {obj.remote_group_id, obj.remote_address_group_id} - {None}:
                    self._peers[peer or ""].add(id)
            case QosRule():
                self._qos_rules[obj.qos_policy_id].add(id)
            case Router():
                if obj.router_key is not None:
                    self.router_keys[obj.router_key] = id
            case FloatingIp():
                if obj.subnet_id and obj.floating_ip_address:
                    self.addresses[obj.subnet_id, obj.floating_ip_address] = id
                if obj.mac_address is not None:
                    self.macs[obj.floating_network_id, obj.mac_address] = id
                if obj.port_id is not None:
                    self._floating[obj.port_id].add(id)
            case LoadBalancer(vip_network_id=str()):
                if obj.vip_subnet_id and obj.vip_address:
                    self.addresses[obj.vip_subnet_id, obj.vip_address] = id
                if obj.vip_mac_address is not None:
                    self.macs[obj.vip_network_id or "", obj.vip_mac_address] = id
            case PortForwarding():
                self._forwardings[obj.floating_ip_id].add(id)
            case Neighbour():
                self.neighbours[obj.network_id, obj.ip_address] = id
                self._neighbours[obj.network_id].add(id)
            case MulticastGroup():
                self._multicast_groups[obj.network_id].add(id)
                for port in obj.ports:
                    self._wanted[port].add(id)
            case Hypervisor():
                if obj.hypervisor_key is not None:
                    self.hypervisor_keys[obj.hypervisor_key] = id
                self._ipv6_endpoints += _has_ipv6(obj)
                for mapping in obj.bridge_mappings:
                    self._wires[mapping.physical_network].add(id)

    def _unindex(self, kind: str, id: str, obj: Any) -> None:
        def drop(index: dict[Any, str], key: Any) -> None:
            if index.get(key) == id:
                del index[key]

        if isinstance(obj, Object):
            drop(self.names, (kind, obj.project_id, obj.name))
        self._unlist(id, obj)
        match obj:
            case Network():
                drop(self.vnis, obj.vni)
            case Subnet():
                discard(self._subnets, obj.network_id, id)
            case Port():
                discard(self._ports, obj.network_id, id)
                drop(self.port_keys, obj.port_key)
                drop(self.macs, (obj.network_id, obj.mac_address))
                drop(self.host_names, (obj.network_id, obj.dns_name))
                for fixed in obj.fixed_ips or ():
                    drop(self.addresses, (fixed.subnet_id, fixed.ip_address))
                for address in {pair.ip_address for pair in obj.allowed_address_pairs}:
                    discard(self._paired, (obj.network_id, address), id)
                for mac in {pair.mac_address for pair in obj.allowed_address_pairs if pair.mac_address is not None}:
                    discard(self._lent, (obj.network_id, mac), id)
                if obj.router_id is not None:
                    discard(self._interfaces, obj.router_id, id)
                    discard(self._routed, obj.network_id, id)
                if obj.identity is not None:
                    discard(self._membership.ports, obj.identity, id)
            case Identity():
                drop(self.identities, obj.number)
            case SecurityGroupRule():
                discard(self._rules, obj.security_group_id, id)
                drop(self.rules, rule_match(obj))
                drop(self.rule_keys, obj.rule_key)
                for peer in {obj.remote_group_id, obj.remote_address_group_id} - {None}:
                    discard(self._peers, peer or "", id)
            case QosRule():
                discard(self._qos_rules, obj.qos_policy_id, id)
            case Router():
                drop(self.router_keys, obj.router_key)
            case FloatingIp():
                drop(self.addresses, (obj.subnet_id, obj.floating_ip_address))
                drop(self.macs, (obj.floating_network_id, obj.mac_address))
                if obj.port_id is not None:
                    discard(self._floating, obj.port_id, id)
            case LoadBalancer(vip_network_id=str()):
                drop(self.addresses, (obj.vip_subnet_id, obj.vip_address))
                drop(self.macs, (obj.vip_network_id, obj.vip_mac_address))
            case PortForwarding():
                discard(self._forwardings, obj.floating_ip_id, id)
            case Neighbour():
                drop(self.neighbours, (obj.network_id, obj.ip_address))
                discard(self._neighbours, obj.network_id, id)
            case MulticastGroup():
                discard(self._multicast_groups, obj.network_id, id)
                for port in obj.ports:
                    discard(self._wanted, port, id)
            case Hypervisor():
                drop(self.hypervisor_keys, obj.hypervisor_key)
                self._ipv6_endpoints -= _has_ipv6(obj)
                for mapping in obj.bridge_mappings:
                    discard(self._wires, mapping.physical_network, id)


def _has_ipv6(hypervisor: Hypervisor) -> bool:
    return hypervisor.tunnel_ip is not None and ":" in hypervisor.tunnel_ip
