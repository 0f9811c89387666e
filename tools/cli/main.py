"""``novanet``: reads the command line and calls what it names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from topology.model import KINDS, LoadBalancer, Object

from . import captures, fields, load_balancers, objects, qos, routers, security_groups, system, telemetry, trace
from .client import DEFAULT_ENDPOINT, Client
from .errors import EXIT_CODES, OK, CliError

_MODULES = (routers, security_groups, load_balancers, qos, captures)
"""What has verbs of its own."""
_EPILOG = "exit codes:\n" + "\n".join(f"  {code}  {text}" for code, text in EXIT_CODES.items())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("everywhere")
    group.add_argument("-o", "--output", choices=("table", "json"), default="table", help="for people, or for scripts")
    group.add_argument(
        "--endpoint", metavar="URL", help=f"of the controller; else NOVANET_ENDPOINT, else {DEFAULT_ENDPOINT}"
    )
    group.add_argument(
        "--token-file", metavar="FILE",
        help="holds the token; else NOVANET_TOKEN, NOVANET_TOKEN_FILE, or admin.token of the controller's state directory",
    )  # fmt: skip
    group.add_argument("--cacert", metavar="FILE", help="CA certificate of an https:// endpoint; else NOVANET_CACERT")
    top = argparse.ArgumentParser(
        prog="novanet", description="Virtual networks, from the command line.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    nouns = top.add_subparsers(metavar="COMMAND", required=True)
    for cls in KINDS.values():
        _add_kind(nouns, cls, common)
    _add_qos(nouns, common)
    _add_system(nouns, common)
    trace.add(nouns, common)
    security_groups.add(nouns, common)
    telemetry.add(nouns, common)
    return top


def _add_qos(nouns: Any, common: argparse.ArgumentParser) -> None:
    help = "Quality of service: policies and their rules."
    noun = nouns.add_parser("qos", help=help, description=help)
    inner = noun.add_subparsers(metavar="COMMAND", required=True)
    for kind, name in qos.NOUNS.items():
        _add_kind(inner, KINDS[kind], common, name)
    qos.add_verify(inner, common)


def _add_kind(nouns: Any, cls: type[Object], common: argparse.ArgumentParser, name: str = "") -> None:
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    aliases = load_balancers.ALIASES.get(cls.KIND, ())
    noun = nouns.add_parser(name or cls.KIND, help=summary, description=summary, aliases=aliases)
    verbs = noun.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[..., int], help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help, parents=[common])
        made.set_defaults(run=lambda arguments, client: run(arguments, cls, client), kind=cls)
        return made

    listed = verb("list", objects.list_, f"Show the {cls.COLLECTION}; options choose among them.")
    fields.add_options(listed, cls, "list")
    listed.add_argument("--status", action="append", metavar="STATUS", help="BUILD, ACTIVE, DOWN, DEGRADED or ERROR")
    show = load_balancers.show if cls is LoadBalancer else objects.show
    verb("show", show, f"Show one {cls.KIND}.").add_argument("object", metavar="NAME|ID")
    if cls.DERIVED:
        return
    if not cls.SINGLE:
        created = verb("create", objects.create, f"Make a {cls.KIND}, or many.")
        fields.add_options(created, cls, "create")
        created.add_argument("--id", metavar="UUID", help="chosen by NovaNet when left out")
        created.add_argument(
            "--json",
            metavar="FILE",
            help="objects to make: one or an array, `-` reads standard input; options go over them",
        )
        _add_wait(created)
    changed = verb("set", objects.set_, f"Change a {cls.KIND}.")
    changed.add_argument("object", metavar="NAME|ID")
    fields.add_options(changed, cls, "set")
    changed.add_argument("--unset", action="append", metavar="FIELD", help="give a field its default again")
    _add_wait(changed)
    if not cls.SINGLE:
        verb("delete", objects.delete, f"Delete {cls.COLLECTION}.").add_argument(
            "objects", metavar="NAME|ID", nargs="+"
        )
    for each in (found for module in _MODULES for found in module.VERBS.get(cls.KIND, ())):
        own = verb(each.name, each.run, each.help)
        each.options(own)
        if each.waits:
            _add_wait(own)


def _add_wait(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--wait", type=float, metavar="SECONDS", help="until the switches have it, 300 at most")


def _add_system(nouns: Any, common: argparse.ArgumentParser) -> None:
    def noun(name: str, run: Callable[..., int], help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = nouns.add_parser(name, help=help, description=help, parents=[common])
        made.set_defaults(run=run)
        return made

    noun("status", system.status, "What is connected, realised, degraded.")
    noun("topology", system.topology, "Networks, subnets, ports and where they are.")
    followed = noun("events", system.events, "Follow what changes, until interrupted.")
    followed.add_argument("--kind", action="append", choices=list(KINDS), help="this kind only")
    tokens = nouns.add_parser("token", help="Access tokens, in the controller's state directory.")
    verbs = tokens.add_subparsers(metavar="VERB", required=True, dest="verb")
    for name, help in (
        ("create", "Make a token and print it."),
        ("list", "Show the tokens."),
        ("delete", "Delete a token."),
    ):
        verb = verbs.add_parser(name, help=help, description=help)
        verb.add_argument("--state-dir", metavar="DIRECTORY", help="of the controller")
        verb.add_argument("-o", "--output", choices=("table", "json"), default="table")
        verb.set_defaults(run=lambda arguments, client: system.token(arguments), local=True)
        if name != "list":
            verb.add_argument("name", metavar="NAME")
        if name == "create":
            verb.add_argument("--role", required=True, choices=("admin", "tenant", "reader"))
            verb.add_argument("--project", metavar="PROJECT", help="of a tenant, or of a reader of that project only")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    try:
        client = None if getattr(arguments, "local", False) else _client(arguments)
        code: int = arguments.run(arguments, client)
        sys.stdout.flush()
        return code
    except CliError as problem:
        print(f"novanet: {problem}", file=sys.stderr)
        return problem.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _client(arguments: argparse.Namespace) -> Client:
    endpoint = arguments.endpoint or os.environ.get("NOVANET_ENDPOINT") or DEFAULT_ENDPOINT
    return Client(endpoint, arguments.token_file, arguments.cacert or os.environ.get("NOVANET_CACERT"))


if __name__ == "__main__":
    sys.exit(main())
