"""Whatever is written in whatever order, what was admitted keeps the promises of the store."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from topology.admission import Allocator, Draft, Refused, Write, admit, consequences
from topology.gateways import router_between
from topology.graph import Topology
from topology.membership import EVERYONE, identity_id, selects
from topology.model import KINDS, RULE_MATCH, UUID_PATTERN, LoadBalancer, Member
from topology.references import references
from topology.schema import columns, name_key

IDS = [str(UUID(int=n, version=4)) for n in range(1, 6)]
PROJECTS = [*[None] * 6, "us", "them"]
CIDRS = ["10.0.0.0/30", "10.0.0.0/24", "10.0.0.128/25", "10.1.0.0/29", "2001:db8::/126", "2001:db8::/64", "10.0.0.1/24"]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.130", "2001:DB8::2", "10.1.0.3", "10.0.0.255", "x"]
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:AA", "02:00:00:00:00:aa", "01:00:00:00:00:01"]

INDEXES = (
    "vnis", "port_keys", "hypervisor_keys", "router_keys", "macs", "addresses", "names", "host_names", "neighbours",
    "identities", "rule_keys", "rules", "balancer_keys", "pool_keys", "member_keys",
)  # fmt: skip

OF_BALANCERS = (
    "balancers_in", "balancers_on", "pools_of", "listeners_of", "listeners_to", "members_of", "monitors_of", "floating_to",
)  # fmt: skip

OF_QUALITY = ("qos_rules_of", "ports_of")

id_ = st.sampled_from(IDS)
fixed = st.fixed_dictionaries({}, optional={"subnet_id": id_, "ip_address": st.sampled_from(ADDRESSES)})
requirement = st.fixed_dictionaries(
    {"key": st.sampled_from(["tier", "zone"]), "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"])},
    optional={"values": st.lists(st.sampled_from(["a", "b"]), max_size=2)},
)
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "network": {
        "vni": st.integers(1, 4) | st.none(),
        "mtu": st.sampled_from([None, 1000, 1400, 1500]),
        "physical_network": st.sampled_from([None, "wire"]),
        "segmentation_id": st.sampled_from([None, 1, 2]),
        "external": st.booleans(),
        "qos_policy_id": st.sampled_from([None, None, *IDS]),
    },
    "subnet": {
        "network_id": id_,
        "cidr": st.sampled_from(CIDRS),
        "gateway_ip": st.none() | st.sampled_from(ADDRESSES),
        "allocation_pools": st.just([]) | st.just([{"start": "10.0.0.2", "end": "10.0.0.3"}]),
    },
    "port": {
        "network_id": id_,
        "mac_address": st.none() | st.sampled_from(MACS),
        "fixed_ips": st.none() | st.lists(fixed, max_size=3),
        "router_id": st.none() | id_,
        "dns_name": st.sampled_from(["", "web", "WEB", "a.b"]),
        "port_security_enabled": st.sampled_from([True, True, True, False]),
        "security_groups": st.none() | st.lists(id_, max_size=2, unique=True),
        "labels": st.dictionaries(st.sampled_from(["tier", "zone"]), st.sampled_from(["a", "b", "-"]), max_size=2),
        "qos_policy_id": st.sampled_from([None, None, None, *IDS]),
        "trust_dscp": st.sampled_from([False, False, True]),
    },
    "security-group": {
        "stateful": st.booleans(),
        "selector": st.none() | st.lists(requirement, max_size=2),
        "tier": st.sampled_from(["tenant", "tenant", "admin"]),
        "priority": st.sampled_from([0, 0, 5]),
        "shared": st.booleans(),
    },
    "address-group": {"addresses": st.lists(st.sampled_from(CIDRS), max_size=2), "shared": st.booleans()},
    "security-group-rule": {
        "security_group_id": id_,
        "direction": st.sampled_from(["ingress", "egress"]),
        "ethertype": st.sampled_from([None, "IPv4", "IPv6"]),
        "protocol": st.sampled_from([None, "tcp", "6", "icmp", "ipv6-icmp", "any", "gre"]),
        "port_range_min": st.sampled_from([None, None, 0, 1, 8]),
        "port_range_max": st.sampled_from([None, None, 0, 8]),
        "remote_group_id": st.none() | id_,
        "remote_ip_prefix": st.none() | st.sampled_from(CIDRS),
        "remote_address_group_id": st.none() | id_,
        "action": st.sampled_from(["allow", "allow", "deny"]),
        "log": st.booleans(),
        "revoke": st.booleans(),
    },
    "router": {
        "routes": st.lists(
            st.fixed_dictionaries({"destination": st.sampled_from(CIDRS), "nexthop": st.sampled_from(ADDRESSES)}),
            max_size=2,
        ),
        "policy_routes": st.lists(
            st.fixed_dictionaries(
                {"priority": st.just(1), "nexthops": st.lists(st.sampled_from(ADDRESSES), max_size=2)}
            ),
            max_size=1,
        ),
        "gateway_hypervisors": st.lists(st.fixed_dictionaries({"hypervisor_id": id_}), max_size=1),
    },
    "floating-ip": {
        "floating_network_id": id_,
        "subnet_id": st.none() | id_,
        "floating_ip_address": st.none() | st.sampled_from(["192.0.2.5", "192.0.2.6", "192.0.2.255", "10.0.0.9"]),
        "port_id": st.none() | id_,
        "fixed_ip_address": st.none() | st.sampled_from(ADDRESSES),
        "loadbalancer_id": st.sampled_from([None, None, *IDS]),
        "qos_policy_id": st.sampled_from([None, None, *IDS]),
    },
    "load-balancer": {
        "vip_network_id": st.none() | id_,
        "vip_subnet_id": st.none() | id_,
        "router_id": st.sampled_from([None, None, *IDS]),
        "vip_address": st.none() | st.sampled_from([*ADDRESSES, "10.96.0.1", "2001:db8:96::1"]),
    },
    "listener": {
        "loadbalancer_id": id_,
        "protocol": st.sampled_from(["TCP", "UDP"]),
        "protocol_port": st.integers(1, 4),
        "protocol_port_max": st.none() | st.integers(1, 6),
        "default_pool_id": st.none() | id_,
    },
    "pool": {
        "loadbalancer_id": id_,
        "protocol": st.sampled_from(["TCP", "UDP"]),
        "table_size": st.sampled_from([251, 1009, 1000]),
        "session_persistence": st.sampled_from([None, {"type": "SOURCE_IP"}]),
    },
    "member": {
        "pool_id": id_,
        "address": st.sampled_from(ADDRESSES),
        "subnet_id": st.none() | id_,
        "protocol_port": st.sampled_from([None, 80]),
        "weight": st.integers(0, 2),
    },
    "health-monitor": {
        "pool_id": id_,
        "type": st.sampled_from(["TCP", "HTTP"]),
        "delay": st.integers(1, 4),
        "timeout": st.integers(1, 4),
        "url_path": st.sampled_from([None, "/", "/up"]),
    },
    "port-forwarding": {
        "floating_ip_id": id_,
        "internal_port_id": id_,
        "protocol": st.sampled_from(["tcp", "udp"]),
        "external_port": st.integers(1, 2),
        "internal_port": st.just(22),
        "internal_ip_address": st.none() | st.sampled_from(ADDRESSES),
    },
    "qos-policy": {"shared": st.booleans()},
    "qos-rule": {
        "qos_policy_id": id_,
        "type": st.sampled_from(["bandwidth_limit", "minimum_bandwidth", "priority"]),
        "direction": st.sampled_from(["egress", "egress", "ingress"]),
        "max_kbps": st.sampled_from([None, 1000, 2000, 5]),
        "max_burst_kbps": st.sampled_from([None, 20, 72, 5]),
        "min_kbps": st.sampled_from([None, 1500, 900]),
        "priority": st.sampled_from([None, None, 3, 8]),
    },
    "neighbour": {
        "network_id": id_,
        "ip_address": st.sampled_from(["192.0.2.1", "192.0.2.2", "x"]),
        "mac_address": st.sampled_from(MACS),
    },
    "hypervisor": {"tunnel_ip": st.none() | st.sampled_from(ADDRESSES), "ovsdb": st.just("passive")},
    "tunnel-mesh": {
        "underlay_mtu": st.sampled_from([1280, 1500, 9000]),
        "tunnel_type": st.sampled_from(["geneve", "vxlan"]),
    },
}


REQUIRED = (
    "network_id", "cidr", "floating_network_id", "floating_ip_id", "internal_port_id", "protocol", "external_port",
    "internal_port", "ip_address", "security_group_id", "direction", "loadbalancer_id", "pool_id", "protocol_port", "address",
    "type", "qos_policy_id",
)  # fmt: skip
ROUTED = [
    Write("create", "network", IDS[0], {"project_id": "us"}),
    Write("create", "subnet", IDS[0], {"network_id": IDS[0], "cidr": "10.0.0.0/24"}),
    Write("create", "subnet", IDS[1], {"network_id": IDS[0], "cidr": "2001:db8::/64", "ipv6_address_mode": "slaac"}),
    Write("create", "network", IDS[1], {"physical_network": "wire", "external": True}),
    Write("create", "subnet", IDS[2], {"network_id": IDS[1], "cidr": "192.0.2.0/28"}),
    Write("create", "router", IDS[0], {"project_id": "us"}),
    Write("create", "port", IDS[0], {"network_id": IDS[0], "router_id": IDS[0]}),
    Write("create", "port", IDS[1], {"network_id": IDS[1], "router_id": IDS[0]}),
    Write("create", "port", IDS[2], {"network_id": IDS[0]}),
    Write("create", "port", IDS[3], {"network_id": IDS[0]}),
    Write("create", "floating-ip", IDS[0], {"floating_network_id": IDS[1], "port_id": IDS[2]}),
    Write("create", "floating-ip", IDS[1], {"floating_network_id": IDS[1]}),
    Write("create", "port-forwarding", IDS[0], {
        "floating_ip_id": IDS[1], "internal_port_id": IDS[3], "protocol": "tcp", "external_port": 1, "internal_port": 22,
    }),
    Write("patch", "router", IDS[0], {"routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.130"}]}),
    Write("create", "security-group", IDS[0], {"project_id": "us"}),
    Write("create", "security-group", IDS[1], {
        "project_id": "us", "selector": [{"key": "tier", "operator": "In", "values": ["a"]}],
    }),
    Write("create", "security-group", IDS[2], {"tier": "admin", "selector": [{"key": "zone", "operator": "Exists"}]}),
    Write("create", "security-group-rule", IDS[0], {
        "security_group_id": IDS[0], "direction": "ingress", "remote_group_id": IDS[1],
    }),
    Write("create", "port", IDS[4], {"network_id": IDS[0], "security_groups": [IDS[0]], "labels": {"tier": "a"}}),
    Write("create", "load-balancer", IDS[0], {"vip_network_id": IDS[0], "vip_address": "10.0.0.130"}),
    Write("create", "load-balancer", IDS[1], {"router_id": IDS[0], "vip_address": "10.96.0.1"}),
    Write("create", "pool", IDS[0], {"loadbalancer_id": IDS[0], "protocol": "TCP"}),
    Write("create", "listener", IDS[0], {
        "loadbalancer_id": IDS[0], "protocol": "TCP", "protocol_port": 1, "protocol_port_max": 3, "default_pool_id": IDS[0],
    }),
    Write("create", "member", IDS[0], {"pool_id": IDS[0], "address": "10.0.0.2"}),
    Write("create", "health-monitor", IDS[0], {"pool_id": IDS[0], "type": "HTTP"}),
    Write("create", "floating-ip", IDS[2], {"floating_network_id": IDS[1], "loadbalancer_id": IDS[1]}),
    *(Write("create", "qos-policy", id, {"shared": shared}) for id, shared in ((IDS[0], True), (IDS[1], False))),
    Write("create", "qos-rule", IDS[0], {"qos_policy_id": IDS[0], "type": "bandwidth_limit", "max_kbps": 1000}),
    Write("create", "qos-rule", IDS[1], {"qos_policy_id": IDS[1], "type": "minimum_bandwidth", "min_kbps": 900}),
    Write("patch", "port", IDS[1], {"qos_policy_id": IDS[0]}),
    Write("patch", "port", IDS[2], {"qos_policy_id": IDS[1]}),
    Write("create", "neighbour", IDS[0], {
        "network_id": IDS[1], "ip_address": "192.0.2.1", "mac_address": MACS[0], "learned": True,
    }, system=True),
]  # fmt: skip
"""A router between a network and the outside, with all that it may have."""


@st.composite
def writes(draw: Any) -> Write:
    often = ["subnet", "port", "port", "port", "floating-ip", "floating-ip", "security-group", "security-group-rule"]
    often += ["load-balancer", "pool", "listener", "member", "qos-rule"]
    kind = draw(st.sampled_from([*FIELDS, *often]))
    optional = FIELDS[kind] | {"name": st.sampled_from(["", "", "a", "b"]), "project_id": st.sampled_from(["", "us"])}
    needed = {field.name for field in structs.fields(KINDS[kind]) if field.required}
    required = {name: optional.pop(name) for name in REQUIRED if name in optional and name in needed}
    op = draw(st.sampled_from(["create", "create", "replace", "patch", "patch", "delete"]))
    if op == "patch":
        optional, required = optional | required, {}
    fields = {} if op == "delete" else draw(st.fixed_dictionaries(required, optional=optional))
    id = draw(id_ if op != "create" else id_ | st.none())
    return Write(op, kind, id, fields, draw(st.sampled_from([*[None] * 8, 1])), draw(st.sampled_from(PROJECTS)))


WITH_NULLS = (RULE_MATCH, *LoadBalancer.UNIQUE[1:], Member.UNIQUE[1])
"""Indexes in which null is a value like any other."""


def check(topology: Topology) -> None:
    """The promises, computed from the objects alone."""
    objects = [obj for kind in KINDS for obj in topology.all(kind).values()]
    there = {(obj.KIND, obj.id) for obj in objects}
    for obj in objects:
        assert all(target in there for _, target in references(obj.KIND, obj))
        assert obj.revision_number >= 1
    unique: Counter[Any] = Counter()
    for obj in objects:
        unique[obj.KIND, "name", name_key(obj)] += 1
        for fields in obj.UNIQUE:
            unique[(obj.KIND, fields, *(getattr(obj, field) for field in fields))] += 1
            assert fields in WITH_NULLS or None not in [getattr(obj, field) for field in fields]
    for port in topology.all("port").values():
        assert port.mac_address == port.mac_address.lower() and not int(port.mac_address[1], 16) & 1
        for fixed in port.fixed_ips:
            subnet = topology.get("subnet", fixed.subnet_id)
            unique["address", fixed.subnet_id, fixed.ip_address] += 1
            assert subnet.network_id == port.network_id
            assert ip_address(fixed.ip_address) in ip_network(subnet.cidr)
            assert fixed.ip_address == str(ip_address(fixed.ip_address))
        if port.dns_name:
            unique["host", port.network_id, port.dns_name] += 1
        if port.router_id is not None:
            check_interface(topology, port)
        check_identity(topology, port)
    for network in topology.all("network").values():
        assert network.physical_network or not network.external
        if network.physical_network:
            unique["wire", network.physical_network, network.segmentation_id] += 1
    for floating in topology.all("floating-ip").values():
        unique["address", floating.subnet_id, floating.floating_ip_address] += 1
        check_floating(topology, floating)
    for balancer in topology.all("load-balancer").values():
        if balancer.vip_subnet_id is not None:
            unique["address", balancer.vip_subnet_id, balancer.vip_address] += 1
        check_balancer(topology, balancer)
    assert not [key for key, times in unique.items() if times > 1]
    for network in topology.all("network"):
        nets = [ip_network(topology.get("subnet", id).cidr) for id in topology.subnets_of(network)]
        assert not any(a.overlaps(b) for a in nets for b in nets if a is not b and a.version == b.version)
    assert len(topology.all("tunnel-mesh")) <= 1
    check_rules(topology)
    check_quality(topology)


def check_balancer(topology: Topology, balancer: Any) -> None:
    """It is in a network inside or on a router; listeners' ports are disjoint; members can be reached."""
    assert (balancer.router_id is None) == (balancer.vip_network_id is not None) == (balancer.vip_subnet_id is not None)
    address = ip_address(balancer.vip_address)
    if balancer.router_id is None:
        subnet = topology.get("subnet", balancer.vip_subnet_id)
        assert subnet.network_id == balancer.vip_network_id and address in ip_network(subnet.cidr)
        assert not topology.get("network", subnet.network_id).external
    else:
        for port in topology.interfaces_of(balancer.router_id):
            for fixed in port.fixed_ips:
                assert address not in ip_network(topology.get("subnet", fixed.subnet_id).cidr)
    taken: Counter[Any] = Counter()
    for id in topology.listeners_of(balancer.id):
        listener = topology.get("listener", id)
        for number in range(listener.protocol_port, (listener.protocol_port_max or listener.protocol_port) + 1):
            taken[listener.protocol, number] += 1
        pool = topology.get("pool", listener.default_pool_id or "")
        assert pool is None or (pool.loadbalancer_id, pool.protocol) == (balancer.id, listener.protocol)
        assert listener.project_id == balancer.project_id
    assert not [key for key, times in taken.items() if times > 1]
    for id in topology.pools_of(balancer.id):
        assert topology.get("pool", id).project_id == balancer.project_id
        for member in (topology.get("member", each) for each in topology.members_of(id)):
            assert ip_address(member.address) in ip_network(topology.get("subnet", member.subnet_id).cidr)
            assert ip_address(member.address).version == address.version and member.project_id == balancer.project_id
            port = topology.addresses.get((member.subnet_id, member.address), "")
            own = {topology.get("floating-ip", each).fixed_ip_address for each in topology.floating_of(port)}
            assert not topology.floating_to(balancer.id) or member.address not in own


