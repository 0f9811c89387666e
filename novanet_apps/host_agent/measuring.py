"""Answers questions about classes: what a port's is, and what passes by it in some seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import eventlet

from novanet_apps.host_agent.traffic_control import Found, ShapingError
from novanet_apps.ovsdb.link import OvsdbError
from novanet_apps.ovsdb.session import Session
from topology.model import Answer, Hypervisor, Question
from topology.schema import record_operations

LOG = logging.getLogger(__name__)

LONGEST = 60_000
"""Milliseconds."""

Look = Callable[[str, str], tuple[str, int, Found]]
"""Interface, number, and what there is, of a port's class of what it sends or gets. Raises ShapingError."""


class Measuring:
    """What is asked together is looked at together; ``look`` finds a port's class."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._under_way: tuple[Question, ...] = ()

    def see(self, hypervisor: Hypervisor, session: Session) -> None:
        """Begin to answer what was not answered yet."""
        answered = {answer.number for answer in hypervisor.answer}
        asked = hypervisor.question
        if asked != self._under_way and not {question.number for question in asked} <= answered:
            self._under_way = asked
            eventlet.spawn(self._answer, asked, hypervisor.id, session)

    def _answer(self, questions: tuple[Question, ...], hypervisor_id: str, session: Session) -> None:
        answers = tuple(eventlet.GreenPool().imap(self._say, questions))
        operations = record_operations("hypervisor", {hypervisor_id: {"answer": answers}})

        def build(txn: Any, idl: Any) -> None:
            for operation in operations:
                txn.add_op(operation)

        try:
            session.transact(build)
        except OvsdbError as problem:
            LOG.warning("a question about port %s is not answered: %s", questions[0].port_id, problem)

    def _say(self, question: Question) -> Answer:
        try:
            return self._measure(question)
        except ShapingError as problem:
            return Answer(number=question.number, error=str(problem))

    def _measure(self, question: Question) -> Answer:
        _, number, found = self._look(question.port_id, question.direction)
        before, began = found.counts[number], time.monotonic()
        eventlet.sleep(min(question.milliseconds, LONGEST) / 1000)
        interface, again, found = self._look(question.port_id, question.direction)
        took = time.monotonic() - began
        if again != number:
            raise ShapingError("its class has changed meanwhile: ask again")
        after, options, queue = found.counts[number], found.classes[number], found.queues.get(number)
        return Answer(
            number=question.number,
            interface=interface,
            rate_kbps=options["rate"] // 125,
            ceil_kbps=options["ceil"] // 125,
            order=options["prio"],
            queue_bytes=0 if queue is None else queue.limit,
            milliseconds=round(took * 1000),
            bytes=after.bytes - before.bytes,
            packets=after.packets - before.packets,
            dropped_packets=after.dropped - before.dropped,
            backlog_bytes=after.backlog,
        )
