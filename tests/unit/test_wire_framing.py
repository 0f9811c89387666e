"""A stream of bytes becomes messages, however it is cut, and what is no OpenFlow is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.wire import VERSIONS, Framer, Message, PortStatus, Type, message, read

messages = st.lists(
    st.tuples(
        st.sampled_from(VERSIONS),
        st.integers(0, 35),
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=80),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(messages, st.lists(st.integers(0, 400), max_size=10))
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sent: list[tuple[int, int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(message(*one) for one in sent)
    framer = Framer()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    got = [one for start, end in itertools.pairwise(edges) for one in framer.feed(stream[start:end])]
    assert got == [Message(*one) for one in sent]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS
        bytes(8),
        bytes.fromhex("0400000000000001"),  # length 0
        bytes.fromhex("0402000700000001"),  # length 7
        b'{"id": 1}',
        b"\xff" * 64,
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="not OpenFlow"):
        Framer().feed(garbage)


def test_messages_before_garbage_are_lost_but_named_by_it() -> None:
    with pytest.raises(ValueError, match="0000000000000000"):
        Framer().feed(message(4, Type.ECHO_REQUEST, 1) + bytes(8))


def test_a_hello_may_offer_a_version_of_the_future() -> None:
    assert Framer().feed(message(9, Type.HELLO, 1)) == [Message(9, Type.HELLO, 1, b"")]


def test_a_message_longer_than_openflow_allows_is_refused() -> None:
    with pytest.raises(ValueError, match="65536 bytes"):
        message(4, Type.PACKET_OUT, 1, bytes(65528))


def test_a_port_that_comes_or_goes() -> None:
    """OFPT_PORT_STATUS (OpenFlow 1.3 and 1.5, section 7.4.3)."""
    for version, head in ((4, "00" * 4), (5, "0048" + "0000"), (6, "0048" + "0000")):
        for reason, gone in ((0, False), (1, True), (2, False)):
            port = bytes.fromhex("00000007" + head + "020000000001" + "0000") + b"tap0".ljust(16, b"\0") + bytes(40)
            body = bytes([reason]) + bytes(7) + port
            assert read(Message(version, 12, 0, body)) == PortStatus(gone, 7, "tap0")
    with pytest.raises(ValueError):
        read(Message(4, 12, 0, b"\0" * 20))
