"""How a hypervisor's uplinks and its VMs' interfaces are to be shaped: the classes of a Hierarchical Token Bucket (tc-htb(8)), and who is in which.

Each VM's port with a guarantee, a priority or a bound of latency has a class of its own. All have the uplink's whole bandwidth to
borrow from; who has been guaranteed more than it sends leaves the rest to the others. What is not guaranteed, the reserve, is
for everything else: a class for what keeps the hypervisor alive, one for what it sends itself, one for VMs without a policy, and
a little for each port that has a priority and no guarantee, so that its packets need not wait for others to run out of theirs.

Numbers of classes follow from the ports' keys alone, so whoever computes them, at any time, finds the same.

A VM's own interface is shaped where its policy asks for it: what the VM is sent waits there in four classes by DSCP, those of Wi-Fi
as RFC 8325 maps them. Each has a part of the limit, and borrows what others leave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from msgspec import Struct

from .model import Hypervisor, Network, Port, TunnelMesh
from .qos import Account, Quality, View, carrier, guarantees, of_port

ROOT, CONTROL, OWN, OTHERS = 1, 2, 3, 4
"""Numbers of the classes that every uplink has: of all; BFD, ARP and neighbour discovery; what else the hypervisor itself sends;
what nobody has a class for."""
NAMES = {CONTROL: "control", OWN: "hypervisor", OTHERS: "others"}
FIRST_OF_PORTS, LAST_OF_PORTS = 16, 0xFFFE
FIRST, LAST = 0, 7
"""Which class is asked first, and which last, as tc-htb(8) counts ``prio``."""
PRIORITY_OF_LATENCY = 5
"""The priority of a port with a bound of latency that names none: that of voice (IEEE 802.1Q-2018, annex I)."""
QUEUE_MS = 20
"""How much each class keeps, in milliseconds of the uplink's bandwidth, where nothing bounds the latency."""
LEAST_QUEUE = 32 * 1514
"""… and at least so many bytes."""
SHARES = {CONTROL: 1, OWN: 1, OTHERS: 3}
"""How many eighths of the reserve each has."""
SHARE_OF_PRIORITIES, LEAST_SHARERS = 3, 4
"""The other eighths are for ports that have a priority and no guarantee, of which each has as if there were so many at least."""
VOICE, VIDEO, BEST_EFFORT, BACKGROUND = 2, 3, OTHERS, 5
"""Numbers of the classes of a VM's interface."""
PORT_CLASSES = {
    VOICE: ("voice", 30, 0),
    VIDEO: ("video", 30, 2),
    BEST_EFFORT: ("best-effort", 30, 5),
    BACKGROUND: ("background", 10, LAST),
}
"""Name, per cent of the limit that each has whatever others get, and which is asked first."""
DSCPS = {
    VOICE: (56, 48, 46, 44),
    VIDEO: (40, 38, 36, 34, 32, 30, 28, 26, 24),
    BACKGROUND: (8, 1),
}
"""By class, the DSCPs of what waits in it (RFC 8325, figure 1, and for LE RFC 8622, section 8); all others are best effort."""
PORT_QUEUE_MS = 50
"""How much each class of a VM's interface keeps, in milliseconds of the limit: a round trip or two, so that TCP fills it."""
LEAST_PORT_QUEUE = 16 * 1514
"""… and at least so many bytes."""
UDP_PORTS = {"geneve": 6081, "vxlan": 4789}

Source = tuple[int, int]
"""(VNI or VLAN, 0 without one; MAC address)."""


class Wishes(View, Protocol):
    """What knows ports, policies and the mesh: the graph, or what an agent has read."""

    @property
    def mesh(self) -> TunnelMesh | None: ...


