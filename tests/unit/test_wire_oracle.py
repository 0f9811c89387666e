"""What Ryu can express, we write in Ryu's bytes: flows, groups, meters and requests of every version.

Not compared: Geneve options, OVS's neighbour discovery fields, the addresses of connections and some actions, which
Ryu lacks, and the ONF's copy action, which takes the place of Nicira's in OpenFlow 1.3 because Open vSwitch reads it
back so (tests/switch/test_readback.py).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ryu.ofproto import nicira_ext
from ryu.ofproto.ofproto_protocol import ProtocolDesc

from pipelines import fields as f
from pipelines import wire
from pipelines.flow import (
    ALGORITHMS,
    ALIVE,
    Action,
    Bucket,
    Copy,
    Flow,
    Group,
    Meter,
    Nat,
    SetBits,
    canonical,
    conjunction,
    conntrack,
    copy,
    dec_ttl,
    group,
    multipath,
    output,
    pop_vlan,
    push_vlan,
    resubmit,
    set_bits,
    set_field,
    set_queue,
)  # fmt: skip
from pipelines.wire.actions import NXM
from pipelines.wire.openflow import Command
from pipelines.wire.requests import BUNDLE_FLAGS

Setter = tuple[str, f.Field, int]
NOT_RYUS = {
    f.TUN_OPTION, f.ND_RESERVED, f.ND_OPTIONS_TYPE, f.CT_NW_SRC, f.CT_NW_DST, f.CT_IPV6_SRC, f.CT_IPV6_DST,
    f.CT_NW_PROTO, f.CT_TP_SRC, f.CT_TP_DST, f.DP_HASH,
}  # fmt: skip
RYUS = {f.TCP_FLAGS: "tcp_flags_nxm", f.INGRESS: "in_port_nxm"}
"""Names of fields that have two headers in Ryu."""
FIELDS = sorted((field for field in f.FIELDS.values() if field not in NOT_RYUS), key=lambda x: (x.name, x.size))
MATCHED = [field for field in FIELDS if not isinstance(field, f.WideRegister)]
"""A match on a 128-bit register is one on its parts."""
SETTABLE = [field for field in FIELDS if field not in (f.IN_PORT, f.ETH_TYPE, f.IP_PROTO)]
RYUS_HASHES = {"eth_src": nicira_ext.NX_HASH_FIELDS_ETH_SRC, "symmetric_l4": nicira_ext.NX_HASH_FIELDS_SYMMETRIC_L4}

datapaths = {version: ProtocolDesc(version) for version in wire.VERSIONS}
versions = pytest.mark.parametrize("version", wire.VERSIONS, ids=("1.3", "1.4", "1.5"))
ports = st.one_of(st.integers(1, 0xFEFF), st.sampled_from([0xFFFFFFF8, 0xFFFFFFFD, 0xFFFFFFFE]))
numbers = st.integers(0, 0xFFFFFFFF)


@st.composite
def matched(draw: st.DrawFn) -> list[tuple[f.Field, int, int | None]]:
    """Some fields, each once, with a value under a mask that is neither all ones nor all zeros."""
    chosen = []
    for field in draw(st.lists(st.sampled_from(MATCHED), max_size=6, unique=True)):
        mask = draw(st.one_of(st.none(), st.integers(1, field.ones - 1)))
        value = draw(st.integers(0, field.ones))
        chosen.append((field, value if mask is None else value & mask, mask))
    return chosen


@st.composite
def changed_bits(draw: st.DrawFn) -> SetBits:
    field = draw(st.sampled_from([field for field in SETTABLE if field.size > 1]))
    width = draw(st.integers(1, min(64, field.bits.width - 1)))
    offset = draw(st.integers(0, field.bits.width - width))
    action = set_bits(f.Bits(field, offset, width), draw(st.integers(0, (1 << width) - 1)))
    assert isinstance(action, SetBits)
    return action


@st.composite
def copied(draw: st.DrawFn) -> Copy:
    source, target = draw(st.sampled_from(SETTABLE)), draw(st.sampled_from(SETTABLE))
    width = draw(st.integers(1, min(source.bits.width, target.bits.width)))
    return copy(
        f.Bits(source, draw(st.integers(0, source.bits.width - width)), width),
        f.Bits(target, draw(st.integers(0, target.bits.width - width)), width),
    )


@st.composite
def translated(draw: st.DrawFn) -> Nat:
    version = draw(st.sampled_from([4, 6]))
    first, last = sorted(
        draw(st.lists(st.integers(1, (1 << (32 if version == 4 else 128)) - 1), min_size=2, max_size=2))
    )
    low, high = sorted(draw(st.lists(st.integers(1, 0xFFFF), min_size=2, max_size=2)))
    end, ports = draw(st.sampled_from([None, last])), draw(st.sampled_from([None, (low, high), (low, low)]))
    flags = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Nat(draw(st.sampled_from(["src", "dst"])), first, end, version, ports, *flags)


@st.composite
def tracked(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Arguments of ``conntrack``; within it fields are set whole."""
    commit = draw(st.booleans())
    options = {
        "zone": draw(st.integers(0, 0xFFFF) | st.builds(f.Bits, st.sampled_from([f.PEER, f.ROUTER]), st.integers(0, 16), st.just(16))),
        "table": draw(st.none() | st.integers(0, 254)),
        "commit": commit,
        "force": commit and draw(st.booleans()),
        "nat": draw(st.none() | st.just(Nat()) | (translated() if commit else st.nothing())),
        "exec": [("set", f.CT_MARK, 5), ("set", f.CT_LABEL, 6)] if commit and draw(st.booleans()) else [],
    }  # fmt: skip
    return "conntrack", options


