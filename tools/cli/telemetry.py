"""``novanet flows …``: what talks to what; and ``novanet top``, the same live in the terminal."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args
from urllib.parse import urlencode

from novanet_apps.telemetry.recorder.questions import By, Order

from .client import Client
from .errors import OK
from .system import follow
from .tables import amount, print_json, table

_CHOSEN = {
    "port": ("port", "ports"), "peer": ("port", "ports"), "network": ("network", "networks"),
    "hypervisor": ("hypervisor", "hypervisors"), "security_group": ("security-group", "security-groups"),
}  # fmt: skip
_PARAMETERS = {"peer": "peer_port_id"}
_PLAIN = {"project": "project_id", "address": "address", "protocol": "protocol", "service": "service"}
_PASSED = ("start", "end", "seconds", "by", "order", "limit", "step")
CLEAR, HOME, REST = "\x1b[2J", "\x1b[H", "\x1b[J"


def add(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    help = "Who talks to whom, how much, since when."
    noun = nouns.add_parser("flows", help=help, description=help)
    verbs = noun.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[..., int], help: str, *own: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help, parents=[common])
        made.set_defaults(run=run)
        _options(made, own)
        return made

    which = tuple(_CHOSEN) + tuple(_PLAIN)
    sums = ("order", "limit", "time", *which)
    verb("top", top, "Who sent and received most.", "by", *sums)
    verb("conversations", conversations, "Pairs of hosts with most traffic.", *sums)
    verb("series", series, "Sums over time.", "step", "time", *which)
    verb("matrix", matrix, "Traffic from hypervisor to hypervisor.", *sums)
    verb("list", flows, "Flows as they came, the newest first.", "limit", "time", *which)
    verb("rules", rules, "Rules of security groups, by what they have decided.", "limit", "security_group")
    verb("caches", caches, "How often datapaths' flow caches had a packet's flow, by hypervisor.")
    verb("anomalies", anomalies, "What was odd, the newest first.", "limit", "time", "project")
    verb("follow", following, "Flows as they come, until interrupted.", *which)
    verb("status", status, "Exporters, processes, and what was lost.")
    help = "Who talks most, live; ends with Ctrl-C."
    live: argparse.ArgumentParser = nouns.add_parser("top", help=help, description=help, parents=[common])
    live.set_defaults(run=watch)
    _options(live, ("by", "order", "limit", *which))
    live.add_argument("--seconds", default="10", metavar="SECONDS", help="that the rates are of; 10 when left out")
    live.add_argument("--delay", type=float, default=2.0, metavar="SECONDS", help="between two looks; 2 when left out")
    live.add_argument("--iterations", type=int, default=0, metavar="N", help="end after so many looks; 0: never")


def _options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        option = f"--{name.replace('_', '-')}"
        if name == "by":
            parser.add_argument(option, choices=get_args(By), help="what is summed up; port when left out")
        elif name == "order":
            parser.add_argument(option, choices=get_args(Order), help="what comes first; bytes when left out")
        elif name == "time":
            parser.add_argument("--start", metavar="TIME", help="RFC 3339, or Unix seconds")
            parser.add_argument("--end", metavar="TIME", help="now when left out")
            parser.add_argument(
                "--seconds", metavar="SECONDS", help="before the end, instead of --start; 300 when left out"
            )
        elif name in _CHOSEN:
            help = "the other end of --port" if name == "peer" else f"flows of this {_CHOSEN[name][0]}"
            parser.add_argument(option, metavar="NAME|ID", help=help)
        else:
            parser.add_argument(option, metavar=name.upper())


def _ask(arguments: argparse.Namespace, client: Client, what: str) -> Any:
    return client.call("GET", f"/v1/telemetry/{what}{_query(arguments, client)}")


def _query(arguments: argparse.Namespace, client: Client) -> str:
    asked: dict[str, str] = {}
    for name in _PASSED:
        if (value := getattr(arguments, name, None)) is not None:
            asked[name] = value
    for name, (kind, collection) in _CHOSEN.items():
        if value := getattr(arguments, name, None):
            asked[_PARAMETERS.get(name, f"{name}_id")] = client.id_of(kind, collection, value)
    for name, parameter in _PLAIN.items():
        if value := getattr(arguments, name, None):
            asked[parameter] = value
    return f"?{urlencode(asked)}" if asked else ""


def _print(arguments: argparse.Namespace, found: Any, head: Sequence[str], row: Callable[[Any], Sequence[Any]]) -> int:
    if arguments.output == "json":
        print_json(found)
    else:
        print(table(head, [row(each) for each in found["items"]]))
    return OK


def top(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows top``."""
    return _print(arguments, _ask(arguments, client, "top"), *_top_columns(arguments.by or "port"))


def _top_columns(by: str, seconds: float = 0) -> tuple[Sequence[str], Callable[[Any], Sequence[Any]]]:
    """Sums, or with ``seconds`` rates."""

    def number(value: int) -> str:
        return f"{amount(round(8 * value / seconds))}bit/s" if seconds else amount(value)

    def row(each: dict[str, Any]) -> Sequence[Any]:
        ways = [number(each[name]) if name in each else "" for name in ("bytes_out", "bytes_in")]
        return (
            each["name"] or each["key"],
            *ways,
            number(each["bytes"]),
            amount(each["packets"]),
            amount(each["flows"]),
            _off(each),
        )

    return (by, "sent", "received", "both", "packets", "flows", "error"), row


def _off(each: dict[str, Any]) -> str:
    return f"±{each['error_percent']:g}%" if each["error_percent"] else ""


