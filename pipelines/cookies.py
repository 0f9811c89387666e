"""Cookies: which app and which object a flow belongs to, readable in ``ovs-ofctl dump-flows``.

    app (8 bits) | epoch (8) | owner (48)

The app byte is ours (0x4e, "N"); the epoch is the generation of the pipeline's layout, raised when a change of it
should show; the owner is a hash of (kind, id).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

APP = 0x4E
LEARNED = 0x4C
"""The same byte of flows that a switch has learned: nobody's, so that they are left to it."""
EPOCH = 1


def learned_cookie(number: int) -> int:
    """The cookie of flows that are learned for something with this 32-bit number."""
    return LEARNED << 56 | EPOCH << 48 | number


@lru_cache(maxsize=65536)
def cookie(owner: tuple[str, str]) -> int:
    """The 64-bit cookie of an owner's flows."""
    digest = blake2b("/".join(owner).encode(), digest_size=6).digest()
    return APP << 56 | EPOCH << 48 | int.from_bytes(digest, "big")
