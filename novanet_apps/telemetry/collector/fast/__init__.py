"""The compiled part of a collector: it reads what is usual, and leaves every other datagram to ``worker``.

It is built when NovaNet is installed (setup.py); where there was no compiler it is not there, and Python does all of it, with the same rows.
docs/decisions/0025-collector.md says what is usual, and why.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.util import find_spec
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from novanet_apps.telemetry.decode.elements import REVERSE
from novanet_apps.telemetry.decode.records import AGGREGATE
from novanet_apps.telemetry.decode.state import VARIABLE, Domain, Field, Template

_KINDS = (
    "SKIP SRC4 DST4 SRC6 DST6 SPORT DPORT PROTOCOL TCP_FLAGS TOS SEGMENT IN_IF OUT_IF DIRECTION SRC_MAC DST_MAC OCTETS PACKETS START_MS"
    " END_MS START_S END_S START_NTP END_NTP START_UPTIME END_UPTIME START_AGO END_AGO RATE SAMPLER ICMP_BOTH4 ICMP_TYPE4 ICMP_CODE4"
    " ICMP_BOTH6 ICMP_TYPE6 ICMP_CODE6"
).split()
"""``enum kind`` of collector.h."""
_KIND = {name: number for number, name in enumerate(_KINDS)}


class _Field(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_uint16), ("length", ctypes.c_uint16))


class _Template(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint16), ("least", ctypes.c_uint16), ("count", ctypes.c_uint16), ("one_packet", ctypes.c_uint16),
        ("fields", ctypes.POINTER(_Field)),
    )  # fmt: skip


class _Sampling(ctypes.Structure):
    _fields_ = (("sampler", ctypes.c_uint64), ("rate", ctypes.c_uint32), ("filler", ctypes.c_uint32))


class _Remaining(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("length", ctypes.c_uint64), ("address", ctypes.c_uint8 * 16), ("dropped", ctypes.c_uint64),
    )  # fmt: skip


class Left(NamedTuple):
    """A datagram that Python has to read."""

    data: bytes
    sender: str
    dropped: int
    """Datagrams that the kernel has dropped at the socket and that no exporter has been charged with."""


class _Known(NamedTuple):
    """A domain that the compiled part knows."""

    domain: Domain
    state: Any
    """The templates and rates that it was told."""
    usual: Any
    """What it points into."""


def compiled() -> bool:
    """Whether the compiled part is there."""
    return _library() is not None


def path() -> str | None:
    """The compiled library's."""
    found = find_spec(f"{__package__}._fast")
    return None if found is None else found.origin


