"""A flow, group and meter of every shape that NovaNet writes, and some actions in Open vSwitch's own words."""

from __future__ import annotations

from pipelines import fields as f
from pipelines.flow import (
    ALGORITHMS,
    ALIVE,
    CONTROLLER,
    HASHED,
    IN_PORT_RESERVED,
    Bucket,
    Flow,
    Group,
    Learned,
    Meter,
    Nat,
    check_pkt_larger,
    clone,
    conjunction,
    conntrack,
    copy,
    dec_ttl,
    group,
    learn,
    match,
    multipath,
    output,
    pop_vlan,
    push_vlan,
    resubmit,
    set_bits,
    set_field,
    set_queue,
    to_controller,
)

OPTION = (f.GENEVE_OPTION_CLASS, f.GENEVE_OPTION_TYPE, f.TUN_OPTION.size, 0)
"""NovaNet's Geneve option as the switch maps it: class, type, length and index."""
IPV6 = 0xFD00_0000_0000_0000_0000_0000_0000_0001
PREFIX = ((1 << 64) - 1) << 64
NS = (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(135))
NA = (f.ETH_TYPE(f.IPV6), f.IP_PROTO(f.ICMPV6), f.ICMPV6_TYPE(136))
ARP = (f.ETH_TYPE(f.ARP), f.ARP_OP(1))
UDP = (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.UDP))
TCP = (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.TCP))
ECHO = (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.ICMP), f.ICMPV4_TYPE(8))
TAGGED = (f.VLAN_VID(0x1005),)
TRACKED = (f.ETH_TYPE(f.IPV4), f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_INVALID))
TRACKED6 = (f.ETH_TYPE(f.IPV6), f.CT_STATE(f.CT_TRACKED, f.CT_TRACKED | f.CT_INVALID))

