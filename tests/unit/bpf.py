"""Runs programs of the classic BSD Packet Filter, as Linux's Documentation/networking/filter.rst has them."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from pipelines.classifier import TAG, TAG_PRESENT, Instruction

_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_OPERATIONS = {0x00: operator.add, 0x50: operator.and_, 0x60: operator.lshift, 0x70: operator.rshift}


def run(code: Sequence[Instruction], frame: bytes, tag: int | None = None) -> int:
    """What a program returns for a frame; ``tag``: the VLAN tag that Linux keeps beside it.

    Raises AssertionError for what Linux would refuse: words of memory that nobody has written, jumps out of the program.
    """
    a = x = 0
    memory: dict[int, int] = {}
    at = 0
    while True:
        assert at < len(code), "beyond the program's end"
        step, at = code[at], at + 1
        kind, value = step.code & 0x07, step.value
        if step.code == 0x06:
            return value
        if step.code in (0x00, 0x60):
            a = value if step.code == 0x00 else memory[value]
        elif kind == 0x00:
            if value in (TAG, TAG_PRESENT):
                a = int(tag is not None) if value == TAG_PRESENT else tag or 0
                continue
            start = value + (x if step.code & 0xE0 == 0x40 else 0)
            size = _SIZES[step.code & 0x18]
            if start + size > len(frame):
                return 0
            a = int.from_bytes(frame[start : start + size], "big")
        elif step.code in (0x01, 0x61):
            x = value if step.code == 0x01 else memory[value]
        elif step.code == 0x02:
            memory[value] = a
        elif kind == 0x04:
            operand = x if step.code & 0x08 else value
            a = _OPERATIONS[step.code & 0xF0](a, operand) & 0xFFFFFFFF
        elif step.code == 0x05:
            at += value
        elif kind == 0x05:
            met = {0x10: a == value, 0x20: a > value, 0x40: bool(a & value)}[step.code & 0xF0]
            at += step.if_true if met else step.if_false
        elif step.code in (0x07, 0x87):
            a, x = (a, a) if step.code == 0x07 else (x, x)
        else:
            raise AssertionError(f"instruction {step.code:#x}")
