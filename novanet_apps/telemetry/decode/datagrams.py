"""What is in a datagram, whatever it is: sFlow v5, NetFlow v5 and v9, IPFIX. In full detail, and at the pace of Python.

This is what tells what is right; ``rows`` makes of it the rows that are stored.
"""

from __future__ import annotations

from . import netflow, sflow
from .reader import Truncated
from .results import Decoded
from .state import Domain, State

SFLOW_DOMAIN = 1 << 16
"""Stands for the version of sFlow, of which 5 is NetFlow's as well."""


class Malformed(ValueError):
    """It is none of them, or not even its header is whole."""


def decode(datagram: bytes, exporter: str, state: State) -> Decoded:
    """Read a datagram from an exporter, and remember what the next ones need.

    Raises Malformed; what is wrong further on is in ``problems``, and what came before it is taken.
    """
    try:
        found = _decoded(datagram, exporter, state)
    except Truncated as cut:
        raise Malformed(f"header: {cut}") from cut
    domain = domain_of(datagram, exporter, found, state)
    if version_of(datagram) == netflow.IPFIX and found.domain == 0 and found.units and not found.flows:
        domain = state.counting(exporter, netflow.IPFIX, found.sequence)
    domain.count(found.sequence, found.units)
    return found


def domain_of(datagram: bytes, exporter: str, found: Decoded, state: State) -> Domain:
    """The domain that a datagram, which was decoded, is of."""
    return state.domain(exporter, version_of(datagram), found.domain)


def version_of(datagram: bytes) -> int:
    """5, 9, 10, or SFLOW_DOMAIN, where it is any that is known."""
    return SFLOW_DOMAIN if datagram[:4] == b"\0\0\0\5" else int.from_bytes(datagram[:2], "big")


def _decoded(datagram: bytes, exporter: str, state: State) -> Decoded:
    version = version_of(datagram)
    match version:
        case _ if version == SFLOW_DOMAIN:
            return sflow.decode(datagram)
        case netflow.V5:
            return netflow.decode_v5(datagram, exporter, state)
        case netflow.V9:
            return netflow.decode_v9(datagram, exporter, state)
        case netflow.IPFIX:
            return netflow.decode_ipfix(datagram, exporter, state)
    raise Malformed(
        f"begins with {datagram[:4].hex() or 'nothing'}: no version of sFlow, NetFlow or IPFIX that is known"
    )