MATCHES: dict[str, tuple[bytes, ...]] = {
    "everything": (),
    "port": (f.IN_PORT(1),),
    "metadata": (f.METADATA(7),),
    "metadata masked": (f.METADATA(0x10, 0xF0),),
    "registers": tuple(f.register(n)(n + 1) for n in range(16)),
    "odd register": (f.register(5)(0),),
    "register bits": (f.FROM_TUNNEL(0),),
    "register mask of ones": (f.OUT_PORT_KEY(7, 0xFFFFFFFF),),
    "register mask of zeros": (f.OUT_PORT_KEY(0, 0), f.IN_PORT(2)),
    "ethernet": (f.ETH_SRC(0x020000000001), f.ETH_DST(0x020000000002)),
    "multicast": (f.ETH_DST(f.MULTICAST_BIT, f.MULTICAST_BIT),),
    "ipv4": (f.ETH_TYPE(f.IPV4), f.IPV4_SRC(0x0A000001), f.IPV4_DST(0x0A010000, 0xFFFF0000)),
    "bits beside the mask": (f.ETH_TYPE(f.IPV4), f.IPV4_DST(0x0A010203, 0xFFFF0000)),
    "ipv6": (f.ETH_TYPE(f.IPV6), f.IPV6_SRC(IPV6), f.IPV6_DST(IPV6, PREFIX)),
    "ttl": (f.ETH_TYPE(f.IPV4), f.IP_TTL(1)),
    "udp": (*UDP, f.UDP_SRC(68), f.UDP_DST(67)),
    "tcp": (*TCP, f.TCP_SRC(0x1000, 0xF000), f.TCP_DST(443)),
    "arp": (*ARP, f.ARP_SPA(1), f.ARP_TPA(0x0A000000, 0xFF000000), f.ARP_SHA(2), f.ARP_THA(0)),
    "solicitation": (*NS, f.ICMPV6_CODE(0), f.ND_TARGET(IPV6), f.ND_SLL(0)),
    "advertisement": (*NA, f.ND_TARGET(IPV6, PREFIX), f.ND_TLL(0x020000000001)),
    "nd extensions": (*NA, f.ND_RESERVED(0x60000000), f.ND_OPTIONS_TYPE(2)),
    "tunnel": (f.TUNNEL_ID(7), f.TUN_SRC(0xC0A80001), f.TUN_DST(0xC0A80002)),
    "ipv6 tunnel": (f.TUN_IPV6_SRC(IPV6), f.TUN_IPV6_DST(IPV6, PREFIX)),
    "option": (f.TUN_OPTION(5),),
    "large option": (f.TUN_OPTION(0x0102030405060708),),
    "option's lower half": (f.TUN_SRC(1), f.TUN_OPTION_PORT_KEY(0)),
    "option's upper half": (f.TUN_OPTION_IDENTITY(9),),
    "tag": TAGGED,
    "no tag": (f.VLAN_VID(0),),
    "any tag": (f.VLAN_VID(0x1000, 0x1000),),
    "tags": (f.IN_PORT(1), f.VLAN_VID(0x1010, 0x1FF0)),
    "priority tag": (f.VLAN_VID(0x1000),),
    "dscp": (f.ETH_TYPE(f.IPV4), f.IP_DSCP(46)),
    "no fragment": (f.ETH_TYPE(f.IPV4), f.IP_FRAG(0)),
    "first fragment": (f.ETH_TYPE(f.IPV4), f.IP_FRAG(1)),
    "fragment": (f.ETH_TYPE(f.IPV6), f.IP_FRAG(1, 1)),
    "later fragment": (f.ETH_TYPE(f.IPV4), f.IP_FRAG(2, 2)),
    "echo": (f.ETH_TYPE(f.IPV4), f.IP_PROTO(f.ICMP), f.ICMPV4_TYPE(8), f.ICMPV4_CODE(0)),
    "tcp flags": (*TCP, f.TCP_FLAGS(0x012)),
    "syn without ack": (*TCP, f.TCP_FLAGS(0x002, 0x012)),
    "flow label": (f.ETH_TYPE(f.IPV6), f.IPV6_FLABEL(0x12345)),
    "some flow labels": (f.ETH_TYPE(f.IPV6), f.IPV6_FLABEL(0x12300, 0xFFF00)),
    "mark": (f.PKT_MARK(5),),
    "some marks": (f.PKT_MARK(5, 0xF),),
    "new": (f.CT_STATE(f.CT_TRACKED | f.CT_NEW),),
    "not tracked": (f.CT_STATE(0, f.CT_TRACKED),),
    "invalid": (f.CT_STATE(f.CT_TRACKED | f.CT_INVALID, f.CT_TRACKED | f.CT_INVALID),),
    "every state": (f.CT_STATE(f.CT_TRACKED | f.CT_ESTABLISHED | f.CT_REPLY | f.CT_DNAT, 0xFF),),
    "zone and mark": (f.CT_ZONE(7), f.CT_MARK(0x10, 0xF0)),
    "label": (f.CT_LABEL(1 << 100 | 7),),
    "some labels": (f.CT_LABEL(1 << 100, 1 << 100 | 1),),
    "connection": (
        *TRACKED,
        f.CT_NW_SRC(1),
        f.CT_NW_DST(0x0A000000, 0xFF000000),
        f.CT_NW_PROTO(f.TCP),
        f.CT_TP_SRC(80),
        f.CT_TP_DST(0x100, 0xFF00),
    ),
    "ipv6 connection": (
        *TRACKED6,
        f.CT_IPV6_SRC(IPV6),
        f.CT_IPV6_DST(IPV6, PREFIX),
        f.CT_NW_PROTO(f.UDP),
        f.CT_TP_DST(53),
    ),
    "conjunctive match": (f.ETH_TYPE(f.IPV4), f.CONJ_ID(0xFFFFFFFF)),
    "wide register": (f.xxregister(2)(IPV6),),
    "wide registers": (f.xxregister(0)(1), f.xxregister(1)(1 << 127), f.xxregister(3)(IPV6)),
    "zeros of a wide register": (f.xxregister(3)(0),),
    "prefix in a wide register": (f.xxregister(2)(IPV6, PREFIX), f.register(3)(1), f.register(12)(1)),
    "length in a wide register": (f.xxregister(2)(IPV6, ((1 << 51) - 1) << 77), f.ETH_TYPE(f.IPV6)),
    "network and address": (f.NETWORK(7), f.ETH_TYPE(f.IPV4), f.IPV4_DST(3), f.IN_PORT_KEY(5), f.FROM_TUNNEL(1)),
}

