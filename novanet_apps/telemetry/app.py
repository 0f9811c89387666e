"""The app of telemetry: its processes, what they are told of the topology, and whom their answers go to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from novanet_apps.base import NovaNetApp
from novanet_apps.compat import CONF
from topology.changes import Change

from .feed import Feed, addresses
from .link import Link
from .settings import Settings
from .supervisor import Child

if TYPE_CHECKING:
    from novanet_apps.core import Core

LOG = logging.getLogger(__name__)


class Processes:
    """What other parts know as ``core.telemetry``."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self.core, self.settings = core, settings
        self._told: list[Callable[[Mapping[str, Any]], None]] = []
        self.fired: Counter[str] = Counter()
        self.directory = settings.state_dir
        self._allowed = self.directory / "exporters"
        self._socket = self.directory / "recorder.sock"
        self.link = Link(self._socket, self._connected, self._event)
        self.feed = Feed(core, self.link)
        self.recorder = Child(
            "recorder", "novanet_apps.telemetry.recorder", self._for_recorder, self.directory / "recorder.log"
        )
        self.collectors = [self._collector(number) for number in range(settings.workers)]
        core.subscribe(self._changed)

    def _collector(self, number: int) -> Child:
        log = self.directory / f"collector-{number}.log"
        module = "novanet_apps.telemetry.collector"
        return Child(f"collector {number}", module, lambda: self._for_collector(number), log)

    @property
    def children(self) -> list[Child]:
        """Every process."""
        return [self.recorder, *self.collectors]

    def start(self) -> None:
        """Start everything; nothing where there is nowhere to listen."""
        if not self.settings.listen:
            LOG.info("telemetry is off: telemetry_listen is empty")
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        self._allow()
        self.link.start()
        self.feed.start()
        for child in self.children:
            child.start()
        LOG.info("telemetry: %d collectors at %s", len(self.collectors), ", ".join(self.settings.listen))

    @property
    def on(self) -> bool:
        """Whether there is telemetry."""
        return bool(self.settings.listen)

    def stop(self) -> None:
        """End everything: collectors first, so that what they have is stored."""
        for child in reversed(self.children):
            child.stop()
        self.link.stop()

    def on_anomaly(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """Call ``tell`` with every anomaly (``recorder.watch.Event`` as a map), in the link's greenlet; it must not block."""
        self._told.append(tell)

    def problems(self) -> list[str]:
        """What an operator should know, for /v1/status; empty when all is well."""
        found = [f"telemetry: {child.name} does not run: {child.error}" for child in self.children if child.error]
        alarm = self.link.status.get("alarm")
        return [*found, f"telemetry is not stored: {alarm}"] if alarm else found

    def _for_recorder(self) -> list[str]:
        settings = self.settings
        where = ["--database", str(self.directory / "database")]
        if settings.clickhouse:
            where = ["--clickhouse", settings.clickhouse]
            where += ["--clickhouse-ca", settings.clickhouse_ca] if settings.clickhouse_ca else []
        keep = ["--keep", *map(str, settings.keep)]
        forest = ["--forest"] if settings.forest else []
        return ["--socket", str(self._socket), *where, *keep, "--spare", str(settings.spare), *forest]

    def _for_collector(self, number: int) -> list[str]:
        listen = [word for address in self.settings.listen for word in ("--listen", address)]
        state = self.directory / "collectors"
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return [
            *listen, "--namespace", self.settings.namespace, "--worker", str(number), "--recorder", str(self._socket), "--state", str(state),
            "--allow", str(self._allowed),
        ]  # fmt: skip

    # --- what happens --------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self.feed.everything()

    def _event(self, event: Mapping[str, Any]) -> None:
        self.fired[str(event.get("kind"))] += 1
        LOG.warning(
            "anomaly: %s", event.get("text"), extra={"anomaly": event.get("kind"), "subject": event.get("subject")}
        )

        for tell in self._told:
            tell(event)

    def _changed(self, changes: list[Change]) -> None:
        if any(change.kind == "hypervisor" for change in changes):
            self._allow()

    def _allow(self) -> None:
        """Tell collectors who may export."""
        known = [each for obj in self.core.topology.all("hypervisor").values() for each in addresses(obj)]
        text = "".join(f"{each}\n" for each in dict.fromkeys([*self.settings.exporters, *known]))
        if not self.directory.is_dir() or (self._allowed.exists() and self._allowed.read_text() == text):
            return
        _replace(self._allowed, text)
        for child in self.collectors:
            child.hang_up()


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


class Telemetry(NovaNetApp):
    """Collects flows that hypervisors export, stores them, and answers what is asked about them."""

    __module__ = "novanet_apps.telemetry"  # where Ryu looks for it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        import novanet_apps.options  # noqa: F401  registers them

        self.processes = Processes(self.core, Settings.from_options(CONF))
        self.core.telemetry = self.processes

    def start(self) -> Any:
        """Called by Ryu when every app is there."""
        thread = super().start()
        self.processes.start()
        return thread

    def close(self) -> None:
        """Called by Ryu when it ends."""
        self.processes.stop()
