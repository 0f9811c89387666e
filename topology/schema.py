"""The OVSDB schema "NovaNet" (RFC 7047, section 3.2), derived from the models, and objects as rows of it.

One root table a kind, named ``Tunnel_Mesh`` for ``tunnel-mesh``. A row's ``_uuid`` is the object's id; a column is a field:

- text, numbers and truth values as they are, optional ones as sets of at most one;
- references as strong (``weak``: weak) uuid columns: the server refuses to delete what is in use;
- lists of text and of references as sets, unless ``ordered``; those, structs and lists of structs as JSON text; labels as
  maps;
- what agents count as rows of ``Load``, another table without roots: gone with the hypervisor that they are of;
- fixed addresses as rows of ``Address``, a table without roots: gone as soon as no port refers to them, and unique.
  A floating IP holds one as well, and so does a load balancer in a network, so that they have their addresses for
  themselves among ports too.

The server's own indexes make names, numbers, MAC and IP addresses unique, whoever writes. ``name_key`` is the name
with its project, or the id for what has no name, since an index takes no exceptions. What is unique among some rows only,
such as host names, a transaction waits for to be nobody's.

Operations are those of RFC 7047, section 5.2. Every update and delete waits for the revision it was computed from, so
that a transaction computed from outdated rows fails as a whole.

``python -m topology.schema`` prints the schema, for servers that an operator runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect as inspect

from .changes import Edit
from .membership import identity_id
from .model import (
    KINDS,
    RECORDED,
    FixedIp,
    FloatingIp,
    Hypervisor,
    Identity,
    Listener,
    LoadBalancer,
    Network,
    Object,
    Port,
    Router,
    Subnet,
    traits,
)
from .references import Node

DATABASE = "NovaNet"
VERSION = "1.7.0"
"""Counts as OVSDB asks: x incompatible, y additions, z what no client notices."""

ADDRESS, LOAD = "Address", "Load"
NOT_READ = frozenset(("name_key", "address", "loads"))
"""Columns of kinds' tables that hold nothing of the object, but what the server is to compare, or to keep."""
PASSIVE = "passive"
DURABLE: dict[str, Any] = {"op": "commit", "durable": True}
"""Answer only when the transaction is on the disk."""

Operation = dict[str, Any]
Cells = Mapping[str, Any]
"""A row's columns as plain values: uuids as text, optional columns as None or the value, sets as lists."""


class Column(NamedTuple):
    """How a field of a model stands in the store."""

    form: str
    """``string``, ``integer``, ``boolean``, ``reference``, ``references``, ``strings``, ``map``, ``json`` or ``addresses``."""
    optional: bool
    mutable: bool
    ref: str | None = None
    weak: bool = False

    @property
    def type(self) -> dict[str, Any]:
        """The column's <type> (RFC 7047, section 3.2)."""
        key: dict[str, Any] = {"type": self.form}
        if self.form in ("reference", "references"):
            key = {"type": "uuid", "refTable": table(self.ref or ""), "refType": "weak" if self.weak else "strong"}
        elif self.form == "addresses":
            key = {"type": "uuid", "refTable": ADDRESS, "refType": "strong"}
        elif self.form in ("json", "strings", "map"):
            key = {"type": "string"}
        if self.form in ("addresses", "strings", "references"):
            return {"key": key, "min": 0, "max": "unlimited"}
        if self.form == "map":
            return {"key": key, "value": key, "min": 0, "max": "unlimited"}
        return {"key": key, "min": 0 if self.optional else 1, "max": 1}


def table(kind: str) -> str:
    """The table of a kind."""
    return kind.replace("-", "_").title()


KIND_OF: dict[str, str] = {table(kind): kind for kind in KINDS}
"""The kind that a table holds; ``Address`` and ``Load`` hold none."""


@cache
def columns(kind: str) -> dict[str, Column]:
    """The columns of a kind's table, by the field that they hold; the id is the row's own."""
    cls: Any = KINDS[kind]
    fields = inspect.type_info(cls).fields  # type: ignore[attr-defined]
    return {field.name: _column(traits(cls)[field.name], field.type) for field in fields if field.name != "id"}


def held(table: str) -> frozenset[str]:
    """The columns of a table that hold fields of objects."""
    return frozenset(columns(KIND_OF[table])) if table in KIND_OF else frozenset()


