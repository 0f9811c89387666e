"""What the intent store says of this hypervisor: which members are to be checked here and how, what is to be captured, and how uplinks
are to be shaped.

Read are all members, pools and health monitors, but only those ports that are on this hypervisor (``host_id``) and addresses of
the subnets that have members: of the tens of thousands of a platform's, a hypervisor has its hundreds.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar
from uuid import UUID

from novanet_apps.host_agent import shaping_intent
from novanet_apps.host_agent.judge import Health
from novanet_apps.host_agent.shaping_intent import ShapingIntent
from novanet_apps.host_agent.targets import Target, target
from novanet_apps.intent.feed import Feed, load
from novanet_apps.ovsdb.session import RowEvent, Session, members, read
from topology.changes import Change, Edit
from topology.health import is_checked
from topology.model import Capture, HealthMonitor, Load, Member, Pool
from topology.schema import ADDRESS, DATABASE, LOAD, columns, table

LOG = logging.getLogger(__name__)

WHOLE = ("member", "pool", "health-monitor", "capture")
_WHOLE = frozenset(map(table, WHOLE))
PORT, HYPERVISOR, ROUTER, CAPTURE = map(table, ("port", "hypervisor", "router", "capture"))
TABLES = {
    **{table(kind): list(columns(kind)) for kind in WHOLE},
    **shaping_intent.TABLES,
    PORT: ["fixed_ips", "admin_state_up", *shaping_intent.PORT_COLUMNS],
    ADDRESS: ["subnet", "ip_address"],
    ROUTER: ["router_key"],
    LOAD: ["hypervisor_id", "pool_id", "connections", "began", "beat"],
}

T = TypeVar("T")
Place = tuple[str, str]
"""(subnet id, address)"""


class Wanted(NamedTuple):
    """What is to be done about a member now."""

    target: Target | None
    """None: nobody is to be checked."""
    health: Health
    """As it is recorded."""
    here: bool
    """Whether its VM is here, so that it is for this agent to say how it is."""


class Here(NamedTuple):
    """A port on this hypervisor."""

    key: int
    up: bool
    addresses: frozenset[UUID]


class Intent:
    """One session with the store. ``changed`` is called with the members of which something has changed, ``uplinks_changed`` when
    uplinks may have to be shaped otherwise (``shaping`` says how), ``captures_changed`` when ports or captures are others."""

    def __init__(
        self,
        remotes: str,
        hypervisor: str,
        changed: Callable[[dict[str, Wanted]], None],
        uplinks_changed: Callable[[], None],
        captures_changed: Callable[[], None],
    ) -> None:
        self._changed, self._captures_changed = changed, captures_changed
        self._feed = Feed(self._apply, dict)
        self._members: dict[str, Member] = {}
        self._pools: dict[str, Pool] = {}
        self._monitors: dict[str, HealthMonitor] = {}
        """By pool."""
        self._monitor_pools: dict[str, str] = {}
        self._in_pool: defaultdict[str, set[str]] = defaultdict(set)
        self._at: defaultdict[Place, set[str]] = defaultdict(set)
        self._ports: dict[UUID, Here] = {}
        self._holders: dict[UUID, UUID] = {}
        """Row of Address -> port."""
        self._places: dict[UUID, Place] = {}
        self._rows_at: dict[Place, UUID] = {}
        self._subnets: set[str] = set()
        self._others = False
        """Whether other members are to be checked than before."""
        self._touched: set[str] = set()
        self.loads: dict[str, tuple[str, Load]] = {}
        """What the store has of the connections here, with the row, by pool."""
        self.captures: dict[str, Capture] = {}
        self.hypervisor_id: str | None = None
        self.bridge = ""
        self.session = Session(
            "intent store", remotes, database=DATABASE, tables=TABLES, on_rows=self._on_rows, on_state=self._on_state,
        )  # fmt: skip
        self.session.restrict(HYPERVISOR, [["name", "==", hypervisor]])
        self.session.restrict(PORT, [])
        self.session.restrict(ADDRESS, [])
        self.session.restrict(LOAD, [])
        self.shaping = ShapingIntent(self.session.restrict, uplinks_changed)

    def start(self) -> None:
        """Begin to connect."""
        self.session.start()

    def stop(self) -> None:
        """Close the session."""
        self.session.stop()

    def wanted(self, member_id: str) -> Wanted | None:
        """What is to be done about a member; None when there is none."""
        member = self._members.get(member_id)
        if member is None:
            return None
        place = (member.subnet_id or "", member.address)
        here = self._ports.get(self._holders.get(self._rows_at.get(place, _NOBODY), _NOBODY))
        pool, monitor = self._pools.get(member.pool_id), self._monitors.get(member.pool_id)
        if here is None or pool is None or monitor is None or not here.up or not is_checked(pool, monitor, member):
            return Wanted(None, member.health, here is not None)
        sharing = [self._members[id].member_key or 0 for id in self._at[place]]
        return Wanted(target(member, monitor, here.key, sharing), member.health, True)

    def counted(self) -> dict[int, str]:
        """The pools whose connections are to be counted, by their members' keys."""
        pools = [id for id, pool in self._pools.items() if pool.lb_algorithm == "least_connections"]
        return {self._members[id].member_key or 0: pool for pool in pools for id in self._in_pool.get(pool, ())}

    def captured(self, capture: Capture) -> frozenset[str] | None:
        """The ports here whose packets are to be captured; None when it is not for this hypervisor to do."""
        if capture.port_id is not None:
            return frozenset((capture.port_id,)) if UUID(capture.port_id) in self._ports else None
        if capture.hypervisor_id is None or capture.hypervisor_id != self.hypervisor_id:
            return None
        ports = (self.shaping.get("port", id) for id in self.shaping.ports_on(capture.hypervisor_id))
        return frozenset(each.id for each in ports if capture.network_id in (None, each.network_id))

    def router_zones(self) -> set[int]:
        """The conntrack zones of routers (``pipelines.nat``)."""
        keys = (next(members(row, "router_key"), 0) for row in self.session.rows(ROUTER).values())
        return {key for key in keys if key}

    # --- rows --------------------------------------------------------------------------------------------------------

    def _on_rows(self, events: list[RowEvent]) -> None:
        whole = []
        for event in events:
            if event.table == PORT:
                self._note_port(event)
            elif event.table == ADDRESS:
                self._note_address(event)
            elif event.table == HYPERVISOR:
                self._note_hypervisor(event)
            elif event.table == LOAD:
                self._note_load(event)
            elif event.table in _WHOLE:
                whole.append(event)
        self._feed.take(whole)
        self._restrict()
        self.shaping.take(events, self.hypervisor_id)
        touched, self._touched = self._touched, set()
        if any(event.table in (CAPTURE, PORT, HYPERVISOR) for event in events):
            self._captures_changed()
        self._changed({id: self.wanted(id) or Wanted(None, "unknown", False) for id in touched})

    def _on_state(self, connected: bool, error: str) -> None:
        LOG.info("intent store: %s", "connected" if connected else error)

    def _restrict(self) -> None:
        """Ask for the addresses of the subnets that have members that are to be checked."""
        if not self._others:
            return
        self._others = False
        checked = (member for member in self._members.values() if member.pool_id in self._monitors)
        subnets = {member.subnet_id or "" for member in checked}
        if subnets != self._subnets:
            self._subnets = subnets
            self.session.restrict(ADDRESS, [["subnet", "==", ["uuid", id]] for id in sorted(subnets)])

    def _note_hypervisor(self, event: RowEvent) -> None:
        self.hypervisor_id = None if event.op == "delete" else event.uuid
        self.bridge = "" if event.op == "delete" else str(read(event.row, "bridge"))
        here = [] if self.hypervisor_id is None else [["host_id", "==", ["uuid", self.hypervisor_id]]]
        self.session.restrict(PORT, here)
        self.session.restrict(LOAD, [["hypervisor_id", "==", clause[2]] for clause in here])

    def _note_load(self, event: RowEvent) -> None:
        of = load(event.row)
        if event.op != "delete":
            self.loads[of.pool_id] = event.uuid, of
        elif self.loads.get(of.pool_id, ("",))[0] == event.uuid:
            del self.loads[of.pool_id]

    def _note_port(self, event: RowEvent) -> None:
        uuid = UUID(event.uuid)
        before = self._ports.pop(uuid, None)
        for address in before.addresses if before is not None else ():
            self._touch(self._places.get(address))
            if self._holders.get(address) == uuid:
                del self._holders[address]
        host = [] if event.op == "delete" else [str(each) for each in members(event.row, "host_id")]
        if self.hypervisor_id not in host:
            return
        row = event.row
        addresses = frozenset(members(row, "fixed_ips"))
        key = next(members(row, "port_key"), 0)
        self._ports[uuid] = Here(key, bool(read(row, "admin_state_up")), addresses)
        for address in addresses:
            self._holders[address] = uuid
            self._touch(self._places.get(address))

    def _note_address(self, event: RowEvent) -> None:
        uuid = UUID(event.uuid)
        place = str(next(members(event.row, "subnet"))), str(read(event.row, "ip_address"))
        if event.op != "delete":
            self._places[uuid], self._rows_at[place] = place, uuid
        elif self._rows_at.get(place) == uuid:
            del self._rows_at[place]
            self._places.pop(uuid, None)
        else:
            self._places.pop(uuid, None)
        self._touch(place)

    def _touch(self, place: Place | None) -> None:
        if place is not None:
            self._touched.update(self._at.get(place, ()))

    # --- objects -----------------------------------------------------------------------------------------------------

    def _apply(self, edits: Iterable[Edit]) -> list[Change]:
        for kind, id, value in edits:
            if kind == "member":
                self._note_member(id, value)
            elif kind == "pool":
                _put(self._pools, id, value)
                self._touched.update(self._in_pool.get(id, ()))
            elif kind == "capture":
                _put(self.captures, id, value)
            else:
                self._note_monitor(id, value)
        return []

    def _note_member(self, id: str, member: Member | None) -> None:
        old = self._members.pop(id, None)
        if old is not None:
            self._in_pool[old.pool_id].discard(id)
            self._at[old.subnet_id or "", old.address].discard(id)
        if member is not None:
            self._members[id] = member
            self._in_pool[member.pool_id].add(id)
            self._at[member.subnet_id or "", member.address].add(id)
        self._touched.add(id)
        if old is None or member is None:
            self._others = True
            of = member or old
            self._touch((of.subnet_id or "", of.address) if of is not None else None)

    def _note_monitor(self, id: str, monitor: HealthMonitor | None) -> None:
        self._others = True
        pool = monitor.pool_id if monitor is not None else self._monitor_pools.get(id, "")
        if monitor is not None:
            self._monitors[pool], self._monitor_pools[id] = monitor, pool
        elif self._monitor_pools.pop(id, None) is not None and self._monitors[pool].id == id:
            del self._monitors[pool]
        self._touched.update(self._in_pool.get(pool, ()))


_NOBODY = UUID(int=0)


def _put(found: dict[str, T], id: str, value: T | None) -> None:
    if value is None:
        found.pop(id, None)
    else:
        found[id] = value