@st.composite
def whole_set(draw: st.DrawFn) -> Setter:
    field = draw(st.sampled_from(SETTABLE))
    return "set", field, draw(st.integers(0, field.ones))


steps = st.lists(
    st.one_of(
        whole_set(),
        changed_bits(),
        copied(),
        st.tuples(st.just("output"), ports, st.integers(0, 0xFFFF)),
        st.tuples(st.just("group"), st.integers(0, 0xFFFFFF00)),
        st.tuples(st.just("resubmit"), st.integers(0, 254)),
        st.tuples(st.just("set_queue"), numbers),
        st.sampled_from([("dec_ttl",), ("pop_vlan",), ("push_vlan", 0x8100), ("push_vlan", 0x88A8)]),
        st.tuples(st.just("conjunction"), numbers, st.integers(1, 2), st.integers(2, 64)),
        st.tuples(
            st.just("multipath"),
            st.integers(0, 16),
            st.integers(1, 0x10000),
            st.sampled_from([*RYUS_HASHES]),
            st.integers(0, 0xFFFF),
            st.sampled_from([*ALGORITHMS]),
            numbers,
        ),
        tracked(),
    ),
    max_size=6,
)


def ours(step: Any) -> Action:
    if isinstance(step, (Copy, SetBits)):
        return step
    match step:
        case ("conntrack", options):
            return conntrack(**{**options, "exec": map(ours, options["exec"])})
        case ("multipath", offset, links, fields, basis, algorithm, arg):
            part = f.Bits(f.SLOT, offset, 16)
            return multipath(part, links, fields=fields, basis=basis, algorithm=algorithm, arg=arg)
    return MAKE[step[0]](*step[1:])


MAKE: dict[str, Callable[..., Action]] = {
    "set": set_field, "output": output, "group": group, "resubmit": resubmit, "conjunction": conjunction, "dec_ttl": dec_ttl, "pop_vlan": pop_vlan,
    "push_vlan": push_vlan, "set_queue": set_queue,
}  # fmt: skip


