"""DNS answers, read back by dnspython."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.packets.dns import (
    FORMERR,
    NOERROR,
    REFUSED,
    SERVFAIL,
    Host,
    Query,
    Zone,
    answer,
    failure,
    parse_query,
    pass_on,
    responds,
    valid_domain,
    valid_label,
    with_id,
)

from .damage import corruptions, prefixes


def v4(*texts: str) -> tuple[int, ...]:
    return tuple(int(IPv4Address(text)) for text in texts)


def v6(*texts: str) -> tuple[int, ...]:
    return tuple(int(IPv6Address(text)) for text in texts)


def make_zone() -> Zone:
    zone = Zone(["vms.internal"], ["10.1.0.0/24", "fd00:1::/64"], ttl=60, negative_ttl=5)
    zone.put("p1", Host(("web.vms.internal", "web"), v4("10.1.0.10"), v6("fd00:1::10", "fe80::1")))
    zone.put("p2", Host(("db.vms.internal",), v4("10.1.0.11")))
    zone.put("p3", Host(("a.b.vms.internal",), v4("10.1.0.12")))
    return zone


def ask(zone: Zone, name: str, kind: str = "A", *, recursion: bool = False, **options: object) -> dns.message.Message:
    """The answer to dnspython's query, as dnspython reads it and finds it to be the response."""
    query = dns.message.make_query(name, kind, **options)
    parsed = parse_query(query.to_wire())
    assert parsed is not None
    response = dns.message.from_wire(answer(parsed, zone, recursion_available=recursion))
    assert query.is_response(response)
    return response


def data(response: dns.message.Message) -> list[str]:
    return sorted(str(item) for rrset in response.answer for item in rrset)


def denies(response: dns.message.Message, domain: str) -> bool:
    """Whether a response has no answer but the SOA of ``domain``, which says for how long."""
    (soa,) = response.authority
    assert (str(soa.name), soa.rdtype, soa.ttl, soa[0].minimum) == (domain, dns.rdatatype.SOA, 5, 5)
    return not response.answer


# --- what is there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.vms.internal", "A", ["10.1.0.10"]),
        ("web.vms.internal", "AAAA", ["fd00:1::10", "fe80::1"]),
        ("WEB.vms.Internal", "A", ["10.1.0.10"]),
        ("web", "A", ["10.1.0.10"]),
        ("a.b.vms.internal", "A", ["10.1.0.12"]),
        ("10.0.1.10.in-addr.arpa", "PTR", ["web.vms.internal."]),
        (IPv6Address("fd00:1::10").reverse_pointer.upper(), "PTR", ["web.vms.internal."]),
        (IPv6Address("fe80::1").reverse_pointer, "PTR", ["web.vms.internal."]),
        ("localhost", "A", ["127.0.0.1"]),
        ("some.localhost", "AAAA", ["::1"]),
        ("1.0.0.127.in-addr.arpa", "PTR", ["localhost."]),
    ],
)
def test_a_name_that_is_there(name: str, kind: str, expected: list[str]) -> None:
    response = ask(make_zone(), name, kind)
    assert response.rcode() == dns.rcode.NOERROR and data(response) == expected and not response.authority
    assert {rrset.ttl for rrset in response.answer} == {60}
    assert response.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    # Letters come back in the case they were asked in: resolvers check it.
    assert response.question[0].name.to_text() == name + "."


def test_flags_are_echoed_or_told() -> None:
    response = ask(make_zone(), "db.vms.internal", flags=dns.flags.CD, recursion=True)
    assert response.flags == dns.flags.QR | dns.flags.AA | dns.flags.RA | dns.flags.CD


def test_any_gets_one_set_of_records() -> None:
    response = ask(make_zone(), "web.vms.internal", "ANY")
    assert [rrset.rdtype for rrset in response.answer] == [dns.rdatatype.A]
    assert [rrset.rdtype for rrset in ask(make_zone(), "vms.internal", "ANY").answer] == [dns.rdatatype.SOA]


def test_the_soa_of_a_domain_can_be_asked_for() -> None:
    (soa,) = ask(make_zone(), "vms.internal", "SOA").answer
    assert str(soa[0]) == "vms.internal. hostmaster.vms.internal. 1 3600 600 86400 5"


