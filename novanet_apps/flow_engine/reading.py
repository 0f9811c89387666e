"""Reads what a bridge has, and prepares a connection for work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

from pipelines import fields as f
from pipelines import wire
from pipelines.cookies import LEARNED
from pipelines.tables import LB_AFFINITY

from .session import Session, SwitchError

GENEVE_OPTION = (f.GENEVE_OPTION_CLASS, f.GENEVE_OPTION_TYPE, f.TUN_OPTION.size, 0)
"""(class, type, bytes, number of the tun_metadata field) of NovaNet's Geneve option."""

FIRST_VIRTUAL_METER = 0xFFFF0001
"""From here on, meters are the switch's own (OFPM_MAX is 0xffff0000)."""


def read_flows(session: Session) -> Iterator[tuple[bytes, bytes]]:
    """(key, body) of every flow of the bridge, as they arrive, save what it has learned by itself, where it may.

    Raises SwitchError, SessionEnded, ValueError.
    """
    with closing(session.stream(wire.flows_request)) as parts:
        for part in parts:
            for entry in wire.flows(part):
                if entry.body[0] != LEARNED or entry.key[0] != LB_AFFINITY.number:
                    yield entry.key, entry.body


def read_counted(session: Session, cookie: int) -> list[wire.FlowEntry]:
    """Every flow with this cookie, and its counters. Raises as ``read_flows`` does."""
    build = partial(wire.flows_request, cookie=cookie, mask=0xFFFFFFFFFFFFFFFF)
    with closing(session.stream(build)) as parts:
        return [entry for part in parts for entry in wire.flows(part)]


def read_counted_in(session: Session, table: int) -> list[wire.FlowEntry]:
    """Every flow of a table, and its counters. Raises as ``read_flows`` does."""
    with closing(session.stream(partial(wire.flows_request, table=table))) as parts:
        return [entry for part in parts for entry in wire.flows(part)]


def read_groups(session: Session) -> dict[int, bytes]:
    """Every group's body by number. Raises as ``read_flows`` does."""
    with closing(session.stream(wire.groups_request)) as parts:
        return dict(entry for part in parts for entry in wire.groups(part))


def read_meters(session: Session) -> dict[int, bytes]:
    """Every meter's body by number. Raises as ``read_flows`` does."""
    with closing(session.stream(wire.meters_request)) as parts:
        found = dict(entry for part in parts for entry in wire.meters(part))
    return {id: body for id, body in found.items() if id < FIRST_VIRTUAL_METER}


def read_meter_counters(session: Session) -> list[wire.MeterCount]:
    """What every meter has seen. Raises as ``read_flows`` does."""
    with closing(session.stream(wire.meter_counters_request)) as parts:
        return [count for part in parts for count in wire.meter_counters(part) if count.id < FIRST_VIRTUAL_METER]


def read_meter_features(session: Session) -> wire.MeterFeatures:
    """What meters the switch can have. Raises as ``read_flows`` does."""
    with closing(session.stream(wire.meter_features_request)) as parts:
        return next(wire.meter_features(part) for part in parts)


def become_master(session: Session, generation: int) -> None:
    """Claim the bridge with a term; SwitchError says that someone has a newer one (OFPRRFC_STALE)."""
    reply = session.ask(lambda version, xid: wire.role_request(version, xid, wire.Role.MASTER, generation))
    if not isinstance(reply, wire.RoleReply):
        raise ValueError(f"a role request was answered with {type(reply).__name__}")


def ensure_geneve_option(session: Session) -> None:
    """Map NovaNet's Geneve option to its field; SwitchError when the switch will not."""
    table = session.ask(wire.tlv_request)
    options = table.options if isinstance(table, wire.TlvTable) else ()
    if GENEVE_OPTION in options:
        return
    in_the_way = [option for option in options if option[3] == GENEVE_OPTION[3] or option[:2] == GENEVE_OPTION[:2]]
    if in_the_way:
        _command(session, wire.TlvCommand.DELETE, *in_the_way)
    _command(session, wire.TlvCommand.ADD, GENEVE_OPTION)


def _command(session: Session, command: wire.TlvCommand, *options: tuple[int, int, int, int]) -> None:
    """Change the map of Geneve options; there is an answer only where it is refused."""
    errors: list[wire.Reply] = []
    xid = session.expect(errors.append)
    session.send(wire.tlv_mod(session.version, xid, command, *options))
    session.barrier()
    session.forget(xid)
    for error in errors:
        if isinstance(error, wire.Error):
            raise SwitchError(error)