SETTABLE = {
    f.ETH_SRC: (), f.ETH_DST: (), f.METADATA: (), f.TUNNEL_ID: (), f.TUN_SRC: (), f.TUN_DST: (), f.TUN_IPV6_SRC: (),
    f.TUN_IPV6_DST: (), f.OUT_PORT_KEY: (), f.FLAGS: (), f.register(15): (),
    f.IPV4_SRC: UDP, f.IPV4_DST: UDP, f.UDP_SRC: UDP, f.UDP_DST: UDP, f.IP_TTL: UDP,
    f.TCP_SRC: TCP, f.TCP_DST: TCP,
    f.ARP_OP: ARP, f.ARP_SPA: ARP, f.ARP_TPA: ARP, f.ARP_SHA: ARP, f.ARP_THA: ARP,
    f.IPV6_SRC: NS, f.IPV6_DST: NS, f.ICMPV6_TYPE: NS, f.ICMPV6_CODE: NS, f.ND_TARGET: NS, f.ND_SLL: NS, f.ND_TLL: NA,
    f.ND_RESERVED: NA, f.ND_OPTIONS_TYPE: NA,
    f.VLAN_VID: TAGGED, f.IP_DSCP: UDP, f.IPV6_FLABEL: NS, f.PKT_MARK: (), f.INGRESS: (), f.xxregister(0): (), f.xxregister(3): NS,
    f.ICMPV4_TYPE: ECHO, f.ICMPV4_CODE: ECHO,
}  # fmt: skip
"""Fields that flows set, and what must be matched for it."""
LARGEST = {f.ARP_OP: 0xFF}
"""Where a switch takes less than the field could hold."""
SMALLEST = {f.VLAN_VID: 0x1000}
"""Where it wants more than 1."""
IN_PARTS = {field: needs for field, needs in SETTABLE.items() if field is not f.VLAN_VID}

