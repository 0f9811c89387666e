"""DNS answers for the names of VMs (RFC 1035), with EDNS0 (RFC 6891) and negative answers that are cached (RFC 2308).

A ``Zone`` holds what is known and is edited host by host; ``parse_query`` reads what a VM asks and ``answer`` makes
the message it gets. Names are kept in wire form and lower case: a length byte is never a letter, so ``bytes.lower``
does it. What goes to another server and comes back passes as it is but for its id.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from struct import Struct as Layout

from msgspec import Struct

from topology.names import labels

A, SOA, PTR, AAAA, OPT, IXFR, AXFR, ANY = 1, 6, 12, 28, 41, 251, 252, 255
IN, ANY_CLASS = 1, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

PLAIN_SIZE = 512
"""Bytes of an answer over UDP to who has not said that it takes more (RFC 1035 section 4.2.1)."""
LARGEST = 1232
"""Bytes of an answer over UDP that no path has to fragment: IPv6's smallest MTU less its and UDP's headers."""

_HEADER = Layout("!HHHHHH")
_QUESTION = Layout("!HH")
_RECORD = Layout("!HHIH")
"""Type, class, TTL and data length, behind a record's name."""
_TIMES = Layout("!IIIII")
"""Serial, refresh, retry, expire and minimum of an SOA record."""

_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0080
_ECHOED = 0x0110
"""Recursion desired (RFC 1035) and checking disabled (RFC 4035): what a response repeats."""
_OPCODE = 0x7800
_DNSSEC_OK = 0x8000

