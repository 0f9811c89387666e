"""Slot tables: which member of a pool has which of the slots that a switch hashes connections to.

``table`` makes them, ``matches`` says with which value/mask pairs a switch has them, ``moves`` what changed between two. Nothing here knows of
OpenFlow. The same members have the same table on every machine, in any order; why it is done so: docs/decisions/0015-maglev.md.
"""

from .changes import Moves, moves
from .filling import compiled
from .matches import SLOT_BITS, Match, matches
from .pools import MOST_WEIGHT, Slots
from .sizes import SIZES, choose_size, fits
from .tables import ALGORITHMS, table

__all__ = [
    "ALGORITHMS",
    "MOST_WEIGHT",
    "SIZES",
    "SLOT_BITS",
    "Match",
    "Moves",
    "Slots",
    "choose_size",
    "compiled",
    "fits",
    "matches",
    "moves",
    "table",
]