# --- what is not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "domain"),
    [
        ("db.vms.internal", "AAAA", "vms.internal."),
        ("db.vms.internal", "MX", "vms.internal."),
        ("vms.internal", "A", "vms.internal."),
        ("b.vms.internal", "A", "vms.internal."),  # nothing but a name below it (RFC 8020)
        ("web", "MX", "web."),
        ("0.1.10.in-addr.arpa", "PTR", "0.1.10.in-addr.arpa."),
        ("0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa."),
        ("f.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa."),
    ],
)
def test_a_name_without_such_records(name: str, kind: str, domain: str) -> None:
    response = ask(make_zone(), name, kind)
    assert response.rcode() == dns.rcode.NOERROR and denies(response, domain)


@pytest.mark.parametrize(
    ("name", "kind", "domain"),
    [
        ("nobody.vms.internal", "A", "vms.internal."),
        ("below.web.vms.internal", "A", "vms.internal."),
        ("x." * 110 + "vms.internal", "A", "vms.internal."),
        ("99.0.1.10.in-addr.arpa", "PTR", "0.1.10.in-addr.arpa."),
        (IPv6Address("fd00:1::99").reverse_pointer, "PTR", "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa."),
        ("anything.invalid", "AAAA", "invalid."),
    ],
)
def test_a_name_that_is_not_there(name: str, kind: str, domain: str) -> None:
    response = ask(make_zone(), name, kind)
    assert response.rcode() == dns.rcode.NXDOMAIN and denies(response, domain) and response.flags & dns.flags.AA


@pytest.mark.parametrize(
    "name", ["example.com", "internal", "xvms.internal", "10.0.2.10.in-addr.arpa", "below.web", "."]
)
def test_a_name_outside_is_refused_or_passed_on(name: str) -> None:
    zone = make_zone()
    query = parse_query(dns.message.make_query(name, "A").to_wire())
    assert query is not None and not zone.answers(query)
    response = ask(zone, name)
    assert response.rcode() == dns.rcode.REFUSED and not response.answer and not response.authority
    assert not response.flags & dns.flags.AA


def test_other_classes_and_transfers_are_refused_here() -> None:
    zone = make_zone()
    query = parse_query(dns.message.make_query("version.bind", "TXT", "CH").to_wire())
    assert query is not None and zone.answers(query)
    assert ask(zone, "version.bind", "TXT", rdclass="CH").rcode() == dns.rcode.REFUSED
    assert ask(zone, "vms.internal", "AXFR").rcode() == dns.rcode.REFUSED
    assert data(ask(zone, "db.vms.internal", "A", rdclass="ANY")) == ["10.1.0.11"]


@pytest.mark.parametrize(
    ("prefix", "address", "domain"),
    [
        ("10.2.4.0/23", "10.2.5.7", "5.2.10.in-addr.arpa."),
        ("10.2.4.128/25", "10.2.4.200", "200.4.2.10.in-addr.arpa."),
        ("10.2.4.128/25", "10.2.4.1", None),
        ("0.0.0.0/0", "8.8.8.8", "8.in-addr.arpa."),
        ("fd00::/62", "fd00::3:0:0:0:1", "3.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."),
        ("fd00::/62", "fd00::4:0:0:0:1", None),
        ("fd00::1/128", "fd00::1", IPv6Address("fd00::1").reverse_pointer + "."),
    ],
)
def test_reverse_names_are_denied_in_the_prefixes_only(prefix: str, address: str, domain: str | None) -> None:
    name = (IPv4Address(address) if "." in address else IPv6Address(address)).reverse_pointer
    response = ask(Zone([], [prefix]), name, "PTR")
    if domain is None:
        assert response.rcode() == dns.rcode.REFUSED
    else:
        assert response.rcode() == (dns.rcode.NOERROR if domain == name + "." else dns.rcode.NXDOMAIN)
        assert denies(response, domain)


# --- edits ---------------------------------------------------------------------------------------------------------


