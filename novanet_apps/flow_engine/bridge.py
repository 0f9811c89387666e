"""One bridge: what is wanted of it, and the greenlet that makes it so and keeps it so.

While a switch is connected, ``_work`` goes through four things in this order, again and again: put right what failed,
encode what was put, send what changed, wait. What was put but not yet encoded waits in ``_queue``; what was encoded but
not sent is in ``_delta``; what was sent and not answered flies (``flights``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
from eventlet.event import Event
from eventlet.timeout import Timeout

from novanet_apps.compat import CONF
from pipelines.compiler import Owner
from pipelines.cookies import cookie
from pipelines.flow import Rule
from pipelines.ledger import STEP, Ledger
from pipelines.wire.delta import Delta, batches
from pipelines.wire.openflow import VERSIONS

from . import reading
from .audit import Audit
from .counters import Counters
from .failures import Failures
from .flights import Flight, Flights, Load, transaction_ids
from .session import Session, SessionEnded, SwitchError

LOG = logging.getLogger(__name__)

OPENFLOW = dict(zip(VERSIONS, ("1.3", "1.4", "1.5"), strict=True))
START = int(time.time() * 1000)
"""Default term of a controller: a later start outranks an earlier one."""


class Bridge:
    """The bridge of one hypervisor, connected or not. ``tell`` is called with its id when something was confirmed,
    refused, connected or lost; ``recompile`` when everything has to be put again."""

    def __init__(
        self, hypervisor_id: str, counters: Counters, tell: Callable[[str], None], recompile: Callable[[str], None]
    ) -> None:
        self.hypervisor_id = hypervisor_id
        self.counters = counters
        self.ledger: Ledger | None = None
        self._tell, self._recompile = tell, recompile
        self._queue: dict[Owner, list[Rule]] = {}
        self._pending: dict[Owner, int] = {}
        """Unconfirmed owners: the number of the load that has what they want, 0 while none has."""
        self._failures = Failures()
        self._complete = False
        self._generation = START
        self._session: Session | None = None
        self._worker: Any = None
        self._wake = Event()
        self._xids = transaction_ids()
        self._problem = "not connected yet"
        self._since = time.time()
        self._reset()

    def _reset(self) -> None:
        """Forget what concerns one connection only."""
        self._delta = Delta()
        self._owners: list[Owner] = []
        self._loads = 0
        self._synced = False
        self._audit: Audit | None = None
        self._next_audit = 0.0
        self._failures.first = None

    # --- what the engine calls -----------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection that may be worked with."""
        return self._session is not None

    def put(self, wanted: dict[Owner, list[Rule]]) -> None:
        """Replace what these owners want."""
        for owner, rules in wanted.items():
            self._queue.pop(owner, None)
            self._queue[owner] = rules
            self._pending[owner] = 0
            self._failures.forget(owner)
        self._rouse()

    def complete(self) -> None:
        """The first full set was put."""
        self._complete = True
        self._rouse()

    def fence(self, generation: int) -> None:
        """Claim the bridge anew with this term."""
        self._generation = generation
        session = self._session
        if session is not None:
            self._halt()
            self._begin(session)

    def attach(self, session: Session) -> None:
        """A switch is connected: work with it."""
        if self._session is not None:
            self.detach("replaced by a newer connection")
        self._since = time.time()
        if self.ledger is not None and self.ledger.version != session.version:
            self._start_over()
        self._begin(session)

    def detach(self, reason: str) -> None:
        """The connection is gone. What is wanted stays wanted."""
        if self._session is None:
            return
        self._session.end()
        self._session = None
        self._since, self._problem = time.time(), reason
        self._halt()
        self._tell(self.hypervisor_id)

    def pending(self, owner: Owner) -> bool:
        """Whether the bridge has yet to confirm what the owner wants."""
        return owner in self._pending

    def error(self, owner: Owner) -> str:
        """Why the bridge does not do what the owner wants."""
        return self._failures.texts.get(owner, "")

    def state(self) -> dict[str, Any]:
        """What an operator wants to know."""
        session = self._session
        return {
            "connected": session is not None,
            "since": self._since,
            "address": "" if session is None else str(session.datapath.address),
            "version": None if session is None else OPENFLOW[session.version],
            "complete": self._complete,
            "synced": self._synced,
            "pending": len(self._pending),
            "owners_in_error": len(self._failures.texts),
            "flows": 0 if self.ledger is None else self.ledger.flows,
            "in_flight": 0 if session is None else len(self._flights),
            "error": self._problem,
        }

    # --- the worker ----------------------------------------------------------------------------------------------

    def _halt(self) -> None:
        """End the greenlets of a connection."""
        self._drop_audit()
        self._worker.kill()
        self._reset()

    def _begin(self, session: Session) -> None:
        self._session = session
        self._problem = ""
        self._flights = Flights(session, self._landed)
        self._worker = eventlet.spawn(self._work, session)

    def _start_over(self) -> None:
        """The bridge speaks another version than the ledger: everything has to be encoded anew, so compiled anew."""
        LOG.warning("bridge of hypervisor %s speaks another version of OpenFlow now; it is compiled anew", self.hypervisor_id)
        self.ledger, self._complete = None, False
        self._recompile(self.hypervisor_id)

    def _work(self, session: Session) -> None:
        try:
            if not self._prepare(session):
                return
            while not self._complete:
                self._sleep()
            self._synchronise(session)
            self._plan_audit(0.0)
            while True:
                if self._failures.first is not None:
                    self._put_right(session)
                elif self._queue:
                    self._encode()
                elif self._owners or len(self._delta):
                    self._ship()
                elif self._audit is not None and self._audit.done:
                    self._finish_audit(self._audit)
                elif self._next_audit and time.monotonic() >= self._next_audit and not self._flights:
                    self._next_audit = 0.0
                    self._audit = Audit(session, self._ledger, self._rouse)
                else:
                    self._sleep(self._next_audit if not self._flights else 0.0)
        except SessionEnded:
            return
        except Exception:
            LOG.exception("work on the bridge of hypervisor %s", self.hypervisor_id)
            eventlet.spawn(session.datapath.abort, "internal error, see the log")

    def _rouse(self) -> None:
        if not self._wake.ready():
            self._wake.send()

    def _sleep(self, until: float = 0.0) -> None:
        """Wait for ``_rouse``, or until that monotonic time."""
        seconds = max(0.0, until - time.monotonic()) if until else None
        if not self._wake.ready():
            with Timeout(seconds, False):
                self._wake.wait()
        self._wake = Event()

    @property
    def _ledger(self) -> Ledger:
        assert self.ledger is not None
        return self.ledger

    def _prepare(self, session: Session) -> bool:
        """Claim the bridge, map the Geneve option. False when another controller has a newer claim."""
        if self.ledger is None:
            self.ledger = Ledger(session.version)
        try:
            reading.become_master(session, self._generation)
        except SwitchError as refusal:
            self._problem = f"another controller claimed the bridge with a newer term than {self._generation}: {refusal}"
            LOG.error("bridge of hypervisor %s: %s", self.hypervisor_id, self._problem)
            self._tell(self.hypervisor_id)
            return False
        try:
            reading.ensure_geneve_option(session)
        except SwitchError as refusal:
            self._problem = f"the bridge does not take NovaNet's Geneve option: {refusal}"
            LOG.error("bridge of hypervisor %s: %s", self.hypervisor_id, self._problem)
        return True

    # --- encoding ------------------------------------------------------------------------------------------------

    def _encode(self) -> None:
        """Encode some of what was put, a few milliseconds' worth, or one large owner; send what fills a bundle."""
        owner = next(iter(self._queue))
        if len(self._queue[owner]) > STEP:
            self._encode_large(owner, self._queue.pop(owner))
            return
        some: dict[Owner, list[Rule]] = {}
        count = 0
        for owner, rules in self._queue.items():
            count += len(rules) + 1
            if some and count > STEP:
                break
            some[owner] = rules
        for owner in some:
            del self._queue[owner]
        if self._synced:
            self._failures.keep(some)
        self._take(self._staged(some), list(some))
        eventlet.sleep(0)

    def _staged(self, some: dict[Owner, list[Rule]]) -> Delta:
        """Put them together, since one may take over what another gives up; one by one when that fails."""
        try:
            return self._ledger.put_all({owner: (rules, cookie(owner)) for owner, rules in some.items()})
        except ValueError:
            pass
        whole, complaints = Delta(), dict.fromkeys(some, "")
        for _ in range(2):  # the second time for those that waited for another to give way
            for owner in list(complaints):
                try:
                    whole.then(self._ledger.put(owner, some[owner], cookie(owner)))
                    del complaints[owner]
                except ValueError as error:
                    complaints[owner] = str(error)
        for owner, text in complaints.items():
            self._refuse(owner, text)
        return whole

    def _encode_large(self, owner: Owner, rules: list[Rule]) -> None:
        if self._synced:
            self._failures.keep({owner: rules})
        try:
            for step in self._ledger.put_steps(owner, rules, cookie(owner)):
                self._take(step, [])
                eventlet.sleep(0)
        except ValueError as error:
            self._refuse(owner, str(error))
        self._take(Delta(), [owner])

    def _take(self, delta: Delta, owners: list[Owner]) -> None:
        """Add changes to those that are to be sent; send when they fill a bundle. An owner's stay together if they can."""
        if not self._synced:
            return  # the comparison that follows finds them
        if self._audit is not None:
            self._audit.touch(delta)
        if len(self._delta) and len(self._delta) + len(delta) > CONF.bundle_size:
            self._ship()
        self._delta.then(delta)
        self._owners += owners
        if len(self._delta) >= CONF.bundle_size:
            self._ship()

    # --- sending -------------------------------------------------------------------------------------------------

    def _ship(self) -> None:
        """Send what changed, for the owners whose wants it completes."""
        delta, owners, self._delta, self._owners = self._delta, self._owners, Delta(), []
        load = self._flights.newest if not len(delta) else None
        if load is None:
            load = self._new_load(owners)
        else:
            self._charge(load, owners)
        self._send(delta, load)
        load.sealed = True
        self._settle(load)

    def _new_load(self, owners: list[Owner]) -> Load:
        self._loads += 1
        load = Load(self._loads, [])
        self._charge(load, owners)
        return load

    def _charge(self, load: Load, owners: list[Owner]) -> None:
        """These owners are confirmed with this load, unless they were put again since."""
        for owner in owners:
            if owner in self._pending and owner not in self._queue:
                self._pending[owner] = load.number
                load.owners.append(owner)

    def _send(self, delta: Delta, load: Load) -> None:
        """Send changes in bundles, no more of them at a time than the switch may have unanswered."""
        if not len(delta):
            return
        self._count(delta)
        for batch in batches(delta, self._ledger.version, self._xids, self._failures.bundle_size(CONF.bundle_size)):
            while len(self._flights) >= CONF.bundles_in_flight and self._failures.first is None:
                self._sleep()
            if self._failures.first is not None:
                return  # the comparison that follows finds what was not sent
            self._flights.launch(batch, load)
            self.counters.bundles += batch.bundle is not None
            eventlet.sleep(0)

    def _count(self, delta: Delta) -> None:
        deleted = sum(1 for body in delta.flows.values() if body is None)
        self.counters.flows_deleted += deleted
        self.counters.flows_sent += len(delta.flows) - deleted
        self.counters.groups_sent += len(delta.groups)
        self.counters.meters_sent += len(delta.meters)

    def _landed(self, flight: Flight) -> None:
        """The switch has answered a batch; called in the receiving greenlet."""
        if flight.errors:
            self.counters.bundle_errors += 1
            self._failures.note(flight)
        else:
            self._settle(flight.load)
        self._rouse()

    def _settle(self, load: Load) -> None:
        """Confirm a load's owners when all of it has landed."""
        if not load.done or self._failures.first is not None:
            return
        confirmed = False
        for owner in load.owners:
            if self._pending.get(owner) == load.number:
                del self._pending[owner]
                self._failures.forget(owner)
                confirmed = True
        load.owners = []
        if self._synced:
            self._failures.settled()
        if confirmed:
            self._tell(self.hypervisor_id)

    # --- comparing -----------------------------------------------------------------------------------------------

    def _synchronise(self, session: Session) -> None:
        """Read the bridge, and send what is between what it has and what it is to have."""
        self._synced = False
        self._delta, self._owners = Delta(), []
        while self._queue:
            self._encode()
        self.counters.resyncs += 1
        began, changes = time.monotonic(), 0
        load = self._new_load(list(self._pending))
        for delta in _gathered(_differences(session, self._ledger), CONF.bundle_size):
            changes += len(delta)
            self._send(delta, load)
            if self._failures.first is not None:
                return
        load.sealed = True
        self._synced = True
        self._settle(load)
        LOG.info(
            "bridge of hypervisor %s compared: %d flows wanted, %d changes sent, %.2f s", self.hypervisor_id,
            self._ledger.flows, changes, time.monotonic() - began,
        )  # fmt: skip
        self._tell(self.hypervisor_id)

    def _put_right(self, session: Session) -> None:
        """Something was refused: set aside who is to blame, and compare again, later each time."""
        self._drop_audit()
        self._plan_audit(0.0)
        while self._flights:
            self._sleep()
        failure, delay = self._failures.take()
        if failure.superseded:
            self._problem = "another controller has taken the bridge over"
            LOG.error("bridge of hypervisor %s: %s", self.hypervisor_id, self._problem)
            self._tell(self.hypervisor_id)
            while True:
                self._sleep()  # silent until the bridge is claimed with a new term
        for owner, text in failure.culprits(self._ledger).items():
            self._ledger.put(owner, [], cookie(owner))
            self._refuse(owner, text)
        LOG.error("bridge of hypervisor %s refused changes: %s", self.hypervisor_id, failure.text)
        eventlet.sleep(delay)
        self._synchronise(session)

    def _refuse(self, owner: Owner, text: str) -> None:
        """What the owner wants cannot be done."""
        self._pending.pop(owner, None)
        self._failures.set_aside(owner, text)
        LOG.error("%s %s on hypervisor %s: %s", *owner, self.hypervisor_id, text)
        self._tell(self.hypervisor_id)

    def _plan_audit(self, took: float) -> None:
        """Say when to compare next; a comparison may cost a twentieth of the time."""
        self._next_audit = time.monotonic() + max(CONF.audit_interval, 20 * took) if CONF.audit_interval else 0.0

    def _drop_audit(self) -> None:
        if self._audit is not None:
            self._audit.stop()
            self._audit = None

    def _finish_audit(self, audit: Audit) -> None:
        """Repair what had changed behind NovaNet's back, and try again what was refused."""
        self._audit = None
        self._plan_audit(audit.seconds)
        drift = audit.drift()
        self.counters.audits += 1
        if len(drift):
            self.counters.drift_repaired += len(drift)
            LOG.warning(
                "bridge of hypervisor %s: %d flows, groups and meters were not as they had been set; repaired",
                self.hypervisor_id, len(drift),
            )  # fmt: skip
            self._take(drift, [])
        for owner, rules in self._failures.retry().items():
            self._queue.setdefault(owner, rules)
            self._pending[owner] = 0


def _differences(session: Session, ledger: Ledger) -> Iterator[Delta]:
    """The ledger's differences from what the bridge has. All of the answer is taken before the first is given, since
    the switch answers nothing else in between."""
    groups, meters = reading.read_groups(session), reading.read_meters(session)
    read_all = False

    def flows() -> Iterator[tuple[bytes, bytes]]:
        nonlocal read_all
        yield from reading.read_flows(session)
        read_all = True

    early = Delta()
    for delta in ledger.differences(flows(), groups, meters):
        if not read_all:
            early.then(delta)
            continue
        if len(early):
            early.then(delta)
            delta, early = early, Delta()
        yield delta
    yield early


def _gathered(deltas: Iterator[Delta], size: int) -> Iterator[Delta]:
    """The same changes in pieces of about ``size``, so that bundles are well filled."""
    whole = Delta()
    for delta in deltas:
        if len(whole) and len(whole) + len(delta) > size:
            yield whole
            whole = Delta()
        whole.then(delta)
        eventlet.sleep(0)
    if len(whole):
        yield whole
