"""Real DHCP clients in a host: dhclient (ISC), udhcpc (BusyBox) and dhcpcd, each with its distribution's own script.

A wrapper around that script writes down what the client calls it with; that is how one knows what it was given.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.lab import processes
from tools.lab.errors import LabError

if TYPE_CHECKING:
    from tools.lab.vm import Host

GIVEN = {
    "dhclient": ("BOUND", "RENEW", "REBIND", "REBOOT", "BOUND6", "RENEW6", "REBIND6"),
    "udhcpc": ("bound", "renew"),
    "dhcpcd": ("BOUND", "RENEW", "REBIND", "REBOOT", "BOUND6", "RENEW6", "REBIND6", "INFORM6", "ROUTERADVERT"),
}
"""The events by which clients tell that they were given something."""
RENEW = {"udhcpc": signal.SIGUSR1, "dhcpcd": signal.SIGHUP}
"""How running clients are told to ask again."""
RELEASE = {"udhcpc": (signal.SIGUSR2, "deconfig"), "dhcpcd": (signal.SIGALRM, "STOPPED")}
"""How running clients are told to give their addresses back, and what they say when they have."""
DHCPCD_WAITS = {4: (("BOUND", "REBOOT"),), 6: (("BOUND6", "INFORM6"),), None: (("BOUND", "REBOOT"), ("BOUND6", "INFORM6"))}  # fmt: skip
DHCPCD_CONFIGURATION = """duid
persistent
nodev
ipv6rs
slaac hwaddr
option domain_name_servers, domain_name, domain_search, classless_static_routes, interface_mtu, host_name
require dhcp_server_identifier
"""
DHCLIENT_CONFIGURATION = """option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search, host-name,
  interface-mtu, rfc3442-classless-static-routes, ntp-servers, dhcp6.name-servers, dhcp6.domain-search;
timeout 30;
retry 2;
initial-interval 1;
backoff-cutoff 2;
select-timeout 0;
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_GIVEN = {"PATH", "PWD", "OLDPWD", "SHLVL", "HOME", "_", "pid", "event", processes.MARK}
_WRAPPER = """#!/bin/sh
{script} "$@"
status=$?
{{ env -0; printf 'event=%s\\0' "${{reason:-$1}}"; }} > {events}/.new.$$
mv {events}/.new.$$ {events}/$(date +%s%N)
exit $status
"""


class Lease(dict[str, str]):
    """What a client was given: the variables of its script, as it names them, without ``new_`` in front.

    ``ip_address``, ``routers``, ``interface_mtu`` … (dhclient, dhcpcd), ``ip6_address``, ``dhcp6_name_servers`` (dhclient),
    ``nd1_prefix_information1_prefix`` (dhcpcd), ``ip``, ``router``, ``mtu`` … (udhcpc). The client goes on running, and
    renews; ``events`` grows, and ``wait`` brings these values up to date.
    """

    def __init__(self, host: Host, client: str, argv: Sequence[str], script: str, version: int | None = None) -> None:
        super().__init__()
        self.host, self.client, self.version = host, client, version
        self.log = host.directory / f"{client}{version or ''}.log"
        """What the client said."""
        self._argv = argv
        self._record = host.directory / f"{client}{version or ''}"
        self._record.mkdir(parents=True, exist_ok=True)
        events = self._record / "events"
        events.mkdir(exist_ok=True)
        for old in events.iterdir():
            old.unlink()
        wrapper = self._record / "script"
        wrapper.write_text(_WRAPPER.format(script=script, events=events))
        wrapper.chmod(0o755)
        self._process = self._run()

    @property
    def events(self) -> list[tuple[str, dict[str, str]]]:
        """Every call of the client's script so far, with its variables: ``("BOUND", {"ip_address": …})``."""
        found = []
        for path in sorted((self._record / "events").glob("[0-9]*")):
            pairs = (item.partition("=") for item in path.read_text(errors="replace").split("\0") if item)
            variables = {name: value for name, _, value in pairs}
            found.append((variables["event"], _given_by(variables)))
        return found

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, *wanted: str, since: int = 0, timeout: float = 30.0) -> Lease:
        """Wait until one of these events is among those from number ``since`` on, and take over what was given.

        ``since=len(lease.events)`` waits for a new one. Raises LabError with the client's words when it ends before
        or the time is over.
        """

        def come() -> bool:
            ended = not self.running  # first: what it did before it ended is seen then
            if any(event in wanted for event, _ in self.events[since:]):
                return True
            if ended:
                raise LabError(f"it ended ({self._process.returncode})")
            return False

        try:
            processes.until(come, " or ".join(wanted), timeout, interval=0.02)
        except LabError as error:
            said = self.log.read_text(errors="replace")[-2000:]
            names = ", ".join(event for event, _ in self.events) or "none"
            raise LabError(f"{self.client} in {self.host.name}: {error}; events: {names}\n{said}") from None
        for event, variables in self.events:
            if event in GIVEN[self.client]:
                self.update(variables)
        return self

    def renew(self, timeout: float = 30.0) -> Lease:
        """Have the client ask again, as far as it can be told to: dhclient is started anew and asks for what it had."""
        since = len(self.events)
        if self.client in RENEW:
            self.signal(RENEW[self.client])
        else:
            self.stop()
            self._process = self._run()
        answers = [event for event in GIVEN[self.client] if event != "ROUTERADVERT"]
        return self.wait(*answers, since=since, timeout=timeout)

    def release(self) -> None:
        """Have the client give its addresses back; it ends."""
        if self.client in RELEASE:
            number, event = RELEASE[self.client]
            since = len(self.events)
            self._signal_until(number, lambda: any(name == event for name, _ in self.events[since:]))
            self.wait(event, since=since)
            self.stop()
        else:
            self.stop()
            self.host.exec([self._argv[0], "-r", *self._argv[1:]], private=True)

    def _signal_until(self, number: signal.Signals, done: Callable[[], bool]) -> None:
        """Send a signal again when nothing follows: dhcpcd can miss one that comes while it is at another."""
        for _ in range(3):
            self.signal(number)
            with suppress(LabError):
                processes.until(lambda: not self.running or done(), "an answer to the signal", 8.0, interval=0.02)
                return

    def signal(self, number: signal.Signals) -> None:
        """Send the client a signal."""
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), number)

    def stop(self) -> None:
        """Kill it: it gives nothing back, and the host keeps what it has."""
        if self.running:
            self.signal(signal.SIGKILL)  # to the client; what it runs in ends when all of it is gone
        processes.end(self._process, signal.SIGKILL)

    def _run(self) -> subprocess.Popen[Any]:
        with self.log.open("ab") as log:
            clean = ["env", "-i", f"PATH={PATH}", f"{processes.MARK}={self.host.lab}", *self._argv]
            return self.host.popen(clean, private=True, stdout=log, stderr=subprocess.STDOUT)


