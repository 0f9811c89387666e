"""From a write to the edit it stands for: what holds for every kind. What is special to a kind stands in ``rules``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec.structs import fields, replace

from ..changes import Edit
from ..model import KINDS, UUID_PATTERN, Identity, Object, Port, encode, traits
from .allocation import Allocator
from .consequences import goes_with
from .context import Context
from .draft import View, describe
from .routing import release
from .rules import RULES
from .security_groups import check_unused
from .write import Refused, Write, merge_patch, typed

_UUID = re.compile(UUID_PATTERN.removesuffix("$") + r"\Z")
_NAMED_IN_REFUSALS = 3


def admit(view: View, write: Write, allocator: Allocator, new_id: str) -> Edit:
    """The edit that a write stands for, with everything found and allocated; it may change nothing.

    ``new_id`` becomes the id of a created object whose writer chose none. Raises ``Refused``.
    """
    cls = KINDS.get(write.kind)
    if cls is None:
        raise Refused(404, "", f"there is no kind {write.kind!r}; there are {', '.join(KINDS)}")
    if write.project is not None and (cls.ADMIN_WRITES or not cls.TENANT):
        raise Refused(403, "", f"only administrators may write a {cls.KIND}")
    if cls.DERIVED and not write.system:
        raise Refused(403, "", f"NovaNet alone makes and deletes objects of the kind {cls.KIND}")
    if not isinstance(write.fields, Mapping):
        raise Refused(400, "", f"Expected `object`, got `{type(write.fields).__name__}`")
    id = _id(write, new_id)
    old = view.get(cls.KIND, id)
    _check_addressed(write, cls, id, old)
    if write.op == "delete":
        return _delete(view, write, cls, old)
    if old is None and cls.SINGLE and view.all(cls.KIND):
        there = next(iter(view.all(cls.KIND)))
        raise Refused(409, "", f"there is exactly one {cls.KIND}, {there}; change that one")
    new = _build(write, cls, id, old)
    context = Context(view, write, cls, new, old, allocator)
    _check_unknown_to_writer(context)
    new = RULES[cls.KIND](context)
    _check_fixed(context, new)
    _check_references(context, new)
    _check_name(context, new)
    if new != old:
        new = replace(new, revision_number=1 if old is None else old.revision_number + 1)
    return Edit(cls.KIND, id, new)


def conflict(kind: str, id: str) -> Refused:
    """What to say when the store was changed by others again and again while a write was tried."""
    return Refused(409, "", f"{kind} {id} is being changed by others at the same time; try again")


def _id(write: Write, new_id: str) -> str:
    given = write.fields.get("id")
    if write.id is not None and given is not None and given != write.id:
        raise Refused(400, "id", f"{given!r} is not the id that is written to, {write.id}")
    id = write.id if write.id is not None else given
    if id is None:
        if write.op != "create":
            raise Refused(400, "id", f"{write.op} needs the id of an object")
        return new_id
    if not isinstance(id, str) or not _UUID.match(id):
        status = 404 if write.op in ("patch", "delete") else 400
        raise Refused(status, "id", f"{id!r} is not a UUID in lower case")
    return id


def _check_addressed(write: Write, cls: type[Object], id: str, old: Any) -> None:
    """The object that is written to exists, or does not, as the operation wants; and it is the writer's."""
    foreign = old is not None and write.project is not None and old.project_id != write.project
    if write.op in ("patch", "delete") and (old is None or foreign):
        raise Refused(404, "id", f"there is no {cls.KIND} {id}")
    if (write.op == "create" and old is not None) or foreign:
        raise Refused(409, "id", f"{id} is taken by another {cls.KIND}")
    if write.if_match is not None and (old is None or old.revision_number != write.if_match):
        now = "does not exist" if old is None else f"has revision_number {old.revision_number}"
        raise Refused(412, "", f"{cls.KIND} {id} {now}, not {write.if_match}: read it again")