_POINTER = 0xC000
_ASKED_NAME = _POINTER | _HEADER.size
"""A pointer to the question's name, which is where every answer of ours begins."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


# --- names ---------------------------------------------------------------------------------------------------------


def valid_label(text: str) -> str:
    """A host name (RFC 1123 section 2.1) in lower case. Raises ValueError."""
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a host name: 1 to 63 letters (a-z), digits and hyphens, no hyphen first or last"
        )
    return text.lower()


def valid_domain(text: str) -> str:
    """A domain name in lower case, without the dot that may end it. Raises ValueError.

    189 characters, so that a host name of 63 still makes a name of 253 with it.
    """
    domain = text.removesuffix(".")
    if len(domain) > 189:
        raise ValueError(f"a domain name of {len(domain)} characters is too long: at most 189, to leave room for hosts")
    parts = domain.split(".")
    for label in parts:
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{text!r} is not a domain name: labels of 1 to 63 letters (a-z), digits and hyphens, no hyphen first "
                f"or last, with dots between them; {label!r} is none"
            )
    if parts[-1].isdecimal():
        raise ValueError(
            f"{text!r} is not a domain name: the last label may not be a number, or it reads as an address"
        )
    return domain.lower()


@lru_cache(maxsize=1024)
def wire_name(text: str) -> bytes:
    """A name in wire form and lower case. Raises ValueError."""
    return labels(text.lower())


_LOCALHOST, _INVALID = wire_name("localhost"), wire_name("invalid")
_REVERSE_V4, _REVERSE_V6 = wire_name("in-addr.arpa"), wire_name("ip6.arpa")


def _parents(name: bytes) -> Iterator[bytes]:
    """The name itself, then every name above it but the root."""
    start = 0
    while name[start]:
        yield name[start:]
        start += 1 + name[start]


def _reverse4(address: int) -> bytes:
    octets = (b"%d" % octet for octet in address.to_bytes(4, "little"))
    return b"".join(bytes((len(octet),)) + octet for octet in octets) + _REVERSE_V4


def _reverse6(address: int) -> bytes:
    return "".join(["\1" + nibble for nibble in reversed(f"{address:032x}")]).encode() + _REVERSE_V6


def _reverse_domains(prefix: str) -> Iterator[bytes]:
    """The domains that make up the reverse names of a prefix: those of its smallest whole number of labels.

    Raises ValueError.
    """
    network: IPv4Network | IPv6Network = ip_network(prefix)
    step = 8 if network.version == 4 else 4
    length = max(step, -(-network.prefixlen // step) * step)
    for part in network.subnets(new_prefix=length):
        first = int(part.network_address)
        name = _reverse4(first) if network.version == 4 else _reverse6(first)
        yield list(_parents(name))[(network.max_prefixlen - length) // step]


# --- what is known -------------------------------------------------------------------------------------------------


class Host(Struct, frozen=True):
    """The full names of a host, the first of which its addresses lead back to, and its addresses as numbers."""

    names: tuple[str, ...]
    v4: tuple[int, ...] = ()
    v6: tuple[int, ...] = ()


class Zone:
    """The names below some domains, and the addresses in some prefixes. An edit costs what the one host costs.

    A name outside the domains may be there too (a bare host name); nothing is denied in its neighbourhood.
    ``localhost`` and ``invalid`` are known everywhere (RFC 6761 sections 6.3 and 6.4). Times are seconds; what is
    denied may be there after the next boot, so denials are for a shorter time.
    """

    __slots__ = ("_above", "_domains", "_hosts", "_records", "negative_ttl", "ttl")

    def __init__(
        self, domains: Iterable[str] = (), prefixes: Iterable[str] = (), *, ttl: int = 60, negative_ttl: int = 5
    ) -> None:
        """Raises ValueError when a domain or a prefix (``10.0.0.0/24``) is none."""
        self.ttl, self.negative_ttl = ttl, negative_ttl
        self._domains = {wire_name(domain) for domain in domains} | {_LOCALHOST, _INVALID}
        for prefix in prefixes:
            self._domains.update(_reverse_domains(prefix))
        self._hosts: dict[str, Host] = {}
        self._records: dict[bytes, dict[int, Counter[bytes]]] = {}
        """Records by name and type, each as it goes out, with the number of hosts that brought it."""
        self._above: Counter[bytes] = Counter()
        """Names that have nothing but names below them, which are not to be denied (RFC 8020)."""
        for domain in self._domains:
            self._above.update(self._between(domain))
        self.put("localhost", Host(("localhost",), (0x7F000001,), (1,)))

    def put(self, owner: str, host: Host) -> None:
        """Make ``host`` what ``owner`` has brought, instead of what it brought before. Raises ValueError."""
        records = list(self._made_of(host))
        self.discard(owner)
        self._hosts[owner] = host
        for name, kind, record in records:
            types = self._records.setdefault(name, {})
            if kind not in types:
                types[kind] = Counter()
            types[kind][record] += 1
        for text in host.names:
            self._above.update(self._between(wire_name(text)))

    def discard(self, owner: str) -> None:
        """Forget what ``owner`` has brought, if anything."""
        host = self._hosts.pop(owner, None)
        if host is None:
            return
        for name, kind, record in self._made_of(host):
            types = self._records[name]
            types[kind][record] -= 1
            if not types[kind][record]:
                del types[kind][record]
            if not types[kind]:
                del types[kind]
            if not types:
                del self._records[name]
        for text in host.names:
            for above in self._between(wire_name(text)):
                self._above[above] -= 1
                if not self._above[above]:
                    del self._above[above]

    def _made_of(self, host: Host) -> Iterator[tuple[bytes, int, bytes]]:
        """Name, type and bytes of the records of a host."""
        for text in host.names:
            name = wire_name(text)
            for v4 in host.v4:
                yield name, A, self._record(A, v4.to_bytes(4, "big"))
            for v6 in host.v6:
                yield name, AAAA, self._record(AAAA, v6.to_bytes(16, "big"))
        if host.names:
            pointer = self._record(PTR, wire_name(host.names[0]))
            for reverse in [*map(_reverse4, host.v4), *map(_reverse6, host.v6)]:
                yield reverse, PTR, pointer

    def _record(self, kind: int, data: bytes) -> bytes:
        return _ASKED_NAME.to_bytes(2, "big") + _RECORD.pack(kind, IN, self.ttl, len(data)) + data

    def _between(self, name: bytes) -> list[bytes]:
        """The names above ``name`` that are inside a domain."""
        above = list(_parents(name))[1:]
        inside = [number for number, parent in enumerate(above) if parent in self._domains]
        return above[: inside[-1]] if inside else []

    def domain_of(self, name: bytes) -> bytes | None:
        """The domain that a name (in wire form, lower case) is in, or the name itself where only that is known."""
        for parent in _parents(name):
            if parent in self._domains:
                return parent
        return name if name in self._records else None

    def answers(self, query: Query) -> bool:
        """Whether the zone has the last word on a query; for any other, somebody else may be asked."""
        return query.error != NOERROR or query.rrclass != IN or self.domain_of(query.name) is not None

    def has(self, query: Query) -> bool:
        """Whether the zone has records of the name that is asked for."""
        return query.name in self._records

    def records(self, name: bytes, domain: bytes) -> dict[int, Counter[bytes]] | None:
        """The records of a name inside ``domain``, by type; None when there is no such name."""
        found = self._records.get(_LOCALHOST if domain == _LOCALHOST else name)
        if found is not None:
            return found
        return {} if name == domain or name in self._above or _is_partial(name) else None


def _is_partial(name: bytes) -> bool:
    """Whether a reverse name stands for less than an address; hosts below it are not looked for, so none is denied."""
    if name.endswith(_REVERSE_V6):
        return len(name) < 64 + len(_REVERSE_V6)
    return name.endswith(_REVERSE_V4) and sum(1 for _ in _parents(name)) < 6


# --- queries -------------------------------------------------------------------------------------------------------


class Query(Struct, frozen=True, gc=False):
    """A query. ``error`` is the response code that it deserves for its form, and then the rest counts for little."""

    id: int
    flags: int
    error: int = NOERROR
    name: bytes = b""
    """In wire form and lower case."""
    rrtype: int = 0
    rrclass: int = IN
    question: bytes = b""
    """As it was asked, for the response to repeat: resolvers compare letters' cases."""
    size: int = PLAIN_SIZE
    """Bytes that the asker takes over UDP."""
    edns: bool = False
    dnssec_ok: bool = False


