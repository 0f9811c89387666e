"""ClickHouse by configuration: the same tables, blocks and questions over HTTP, before a server that hands them to chDB."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from chdb.session import Session

from novanet_apps.telemetry.recorder import questions as q
from novanet_apps.telemetry.recorder.engines import ClickHouse, EngineError
from novanet_apps.telemetry.recorder.native import Column

from .telemetry_recorder import RecorderProcess, stored
from .telemetry_world import rows, topology
from .test_telemetry_recorder import lately, told


class Server(ThreadingHTTPServer):
    """Speaks as much of ClickHouse's HTTP interface as is used; ``asked`` has the credentials of each request."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.session = Session(str(directory))
        self.asked: list[str] = []
        self.one_at_a_time = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(self.headers.get("Authorization", ""))
        try:
            with self.server.one_at_a_time:
                status, data = 200, self._run(query, body)
        except RuntimeError as problem:
            status, data = 500, str(problem).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _run(self, query: dict[str, str], body: bytes) -> bytes:
        session = self.server.session
        if "query" in query:  # an INSERT, whose body has the rows
            statement = query["query"].removesuffix(" FORMAT Native")
            memory = os.memfd_create("rows")
            try:
                with os.fdopen(memory, "wb", closefd=False) as file:
                    file.write(body)
                session.query(f"{statement} SELECT * FROM file('/proc/self/fd/{memory}', 'Native')", "Null")
            finally:
                os.close(memory)
            return b""
        parameters = {name.removeprefix("param_"): value for name, value in query.items() if name.startswith("param_")}
        answer = session.query(body.decode(), query.get("default_format", "Null"), params=parameters or None)
        return bytes(answer.bytes())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "clickhouse")
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def test_a_recorder_stores_and_answers_with_a_server(server: Server, tmp_path: Path) -> None:
    env = {"NOVANET_CLICKHOUSE_USER": "novanet", "NOVANET_CLICKHOUSE_PASSWORD": "s3cret"}
    recorder = RecorderProcess(tmp_path, ["--clickhouse", server.url], env)
    peer = told(recorder.start())
    peer.send(topology())
    peer.rows(rows(3, bytes=[100, 200, 300]))
    assert stored(peer, q.Top(filter=lately()), key="db", bytes_in=600, flows=3)["name"] == "db"
    assert [row["key"] for row in peer.ask(q.Top(filter=lately(scope="acme"), by="project"))] == ["acme"]
    assert recorder.end() == 0
    assert set(server.asked) == {"Basic bm92YW5ldDpzM2NyZXQ="} and "s3cret" not in recorder.log()


def test_rows_wait_while_the_server_is_away(server: Server, tmp_path: Path) -> None:
    recorder = RecorderProcess(tmp_path, ["--clickhouse", server.url])
    peer = told(recorder.start())
    server.session.query("RENAME TABLE novanet_telemetry.flows TO novanet_telemetry.away")
    peer.rows(rows(4))
    alarm = peer.next("status", lambda each: each["alarm"])
    assert alarm["waiting"] >= 4 and alarm["lost"] == 0
    server.session.query("RENAME TABLE novanet_telemetry.away TO novanet_telemetry.flows")
    peer.next("status", lambda each: not each["alarm"])
    assert stored(peer, q.Top(filter=lately()), key="db", flows=4)
    recorder.end()


def test_what_is_wrong_is_said(server: Server) -> None:
    engine = ClickHouse(server.url)
    with pytest.raises(EngineError, match="nothing_here"):
        engine.query("SELECT * FROM nothing_here", {})
    engine.execute("CREATE TABLE novanet_telemetry.t (a UInt64, b String) ENGINE = Memory")
    engine.insert("t", {"a": Column("UInt64", [2**64 - 1]), "b": Column("String", ["ü\\\t'"])})
    assert engine.query("SELECT * FROM novanet_telemetry.t WHERE b = {b:String}", {"b": "ü\\\t'"}) == [
        {"a": 2**64 - 1, "b": "ü\\\t'"}
    ]
    with pytest.raises(EngineError, match="no address of ClickHouse"):
        ClickHouse("clickhouse:9000")
    with pytest.raises(EngineError, match="does not answer"):
        ClickHouse("http://127.0.0.1:1")
