"""What is to be checked: a member as the agent's namespace has it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from topology.health import Endpoints, checked_port, endpoints, source_port
from topology.model import HealthMonitor, Member


class Codes(NamedTuple):
    """HTTP status codes that are good."""

    ranges: tuple[tuple[int, int], ...]

    def allow(self, code: int) -> bool:
        """Whether a code is one of them."""
        return any(low <= code <= high for low, high in self.ranges)

    @classmethod
    def parse(cls, text: str) -> Codes:
        """``200``, ``200,202`` or ``200-204``. Raises ValueError."""
        found = []
        for part in text.split(","):
            low, _, high = part.partition("-")
            found.append((int(low), int(high or low)))
        return cls(tuple(found))


class Target(NamedTuple):
    """A member to be checked, and how. Times are seconds."""

    member_id: str
    key: int
    version: int
    port: int | None
    source_port: int | None
    port_key: int
    """Of the VM's port."""
    type: str
    delay: float
    timeout: float
    rise: int
    fall: int
    host: str
    """What HTTP calls it."""
    method: str
    path: str
    expected: str

    @property
    def ends(self) -> tuple[str, str]:
        """The addresses, as text, that stand for the member in the namespace: the agent's own, and the member's."""
        found: Endpoints = endpoints(self.version, self.key)
        return address(self.version, found.source), address(self.version, found.target)


def address(version: int, number: int) -> str:
    """An address as text."""
    return str(ip_address(number.to_bytes(4 if version == 4 else 16, "big")))


def target(member: Member, monitor: HealthMonitor, port_key: int, sharing: list[int]) -> Target | None:
    """How a member is to be checked, by the numbers of all members with its address; None: there are too many of those."""
    key, port = member.member_key or 0, checked_port(monitor, member)
    source = source_port(sharing, key)
    if source is None and monitor.type != "PING":
        return None
    version = 6 if ":" in member.address else 4
    host = monitor.domain_name or (f"[{member.address}]" if version == 6 else member.address)
    usual = {"HTTP": 80, "HTTPS": 443}.get(monitor.type, port)
    return Target(
        member.id, key, version, port, source, port_key, monitor.type, monitor.delay, min(monitor.timeout, monitor.delay),
        monitor.max_retries, monitor.max_retries_down, host if monitor.domain_name or port == usual else f"{host}:{port}",
        monitor.http_method or "GET", monitor.url_path or "/", monitor.expected_codes or "200",
    )  # fmt: skip
