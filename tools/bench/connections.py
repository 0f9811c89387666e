"""Short TCP connections as fast as they are made and ended between two hosts: ``serve`` in one, ``connect`` in the other.

    python -IS connections.py serve PORT
    python -IS connections.py connect ADDRESS PORT COUNT FIRST

``connect`` keeps PARALLEL connections under way: each is opened, carries a byte there and one back, and ends by FIN from the
server first, so that nothing is reset. Source ports go up from FIRST, and a caller that hands on never uses one twice: a
connection that conntrack still remembers would make the switch do other work. It prints seconds and failures as JSON.
"""

import contextlib
import json
import select
import socket
import sys
import time

PARALLEL = 16
PATIENCE = 5.0
"""Seconds without any event after which the connections under way count as failed."""
BACKLOG = 1024


def serve(port: int) -> None:
    """Answer a byte by a byte, and close; until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, select.epoll() as ready:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        ready.register(listener, select.EPOLLIN)
        print("ready", flush=True)
        accepted: dict[int, socket.socket] = {}
        while True:
            for number, _ in ready.poll():
                if number == listener.fileno():
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            connection, _ = listener.accept()
                            accepted[connection.fileno()] = connection
                            ready.register(connection, select.EPOLLIN)
                else:
                    with accepted.pop(number) as connection, contextlib.suppress(OSError):
                        connection.send(connection.recv(1))


class Client:
    """Makes connections, one for each source port."""

    def __init__(self, address: tuple[str, int], count: int, first: int) -> None:
        self.address = address
        self.ports = iter(range(first, first + count))
        self.ready = select.epoll()
        self.open: dict[int, socket.socket] = {}
        self.failed = 0

    def run(self) -> None:
        """Until all are made and ended."""
        for _ in range(PARALLEL):
            self._next()
        while self.open:
            events = self.ready.poll(PATIENCE)
            if not events:
                self.failed += len(self.open)
                return
            for number, event in events:
                self._go_on(number, event)

    def _next(self) -> None:
        port = next(self.ports, None)
        if port is None:
            return
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # where another's has been a moment ago
        connection.bind(("", port))
        connection.connect_ex(self.address)
        self.open[connection.fileno()] = connection
        self.ready.register(connection, select.EPOLLOUT)

    def _go_on(self, number: int, event: int) -> None:
        """It is established, or something has come: the answer, or the end, which follows it."""
        connection = self.open[number]
        try:
            if event == select.EPOLLOUT:
                connection.send(b"?")
                self.ready.modify(number, select.EPOLLIN)
                return
            if connection.recv(2):
                return
        except OSError:
            self.failed += 1
        del self.open[number]
        connection.close()
        self._next()


def connect(address: str, port: int, count: int, first: int) -> dict[str, float]:
    """So many connections."""
    client = Client((address, port), count, first)
    began = time.monotonic()
    client.run()
    return {"seconds": time.monotonic() - began, "failed": client.failed}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(connect(sys.argv[2], *map(int, sys.argv[3:]))))
