"""Verbs that some nouns have beside ``list``, ``show``, ``create``, ``set`` and ``delete``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from topology.model import Object

from .client import Client
from .errors import CliError
from .objects import show_one, write

ATTEMPTS = 10
"""How often a list is read and written again when somebody else writes the object at the same time."""
CHANGED = 412


class Verb(NamedTuple):
    """A verb of one noun."""

    name: str
    run: Callable[[argparse.Namespace, type[Object], Client], int]
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    waits: bool = True
    """Whether it takes ``--wait``."""


def rewrite(
    arguments: argparse.Namespace,
    cls: type[Object],
    client: Client,
    field: str,
    change: Callable[[list[Any]], list[Any]],
) -> int:
    """Change a list of ``arguments.object``, with nobody else's change lost."""
    for attempt in range(1, ATTEMPTS + 1):
        obj = client.named(cls.KIND, cls.COLLECTION, arguments.object)
        values = change(obj[field])
        if values == obj[field]:
            return show_one(obj, arguments)
        path, match = f"/v1/{cls.COLLECTION}/{quote(obj['id'])}", {"If-Match": f'"{obj["revision_number"]}"'}
        try:
            return show_one(write(client, "PATCH", path, {field: values}, arguments, match), arguments)
        except CliError as problem:
            if problem.status != CHANGED or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")
