"""Bringing the schema of a database up to ours (ovsdb-server(7), section 4.1.20, "convert")."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from novanet_apps.intent.settings import StoreError
from novanet_apps.ovsdb.link import call, connect
from topology.migration import between, operations
from topology.schema import DATABASE, DURABLE, VERSION, schema

LOG = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
CONVERT_TIMEOUT = 60.0


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers to compare. Raises StoreError when it is none."""
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise StoreError(f"the database's schema has the version {version!r}, which NovaNet never wrote") from None


def upgrade(remotes: list[str], before: Callable[[str], None]) -> None:
    """Convert the database behind ``remotes`` when its schema is older; ``before(old version)`` is called first.

    Raises OvsdbError when no server answers, and StoreError when what it has is of no use to this NovaNet.
    """
    version = _version(remotes)
    if numbers(version) == numbers(VERSION):
        return
    before(version)
    LOG.info("intent store: converting the database from schema %s to %s", version, VERSION)
    _ask(remotes, "convert", [DATABASE, between(version)])
    results = _ask(remotes, "transact", [DATABASE, *operations(numbers(version)), DURABLE])
    if problems := [result for result in results if result and "error" in result]:
        raise StoreError(f"{remotes[0]}: the database cannot be converted from {version}: {problems[0]}")
    _ask(remotes, "convert", [DATABASE, schema()])


def _version(remotes: list[str]) -> str:
    """The version of the database's schema. Raises StoreError when there is no database, or a newer one."""
    connection = connect(remotes, CONNECT_TIMEOUT)
    try:
        if DATABASE not in call(connection, "list_dbs", [], CONNECT_TIMEOUT):
            raise StoreError(
                f"{connection.name} has no database {DATABASE}: make it with ovsdb-tool create (or create-cluster) from"
                " the schema that `python -m topology.schema` prints, and have the server serve it"
            )
        version = str(call(connection, "get_schema", [DATABASE], CONNECT_TIMEOUT).get("version", "0.0.0"))
        if numbers(version) > numbers(VERSION):
            raise StoreError(
                f"{connection.name}: the database was written by a newer NovaNet (its schema is {version}, ours is"
                f" {VERSION}): run that one, or restore the backup made before the upgrade"
            )
        return version
    finally:
        connection.close()


def _ask(remotes: list[str], method: str, params: list[Any]) -> Any:
    """One request on a connection of its own: a server that converts a database closes those that there are."""
    connection = connect(remotes, CONNECT_TIMEOUT)
    try:
        return call(connection, method, params, CONVERT_TIMEOUT)
    finally:
        connection.close()


def keep_copy(database: Path, version: str) -> None:
    """Copy a database file aside, once for each version of its schema."""
    copy = database.with_name(f"{database.name}.{version}")
    if not copy.exists():
        shutil.copy2(database, copy)
        LOG.info("intent store: %s is a copy of the database before the conversion", copy)
