"""Random worlds of security groups, edits of them, and packets that go to the edges of their rules."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from random import Random

from msgspec.structs import replace

from topology.changes import Change, Edit
from topology.model import LabelRequirement, Port, SecurityGroup, SecurityGroupRule

from .policy_oracle import NUMBERS, WITH_PORTS, Packet, groups_of
from .world import World

PROJECTS = ("blue", "red")
NETWORKS = ("n1", "n2")
LABELS = {"tier": ("web", "db", ""), "env": ("dev", "prod"), "example.com/pci": ("yes",)}
OUTSIDE = ("198.51.100.7", "203.0.113.200", "2001:db8:7::7", "2001:db8::ffff")
CIDRS = (
    "0.0.0.0/0", "10.1.0.0/24", "10.1.0.16/28", "10.1.0.17/32", "10.0.0.0/8", "198.51.100.0/25", "198.51.100.128/25",
    "203.0.113.192/26", "::/0", "fd00:1::/64", "fd00:1::10/124", "fd00::/8", "2001:db8::/32", "2001:db8:7::7/128",
)  # fmt: skip
RANGES = ((80, 80), (1, 65535), (1, 1024), (1000, 1999), (7, 13), (443, 8443), (65535, 65535), (32768, 65535), (2, 3))
ICMP_TYPES = (0, 3, 8, 128, 129, 255)
NEIGHBOUR_DISCOVERY = range(133, 138)
"""Types of ICMPv6 that no policy is asked about."""
PROTOCOLS = (None, "tcp", "tcp", "udp", "icmp", "icmp", "sctp", "6", "gre", "50", "udplite")


class PolicyWorld(World):
    """VMs in two networks (IPv4 and IPv6, not joined) with groups of several projects and tiers, and rules; ``editor`` edits on."""

    def __init__(self, rng: Random, *, hypervisors: int = 2, ports: int = 6, rules: int = 16) -> None:
        super().__init__(hypervisors)
        for number, name in enumerate(NETWORKS, 1):
            self.network(name, number, f"10.{number}.0.0/24", f"fd00:{number}::/64")
        self.editor = PolicyEditor(self, rng)
        for _ in range(rng.randint(2, 5)):
            self.editor.change_group_new()
        for _ in range(rng.randint(0, 2)):
            self.editor.change_address_group_new()
        for _ in range(ports):
            self.editor.change_vm_new()
        for _ in range(rng.randint(1, rules)):
            self.editor.change_rule_new()


class PolicyEditor:
    """Random edits of VMs, groups, rules, labels and identities. Each method makes one, of the kind that the store commits."""

    def __init__(self, world: World, rng: Random, networks: Sequence[str] = NETWORKS) -> None:
        self.world, self.rng, self.topology, self.networks = world, rng, world.topology, networks
        self.number = 0
        self.hypervisors = sorted(self.topology.all("hypervisor"))
        self.stateful = {project: rng.random() < 0.7 for project in PROJECTS}
        """Groups of a port must agree in this, so all of a project do."""

    def edit(self) -> list[Change]:
        """One random edit; nothing when there is nothing to do."""
        name = self.rng.choice([name for name in dir(type(self)) if name.startswith("change_")])
        return getattr(self, name)()

    def next(self, prefix: str) -> str:
        """A new id."""
        self.number += 1
        return f"{prefix}{self.number}"

    def pick(self, kind: str) -> str | None:
        """The id of one of the objects of a kind."""
        found = list(self.topology.all(kind))
        return self.rng.choice(found) if found else None

    def vm(self) -> Port | None:
        """A port that is no router's."""
        found = [port for port in self.topology.all("port").values() if port.router_id is None]
        return self.rng.choice(found) if found else None

    # --- VMs -----------------------------------------------------------------------------------------------------

    def change_vm_new(self) -> list[Change]:
        network, project = self.rng.choice(self.networks), self.rng.choice(PROJECTS)
        secure = self.rng.random() < 0.8
        id = self.next("vm")
        subnets = [self.topology.get("subnet", id) for id in sorted(self.topology.subnets_of(network))]
        if not subnets:
            return []
        return self.world.port(
            id, network, on=self.rng.choice([*self.hypervisors, None]),
            ips=tuple(str(ip_network(subnet.cidr)[9 + self.number % 240]) for subnet in subnets),
            project_id=project, port_security_enabled=secure, labels=self.labels(),
            security_groups=self.nameable(project) if secure else self.administrators(),
        )  # fmt: skip

    def labels(self) -> dict[str, str]:
        return {key: self.rng.choice(values) for key, values in LABELS.items() if self.rng.random() < 0.3}

    def nameable(self, project: str) -> tuple[str, ...]:
        """Groups that a project's port may name."""
        return tuple(
            id for id, group in self.topology.all("security-group").items()
            if self.rng.random() < 0.6 and (
                group.tier == "admin" or group.project_id == project
                or (group.shared and group.stateful == self.stateful.get(project, True))
            )
        )  # fmt: skip

    def administrators(self) -> tuple[str, ...]:
        """Groups that a port without port security may name."""
        groups = self.topology.all("security-group").items()
        return tuple(id for id, group in groups if group.tier == "admin" and self.rng.random() < 0.3)

    def change_vm_gone(self) -> list[Change]:
        port = self.vm()
        if port is None:
            return []
        gone = [Edit("vif", port.id, None)] if self.rng.random() < 0.5 else []
        if any(kind != "port" for kind, _ in self.topology.referrers("port", port.id)):
            return []
        return self.world.apply(*gone, Edit("port", port.id, None))

    def change_vm_plugged(self) -> list[Change]:
        port = self.vm()
        return [] if port is None else self.world.plug(port.id, self.rng.choice(self.hypervisors))

    def change_vm_unplugged(self) -> list[Change]:
        port = self.vm()
        return [] if port is None else self.world.unplug(port.id)

    def change_vm_groups(self) -> list[Change]:
        port = self.vm()
        if port is None:
            return []
        secure = port.port_security_enabled
        return self.world.regroup(
            port.id, security_groups=self.nameable(port.project_id) if secure else self.administrators()
        )

    def change_vm_labels(self) -> list[Change]:
        port = self.vm()
        return [] if port is None else self.world.regroup(port.id, labels=self.labels())

    def change_vm_security(self) -> list[Change]:
        port = self.vm()
        if port is None or any(
            self.topology.get("security-group", id).tier != "admin" for id in port.security_groups or ()
        ):
            return []
        return self.world.regroup(port.id, port_security_enabled=not port.port_security_enabled)

    def change_identity_unused(self) -> list[Change]:
        """Identities that no port has are retired, and collected later."""
        id = self.pick("identity")
        if id is None or self.topology.ports_with(self.topology.get("identity", id).number):
            return []
        if self.topology.get("identity", id).retired:
            return self.world.apply(Edit("identity", id, None))
        return self.world.edit("identity", id, retired=True)

    # --- groups --------------------------------------------------------------------------------------------------

    def change_group_new(self) -> list[Change]:
        admin = self.rng.random() < 0.3
        project = "" if admin else self.rng.choice(PROJECTS)
        return self.world.group(
            self.next("sg"), project_id=project, tier="admin" if admin else "tenant", selector=self.selector(),
            priority=self.rng.choice([0, 1, 1, 500, 1000]) if admin else 0,
            stateful=admin or self.stateful[project], shared=not admin and self.rng.random() < 0.3,
        )  # fmt: skip

    def selector(self) -> tuple[LabelRequirement, ...] | None:
        """None, or requirements one of which needs a label, as admission asks."""
        if self.rng.random() < 0.5:
            return None
        first = self.requirement(self.rng.choice(["In", "Exists"]))
        others = [
            self.rng.choice(["In", "NotIn", "Exists", "DoesNotExist"]) for _ in range(self.rng.choice([0, 1, 1, 2]))
        ]
        return (first, *map(self.requirement, others))

    def requirement(self, operator: str) -> LabelRequirement:
        key, values = self.rng.choice(list(LABELS.items()))
        chosen = self.rng.sample(values, self.rng.randint(1, len(values))) if operator in ("In", "NotIn") else ()
        return LabelRequirement(key, operator, tuple(sorted(chosen)))

    def change_group(self) -> list[Change]:
        id = self.pick("security-group")
        if id is None:
            return []
        group: SecurityGroup = self.topology.get("security-group", id)
        fields: list[dict[str, object]] = [{"selector": self.selector()}, {"selector": self.selector()}, {"name": id}]
        if group.tier == "admin":
            fields.append({"priority": self.rng.choice([0, 1, 500, 1000])})
        return self.world.edit("security-group", id, **self.rng.choice(fields))

    def change_group_gone(self) -> list[Change]:
        """A group that no port and no other group's rule names, with its rules."""
        id = self.pick("security-group")
        if id is None or self.rng.random() < 0.5:
            return []
        rules = self.topology.rules_of(id)
        if any(node[0] == "port" or node[1] not in rules for node in self.topology.referrers("security-group", id)):
            return []
        gone = [Edit("security-group-rule", rule, None) for rule in rules]
        return self.world.apply(*gone, Edit("security-group", id, None))

    def change_statefulness(self) -> list[Change]:
        """All groups of all projects at once, since those of a port must agree."""
        if self.rng.random() < 0.7:
            return []
        stateful = self.rng.random() < 0.5
        self.stateful = dict.fromkeys(PROJECTS, stateful)
        groups = [group for group in self.topology.all("security-group").values() if group.tier == "tenant"]
        return self.world.apply(*(Edit("security-group", each.id, replace(each, stateful=stateful)) for each in groups))

    # --- rules ---------------------------------------------------------------------------------------------------

    def change_rule_new(self) -> list[Change]:
        group = self.pick("security-group")
        if group is None:
            return []
        admin = self.topology.get("security-group", group).tier == "admin"
        peer = self.peer()
        family = self.rng.choice((4, 6))
        if "remote_ip_prefix" in peer:
            family = ip_network(peer["remote_ip_prefix"]).version
        return self.world.rule(
            group, self.rng.choice(["ingress", "egress"]), ethertype=f"IPv{family}",
            action=self.rng.choice(["allow", "deny"]) if admin else "allow", log=self.rng.random() < 0.2,
            revoke=self.rng.random() < 0.7, **peer, **self.service(family),
        )  # fmt: skip

    change_another_rule_new = change_rule_new

    def peer(self) -> dict[str, str]:
        """One kind of peer, or none."""
        kinds = {
            "remote_group_id": self.pick("security-group"),
            "remote_ip_prefix": self.rng.choice(CIDRS),
            "remote_address_group_id": self.pick("address-group"),
        }
        found = {kind: id for kind, id in kinds.items() if id is not None}
        kind = self.rng.choice([*found, "remote_group_id", None])
        return {kind: found[kind]} if kind in found else {}

    def service(self, family: int) -> dict[str, object]:
        """A protocol, mostly with ports or a type where it can have them."""
        protocol = self.rng.choice(PROTOCOLS)
        if protocol == "icmp":
            kind, code = self.rng.choice(ICMP_TYPES), self.rng.choice([None, 0, 1])
            spoken = "icmp" if family == 4 else "ipv6-icmp"
            ranged = {} if self.rng.random() < 0.3 else {"port_range_min": kind, "port_range_max": code}
            return {"protocol": spoken, **ranged}
        if protocol in ("tcp", "udp", "sctp", "6") and self.rng.random() < 0.8:
            low, high = self.rng.choice(RANGES)
            return {"protocol": protocol, "port_range_min": low, "port_range_max": high}
        return {} if protocol is None else {"protocol": protocol}

    def change_rule(self) -> list[Change]:
        """What may change of a rule."""
        id = self.pick("security-group-rule")
        if id is None:
            return []
        rule: SecurityGroupRule = self.topology.get("security-group-rule", id)
        fields = self.rng.choice([{"log": not rule.log}, {"revoke": not rule.revoke}, {"name": self.next("name")}])
        return self.world.edit("security-group-rule", id, **fields)

    def change_rule_gone(self) -> list[Change]:
        id = self.pick("security-group-rule")
        return [] if id is None else self.world.apply(Edit("security-group-rule", id, None))

    # --- address groups ------------------------------------------------------------------------------------------

    def change_address_group_new(self) -> list[Change]:
        return self.world.address_group(self.next("ag"), *self.addresses())

    def addresses(self) -> tuple[str, ...]:
        return tuple(sorted(self.rng.sample(CIDRS, self.rng.randint(0, 4))))

    def change_address_group(self) -> list[Change]:
        id = self.pick("address-group")
        return [] if id is None else self.world.edit("address-group", id, addresses=self.addresses())

    def change_address_group_gone(self) -> list[Change]:
        id = self.pick("address-group")
        if id is None or self.topology.rules_naming(id):
            return []
        return self.world.apply(Edit("address-group", id, None))


