"""A write as it was asked for, the refusal of one, and how its fields become a typed object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from ..model import Object

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>[^`]*)`")
_UNFIT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
_UNFIT_LINES = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
"""The same, but for line breaks and tabs, which a description may have."""


class Write(NamedTuple):
    """One wish.

    ``create`` makes a new object (409 when ``id`` is taken), ``replace`` creates or replaces the object ``id``,
    ``patch`` is a JSON merge patch (RFC 7386), ``delete`` takes it away.
    """

    op: Literal["create", "replace", "patch", "delete"]
    kind: str
    id: str | None = None
    fields: Mapping[str, Any] = _NOTHING
    if_match: int | None = None
    """The revision_number that the object must still have."""
    project: str | None = None
    """The project on whose behalf it is written; None is the administrator."""
    system: bool = False
    """NovaNet itself writes, so that read-only fields may be set."""


class Refused(Exception):
    """A write that cannot be.

    ``status`` is the HTTP status, ``field`` a path such as ``fixed_ips[0].ip_address``, or "" for the whole;
    ``index`` tells which of several writes made together it is.
    """

    def __init__(self, status: int, field: str, detail: str) -> None:
        super().__init__(status, field, detail)
        self.status, self.field, self.detail = status, field, detail
        self.index = 0

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}" if self.field else self.detail


def merge_patch(target: Any, patch: Any) -> Any:
    """The value after a JSON merge patch (RFC 7386, section 2); neither argument is changed."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def typed(cls: type[Object], fields: Mapping[str, Any]) -> Any:
    """The fields as an object of ``cls``. Raises Refused(400) that names the field."""
    try:
        obj = msgspec.convert(fields, cls)
    except msgspec.ValidationError as problem:
        raise _refused(str(problem)) from None
    check_text(fields, "")
    return obj


def _refused(message: str) -> Refused:
    """msgspec says where after what: "Expected `int`, got `str` - at `$.mtu`"."""
    found = _AT.match(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    if named := _NAMED.search(what):
        path = f"{path}.{named['name']}" if path else named["name"]
        what = "there is no such field" if "unknown" in what else "must be given"
    return Refused(400, path, what)


def check_text(value: Any, path: str) -> None:
    """Refuse characters that have no business in names and that OVSDB or a terminal would choke on."""
    if isinstance(value, str):
        if not value.isprintable() and (_UNFIT_LINES if path == "description" else _UNFIT).search(value):
            raise Refused(400, path, "holds control characters or unpaired surrogates")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            check_text(name, path)
            check_text(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            check_text(inner, f"{path}[{position}]")
