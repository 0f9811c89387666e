"""What every object has, the types of its fields, and what is said of a field beside its type."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import msgspec.inspect
from msgspec import Meta, Struct

UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

Uuid = Annotated[str, Meta(pattern=UUID_PATTERN, max_length=36)]
Name = Annotated[str, Meta(max_length=255)]
Project = Annotated[
    str, Meta(max_length=64, pattern="^[A-Za-z0-9_.-]*$", description="owner of the object", extra={"immutable": True})
]
Mac = Annotated[
    str,
    Meta(
        pattern="^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
        max_length=17,
        description="unicast MAC address, aa:bb:cc:dd:ee:ff",
    ),
]
Ip = Annotated[str, Meta(max_length=45, description="IPv4 or IPv6 address")]
Cidr = Annotated[str, Meta(max_length=49, description="IPv4 or IPv6 prefix, e.g. 10.0.0.0/24")]

_LABEL_NAME = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LabelKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=317,
        pattern=f"^({_DNS_LABEL}(\\.{_DNS_LABEL})*/)?{_LABEL_NAME}$",
        description="as in Kubernetes: `tier`, or with a prefix `example.com/tier`",
    ),
]
LabelValue = Annotated[str, Meta(max_length=63, pattern=f"^({_LABEL_NAME})?$")]

Status = Literal["BUILD", "ACTIVE", "DOWN", "DEGRADED", "ERROR"]


def reference(kind: str) -> Meta:
    """Says that a field holds the id of an object, or a list the ids of several."""
    return Meta(description=f"id of a {kind}", extra={"ref": kind})


READ_ONLY = Meta(extra={"read_only": True}, extra_json_schema={"readOnly": True})
IMMUTABLE = Meta(extra={"immutable": True})
ALLOCATED = Meta(extra={"allocated": True})


class Object(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What every object of the intent store has."""

    KIND: ClassVar[str]
    """Singular, hyphenated name: ``network``, ``tunnel-mesh``."""
    COLLECTION: ClassVar[str]
    """Path below /v1: ``networks``."""
    TENANT: ClassVar[bool] = True
    """Whether tenants own objects of this kind; the others are the administrator's."""
    UNIQUE: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields whose values together no two objects of the kind may share (beside id and name)."""
    ADMIN_WRITES: ClassVar[bool] = False
    """Whether only administrators write objects of the kind, which tenants may own, see and use."""
    SINGLE: ClassVar[bool] = False
    """Whether there is exactly one object of this kind, made by NovaNet."""
    DERIVED: ClassVar[bool] = False
    """Whether objects of the kind are made and deleted by NovaNet alone, as others need them."""

    id: Uuid
    name: Name = ""
    project_id: Project = ""
    description: Annotated[str, Meta(max_length=1024)] = ""
    revision_number: Annotated[int, READ_ONLY, Meta(description="counts the object's changes; the ETag")] = 0


@cache
def traits(cls: type[Struct]) -> dict[str, dict[str, Any]]:
    """What is said in ``Meta(extra=...)`` about each field of a model, whatever way it is wrapped or optional."""
    found: dict[str, dict[str, Any]] = {}
    for field_ in msgspec.inspect.type_info(cls).fields:  # type: ignore[attr-defined]
        extra: dict[str, Any] = {}
        pending: list[Any] = [field_.type]
        while pending:
            match pending.pop():
                case msgspec.inspect.Metadata() as wrapped:
                    extra |= wrapped.extra or {}
                    pending.append(wrapped.type)
                case msgspec.inspect.UnionType() as union:
                    pending.extend(union.types)
        found[field_.name] = extra
    return found


def encode(obj: Struct) -> dict[str, Any]:
    """The object as plain JSON types."""
    plain: dict[str, Any] = msgspec.to_builtins(obj)
    return plain
