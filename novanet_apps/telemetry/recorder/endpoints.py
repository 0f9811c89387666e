"""Who is at an address: the VM's or router's port, with all that flows are summed up by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_address
from typing import Any, NamedTuple

import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A port as the controller describes it. Its ``number`` stands for all that is stored of it."""

    port: str
    kind: str = "vm"
    """``vm``, ``router`` or ``floating-ip``."""
    name: str = ""
    vm: str = ""
    network: str = ""
    network_name: str = ""
    project: str = ""
    hypervisor: str = ""
    hypervisor_name: str = ""
    groups: tuple[str, ...] = ()
    vni: int = 0
    realm: str = ""
    """The same for networks between which routers route, so that an address is one host's within it."""
    mac: int = 0
    ofport: int = 0
    """OpenFlow port on its hypervisor; 0 where that is not known."""
    addresses: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    """Addresses by which it is known elsewhere, its floating IPs, each after the realm where that is."""

    @cached_property
    def number(self) -> int:
        """64 bits that follow from what is stored: another name, group or place makes another number. Never 0."""
        digest = hashlib.blake2b(msgspec.msgpack.encode(list(self.stored().values())), digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1

    def stored(self) -> dict[str, Any]:
        """The columns of the table ``endpoints``, without the number."""
        return {
            "port": self.port, "name": self.name, "vm": self.vm, "kind": self.kind, "network": self.network,
            "network_name": self.network_name, "project": self.project, "hypervisor": self.hypervisor,
            "hypervisor_name": self.hypervisor_name, "groups": self.groups,
        }  # fmt: skip


class Host(NamedTuple):
    """A hypervisor, by what flow exports come from."""

    id: str
    name: str
    addresses: tuple[str, ...]


def packed(address: str) -> bytes:
    """16 bytes of an IP address, IPv4 as ::ffff:a.b.c.d. Raises ValueError."""
    found = ip_address(address)
    return found.packed if found.version == 6 else b"\0" * 10 + b"\xff\xff" + found.packed


class Directory:
    """All endpoints and hypervisors, as last told by the controller."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.hosts: dict[str, Host] = {}
        self.version = 0
        """Rises with every change."""

    def take(self, news: Mapping[str, Any]) -> None:
        """A frame of the kind ``topology``: everything (``full``), or what is otherwise than before. Raises msgspec.ValidationError."""
        endpoints = msgspec.convert(news.get("endpoints", ()), list[Endpoint])
        hosts = [
            Host(str(id), str(name), tuple(map(str, addresses))) for id, name, addresses in news.get("hypervisors", ())
        ]
        if news.get("full"):
            self.endpoints.clear()
            self.hosts.clear()
        for gone in news.get("gone", ()):
            self.endpoints.pop(gone, None)
            self.hosts.pop(gone, None)
        self.endpoints.update((endpoint.port, endpoint) for endpoint in endpoints)
        self.hosts.update((host.id, host) for host in hosts)
        self.version += 1