def check_identity(topology: Topology, port: Any) -> None:
    """A port has the one identity that goes with its groups and labels, and no contradictory groups."""
    asked = port.port_security_enabled and port.router_id is None
    assert (port.identity is None) == (not asked and not port.security_groups and not port.labels)
    if port.identity is None:
        return
    identity = topology.identity(port.identity)
    assert identity is not None and not identity.retired
    assert (identity.project_id, identity.security_groups, identity.labels, identity.port_security_enabled) == (
        port.project_id, port.security_groups, port.labels, port.port_security_enabled,
    )  # fmt: skip
    assert identity.id == identity_id(port.project_id, port.security_groups, port.labels, port.port_security_enabled)
    groups = topology.all("security-group")
    found = {id for id, group in groups.items() if selects(group, port.project_id, port.labels)} | {
        *port.security_groups
    }
    found = {id for id in found if port.port_security_enabled or groups[id].tier == "admin"}
    assert topology.groups_of_identity(port.identity) == found
    assert len({groups[id].stateful for id in found if groups[id].tier == "tenant"}) <= 1
    assert port.router_id is None
    for id in port.security_groups:
        group = groups[id]
        assert group.tier == "admin" or group.shared or group.project_id == port.project_id
        assert group.tier == "admin" or port.port_security_enabled