def test_hosts_share_a_name_until_one_goes() -> None:
    zone = make_zone()
    zone.put("p4", Host(("db.vms.internal",), v4("10.1.0.11", "10.1.0.20")))
    assert data(ask(zone, "db.vms.internal")) == ["10.1.0.11", "10.1.0.20"]
    zone.discard("p4")
    assert data(ask(zone, "db.vms.internal")) == ["10.1.0.11"]
    zone.put("p2", Host(("sql.vms.internal",), v4("10.1.0.11")))
    assert ask(zone, "db.vms.internal").rcode() == dns.rcode.NXDOMAIN
    assert data(ask(zone, "11.0.1.10.in-addr.arpa", "PTR")) == ["sql.vms.internal."]
    zone.discard("p3")
    assert ask(zone, "b.vms.internal").rcode() == dns.rcode.NXDOMAIN
    zone.discard("p3")


NAMES = st.lists(st.sampled_from(["a", "b", "c", "d.e"]), min_size=1, max_size=3).map(".".join)
HOSTS = st.builds(
    Host,
    st.lists(NAMES.map(lambda name: f"{name}.vms.internal") | NAMES, max_size=2).map(tuple),
    st.lists(st.integers(0x0A010000, 0x0A010004), max_size=2).map(tuple),
    st.lists(st.integers(1 << 64, (1 << 64) + 3), max_size=2).map(tuple),
)


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.none() | HOSTS), max_size=12))
def test_edits_leave_what_a_fresh_zone_would_have(edits: list[tuple[str, Host | None]]) -> None:
    edited, fresh = Zone(["vms.internal"], ["10.1.0.0/24"]), Zone(["vms.internal"], ["10.1.0.0/24"])
    final: dict[str, Host] = {}
    for owner, host in edits:
        final.pop(owner, None)
        if host is None:
            edited.discard(owner)
        else:
            edited.put(owner, host)
            final[owner] = host
    for owner, host in final.items():
        fresh.put(owner, host)
    names = {name for _, host in edits if host for name in host.names} | {"e.vms.internal", "vms.internal", "e"}
    addresses = [IPv4Address(0x0A010000 + n) for n in range(5)] + [IPv6Address((1 << 64) + n) for n in range(4)]
    for name in names | {address.reverse_pointer for address in addresses}:
        for kind in ("A", "AAAA", "PTR"):
            one, other = ask(edited, name, kind, id=1), ask(fresh, name, kind, id=1)
            assert (one.rcode(), data(one), one.authority) == (other.rcode(), data(other), other.authority)


LABELS = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", fullmatch=True)


@given(
    LABELS,
    st.lists(st.integers(1 << 24, (1 << 32) - 1), unique=True, max_size=3),
    st.lists(st.integers(0, (1 << 128) - 1), unique=True, max_size=3),
)
def test_whatever_is_put_in_comes_out(label: str, four: list[int], six: list[int]) -> None:
    zone, name = Zone(["x.example"]), f"{label}.x.example"
    zone.put("port", Host((name,), tuple(four), tuple(six)))
    assert data(ask(zone, name.swapcase(), "A")) == sorted(str(IPv4Address(number)) for number in four)
    assert {int(IPv6Address(text)) for text in data(ask(zone, name, "AAAA"))} == set(six)
    for number in four:
        assert f"{label.lower()}.x.example." in data(ask(zone, IPv4Address(number).reverse_pointer, "PTR"))


# --- size and EDNS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 512),
        ({"use_edns": 0, "payload": 400}, 512),
        ({"use_edns": 0, "payload": 900}, 900),
        ({"use_edns": 0, "payload": 4096}, 1232),
    ],
)
def test_answers_that_are_too_long_are_cut_at_a_record(options: dict[str, int], limit: int) -> None:
    zone = Zone(["big.example"])
    zone.put("p", Host(("all.big.example",), tuple(range(1 << 24, (1 << 24) + 200))))
    query = dns.message.make_query("all.big.example", "A", **options)
    parsed = parse_query(query.to_wire())
    assert parsed is not None
    wire = answer(parsed, zone)
    response = dns.message.from_wire(wire)
    assert response.flags & dns.flags.TC and limit - 16 < len(wire) <= limit
    assert response.edns == (0 if options else -1)
    zone.put("p", Host(("all.big.example",), tuple(range(1 << 24, (1 << 24) + 20))))
    assert not ask(zone, "all.big.example", **options).flags & dns.flags.TC


