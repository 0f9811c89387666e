"""Group commit: what many greenlets submit at once goes to the server in one transaction.

A submission is admitted against the graph and what was admitted before it in the same batch. Nothing is decided here
for good: the server's indexes, references and the revisions that a transaction waits for have the last word, and what
they turn down is computed anew from what stands in the graph by then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any
from uuid import uuid4

import eventlet
from eventlet.event import Event
from msgspec.structs import replace

from novanet_apps.intent.feed import Feed
from novanet_apps.ovsdb.link import OvsdbError
from novanet_apps.ovsdb.session import Session
from topology.admission import Allocator, Draft, Refused, Write, admit, claims, conflict, consequences
from topology.changes import Edit
from topology.graph import Topology
from topology.model import RECORDED, Listener, Port, Router, Subnet
from topology.references import Node
from topology.schema import DURABLE, Step, claim_operations, operations, record_operations

LOG = logging.getLogger(__name__)

BATCH = 300
"""Writes of one transaction; a larger submission has one for itself."""
QUEUE_LIMIT = 100_000
"""Writes that may wait."""
ATTEMPTS = 8
"""Times that a submission is computed anew because others were faster."""
SLICE = 0.010
"""Seconds of admission after which other greenlets get their turn."""
RECORD_PAUSE = 1.0
"""Seconds until recording is tried again after it failed."""

STOPPING = "the controller is stopping"
_LOST_RACES = ("constraint violation", "referential integrity violation", "duplicate uuid")


class Submission:
    """Writes that are made all or not at all, and what became of them."""

    def __init__(self, writes: Sequence[Write], deadline: float) -> None:
        self.writes = writes
        self.deadline = deadline
        self.new_ids = [str(uuid4()) for _ in writes]
        self.steps: list[Step] | None = None
        """As sent last; None before the first time."""
        self.claims: dict[Node, int] = {}
        """What is taken something of, with its ``promises`` as they were seen."""
        self.results: list[Any] = []
        self.outcome: Event = Event()

    def finish(self) -> None:
        self.outcome.send(self.results)

    def fail(self, refused: Refused) -> None:
        self.outcome.send_exception(refused)


class _Again(Exception):
    """The transaction has to be computed anew: it was turned down as outdated, or its answer was lost."""


class Writer:
    """One greenlet that writes. ``counters`` count since the start."""

    def __init__(
        self, topology: Topology, session: Callable[[], Session], feed: Feed, timeout: float, random: Random
    ) -> None:
        self._topology = topology
        self._session = session
        self._feed = feed
        self._timeout = timeout
        self._allocator = Allocator(random)
        self._queue: deque[Submission] = deque()
        self._queued = 0
        self._facts: dict[tuple[str, str], dict[str, Any]] = {}
        """What is to be recorded, by (kind, id)."""
        self._wake: Event = Event()
        self._greenlet: Any = None
        self._stopped = False
        self.counters = dict.fromkeys(("transactions", "writes", "records", "retries", "refused", "failed"), 0)

    def start(self) -> None:
        """Begin to write."""
        self._greenlet = eventlet.spawn(self._run)

    def stop(self) -> None:
        """Write no more; what waits fails."""
        self._stopped = True
        if self._greenlet is not None:
            self._greenlet.kill()
        for submission in self._queue:
            submission.fail(Refused(503, "", STOPPING))
        self._queue.clear()

    def submit(self, writes: Sequence[Write]) -> Submission:
        """Queue writes. Raises Refused(503) when too many wait already, or the controller is stopping."""
        if self._stopped:
            raise Refused(503, "", STOPPING)
        if self._queued + len(writes) > QUEUE_LIMIT:
            raise Refused(503, "", f"{self._queued} writes are waiting to be stored; try again later")
        submission = Submission(writes, time.monotonic() + self._timeout)
        self._queue.append(submission)
        self._queued += len(writes)
        self._signal()
        return submission

    def record(self, kind: str, id: str, fields: Mapping[str, Any]) -> None:
        """Have it recorded how an object is, when there is nothing else to do. Of several words on a field the last counts."""
        self._facts.setdefault((kind, id), {}).update(fields)
        self._signal()

    def _signal(self) -> None:
        if not self._wake.ready():
            self._wake.send()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake = Event()
            while self._queue or self._facts:
                if self._queue:
                    self._write(self._take())
                else:
                    self._record()

    def _take(self) -> list[Submission]:
        batch = [self._queue.popleft()]
        size = len(batch[0].writes)
        while self._queue and size + len(self._queue[0].writes) <= BATCH:
            size += len(self._queue[0].writes)
            batch.append(self._queue.popleft())
        self._queued -= size
        return batch

    # --- one batch -----------------------------------------------------------------------------------------------

    def _write(self, batch: list[Submission]) -> None:
        failure = Refused(503, "", STOPPING)
        try:
            self._commit(batch)
        except Exception:
            LOG.exception("intent store: a batch of writes failed by a defect")
            failure = Refused(500, "", "internal error, see the controller's log")
        finally:
            for submission in batch:
                if not submission.outcome.ready():
                    submission.fail(failure)

    def _commit(self, batch: list[Submission]) -> None:
        """Write the batch; what lost a race is tried anew, the second time each submission by itself."""
        for attempt in range(ATTEMPTS):
            batch = self._admit(batch)
            if not batch:
                return
            try:
                self._send(batch)
            except _Again:
                self.counters["retries"] += 1
            except OvsdbError as problem:
                if not str(problem).startswith(_LOST_RACES):
                    return self._fail(batch, problem)
                LOG.info("intent store: %d writes are computed anew: %s", len(batch), problem)
                self.counters["retries"] += 1
                self._allocator.scatter()
                if attempt and len(batch) > 1:
                    for submission in batch:
                        self._commit([submission])
                    return
            else:
                for submission in batch:
                    submission.finish()
                return
            eventlet.sleep(0.002 * attempt)
        for submission in batch:
            write = submission.writes[0]
            self._refuse(submission, conflict(write.kind, write.id or submission.new_ids[0]))

    def _admit(self, batch: Iterable[Submission]) -> list[Submission]:
        """Those of the batch that are to be sent; the others have their outcome."""
        while self._feed.busy:
            eventlet.sleep(0.001)
        draft = Draft(self._topology)
        admitted = []
        began = time.monotonic()
        for submission in batch:
            try:
                if not self._is_made(submission):
                    self._compute(submission, draft)
            except Refused as refused:
                self._refuse(submission, refused)
                continue
            if submission.steps:
                admitted.append(submission)
            else:
                submission.finish()
            if time.monotonic() - began > SLICE:
                eventlet.sleep(0)
                began = time.monotonic()
        return admitted

    def _compute(self, submission: Submission, draft: Draft) -> None:
        """Find what the submission's writes come to, and stage that. Raises Refused, with nothing staged."""
        inner = Draft(draft) if len(submission.writes) > 1 else draft
        steps: list[Step] = []
        results = []
        claimed: dict[Node, int] = {}
        began = time.monotonic()
        for index, write in enumerate(submission.writes):
            try:
                edit = admit(inner, write, self._allocator, submission.new_ids[index])
            except Refused as refused:
                refused.index = index
                raise
            results.append(edit.value)
            for each in (*consequences(inner, edit, self._allocator), edit):
                for node in claims(inner, each):
                    if (there := self._topology.get(*node)) is not None:  # what is new nobody else knows
                        claimed.setdefault(node, there.promises)
                if step := _step(inner, each):
                    steps.append(step)
                    inner.stage(each)
            if time.monotonic() - began > SLICE:
                eventlet.sleep(0)
                began = time.monotonic()
        if inner is not draft:
            for step in steps:
                draft.stage(step.edit)
        submission.steps, submission.claims, submission.results = steps, claimed, results

    def _is_made(self, submission: Submission) -> bool:
        """Whether the submission was committed by a transaction whose answer was lost.

        A transaction is atomic, so one new object that was asked for tells for all; ids are random, and keys too where
        the client chose the id. Without one, all must be as wished. What comes with them tells nothing: others make
        the same group ``default``.
        """
        if not submission.steps:
            return False
        asked = {obj.id for obj in submission.results if obj is not None}
        made = [step.edit for step in submission.steps if step.old is None and step.edit.id in asked]
        if any(self._as_wished(edit.kind, edit.id, edit.value) for edit in made):
            made = []
        elif made or not all(self._as_wished(*step.edit) for step in submission.steps):
            return False
        submission.steps = []
        return True

    def _as_wished(self, kind: str, id: str, value: Any) -> bool:
        found = self._topology.get(kind, id)
        if found is not None and value is not None:
            value = replace(value, **{name: getattr(found, name) for name in RECORDED.get(kind, ())})
        return bool(found == value)

    def _send(self, batch: list[Submission]) -> None:
        steps = [step for submission in batch for step in submission.steps or ()]
        claimed: dict[Node, int] = {}
        for submission in batch:
            for node, seen in submission.claims.items():
                claimed[node] = min(seen, claimed.get(node, seen))
        wait = min(submission.deadline for submission in batch) - time.monotonic()
        self._transact([*claim_operations(claimed), *operations(steps), DURABLE], max(wait, 0.5))
        self.counters["transactions"] += 1
        self.counters["writes"] += len(steps)

    def _transact(self, todo: list[dict[str, Any]], timeout: float) -> None:
        sent = False

        def build(txn: Any, idl: Any) -> None:
            nonlocal sent
            if sent:
                raise _Again
            sent = True
            for operation in todo:
                txn.add_op(operation)

        self._session().transact(build, timeout)

    def _refuse(self, submission: Submission, refused: Refused) -> None:
        self.counters["refused"] += 1
        submission.fail(refused)

    def _fail(self, batch: Iterable[Submission], problem: OvsdbError) -> None:
        LOG.error("intent store: writes failed: %s", problem)
        self.counters["failed"] += 1
        unknown = f"the intent store failed ({problem}); whether this was stored is not known: read it again"
        for submission in batch:
            submission.fail(Refused(503, "", unknown))

    # --- how things are --------------------------------------------------------------------------------------------

    def _record(self) -> None:
        """Write a batch of facts that differ from those stored."""
        todo: dict[tuple[str, str], dict[str, Any]] = {}
        while self._facts and len(todo) < BATCH:
            (kind, id), fields = self._facts.popitem()
            obj = self._topology.get(kind, id)
            if obj is not None and (news := {n: value for n, value in fields.items() if getattr(obj, n) != value}):
                todo[kind, id] = news
        if not todo:
            return
        kinds = {kind for kind, _ in todo}
        facts = {kind: {id: fields for (of, id), fields in todo.items() if of == kind} for kind in kinds}
        try:
            self._transact([each for kind in kinds for each in record_operations(kind, facts[kind])], self._timeout)
        except (OvsdbError, _Again) as problem:
            LOG.warning("intent store: how %d objects are is not recorded yet: %r", len(todo), problem)
            for key, fields in todo.items():
                self._facts[key] = fields | self._facts.get(key, {})
            eventlet.spawn_after(RECORD_PAUSE, self._signal)
            eventlet.sleep(0)
            self._wait_for_submissions()
        else:
            self.counters["records"] += len(todo)

    def _wait_for_submissions(self) -> None:
        """Leave the facts for a while, but not what is submitted."""
        self._wake.wait()
        self._wake = Event()


def _step(draft: Draft, edit: Edit) -> Step | None:
    """An edit with what it was computed from; None when it changes nothing."""
    old = draft.get(edit.kind, edit.id)
    if edit.value == old:
        return None
    siblings: Iterable[str] = ()
    obj = edit.value or old
    match obj:
        case Subnet() if old is None:
            siblings = (draft.get("subnet", id).cidr for id in draft.subnets_of(obj.network_id))
        case Listener() if old is None:
            siblings = draft.listeners_of(obj.loadbalancer_id)
        case Port(router_id=str()):
            siblings = (port.id for port in draft.interfaces_of(obj.router_id or ""))
        case Router():
            siblings = (port.id for port in draft.interfaces_of(obj.id))
    return Step(edit, old, frozenset(siblings))