def check_rules(topology: Topology) -> None:
    for rule in topology.all("security-group-rule").values():
        group = topology.get("security-group", rule.security_group_id)
        assert rule.project_id == group.project_id and (rule.action == "allow" or group.tier == "admin")
        assert sum(getattr(rule, name) is not None for name in RULE_MATCH[6:9]) <= 1
        assert rule.remote_ip_prefix is None or (":" in rule.remote_ip_prefix) == (rule.ethertype == "IPv6")


def wire_mtu(topology: Topology, network: str) -> int:
    tunnelled = topology.get("network", network).physical_network is None and topology.mesh is not None
    return topology.mesh.underlay_mtu if tunnelled else 1500


def check_quality(topology: Topology) -> None:
    """Rules say one thing, and hold where they can; a packet fits every burst."""
    for rule in topology.all("qos-rule").values():
        said = [name for name in ("max_kbps", "min_kbps", "priority") if getattr(rule, name) is not None]
        assert len(said) == 1 and rule.project_id == topology.get("qos-policy", rule.qos_policy_id).project_id
        assert rule.type == "bandwidth_limit" or rule.direction == "egress"
        for kind, id in topology.referrers("qos-policy", rule.qos_policy_id):
            user = topology.get(kind, id)
            outside = kind == "floating-ip" or (kind == "port" and user.router_id is not None)
            assert not outside or rule.type == "bandwidth_limit"
            if kind != "qos-rule" and rule.max_burst_kbps is not None:
                networks = {
                    "network": id,
                    "port": getattr(user, "network_id", ""),
                    "floating-ip": getattr(user, "floating_network_id", ""),
                }
                mtu = topology.get("network", networks[kind]).mtu or wire_mtu(topology, networks[kind])
                assert rule.max_burst_kbps * 1000 >= (mtu + 18) * 8
    for policy in topology.all("qos-policy"):
        rules = [topology.get("qos-rule", id) for id in topology.qos_rules_of(policy)]
        limits = [rule.max_kbps for rule in rules if rule.direction == "egress" and rule.max_kbps]
        assert all(rule.min_kbps <= most for rule in rules if rule.min_kbps for most in limits)
    for port in topology.all("port").values():
        if port.router_id is not None and port.qos_policy_id is not None:
            assert topology.get("network", port.network_id).external