@cache
def _library() -> ctypes.CDLL | None:
    there = path()
    if there is None:
        return None
    library = ctypes.CDLL(there)
    pointer, u32, u64, yes = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_bool
    for name, result, *arguments in (
        ("make", pointer, u32, u64), ("free", None, pointer), ("exporter", yes, pointer, ctypes.c_char_p, u32),
        ("losses", None, pointer, ctypes.c_char_p, pointer), ("forget", None, pointer),
        ("stream", yes, pointer, u32, u32, u32, pointer, pointer, u32, pointer, u32),
        ("take", yes, pointer, ctypes.c_char_p, ctypes.c_char_p, u64, u64),
        ("receive", yes, pointer, ctypes.c_int, pointer, u64, u32, pointer),
        ("rows", u32, pointer), ("taken", u64, pointer), ("drain", None, pointer, pointer),
    ):  # fmt: skip
        function = getattr(library, f"novanet_collector_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Fast:
    """Datagrams in, AGGREGATE rows out. Raises MemoryError; ``compiled()`` must be true."""

    def __init__(self, most: int) -> None:
        """``most``: flows that are told apart in an interval."""
        library = _library()
        assert library is not None
        self._call = library
        self._self = library.novanet_collector_make(most, secrets.randbits(64))
        if not self._self:
            raise MemoryError("no room for a collector's table")
        self._known: dict[tuple[int, int, int], _Known] = {}
        self._addresses: dict[str, bytes] = {}
        self._before: dict[str, tuple[int, int]] = {}
        """What was lost of exporters that have been forgotten."""
        self._dropped: dict[int, ctypes.c_uint32] = {}
        self._remaining = _Remaining()

    def __del__(self) -> None:
        if getattr(self, "_self", None):
            self._call.novanet_collector_free(self._self)

    def __len__(self) -> int:
        """Rows that there are to drain."""
        return int(self._call.novanet_collector_rows(self._self))

    @property
    def taken(self) -> int:
        """Datagrams that were read here."""
        return int(self._call.novanet_collector_taken(self._self))

    def receive(self, descriptor: int, now: int, most: int) -> Left | None:
        """Take what has come at a socket, at ``now`` in Unix milliseconds; the datagram that stopped it, or None when there are no more, or
        ``most`` have been taken. One that is returned has to be read before the next call."""
        dropped = self._dropped.setdefault(descriptor, ctypes.c_uint32())
        found = self._remaining
        if not self._call.novanet_collector_receive(
            self._self, descriptor, ctypes.addressof(dropped), now, most, ctypes.addressof(found)
        ):
            return None
        return Left(ctypes.string_at(found.data, found.length), _text(bytes(found.address)), found.dropped)

    def take(self, sender: str, data: bytes, now: int) -> bool:
        """Whether a datagram was taken; if not, nothing has happened."""
        return bool(self._call.novanet_collector_take(self._self, _packed(sender), data, len(data), now))

    def drain(self) -> NDArray[Any]:
        """The rows, which are then gone."""
        rows = np.empty(len(self), AGGREGATE)
        self._call.novanet_collector_drain(self._self, rows.ctypes.data)
        return rows

    # --- what is known -------------------------------------------------------------------------------------------

    def learn(self, sender: str, number: int, version: int, key: int, domain: Domain) -> None:
        """A datagram of this domain has been read by Python: what templates and sampling rates there are now."""
        if sender not in self._addresses:
            if not self._call.novanet_collector_exporter(self._self, _packed(sender), number):
                return
            self._addresses[sender] = _packed(sender)
        templates = [(number, each) for number, each in domain.templates.items() if not each.scopes]
        now = templates, list(domain.rates.items())
        known = self._known.get((number, version, key))
        if known is not None and known.domain is domain and known.state == now:
            return
        usual = sorted((id, made) for id, each in templates if (made := usual_fields(each, version)) is not None)
        table = (_Template * len(usual))(
            *(_Template(id, made.least, len(made.fields), made.one_packet, made.fields) for id, made in usual)
        )
        rates = [_Sampling(sampler, min(rate, 0xFFFFFFFF)) for sampler, rate in now[1] if 0 <= sampler < 1 << 64]
        samplings = (_Sampling * len(rates))(*rates)
        address = ctypes.addressof(domain.numbers)
        if self._call.novanet_collector_stream(
            self._self, number, version, key, address, table, len(usual), samplings, len(rates)
        ):
            self._known[number, version, key] = _Known(domain, now, [made for _, made in usual])

    def forget(self) -> None:
        """Forget who may export, and everything of domains: datagrams are left to Python until it has learnt anew."""
        self._before = {sender: self.losses(sender) for sender in {*self._addresses, *self._before}}
        self._call.novanet_collector_forget(self._self)
        self._known.clear()
        self._addresses.clear()

    def losses(self, sender: str) -> tuple[int, int]:
        """Datagrams that the kernel dropped, and records that found no room."""
        found = (ctypes.c_uint64 * 2)()
        self._call.novanet_collector_losses(self._self, _packed(sender), found)
        before = self._before.get(sender, (0, 0))
        return found[0] + before[0], found[1] + before[1]


# --- templates ---------------------------------------------------------------------------------------------------


class Usual(NamedTuple):
    """How records of a template are read."""

    fields: Any
    least: int
    one_packet: int


_NUMBERS = {
    7: "SPORT", 11: "DPORT", 4: "PROTOCOL", 6: "TCP_FLAGS", 5: "TOS", 351: "SEGMENT", 10: "IN_IF", 14: "OUT_IF", 61: "DIRECTION",
    32: "ICMP_BOTH4", 176: "ICMP_TYPE4", 177: "ICMP_CODE4", 139: "ICMP_BOTH6", 178: "ICMP_TYPE6", 179: "ICMP_CODE6",
}  # fmt: skip
_FIXED = {8: ("SRC4", 4), 12: ("DST4", 4), 27: ("SRC6", 16), 28: ("DST6", 16), 56: ("SRC_MAC", 6), 80: ("DST_MAC", 6)}
_COUNTS = ((1, 2), (85, 86), (352, 2), (231, 298))
"""Octets and packets; the first pair of which there is one or the other."""
_FRAME_SIZE = 312
_TIMES = {
    "START": (
        (152, "START_MS"),
        (22, "START_UPTIME"),
        (158, "START_AGO"),
        (150, "START_S"),
        (156, "START_NTP"),
        (154, "START_NTP"),
    ),
    "END": ((153, "END_MS"), (21, "END_UPTIME"), (159, "END_AGO"), (151, "END_S"), (157, "END_NTP"), (155, "END_NTP")),
}
"""The first of them that there is."""
_UPTIME, _AGO, _V9, _IPFIX = (21, 22), (158, 159), 9, 10
_RATES, _SAMPLERS = (34, 50), (48, 302)
_UNUSUAL = {305, 306, 309, 310, 311, 313, 315}
"""Sampling told in each record by two numbers or a fraction, and sampled bytes of packets."""
_BACK = {1, 2, 85, 86, 352, 231, 298}
"""Counts, of which there are some of the reverse direction."""


@lru_cache(4096)
def usual_fields(template: Template, version: int) -> Usual | None:
    """What the fields of a template are to a flow; None when its records are left to Python. As ``sums.flow`` has it."""
    first: dict[int, int] = {}
    for at, field in enumerate(template.fields):
        if field.enterprise == 0:
            first.setdefault(field.id, at)
        elif field.enterprise < 0 or (field.enterprise == REVERSE and field.id in _BACK):
            return None
    counts = next(((octets, packets) for octets, packets in _COUNTS if octets in first or packets in first), None)
    if counts is None and _FRAME_SIZE in first:
        counts = _FRAME_SIZE, -1
    if counts is None or first.keys() & _UNUSUAL or template.least > 0xFFFF:
        return None
    kinds = {first[id]: name for id, name in _NUMBERS.items() if id in first}
    kinds |= {first[id]: name for id, name in zip(counts, ("OCTETS", "PACKETS"), strict=True) if id in first}
    for pair in ((27, 28), (8, 12)):  # IPv6 where there are both
        if all(id in first for id in pair):
            kinds |= {first[id]: _FIXED[id][0] for id in pair}
            break
    kinds |= {first[id]: _FIXED[id][0] for id in (56, 80) if id in first}
    for choices in (*_TIMES.values(), tuple((id, "RATE") for id in _RATES), tuple((id, "SAMPLER") for id in _SAMPLERS)):
        there = [(id, name) for id, name in choices if id in first and id not in (_AGO if version == _V9 else _UPTIME)]
        if there:
            kinds[first[there[0][0]]] = there[0][1]
    if not all(_readable(template.fields[at], name) for at, name in kinds.items()):
        return None
    made = _merged((kinds.get(at, "SKIP"), field.length) for at, field in enumerate(template.fields))
    array = (_Field * len(made))(*(_Field(_KIND[name], length) for name, length in made))
    return Usual(array, template.least, int(counts[1] == -1))


def _readable(field: Field, name: str) -> bool:
    """Whether it has the length of what it is: addresses and times are something else in another."""
    if name.endswith("_NTP"):
        return field.length == 8
    if field.id in _FIXED:
        return field.length == _FIXED[field.id][1]
    return field.length <= 8 or field.length == VARIABLE


def _merged(fields: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Fields one after the other that are left out are one."""
    made: list[tuple[str, int]] = []
    for name, length in fields:
        if (
            made
            and name == made[-1][0] == "SKIP"
            and VARIABLE not in (length, made[-1][1])
            and length + made[-1][1] < VARIABLE
        ):
            made[-1] = name, length + made[-1][1]
        else:
            made.append((name, length))
    return made


@lru_cache(8192)
def _packed(sender: str) -> bytes:
    address = ip_address(sender)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


@lru_cache(8192)
def _text(address: bytes) -> str:
    found = IPv6Address(address)
    return str(found.ipv4_mapped or found)
