"""What is in a datagram, whatever it is: sFlow v5, NetFlow v5 and v9, IPFIX. In full detail, and at the pace of Python.

This is what tells what is right; ``rows`` makes of it the rows that are stored.
"""

from __future__ import annotations

from . import netflow, sflow
from .reader import Truncated
from .results import Decoded
from .state import State


class Malformed(ValueError):
    """It is none of them, or not even its header is whole."""


def decode(datagram: bytes, exporter: str, state: State) -> Decoded:
    """Read a datagram from an exporter, and remember what the next ones need.

    Raises Malformed; what is wrong further on is in ``problems``, and what came before it is taken.
    """
    try:
        version, found = _decoded(datagram, exporter, state)
    except Truncated as cut:
        raise Malformed(f"header: {cut}") from cut
    state.domain(exporter, version, found.domain).count(found.sequence, found.units)
    return found


def _decoded(datagram: bytes, exporter: str, state: State) -> tuple[int, Decoded]:
    if datagram[:4] == b"\0\0\0\5":
        return SFLOW_DOMAIN, sflow.decode(datagram)
    match int.from_bytes(datagram[:2], "big") if len(datagram) > 1 else -1:
        case netflow.V5:
            return netflow.V5, netflow.decode_v5(datagram, exporter, state)
        case netflow.V9:
            return netflow.V9, netflow.decode_v9(datagram, exporter, state)
        case netflow.IPFIX:
            return netflow.IPFIX, netflow.decode_ipfix(datagram, exporter, state)
    raise Malformed(
        f"begins with {datagram[:4].hex() or 'nothing'}: no version of sFlow, NetFlow or IPFIX that is known"
    )


SFLOW_DOMAIN = 100
"""Keeps sFlow's sub-agents apart from NetFlow's domains."""
