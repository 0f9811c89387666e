"""Options of the command line, derived from the models: ``--network`` for ``network_id``, ``--fixed-ip`` for ``fixed_ips``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Container
from ipaddress import ip_address
from typing import Any, NamedTuple

import msgspec.inspect as inspect

from topology.model import KINDS, LabelRequirement, Object, traits

from .client import Client
from .errors import USAGE, CliError

NONE = "none"
"""On the command line: null for a value, an empty list for values."""


class Field(NamedTuple):
    """A field of a model as an option."""

    name: str
    option: str
    type: Any
    nullable: bool
    ref: str | None
    help: str
    writable: bool
    changeable: bool


def fields(cls: type[Object]) -> list[Field]:
    """The fields of a kind, the id left out."""
    found = []
    declared = inspect.type_info(cls).fields  # type: ignore[attr-defined]
    names = {field.name for field in declared}
    for field in declared:
        if field.name == "id":
            continue
        trait = traits(cls)[field.name]
        type_, nullable, about = _unwrap(field.type)
        found.append(
            Field(
                field.name, _option(field.name, names - {field.name}), type_, nullable, trait.get("ref"), about,
                "read_only" not in trait, "immutable" not in trait,
            )
        )  # fmt: skip
    return found


def _unwrap(type_: Any) -> tuple[Any, bool, str]:
    """The type without null and annotations, whether it may be null, and its description."""
    nullable, about = False, ""
    while True:
        if isinstance(type_, inspect.Metadata):
            about = about or (type_.extra_json_schema or {}).get("description", "")
            type_ = type_.type
        elif isinstance(type_, inspect.UnionType):
            nullable = True
            (type_,) = (choice for choice in type_.types if not isinstance(choice, inspect.NoneType))
        else:
            return type_, nullable, about


_NUMBERS = ("segmentation_id",)
"""What is no id of an object, in spite of its name."""
_PLURALS = (
    "ips", "pairs", "pools", "vteps", "routes", "opts", "nameservers", "hypervisors", "mappings", "nexthops", "groups",
    "labels", "values", "uplinks",
)  # fmt: skip


def _option(name: str, others: Container[str] = ()) -> str:
    """The option of a field; an id is named without ``_id`` where no other field has that name."""
    plain = name if name in _NUMBERS else name.removesuffix("_id")
    name = (name if plain in others else plain).replace("_", "-").replace("addresses", "address")
    return f"--{name[:-1]}" if name.endswith(_PLURALS) else f"--{name}"


def add_options(
    parser: argparse.ArgumentParser, cls: type[Object], verb: str, only: Container[str] | None = None
) -> None:
    """Options for ``create``, ``set`` or, as filters, ``list``; of all fields, or of some only."""
    for field in fields(cls):
        if only is not None and field.name not in only:
            continue
        structured = isinstance(field.type, inspect.VarTupleType | inspect.DictType | inspect.StructType)
        if (verb == "list" and structured and not _is_filter(field)) or (verb != "list" and not field.writable):
            continue
        if verb == "set" and not field.changeable:
            continue
        about = field.help.replace("%", "%%")
        more: dict[str, Any] = {"dest": f"field_{field.name}", "default": None, "help": about}
        if verb == "list":
            parser.add_argument(field.option, metavar=_metavar(field), action="append", **more)
        elif isinstance(field.type, inspect.BoolType):
            parser.add_argument(field.option, action=argparse.BooleanOptionalAction, **more)
        elif structured and not isinstance(field.type, inspect.StructType):
            parser.add_argument(field.option, metavar=_metavar(field), action="append", **more)
            if verb == "set" or (verb == "create" and field.nullable):
                _add_opposite(parser, field)
        else:
            parser.add_argument(field.option, metavar=_metavar(field), **more)


def _is_filter(field: Field) -> bool:
    """Whether a list of objects can be chosen from by what this list of text, or these labels, have."""
    if isinstance(field.type, inspect.VarTupleType):
        return isinstance(_unwrap(field.type.item_type)[0], inspect.StrType)
    return isinstance(field.type, inspect.DictType)


def _add_opposite(parser: argparse.ArgumentParser, field: Field) -> None:
    """``--no-label KEY`` takes one of the labels away; of a list, ``--no-security-group`` takes all, or has none from the start."""
    opposite, dest = field.option.replace("--", "--no-", 1), f"field_{field.name}"
    if isinstance(field.type, inspect.DictType):
        parser.add_argument(opposite, metavar="KEY", action="append", dest=f"less_{field.name}", help="take it away")
    else:
        parser.add_argument(opposite, action="store_const", const=[NONE], dest=dest, help="empty the list")


def _metavar(field: Field) -> str:
    match field.type:
        case inspect.VarTupleType(item_type=inspect.StructType(cls=cls)) if cls is LabelRequirement:
            return "REQUIREMENT"
        case inspect.DictType():
            return "KEY=VALUE"
        case inspect.VarTupleType(item_type=inspect.StructType() as item) | (inspect.StructType() as item):
            return ",".join(f"{_option(part.name).lstrip('-')}=…" for part in item.fields)
        case inspect.BoolType():
            return "true|false"
        case inspect.LiteralType() as choice:
            return "|".join(str(value) for value in choice.values)
        case inspect.IntType():
            return "NUMBER"
    return "NAME|ID" if field.ref else field.option.lstrip("-").replace("-", "_").upper()


def values(arguments: argparse.Namespace, cls: type[Object], client: Client) -> dict[str, Any]:
    """The fields that were given, as JSON values. Raises CliError."""
    found = {}
    for field in fields(cls):
        given = getattr(arguments, f"field_{field.name}", None)
        less = getattr(arguments, f"less_{field.name}", None)
        if isinstance(field.type, inspect.DictType) and (given or less):
            found[field.name] = _labels(field, given or [], less or [])
        elif given is not None:
            found[field.name] = _value(field, given, client)
    return found


def _labels(field: Field, given: list[str], less: list[str]) -> dict[str, str | None]:
    """Labels as a merge patch: those given are set, the others stay, and null takes one away."""
    found: dict[str, str | None] = dict.fromkeys(less)
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise CliError(USAGE, f"{field.option} must be like tier=web, not {text!r}")
        found[key] = value
    return found


def _value(field: Field, given: Any, client: Client) -> Any:
    if isinstance(field.type, inspect.VarTupleType):
        if given == [NONE]:
            return None if _metavar(field) == "REQUIREMENT" else []
        return [_item(field, text, client) for text in given]
    if isinstance(given, bool):
        return given
    if given == NONE and field.nullable:
        return None
    if isinstance(field.type, inspect.StructType):
        return _struct(field, field.type, given, client)
    return _scalar(field.option, field.type, field.ref, given, client)


def _scalar(option: str, type_: Any, ref: str | None, text: str, client: Client) -> Any:
    if ref is not None:
        return client.id_of(ref, KINDS[ref].COLLECTION, text)
    if _is_number(type_):
        try:
            return int(text)
        except ValueError:
            raise CliError(USAGE, f"{option} must be a number, not {text!r}") from None
    return text


def _is_number(type_: Any) -> bool:
    literal = isinstance(type_, inspect.LiteralType) and all(isinstance(value, int) for value in type_.values)
    return literal or isinstance(type_, inspect.IntType)


def _item(field: Field, text: str, client: Client) -> Any:
    """One of several values: as it is, or by its parts."""
    (item, _, _) = _unwrap(field.type.item_type)
    if not isinstance(item, inspect.StructType):
        return text if field.ref is None else client.id_of(field.ref, KINDS[field.ref].COLLECTION, text)
    if item.cls is LabelRequirement:
        return requirement(text)
    return _struct(field, item, text, client)


def _struct(field: Field, item: inspect.StructType, text: str, client: Client) -> Any:
    """A value by its parts, ``part=value,part=value``.

    A part that has several values itself is repeated. A piece without a name goes on with the text before it, so that
    text may have commas.
    """
    parts = {_option(part.name).lstrip("-"): part for part in item.fields}
    if "=" not in text and "ip-address" in parts:
        return {"ip_address": text}
    found: dict[str, Any] = {}
    open_text = ""
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if not equals and open_text:
            found[open_text] += f",{piece}"
            continue
        part = parts.get(name.replace("_", "-").removesuffix("-id"))
        if not equals or part is None:
            raise CliError(USAGE, f"{field.option} must be like {_metavar(field)}, not {text!r}")
        (type_, _, _) = _unwrap(part.type)
        ref = traits(item.cls)[part.name].get("ref")
        if isinstance(type_, inspect.VarTupleType):
            found.setdefault(part.name, []).append(value)
        else:
            found[part.name] = _scalar(field.option, type_, ref, value, client)
        open_text = part.name if isinstance(type_, inspect.StrType) and ref is None else ""
    return found


_CHOICE = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")


def requirement(text: str) -> dict[str, Any]:
    """A requirement on labels in kubectl's words: ``tier=web``, ``tier!=web``, ``tier in (web,db)``, ``tier notin (web)``,
    ``tier``, ``!tier``. Raises CliError."""
    text = text.strip()
    if found := _CHOICE.fullmatch(text):
        values = [value.strip() for value in found["values"].split(",")]
        return {"key": found["key"], "operator": "In" if found["operator"] == "in" else "NotIn", "values": values}
    if " " in text or not text:
        raise CliError(USAGE, f"--selector must be like tier=web, 'tier in (web,db)', tier or '!tier', not {text!r}")
    if text.startswith("!"):
        return {"key": text[1:], "operator": "DoesNotExist"}
    for sign, operator in (("!=", "NotIn"), ("==", "In"), ("=", "In")):
        key, found_sign, value = text.partition(sign)
        if found_sign:
            return {"key": key, "operator": operator, "values": [value]}
    return {"key": text, "operator": "Exists"}


def is_address(text: str) -> bool:
    """Whether it is an IP address rather than a name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def filters(arguments: argparse.Namespace, cls: type[Object], client: Client) -> list[tuple[str, str]]:
    """The filters of ``list``, for a query string."""
    found = []
    for field in fields(cls):
        resolve: Callable[[str], str] = str
        if field.ref:
            ref = field.ref
            resolve = lambda text, ref=ref: client.id_of(ref, KINDS[ref].COLLECTION, text)  # type: ignore[misc] # noqa: E731
        found += [(field.name, resolve(text)) for text in getattr(arguments, f"field_{field.name}", None) or ()]
    return found


def unset(names: list[str], cls: type[Object]) -> dict[str, None]:
    """The fields that are to have their default again. Raises CliError."""
    known = {field.option.lstrip("-"): field.name for field in fields(cls) if field.writable and field.changeable}
    found: dict[str, None] = {}
    for name in names:
        plain = name.lstrip("-").replace("_", "-")
        plain = plain if plain in known else plain.removesuffix("-id")
        if plain not in known:
            raise CliError(USAGE, f"--unset {name}: there are {', '.join(sorted(known))}")
        found[known[plain]] = None
    return found