def _column(trait: Mapping[str, Any], declared: inspect.Type) -> Column:
    bare, optional = _bare(declared)
    mutable, ordered = "immutable" not in trait, "ordered" in trait
    if "ref" in trait:
        form = "references" if isinstance(bare, inspect.VarTupleType) else "reference"
        return Column(form, optional, mutable, trait["ref"], "weak" in trait)
    match bare:
        case inspect.StrType() | inspect.LiteralType():
            return Column("string", optional, mutable)
        case inspect.BoolType():
            return Column("boolean", optional, mutable)
        case inspect.IntType():
            return Column("integer", optional, mutable)
        case inspect.VarTupleType(item_type=inspect.StructType(cls=cls)) if cls is FixedIp:
            return Column("addresses", False, mutable)
        case inspect.VarTupleType(item_type=item) if isinstance(_bare(item)[0], inspect.StrType) and not ordered:
            return Column("strings", False, mutable)
        case inspect.DictType():
            return Column("map", False, mutable)
        case inspect.VarTupleType() | inspect.StructType():
            return Column("json", optional, mutable)
    raise TypeError(f"no OVSDB column holds {bare}")


def _bare(declared: inspect.Type) -> tuple[inspect.Type, bool]:
    """The type below its metadata, and whether None is allowed beside it."""
    while isinstance(declared, inspect.Metadata):
        declared = declared.type
    if isinstance(declared, inspect.UnionType):
        others = [_bare(t)[0] for t in declared.types if not isinstance(t, inspect.NoneType)]
        return others[0], len(others) < len(declared.types)
    return declared, False


def schema() -> dict[str, Any]:
    """The <database-schema>."""
    address = {
        "columns": {
            "subnet": {"type": Column("reference", False, False, "subnet").type, "mutable": False},
            "ip_address": {"type": "string", "mutable": False},
            "position": {"type": {"key": {"type": "integer", "minInteger": 0}}, "mutable": False},
        },
        "indexes": [["subnet", "ip_address"]],
    }
    tables = {table(kind): _table(kind, cls) for kind, cls in KINDS.items()}
    counts = {"key": "integer", "value": "integer", "min": 0, "max": "unlimited"}
    load = {
        "columns": {
            "hypervisor_id": {"type": "uuid", "mutable": False},
            "pool_id": {"type": "uuid", "mutable": False},
            "connections": {"type": counts},
            "began": {"type": "integer"},
            "beat": {"type": "integer"},
        },
        "indexes": [["hypervisor_id", "pool_id"]],
    }
    return {"name": DATABASE, "version": VERSION, "tables": {**tables, ADDRESS: address, LOAD: load}}


def _table(kind: str, cls: type[Object]) -> dict[str, Any]:
    described: dict[str, Any] = {
        name: {"type": column.type} | ({} if column.mutable else {"mutable": False})
        for name, column in columns(kind).items()
    }
    described["name_key"] = {"type": "string"}
    if cls in (FloatingIp, LoadBalancer):
        key = {"type": "uuid", "refTable": ADDRESS, "refType": "strong"}
        described["address"] = {"type": {"key": key, "min": 0, "max": 1}}
    if cls is Hypervisor:
        key = {"type": "uuid", "refTable": LOAD, "refType": "strong"}
        described["loads"] = {"type": {"key": key, "min": 0, "max": "unlimited"}}
    indexes = [["name_key"], *([*fields] for fields in cls.UNIQUE)]
    found: dict[str, Any] = {"columns": described, "isRoot": True, "indexes": indexes}
    if cls.SINGLE:
        found["maxRows"] = 1
    return found


# --- from objects to operations ----------------------------------------------------------------------------------


class Step(NamedTuple):
    """An edit and what it was computed from, which the server is asked to confirm."""

    edit: Edit
    old: Any
    """The object that it takes the place of, or None."""
    siblings: frozenset[str] = frozenset()
    """For a new subnet the cidrs that its network has had until then; for a router and its interfaces the ids of those; for a
    new listener those of its load balancer's others."""


