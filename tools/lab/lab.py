"""A lab: hypervisors on an underlay, brought up in a second or two, and removed whatever happens."""

from __future__ import annotations

import atexit
import signal
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from tools.lab import namespaces, processes, registry
from tools.lab.errors import LabError
from tools.lab.hypervisor import PHYSICAL, Hypervisor
from tools.lab.lan import Lan
from tools.lab.openvswitch import create_database, install_database
from tools.lab.programs import Programs
from tools.lab.provider import NIC, Provider
from tools.lab.vm import INTERFACE, VM, Host

if TYPE_CHECKING:
    from tools.lab.controller import Controller

LONGEST_SOCKET_PATH = 107
"""Bytes of a Unix socket's path, unix(7)."""


UNCONFIGURED_MTU = 1500
"""Bytes: what an interface has before anybody told it the network's."""
PHYSICAL_NETWORK = "physnet1"


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whoever ends on Ctrl-C, and cleans up, ends the same way."""


class Lab:
    """``hypervisors`` of them, named hv1, hv2, …, with an underlay of ``mtu`` bytes, IPv4 or IPv6.

    ``ovs_bindir`` holds the OVS programs (default: NOVANET_OVS_BINDIR, else the installed ones). ``prime`` tells every
    hypervisor the MAC addresses of the other tunnel endpoints. Files are kept below ``base``.

    With ``provider`` (True: ``physnet1``, or its name) there is a LAN outside, of ``provider_mtu`` bytes, to which
    hypervisors have a second NIC, held by their bridge ``br-ex``; those whose indexes are in ``wired``, all when None.
    ``outside`` adds hosts to it.

    It is up within ``with``, or between ``up()`` and ``close()``. Raises LabError when it does not come up; what
    there was of it is removed then.
    """

    def __init__(
        self,
        hypervisors: int = 3,
        *,
        run_id: str | None = None,
        mtu: int = 1500,
        ipv6_underlay: bool = False,
        ovs_bindir: Path | str | None = None,
        base: Path | str | None = None,
        prime: bool = True,
        provider: bool | str = False,
        provider_mtu: int = 1500,
        wired: Collection[int] | None = None,
    ) -> None:
        if not 0 <= hypervisors <= 250:
            raise LabError(f"{hypervisors} hypervisors: must be 0 to 250")
        self.mtu, self.ipv6_underlay, self._prime = mtu, ipv6_underlay, prime
        self.programs = Programs(ovs_bindir)
        self.physical_network = PHYSICAL_NETWORK if provider is True else provider or None
        self._provider: Provider | None = None
        self._provider_mtu, self._wired = provider_mtu, range(hypervisors) if wired is None else wired
        self.hypervisors: list[Hypervisor] = []
        self._count, self._wanted_id, self._base = hypervisors, run_id, Path(base or tempfile.gettempdir())
        self._record: registry.Record | None = None
        self._controllers: list[Controller] = []
        self._sigterm: Any = None

    @property
    def collectors_ip(self) -> str:
        """The address in the underlay of a controller's collectors, where it has any."""
        return "fd50::fb" if self.ipv6_underlay else "192.168.50.251"

    @property
    def run_id(self) -> str:
        return self._up.run_id

    @property
    def directory(self) -> Path:
        """Where everything of this lab is written."""
        return Path(self._up.directory)

    @property
    def provider(self) -> Provider:
        """The LAN outside; LabError when the lab has none."""
        if self._provider is None:
            raise LabError("the lab has no provider LAN: make it by Lab(…, provider=True)")
        return self._provider

    @property
    def vms(self) -> list[VM]:
        """Every VM, hypervisor by hypervisor."""
        return [vm for hypervisor in self.hypervisors for vm in hypervisor.vms.values()]

    def __enter__(self) -> Lab:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def up(self) -> Lab:
        """Build everything; labs whose owners died are removed on the way."""
        registry.require_root()
        registry.clean()
        self._catch_sigterm()
        atexit.register(self.close)
        try:
            self._record = registry.claim(self._wanted_id, self._base)
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Remove everything; a lab that is not up is left alone. Ctrl-C waits until it is done."""
        record, self._record = self._record, None
        with _uninterrupted():
            if record:
                access = self._provider.access if self._provider else None
                processes.end_all([d for s in [*self.hypervisors, *filter(None, [access])] for d in s.daemons])
                registry.remove(record)
                for controller in self._controllers:
                    controller.reap()
            atexit.unregister(self.close)
            self._restore_sigterm()

    def host(self, name: str, ip: str, prefixlen: int | None = None) -> Host:
        """A further host in the underlay, that the hypervisors know as well as each other."""
        host = self.underlay.host(name, ip, prefixlen)
        if self._prime:
            for hypervisor in self.hypervisors:
                hypervisor.prime({ip: host.mac})
        return host

    def outside(
        self, name: str, *addresses: str, vlan: int | None = None, mac: str | None = None, routes: Iterable[str] = ()
    ) -> Host:
        """A host on the provider LAN: ``lab.outside("web", "203.0.113.5/24", vlan=100, routes=["default via 203.0.113.1"])``.

        With ``vlan`` it is in that VLAN, and neither sends nor gets tags itself. Raises LabError.
        """
        return self.provider.outside(name, addresses, vlan, mac, routes)

    def join_group(self, group: str) -> None:
        """Let every hypervisor's tunnels use a multicast group; one for IPv4 and one for IPv6 at most."""
        for hypervisor in self.hypervisors:
            hypervisor.join_group(group)

    def deploy(self, controller: Controller) -> dict[str, dict[str, Any]]:
        """Tell NovaNet of the hypervisors, and wait until each has its br-int and OpenFlow connection.

        Returns the hypervisors as NovaNet has them, by name.
        """
        made = {}
        for hypervisor in self.hypervisors:
            fields: dict[str, Any] = {
                "name": hypervisor.name,
                "ovsdb": hypervisor.ovsdb,
                "tunnel_ip": hypervisor.tunnel_ip,
            }
            fields |= {"underlay_interface": PHYSICAL}
            fields |= {"bridge_mappings": hypervisor.bridge_mappings} if hypervisor.provider else {}
            made[hypervisor.name] = controller.api.post("/v1/hypervisors", fields)
        for hypervisor in self.hypervisors:
            controller.wait_connected(hypervisor)
        return made

    def boot(
        self, controller: Controller, hypervisor: Hypervisor, port_id: str, name: str | None = None, configure: bool = True
    ) -> VM:  # fmt: skip
        """Start the VM of a port that NovaNet has, with the port's addresses and its network's MTU, and plug it in.

        Without ``configure`` it has its MAC address and nothing else: no addresses, no routes, and an MTU of 1500.
        """
        port = controller.api.get(f"/v1/ports/{port_id}")
        if not configure:
            return hypervisor.plug(port_id, port["mac_address"], mtu=UNCONFIGURED_MTU, name=name)
        network = controller.api.get(f"/v1/networks/{port['network_id']}")
        addresses, gateways = [], []
        for fixed in port["fixed_ips"] or ():
            subnet = controller.api.get(f"/v1/subnets/{fixed['subnet_id']}")
            addresses.append((fixed["ip_address"], int(subnet["cidr"].partition("/")[2])))
            gateways += [subnet["gateway_ip"]] if subnet["gateway_ip"] else []
        return hypervisor.plug(port_id, port["mac_address"], addresses, network["mtu"], name, gateways)

    def adopt(self, controller: Controller) -> None:
        """Let the hypervisors reach a controller, and end it with the lab."""
        self._controllers.append(controller)
        for hypervisor in self.hypervisors:
            hypervisor.listen_for(controller.openflow_socket)

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _up(self) -> registry.Record:
        if self._record is None:
            raise LabError("the lab is not up")
        return self._record

    def _build(self) -> None:
        longest = len(str(self.directory / "hv250" / "br-int.snoop"))
        if longest > LONGEST_SOCKET_PATH:
            raise LabError(f"{self.directory}: paths of Unix sockets would be too long; choose a shorter base")
        empty, prefix = self.directory / "empty.db", self._up.namespace_prefix
        create_database(self.programs, empty)
        self.underlay = Lan(self.run_id, prefix, "ul", self.mtu, self.directory / "hosts")
        self.underlay.build()
        if self.physical_network:
            self._provider = Provider(
                self.run_id, prefix, self.physical_network, self._provider_mtu, self.directory, self.programs, empty
            )
            self._provider.build()
        self.hypervisors = [self._hypervisor(number) for number in range(1, self._count + 1)]
        namespaces.ip(f"netns add {hypervisor.namespace}" for hypervisor in self.hypervisors)
        self.underlay.connect(hypervisor.name for hypervisor in self.hypervisors)
        if self._provider:
            self._provider.connect((hypervisor.name for hypervisor in self.hypervisors if hypervisor.provider), NIC)
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="lab-up") as pool:
            for _ in pool.map(lambda hypervisor: self._start(hypervisor, empty), self.hypervisors):
                pass
        if self._prime:
            endpoints = {hypervisor.tunnel_ip: hypervisor.mac for hypervisor in self.hypervisors}
            for hypervisor in self.hypervisors:
                hypervisor.prime({ip: mac for ip, mac in endpoints.items() if ip != hypervisor.tunnel_ip})

    def _hypervisor(self, number: int) -> Hypervisor:
        ip = IPv6Address("fd50::") + number if self.ipv6_underlay else IPv4Address("192.168.50.0") + number
        provider = self._provider if number - 1 in self._wired else None
        return Hypervisor(self.run_id, number, self.directory, self.programs, self.underlay, str(ip), provider)

    def _start(self, hypervisor: Hypervisor, empty: Path) -> None:
        install_database(empty, hypervisor.directory)
        # The kernel's own stack keeps out of what belongs to OVS: no ARP answers, no IPv6 of its own.
        nics = [INTERFACE, NIC] if hypervisor.provider else [INTERFACE]
        namespaces.sysctl(hypervisor.namespace, {f"ipv6/conf/{name}/disable_ipv6": 1 for name in ["default", *nics]})
        namespaces.ip(["link set lo up", *(f"link set {nic} arp off up" for nic in nics)], hypervisor.namespace)
        hypervisor.start()

    def _catch_sigterm(self) -> None:
        """SIGTERM ends Python without any clean-up unless someone has seen to it."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, _terminate)

    def _restore_sigterm(self) -> None:
        if self._sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)
            self._sigterm = None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated("terminated")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM take effect after the block. (Only the main thread may arrange that, and only it gets them.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