FLOWS: dict[str, Flow] = (
    {f"match {name}": Flow(1, n, match(*tlvs), goto=3) for n, (name, tlvs) in enumerate(MATCHES.items())}
    | {
        f"set {field}": Flow(2, n, match(*needs), (set_field(field, SMALLEST.get(field, 1)), set_field(field, LARGEST.get(field, field.ones))), goto=3)
        for n, (field, needs) in enumerate(SETTABLE.items())
    }
    | {
        f"set bits of {field}": Flow(
            3, n, match(*needs), (set_bits(f.Bits(field, 1, 3), 5), set_bits(f.Bits(field, 0, field.bits.width - 1), 3))
        )
        for n, (field, needs) in enumerate(IN_PARTS.items())
        if field.size <= 8
    }
    | {
        f"set upper bits of {field}": Flow(4, n, match(*NS), (set_bits(f.Bits(field, 64, 64), 1 << 63),))
        for n, field in enumerate((f.IPV6_SRC, f.IPV6_DST, f.TUN_IPV6_DST, f.xxregister(2)))
    }
    | {
        f"copy {field}": Flow(5, n, match(*needs), (copy(field, field), copy(f.Bits(field, 0, 6), f.Bits(f.FLAGS, 3, 6))))
        for n, (field, needs) in enumerate(IN_PARTS.items())
    }
    | {
        f"option {value:#x}": Flow(6, n, b"", (set_field(f.TUN_OPTION, value),))
        for n, value in enumerate((0, 1, 0xFF, 0x100, 0x1000000, 1 << 32, 1 << 63))
    }
    | {
        "drop": Flow(7, 0, b""),
        "goto": Flow(7, 1, b"", goto=8),
        "far goto": Flow(7, 2, b"", goto=253),
        "write metadata": Flow(7, 3, b"", metadata=0x1234567890),
        "write metadata 0": Flow(7, 4, b"", metadata=0, goto=8),
        "outputs": Flow(7, 5, b"", (output(1), output(IN_PORT_RESERVED), output(CONTROLLER, 0xFFFF))),
        "group": Flow(7, 6, b"", (group(1), group(0x01000002))),
        "resubmit": Flow(7, 7, b"", (resubmit(9), resubmit(253))),
        "meter": Flow(7, 8, b"", (output(2),), meter=1),
        "meter alone": Flow(7, 9, b"", meter=2),
        "everything": Flow(
            7, 10, match(f.IN_PORT(3)), (set_field(f.PEER, 2), copy(f.NETWORK, f.TUNNEL_ID), output(100)),
            metadata=9, meter=1, goto=200,
        ),
        "timeouts": Flow(7, 11, b"", goto=8, idle_timeout=300, hard_timeout=3600),
        "highest priority": Flow(7, 65535, b"", goto=8),
        "option from registers": Flow(
            7, 12, b"",
            (copy(f.OUT_PORT_KEY, f.TUN_OPTION_PORT_KEY), copy(f.SRC_IDENTITY, f.TUN_OPTION_IDENTITY), output(100)),
        ),
        "option to registers": Flow(
            7, 13, b"", (copy(f.TUN_OPTION_IDENTITY, f.SRC_IDENTITY), copy(f.TUN_OPTION_PORT_KEY, f.OUT_PORT_KEY))
        ),
        "halves of the option": Flow(
            7, 14, b"", (set_bits(f.TUN_OPTION_PORT_KEY, 6), set_bits(f.TUN_OPTION_IDENTITY, 0xFFFFFFFF))
        ),
    }
)  # fmt: skip

NATS = {
    "undo": Nat(),
    "one address": Nat("src", 0x0A000001),
    "addresses": Nat("dst", 0x0A000001, 0x0A0000FF),
    "one port": Nat("dst", 0x0A000001, ports=(80, 80)),
    "ports": Nat("src", 0x0A000001, 0x0A000002, ports=(1024, 65535)),
    "ipv6": Nat("src", IPV6, version=6),
    "ipv6 addresses": Nat("dst", IPV6, IPV6 + 9, 6, (1, 2)),
    "random": Nat("src", 0x0A000001, ports=(1, 2), random=True),
    "hash": Nat("src", 0x0A000001, hash=True),
    "persistent": Nat("dst", 0x0A000001, 0x0A000002, persistent=True),
}
MARKED = (set_field(f.CT_MARK, 7), set_field(f.CT_LABEL, 1 << 127 | 5))
PARTS = (set_bits(f.Bits(f.CT_MARK, 4, 8), 9), copy(f.register(3), f.CT_MARK), set_bits(f.Bits(f.CT_LABEL, 64, 32), 5))
IP, IP6 = (f.ETH_TYPE(f.IPV4),), (f.ETH_TYPE(f.IPV6),)

