"""Has Open vSwitch leave the queues of uplinks to the agent: it gives its ports its own queueing whenever vswitchd starts.

A row of QoS with type ``linux-noop`` at the port tells it not to (ovs-vswitchd.conf.db(5), table QoS).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from novanet_apps.host_agent.queues import port_of, ports, qos_of
from novanet_apps.ovsdb.session import Session, read

NOOP = "linux-noop"


class HandsOff:
    """Of one session with the hypervisor's OVSDB, which has the interfaces that are watched, and their ports. ``mark``: what rows
    of the agent's have in external_ids."""

    def __init__(self, session: Session, mark: tuple[str, str]) -> None:
        self._session, self._mark = session, mark

    def errors(self) -> dict[str, str]:
        """Of which interfaces the queues cannot be the agent's, and why: somebody has Open vSwitch shape the port."""
        found = {}
        for name, port in ports(self._session).items():
            qos = qos_of(self._session, port)
            if qos is not None and read(qos, "type") != NOOP:
                found[name] = (
                    f"Open vSwitch shapes its port {read(port, 'name')} itself ({read(qos, 'type')}): remove that"
                    f" (ovs-vsctl clear port {read(port, 'name')} qos), or the uplink or the policy's shape"
                )
        return found

    def operations(self, interfaces: set[str]) -> list[dict[str, Any]]:
        """What is to be done so that these interfaces are left alone, and no others; nothing when all is so."""
        found: list[dict[str, Any]] = []
        kept, there = set(), ports(self._session)
        for number, name in enumerate(sorted(interfaces)):
            port = there.get(name)
            if port is None:
                continue
            qos = qos_of(self._session, port)
            if qos is not None:
                kept.add(qos.uuid)
                continue
            row = {"type": NOOP, "external_ids": ["map", [list(self._mark)]]}
            found.append({"op": "insert", "table": "QoS", "uuid-name": f"qos{number}", "row": row})
            where = [["_uuid", "==", ["uuid", str(port.uuid)]]]
            found.append(
                {"op": "update", "table": "Port", "where": where, "row": {"qos": ["named-uuid", f"qos{number}"]}}
            )
        for uuid in self._ours():
            if uuid not in kept:
                gone = ["uuid", str(uuid)]
                found.append(
                    {"op": "update", "table": "Port", "where": [["qos", "==", gone]], "row": {"qos": ["set", []]}}
                )
                found.append({"op": "delete", "table": "QoS", "where": [["_uuid", "==", gone]]})
        return found

    def are_off(self, interface: str) -> bool:
        """Whether Open vSwitch has been told to leave an interface to the agent."""
        port = port_of(self._session, interface)
        qos = None if port is None else qos_of(self._session, port)
        return qos is not None and qos.uuid in set(self._ours())

    def _ours(self) -> Iterator[UUID]:
        key, value = self._mark
        for uuid, row in self._session.rows("QoS").items():
            if read(row, "external_ids").get(key) == value:
                yield uuid