def conversations(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows conversations``."""
    head = ("one", "other", "protocol", "service", "there", "back", "packets", "flows", "error")
    return _print(arguments, _ask(arguments, client, "conversations"), head, lambda each: (
        each["src_name"] or each["src"], each["dst_name"] or each["dst"], each["protocol"], each["service"] or "",
        amount(each["bytes_there"]), amount(each["bytes_back"]), amount(each["packets"]), amount(each["flows"]), _off(each),
    ))  # fmt: skip


def series(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows series``."""
    head = ("at", "sent", "received", "both", "packets", "flows", "bit/s")
    return _print(arguments, _ask(arguments, client, "series"), head, lambda each: (
        each["at"], amount(each["bytes_out"]), amount(each["bytes_in"]), amount(each["bytes"]), amount(each["packets"]),
        amount(each["flows"]), amount(round(8 * each["bytes"] / each["step"])),
    ))  # fmt: skip


def matrix(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows matrix``."""
    return _print(arguments, _ask(arguments, client, "matrix"), ("from", "to", "bytes", "packets", "error"), lambda each: (
        each["src_hypervisor"] or "outside", each["dst_hypervisor"] or "outside", amount(each["bytes"]), amount(each["packets"]),
        _off(each),
    ))  # fmt: skip


def _flow(each: dict[str, Any]) -> tuple[Any, ...]:
    ends = ("src", "sport"), ("dst", "dport")
    return *(f"{each[f'{end}_name'] or each[end]}:{each[port]}" for end, port in ends), each["protocol"]


def flows(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows list``."""
    head = ("time", "from", "to", "protocol", "bytes", "packets")
    return _print(arguments, _ask(arguments, client, "flows"), head, lambda each: (
        each["time"], *_flow(each), amount(each["bytes"]), amount(each["packets"]),
    ))  # fmt: skip


def rules(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows rules``."""
    head = ("rule", "security_group", "direction", "action", "protocol", "packets", "bytes")
    return _print(arguments, _ask(arguments, client, "rules"), head, lambda each: (
        each["security_group_rule_id"], each["security_group"] or each["security_group_id"], each["direction"],
        each["action"], each["protocol"] or "any", amount(each["packets"]), amount(each["bytes"]),
    ))  # fmt: skip


def caches(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows caches``."""
    head = ("hypervisor", "packets", "misses", "lost", "hit rate", "flows", "masks", "in", "until")
    return _print(arguments, _ask(arguments, client, "caches"), head, lambda each: (
        each["hypervisor"] or each["exporter"], amount(each["packets"]), amount(each["misses"]), amount(each["lost"]),
        "" if each["hit_percent"] is None else f"{each['hit_percent']:g}%", amount(each["flows"]), each["masks"],
        f"{each['seconds']:g} s", each["time"],
    ))  # fmt: skip


def anomalies(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows anomalies``."""
    found = _ask(arguments, client, "anomalies")
    return _print(arguments, found, ("time", "kind", "what"), lambda each: (each["time"], each["kind"], each["text"]))


def status(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows status``: exit code 0 when all is well, 1 when not."""
    found = client.call("GET", "/v1/telemetry/status")
    if arguments.output == "json":
        print_json(found)
        return OK if found["healthy"] else 1
    storage = found["storage"]
    print(
        f"{amount(storage['stored'])} rows stored, {storage['waiting']} wait, {storage['lost']} lost; {amount(storage['size'])}B\n"
    )
    rows = [
        (each["address"], each["hypervisor_id"], each["last"], amount(each["rows"]), *each["lost"].values())
        for each in found["exporters"]
    ]
    print(table(("exporter", "hypervisor", "last", "rows", "lost on the way", "by the kernel", "in the queue"), rows))
    for problem in found["problems"]:
        print(f"\nwarning: {problem}")
    return OK if found["healthy"] else 1


def following(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet flows follow``: a line a flow, until interrupted."""

    def shown(name: str, data: dict[str, Any]) -> None:
        if name != "flows":
            return
        for each in data["items"]:
            if arguments.output == "json":
                print_json({"time": data["time"], **each})
            else:
                source, target, protocol = _flow(each)
                print(
                    f"{data['time']}  {source} > {target}  {protocol}  {amount(each['bytes'])}B  {each['packets']} packets"
                )
        if data["skipped"] and arguments.output != "json":
            print(f"… and {data['skipped']} more")
        sys.stdout.flush()

    return follow(client, f"/v1/telemetry/stream{_query(arguments, client)}", shown)


def watch(arguments: argparse.Namespace, client: Client) -> int:
    """``novanet top``: rates of the last seconds, again and again, in place where that is a terminal."""
    live = sys.stdout.isatty()
    if arguments.limit is None and live:
        arguments.limit = max(1, min(1000, shutil.get_terminal_size().lines - 4))
    head, row = _top_columns(arguments.by or "port", float(arguments.seconds))
    looks = 0
    if live:
        print(CLEAR, end="")
    while True:
        found = _ask(arguments, client, "top")
        if arguments.output == "json":
            print_json(found)
        else:
            text = f"{time.strftime('%H:%M:%S')}  rates of the last {arguments.seconds} s\n\n" + table(
                head, map(row, found["items"])
            )
            print(f"{HOME}{text.replace(chr(10), chr(27) + '[K' + chr(10))}{REST}" if live else text, flush=True)
        looks += 1
        if arguments.iterations and looks >= arguments.iterations:
            return OK
        time.sleep(arguments.delay)