FLOWS |= {
    f"nat, {name}": Flow(
        8, n, match(*(IP6 if nat.version == 6 else IP)),
        (conntrack(zone=n, nat=nat, commit=nat.kind is not None, table=9),),
    )
    for n, (name, nat) in enumerate(NATS.items())
} | {
    f"multipath by {fields}, {algorithm}": Flow(
        8, 100 + 10 * n + m, b"", (multipath(f.Bits(f.SLOT, 8, 16), 128, fields=fields, algorithm=algorithm, basis=n, arg=m),)
    )
    for n, fields in enumerate(HASHED) for m, algorithm in enumerate(ALGORITHMS)
} | {
    "track": Flow(10, 0, match(*IP), (conntrack(table=9),)),
    "track in a register's zone": Flow(10, 1, match(*IP6), (conntrack(zone=f.Bits(f.ROUTER, 0, 16), table=9, nat=Nat()),)),
    "commit": Flow(10, 2, match(*IP), (conntrack(commit=True, zone=65535),)),
    "force": Flow(10, 3, match(*IP), (conntrack(commit=True, force=True, zone=f.Bits(f.ROUTER, 16, 16)),)),
    "commit with a mark": Flow(10, 4, match(*IP), (conntrack(commit=True, exec=MARKED, zone=3), output(1))),
    "commit with parts": Flow(10, 5, match(*IP), (conntrack(commit=True, exec=PARTS, zone=3, table=9),)),
    "commit with it all": Flow(
        10, 6, match(*IP),
        (conntrack(commit=True, exec=(*MARKED, *PARTS), zone=f.Bits(f.ROUTER, 0, 16), nat=NATS["ports"], table=9), dec_ttl()),
    ),
    "nat and mark in ipv6": Flow(
        10, 7, match(*IP6, f.IP_PROTO(f.TCP)), (conntrack(commit=True, exec=MARKED, nat=NATS["ipv6 addresses"], table=9),)
    ),
    "dec_ttl": Flow(10, 8, match(*IP), (dec_ttl(), output(1))),
    "set_queue": Flow(10, 22, match(*IP), (set_queue(0xEFFF), set_queue(0), output(1))),
    "dec_ttl of ipv6": Flow(10, 9, match(*IP6), (dec_ttl(),), goto=11),
    "push": Flow(10, 10, b"", (push_vlan(), set_field(f.VLAN_VID, 0x1005), output(1))),
    "push a service tag": Flow(10, 11, match(*TAGGED), (push_vlan(0x88A8), set_field(f.VLAN_VID, 0x1FFF), output(1))),
    "pop": Flow(10, 12, match(*TAGGED), (pop_vlan(),), goto=11),
    "pop any": Flow(10, 13, match(*MATCHES["any tag"]), (pop_vlan(), output(1))),
    "to the controller": Flow(10, 14, b"", (to_controller(), to_controller(128)), meter=2),
    "multipath of a whole register": Flow(10, 15, match(*IP), (multipath(f.SLOT, 65536, fields="symmetric_l4"),)),
    "too large": Flow(10, 16, b"", (check_pkt_larger(1514, f.TOO_LARGE), check_pkt_larger(0, f.Bits(f.register(15), 31, 1)))),
    "clone": Flow(10, 17, b"", (clone((set_field(f.PEER, 1), output(1))), clone((output(2),)), output(3))),
    "clone with parts": Flow(
        10, 18, match(*IP), (clone((set_bits(f.FROM_TUNNEL, 1), copy(f.PEER, f.FLAGS), clone((dec_ttl(), resubmit(11))))),)
    ),
    "clone and track": Flow(10, 19, match(*IP), (clone((conntrack(commit=True, exec=PARTS, nat=NATS["undo"]),)),)),
    "wide registers": Flow(
        10, 20, match(*IP6),
        (
            set_field(f.NEXT_HOP6, IPV6), set_field(f.xxregister(0), 0), copy(f.IPV6_DST, f.NEXT_HOP6),
            copy(f.NEXT_HOP6, f.xxregister(3)), copy(f.Bits(f.NEXT_HOP6, 96, 32), f.PEER),
            set_bits(f.Bits(f.NEXT_HOP6, 0, 64), 1), copy(f.xxregister(1), f.IPV6_DST),
        ),
    ),
    "clauses": Flow(10, 22, match(f.PEER(1)), (conjunction(7, 1, 2), conjunction(0xFFFFFFFF, 64, 64), conjunction(3, 2, 3))),
    "meter and actions": Flow(10, 21, match(*IP), (dec_ttl(), group(7)), goto=12, metadata=3, meter=3),
}  # fmt: skip