def test_edns_is_answered_with_edns() -> None:
    response = ask(make_zone(), "db.vms.internal", use_edns=0, want_dnssec=True, payload=4096)
    assert (response.edns, response.payload, response.ednsflags, response.options) == (0, 1232, dns.flags.DO, ())
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    response = ask(make_zone(), "no.vms.internal", use_edns=0, options=[cookie])
    assert response.rcode() == dns.rcode.NXDOMAIN and response.edns == 0 and response.ednsflags == 0


def test_other_versions_of_edns_are_refused_as_such() -> None:
    response = ask(make_zone(), "db.vms.internal", use_edns=1)
    assert response.rcode() == dns.rcode.BADVERS and response.edns == 0 and not response.answer


# --- what is wrong -------------------------------------------------------------------------------------------------


def code_of(payload: bytes) -> int | None:
    query = parse_query(payload)
    if query is None:
        return None
    return int(dns.message.from_wire(answer(query, make_zone())).rcode())


GOOD = dns.message.make_query("db.vms.internal", "A", id=0x1234, use_edns=0).to_wire()
HEADER = bytes.fromhex("1234 0100 0001 0000 0000 0000")
A_IN = bytes.fromhex("0001 0001")
OPT = bytes.fromhex("00 0029 0200 00000000 0000")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (GOOD, NOERROR),
        (b"", None),
        (HEADER[:11], None),
        (bytes.fromhex("1234 8100 0001 0000 0000 0000") + GOOD[12:], None),  # a response
        (HEADER, FORMERR),
        (bytes.fromhex("1234 0100 0000 0000 0000 0000"), FORMERR),  # no question
        (bytes.fromhex("1234 0100 0002 0000 0000 0000") + GOOD[12:-11] * 2, FORMERR),
        (HEADER + b"\xc0\x0c" + A_IN, FORMERR),  # a name that is a pointer to itself
        (HEADER + b"\x01a\xc0\x0c" + A_IN, FORMERR),
        (HEADER + b"\x01a\xc1\x00" + A_IN, FORMERR),
        (HEADER + b"\x40" + b"a" * 64 + b"\0" + A_IN, FORMERR),  # label type 01
        (HEADER + b"\x3f" + b"a" * 63 + b"\0", FORMERR),  # no type
        (HEADER + (b"\x01a" * 128) + b"\0" + A_IN, FORMERR),  # 257 bytes of name
        (HEADER + (b"\x01a" * 127) + b"\0" + A_IN, REFUSED),  # 255 are one
        (HEADER + b"\0" + b"\0\x29\0\1", FORMERR),  # OPT is no type to ask for
        (HEADER[:10] + b"\0\2" + b"\0" + A_IN + OPT * 2, FORMERR),
        (HEADER[:10] + b"\0\1" + b"\0" + A_IN + b"\xc0\x0c" + OPT[1:], FORMERR),
        (HEADER[:6] + b"\0\1\0\0\0\0" + b"\0" + A_IN + OPT, FORMERR),  # among the answers
        (HEADER[:10] + b"\xff\xff" + b"\0" + A_IN + OPT, FORMERR),
        (bytes.fromhex("1234 2900 0001 0000 0000 0000") + GOOD[12:], 4),  # UPDATE
        (bytes.fromhex("1234 0900 0000"), None),
    ],
)
def test_what_is_malformed_is_told_so(payload: bytes, code: int | None) -> None:
    assert code_of(payload) == code


def test_an_error_keeps_id_opcode_and_rd() -> None:
    query = parse_query(bytes.fromhex("1234 2900 0001 0000 0000 0000"))
    assert query is not None and answer(query, make_zone()) == bytes.fromhex("1234 a904 0000 0000 0000 0000")


def test_damaged_queries_are_answered_or_dropped() -> None:
    zone = make_zone()
    for payload in [*prefixes(GOOD), *(packet for _, packet in corruptions(GOOD))]:
        query = parse_query(payload)
        if query is not None:
            wire = answer(query, zone)
            assert len(wire) <= 512 and wire[:2] == payload[:2] and wire[2] & 0x80
            dns.message.from_wire(wire)


