"""One collector: datagrams in, batches out."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from novanet_apps.telemetry import frames
from novanet_apps.telemetry.decode.datagrams import Malformed, decode, domain_of, version_of
from novanet_apps.telemetry.decode.results import Decoded, Record
from novanet_apps.telemetry.decode.state import Domain, State

from . import sums as flows
from .allowed import Allowed
from .fast import Fast, compiled
from .outgoing import Outgoing
from .sockets import receive

LOG = logging.getLogger(__name__)
SAVED = 30.0
"""Seconds between two times that templates are written down."""
TURN = 512
"""Datagrams of one socket before the others, and the clock, are looked at."""
CACHES = ("hits", "misses", "lost", "mask_hits", "flows", "masks")
"""What Open vSwitch tells of its datapath, each with ``dp_`` before it."""
GATHER = 0.002
"""Seconds for which datagrams gather in the kernel before some are taken again: what is taken at once costs less."""
_IN_COUNTERS = ("ifSpeed", "ifInOctets", "ifInUcastPkts", "ifInMulticastPkts", "ifInBroadcastPkts", "ifInDiscards", "ifInErrors",
                "ifOutOctets", "ifOutUcastPkts", "ifOutMulticastPkts", "ifOutBroadcastPkts", "ifOutDiscards", "ifOutErrors")  # fmt: skip


class Worker:
    """Takes datagrams from its sockets until ``stop``."""

    def __init__(
        self, number: int, sockets: Sequence[socket.socket], out: Outgoing, allowed: Allowed, state: Path | None,
        interval: float = 1.0, plain: bool = False,
    ) -> None:  # fmt: skip
        """``plain``: without the compiled part, as it is where there was no compiler."""
        self._number, self._sockets, self._out, self._allowed, self._interval = number, sockets, out, allowed, interval
        self._path = None if state is None else state / f"templates-{number}"
        self._state = State()
        self._sums = flows.Sums()
        self._fast = Fast(flows.MOST) if compiled() and not plain else None
        self._forgotten = 0
        """What ``State.forgotten`` was when the compiled part was told."""
        self._exporters: dict[str, int] = {}
        self._received: Counter[str] = Counter()
        self._malformed: Counter[str] = Counter()
        self._queue: Counter[str] = Counter()
        """Records and batches that found no room, by exporter."""
        self._dropped: dict[int, int] = {}
        """Datagrams that the kernel dropped, by socket."""
        self._kernel: Counter[str] = Counter()
        """The same, by the exporter whose datagram said so."""
        self._unclaimed = 0
        """The same, that datagrams told of which were refused."""
        self._counters: list[Record] = []
        self._caches: list[Record] = []
        self._running = True
        self._allow = False
        self._load()

    def stop(self) -> None:
        """Make ``run`` end, with what there is sent."""
        self._running = False

    def allow(self) -> None:
        """Read anew who may export, as soon as may be."""
        self._allow = True

    def run(self) -> None:
        """Collect."""
        with selectors.DefaultSelector() as selector:
            for each in self._sockets:
                selector.register(each, selectors.EVENT_READ)
            due, saved = time.monotonic() + self._interval, time.monotonic()
            while self._running:
                ready = selector.select(max(0.0, due - time.monotonic()))
                if self._allow:
                    self._allow = False
                    self._allowed.read()
                    self._forget()
                for key, _ in ready:
                    self._take_some(key.fileobj)
                if ready:
                    time.sleep(GATHER)
                now = time.monotonic()
                if now >= due:
                    self._send()
                    due = max(now, due + self._interval)
                if now - saved > SAVED:
                    self._save()
                    saved = now
        self._send()
        self._save()

    # --- datagrams -----------------------------------------------------------------------------------------------

    def _take_some(self, made: Any) -> None:
        now, number = time.time_ns() // 1_000_000, made.fileno()
        if self._fast is not None:
            most = TURN
            while (left := self._fast.receive(number, now, most)) is not None:
                self._take(left.data, left.sender, left.dropped, now)
                most = max(0, most - 1)
            return
        for _ in range(TURN):
            message = receive(made)
            if message is None:
                return
            dropped = 0
            if message.dropped:
                dropped = (message.dropped - self._dropped.get(number, 0)) & 0xFFFFFFFF
                self._dropped[number] = message.dropped
            self._take(message.data, message.sender, dropped, now)

    def _take(self, data: bytes, sender: str, dropped: int, now: int) -> None:
        self._unclaimed += dropped
        if sender not in self._allowed:
            self._received["refused"] += 1
            return
        self._received["datagrams"] += 1
        self._kernel[sender] += self._unclaimed
        self._unclaimed = 0
        try:
            found = decode(data, sender, self._state)
        except Malformed:
            self._malformed[sender] += 1
            return
        if found.problems:
            self._malformed[sender] += 1
        exporter = self._exporters.setdefault(sender, len(self._exporters))
        domain = domain_of(data, sender, found, self._state)
        self._count(found, sender, exporter, domain, now)
        if self._fast is not None:
            if self._forgotten != self._state.forgotten:
                self._forget()
            self._fast.learn(sender, exporter, version_of(data), found.domain, domain)

    def _forget(self) -> None:
        """The compiled part learns anew what there is."""
        if self._fast is not None:
            self._fast.forget()
            self._forgotten = self._state.forgotten

    def _count(self, found: Decoded, sender: str, exporter: int, domain: Domain, now: int) -> None:
        refused = self._sums.refused
        for record in found.flows:
            if "sampling_rate" in record:
                flows.sample(self._sums, exporter, record, now)
            else:
                flows.flow(self._sums, exporter, record, domain, now)
        self._queue[sender] += self._sums.refused - refused
        for record in found.counters:
            if "ifIndex" in record:
                values = {name: record[name] for name in _IN_COUNTERS if name in record}
                self._counters.append({"exporter": sender, "interface": record["ifIndex"], **values})
            if "dp_hits" in record:
                self._caches.append({"exporter": sender, **{name: record[f"dp_{name}"] for name in CACHES}})

    # --- batches -------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        rows, taken = self._sums.drain(), 0
        if self._fast is not None:
            rows, taken = np.concatenate((self._fast.drain(), rows)), self._fast.taken
        header = {
            "kind": "aggregates", "worker": self._number, "at": time.time(), "rows": len(rows),
            "exporters": {number: [address, 0] for address, number in self._exporters.items()},
            "lost": {self._exporters[sender]: lost for sender, lost in self._lost().items() if sender in self._exporters},
            "received": {**self._received, "datagrams": self._received["datagrams"] + taken},
        }  # fmt: skip
        if not self._out.put(frames.pack(header, rows.tobytes())):
            for number in rows["exporter"].tolist():
                self._queue[self._address(number)] += 1
        for kind, items in (("counters", self._counters), ("caches", self._caches)):
            if items:
                self._out.put(frames.pack({"kind": kind, "worker": self._number, "items": items}))
        self._counters, self._caches = [], []
        self._out.pump()

    def _address(self, number: int) -> str:
        return next((address for address, each in self._exporters.items() if each == number), "")

    def _lost(self) -> dict[str, dict[str, int]]:
        """What was lost of each exporter, and where: on its way, in the kernel, or here; and what could not be read."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for sender, domains in self._state.exporters.items():
            found[sender]["sequence"] = sum(domain.lost for domain in domains.values())
        for name, counts in (("kernel", self._kernel), ("queue", self._queue), ("malformed", self._malformed)):
            for sender, count in counts.items():
                found[sender][name] = count
        if self._fast is not None:
            for sender, losses in found.items():
                kernel, refused = self._fast.losses(sender)
                losses["kernel"] = losses.get("kernel", 0) + kernel
                losses["queue"] = losses.get("queue", 0) + refused
        return found

    # --- templates -----------------------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._path is not None and self._path.exists():
            try:
                self._state.load(self._path.read_bytes())
            except (OSError, ValueError) as problem:
                LOG.error("%s: %s; templates are learned anew", self._path, problem)

    def _save(self) -> None:
        if self._path is None:
            return
        fresh = self._path.with_suffix(f".{os.getpid()}")
        try:
            fresh.write_bytes(self._state.dump())
            fresh.replace(self._path)
        except OSError as problem:
            LOG.error("templates are not written down: %s", problem)
