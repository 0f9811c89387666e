"""How often the datapath's flow caches had a packet's flow, as vswitchd counts it (ovs-vswitchd(8), dpif-netdev/pmd-stats-show; ovs-dpctl(8))."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Protocol

from novanet_apps.host_agent.conntrack import ConntrackError

LOG = logging.getLogger(__name__)

_PMD = {
    "phwol": "hardware", "simple match": "simple_match", "emc": "exact_match", "smc": "signature_match", "megaflow": "megaflow",
}  # fmt: skip
_HITS = re.compile(r"^\s*(phwol|simple match|emc|smc|megaflow) hits:\s*(\d+)", re.MULTILINE)
_MISSES = re.compile(r"^\s*miss with (success|failed) upcall:\s*(\d+)", re.MULTILINE)
_LOOKUPS = re.compile(r"lookups: hit:(\d+) missed:(\d+) lost:(\d+)")
UPCALL, LOST = "upcall", "lost"


class Asks(Protocol):
    """Asks vswitchd by its control socket."""

    def ask(self, method: str, *params: str) -> str:
        """The text of an answer. Raises ConntrackError."""


def lookups(asks: Asks, datapath_type: str) -> Counter[str]:
    """Packets by which cache had their flow, or ``upcall`` when none had, or ``lost``; empty when vswitchd does not say."""
    try:
        if datapath_type == "netdev":
            return of_threads(asks.ask("dpif-netdev/pmd-stats-show"))
        return of_datapaths(asks.ask("dpctl/show"))
    except ConntrackError as problem:
        LOG.debug("lookups of the datapath: %s", problem)
        return Counter()


def of_threads(text: str) -> Counter[str]:
    """From ``pmd-stats-show``, of all threads together."""
    found: Counter[str] = Counter()
    for name, count in _HITS.findall(text):
        found[_PMD[name]] += int(count)
    for how, count in _MISSES.findall(text):
        found[UPCALL if how == "success" else LOST] += int(count)
    return found


def of_datapaths(text: str) -> Counter[str]:
    """From ``dpctl/show``: the kernel has one cache."""
    found: Counter[str] = Counter()
    for hit, missed, lost in _LOOKUPS.findall(text):
        found["megaflow"] += int(hit)
        found[UPCALL] += int(missed)
        found[LOST] += int(lost)
    return found
