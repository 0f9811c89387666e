"""Tens of thousands of TCP connections from few processes: servers that say who they are, and clients that keep what they open."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from tools.lab import VM

PROCESSES = 3
"""Of a server: each may have 20,000 files open on many a machine."""

SERVER = r"""
import resource, select, socket, sys
name = sys.argv[1].encode().ljust(8)
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
listener = socket.create_server(("", 8080), backlog=4096, reuse_port=True)
listener.setblocking(False)
poll, peers = select.epoll(), {}
poll.register(listener, select.EPOLLIN)
print("ready", flush=True)
while True:
    for number, event in poll.poll():
        if number == listener.fileno():
            while True:
                try:
                    peer, _ = listener.accept()
                except BlockingIOError:
                    break
                peer.setblocking(False)
                peers[peer.fileno()] = peer
                poll.register(peer, select.EPOLLIN)
                peer.send(name)
            continue
        peer = peers[number]
        try:
            data = peer.recv(64)
        except OSError:
            data = b""
        if data:
            peer.send(data)
        else:
            poll.unregister(number)
            del peers[number]
            peer.close()
"""

CLIENT = r"""
import json, resource, select, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
poll, held, whose = select.epoll(), {}, {}
AT_ONCE = 128

def opened(count, patience=20.0):
    begun, failed, names, waiting = 0, 0, {}, {}
    while begun < count or waiting:
        while begun < count and len(waiting) < AT_ONCE:
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.setblocking(False)
            client.connect_ex((host, port))
            begun += 1
            waiting[client.fileno()] = (client, time.monotonic() + patience)
            poll.register(client, select.EPOLLIN)
        for number, _ in poll.poll(0.2):
            if number not in waiting:
                continue
            client, _ = waiting.pop(number)
            try:
                name = client.recv(8).decode().strip()
            except OSError:
                name = ""
            poll.unregister(number)
            if name:
                held[number], whose[number] = client, name
                names[name] = names.get(name, 0) + 1
            else:
                failed += 1
                client.close()
        now = time.monotonic()
        for number in [number for number, (_, end) in waiting.items() if end < now]:
            client, _ = waiting.pop(number)
            poll.unregister(number)
            client.close()
            failed += 1
    return {"names": names, "failed": failed}

def checked(patience=90.0):
    intact, broken, todo, waiting, why = {}, {}, list(held), {}, {}
    def is_(number, where, what=""):
        where[whose[number]] = where.get(whose[number], 0) + 1
        if what:
            why[what] = why.get(what, 0) + 1
    while todo or waiting:
        while todo and len(waiting) < AT_ONCE:
            number = todo.pop()
            try:
                held[number].send(b"x")
            except OSError as problem:
                is_(number, broken, type(problem).__name__)
                continue
            waiting[number] = time.monotonic() + patience
            poll.register(number, select.EPOLLIN)
        for number, _ in poll.poll(0.2):
            try:
                data = held[number].recv(8)
                what = "" if data == b"x" else f"{data!r}"
            except OSError as problem:
                what = type(problem).__name__
            is_(number, broken if what else intact, what)
            del waiting[number]
            poll.unregister(number)
        now = time.monotonic()
        for number in [number for number, end in waiting.items() if end < now]:
            is_(number, broken, "silence")
            del waiting[number]
            poll.unregister(number)
    return {"intact": intact, "broken": broken, "why": why}

for line in sys.stdin:
    word, *rest = line.split()
    print(json.dumps(opened(int(rest[0])) if word == "open" else checked()), flush=True)
"""


class Server:
    """A member: it greets whoever comes with its name, and echoes."""

    def __init__(self, vm: VM, name: str) -> None:
        self.name, self.vm = name, vm
        argv = [sys.executable, "-c", SERVER, name]
        self._processes = [vm.popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
        for process in self._processes:
            assert process.stdout.readline() == "ready\n"

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        self._processes = []


class Client:
    """Keeps every connection that it opens."""

    def __init__(self, vm: VM, host: str, port: int) -> None:
        self.vm = vm
        vm.sysctl({"ipv4/ip_local_port_range": "2048 65000", "ipv4/tcp_syn_retries": 6})
        self._process = vm.popen(
            [sys.executable, "-c", CLIENT, host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, words: str) -> None:
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        assert line, f"the client in {self.vm.name} has ended"
        return dict(json.loads(line))


def open_more(clients: Iterable[Client], each: int) -> tuple[Counter[str], int]:
    """Every client opens so many more: how many each member got, and how many failed."""
    clients = list(clients)
    for client in clients:
        client.say(f"open {each}")
    said = [client.hear() for client in clients]
    return sum((Counter(one["names"]) for one in said), Counter()), sum(one["failed"] for one in said)


class Checked(NamedTuple):
    """Of how many connections of each member the other end has answered, or not; and what was the matter."""

    intact: Counter[str]
    broken: Counter[str]
    why: Counter[str]


def check(clients: Iterable[Client]) -> Checked:
    """Every connection is used once."""
    clients = list(clients)
    for client in clients:
        client.say("check")
    said = [client.hear() for client in clients]
    return Checked(*(sum((Counter(one[how]) for one in said), Counter()) for how in Checked._fields))