class _FormError(Exception):
    pass


def parse_query(payload: bytes) -> Query | None:
    """The query in a UDP payload; None when there is none to answer (no whole header, or a response)."""
    if len(payload) < _HEADER.size:
        return None
    id_, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(payload)
    if flags & _RESPONSE:
        return None
    if flags & _OPCODE:
        return Query(id_, flags, NOTIMP)
    if questions != 1:
        return Query(id_, flags, FORMERR)
    try:
        return _parse(payload, id_, flags, answers + authorities, additionals)
    except _FormError:
        return Query(id_, flags, FORMERR)


def _parse(payload: bytes, id_: int, flags: int, skipped: int, additionals: int) -> Query:
    start = _HEADER.size
    end = _after_name(payload, start, compressed=False)
    if end - start > 255 or end + _QUESTION.size > len(payload):
        raise _FormError
    name, question = payload[start:end].lower(), payload[start : end + _QUESTION.size]
    rrtype, rrclass = _QUESTION.unpack_from(payload, end)
    error, size, edns, dnssec_ok = NOERROR if rrtype != OPT else FORMERR, PLAIN_SIZE, False, False
    position = end + _QUESTION.size
    for number in range(skipped + additionals):
        owner, position = position, _after_name(payload, position)
        if position + _RECORD.size > len(payload):
            raise _FormError
        kind, taken, extended, length = _RECORD.unpack_from(payload, position)
        position += _RECORD.size + length
        if position > len(payload):
            raise _FormError
        if kind == OPT:
            if number < skipped or edns or payload[owner]:
                raise _FormError
            edns, size, dnssec_ok = True, max(taken, PLAIN_SIZE), bool(extended & _DNSSEC_OK)
            if extended >> 16 & 0xFF:
                error = error or BADVERS
    return Query(id_, flags, error, name, rrtype, rrclass, question, size, edns, dnssec_ok)


def _after_name(payload: bytes, position: int, *, compressed: bool = True) -> int:
    """Where a name ends. It may end in a pointer, which nobody here has to follow.

    The question's is not ``compressed``: it could point only at the header or itself.
    """
    try:
        while length := payload[position]:
            if length > 63:
                if length < 0xC0 or not compressed:
                    raise _FormError
                return position + 2
            position += 1 + length
    except IndexError:
        raise _FormError from None
    return position + 1


# --- answers -------------------------------------------------------------------------------------------------------