class Ryu:
    """Ryu's classes of one version."""

    def __init__(self, version: int) -> None:
        self.datapath = datapaths[version]
        self.version = version
        self.ofp, self.parser = self.datapath.ofproto, self.datapath.ofproto_parser
        self.types = {t.name: t.type for t in self.ofp.oxm_types}

    def user(self, field: f.Field, value: int, mask: int | None = None) -> Any:
        """A value as Ryu's users write it."""
        convert = self.types[RYUS.get(field, field.name)].to_user
        plain = convert(value.to_bytes(field.size, "big"))
        return plain if mask is None else (plain, convert(mask.to_bytes(field.size, "big")))

    def nxm(self, field: f.Field) -> str:
        """Ryu's name of the field's NXM header."""
        if field not in NXM:
            return RYUS.get(field, field.name)
        if field is f.IPV6_FLABEL:
            return "ipv6_label"
        names = [t.name for t in self.ofp.oxm_types if t.name.removesuffix("_nxm") in (field.name, field.name[5:])]
        return next(name for name in names if name != field.name)

    def match(self, fields: list[tuple[f.Field, int, int | None]]) -> Any:
        """A match whose fields stand in our order; all of conntrack's flags are under a mask, as OVS writes them."""
        fields = [
            (field, value, field.ones if field is f.CT_STATE and mask is None else mask)
            for field, value, mask in fields
        ]
        tlvs = {field(value, mask): (field, value, mask) for field, value, mask in fields}
        order = canonical(tlvs)
        placed = sorted(tlvs, key=order.index)
        return self.parser.OFPMatch(
            _ordered_fields=[(RYUS.get(tlvs[t][0], tlvs[t][0].name), self.user(*tlvs[t])) for t in placed]
        )

    def action(self, step: Any) -> Any:
        p = self.parser
        match step:
            case SetBits(bits, value) if self.version == wire.OF15:
                name = RYUS.get(bits.field, bits.field.name)
                return p.OFPActionSetField(**{name: self.user(bits.field, value << bits.offset, bits.mask)})
            case SetBits(bits, value):
                return p.NXActionRegLoad(bits.offset << 6 | bits.width - 1, self.nxm(bits.field), value)
            case Copy(source, source_offset, target, target_offset, width) if self.version == wire.OF15:
                ids = [p.OFPOxmId(RYUS.get(field, field.name)) for field in (source, target)]
                return p.OFPActionCopyField(width, source_offset, target_offset, ids)
            case Copy(source, source_offset, target, target_offset, width):
                return p.NXActionRegMove(self.nxm(source), self.nxm(target), width, source_offset, target_offset)
            case ("set", field, value):
                return p.OFPActionSetField(**{RYUS.get(field, field.name): self.user(field, value)})
            case ("output", port, length):
                return p.OFPActionOutput(port, length)
            case ("group", number):
                return p.OFPActionGroup(number)
            case ("resubmit", table):
                return p.NXActionResubmitTable(table_id=table)
            case ("dec_ttl",):
                return p.OFPActionDecNwTtl()
            case ("conjunction", id, clause, clauses):
                return p.NXActionConjunction(clause - 1, clauses, id)
            case ("set_queue", number):
                return p.OFPActionSetQueue(number)
            case ("pop_vlan",):
                return p.OFPActionPopVlan()
            case ("push_vlan", tpid):
                return p.OFPActionPushVlan(tpid)
            case ("multipath", offset, links, fields, basis, algorithm, arg):
                hashed, chosen = RYUS_HASHES[fields], getattr(nicira_ext, f"NX_MP_ALG_{algorithm.upper()}")
                return p.NXActionMultipath(hashed, basis, chosen, links - 1, arg, offset << 6 | 15, f.SLOT.name)
            case ("conntrack", options):
                return self.conntrack(**options)
        raise AssertionError(step)

    def conntrack(self, zone, table, commit, force, nat, exec) -> Any:  # type: ignore[no-untyped-def]
        within = [] if nat is None else [self.nat(nat)]
        flags = commit * nicira_ext.NX_CT_F_COMMIT | force * nicira_ext.NX_CT_F_FORCE
        source, number = ("", zone) if isinstance(zone, int) else (zone.field.name, zone.offset << 6 | 15)
        recirculate = nicira_ext.NX_CT_RECIRC_NONE if table is None else table
        return self.parser.NXActionCT(flags, source, number, recirculate, 0, [*within, *map(self.action, exec)])

    def nat(self, nat: Nat) -> Any:
        if nat.kind is None:
            return self.parser.NXActionNAT(0)
        flags = {"src": 1, "dst": 2}[nat.kind] + 4 * nat.persistent + 8 * nat.hash + 16 * nat.random
        address = IPv4Address if nat.version == 4 else IPv6Address
        ranges: dict[str, Any] = {f"range_ipv{nat.version}_min": str(address(nat.first))}
        if nat.last is not None:
            ranges[f"range_ipv{nat.version}_max"] = str(address(nat.last))
        if nat.ports is not None:
            low, high = nat.ports
            ranges |= {"range_proto_min": low} | ({"range_proto_max": high} if high != low else {})
        action = self.parser.NXActionNAT(flags, **ranges)
        body = bytes(action.serialize_body())
        action.serialize_body = lambda: body + bytes(-(10 + len(body)) % 8)  # Ryu leaves out the padding that it counts
        return action

    def bytes(self, message: Any, xid: int = 7) -> bytes:
        message.set_xid(xid)
        message.serialize()
        return bytes(message.buf)


