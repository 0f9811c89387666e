"""Queues of uplinks that Open vSwitch shapes itself: rows of QoS and Queue at the ports of the operator's bridges.

Type ``linux-htb`` (ovs-vswitchd.conf.db(5)). Rows of these tables stay when nobody refers to them, so they are taken away by name. A
port that somebody else has given a QoS row keeps it; the agent's, which only says that the queues are not Open vSwitch's, goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from ovs.db.idl import Row, Transaction

from novanet_apps.hypervisors.inventory import Inventory
from novanet_apps.ovsdb.session import has, members, read
from topology.health import AGENT_OWNER
from topology.queues import CLASS, Queues

UPLINK = "novanet-uplink"
"""Key in external_ids of QoS: the interface that it is for."""
TYPE = "linux-htb"
TABLES = {
    "QoS": ["type", "other_config", "queues", "external_ids"],
    "Queue": ["other_config", "external_ids"],
}

Rows = Callable[[str], Mapping[UUID, Row]]
Columns = dict[str, dict[str, str]]


class QueueRows(NamedTuple):
    """The queues that an uplink has to have, as rows; ``mark`` is who owns them."""

    interface: str
    other_config: dict[str, str]
    queues: dict[int, Columns]
    """Columns by number."""

    @classmethod
    def of(cls, queues: Queues) -> QueueRows:
        """Derive them."""
        return cls(
            queues.interface,
            {"max-rate": str(queues.max_rate)},
            {
                queue.number: {
                    "other_config": {
                        "min-rate": str(queue.min_rate),
                        "max-rate": str(queue.max_rate),
                        "burst": str(queue.burst),
                        "priority": str(queue.priority),
                    },
                    "external_ids": {CLASS: queue.name},
                }
                for queue in queues.queues
            },
        )


def shapeable(interface: str, bridge: Row | None, rows: Rows, seen: Inventory) -> Row | None:
    """The port of an interface whose queues are honoured: alone in its port, on a bridge of the kernel's datapath as is the integration
    bridge. None: there is none.
    """
    uuid = seen.interface(interface)
    port = rows("Port").get(seen.port_of[uuid]) if uuid in seen.port_of else None
    if port is None or bridge is None or _kind(bridge) != "system" or len([*members(port, "interfaces")]) != 1:
        return None
    holder = next((each for each in rows("Bridge").values() if has(each, "ports", port.uuid)), None)
    return port if holder is not None and _kind(holder) == "system" else None


def _kind(bridge: Row) -> str:
    return str(read(bridge, "datapath_type") or "system")


class Mending:
    """One pass over the rows: says in ``found`` what is not as wanted, and with a transaction puts it right.

    ``mark`` is the key and value in external_ids of the rows that are ours.
    """

    def __init__(
        self, mark: tuple[str, str], rows: Rows, seen: Inventory, found: list[str], txn: Transaction | None
    ) -> None:
        self._mark, self._rows, self._seen, self._txn = mark, rows, seen, txn
        self._found = found
        self._served: set[UUID] = set()
        """Ports that have their queues after this pass."""

    def run(self, wanted: Iterable[QueueRows]) -> None:
        """Make, change and take away."""
        kept: set[UUID] = set()
        used: set[UUID] = set()
        for want in wanted:
            port = port_of(want.interface, self._rows, self._seen)
            there = None if port is None else qos_of(port)
            if port is None or (there is not None and not self.is_ours(there) and not _is_the_agents(there)):
                continue
            self._served.add(port.uuid)
            qos = self._qos(want.interface, there)
            if qos is None:
                self._found.append(f"uplink {want.interface} has no queues")
                self._create(want, port)
            else:
                kept.add(qos.uuid)
                used |= self._check(want, port, qos)
        self._remove(kept, used)

    def right(self, wanted: Iterable[QueueRows]) -> Iterator[tuple[str, int]]:
        """Interface and number of each queue that is as it has to be, in the order of ``wanted``."""
        for want in wanted:
            port = port_of(want.interface, self._rows, self._seen)
            qos = None if port is None else qos_of(port)
            if qos is None or not self.is_ours(qos) or not _agrees(qos, type=TYPE, other_config=want.other_config):
                continue
            there = read(qos, "queues")
            for number, columns in sorted(want.queues.items()):
                if number in there and _agrees(there[number], **columns):
                    yield want.interface, number

    def is_ours(self, row: Row) -> bool:
        """Whether NovaNet made it."""
        key, owner = self._mark
        return bool(read(row, "external_ids").get(key) == owner)

    def _qos(self, interface: str, there: Row | None) -> Row | None:
        """What we made for an interface; of several what its port has."""
        found = [row for row in self._ours("QoS") if read(row, "external_ids").get(UPLINK) == interface]
        return there if there in found else next(iter(found), None)

    def _present(self, table: str) -> list[Row]:
        """The rows that are not of this transaction."""
        return [row for row in self._rows(table).values() if row._data is not None]

    def _ours(self, table: str) -> list[Row]:
        return [row for row in self._present(table) if self.is_ours(row)]

    def _create(self, want: QueueRows, port: Row) -> None:
        if self._txn is None:
            return
        queues = {number: self._insert("Queue", columns) for number, columns in want.queues.items()}
        columns: Columns = {"external_ids": {UPLINK: want.interface}, "other_config": want.other_config}
        qos = self._insert("QoS", columns)
        qos.type, qos.queues = TYPE, queues
        self._attach(port, qos)

    def _insert(self, table: str, columns: Columns) -> Any:
        assert self._txn is not None
        row = self._txn.insert(self._txn.idl.tables[table])
        for name, value in columns.items():
            setattr(row, name, value | dict([self._mark]) if name == "external_ids" else value)
        return row

    def _attach(self, port: Row, qos: Any) -> None:
        before = qos_of(port)
        port.qos = qos
        if before is not None and _is_the_agents(before) and not self._has_other_users(before, port):
            before.delete()

    def _has_other_users(self, qos: Row, port: Row) -> bool:
        return any(each.uuid != port.uuid and has(each, "qos", qos.uuid) for each in self._present("Port"))

    def _check(self, want: QueueRows, port: Row, qos: Row) -> set[UUID]:
        """Compare what is there; returns the queues that stay."""
        what = f"queues of uplink {want.interface}"
        if not has(port, "qos", qos.uuid):
            self._found.append(f"{what}: the port does not have them")
            if self._txn is not None:
                self._attach(port, qos)
        self._column(qos, "type", TYPE, what)
        self._column(qos, "other_config", want.other_config, what)
        there: dict[int, Row] = read(qos, "queues")
        stay: dict[int, Any] = {}
        for number, columns in want.queues.items():
            row = there.get(number)
            if row is None or not self.is_ours(row):
                self._found.append(f"{what}: {number} is missing")
                stay[number] = None if self._txn is None else self._insert("Queue", columns)
                continue
            stay[number] = row
            self._column(row, "other_config", columns["other_config"], f"{what}: {number}")
            self._column(row, "external_ids", columns["external_ids"] | dict([self._mark]), f"{what}: {number}")
        self._found += [f"{what}: {number} is not wanted" for number in sorted(there.keys() - stay.keys())]
        if self._txn is not None and stay != there:
            qos.queues = stay
        return {row.uuid for number, row in there.items() if number in stay and stay[number] is row}

    def _column(self, row: Row, column: str, want: Any, what: str) -> None:
        have = read(row, column)
        if have != want:
            self._found.append(f"{what}: {column} is {_show(have)} instead of {_show(want)}")
            if self._txn is not None:
                setattr(row, column, want)

    def _remove(self, kept: set[UUID], used: set[UUID]) -> None:
        """Take away what is ours and not wanted: rows of QoS, wherever they are used, then queues that nobody uses any more."""
        gone = [row for row in self._ours("QoS") if row.uuid not in kept]
        self._found += [f"queues of uplink {read(row, 'external_ids').get(UPLINK)} are not wanted" for row in gone]
        foreign = (row for row in self._present("QoS") if not self.is_ours(row))
        used = used | {queue.uuid for row in foreign for queue in read(row, "queues").values()}
        queues = [row for row in self._ours("Queue") if row.uuid not in used]
        self._found += [f"queue {row.uuid} is not wanted" for row in queues]
        if self._txn is None:
            return
        ports = [port for port in self._present("Port") if port.uuid not in self._served] if gone else []
        for row in gone:
            for port in ports:
                if has(port, "qos", row.uuid):
                    port.qos = []
            row.delete()
        for row in queues:
            row.delete()


def taken(wanted: Iterable[QueueRows], mark: tuple[str, str], rows: Rows, seen: Inventory) -> Iterator[str]:
    """The uplinks that somebody else shapes, and what to do about it."""
    for want in wanted:
        port = port_of(want.interface, rows, seen)
        qos = None if port is None else qos_of(port)
        if qos is None or read(qos, "external_ids").get(mark[0]) == mark[1] or _is_the_agents(qos):
            continue
        name = read(port, "name")
        yield (
            f"uplink {want.interface} is shaped by somebody else ({read(qos, 'type')}): remove that (`ovs-vsctl clear port {name}"
            " qos`) or the uplink"
        )


def port_of(interface: str, rows: Rows, seen: Inventory) -> Row | None:
    """The port that an interface belongs to."""
    uuid = seen.interface(interface)
    return rows("Port").get(seen.port_of[uuid]) if uuid in seen.port_of else None


def qos_of(port: Row) -> Row | None:
    """What a port has for its queues."""
    found = read(port, "qos")
    return found[0] if found else None


def _is_the_agents(qos: Row) -> bool:
    return AGENT_OWNER in read(qos, "external_ids")


def _agrees(row: Row, **columns: Any) -> bool:
    """Whether columns have these values; external_ids may say more."""
    for name, value in columns.items():
        have = read(row, name)
        if name == "external_ids":
            have = {key: have[key] for key in value if key in have}
        if have != value:
            return False
    return True


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in sorted(value.items())) or "empty"
    return str(value)