class Leaf(Struct, frozen=True):
    """A class with a queue. Rates are kbit/s of what leaves by the uplink, tunnel headers included."""

    number: int
    """1 to 65534, the lower half of its handle."""
    name: str
    """The id of a port, or one of NAMES."""
    rate_kbps: int
    """What it has, whatever others send."""
    ceil_kbps: int
    """What it has when others send nothing."""
    order: int
    """0 is asked first of those that have something left to send, 7 last."""
    queue_bytes: int
    """What would wait behind so much is dropped."""


class Tunnel(NamedTuple):
    """How the tunnels' packets look on the wire."""

    type: str
    """``geneve`` or ``vxlan``."""
    udp_port: int
    address: str
    """That they come from."""


class Shape(Struct, frozen=True):
    """What one interface has to do."""

    interface: str
    bandwidth_kbps: int
    leaves: tuple[Leaf, ...]
    """By number."""
    tunnel: Tunnel | None = None
    """None where it carries no tunnels."""
    senders: tuple[tuple[int, int], ...] = ()
    """(port key, number of its class): in Geneve tunnels the sender's key is in NovaNet's option."""
    sources: tuple[tuple[Source, int], ...] = ()
    """((segment, MAC), number of its class), for VXLAN's inner frames."""
    wires: tuple[tuple[Source, int], ...] = ()
    """The same for frames that leave without a tunnel."""
    dscps: tuple[tuple[int, int], ...] = ()
    """(DSCP, number of its class) of a VM's interface; ARP and neighbour discovery go with the first."""


class Shaped(NamedTuple):
    """A VM's port that has a class."""

    port: Port
    network: Network
    quality: Quality


def shapes(view: Wishes, hypervisor_id: str) -> tuple[Shape, ...]:
    """What each uplink of a hypervisor has to do, in the order in which it lists them."""
    hypervisor: Hypervisor | None = view.get("hypervisor", hypervisor_id)
    if hypervisor is None or not hypervisor.uplinks:
        return ()
    accounts = guarantees(view, hypervisor_id)
    found: dict[str, list[Shaped]] = {}
    for each in _with_class(view, hypervisor_id):
        account = accounts.of(carrier(each.network))
        if account is not None:
            found.setdefault(account.interface, []).append(each)
    return tuple(
        _shape(account, found.get(account.interface, []), _tunnel(hypervisor, view.mesh))
        for account in accounts.uplinks
    )


def of_interfaces(view: Wishes, hypervisor_id: str) -> Iterator[tuple[str, int]]:
    """The VMs' ports on a hypervisor whose interfaces are to be shaped, by id, each with its limit in kbit/s."""
    for id in sorted(view.ports_on(hypervisor_id)):
        port: Port | None = view.get("port", id)
        if port is None or port.router_id is not None:
            continue
        limit = of_port(view, id).ingress
        if limit.shaped and limit.kbps is not None:
            yield id, limit.kbps