def expressible(step: Any, version: int) -> bool:
    """In 1.3 copies are the ONF's, which Ryu lacks."""
    return not (isinstance(step, Copy) and version == wire.OF13)


@versions
@settings(deadline=None)
@given(
    fields=matched(), todo=steps, table=st.integers(0, 254), priority=st.integers(0, 0xFFFF),
    goto=st.none() | st.integers(0, 254), metadata=st.none() | st.integers(0, 2**64 - 1),
    meter=st.none() | numbers, timeouts=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    cookie=st.integers(0, 2**64 - 1), xid=numbers,
)  # fmt: skip
def test_flows(version, fields, todo, table, priority, goto, metadata, meter, timeouts, cookie, xid):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    p = ryu.parser
    todo = [step for step in todo if expressible(step, version)]
    actions = [ryu.action(step) for step in todo]
    instructions = []
    if meter is not None and version < wire.OF15:
        instructions.append(p.OFPInstructionMeter(meter))
    elif meter is not None:
        actions.insert(0, p.OFPActionMeter(meter))
    if actions:
        instructions.append(p.OFPInstructionActions(ryu.ofp.OFPIT_APPLY_ACTIONS, actions))
    if metadata is not None:
        instructions.append(p.OFPInstructionWriteMetadata(metadata, 2**64 - 1))
    if goto is not None:
        instructions.append(p.OFPInstructionGotoTable(goto))
    add = p.OFPFlowMod(
        ryu.datapath, cookie=cookie, table_id=table, priority=priority, idle_timeout=timeouts[0], hard_timeout=timeouts[1],
        out_port=ryu.ofp.OFPP_ANY, out_group=ryu.ofp.OFPG_ANY, match=ryu.match(fields), instructions=instructions,
    )  # fmt: skip

    match = canonical([field(value, mask) for field, value, mask in fields])
    flow = Flow(table, priority, match, tuple(map(ours, todo)), goto, metadata, meter, *timeouts)
    key, body = wire.encode_flow(flow, version, cookie)
    assert wire.flow_add(key, body, version, xid) == ryu.bytes(add, xid)

    delete = p.OFPFlowMod(
        ryu.datapath, table_id=table, priority=priority, command=ryu.ofp.OFPFC_DELETE_STRICT,
        out_port=ryu.ofp.OFPP_ANY, out_group=ryu.ofp.OFPG_ANY, match=ryu.match(fields), instructions=[],
    )  # fmt: skip
    assert wire.flow_delete(key, version, xid) == ryu.bytes(delete, xid)


