"""Which endpoints the rows of a batch are between, found for all rows at once with numpy.

An address alone says little: every project may use 10.0.0.1. So a row's *realm* is found first, by its VNI, by the MAC address
of either end, or by the interface that it came in by; then both addresses are looked up within it. Where no realm is known, an
address that only one endpoint has is taken for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from novanet_apps.telemetry.detection.hashing import halves, mixed

from .endpoints import Directory, Endpoint, packed

NO_VNI = 0xFFFFFFFF
NOBODY = -1
_WELL_KNOWN = 49152
"""Ports below it may be services; those from it on are chosen by clients (RFC 6335, section 6)."""


class Enriched(NamedTuple):
    """For each row of a batch."""

    src: Any
    """Index of the source's endpoint in ``Index.endpoints``, -1 for none."""
    dst: Any
    host: Any
    """Index of the exporter's hypervisor in ``Index.hosts``, -1 for none."""
    counted: Any
    """Whether the row is in sums: of the hypervisors that a packet passes, one counts it."""
    service: Any
    """The port of the two that names the service, or 0."""


class _Table:
    """From keys of several columns to numbers; keys that two have are nobody's."""

    def __init__(self, entries: Iterable[tuple[bytes, int]], width: int, seed: int) -> None:
        found: dict[bytes, int] = {}
        for key, value in entries:
            found[key] = value if found.get(key, value) == value else NOBODY
        keys = np.frombuffer(b"".join(found), "<u8").reshape(len(found), width // 8)
        values = np.fromiter(found.values(), np.int64, len(found))
        hashes = mixed(keys, seed)
        order = np.argsort(hashes)
        self._seed = seed
        self._hashes, self._keys, self._values = hashes[order], keys[order], values[order]

    def find(self, keys: Any) -> Any:
        """Numbers for keys, an array of (rows, columns) of u8; -1 where there is none."""
        if not len(self._hashes) or not len(keys):
            return np.full(len(keys), NOBODY)
        at = np.minimum(np.searchsorted(self._hashes, mixed(keys, self._seed)), len(self._hashes) - 1)
        return np.where((self._keys[at] == keys).all(axis=1), self._values[at], NOBODY)


def _numbers(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


class Index:
    """A directory made ready for lookups; made anew when it has changed."""

    def __init__(self, directory: Directory) -> None:
        self.version = directory.version
        self.endpoints = list(directory.endpoints.values())
        self.hosts = list(directory.hosts.values())
        self.numbers = np.array([endpoint.number for endpoint in self.endpoints] or [0], np.uint64)
        host_of = {host.id: number for number, host in enumerate(self.hosts)}
        self._location = np.array([host_of.get(endpoint.hypervisor, NOBODY) for endpoint in self.endpoints] or [NOBODY])
        named = {e.realm for e in self.endpoints} | {realm for e in self.endpoints for realm, _ in e.also}
        realms = {realm: number for number, realm in enumerate(sorted(named), start=1)}
        self._realm = np.array([realms[endpoint.realm] for endpoint in self.endpoints] or [0])
        self._host_at = {address: number for number, host in enumerate(self.hosts) for address in host.addresses}
        seed = secrets.randbits(64)
        places = [(_numbers(realms[realm]), address, n) for n, realm, address in _addresses(self.endpoints)]
        self._by_place = _Table(((realm + address, n) for realm, address, n in places), 24, seed)
        self._by_address = _Table(((address, n) for _, address, n in places), 16, seed)
        macs = [(_numbers(endpoint.mac), number) for number, endpoint in enumerate(self.endpoints) if endpoint.mac]
        self._by_mac = _Table(macs, 8, seed)
        self._realm_of_vni = _Table(((_numbers(e.vni), realms[e.realm]) for e in self.endpoints if e.vni), 8, seed)
        self._by_interface = _Table(
            (
                (_numbers(host_of[e.hypervisor], e.ofport), n)
                for n, e in enumerate(self.endpoints)
                if e.ofport and e.hypervisor in host_of
            ),
            16,
            seed,
        )

    def enrich(self, rows: Any, exporters: Sequence[str], active: set[int]) -> Enriched:
        """``rows``: AGGREGATE; ``exporters``: the address of each exporter number; ``active``: hosts that export now, which grows."""
        host = self.hosts_of(exporters)[rows["exporter"]] if len(exporters) else np.full(len(rows), NOBODY)
        active.update(np.unique(host[host >= 0]).tolist())
        source, target = self._by_mac.find(_column(rows["src_mac"])), self._by_mac.find(_column(rows["dst_mac"]))
        entered = self._by_interface.find(_columns(host.astype(np.uint64), rows["in_if"]))
        realm = self._realms(rows, source, target, entered)
        src, dst = self._at(realm, rows["src"]), self._at(realm, rows["dst"])
        not_ip = rows["version"] == 0
        src, dst = np.where(not_ip, source, src), np.where(not_ip, target, dst)
        return Enriched(src, dst, host, self._counted(src, dst, host, active), service(rows))

    def hosts_of(self, exporters: Sequence[str]) -> Any:
        """Index of each exporter's hypervisor, by its address."""
        return np.array([self._host_at.get(address, NOBODY) for address in exporters] or [NOBODY])

    def _realms(self, rows: Any, source: Any, target: Any, entered: Any) -> Any:
        """The realm of each row, 0 where it is not known; -1, which is none of ours, for a VNI that is none of ours."""
        found = np.where(rows["vni"] == NO_VNI, 0, self._realm_of_vni.find(_column(rows["vni"])))
        for hint in (source, target, entered):
            found = np.where((found == 0) & (hint >= 0), self._realm[hint], found)
        return found

    def _at(self, realm: Any, addresses: Any) -> Any:
        """The endpoint at each address: in its realm, or where that is not known, anywhere if there is one alone."""
        address = halves(addresses)
        keys = np.column_stack((realm.astype(np.uint64), address))
        return np.where(realm == 0, self._by_address.find(address), self._by_place.find(keys))

    def _counted(self, src: Any, dst: Any, host: Any, active: set[int]) -> Any:
        """The sender's hypervisor counts a packet if it exports flows; else the receiver's; else whoever saw it."""
        exporting = np.isin(np.arange(len(self.hosts) + 1), list(active))
        exporting[-1] = False  # of index -1: not known where
        at_src = np.where(src >= 0, self._location[src], NOBODY)
        at_dst = np.where(dst >= 0, self._location[dst], NOBODY)
        responsible = np.where(exporting[at_src], at_src, np.where(exporting[at_dst], at_dst, host))
        return (responsible == host) | (host == NOBODY)


def _addresses(endpoints: Sequence[Endpoint]) -> Iterable[tuple[int, str, bytes]]:
    for number, endpoint in enumerate(endpoints):
        yield from ((number, endpoint.realm, packed(address)) for address in endpoint.addresses)
        yield from ((number, realm, packed(address)) for realm, address in endpoint.also)


def _column(values: Any) -> Any:
    return values.astype(np.uint64).reshape(len(values), 1)


def _columns(*values: Any) -> Any:
    return np.column_stack([value.astype(np.uint64) for value in values])


def service(rows: Any) -> Any:
    """The port that names the service: the lower one of TCP, UDP and SCTP, where it is not one that clients choose."""
    low = np.minimum(rows["sport"], rows["dport"])
    return np.where((low < _WELL_KNOWN) & np.isin(rows["protocol"], (6, 17, 132)), low, 0).astype(np.uint16)