def operations(steps: Iterable[Step]) -> list[Operation]:
    """The operations that make edits, in their order.

    With a subnet go its addresses, which in RFC 7047 would keep it until the server has collected those of ports
    that are deleted in the same transaction; a port that is not deleted still keeps them, and so the subnet.
    """
    found: list[Operation] = []
    for number, step in enumerate(steps):
        (kind, id, new), old = step.edit, step.old
        found += _guards(step)
        if new is None:
            if isinstance(old, Subnet):
                found.append({"op": "delete", "table": ADDRESS, "where": [["subnet", "==", ["uuid", id]]]})
            found.append({"op": "delete", "table": table(kind), "where": _row_of(id)})
            continue
        addresses: list[str] = []
        if isinstance(new, Port) and (old is None or new.fixed_ips != old.fixed_ips):
            for position, fixed in enumerate(new.fixed_ips or ()):
                addresses.append(f"address_{number}_{position}")
                found.append(_insert_address(addresses[-1], fixed, position))
        row = _row(kind, old, new, addresses)
        if old is None and (own := _own_address(new)) is not None:
            name = f"address_{number}"
            found.append(_insert_address(name, own, 0))
            row["address"] = ["set", [["named-uuid", name]]]
        if old is None:
            found.append({"op": "insert", "table": table(kind), "uuid": id, "row": row})
        else:
            found.append({"op": "update", "table": table(kind), "where": _row_of(id), "row": row})
    return found


def _own_address(obj: Object) -> FixedIp | None:
    """The address that something other than a port has in a subnet."""
    match obj:
        case FloatingIp():
            return FixedIp(obj.subnet_id, obj.floating_ip_address)
        case LoadBalancer(vip_subnet_id=str()):
            return FixedIp(obj.vip_subnet_id, obj.vip_address)
    return None


def _guards(step: Step) -> list[Operation]:
    """What must still be so, beyond what indexes and references ensure."""
    (kind, id, new), old = step.edit, step.old
    found = []
    if old is not None:
        found.append(_wait(kind, _row_of(id), "revision_number", [old.revision_number]))

    def differs(field: str) -> bool:
        return old is None or new is None or getattr(new, field) != getattr(old, field)

    if isinstance(new, Port) and new.identity is not None and differs("identity"):
        found.append(_wait_for_identity(new))
    match new or old:
        case Identity(number=number) if new is None or (old is not None and new.retired and not old.retired):
            found.append(_wait("port", [["identity", "==", number]], "identity", []))
        case Subnet(network_id=network) if old is None:
            found.append(_wait(kind, [["network_id", "==", ["uuid", network]]], "cidr", sorted(step.siblings)))
        case Network(physical_network=str(wire), segmentation_id=vlan) if old is None:
            segment = ["segmentation_id", "==", ["set", [] if vlan is None else [vlan]]]
            found.append(_wait(kind, [["physical_network", "==", wire], segment], "vni", []))
        case Listener(loadbalancer_id=balancer) if old is None:
            where = [["loadbalancer_id", "==", ["uuid", balancer]]]
            found.append(_wait(kind, where, "_uuid", (["uuid", each] for each in sorted(step.siblings))))
        case Router(id=router) if new is not None and (differs("routes") or differs("policy_routes")):
            found.append(_wait_for_interfaces(router, step.siblings))
        case Port(router_id=str(router)) if differs("fixed_ips"):
            found.append(_wait_for_interfaces(router, step.siblings))
        case Port(network_id=network, dns_name=name) if new is not None and name and differs("dns_name"):
            where = [["network_id", "==", ["uuid", network]], ["dns_name", "==", name]]
            found.append(_wait(kind, where, "dns_name", []))
        case Hypervisor() if new is not None:
            if new.tunnel_ip is not None and differs("tunnel_ip"):
                found.append(_wait(kind, [["tunnel_ip", "==", new.tunnel_ip]], "tunnel_ip", []))
            if new.ovsdb != PASSIVE and differs("ovsdb"):
                found.append(_wait(kind, [["ovsdb", "==", new.ovsdb]], "ovsdb", []))
    return found


def _wait_for_interfaces(router: str, ids: Iterable[str]) -> Operation:
    """Go on only when a router has exactly these interfaces."""
    return _wait("port", [["router_id", "==", ["uuid", router]]], "_uuid", (["uuid", id] for id in sorted(ids)))


def _wait_for_identity(port: Port) -> Operation:
    """Go on only when the port's identity is there, and nobody is about to delete it."""
    row = _row_of(identity_id(port.project_id, port.security_groups or (), port.labels, port.port_security_enabled))
    wait = _wait("identity", row, "number", [])
    return wait | {"columns": ["number", "retired"], "rows": [{"number": port.identity, "retired": False}]}