@versions
@settings(deadline=None)
@given(
    number=st.integers(0, 0xFFFFFF00), kind=st.sampled_from(["all", "select", "indirect", "fast_failover"]),
    buckets=st.lists(st.tuples(steps, st.integers(0, 0xFFFF), st.none() | st.integers(1, 0xFEFF)), max_size=4), command=st.sampled_from([Command.ADD, Command.MODIFY]),
)  # fmt: skip
def test_groups(version, number, kind, buckets, command):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    buckets = [([step for step in todo if expressible(step, version)], *rest) for todo, *rest in buckets]
    theirs = []
    for n, (todo, weight, port) in enumerate(buckets):
        actions = [ryu.action(step) for step in todo]
        watched = {} if kind != "fast_failover" else {"watch_group": ALIVE.id} if port is None else {"watch_port": port}
        if version < wire.OF15:
            theirs.append(ryu.parser.OFPBucket(weight=weight if kind == "select" else 0, actions=actions, **watched))
        else:
            properties = [ryu.parser.OFPGroupBucketPropWeight(type_=0, weight=weight)] if kind == "select" else []
            properties += [
                ryu.parser.OFPGroupBucketPropWatch(type_=1 if what == "watch_port" else 2, watch=number)
                for what, number in watched.items()
            ]
            theirs.append(ryu.parser.OFPBucket(n, actions, properties))
    type_ = {"all": 0, "select": 1, "indirect": 2, "fast_failover": 3}[kind]
    put = ryu.parser.OFPGroupMod(ryu.datapath, command=int(command), type_=type_, group_id=number, buckets=theirs)

    mine = Group(number, kind, tuple(Bucket(tuple(map(ours, todo)), *rest) for todo, *rest in buckets))
    assert wire.group_put(command, number, wire.encode_group(mine, version), version, 7) == ryu.bytes(put)
    delete = ryu.parser.OFPGroupMod(ryu.datapath, command=int(Command.DELETE), group_id=number)
    assert wire.group_delete(number, version, 7) == ryu.bytes(delete)


@versions
@settings(deadline=None)
@given(number=numbers, rate=numbers, burst=st.integers(1, 0xFFFFFFFF), packets=st.booleans())
def test_meters(version, number, rate, burst, packets):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    flags = ryu.ofp.OFPMF_BURST | (ryu.ofp.OFPMF_PKTPS if packets else ryu.ofp.OFPMF_KBPS)
    bands = [ryu.parser.OFPMeterBandDrop(rate, burst)]
    put = ryu.parser.OFPMeterMod(ryu.datapath, command=ryu.ofp.OFPMC_ADD, flags=flags, meter_id=number, bands=bands)
    body = wire.encode_meter(Meter(number, rate, burst, packets))
    assert wire.meter_put(Command.ADD, number, body, version, 7) == ryu.bytes(put)
    delete = ryu.parser.OFPMeterMod(ryu.datapath, command=ryu.ofp.OFPMC_DELETE, flags=0, meter_id=number)
    assert wire.meter_delete(number, version, 7) == ryu.bytes(delete)


@versions
@settings(deadline=None)
@given(bundle=numbers, xid=numbers, what=st.sampled_from(wire.Bundle), cookie=st.integers(0, 2**64 - 1))
def test_bundles(version, bundle, xid, what, cookie):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    prefix = "ONF" if version == wire.OF13 else "OFP"
    control, add = (getattr(ryu.parser, f"{prefix}Bundle{name}Msg") for name in ("Ctrl", "Add"))
    theirs = control(ryu.datapath, bundle, int(what), int(BUNDLE_FLAGS), [])
    assert wire.bundle_control(version, xid, bundle, what) == ryu.bytes(theirs, xid)

    inner = ryu.parser.OFPFlowMod(
        ryu.datapath, cookie=cookie, out_port=ryu.ofp.OFPP_ANY, out_group=ryu.ofp.OFPG_ANY, priority=1,
        match=ryu.parser.OFPMatch(), instructions=[],
    )  # fmt: skip
    key, body = wire.encode_flow(Flow(0, 1, b""), version, cookie)
    mine = b"".join(wire.bundle_adds(version, bundle, [wire.flow_add(key, body, version, xid)]))
    assert mine == ryu.bytes(add(ryu.datapath, bundle, int(BUNDLE_FLAGS), inner, []), xid)