def check_interface(topology: Topology, port: Any) -> None:
    router = topology.get("router", port.router_id)
    ports = topology.interfaces_of(router.id)
    assert port.fixed_ips and port.project_id == router.project_id
    assert sum(topology.get("network", each.network_id).external for each in ports) <= 1
    found = [(p.id, ip_network(topology.get("subnet", f.subnet_id).cidr)) for p in ports for f in p.fixed_ips]
    assert not any(a.overlaps(b) for p, a in found for q, b in found if p != q and a.version == b.version)
    own = {fixed.ip_address for each in ports for fixed in each.fixed_ips}
    hops = [route.nexthop for route in router.routes] + [hop for each in router.policy_routes for hop in each.nexthops]
    for hop in hops:
        assert hop not in own and any(ip_address(hop) in prefix for _, prefix in found)


def check_floating(topology: Topology, floating: Any) -> None:
    """What it leads to can be reached; one port, or several forwardings."""
    forwardings = [topology.get("port-forwarding", id) for id in topology.forwardings_of(floating.id)]
    served = [(each.internal_port_id, each.internal_ip_address) for each in forwardings]
    assert (floating.port_id is None) == (floating.fixed_ip_address is None)
    if floating.loadbalancer_id is not None:
        balancer = topology.get("load-balancer", floating.loadbalancer_id)
        assert floating.port_id is None and not forwardings
        assert (":" in balancer.vip_address) == (":" in floating.floating_ip_address)
        assert topology.router_of_floating(floating.id) is not None
    if floating.port_id is not None:
        assert not forwardings
        served = [(floating.port_id, floating.fixed_ip_address)]
    for id, address in served:
        port = topology.get("port", id)
        assert address in {fixed.ip_address for fixed in port.fixed_ips}
        assert (":" in address) == (":" in floating.floating_ip_address)
        assert router_between(topology, port, address, floating.floating_network_id) is not None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(writes(), min_size=1, max_size=4), max_size=12), st.integers(0, 9), st.sampled_from([[], ROUTED])
)
def test_batches_of_any_writes_keep_every_promise(batches: list[list[Write]], seed: int, first: list[Write]) -> None:
    topology, allocator, fresh = Topology(), Allocator(Random(seed)), 100
    for batch in [first, *batches]:
        draft = Draft(topology)
        for write in batch:
            fresh += 1
            old = draft.get(write.kind, write.id) if write.id else None
            try:
                edit = admit(draft, write, allocator, str(UUID(int=fresh, version=4)))
            except Refused as refused:
                assert 400 <= refused.status < 500 and refused.detail
                continue
            for each in (*consequences(draft, edit, allocator), edit):
                draft.stage(each)
            if edit.value is not None and old is not None:
                assert (edit.value == old) == (edit.value.revision_number == old.revision_number)
                assert write.project in (None, old.project_id)
        topology.apply(draft.edits)
        check(topology)
        rebuilt = Topology()
        rebuilt.apply(edit for kind in KINDS for edit in [(kind, id, o) for id, o in topology.all(kind).items()])
        for index in INDEXES:
            assert getattr(rebuilt, index) == getattr(topology, index)


