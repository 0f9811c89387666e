"""One bridge: what is wanted of it, and the greenlet that makes it so and keeps it so.

While a switch is connected, ``_work`` does whatever is first in this order, again and again: put right what failed,
encode what was put (``_queue``), send what was encoded (``_outbox``), audit, wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import eventlet
from eventlet.event import Event
from eventlet.timeout import Timeout

from novanet_apps.compat import CONF
from pipelines.compiler import Owner
from pipelines.cookies import cookie
from pipelines.flow import Action, Rule
from pipelines.ledger import STEP, Ledger, Wanted
from pipelines.wire import VERSIONS, Delta, FlowEntry, Tracked, encode_packet_out

from . import reading
from .audit import Audit
from .comparison import differences
from .counters import Counters
from .failures import Failures
from .forgetting import Forgetting
from .outbox import ENCODED, WAITING, Outbox
from .session import Session, SessionEnded, SwitchError

LOG = logging.getLogger(__name__)

OPENFLOW = dict(zip(VERSIONS, ("1.3", "1.4", "1.5"), strict=True))
T = TypeVar("T")
START = int(time.time() * 1000)
"""Default term of a controller: a later start outranks an earlier one."""


class Bridge:
    """The bridge of one hypervisor, connected or not.

    ``tell`` is called with the hypervisor's id when something was confirmed or refused, and when the bridge came or went;
    ``recompile`` when everything that is wanted has to be put again.
    """

    def __init__(
        self, hypervisor_id: str, counters: Counters, tell: Callable[[str], None], recompile: Callable[[str], None]
    ) -> None:
        self.hypervisor_id = hypervisor_id
        self.counters = counters
        self.ledger: Ledger | None = None
        self._tell_engine, self._recompile = tell, recompile
        self._queue: dict[Owner, list[Rule] | Wanted] = {}
        self._pending: dict[Owner, int] = {}
        self._failures = Failures()
        self._complete = False
        self._synced = False
        self._generation = START
        self._session: Session | None = None
        self._worker: Any = None
        self._audit: Audit | None = None
        self._next_audit = 0.0
        self._wake = Event()
        self._problem = "not connected yet"
        self._since = time.time()

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
            self._pending[owner] = WAITING
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
        self._tell()

    def pending(self, owner: Owner) -> bool:
        """Whether the bridge has yet to confirm what the owner wants."""
        return owner in self._pending

    def unconfirmed(self) -> set[Owner] | None:
        """The owners whose wishes the bridge has yet to confirm; None while it is not known what the bridge has."""
        return set(self._pending) if self._session is not None and self._synced else None

    def error(self, owner: Owner) -> str:
        """Why the bridge does not do what the owner wants."""
        return self._failures.texts.get(owner, "")

    def counted(self, owner: Owner, timeout: float) -> list[FlowEntry] | None:
        """The owner's flows, as the switch counts now; None when it does not say in time."""
        return self.ask(lambda session: reading.read_counted(session, cookie(owner)), timeout)

    def ask(self, read: Callable[[Session], T], timeout: float) -> T | None:
        """What ``read`` reads from the switch; None when that does not say, or not in time."""
        session = self._session
        if session is None:
            return None
        try:
            with Timeout(timeout, False):
                return read(session)
        except (SwitchError, SessionEnded, ValueError) as problem:
            LOG.warning("counters of hypervisor %s cannot be read: %s", self.hypervisor_id, problem)
        return None

    def packet_out(self, frame: bytes, actions: tuple[Action, ...], in_port: int) -> bool:
        """Send a frame by these actions; False when there is no connection."""
        session = self._session
        if session is None:
            return False
        session.send(encode_packet_out(session.version, frame, actions, in_port))
        return True

    def forget_connections(self, zone: int | None, match: Tracked | None) -> bool:
        """Have conntrack forget a zone, or what matches in it; False when there is no connection to a switch that can."""
        return self._session is not None and self._forgetting.forget(zone, match)

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
            "in_flight": 0 if session is None else len(self._outbox.flights),
            "error": self._problem,
        }

    # --- the worker ----------------------------------------------------------------------------------------------

    def _begin(self, session: Session) -> None:
        self._session = session
        self._problem = ""
        self._failures.first = None
        self._forgetting = Forgetting(session, self.counters, self.hypervisor_id)
        self._outbox = Outbox(
            session, self.counters, self._failures, self._pending, rest=self._sleep, rouse=self._rouse, tell=self._tell
        )
        self._worker = eventlet.spawn(self._work, session)

    def _halt(self) -> None:
        """End the greenlets of a connection."""
        self._drop_audit()
        self._synced = False
        self._worker.kill()

    def _start_over(self) -> None:
        """The bridge speaks another version than the ledger: everything has to be encoded anew, so compiled anew."""
        LOG.warning("bridge of hypervisor %s speaks another OpenFlow now; it is compiled anew", self.hypervisor_id)
        self.ledger, self._complete = None, False
        self._failures.start_over()
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
                self._step(session)
        except SessionEnded:
            return
        except Exception:
            LOG.exception("work on the bridge of hypervisor %s", self.hypervisor_id)
            eventlet.spawn(session.datapath.abort, "internal error, see the log")

    def _step(self, session: Session) -> None:
        """Do what is most urgent, or wait."""
        idle = not self._outbox.flights
        if self._failures.first is not None:
            self._put_right(session)
        elif self._queue:
            self._encode()
        elif self._outbox.waiting:
            self._outbox.ship()
        elif self._audit is not None and self._audit.done:
            self._finish_audit(self._audit)
        elif idle and self._next_audit and time.monotonic() >= self._next_audit:
            self._next_audit = 0.0
            self._audit = Audit(session, self._ledger, self._rouse)
        else:
            self._sleep(self._next_audit if idle else 0.0)

    def _rouse(self) -> None:
        if not self._wake.ready():
            self._wake.send()

    def _sleep(self, until: float = 0.0) -> None:
        """Wait for ``_rouse``, or until that monotonic time."""
        if not self._wake.ready():
            with Timeout(max(0.0, until - time.monotonic()) if until else None, False):
                self._wake.wait()
        self._wake = Event()

    def _tell(self) -> None:
        self._tell_engine(self.hypervisor_id)

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
            self._complain(f"another controller claimed it with a newer term than {self._generation}: {refusal}")
            return False
        try:
            reading.ensure_geneve_option(session)
        except SwitchError as refusal:
            self._complain(f"it does not take NovaNet's Geneve option: {refusal}")
        return True

    def _complain(self, problem: str) -> None:
        self._problem = problem
        LOG.error("bridge of hypervisor %s: %s", self.hypervisor_id, problem)
        self._tell()

    # --- encoding ------------------------------------------------------------------------------------------------

    def _encode(self) -> None:
        """Encode some of what was put, a few milliseconds' worth, or one large owner; send what fills a bundle."""
        some: dict[Owner, list[Rule] | Wanted] = {}
        count = 0
        for owner, rules in self._queue.items():
            count += len(rules) + 1
            if some and count > STEP:
                break
            some[owner] = rules
        for owner in some:
            del self._queue[owner]
            self._pending[owner] = ENCODED
        owner, rules = next(iter(some.items()))
        if len(rules) >= STEP and not isinstance(rules, Wanted):
            self._encode_steps(owner, rules)
        else:
            self._take(self._encoded(some), list(some))
        eventlet.sleep(0)

    def _encoded(self, some: dict[Owner, list[Rule] | Wanted]) -> Delta:
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
            self._refuse(owner, text, some[owner])
        return whole

    def _encode_steps(self, owner: Owner, rules: list[Rule]) -> None:
        try:
            for delta in self._ledger.put_steps(owner, rules, cookie(owner)):
                self._take(delta, [])
                eventlet.sleep(0)
        except ValueError as error:
            self._refuse(owner, str(error), rules)
        except BaseException:  # the connection ended: the ledger has a part of it
            self._queue.setdefault(owner, rules)
            self._pending[owner] = WAITING
            raise
        self._take(Delta(), [owner])

    def _take(self, delta: Delta, owners: list[Owner]) -> None:
        if not self._synced:
            return  # the comparison that follows finds them
        if self._audit is not None:
            self._audit.touch(delta)
        self._outbox.take(delta, owners)

    # --- comparing -----------------------------------------------------------------------------------------------

    def _synchronise(self, session: Session) -> None:
        """Read the bridge, and send what is between what it has and what it is to have."""
        self._synced = False
        while self._queue:
            self._encode()
        self.counters.resyncs += 1
        began, changes = time.monotonic(), 0
        load = self._outbox.open(list(self._pending))
        for delta in differences(session, self._ledger, CONF.bundle_size):
            changes += len(delta)
            self._outbox.send(delta, load)
            if self._failures.first is not None:
                return
        self._synced = True
        self._outbox.seal(load)
        LOG.info(
            "bridge of hypervisor %s compared: %d flows wanted, %d changes sent, %.2f s", self.hypervisor_id,
            self._ledger.flows, changes, time.monotonic() - began,
        )  # fmt: skip
        self._tell()

    def _put_right(self, session: Session) -> None:
        """Something was refused: set aside who is to blame, and compare again, later each time."""
        self._drop_audit()
        self._plan_audit(0.0)
        while self._outbox.flights:
            self._sleep()
        failure, delay = self._failures.take()
        if failure.superseded:
            self._synced = False
            self._complain("another controller has taken the bridge over")
            while True:
                self._sleep()  # silent until the bridge is claimed with a new term
        for owner, text in failure.culprits(self._ledger).items():
            wanted = self._ledger.wanted(owner)
            self._ledger.put(owner, [], cookie(owner))
            self._refuse(owner, text, wanted)
        LOG.error("bridge of hypervisor %s refused changes: %s", self.hypervisor_id, failure.text)
        eventlet.sleep(delay)
        self._synchronise(session)

    def _refuse(self, owner: Owner, text: str, rules: list[Rule] | Wanted) -> None:
        """What the owner wants cannot be done."""
        self._pending.pop(owner, None)
        self._failures.set_aside(owner, text, rules)
        LOG.error("%s %s on hypervisor %s: %s", *owner, self.hypervisor_id, text)
        self._tell()

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
            self._outbox.take(drift, [])
        for owner, rules in self._failures.retry().items():
            self._queue.setdefault(owner, rules)
            self._pending[owner] = WAITING