def of_interface(interface: str, kbps: int) -> Shape:
    """What a VM's interface has to do so that the VM gets no more than so much."""
    queue = max(kbps * PORT_QUEUE_MS // 8, LEAST_PORT_QUEUE)
    leaves = tuple(
        Leaf(number, name, max(kbps * percent // 100, 1), kbps, order, queue)
        for number, (name, percent, order) in PORT_CLASSES.items()
    )
    dscps = tuple(sorted((dscp, number) for number, which in DSCPS.items() for dscp in which))
    return Shape(interface, kbps, leaves, dscps=dscps)


def numbers(keys: Collection[int]) -> dict[int, int]:
    """The number of each port's class, by the port's key: what the key says, or where that is taken the next one.

    Raises ValueError when there are more ports than numbers.
    """
    size = LAST_OF_PORTS - FIRST_OF_PORTS + 1
    if len(keys) > size:
        raise ValueError(
            f"{len(keys)} ports have a guarantee, a priority or a bound of latency: more than {size} classes"
        )
    taken: dict[int, int] = {}
    for key in sorted(keys):
        slot = key % size
        while slot in taken:
            slot = (slot + 1) % size
        taken[slot] = key
    return {key: FIRST_OF_PORTS + slot for slot, key in taken.items()}


def has_class(quality: Quality) -> bool:
    """Whether a policy says something of its port's uplink."""
    return (quality.min_kbps, quality.priority, quality.max_latency_ms) != (None, None, None)


def _with_class(view: Wishes, hypervisor_id: str) -> Iterator[Shaped]:
    """The ports on a hypervisor whose policy says something of its uplink, by id."""
    for id in sorted(view.ports_on(hypervisor_id)):
        port: Port | None = view.get("port", id)
        network: Network | None = None if port is None else view.get("network", port.network_id)
        if port is None or network is None or port.router_id is not None or port.port_key is None:
            continue
        quality = of_port(view, id)
        if has_class(quality):
            yield Shaped(port, network, quality)


def _tunnel(hypervisor: Hypervisor, mesh: TunnelMesh | None) -> Tunnel | None:
    if hypervisor.tunnel_ip is None:
        return None
    mesh = mesh or TunnelMesh(id="")
    return Tunnel(mesh.tunnel_type, mesh.udp_port or UDP_PORTS[mesh.tunnel_type], hypervisor.tunnel_ip)


def _shape(account: Account, ports: list[Shaped], tunnel: Tunnel | None) -> Shape:
    number = numbers([each.port.port_key or 0 for each in ports])
    share = _share(account, sum(each.quality.min_kbps is None for each in ports))
    leaves = [_common(account, which) for which in NAMES]
    leaves += [_of_port(account, each, number[each.port.port_key or 0], share) for each in ports]
    tunnel = tunnel if "" in account.physical_networks else None
    kind = tunnel.type if tunnel is not None else ""
    return Shape(
        account.interface,
        account.bandwidth_kbps,
        tuple(sorted(leaves, key=lambda leaf: leaf.number)),
        tunnel,
        tuple(sorted(number.items())) if kind == "geneve" else (),
        _sources([each for each in ports if not carrier(each.network)], number) if kind == "vxlan" else (),
        _sources([each for each in ports if carrier(each.network)], number),
    )


def _share(account: Account, sharers: int) -> int:
    """What each port has that is guaranteed nothing. It is halved now and then, not changed by every port that comes."""
    among = max(LEAST_SHARERS, 1 << (sharers - 1).bit_length())
    return max(account.reserve_kbps * SHARE_OF_PRIORITIES // 8 // among, 1)


def _common(account: Account, which: int) -> Leaf:
    order = FIRST if which == CONTROL else LAST
    rate = account.reserve_kbps * SHARES[which] // 8
    return Leaf(which, NAMES[which], rate, account.bandwidth_kbps, order, _queue(account))


def _of_port(account: Account, shaped: Shaped, number: int, share: int) -> Leaf:
    quality = shaped.quality
    rate = share if quality.min_kbps is None else account.granted(quality.min_kbps)
    priority, queue = quality.priority or 0, _queue(account)
    if quality.max_latency_ms is not None:
        queue = rate * quality.max_latency_ms // 8
        priority = PRIORITY_OF_LATENCY if quality.priority is None else priority
    return Leaf(number, shaped.port.id, max(rate, 1), account.bandwidth_kbps, LAST - priority, queue)


def _queue(account: Account) -> int:
    return max(account.bandwidth_kbps * QUEUE_MS // 8, LEAST_QUEUE)


def _sources(ports: Iterable[Shaped], number: Mapping[int, int]) -> tuple[tuple[Source, int], ...]:
    """The MAC addresses by which ports send, each in its network."""
    found: dict[Source, int] = {}
    for port, network, _ in ports:
        segment = (network.segmentation_id if carrier(network) else network.vni) or 0
        for mac in (port.mac_address, *(pair.mac_address for pair in port.allowed_address_pairs)):
            if mac:
                found.setdefault((segment, int(mac.replace(":", ""), 16)), number[port.port_key or 0])
    return tuple(sorted(found.items()))