def _delete(view: View, write: Write, cls: type[Object], old: Object) -> Edit:
    if cls.SINGLE:
        raise Refused(409, "", f"there is exactly one {cls.KIND}; it can be changed, not deleted")
    if isinstance(old, Port):
        release(view, old)
    if isinstance(old, Identity):
        check_unused(view, old)
    users = [node for node in view.referrers(cls.KIND, old.id) if not goes_with(view, old.id, *node)]
    if users:
        named = sorted(describe(view, kind, id, write.project) for kind, id in users[:_NAMED_IN_REFUSALS])
        more = f" and {len(users) - len(named)} more" if len(users) > len(named) else ""
        raise Refused(409, "", f"{cls.KIND} {old.id} is in use by {', '.join(named)}{more}: delete those first")
    return Edit(cls.KIND, old.id, None)


def _build(write: Write, cls: type[Object], id: str, old: Any) -> Any:
    """The object as the writer wants it: what was given, over what is kept."""
    if old is None:
        kept = {"id": id}
    elif write.op == "patch":
        kept = encode(old)
    else:
        kept = {name: value for name, value in encode(old).items() if _is_kept(traits(cls)[name], name, write)}
    fields = merge_patch(kept, write.fields) if write.op == "patch" else {**kept, **write.fields}
    for name, value in write.fields.items():
        if value is None and name in kept and "allocated" in traits(cls).get(name, ()):
            fields[name] = kept[name]
    if "project_id" not in fields and write.project is not None:
        fields["project_id"] = write.project
    return typed(cls, fields)


def _is_kept(trait: Mapping[str, Any], name: str, write: Write) -> bool:
    """Whether a field keeps its value when the object is replaced by one that leaves it out."""
    theirs = "admin" in trait and write.project is not None
    return name in ("id", "project_id") or "read_only" in trait or "allocated" in trait or theirs


def _check_unknown_to_writer(context: Context) -> None:
    """Fields that the writer may not set keep their value; repeating it is no harm."""
    write, new, old = context.write, context.new, context.old
    if write.project is not None and new.project_id != write.project:
        raise Refused(403, "project_id", f"you may only write to project {write.project!r}")
    if not context.cls.TENANT and not context.cls.DERIVED and new.project_id:
        raise Refused(400, "project_id", f"a {context.cls.KIND} belongs to no project")
    for name in write.fields:
        trait = traits(context.cls).get(name, {})
        if write.system:
            return
        if "read_only" not in trait and not ("admin" in trait and write.project is not None):
            continue
        value, before = getattr(new, name), getattr(old, name) if old is not None else None
        if old is None and value == _defaults(context.cls)[name]:
            continue
        if value != before:
            if "read_only" in trait:
                raise Refused(400, name, "is set by NovaNet; leave it out")
            raise Refused(403, name, "may be set by administrators only")


@cache
def _defaults(cls: type[Object]) -> dict[str, Any]:
    return {field.name: field.default for field in fields(cls)}


def _check_fixed(context: Context, new: Any) -> None:
    if context.old is None:
        return
    for name, trait in traits(context.cls).items():
        if "immutable" in trait and getattr(new, name) != getattr(context.old, name):
            raise Refused(400, name, f"cannot be changed: it is {getattr(context.old, name)!r} for good")


def _check_references(context: Context, new: Any) -> None:
    for name, trait in traits(context.cls).items():
        target = getattr(new, name)
        if "ref" not in trait or "weak" in trait or not isinstance(target, str):
            continue  # lists of references are for the kind's own rule
        if context.old is None or target != getattr(context.old, name):
            context.visible(trait["ref"], target, name)


def _check_name(context: Context, new: Any) -> None:
    if not new.name:
        return
    kind = context.cls.KIND
    holder = context.view.names.get((kind, new.project_id, new.name))
    if holder not in (None, new.id):
        where = f" in project {new.project_id!r}" if new.project_id else ""
        raise Refused(409, "name", f"{new.name!r} is the name of {kind} {holder} already{where}")