@settings(max_examples=200, deadline=None)
@given(st.lists(writes(), max_size=25), st.sampled_from([[], ROUTED]))
def test_a_draft_answers_as_the_graph_would(batch: list[Write], first: list[Write]) -> None:
    """Staging over a draft and applying to the graph are the same thing, whatever is asked."""
    topology, allocators = Topology(), (Allocator(Random(3)), Allocator(Random(3)))
    draft = Draft(Draft(Topology()))
    for number, write in enumerate([*first, *batch]):
        id, outcomes = str(UUID(int=100 + number, version=4)), []
        for view, allocator in zip((topology, draft), allocators, strict=True):
            try:
                outcomes.append(admit(view, write, allocator, id))  # type: ignore[arg-type]
            except Refused as refused:
                outcomes.append((refused.status, refused.field))
        assert outcomes[0] == outcomes[1]
        if not isinstance(outcomes[0][0], int):
            topology.apply([*consequences(topology, outcomes[0], allocators[0]), outcomes[0]])
            for each in (*consequences(draft, outcomes[1], allocators[1]), outcomes[1]):
                draft.stage(each)
        for kind in KINDS:
            assert dict(draft.all(kind)) == dict(topology.all(kind))
            for id in IDS:
                assert sorted(draft.referrers(kind, id)) == sorted(set(topology.referrers(kind, id)))
        for id in IDS:
            assert draft.interfaces_of(id) == topology.interfaces_of(id)
            assert draft.routed_by(id) == topology.routed_by(id)
            for members in (
                "subnets_of",
                "floating_of",
                "forwardings_of",
                "neighbours_in",
                "rules_of",
                *OF_QUALITY,
                *OF_BALANCERS,
            ):
                assert getattr(draft, members)(id) == getattr(topology, members)(id)
            for address in ADDRESSES:
                assert draft.members_at((id, address)) == topology.members_at((id, address))
        for project in ("", "us", "them", EVERYONE):
            assert draft.selectors_of(project) == topology.selectors_of(project)
            assert draft.identities_of_project(project) == topology.identities_of_project(project)
        for number in topology.identities:
            assert sorted(draft.ports_with(number)) == sorted(topology.ports_with(number))
        for index in INDEXES:
            assert dict(getattr(draft, index)) == dict(getattr(topology, index))