@versions
@settings(deadline=None)
@given(port=ports, todo=steps, data=st.binary(max_size=200))
def test_packet_out(version, port, todo, data):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    todo = [("output", 1, 0), *(step for step in todo if expressible(step, version))]  # Ryu garbles it without actions
    where = {"match": ryu.parser.OFPMatch(in_port=port)} if version == wire.OF15 else {"in_port": port}
    theirs = ryu.parser.OFPPacketOut(
        ryu.datapath, buffer_id=ryu.ofp.OFP_NO_BUFFER, actions=[ryu.action(step) for step in todo], data=data, **where
    )
    assert wire.encode_packet_out(version, data, map(ours, todo), port, 7) == ryu.bytes(theirs)


@versions
@settings(deadline=None)
@given(
    generation=st.integers(0, 2**64 - 1), role=st.sampled_from(wire.Role), masks=st.tuples(*[st.integers(0, 63)] * 3)
)
def test_roles_and_asynchronous_messages(version, generation, role, masks):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    short = {"short_id": 0} if version == wire.OF15 else {}
    theirs = ryu.parser.OFPRoleRequest(ryu.datapath, role=int(role), generation_id=generation, **short)
    assert wire.role_request(version, 7, role, generation) == ryu.bytes(theirs)
    if version == wire.OF13:
        theirs = ryu.parser.OFPSetAsync(ryu.datapath, *([mask, 0] for mask in masks))
    else:
        each = [0, masks[0], 0, masks[1], 0, masks[2]]
        properties = [ryu.parser.OFPAsyncConfigPropReasons(type_=n, length=8, mask=mask) for n, mask in enumerate(each)]
        theirs = ryu.parser.OFPSetAsync(ryu.datapath, properties)
    assert wire.set_async(version, 7, *masks) == ryu.bytes(theirs)


@versions
@settings(deadline=None)
@given(table=st.integers(0, 255), cookie=st.integers(0, 2**64 - 1), mask=st.integers(0, 2**64 - 1), fields=matched())
def test_questions(version, table, cookie, mask, fields):  # type: ignore[no-untyped-def]
    ryu = Ryu(version)
    p, any_ = ryu.parser, (ryu.ofp.OFPP_ANY, ryu.ofp.OFPG_ANY)
    ask_flows = p.OFPFlowStatsRequest if version < wire.OF15 else p.OFPFlowDescStatsRequest
    match = canonical([field(value, mask) for field, value, mask in fields])
    theirs = ask_flows(ryu.datapath, 0, table, *any_, cookie, mask, ryu.match(fields))
    assert wire.flows_request(version, 7, table, cookie, mask, match) == ryu.bytes(theirs)
    theirs = p.OFPAggregateStatsRequest(ryu.datapath, 0, table, *any_, cookie, mask, p.OFPMatch())
    assert wire.aggregate_request(version, 7, table, cookie, mask) == ryu.bytes(theirs)
    ask_meters = p.OFPMeterConfigStatsRequest if version < wire.OF15 else p.OFPMeterDescStatsRequest
    assert wire.meters_request(version, 7) == ryu.bytes(ask_meters(ryu.datapath))
    assert wire.groups_request(version, 7) == ryu.bytes(p.OFPGroupDescStatsRequest(ryu.datapath))
    assert wire.ports_request(version, 7) == ryu.bytes(p.OFPPortDescStatsRequest(ryu.datapath))
    assert wire.barrier(version, 7) == ryu.bytes(p.OFPBarrierRequest(ryu.datapath))


def test_every_field_is_compared() -> None:
    for version in wire.VERSIONS:
        module = import_module(f"ryu.ofproto.ofproto_v1_{version - 1}")
        known = {t.name for t in module.oxm_types}
        assert {RYUS.get(field, field.name) for field in FIELDS} <= known
