"""What a window looks like from one place: a VM's port, a network, a service."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .entropy import spread
from .hashing import mixed
from .window import ACK, SYN, Window

_WELL_KNOWN = 49152
AMPLIFIERS = (17, 19, 53, 69, 111, 123, 137, 161, 389, 520, 1900, 3702, 5353, 11211)
"""UDP services that answer with more than they are asked (CISA, Alert TA14-017A)."""


class Features(NamedTuple):
    """A value for each subject."""

    subjects: Any
    packets: Any
    bytes: Any
    samples: Any
    flows: Any
    unanswered: Any
    """Packets a second; ``certain`` of them at least, with 95 % confidence, as few may have been sampled."""
    certain: Any
    sources: Any
    source_entropy: Any
    source_share: Any
    """Of unanswered packets, of the source that sent most."""
    targets: Any
    target_entropy: Any
    """Of destination ports."""
    syn_share: Any
    """Of unanswered packets: those of TCP with nothing but SYN; and so on."""
    amplified_share: Any
    udp_share: Any


def features(window: Window, subjects: Any) -> Features:
    """Sums of the rows of each subject (u8); rows of subject 0 are nobody's."""
    chosen = np.flatnonzero(subjects)
    names, group = np.unique(subjects[chosen], return_inverse=True)
    group = group.reshape(-1)
    count = len(names)
    rows = Window(*(column[chosen] for column in window))
    lost = rows.unanswered

    def total(values: Any) -> Any:
        return np.bincount(group, values, count)

    def share(mask: Any) -> Any:
        return total(np.where(mask, lost, 0.0)) / np.maximum(unanswered, 1e-9)

    unanswered = total(lost)
    sampled = total(np.where(lost > 0, rows.samples, 0.0))
    # what is found in n samples is off by 196/sqrt(n) % at most; where every packet was counted, by nothing
    doubt = np.where(sampled >= unanswered, 0.0, 1.96 / np.sqrt(np.maximum(sampled, 1.0)))
    doubt = np.where((sampled < unanswered) & (sampled < 8), 1.0, doubt)
    sources, source_entropy, _ = spread(group, mixed(rows.src), rows.packets, count)
    _, _, source_share = spread(group, mixed(rows.src), lost + 1e-9, count)
    targets, target_entropy, _ = spread(group, rows.dport, rows.packets, count)
    tcp, udp = rows.protocol == 6, rows.protocol == 17
    return Features(
        names, total(rows.packets), total(rows.bytes), total(rows.samples), total(np.ones(len(chosen))), unanswered,
        unanswered * np.clip(1.0 - doubt, 0.0, 1.0), sources, source_entropy, source_share, targets, target_entropy,
        share(tcp & (rows.flags & (SYN | ACK) == SYN)), share(udp & np.isin(rows.sport, AMPLIFIERS)), share(udp),
    )  # fmt: skip


def service(window: Window) -> Any:
    """The port that names the service for its clients' packets, else 0: the destination's, where it is one that services have."""
    wanted = (window.dport < _WELL_KNOWN) & (window.dport < window.sport)
    return np.where(wanted, window.dport, 0)
