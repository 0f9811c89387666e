"""Framing and decoding of OVSDB's JSON stream, against the standard library and python-ovs' own parser."""

from __future__ import annotations

import errno
import json
from typing import Any

import ovs.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novanet_apps.ovsdb.fast_json import MAX_DEPTH, Connection, Framer

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12) | st.sampled_from(
    ['"', "\\", '\\"', "{", "}", '{"}', "\\\\", "é", "\U0001f600", "]}", "\n"]
)
SCALAR = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
MESSAGE = st.dictionaries(TEXT, VALUE, max_size=4)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Messages, and their bytes cut anywhere."""
    messages = draw(st.lists(MESSAGE, max_size=5))
    data = b""
    for message in messages:
        data += json.dumps(message, ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1))).encode()
        data += draw(st.sampled_from([b"", b"", b"\n", b" \r\n\t"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return messages, [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(streams())
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(stream: tuple[list[Any], list[bytes]]) -> None:
    messages, parts = stream
    framer = Framer()
    assert [message for part in parts for message in framer.feed(part)] == messages
    assert framer.idle


@given(MESSAGE)
def test_values_are_those_of_python_ovs(message: dict[str, Any]) -> None:
    text = json.dumps(message)
    assert Framer().feed(text.encode()) == [ovs.json.from_string(text)]


@given(streams(), st.binary(max_size=6), st.integers(0, 200))
def test_garbage_is_refused_and_nothing_else_happens(
    stream: tuple[list[Any], list[bytes]], noise: bytes, at: int
) -> None:
    data = b"".join(stream[1])
    framer = Framer()
    try:
        for byte in data[:at] + noise + data[at:]:
            framer.feed(bytes([byte]))
    except ValueError:
        pass


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_messages_or_an_error(parts: list[bytes]) -> None:
    framer = Framer()
    try:
        for part in parts:
            for message in framer.feed(part):
                assert isinstance(message, dict)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"GET / HTTP/1.1",
        b"}",
        b'"x"',
        b'{"a" 1}',
        b'{"a":1}x',
        b'{"a":[}',
        b'{"\xff":1}',
        b'{"a":"\\ud800"}',
        b'{"a":01}',
    ],
)
def test_what_is_not_json_objects_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        framer = Framer()
        framer.feed(data[:3])
        framer.feed(data[3:] + b"{")


def test_limits() -> None:
    with pytest.raises(ValueError, match="longer than 1000 bytes"):
        framer = Framer(1000)
        for _ in range(2000):
            framer.feed(b'{"a":"' if framer.idle else b"x")
    with pytest.raises(ValueError, match="nested"):
        Framer().feed(b'{"a":' * (MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="nested"):
        Framer().feed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"} ")


def test_a_large_message_in_small_pieces_is_scanned_once() -> None:
    """Scanning from the beginning with every piece would take minutes, as it does in python-ovs."""
    value = {
        "rows": [{"name": f"p{n}", "quoted": '\\"{', "pad": "x" * 40} for n in range(60_000)],
        "one": "y" * 4_000_000,
    }
    data = json.dumps(value).encode()
    framer = Framer()
    found = [message for start in range(0, len(data), 512) for message in framer.feed(data[start : start + 512])]
    assert found == [value]


class Stream:
    """A python-ovs stream that gives what it was made with, then would block."""

    def __init__(self, *reads: bytes) -> None:
        self.name = "test"
        self.socket = None
        self.reads = list(reads)
        self.sent = b""

    def recv(self, _size: int) -> tuple[int, bytes]:
        return (0, self.reads.pop(0)) if self.reads else (errno.EAGAIN, b"")

    def send(self, data: bytes) -> int:
        self.sent += data[:7]
        return min(7, len(data))

    def close(self) -> None:
        pass


def test_a_connection_puts_characters_together_that_two_reads_cut() -> None:
    data = '{"method":"update","id":null,"params":["ä\U0001f600"]}'.encode()
    for cut in range(1, len(data)):
        rpc = Connection(Stream(data[:cut]))
        assert rpc.recv() == (errno.EAGAIN, None)
        rpc.stream.reads.append(data[cut:])
        error, message = rpc.recv()
        assert error == 0 and message is not None
        assert message.params == ["ä\U0001f600"]


def test_a_connection_closes_on_what_is_not_json_rpc() -> None:
    for data in (b"hello", b'{"method":5}', b'{"unexpected":1}', b"{}"):
        rpc = Connection(Stream(data))
        assert rpc.recv() == (errno.EPROTO, None)
        assert rpc.detail.startswith("not OVSDB's protocol")
        assert rpc.recv() == (errno.EPROTO, None)


def test_a_connection_sends_all_of_what_is_queued() -> None:
    import ovs.jsonrpc

    stream = Stream()
    rpc = Connection(stream)
    rpc.send(ovs.jsonrpc.Message.create_notify("echo", ["ü" * 30]))
    assert stream.sent == b"", "only run() uses the socket"
    rpc.run()
    assert json.loads(stream.sent) == {"method": "echo", "params": ["ü" * 30], "id": None}
    assert rpc.get_backlog() == 0
