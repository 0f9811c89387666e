"""Fewer flows for the same verdicts: packet filters' first-match rules as a smaller set that decides alike.

``minimise`` is all of it. Its steps are there for others: ``cover`` and ``cover_set`` (ports as value/mask pairs), ``collapse``
(prefixes), ``needed`` (redundant and shadowed rules). Only ``flows`` knows of OpenFlow.
"""

from .boxes import Box, Dimension, Rule, Space
from .conjunctions import Conjunction, Factored
from .cubes import cover_set
from .merging import collapse, merged
from .packets import SPACES, rule
from .program import STEPS, Minimised, minimise
from .ranges import Span, Ternary, cover, joined, prefixes
from .redundancy import needed, needed_numbers

__all__ = [
    "SPACES",
    "STEPS",
    "Box",
    "Conjunction",
    "Dimension",
    "Factored",
    "Minimised",
    "Rule",
    "Space",
    "Span",
    "Ternary",
    "collapse",
    "cover",
    "cover_set",
    "joined",
    "merged",
    "minimise",
    "needed",
    "needed_numbers",
    "prefixes",
    "rule",
]