# --- packets -----------------------------------------------------------------------------------------------------


def random_packet(rng: Random, world: World, *, source: str | None = None, destination: str | None = None) -> Packet:
    """The first packet of a connection, mostly near the edges of a rule that applies to one of its ends.

    ``source`` or ``destination`` fixes the port at one end; the other end, and both when none is given, is a VM or outside.
    """
    vms = sorted(id for id, port in world.topology.all("port").items() if port.router_id is None)
    rule = _rule(rng, world, source, destination)
    if source is None and destination is None:
        here = rng.choice((rule and _members(world, rule.security_group_id)) or vms)
        outgoing = rng.random() < 0.5 if rule is None else rule.direction == "egress"
        source, destination = (here, None) if outgoing else (None, here)
    family = rng.choice((4, 6)) if rule is None or rng.random() < 0.05 else int(rule.ethertype[-1])
    address = None
    if source is None or destination is None:
        other, address = _peer(rng, world, rule, family, vms)
        source, destination = (other, destination) if source is None else (source, other)
    protocol, port, icmp = _service(rng, rule, family)
    return Packet(
        source, destination, family,
        _address(world, source, family) or address or _outside(rng, family),
        _address(world, destination, family) or address or _outside(rng, family),
        protocol,
        source_port=None if port is None else rng.randint(1, 65535),
        destination_port=port,
        icmp=icmp,
    )  # fmt: skip