def answer(query: Query, zone: Zone, *, recursion_available: bool = False) -> bytes:
    """The response to a query, as far as the zone goes: names outside it are refused.

    ``recursion_available`` says whether other names are asked for elsewhere. A response that is too long for the
    asker ends after the last record that fits and says so (the TC bit).
    """
    if query.error:
        return failure(query, query.error, recursion_available=recursion_available)
    domain = zone.domain_of(query.name)
    if domain is None or query.rrclass not in (IN, ANY_CLASS) or query.rrtype in (AXFR, IXFR):
        return failure(query, REFUSED, recursion_available=recursion_available)
    found = zone.records(query.name, domain)
    soa = _soa(query.name, domain, zone)
    if found is None:
        return _message(query, NXDOMAIN, (), (soa,), recursion_available)
    records: Iterable[bytes] = found.get(query.rrtype, ())
    if query.rrtype == ANY:  # One set of records is enough of an answer (RFC 8482 section 4.1).
        records = next(iter(found.values()), ())
    if not records and query.rrtype in (SOA, ANY) and domain == query.name:
        records = (soa,)
    return _message(query, NOERROR, tuple(records), () if records else (soa,), recursion_available)


def failure(query: Query, code: int, *, recursion_available: bool = False) -> bytes:
    """A response that only has a code: REFUSED, or SERVFAIL when another server was asked in vain."""
    return _message(query, code, (), (), recursion_available, authoritative=False)


def _soa(name: bytes, domain: bytes, zone: Zone) -> bytes:
    """The SOA record of a domain that the question's name ends in, all of whose names are pointers there.

    A denial is kept for the smaller of its TTL and its last number (RFC 2308 section 5).
    """
    pointer = (_ASKED_NAME + len(name) - len(domain)).to_bytes(2, "big")
    data = pointer + b"\x0ahostmaster" + pointer + _TIMES.pack(1, 3600, 600, 86400, zone.negative_ttl)
    return pointer + _RECORD.pack(SOA, IN, zone.negative_ttl, len(data)) + data


def _message(
    query: Query,
    code: int,
    answers: tuple[bytes, ...],
    authorities: tuple[bytes, ...],
    recursion_available: bool,
    *,
    authoritative: bool = True,
) -> bytes:
    flags = _RESPONSE | query.flags & (_ECHOED | _OPCODE) | code & 0xF
    if authoritative:
        flags |= _AUTHORITATIVE
    if recursion_available:
        flags |= _RECURSION_AVAILABLE
    options = b""
    if query.edns:
        extended = code >> 4 << 24 | (_DNSSEC_OK if query.dnssec_ok else 0)
        options = b"\0" + _RECORD.pack(OPT, LARGEST, extended, 0)
    room = min(query.size, LARGEST) - _HEADER.size - len(query.question) - len(options)
    body = b"".join((*answers, *authorities))
    if len(body) > room:
        flags |= _TRUNCATED
        answers, authorities = _fitting(answers, room), ()
        body = b"".join(answers)
    counts = 1 if query.question else 0, len(answers), len(authorities), 1 if options else 0
    return _HEADER.pack(query.id, flags, *counts) + query.question + body + options


def _fitting(records: tuple[bytes, ...], room: int) -> tuple[bytes, ...]:
    """As many of the first records as take no more than ``room`` bytes."""
    for number, record in enumerate(records):
        room -= len(record)
        if room < 0:
            return records[:number]
    return records


# --- passing on ----------------------------------------------------------------------------------------------------


def pass_on(query: Query, id_: int) -> bytes:
    """The query for another server, under an id of ours: what was asked, and no more.

    It takes answers of LARGEST bytes at most, so that what comes fits a packet to who asked.
    """
    flags = query.flags & _ECHOED
    options = b""
    if query.edns:
        options = b"\0" + _RECORD.pack(OPT, min(query.size, LARGEST), _DNSSEC_OK if query.dnssec_ok else 0, 0)
    return _HEADER.pack(id_, flags, 1, 0, 0, 1 if options else 0) + query.question + options


def with_id(payload: bytes, id_: int) -> bytes:
    """The same message under another id."""
    return id_.to_bytes(2, "big") + payload[2:]


def responds(payload: bytes, query: Query, id_: int) -> bool:
    """Whether a message is the response to ``query`` when that was passed on under ``id_``.

    The question has to be the same to the letter's case, which makes it harder to forge. Servers may leave it away
    in a failure.
    """
    if len(payload) < _HEADER.size:
        return False
    got, flags, questions, answers, *_ = _HEADER.unpack_from(payload)
    if got != id_ or not flags & _RESPONSE or flags & _OPCODE:
        return False
    if not questions:
        return flags & 0xF in (FORMERR, SERVFAIL, NOTIMP, REFUSED) and not answers
    return questions == 1 and payload[_HEADER.size :].startswith(query.question)