GROUPS = (
    Group(1, "all", (Bucket((set_field(f.OUT_PORT_KEY, 1), resubmit(9))), Bucket((output(1),)), Bucket(()))),
    Group(0x01000002, "indirect", (Bucket((output(1),)),)),
    Group(3, "select", (Bucket((output(1),), weight=10), Bucket((copy(f.NETWORK, f.TUNNEL_ID), output(2)), weight=20))),
    Group(4, "all", ()),
    ALIVE,
    Group(
        5,
        "fast_failover",
        (Bucket((output(1),), watch_port=1), Bucket((set_field(f.PEER, 2), output(2)), watch_port=100)),
    ),
    Group(6, "fast_failover", (Bucket((), watch_port=1), Bucket((set_bits(f.ACTIVE, 1), resubmit(9))))),
    Group(7, "fast_failover", (Bucket((copy(f.PEER, f.FLAGS), output(1))),)),
)
METERS = (
    Meter(1, 1000, 100), Meter(2, 500, 50, packets=True), Meter(3, 500, 0), Meter(4, 100, 0, packets=True),
    Meter(65281, 2000, 1000, packets=True), Meter(5, 4_000_000_000, 4_000_000_000),
)  # fmt: skip

WORDS = {
    "multipath(symmetric_l3l4+udp,7,hrw,128,0,NXM_NX_REG13[0..7])": multipath(
        f.Bits(f.SLOT, 0, 8), 128, fields="symmetric_l3l4+udp", basis=7, algorithm="hrw"
    ),
    "multipath(symmetric_l4,0,iter_hash,9,3,NXM_NX_REG13[8..23])": multipath(
        f.Bits(f.SLOT, 8, 16), 9, fields="symmetric_l4", algorithm="iter_hash", arg=3
    ),
    "check_pkt_larger(1514)->NXM_NX_REG6[2]": check_pkt_larger(1514, f.Bits(f.FLAGS, 2, 1)),
    "ct(commit,force,zone=NXM_NX_REG7[0..15])": conntrack(zone=f.Bits(f.register(7), 0, 16), commit=True, force=True),
    "ct(commit,table=9,zone=5,nat(src=10.0.0.1-10.0.0.9:1024-65535,random))": conntrack(
        zone=5, commit=True, table=9, nat=Nat("src", 0x0A000001, 0x0A000009, 4, (1024, 65535), random=True)
    ),
    "ct(commit,nat(dst=10.0.0.1:80,persistent,hash))": conntrack(
        commit=True, nat=Nat("dst", 0x0A000001, ports=(80, 80), persistent=True, hash=True)
    ),
    "ct(table=9,nat)": conntrack(table=9, nat=Nat()),
    "conjunction(7,2/3)": conjunction(7, 2, 3),
    "learn(table=5,idle_timeout=60,priority=100,delete_learned,cookie=0x4c01000000000007,limit=9,eth_type=0x800,NXM_NX_REG12[8..31],"
    "NXM_OF_IP_SRC[],load:0x1->NXM_NX_REG6[14])": learn(
        5,
        (
            Learned(f.ETH_TYPE, f.IPV4),
            Learned(f.POOL, f.POOL),
            Learned(f.IPV4_SRC, f.IPV4_SRC),
            Learned(f.PINNED, 1, loads=True),
        ),
        priority=100,
        cookie=0x4C01000000000007,
        idle_timeout=60,
        limit=9,
        ends_with_flow=True,
    ),
    "push_vlan:0x88a8": push_vlan(0x88A8),
    "set_queue:17": set_queue(17),
    "dec_ttl": dec_ttl(),
    "clone(output:1,dec_ttl)": clone((output(1), dec_ttl())),
    "CONTROLLER:65535": to_controller(),
}