def _rule(rng: Random, world: World, source: str | None, destination: str | None) -> SecurityGroupRule | None:
    """A rule, mostly one that applies to the ports that are given; sometimes none."""
    topology = world.topology
    rules = list(topology.all("security-group-rule").values())
    applying = {
        (group.id, direction)
        for direction, id in (("egress", source), ("ingress", destination)) if id is not None
        for group in groups_of(topology, topology.get("port", id))
    }  # fmt: skip
    if applying and rng.random() < 0.8:
        rules = [rule for rule in rules if (rule.security_group_id, rule.direction) in applying]
    return rng.choice(rules) if rules and rng.random() < 0.9 else None


def _members(world: World, group_id: str) -> list[str]:
    """Ids of the ports in a group."""
    ports = world.topology.all("port").values()
    return [port.id for port in ports if any(group.id == group_id for group in groups_of(world.topology, port))]


def _peer(
    rng: Random, world: World, rule: SecurityGroupRule | None, family: int, vms: list[str]
) -> tuple[str | None, str | None]:
    """Who is at the other end: a VM, or an address outside at the edge of the rule's."""
    if rule is not None and rule.remote_group_id is not None and rng.random() < 0.7:
        return rng.choice(_members(world, rule.remote_group_id) or vms), None
    if rng.random() < 0.5:
        return rng.choice(vms), None
    cidrs = [rule.remote_ip_prefix] if rule is not None and rule.remote_ip_prefix else list(CIDRS)
    if rule is not None and rule.remote_address_group_id:
        cidrs = list(world.topology.get("address-group", rule.remote_address_group_id).addresses)
    prefixes = [prefix for prefix in map(ip_network, cidrs) if prefix.version == family and prefix.prefixlen]
    if not prefixes or rng.random() < 0.3:
        return None, _outside(rng, family)
    prefix = rng.choice(prefixes)
    edge = rng.choice([prefix[0], prefix[-1], prefix[0] - 1, prefix[-1] + 1])
    return None, str(edge)


