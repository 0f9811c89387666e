"""A network in a box: hypervisors with real Open vSwitch, an underlay between them and VMs, all in network namespaces.

    with Lab(hypervisors=3) as lab, Controller(lab) as controller:
        lab.deploy(controller)
        vm = lab.hypervisors[0].plug(port_id, "02:00:00:00:00:01", [("10.0.0.5", 24)], mtu=1442)
        assert vm.ping("10.0.0.6").received == 3

``make run``, the tests and the benchmarks stand on it. docs/lab.md tells more.
"""

from tools.lab.agent import HostAgent
from tools.lab.clients import Address, Answers, Route, RouterAdvertisement
from tools.lab.controller import Api, ApiError, Controller
from tools.lab.dhcp import Lease
from tools.lab.errors import LabError
from tools.lab.frames import Sniffer
from tools.lab.hypervisor import Hypervisor
from tools.lab.lab import Lab
from tools.lab.lan import Lan
from tools.lab.ping import BackgroundPing, PingResult
from tools.lab.processes import until
from tools.lab.provider import Provider
from tools.lab.vm import VM, Host

__all__ = [
    "VM",
    "Address",
    "Answers",
    "Api",
    "ApiError",
    "BackgroundPing",
    "Controller",
    "Host",
    "HostAgent",
    "Hypervisor",
    "Lab",
    "LabError",
    "Lan",
    "Lease",
    "PingResult",
    "Provider",
    "Route",
    "RouterAdvertisement",
    "Sniffer",
    "until",
]