def record_operations(kind: str, facts: Mapping[str, Mapping[str, Any]]) -> list[Operation]:
    """The operations that record how things are (``RECORDED``), fields by object; revisions stay."""
    known = columns(kind)
    for fields in facts.values():
        if not fields.keys() <= set(RECORDED[kind]):
            raise ValueError(f"not recorded of a {kind}: {sorted(fields.keys() - set(RECORDED[kind]))}")
    return [
        {
            "op": "update",
            "table": table(kind),
            "where": _row_of(id),
            "row": {name: _cell(known[name], value) for name, value in fields.items()},
        }
        for id, fields in facts.items()
    ]


def claim_operations(claims: Mapping[Node, int]) -> list[Operation]:
    """The operations that count up ``promises`` of objects, if they still are what the writer has seen; revisions stay."""
    found: list[Operation] = []
    for (kind, id), seen in claims.items():
        found.append(_wait(kind, _row_of(id), "promises", [seen]))
        found.append({"op": "update", "table": table(kind), "where": _row_of(id), "row": {"promises": seen + 1}})
    return found


def _row_of(id: str) -> list[Any]:
    """The <condition>s that select one row."""
    return [["_uuid", "==", ["uuid", id]]]


def _wait(kind: str, where: list[Any], column: str, values: Iterable[Any]) -> Operation:
    """Go on only when the rows that ``where`` selects have exactly these values in one column."""
    rows = [{column: value} for value in values]
    wait = {"op": "wait", "table": table(kind), "where": where, "columns": [column], "until": "==", "rows": rows}
    return wait | {"timeout": 0}


def _insert_address(name: str, fixed: FixedIp, position: int) -> Operation:
    row = {"subnet": ["uuid", fixed.subnet_id], "ip_address": fixed.ip_address, "position": position}
    return {"op": "insert", "table": ADDRESS, "uuid-name": name, "row": row}


def _row(kind: str, old: Any, new: Any, addresses: list[str]) -> dict[str, Any]:
    """The columns that differ from ``old``, or for a new object from OVSDB's defaults."""
    row: dict[str, Any] = {}
    for name, column in columns(kind).items():
        value = getattr(new, name)
        if old is None:
            if value in (None, "", (), {}):
                continue
        elif value == getattr(old, name):
            continue
        if column.form == "addresses":
            row[name] = ["set", [["named-uuid", address] for address in addresses]]
        else:
            row[name] = _cell(column, value)
    key = name_key(new)
    if old is None or key != name_key(old):
        row["name_key"] = key
    return row


def _cell(column: Column, value: Any) -> Any:
    match column.form:
        case "reference":
            return ["set", []] if value is None else ["uuid", value]
        case "references":
            return ["set", [["uuid", id] for id in value]]
        case "strings":
            return ["set", list(value)]
        case "map":
            return ["map", [[key, each] for key, each in value.items()]]
        case "json" if value is not None:
            return msgspec.json.encode(value).decode() if value else ""
    return ["set", []] if value is None else value


def name_key(obj: Object) -> str:
    """What the index on names compares."""
    return f"{obj.project_id}/{obj.name}" if obj.name else obj.id


# --- from rows to objects ----------------------------------------------------------------------------------------


def decode(kind: str, id: str, cells: Cells) -> Any:
    """The object that a row holds. ``addresses`` columns are given as ``(position, subnet, ip_address)`` each.

    Raises msgspec.ValidationError when the row does not fit the model.
    """
    fields: dict[str, Any] = {"id": id}
    for name, column in columns(kind).items():
        value = cells[name]
        if column.form == "addresses":
            value = tuple(FixedIp(subnet, address) for _, subnet, address in sorted(value))
        elif column.form in ("strings", "references"):
            value = sorted(value)
        elif column.form == "json" and value is not None:
            value = msgspec.json.decode(value) if value else ()
        fields[name] = value
    return msgspec.convert(fields, KINDS[kind])


def apply_order(edits: Iterable[Edit]) -> list[Edit]:
    """The edits so that what is referred to comes before what refers to it, and goes after it."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    last = 2 * len(rank)

    def place(edit: Edit) -> int:
        own = rank.get(edit.kind, len(rank))  # a load is of all that there is
        return own if edit.value is not None else last - own

    return sorted(edits, key=place)


if __name__ == "__main__":
    json.dump(schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
