"""Parts of the engine and of the connections that need no switch: log lines, endpoints, who is to blame."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable

import pytest

import novanet_apps.options  # noqa: F401  registers what the engine reads
from novanet_apps.compat import ConfigurationError
from novanet_apps.compat.logs import JsonFormatter, KeyValueFormatter, Throttle, redact
from novanet_apps.compat.openflow import parse_endpoint
from novanet_apps.flow_engine.counters import Counters
from novanet_apps.flow_engine.failures import Failures
from novanet_apps.flow_engine.flights import Flight, Load
from novanet_apps.flow_engine.outbox import ENCODED, WAITING, Outbox
from pipelines.claims import Owner
from pipelines.cookies import cookie
from pipelines.flow import Flow
from pipelines.ledger import Ledger
from pipelines.wire import Batch, Error, Reply, Subject
from pipelines.wire.replies import BundleReply
from pipelines.wire.requests import Bundle


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "test", "levelno": 30, "levelname": "WARNING", "msg": message, "args": args})
    vars(made).update(extra)
    return made


def test_json_line() -> None:
    line = JsonFormatter().format(record("port %s\nis bad", "p1", hypervisor="hv1", count=3))
    found = json.loads(line)
    assert "\n" not in line
    assert (found["message"], found["level"], found["hypervisor"], found["count"]) == (
        "port p1\nis bad",
        "warning",
        "hv1",
        3,
    )


def test_keyvalue_line_stays_one_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = KeyValueFormatter().format(record('say "no"\nforged level=error', exc_info=sys.exc_info()))
    assert len(line.splitlines()) == 1
    assert r'message="say \"no\"\nforged level=error"' in line
    assert "Traceback" in line


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef123456",
        "token=abcdef123456",
        'password: "abcdef123456"',
        "-----BEGIN EC PRIVATE KEY-----\nabcdef123456\n-----END EC PRIVATE KEY-----",
    ],
)
def test_secrets_are_not_logged(text: str) -> None:
    assert "abcdef123456" not in redact(f"before {text} after")
    assert redact("port 5 of network blue has no token") == "port 5 of network blue has no token"


def test_throttle_counts_what_it_holds_back(caplog: pytest.LogCaptureFixture) -> None:
    throttle = Throttle(logging.getLogger("throttled"), burst=3, period=0.0)
    throttle.warning("one")
    throttle = Throttle(logging.getLogger("throttled"), burst=3, period=3600)
    for number in range(10):
        throttle.warning("refused %d", number)
    assert caplog.messages == ["one", "refused 0", "refused 1", "refused 2"]
    throttle._until = 0.0
    throttle.warning("refused %d", 10)
    assert caplog.messages[-1] == "refused 10 (and 7 more lines like it were held back)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ptcp:6653", "ptcp:6653:127.0.0.1"),
        ("ptcp:6653:127.0.0.9", "ptcp:6653:127.0.0.9"),
        ("ptcp:6653:[::1]", "ptcp:6653:[::1]"),
        ("pssl:6653:0.0.0.0", "pssl:6653:0.0.0.0"),
        ("punix:/run/x", "punix:/run/x"),
    ],
)
def test_endpoints(text: str, shown: str) -> None:
    assert str(parse_endpoint(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp:1.2.3.4:6653",
        "ptcp:x",
        "ptcp:70000",
        "ptcp:6653:localhost",
        "punix:",
        "ptcp:6653:0.0.0.0",
        "ptcp:1:[::]",
    ],
)
def test_endpoints_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_endpoint(text)


# --- who is to blame ---------------------------------------------------------------------------------------------

TIMEOUT = Error(17, 16, 0, "OFPBFC_TIMEOUT", "the bundle was not completed in time", b"")


def refused(changes: int, xid: int) -> Flight:
    """A batch of so many changes that the switch refused with an error about message ``xid``."""
    subjects = {n: Subject("flow", bytes([n])) for n in range(1, changes + 1)}
    flight = Flight(Batch(b"", 1000, 1001, subjects), Load(1, []))
    flight.errors.append((xid, TIMEOUT))
    return flight


def test_the_change_that_is_named_is_blamed() -> None:
    failures = Failures()
    failures.note(refused(10, 7))
    failure, delay = failures.take()
    assert [subject.id for subject, _ in failure.blamed] == [b"\7"]
    assert delay == 0.0
    assert failures.bundle_size(5000) == 5000


def test_bundles_shrink_until_someone_can_be_blamed() -> None:
    failures = Failures()
    sizes, delays = [], []
    while (size := failures.bundle_size(5000)) > 1:
        failures.note(refused(2, 1001))
        delays.append(failures.take()[1])
        sizes.append(size)
    assert sizes == [5000, 625, 78, 9]
    assert delays == sorted(delays)
    assert delays[0] > 0
    failures.note(refused(1, 1001))
    assert [subject.id for subject, _ in failures.take()[0].blamed] == [b"\1"]
    failures.settled()
    assert failures.bundle_size(5000) == 5000


def test_only_the_first_failure_counts() -> None:
    """Those after it may be its consequences."""
    failures = Failures()
    failures.note(refused(3, 1))
    failures.note(refused(3, 2))
    assert [subject.id for subject, _ in failures.take()[0].blamed] == [b"\1"]
    assert failures.first is None


# --- what is on its way ------------------------------------------------------------------------------------------


class Wire:
    """Stands for the session of a switch that answers when it is told to."""

    version = 5

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.on_batch_reply: Callable[[int, Reply], bool] = lambda xid, reply: False

    def send(self, data: bytes) -> None:
        self.sent.append(data)


def test_an_owner_put_again_while_its_load_is_on_its_way_is_confirmed_once() -> None:
    """With nothing new to send it waits for the load that has its wants already, together with itself."""
    owner, ledger, wire, told = ("port", "1"), Ledger(5), Wire(), []
    pending: dict[Owner, int] = {}
    outbox = Outbox(
        wire, Counters(), Failures(), pending, rest=lambda: None, rouse=lambda: None, tell=lambda: told.append(dict(pending))
    )  # fmt: skip
    for _ in range(3):
        pending[owner] = WAITING
        pending[owner] = ENCODED
        outbox.take(ledger.put(owner, [Flow(5, 1, b"")], cookie(owner)), [owner])
        outbox.ship()
    assert len(wire.sent) == 1
    assert owner in pending
    last = int.from_bytes(wire.sent[0][-12:-8], "big")
    assert wire.on_batch_reply(last, BundleReply(1, Bundle.COMMIT + 1, 3))
    assert told == [{}]
    assert not outbox.flights
