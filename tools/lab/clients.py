"""What dig, rdisc6, traceroute and ip say, as values."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tools.lab.errors import LabError

_STATUS = re.compile(r"status: (\w+)")
_FLAGS = re.compile(r";; flags: ([a-z ]*);")
_FIELD = re.compile(r"^ ?(?P<nested> ?)(?P<name>\S.*?)\s*: +(?P<value>.*)$")
_HOP = re.compile(r"^\s*\d+\s+(\S+)(?:\s+[\d.]+ ms)?(?:\s+(!\S+))?")
_FROM = re.compile(r"^ from (\S+)$")


@dataclass(frozen=True)
class Address:
    """An address of an interface. ``valid`` and ``preferred`` are seconds, None for ever."""

    ip: str
    prefixlen: int
    scope: str
    tentative: bool
    duplicate: bool
    """Duplicate address detection found somebody else to have it (RFC 4862, section 5.4)."""
    valid: int | None
    preferred: int | None


class Route(NamedTuple):
    """``destination`` is a prefix or ``default``; ``via`` is None where it is on the link."""

    destination: str
    via: str | None


class Answers(list[str]):
    """The data of a DNS answer's records. ``status`` is NOERROR, NXDOMAIN …, ``flags`` are dig's, such as ``aa``."""

    status: str
    flags: tuple[str, ...]
    ttls: tuple[int, ...]


@dataclass(frozen=True)
class RouterAdvertisement:
    """A router advertisement (RFC 4861, section 4.2; RFC 8106). ``lifetime`` is the router's, in seconds."""

    source: str
    hop_limit: int | None = None
    managed: bool = False
    other: bool = False
    preference: str = ""
    lifetime: int = 0
    mtu: int | None = None
    link_layer: str | None = None
    prefixes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Prefix -> what rdisc6 says of it: ``On-link``, ``Autonomous address conf.``, ``Valid time``, ``Pref. time``."""
    dns_servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


def addresses(shown: str, scope: str) -> dict[str, Address]:
    """What ``ip -j address show dev`` printed, by ``address/length``; those of a scope."""
    found = {}
    for entry in (entry for interface in json.loads(shown) for entry in interface.get("addr_info", ())):
        if entry.get("scope") == scope:
            # A lifetime of 2^32 - 1 seconds has no end.
            valid, preferred = (None if seconds == 0xFFFFFFFF else seconds for seconds in
                                (entry["valid_life_time"], entry["preferred_life_time"]))  # fmt: skip
            address = Address(
                entry["local"], entry["prefixlen"], scope, bool(entry.get("tentative")), bool(entry.get("dadfailed")),
                valid, preferred,
            )  # fmt: skip
            found[f"{address.ip}/{address.prefixlen}"] = address
    return found


def routes(*shown: str) -> list[Route]:
    """What ``ip -j route`` printed, those that belong to an address of the interface or are local left out."""
    found = []
    for entry in (entry for text in shown for entry in json.loads(text or "[]")):
        if entry.get("type", "unicast") != "unicast" or entry["dst"] == "fe80::/64":
            continue
        for hop in entry.get("nexthops", [entry]):
            found.append(Route(entry["dst"], hop.get("gateway")))
    return found


def answers(printed: str) -> Answers:
    """What ``dig +noall +comments +answer`` printed; raises LabError when that is no answer."""
    status, flags = _STATUS.search(printed), _FLAGS.search(printed)
    if not status:
        raise LabError(f"no DNS answer: {printed.strip()}")
    records = [line.split(None, 4) for line in printed.splitlines() if line and not line.startswith(";")]
    found = Answers(record[4] for record in records)
    found.status, found.flags = status[1], tuple(flags[1].split()) if flags else ()
    found.ttls = tuple(int(record[1]) for record in records)
    return found


def hops(printed: str) -> list[str]:
    """What ``traceroute -n -q 1`` printed: an address a hop, ``*`` where none answered, ``10.0.0.1 !N`` with a remark."""
    found = (_HOP.match(line) for line in printed.splitlines()[1:])
    return [" ".join(filter(None, hop.groups())) for hop in found if hop]


def router_advertisements(printed: str) -> list[RouterAdvertisement]:
    """What ``rdisc6`` printed: every advertisement ends with the line that tells its sender."""
    found: list[RouterAdvertisement] = []
    fields: list[tuple[str, str, str]] = []
    last = ""
    for line in printed.splitlines():
        if sender := _FROM.match(line):
            found.append(_advertisement(sender[1], fields))
            fields = []
        elif match := _FIELD.match(line):
            if not match["nested"]:
                last = match["name"]
            fields.append((match["name"], match["value"], last))
    return found


def _advertisement(source: str, fields: list[tuple[str, str, str]]) -> RouterAdvertisement:
    values: dict[str, Any] = {"source": source}
    prefixes: dict[str, dict[str, str]] = {}
    several: dict[str, list[str]] = {"Recursive DNS server": [], "DNS search list": [], "Route": []}
    for name, text, parent in fields:
        value = text.split("(")[0].strip()
        if name == "Prefix":
            prefixes[str(ipaddress.ip_network(value))] = {}
        elif parent == "Prefix":
            prefixes[next(reversed(prefixes))][name] = value
        elif name in several:
            several[name] += value.split()
        elif name in _PARSE:
            attribute, parse = _PARSE[name]
            values[attribute] = parse(value)
    dns, search, paths = (tuple(found) for found in several.values())
    return RouterAdvertisement(**values, prefixes=prefixes, dns_servers=dns, search=search, routes=paths)


def _number(text: str) -> int | None:
    return int(text.split()[0]) if text[:1].isdigit() else None


def _yes(text: str) -> bool:
    return text == "Yes"


_PARSE: dict[str, tuple[str, Any]] = {
    "Hop limit": ("hop_limit", _number),
    "Stateful address conf.": ("managed", _yes),
    "Stateful other conf.": ("other", _yes),
    "Router preference": ("preference", str),
    "Router lifetime": ("lifetime", _number),
    "MTU": ("mtu", _number),
    "Source link-layer address": ("link_layer", str.lower),
}
