"""What Maglev does (``maglev`` says why): members take, in turns, the first free slot of a permutation of their own.

``fill.c`` does it in a thirtieth of the time (docs/decisions/0015-maglev.md). It is built when NovaNet is installed; where there was no
compiler it is not there, and the loop below makes the same tables.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from .pools import Slots

NOBODY = 0xFFFF
"""Whose the slots are that nobody has taken."""
Places = NDArray[np.uint32]
Flags = NDArray[np.bool_]


def fill(order: Slots, start: Places, step: Places, taken: Flags) -> Slots:
    """Whose the slots are when member ``order[t]`` has, at turn t, taken the first free one of start, start + step, … modulo M.

    ``taken`` says for each of M slots, M a prime below 2^31, whether it is not free; there are not more turns than free ones. ``start`` is 0 to
    M - 1 and ``step`` 1 to M - 1 for each member.
    """
    library = _library()
    return _plain(order, start, step, taken) if library is None else _compiled(library, order, start, step, taken)


def compiled() -> bool:
    """Whether the compiled loop is there."""
    return _library() is not None


@lru_cache(256)
def prime(number: int) -> int:
    """The smallest prime that is not below ``number``."""
    while number < 2 or any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number


@cache
def _library() -> ctypes.CDLL | None:
    found = find_spec(f"{__package__}._fill")
    return None if found is None or found.origin is None else ctypes.CDLL(found.origin)


def _compiled(library: ctypes.CDLL, order: Slots, start: Places, step: Places, taken: Flags) -> Slots:
    table = np.full(len(taken), NOBODY, np.uint16)
    bits = np.zeros(len(taken) // 64 + 1, "<u8")
    packed = np.packbits(taken, bitorder="little")
    bits.view(np.uint8)[: len(packed)] = packed
    arrays = np.ascontiguousarray(order), start.copy(), np.ascontiguousarray(step), bits.astype(np.uint64), table
    lengths = ctypes.c_uint32(len(taken)), ctypes.c_uint32(len(order))
    library.novanet_fill(*lengths, *[ctypes.c_void_p(array.ctypes.data) for array in arrays])
    return table


def _plain(order: Slots, start: Places, step: Places, taken: Flags) -> Slots:
    size, closed, table = len(taken), bytearray(taken), [NOBODY] * len(taken)
    places, steps = start.tolist(), step.tolist()
    for member in order.tolist():
        at, by = places[member], steps[member]
        while closed[at]:
            at += by
            if at >= size:
                at -= size
        closed[at], table[at], places[member] = 1, member, at
    return np.array(table, np.uint16)
