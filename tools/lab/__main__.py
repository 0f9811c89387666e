"""``novanet-lab`` (or ``python -m tools.lab``): bring a lab up by hand, see which labs there are, remove dead ones."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import uuid
from collections.abc import Sequence

from tools.lab import registry
from tools.lab.errors import LabError
from tools.lab.lab import Lab
from tools.lab.openvswitch import INTEGRATION


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong arguments, 130 ended by Ctrl-C or SIGTERM before the lab was up."""
    parser = argparse.ArgumentParser(prog="novanet-lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring a lab up, show what is in it, and keep it until Ctrl-C")
    up.add_argument("--hypervisors", type=int, default=3, metavar="N", help="default: 3")
    up.add_argument(
        "--vms", type=int, default=2, metavar="N", help="VMs on each hypervisor, on a plain br-int; default: 2"
    )
    up.add_argument("--mtu", type=int, default=1500, metavar="BYTES", help="of the underlay; default: 1500")
    up.add_argument("--ipv6", action="store_true", help="IPv6 underlay")
    up.add_argument(
        "--ovs-bindir", metavar="DIR", help="OVS programs to use; default: $NOVANET_OVS_BINDIR, then the installed ones"
    )
    commands.add_parser("list", help="the labs of this machine")
    commands.add_parser("clean", help="remove labs whose owners are gone")
    options = parser.parse_args(arguments)
    try:
        return {"up": _up, "list": _list, "clean": _clean}[options.command](options)
    except LabError as error:
        print(f"novanet-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _up(options: argparse.Namespace) -> int:
    begin = time.monotonic()
    lab = Lab(options.hypervisors, mtu=options.mtu, ipv6_underlay=options.ipv6, ovs_bindir=options.ovs_bindir)
    with lab:
        for hypervisor in lab.hypervisors if options.vms else ():
            hypervisor.add_bridge()
            for _ in range(options.vms):
                number = len(lab.vms) + 1
                addresses = [(f"10.0.{number >> 8}.{number & 0xFF}", 16), (f"fd00::{number:x}", 64)]
                mac = f"02:00:00:00:{number >> 8:02x}:{number & 0xFF:02x}"
                hypervisor.plug(str(uuid.uuid4()), mac, addresses, mtu=options.mtu - 100)
        print(
            f"lab {lab.run_id}: OVS {lab.programs.version}, up after {time.monotonic() - begin:.2f} s, files in {lab.directory}\n"
        )
        _table([["hypervisor", "tunnel endpoint", "namespace", "OVSDB"],
                *([h.name, h.tunnel_ip, h.namespace, h.ovsdb] for h in lab.hypervisors)])  # fmt: skip
        if options.vms:
            print(f"\nVMs are on a plain {INTEGRATION}: those of one hypervisor reach each other.\n")
            _table([["VM", "hypervisor", "interface", "iface-id", "namespace"],
                    *([v.name, v.hypervisor, v.interface, v.port_id, v.namespace] for v in lab.vms)])  # fmt: skip
            print(f"\nTry: sudo ip netns exec {lab.vms[0].namespace} ping 10.0.0.2")
        print("Ctrl-C removes the lab.", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print(f"\nremoving lab {lab.run_id}")
    return 0


def _list(_: argparse.Namespace) -> int:
    rows = [[r.run_id, str(r.owner), "owner gone" if r.stale else "in use", r.directory] for r in registry.records()]
    _table([["run id", "owner", "state", "files"], *rows])
    return 0


def _clean(_: argparse.Namespace) -> int:
    registry.require_root()
    removed = registry.clean()
    for record in removed:
        print(f"removed lab {record.run_id} of process {record.owner}, which is gone")
    if not removed:
        print("nothing to remove")
    return 0


def _table(rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
