"""What a query string may ask: filters by field, pages, and how long to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple, get_args
from urllib.parse import urlencode

import msgspec.inspect
from webob import Request

from topology.model import Object, Status

from .problems import Problem

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_WAIT = 300
SORTS = ("id", "name")
Parser = Callable[[str], Any]


class Query(NamedTuple):
    """A list call."""

    filters: dict[str, set[Any]]
    """Field -> values, any of which an object may have."""
    status: set[str]
    limit: int
    sort: str
    after: tuple[str, ...] | None
    """Sort key of the last object of the page before."""


@cache
def filters(cls: type[Object]) -> dict[str, Parser]:
    """The fields of a kind by which it can be filtered, and how their values are read: scalars, lists of text, labels."""
    found = {}
    for field in msgspec.inspect.type_info(cls).fields:  # type: ignore[attr-defined]
        parser = _parser(field.type)
        if parser is not None:
            found[field.name] = parser
    return found


def _parser(type_: Any) -> Parser | None:
    match type_:
        case msgspec.inspect.Metadata():
            return _parser(type_.type)
        case msgspec.inspect.UnionType():
            parsers = [_parser(inner) for inner in type_.types if not isinstance(inner, msgspec.inspect.NoneType)]
            return parsers[0] if len(parsers) == 1 else None
        case msgspec.inspect.BoolType():
            return _boolean
        case msgspec.inspect.IntType():
            return _integer
        case msgspec.inspect.StrType() | msgspec.inspect.LiteralType():
            return str
        case msgspec.inspect.VarTupleType() if _parser(type_.item_type) is str:
            return str
        case msgspec.inspect.DictType():
            return _label
    return None


def _label(text: str) -> tuple[str, str | None]:
    """``key=value``; or ``key``, with any value."""
    key, equals, value = text.partition("=")
    return key, value if equals else None


def has(value: Any, wanted: set[Any]) -> bool:
    """Whether a field has any of the values: is it, or where it is a list or labels, has it among others."""
    match value:
        case tuple():
            return not wanted.isdisjoint(value)
        case dict():
            return any(key in value and given in (None, value[key]) for key, given in wanted)
    return value in wanted


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def _integer(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        raise ValueError("an integer")
    return int(text)


def parameters(request: Request, known: Iterable[str]) -> dict[str, list[str]]:
    """The parameters of the query string. Raises Problem(400) on one that is not ``known``, or not UTF-8."""
    try:
        items = list(request.GET.items())
    except UnicodeDecodeError:
        raise Problem(400, "the query string is not UTF-8") from None
    found: dict[str, list[str]] = {}
    allowed = set(known)
    for name, value in items:
        if name not in allowed:
            raise Problem(
                400, f"there is no such parameter here; known are {', '.join(sorted(allowed)) or 'none'}", field=name
            )
        found.setdefault(name, []).append(value)
    return found


def listing(request: Request, cls: type[Object]) -> Query:
    """A list call's query. Raises Problem(400)."""
    parsers = filters(cls)
    asked = parameters(request, (*parsers, "status", "limit", "marker", "sort"))
    wanted: dict[str, set[Any]] = {}
    for name in asked.keys() & parsers.keys():
        wanted[name] = {_value(name, text, parsers[name]) for text in asked[name]}
    states = set(asked.get("status", ()))
    if unknown := states - set(get_args(Status)):
        raise Problem(400, f"{min(unknown)!r} is no status; there are {', '.join(get_args(Status))}", field="status")
    sort = _last(asked, "sort", "id")
    if sort not in SORTS:
        raise Problem(400, f"must be one of {', '.join(SORTS)}", field="sort")
    limit = _value("limit", _last(asked, "limit", str(DEFAULT_LIMIT)), _integer)
    if not 1 <= limit <= MAX_LIMIT:
        raise Problem(400, f"must be from 1 to {MAX_LIMIT}", field="limit")
    marker = _last(asked, "marker", "")
    return Query(wanted, states, limit, sort, _after(sort, marker) if marker else None)


def _value(name: str, text: str, parse: Parser) -> Any:
    try:
        return parse(text)
    except ValueError as expected:
        raise Problem(400, f"must be {expected}, not {text!r}", field=name) from None


def _last(asked: dict[str, list[str]], name: str, default: str) -> str:
    return asked[name][-1] if name in asked else default


def by_name(obj: Object) -> tuple[str, ...]:
    """What orders objects by name: unique, so that pages neither repeat nor miss one."""
    return (obj.name, obj.id)


def _after(sort: str, marker: str) -> tuple[str, ...]:
    if sort == "id":
        return (marker,)
    id, colon, name = marker.partition(":")
    if not colon:
        raise Problem(400, "is not a marker of this order; take it from `next`", field="marker")
    return (name, id)


def next_page(request: Request, query: Query, last: Object) -> str:
    """The address of the page that follows the object."""
    kept = [(name, value) for name, value in request.GET.items() if name != "marker"]
    marker = last.id if query.sort == "id" else f"{last.id}:{last.name}"
    return f"{request.path}?{urlencode([*kept, ('marker', marker)])}"


def waiting(request: Request) -> float:
    """Seconds that a write may wait for its objects to be realised; 0 for not at all. Raises Problem(400)."""
    return seconds(request, "wait", 0, MAX_WAIT, 0)


def seconds(request: Request, name: str, low: float, high: float, default: float) -> float:
    """A time that the query string gives, from ``low`` to ``high`` seconds. Raises Problem(400)."""
    text = _last(parameters(request, (name,)), name, str(default))
    try:
        found = float(text)
    except ValueError:
        found = low - 1
    if not low <= found <= high:
        raise Problem(400, f"must be from {low:g} to {high:g} seconds, not {text!r}", field=name)
    return found
