"""What was found, and how it is told: in words, with the numbers that they rest on."""

from __future__ import annotations

from typing import Any, NamedTuple

NAMES = {53: "DNS", 123: "NTP", 389: "CLDAP", 1900: "SSDP", 11211: "memcached", 161: "SNMP", 19: "CHARGEN"}


class Finding(NamedTuple):
    """Something odd about one subject."""

    kind: str
    """``flood``, ``scan``, ``surge`` or ``outlier``."""
    subject: int
    score: float
    """How far above what is allowed: 1.0 is the limit."""
    numbers: dict[str, Any]


def shape(numbers: dict[str, Any]) -> str:
    """What a flood is made of."""
    if numbers["syn_share"] > 0.7:
        return "SYN flood"
    if numbers["amplified_share"] > 0.7:
        return "UDP amplification"
    if numbers["udp_share"] > 0.7:
        return "UDP flood"
    return "flood"


def sentence(finding: Finding, subject: str, heavy: str = "") -> str:
    """The explanation."""
    n = finding.numbers
    match finding.kind:
        case "flood":
            text = (
                f"{shape(n)} towards {subject}: {_count(n['unanswered'])} packets a second that it does not answer,"
                f" usual are {_count(n['usual'])}; {_sources(n)}, {n['protocol_share']}"
            )
            return f"{text}; most from {heavy}" if heavy and n["source_share"] > 0.2 else text
        case "outgoing-flood":
            return (
                f"{shape(n)} from {subject}: {_count(n['unanswered'])} packets a second that nobody answers,"
                f" usual are {_count(n['usual'])}"
            )
        case "scan":
            return (
                f"scan by {subject}: about {_count(n['targets'])} targets did not answer it within a minute,"
                f" {_count(n['hosts'])} hosts and {_count(n['ports'])} ports"
            )
        case "surge":
            return (
                f"surge at {subject}: {_count(n['flows'])} new flows a second from {_count(n['sources'])} sources,"
                f" usual are {_count(n['usual'])} flows"
            )
    return f"outlier at {subject}: " + ", ".join(f"{name} is {value}" for name, value in n["unusual"].items())


def protocols(syn: float, amplified: float, udp: float) -> str:
    """What unanswered packets are, in words."""
    if syn > 0.5:
        return f"{syn:.0%} of them SYN"
    return f"{amplified:.0%} of them from ports of UDP amplifiers" if amplified > 0.5 else f"{udp:.0%} of them UDP"


def _sources(numbers: dict[str, Any]) -> str:
    sources = int(numbers["sources"])
    if sources == 1:
        return "from one source"
    return f"from {sources} sources of entropy {numbers['source_entropy']:.2f}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