def dhclient(host: Host, version: int, options: Iterable[str], timeout: float) -> Lease:
    """``dhclient -4`` or ``-6``."""
    if version == 6:
        host.wait_link_local()  # from which it asks; it ends when there is none
    configuration = _written(host, "dhclient.conf", DHCLIENT_CONFIGURATION)
    argv = ["dhclient", f"-{version}", "-d", "-v", "--no-pid", "-cf", configuration, "-lf", f"/var/lib/dhcp/{version}.leases"]  # fmt: skip
    argv += ["-sf", str(host.directory / f"dhclient{version}" / "script"), *options, host.interface_name]
    return _given(lambda: Lease(host, "dhclient", argv, "/sbin/dhclient-script", version), timeout)


def udhcpc(host: Host, options: Iterable[str], timeout: float) -> Lease:
    """``udhcpc``, which asks for the MTU and for static routes too."""
    argv = ["udhcpc", "-f", "-R", "-t", "10", "-T", "1", "-A", "1", "-O", "mtu", "-O", "staticroutes", "-O", "search"]
    argv += ["-s", str(host.directory / "udhcpc" / "script"), "-i", host.interface_name, *options]
    return _given(lambda: Lease(host, "udhcpc", argv, "/etc/udhcpc/default.script"), timeout)


def dhcpcd(
    host: Host, version: int | None, wait: Sequence[str] | None, options: Iterable[str], timeout: float
) -> Lease:
    """``dhcpcd``, for one IP version or for both."""
    configuration = _written(host, "dhcpcd.conf", DHCPCD_CONFIGURATION)
    script = str(host.directory / f"dhcpcd{version or ''}" / "script")
    argv = ["dhcpcd", "--nobackground", "--debug", "--config", configuration, "--script", script]
    argv += [*([f"-{version}"] if version else []), *options, host.interface_name]
    lease = Lease(host, "dhcpcd", argv, "/usr/lib/dhcpcd/dhcpcd-run-hooks", version)
    return _given(lambda: lease, timeout, (tuple(wait),) if wait else DHCPCD_WAITS[version])


def _given(start: Callable[[], Lease], timeout: float, events: Sequence[Sequence[str]] = ()) -> Lease:
    """The lease, once one event of each group came and the addresses may be used; a client that gets nothing is ended."""
    lease = start()
    try:
        for wanted in events or (GIVEN[lease.client],):
            lease.wait(*wanted, timeout=timeout)
        processes.until(
            lambda: not any(a.tentative and not a.duplicate for a in lease.host.addresses().values()),
            f"detection of duplicate addresses in {lease.host.name}", interval=0.05,
        )  # fmt: skip
    except BaseException:
        lease.stop()
        raise
    return lease


def _given_by(variables: dict[str, str]) -> dict[str, str]:
    """What is in a script's environment because of the server's answer."""
    mine = {name: value for name, value in variables.items() if name not in NOT_GIVEN}
    given = {name: value for name, value in mine.items() if not name.startswith(("old_", "requested_"))}
    return {name.removeprefix("new_"): value for name, value in given.items()}


def _written(host: Host, name: str, text: str) -> str:
    host.directory.mkdir(parents=True, exist_ok=True)
    path = host.directory / name
    path.write_text(text)
    return str(path)