@given(st.binary(max_size=80).map(lambda tail: HEADER + tail) | st.binary(max_size=80))
def test_any_bytes_are_answered_or_dropped(payload: bytes) -> None:
    query = parse_query(payload)
    if query is not None:
        assert len(answer(query, make_zone())) <= 512


# --- passing on ----------------------------------------------------------------------------------------------------


def test_what_is_passed_on_comes_back() -> None:
    asked = dns.message.make_query("Example.COM", "A", id=7)
    query = parse_query(asked.to_wire())
    assert query is not None
    passed_on = dns.message.from_wire(pass_on(query, 0xBEEF))
    assert (passed_on.id, passed_on.question, passed_on.flags) == (0xBEEF, asked.question, asked.flags)
    reply = dns.message.make_response(passed_on)
    reply.answer.append(dns.rrset.from_text("Example.COM.", 30, "IN", "A", "192.0.2.1"))
    wire = reply.to_wire()
    assert responds(wire, query, 0xBEEF)
    assert asked.is_response(dns.message.from_wire(with_id(wire, 7)))
    assert not responds(wire, query, 0xBEEE)
    assert not responds(passed_on.to_wire(), query, 0xBEEF)
    other = parse_query(dns.message.make_query("example.com", "A").to_wire())
    assert other is not None and not responds(wire, other, 0xBEEF)
    bare = bytes.fromhex("beef 8182 0000 0000 0000 0000")
    assert responds(bare, query, 0xBEEF) and not responds(bare[:3] + b"\x80" + bare[4:], query, 0xBEEF)
    for prefix in prefixes(wire[:12] + query.question):
        assert not responds(prefix, query, 0xBEEF)


def test_a_failure_says_no_more_than_that() -> None:
    query = parse_query(dns.message.make_query("example.com", "A").to_wire())
    assert query is not None
    response = dns.message.from_wire(failure(query, SERVFAIL, recursion_available=True))
    assert (
        response.rcode() == dns.rcode.SERVFAIL and response.flags & dns.flags.RA and not response.flags & dns.flags.AA
    )


# --- names that users may give -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "Web-1", "0", "x" * 63, "xn--bcher-kva"])
def test_host_names(text: str) -> None:
    assert valid_label(text) == text.lower()


@pytest.mark.parametrize("text", ["", "-a", "a-", "a.b", "a_b", "x" * 64, "ä", "a b", "a\n", "\N{KELVIN SIGN}"])
def test_what_is_no_host_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        valid_label(text)


@pytest.mark.parametrize("text", ["internal", "a.b.c.", "Tenant-1.Example.ORG", ".".join(["x" * 62] * 3)])
def test_domains(text: str) -> None:
    domain = valid_domain(text)
    assert domain == text.lower().removesuffix(".")
    zone = Zone([domain])
    zone.put("p", Host((f"{'h' * 63}.{domain}",), (1 << 24,)))
    assert data(ask(zone, f"{'h' * 63}.{domain}")) == ["1.0.0.0"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "none"),
        (".", "none"),
        ("a..b", "none"),
        (".a", "none"),
        ("a.-b", "none"),
        ("a.b_c", "none"),
        ("10.0.0.1", "number"),
        ("\N{KELVIN SIGN}", "none"),
        (".".join(["x" * 63] * 3), "too long"),
    ],
)
def test_what_is_no_domain(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        valid_domain(text)


def test_a_zone_takes_names_and_prefixes_only() -> None:
    for domains, wrong in (([""], []), (["a..b"], []), ([], ["10.0.0.1/24"]), ([], ["x"])):
        with pytest.raises(ValueError):
            Zone(domains, wrong)
    zone = make_zone()
    with pytest.raises(ValueError):
        zone.put("p2", Host(("a..b",)))
    assert data(ask(zone, "db.vms.internal")) == ["10.1.0.11"]


def test_queries_are_values() -> None:
    assert parse_query(GOOD) == parse_query(GOOD) != Query(1, 0)
