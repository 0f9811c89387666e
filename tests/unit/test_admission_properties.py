"""Whatever is written in whatever order, what was admitted keeps the promises of the store."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from topology.admission import Allocator, Draft, Refused, Write, admit
from topology.graph import Topology, references
from topology.model import KINDS, UUID_PATTERN
from topology.schema import columns, name_key

IDS = [str(UUID(int=n, version=4)) for n in range(1, 9)]
PROJECTS = [None, "us", "them"]
CIDRS = ["10.0.0.0/30", "10.0.0.0/24", "10.0.0.128/25", "10.1.0.0/29", "2001:db8::/126", "2001:db8::/64", "10.0.0.1/24"]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.130", "2001:DB8::2", "10.1.0.3", "10.0.0.255", "x"]
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:AA", "02:00:00:00:00:aa", "01:00:00:00:00:01"]

id_ = st.sampled_from(IDS)
fixed = st.fixed_dictionaries({}, optional={"subnet_id": id_, "ip_address": st.sampled_from(ADDRESSES)})
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "network": {"vni": st.integers(1, 4) | st.none(), "mtu": st.sampled_from([None, 1000, 1400, 1500])},
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
    },
    "hypervisor": {"tunnel_ip": st.none() | st.sampled_from(ADDRESSES), "ovsdb": st.just("passive")},
    "tunnel-mesh": {
        "underlay_mtu": st.sampled_from([1280, 1500, 9000]),
        "tunnel_type": st.sampled_from(["geneve", "vxlan"]),
    },
}


@st.composite
def writes(draw: Any) -> Write:
    kind = draw(st.sampled_from(["network", "subnet", "subnet", "port", "port", "port", "hypervisor", "tunnel-mesh"]))
    optional = FIELDS[kind] | {"name": st.sampled_from(["", "a", "b"]), "project_id": st.sampled_from(["", "us"])}
    required = {name: optional.pop(name) for name in ("network_id", "cidr") if name in optional}
    op = draw(st.sampled_from(["create", "create", "create", "replace", "patch", "delete"]))
    if op == "patch":
        optional, required = optional | required, {}
    fields = {} if op == "delete" else draw(st.fixed_dictionaries(required, optional=optional))
    id = draw(id_ if op != "create" else id_ | st.none())
    return Write(op, kind, id, fields, draw(st.sampled_from([None, None, 1])), draw(st.sampled_from(PROJECTS)))


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
            assert None not in [getattr(obj, field) for field in fields]
    for port in topology.all("port").values():
        assert port.mac_address == port.mac_address.lower() and not int(port.mac_address[1], 16) & 1
        for fixed in port.fixed_ips:
            subnet = topology.get("subnet", fixed.subnet_id)
            unique["address", fixed.subnet_id, fixed.ip_address] += 1
            assert subnet.network_id == port.network_id
            assert ip_address(fixed.ip_address) in ip_network(subnet.cidr)
            assert fixed.ip_address == str(ip_address(fixed.ip_address))
    assert not [key for key, times in unique.items() if times > 1]
    for network in topology.all("network"):
        nets = [ip_network(topology.get("subnet", id).cidr) for id in topology.subnets_of(network)]
        assert not any(a.overlaps(b) for a in nets for b in nets if a is not b and a.version == b.version)
    assert len(topology.all("tunnel-mesh")) <= 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(writes(), min_size=1, max_size=4), max_size=12), st.integers(0, 9))
def test_batches_of_any_writes_keep_every_promise(batches: list[list[Write]], seed: int) -> None:
    topology, allocator, fresh = Topology(), Allocator(Random(seed)), 100
    for batch in batches:
        draft = Draft(topology)
        for write in batch:
            fresh += 1
            old = draft.get(write.kind, write.id) if write.id else None
            try:
                edit = admit(draft, write, allocator, str(UUID(int=fresh, version=4)))
            except Refused as refused:
                assert 400 <= refused.status < 500 and refused.detail
                continue
            draft.stage(edit)
            if edit.value is not None and old is not None:
                assert (edit.value == old) == (edit.value.revision_number == old.revision_number)
                assert write.project in (None, old.project_id)
        topology.apply(draft.edits)
        check(topology)
        rebuilt = Topology()
        rebuilt.apply(edit for kind in KINDS for edit in [(kind, id, o) for id, o in topology.all(kind).items()])
        for index in ("vnis", "port_keys", "hypervisor_keys", "macs", "addresses", "names"):
            assert getattr(rebuilt, index) == getattr(topology, index)


@settings(max_examples=200, deadline=None)
@given(st.lists(writes(), max_size=25))
def test_a_draft_answers_as_the_graph_would(batch: list[Write]) -> None:
    """Staging over a draft and applying to the graph are the same thing, whatever is asked."""
    topology, allocators = Topology(), (Allocator(Random(3)), Allocator(Random(3)))
    draft = Draft(Draft(Topology()))
    for number, write in enumerate(batch):
        id, outcomes = str(UUID(int=100 + number, version=4)), []
        for view, allocator in zip((topology, draft), allocators, strict=True):
            try:
                outcomes.append(admit(view, write, allocator, id))  # type: ignore[arg-type]
            except Refused as refused:
                outcomes.append((refused.status, refused.field))
        assert outcomes[0] == outcomes[1]
        if not isinstance(outcomes[0][0], int):
            topology.apply([outcomes[0]])
            draft.stage(outcomes[1])
        for kind in KINDS:
            assert dict(draft.all(kind)) == dict(topology.all(kind))
            for id in IDS:
                assert sorted(draft.referrers(kind, id)) == sorted(set(topology.referrers(kind, id)))
        for index in ("vnis", "port_keys", "hypervisor_keys", "macs", "addresses", "names"):
            assert dict(getattr(draft, index)) == dict(getattr(topology, index))


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
        topology.apply(
            [admit(topology, Write(op, kind, IDS[0] if op != "create" else None, fields), allocator, IDS[1])]
        )
    except Refused as refused:
        assert 400 <= refused.status < 500 and refused.detail
    check(topology)
