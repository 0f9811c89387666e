"""What a collector has to remember of its exporters: templates, sampling rates and sequence numbers.

Everything is bounded: an exporter, or somebody who sends in its name, cannot have it grow. What is oldest goes first. Templates and
rates outlive the collector: ``dump`` and ``load``.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgpack

from .elements import Element, element

EXPORTERS, DOMAINS, TEMPLATES, FIELDS, SAMPLERS = 4096, 64, 1024, 512, 256
"""Exporters; domains of one; templates of a domain; fields of a template; samplers of a domain."""
REORDERED = 64
"""A sequence number that is so little behind is late, and no restart."""
VARIABLE = 0xFFFF
"""Length of a field that says its length itself."""
K = TypeVar("K")
V = TypeVar("V")


class Bounded(OrderedDict[K, V], Generic[K, V]):
    """A dictionary in which the oldest entry makes room; ``told`` is called then."""

    def __init__(self, most: int, told: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.most, self._told = most, told

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)
            self._told()

    def made(self, key: K, make: Callable[[], V]) -> V:
        """The entry, which is made when it is not there."""
        found = self.get(key)
        if found is None:
            found = self[key] = make()
        return found


class Field(NamedTuple):
    """A field of a template."""

    id: int
    enterprise: int
    length: int
    """Bytes, or VARIABLE."""
    element: Element


class Template(NamedTuple):
    """How the records of a data set are read. ``scopes``: how many fields say what the others are about; 0: it is flows."""

    fields: tuple[Field, ...]
    scopes: int
    least: int
    """Bytes that a record has at least: what is left of a set with fewer is padding."""


@lru_cache(4096)
def template(fields: tuple[tuple[int, int, int], ...], scopes: int = 0) -> Template:
    """The template of fields (id, enterprise, length): exporters of a kind have the same."""
    made = tuple(Field(id, enterprise, length, element(id, enterprise)) for id, enterprise, length in fields)
    return Template(made, scopes, sum(1 if field.length == VARIABLE else field.length for field in made))


class Numbers(ctypes.Structure):
    """Sequence numbers of a domain, where the compiled decoder counts them as well (collector/fast/collector.h, ``numbers``)."""

    _fields_ = (
        ("received", ctypes.c_uint64), ("lost", ctypes.c_uint64), ("expected", ctypes.c_uint32), ("before", ctypes.c_uint32),
        ("units", ctypes.c_uint32), ("known", ctypes.c_uint8), ("has_before", ctypes.c_uint8), ("numbers_last", ctypes.c_uint8),
    )  # fmt: skip


class Domain:
    """An observation domain (IPFIX), source id (v9), engine (v5) or sub-agent (sFlow) of an exporter."""

    def __init__(self) -> None:
        self.templates: Bounded[int, Template] = Bounded(TEMPLATES)
        self.rates: Bounded[int, int] = Bounded(SAMPLERS)
        """Sampling rate by sampler or selector; 0 is the one that names none."""
        self.numbers = Numbers()

    @property
    def received(self) -> int:
        """Datagrams."""
        return int(self.numbers.received)

    @property
    def lost(self) -> int:
        """Datagrams or records, in the units of the sequence number."""
        return int(self.numbers.lost)

    @property
    def expected(self) -> int | None:
        """The sequence number that comes next; None before the first."""
        return int(self.numbers.expected) if self.numbers.known else None

    def rate(self, sampler: int | None) -> int:
        """By what to multiply: 1 where nothing is known. A domain with one sampler means it, whatever it is called."""
        if sampler is not None and sampler in self.rates:
            return self.rates[sampler]
        if 0 in self.rates:
            return self.rates[0]
        return next(iter(self.rates.values())) if len(self.rates) == 1 else 1

    def first(self, sequence: int, count: int) -> int:
        """The number of a NetFlow v5 datagram's first record. That is what its header has; only Open vSwitch's has the last one's.

        Which of both it is shows as soon as datagrams with different numbers of records follow each other.
        """
        numbers = self.numbers
        if numbers.has_before:
            begins, ends = (sequence == (numbers.before + step) & 0xFFFFFFFF for step in (numbers.units, count))
            if begins != ends:
                numbers.numbers_last = ends
        numbers.before, numbers.units, numbers.has_before = sequence, count, True
        return (sequence - max(0, count - 1) if numbers.numbers_last else sequence) & 0xFFFFFFFF

    def count(self, sequence: int, units: int) -> None:
        """A datagram with this number has come, after which the number goes on by ``units``."""
        numbers = self.numbers
        numbers.received += 1
        ahead = (sequence - numbers.expected) & 0xFFFFFFFF
        if numbers.known and ahead:
            if ahead < 1 << 31:
                numbers.lost += ahead
            elif (1 << 32) - ahead <= REORDERED * max(1, units):
                numbers.lost = max(0, numbers.lost - units)  # counted as lost before
                return
        numbers.expected, numbers.known = (sequence + units) & 0xFFFFFFFF, True


class State:
    """Of all exporters, by address."""

    def __init__(self) -> None:
        self.exporters: Bounded[str, Bounded[tuple[int, int], Domain]] = Bounded(EXPORTERS, self._forgotten)
        self.forgotten = 0
        """How many exporters and domains have made room for others."""

    def _forgotten(self) -> None:
        self.forgotten += 1

    def domain(self, exporter: str, version: int, id: int) -> Domain:
        """A domain of an exporter, for each version of the protocol its own."""
        domains = self.exporters.made(exporter, lambda: Bounded(DOMAINS, self._forgotten))
        return domains.made((version, id), Domain)

    def counting(self, exporter: str, version: int, sequence: int) -> Domain:
        """The domain that counts records about domain 0, which stands for all of an exporter: Open vSwitch numbers them along
        with those of its other domain, against RFC 7011 section 3.1."""
        whole = self.domain(exporter, version, 0)
        others = (each for each in self.exporters[exporter].values() if each is not whole)
        return next((each for each in others if each.expected == sequence), whole)

    def dump(self) -> bytes:
        """Templates and rates."""
        found = [
            [
                exporter, version, id,
                [[number, [field[:3] for field in each.fields], each.scopes] for number, each in domain.templates.items()],
                list(domain.rates.items()),
            ]
            for exporter, domains in self.exporters.items()
            for (version, id), domain in domains.items()
            if domain.templates or domain.rates
        ]  # fmt: skip
        packed: bytes = msgpack.packb({"format": 1, "domains": found})
        return packed

    def load(self, data: bytes) -> None:
        """What ``dump`` gave. Raises ValueError, and takes nothing, where it is something else."""
        try:
            found = msgpack.unpackb(data, strict_map_key=False)
            if found["format"] != 1:
                raise ValueError(f"format {found['format']}")
            read = [
                (str(exporter), int(version), int(id), _templates(templates), {int(k): int(v) for k, v in rates})
                for exporter, version, id, templates, rates in found["domains"]
            ]
        except Exception as error:
            raise ValueError(f"not a collector's state: {error}") from error
        for exporter, version, id, templates, rates in read:
            domain = self.domain(exporter, version, id)
            for number, each in templates.items():
                domain.templates[number] = each
            for sampler, rate in rates.items():
                domain.rates[sampler] = rate


def _templates(found: Any) -> dict[int, Template]:
    return {
        int(number): template(tuple((int(id), int(pen), int(length)) for id, pen, length in fields), int(scopes))
        for number, fields, scopes in found
    }
