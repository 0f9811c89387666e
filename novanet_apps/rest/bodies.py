"""What clients send: bodies within limits, and JSON that is safe to walk through."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import msgspec
from webob import Request

from .problems import Problem

MAX_DEPTH = 32
"""Arrays and objects within one another; the models need 3."""
WAS_READ = "novanet.read"
"""Key of the WSGI environment: there once the body was read to its end."""
_CHUNK = 65536
_MALFORMED = re.compile(r"(?:JSON is malformed: )?(?P<what>.*?)(?: \(byte (?P<byte>\d+)\))?\Z", re.DOTALL)


def read_json(request: Request, limit: int, *types: str) -> Any:
    """The body of a request as plain Python values. Raises Problem (400, 413, 415)."""
    media = (request.headers.get("Content-Type") or "").partition(";")
    if media[0].strip().lower() not in types:
        raise Problem(415, f"the body must be {' or '.join(types)}, not {media[0].strip() or 'without a type'}")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]*)", media[2], re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, f"the body must be UTF-8, not {charset[1]!r}")
    return parse(read(request, limit))


def read(request: Request, limit: int) -> bytes:
    """The body, if it has at most ``limit`` bytes; of a longer one no more than that is ever held."""
    too_large = Problem(413, f"a body has at most {limit} bytes; send it in several requests")
    length = request.environ.get("CONTENT_LENGTH") or ""
    if length and int(length) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    source: BinaryIO = request.environ["wsgi.input"]
    try:
        while part := source.read(min(_CHUNK, limit + 1 - size)):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise too_large
    except (OSError, ValueError) as problem:
        raise Problem(400, f"the body could not be read: {problem}") from None
    if length and size < int(length):
        raise Problem(400, f"the body ended after {size} of {length} bytes")
    request.environ[WAS_READ] = True
    return b"".join(parts)


def is_left(request: Request) -> bool:
    """Whether there is a body of which not all was read."""
    environ = request.environ
    announced = (environ.get("CONTENT_LENGTH") or "0").strip("0") or environ.get("HTTP_TRANSFER_ENCODING")
    return bool(announced) and WAS_READ not in environ


def parse(body: bytes) -> Any:
    """JSON (RFC 8259) as plain values, no deeper than MAX_DEPTH. Raises Problem(400) with line and column."""
    if not body:
        raise Problem(400, "the body is empty; JSON was expected")
    too_deep = Problem(400, f"the JSON is nested deeper than {MAX_DEPTH} levels")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise too_deep from None
    except UnicodeDecodeError as problem:
        raise Problem(400, f"the body is not UTF-8: {_place(body, problem.start)}") from None
    except msgspec.MsgspecError as problem:
        found = _MALFORMED.match(str(problem))
        what, byte = (found["what"], found["byte"]) if found else (str(problem), None)
        where = _place(body, int(byte) if byte else len(body))
        raise Problem(400, f"the body is not JSON: {what[:1].lower()}{what[1:]} at {where}") from None
    if _depth_exceeds(value, MAX_DEPTH):
        raise too_deep
    return value


def _place(body: bytes, offset: int) -> str:
    before = body[:offset]
    line = before.count(b"\n") + 1
    column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
    return f"line {line}, column {column}"


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether containers lie more than ``limit`` deep; level by level, so that it needs no recursion itself."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(value, (dict, list)) for value in level)
