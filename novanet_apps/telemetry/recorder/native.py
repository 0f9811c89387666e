"""Columns in ClickHouse's Native format, made from numpy arrays; what chDB and ClickHouse both take without parsing text.

A block is the number of columns and of rows (varints), then for each column its name, its type and its values: fixed-size ones
as they lie in memory (little endian), strings each with its length before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_FIXED = {
    "UInt8": "u1", "UInt16": "<u2", "UInt32": "<u4", "UInt64": "<u8", "Int32": "<i4", "Int64": "<i8", "Float32": "<f4", "Float64": "<f8",
    "DateTime": "<u4",
}  # fmt: skip


class Column(NamedTuple):
    """One column: its type as ClickHouse writes it, and a value for each row."""

    type: str
    values: Any


def block(columns: Mapping[str, Column]) -> bytes:
    """The columns, all of the same length, as one block."""
    rows = len(next(iter(columns.values())).values)
    parts = [_varint(len(columns)), _varint(rows)]
    for name, column in columns.items():
        parts += [_text(name), _text(column.type), _values(column)]
    return b"".join(parts)


def _values(column: Column) -> bytes:
    if column.type == "IPv6":
        return np.ascontiguousarray(column.values).tobytes()
    if column.type == "String":
        return b"".join(_text(value) for value in column.values)
    if column.type == "Array(String)":
        return _arrays(column.values)
    return np.ascontiguousarray(column.values, dtype=_FIXED[column.type]).tobytes()


def _arrays(rows: Iterable[Sequence[str]]) -> bytes:
    kept = list(rows)
    ends = np.cumsum([len(row) for row in kept], dtype="<u8")
    return ends.tobytes() + b"".join(_text(value) for row in kept for value in row)


def repeated(codes: Any, names: Sequence[str]) -> list[str]:
    """The name of each code, as values of a column of strings."""
    return [names[code] for code in codes.tolist()]


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
