"""list, show, create, set and delete, for every kind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from topology.model import Object

from . import fields
from .client import TIMEOUT, Client
from .errors import NOT_REALISED, OK, USAGE, CliError
from .tables import columns, print_json, progress, record, table

BULK = 1000
"""Objects in one request, which are made all or none."""
SETTLED = ("ACTIVE", "DOWN")


def list_(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet NOUN list``."""
    asked = fields.filters(arguments, cls, client) + [("status", status) for status in arguments.status or ()]
    found = [item for page in client.pages(cls.COLLECTION, asked) for item in page]
    if arguments.output == "json":
        print_json(found)
    else:
        print(table(columns(cls.KIND), ([item[name] for name in columns(cls.KIND)] for item in found)))
    return OK


def show(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet NOUN show NAME|ID``."""
    return show_one(client.named(cls.KIND, cls.COLLECTION, arguments.object), arguments)


def create(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet NOUN create``."""
    given = fields.values(arguments, cls, client)
    if arguments.id is not None:
        given["id"] = arguments.id
    if arguments.json is None:
        return show_one(write(client, "POST", f"/v1/{cls.COLLECTION}", given, arguments), arguments)
    objects = _read(arguments.json)
    bodies = [obj | given for obj in objects]
    made: list[dict[str, Any]] = []
    for start in range(0, len(bodies), BULK):
        part = bodies[start : start + BULK]
        try:
            made += write(client, "POST", f"/v1/{cls.COLLECTION}", part, arguments)
        except CliError as problem:
            if start:
                problem.args = (f"{problem} (the first {start} of {len(bodies)} were created)",)
            raise
        if len(bodies) > BULK:
            progress(len(made), len(bodies))
    if arguments.output == "json":
        print_json(made)
    else:
        print(table(columns(cls.KIND), ([item[name] for name in columns(cls.KIND)] for item in made)))
    return _settled(made, arguments)


def set_(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet NOUN set NAME|ID``."""
    given = fields.values(arguments, cls, client) | fields.unset(arguments.unset or [], cls)
    if not given:
        raise CliError(USAGE, f"nothing to change: give a field, see novanet {cls.KIND} set --help")
    id = client.id_of(cls.KIND, cls.COLLECTION, arguments.object)
    return show_one(write(client, "PATCH", f"/v1/{cls.COLLECTION}/{quote(id)}", given, arguments), arguments)


def delete(arguments: argparse.Namespace, cls: type[Object], client: Client) -> int:
    """``novanet NOUN delete NAME|ID…``."""
    ids = [client.id_of(cls.KIND, cls.COLLECTION, name) for name in arguments.objects]
    for done, id in enumerate(ids, 1):
        client.call("DELETE", f"/v1/{cls.COLLECTION}/{quote(id)}")
        if len(ids) > 10:
            progress(done, len(ids))
    return OK


def write(
    client: Client,
    method: str,
    path: str,
    body: Any,
    arguments: argparse.Namespace,
    headers: dict[str, str] | None = None,
) -> Any:
    """What the controller answers to a write, which waits as ``--wait`` says. Raises CliError."""
    wait = arguments.wait
    query = f"?{urlencode({'wait': wait})}" if wait else ""
    return client.call(method, path + query, body, TIMEOUT + (wait or 0), headers)


def show_one(obj: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Print an object; the exit code tells whether the switches have it, where ``--wait`` asks for that."""
    if arguments.output == "json":
        print_json(obj)
    else:
        print(record(obj))
    return _settled([obj], arguments)


def _settled(objects: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    """With --wait, whether the switches have it."""
    if not getattr(arguments, "wait", None):
        return OK
    late = [obj for obj in objects if obj["status"] not in SETTLED]
    for obj in late[:10]:
        why = "; ".join(obj["status_reason"])
        print(f"novanet: {obj['name'] or obj['id']} is {obj['status']}: {why}", file=sys.stderr)
    return NOT_REALISED if late else OK


def _read(source: str) -> list[dict[str, Any]]:
    """The objects of a JSON file, one or an array; ``-`` is standard input. Raises CliError."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        found: Any = msgspec.json.decode(data)
    except OSError as problem:
        raise CliError(USAGE, f"cannot read {source}: {problem.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise CliError(USAGE, f"{source} is not JSON: {problem}") from None
    objects = found if isinstance(found, list) else [found]
    if not objects or not all(isinstance(obj, dict) for obj in objects):
        raise CliError(USAGE, f"{source} must hold a JSON object, or an array of objects")
    return objects