def test_what_the_random_writes_begin_with_is_admitted() -> None:
    topology, allocator = Topology(), Allocator(Random(1))
    for write in ROUTED:
        edit = admit(topology, write, allocator, "")
        topology.apply([*consequences(topology, edit, allocator), edit])
    check(topology)
    made = sum(len(topology.all(kind)) for kind in KINDS if not KINDS[kind].DERIVED)
    default = 1 + 4
    assert made == len({(write.kind, write.id) for write in ROUTED}) + default
    assert len(topology.all("identity")) == 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.from_regex(UUID_PATTERN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nonsense_is_refused_and_never_a_crash(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    names = st.sampled_from([*columns(kind), "id", "nonsense"])
    fields = data.draw(st.dictionaries(names, JSON | st.sampled_from([*ADDRESSES, *CIDRS, *MACS]), max_size=4))
    topology, allocator = Topology(), Allocator(Random(1))
    topology.apply([admit(topology, Write("create", "network"), allocator, IDS[0])])
    if data.draw(st.booleans()):
        fields["network_id"] = IDS[0]
    op = data.draw(st.sampled_from(["create", "replace", "patch"]))
    try:
        edit = admit(topology, Write(op, kind, IDS[0] if op != "create" else None, fields), allocator, IDS[1])
        topology.apply([*consequences(topology, edit, allocator), edit])
    except Refused as refused:
        assert 400 <= refused.status < 500 and refused.detail
    check(topology)
