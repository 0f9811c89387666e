"""The recorder's socket: collectors bring batches, the controller brings the topology and questions, and is told what happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from novanet_apps.telemetry import frames

from .answers import answer
from .caches import Caches
from .endpoints import Directory
from .engines import Engine, EngineError
from .intake import Batch, Intake
from .live import Follower
from .questions import Filter, Question
from .schema import Keep
from .storage import Storage
from .watch import Watch

LOG = logging.getLogger(__name__)
ASKED = 32
"""Questions that may be under way; more are refused."""
BEHIND = 16 << 20
"""Bytes that a controller may be behind before what is live is not sent to it."""
PERIOD = 1.0


class Recorder:
    """Everything that the process does, around one event loop."""

    def __init__(self, engine: Engine, storage: Storage, keep: Keep, directory: Path | None, watch: Watch) -> None:
        self.engine, self.storage, self.keep, self.watch = engine, storage, keep, watch
        self.intake = Intake(Directory(), storage)
        self._caches = Caches()
        self._directory = directory
        self._controllers: set[_Controller] = set()
        self._threads = ThreadPoolExecutor(2, "question")
        self._asked = 0
        self._sized = 0.0
        self._size = 0

    async def serve(self, path: Path, ended: asyncio.Event) -> None:
        """Serve the socket until ``ended``. Raises OSError when it cannot be had."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        server = await asyncio.start_unix_server(self._connected, str(path), limit=1 << 20)
        path.chmod(0o600)
        beat = asyncio.create_task(self._beat())
        LOG.info("recorder serves %s", path)
        try:
            await ended.wait()
        finally:
            beat.cancel()
            server.close()
            self._threads.shutdown(wait=False, cancel_futures=True)
            await asyncio.get_running_loop().run_in_executor(None, self.storage.close)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        controller = _Controller(writer)
        try:
            while True:
                header, body = frames.lengths(await reader.readexactly(frames.LENGTHS.size))
                news = frames.unpack(await reader.readexactly(header))
                self._take(news, await reader.readexactly(body), controller)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except (frames.FrameError, ValueError, TypeError, KeyError, msgspec.ValidationError) as problem:
            LOG.error("a connection is closed: %s", problem)
        except Exception:
            LOG.exception("a connection failed")
        finally:
            self._controllers.discard(controller)
            writer.close()

    def _take(self, news: Mapping[str, Any], body: bytes, controller: _Controller) -> None:
        match news.get("kind"):
            case "aggregates":
                batch = self.intake.aggregates(news, body)
                if batch is not None:
                    self._tell_followers(batch)
                    self.watch.take(batch)
            case "counters":
                self.intake.counters(news)
            case "caches":
                self._caches.take(news.get("items", ()), time.time())
            case "hello":
                self._controllers.add(controller)
            case "topology":
                self.intake.directory.take(news)
            case "ask":
                self._ask(news, controller)
            case "follow":
                controller.followers[int(news["id"])] = Follower(msgspec.convert(news["filter"], Filter))
            case "unfollow":
                controller.followers.pop(int(news["id"]), None)
            case kind:
                self.intake.counts[f"other_{kind}"] += len(news.get("items", ()))

    # --- questions -----------------------------------------------------------------------------------------------

    def _ask(self, news: Mapping[str, Any], controller: _Controller) -> None:
        id = int(news["id"])
        if self._asked >= ASKED:
            controller.send({"kind": "answer", "id": id, "status": 503, "error": "too many questions are under way"})
            return
        question: Question = msgspec.convert(news["question"], Question)
        self._asked += 1
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, answer, self.engine, question, self.keep)
        work.add_done_callback(lambda done: self._answered(id, done, controller))

    def _answered(self, id: int, done: asyncio.Future[list[dict[str, Any]]], controller: _Controller) -> None:
        self._asked -= 1
        if done.cancelled():
            return
        problem = done.exception()
        if problem is None:
            controller.send({"kind": "answer", "id": id, "rows": done.result()})
            return
        LOG.error("a question failed: %s", problem, exc_info=None if isinstance(problem, EngineError) else problem)
        late = "TIMEOUT_EXCEEDED" in str(problem) or "MEMORY_LIMIT" in str(problem)
        text = (
            "it takes too long; ask for a shorter time"
            if late
            else "telemetry cannot be read; the recorder's log says why"
        )
        controller.send({"kind": "answer", "id": id, "status": 503, "error": text})

    # --- what happens --------------------------------------------------------------------------------------------

    def _tell_followers(self, batch: Batch) -> None:
        for controller in self._controllers:
            for id, follower in controller.followers.items():
                if controller.behind() > BEHIND:
                    continue
                records, skipped = follower.pick(batch.rows, batch.enriched, batch.index, batch.exporters)
                if records:
                    controller.send(
                        {"kind": "live", "id": id, "at": time.time(), "records": records, "skipped": skipped}
                    )

    async def _beat(self) -> None:
        """Once a second: look for anomalies, and tell controllers how things are."""
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = max(due + PERIOD, loop.time())
            try:
                events = self.watch.look(self.intake.index)
                for event in events:
                    self.storage.put("anomalies", event.columns())
                    LOG.warning("%s", event.text, extra={"anomaly": event.kind, "subject": event.subject})
                self._tell([{"kind": "event", "event": event.told()} for event in events] + [self._status()])
            except Exception:
                LOG.exception("a second of telemetry was not looked at")

    def _tell(self, news: list[dict[str, Any]]) -> None:
        for controller in self._controllers:
            for each in news:
                controller.send(each)

    def _status(self) -> dict[str, Any]:
        counts, lost = self.storage.counts, self.intake.lost()
        exporters = {
            address: {
                "hypervisor_id": exporter.hypervisor, "rows": exporter.rows, "samples": exporter.samples,
                "packets": exporter.packets, "bytes": exporter.bytes, "last": exporter.last, "lost": lost[address],
            }
            for address, exporter in self.intake.exporters.items()
        }  # fmt: skip
        return {
            "kind": "status", "at": time.time(), "rows": self.intake.counts["rows"], "unknown": self.intake.counts["unknown"],
            "stored": counts.stored, "lost": counts.lost, "batches": counts.batches, "failures": counts.failures,
            "waiting": self.storage.waiting, "alarm": counts.alarm, "since": counts.since, "size": self._disk(),
            "caches": self._caches.told({address: each.hypervisor for address, each in self.intake.exporters.items()}),
            "exporters": exporters, "anomalies": dict(self.watch.fired), "endpoints": len(self.intake.directory.endpoints),
        }  # fmt: skip

    def _disk(self) -> int:
        """Bytes of the tables, looked at every minute."""
        if self._directory is not None and time.monotonic() - self._sized > 60:
            self._sized = time.monotonic()
            self._size = _size(self._directory)
        return self._size


class _Controller:
    """The other end of a connection that asks and follows."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.followers: dict[int, Follower] = {}
        self._writer = writer

    def send(self, news: dict[str, Any]) -> None:
        """Send a frame; a controller that does not read for long is given up."""
        if self.behind() > 4 * BEHIND:
            self._writer.transport.abort()
        elif not self._writer.is_closing():
            self._writer.write(frames.pack(news))

    def behind(self) -> int:
        """Bytes not yet taken."""
        return int(self._writer.transport.get_write_buffer_size())


def _size(directory: Path) -> int:
    """Bytes of all files below a directory, which come and go meanwhile."""
    total = 0
    waiting = [os.fspath(directory)]
    while waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total
