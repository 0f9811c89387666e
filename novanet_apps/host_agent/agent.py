"""The agent: the store's wishes to checks, results to the store, and a port on the bridge while there is anybody to check."""

from __future__ import annotations

import logging
from typing import Any

import eventlet
from eventlet.event import Event

from novanet_apps.host_agent import metrics
from novanet_apps.host_agent.bridge import LocalBridge
from novanet_apps.host_agent.captures import Captures
from novanet_apps.host_agent.connections import Connections
from novanet_apps.host_agent.conntrack import Source, Userspace, control_socket, source
from novanet_apps.host_agent.datapath import lookups
from novanet_apps.host_agent.intent import Intent, Wanted
from novanet_apps.host_agent.judge import Health
from novanet_apps.host_agent.namespace import NamespaceError
from novanet_apps.host_agent.reports import Reports
from novanet_apps.host_agent.settings import store
from novanet_apps.host_agent.shaping import Shaping
from novanet_apps.host_agent.targets import Target
from novanet_apps.host_agent.thread import CheckingThread
from novanet_apps.ovsdb.link import OvsdbError

LOG = logging.getLogger(__name__)

AGAIN = 2.0
"""Seconds until something that failed is tried again."""


class Agent:
    """Everything of one hypervisor's agent. ``conf`` are its options."""

    def __init__(self, conf: Any) -> None:
        self._conf = conf
        self._targets: dict[str, Target] = {}
        self._look: Event = Event()
        self._fresh = False
        """Whether the port that is there was made by this process."""
        self._trouble = ""
        self._local = LocalBridge(conf.agent_ovsdb, self._wake)
        self._thread = CheckingThread(self._result, conf.agent_checks_at_once)
        self._intent: Intent | None = None
        self._reports: Reports | None = None
        control = control_socket(conf.agent_ovsdb, conf.agent_vswitchd)
        self._userspace = Userspace(control)
        self._shaping = Shaping(lambda: self._intent, self._local, control)
        self._connections = Connections(lambda: self._intent, self._conntrack)
        self._captures = Captures(conf, lambda: self._intent)

    def start(self) -> None:
        """Begin. Raises NamespaceError, and OSError where the metrics' address cannot be used."""
        if self._conf.agent_metrics_listen:
            listener = metrics.listen(self._conf.agent_metrics_listen)
            eventlet.spawn(metrics.serve, listener, self._samples, lambda: self.trouble)
        self._thread.start()
        self._local.start()
        eventlet.spawn(self._follow_store)
        eventlet.spawn(self._keep_port)
        self._connections.start()
        self._shaping.start()
        self._captures.start()

    def stop(self) -> None:
        """End, and take away what was made."""
        try:
            if self._local.session.connected:
                self._local.unplug()
            self._captures.stop()
        except OvsdbError as problem:
            LOG.warning("the agent's ports are left behind: %s", problem)
        self._thread.stop()
        if self._intent is not None:
            self._intent.stop()
        self._local.stop()

    @property
    def trouble(self) -> str:
        """Why something is not done here as it should be; empty when all is."""
        if not self._local.session.connected:
            return f"this hypervisor's OVSDB: {self._local.session.error or 'connecting'}"
        if self._intent is None:
            return "who this hypervisor is, is not known: set external_ids:system-id in its OVSDB, or agent_hypervisor"
        if not self._intent.session.connected:
            return f"intent store: {self._intent.session.error or 'connecting'}"
        if self._intent.hypervisor_id is None:
            return f"the intent store has no hypervisor {self._name}: create it, or set agent_hypervisor"
        return self._trouble or self._connections.trouble or self._shaping.trouble or self._captures.trouble

    # --- the store ---------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return str(self._conf.agent_hypervisor or self._local.system_id)

    def _follow_store(self) -> None:
        while not self._name:
            eventlet.sleep(0.05)
        LOG.info("this is hypervisor %s", self._name)
        self._intent = Intent(store(self._conf), self._name, self._changed, self._shaping.wake, self._captures.wake)
        self._reports = Reports(self._intent.session)
        self._reports.start()
        self._intent.start()

    def _changed(self, wanted: dict[str, Wanted]) -> None:
        changes: dict[str, tuple[Target, Health] | None] = {}
        for id, each in wanted.items():
            if each.target is not None:
                self._say_again(id, each.health)
                if self._targets.get(id) != each.target:
                    self._targets[id], changes[id] = each.target, (each.target, each.health)
                continue
            if self._targets.pop(id, None) is not None:
                changes[id] = None
            self._let_go(id, each)
        if changes:
            self._thread.change(changes)
        self._wake()

    def _say_again(self, member_id: str, health: Health) -> None:
        if self._reports is not None:
            self._reports.seen(member_id, health)

    def _let_go(self, member_id: str, wanted: Wanted) -> None:
        """A member that is not checked here. One whose VM is here is checked by nobody: then nothing is known of it."""
        if self._reports is None:
            return
        self._reports.forget(member_id)
        if wanted.here and wanted.health != "unknown":
            self._reports.say(member_id, "unknown", "")

    def _result(self, member_id: str, health: Health, why: str) -> None:
        if member_id in self._targets and self._reports is not None:
            LOG.info("member %s is %s%s", member_id, health, f": {why}" if why else "")
            self._reports.say(member_id, health, why)

    # --- the port ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._look.ready():
            self._look.send()

    def _keep_port(self) -> None:
        """See to it that the port is there while there is anybody to check, and otherwise not."""
        while True:
            with eventlet.Timeout(AGAIN, False):
                self._look.wait()
            self._look = Event()
            try:
                self._see_to_port()
                self._trouble = ""
            except (OvsdbError, NamespaceError) as problem:
                if str(problem) != self._trouble:
                    LOG.error("the agent's port: %s", problem)
                self._trouble = str(problem)
                eventlet.sleep(AGAIN)

    def _see_to_port(self) -> None:
        if self._intent is None or not self._local.session.connected or not self._intent.session.synced:
            return
        if not self._targets:
            if self._intent.session.connected:
                self._local.unplug()
                if self._fresh:
                    self._thread.disconnect()
                self._fresh = False
            return
        bridge = self._intent.bridge
        if not self._local.has(bridge):
            raise OvsdbError(f"bridge {bridge} is missing: NovaNet's controller makes it")
        broken = self._local.broken
        if self._fresh and not broken and self._local.is_plugged(bridge):
            return
        if broken:
            LOG.warning("the agent's port: %s; making it anew", broken)
        self._local.unplug()
        self._thread.connect()
        self._local.plug(bridge)
        self._fresh = True

    # --- connections -------------------------------------------------------------------------------------------------

    def _conntrack(self) -> Source:
        bridge = self._intent.bridge if self._intent is not None else ""
        return source(self._local.datapath_type(bridge), self._userspace)

    # --- metrics -----------------------------------------------------------------------------------------------------

    def _samples(self) -> metrics.Samples:
        state = self._thread.state()
        connected = self._intent is not None and self._intent.session.connected
        return {
            "novanet_agent_checks_total": [
                ({"type": type, "result": result}, count) for (type, result), count in sorted(state["checks"].items())
            ],
            "novanet_agent_members": [
                ({"health": health}, state["healths"].get(health, 0)) for health in ("unknown", "up", "down")
            ],
            "novanet_agent_reports_total": [({}, self._reports.written if self._reports is not None else 0)],
            "novanet_agent_path_up": [({}, state["path_good"])],
            "novanet_agent_store_connected": [({}, connected)],
            "novanet_agent_late_seconds": [({}, state["lag"])],
            "novanet_agent_connections": [({}, self._connections.live)],
            "novanet_agent_connection_counts_total": [({}, self._connections.counts)],
            "novanet_agent_connection_count_seconds": [({}, self._connections.cost)],
            "novanet_agent_loads_written_total": [({}, self._connections.written)],
            "novanet_agent_datapath_lookups_total": [({"cache": cache}, count) for cache, count in self._lookups()],
            "novanet_agent_captures": [({}, self._captures.running)],
            "novanet_agent_captures_ended_total": [({}, self._captures.ended)],
            **self._shaping.samples(),
        }

    def _lookups(self) -> list[tuple[str, int]]:
        bridge = self._intent.bridge if self._intent is not None else ""
        return sorted(lookups(self._userspace, self._local.datapath_type(bridge)).items())