def _outside(rng: Random, family: int) -> str:
    return rng.choice([address for address in OUTSIDE if ip_address(address).version == family])


def _address(world: World, port: str | None, family: int) -> str | None:
    """A VM's address."""
    found = world.topology.get("port", port).fixed_ips if port else ()
    return next((fixed.ip_address for fixed in found if (":" in fixed.ip_address) == (family == 6)), None)


def _service(
    rng: Random, rule: SecurityGroupRule | None, family: int
) -> tuple[int, int | None, tuple[int, int] | None]:
    """Protocol, destination port, and ICMP type and code, at the edges of a rule's."""
    protocol = rng.choice([6, 6, 17, 1, 132, 47])
    if rule is not None and rule.protocol is not None and rng.random() < 0.9:
        protocol = NUMBERS[rule.protocol] if rule.protocol in NUMBERS else int(rule.protocol)
    icmp = 58 if family == 6 else 1
    if protocol in (1, 58):
        kinds = [kind for kind in range(256) if family == 4 or kind not in NEIGHBOUR_DISCOVERY]
        kind = rng.choice([*ICMP_TYPES, rng.choice(kinds)])
        code = rng.choice([0, 1, 2])
        if rule is not None and rule.port_range_min is not None and rule.port_range_min < 256 and rng.random() < 0.7:
            kind, code = rule.port_range_min, code if rule.port_range_max is None else min(rule.port_range_max, 255)
        return icmp, None, (kind, code)
    if protocol not in WITH_PORTS:
        return protocol, None, None
    edges = [80, rng.randint(1, 65535)]
    if rule is not None and rule.port_range_min is not None and rule.port_range_max is not None:
        low, high = rule.port_range_min, rule.port_range_max
        edges += [low - 1, low, low, high, high, high + 1, (low + high) // 2]
    return protocol, min(max(rng.choice(edges), 1), 65535), None
