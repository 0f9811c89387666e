"""Generates the pages of docs/ that follow from the code: ``python -m tools.docs [--check]``.

With ``--check`` nothing is written; exit code 1 says which pages differ from what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pipelines import fields
from pipelines.tables import PIPELINE, Table

DOCS = Path(__file__).resolve().parent.parent / "docs"


def pipeline_page() -> str:
    """docs/pipeline.md: every table, its fields, and where packets go."""
    lines = [
        "# The pipeline",
        "",
        "Generated from `pipelines/tables.py` by `make docs`. One `br-int` a hypervisor; tables in this order.",
        "",
        "| no. | table | feature | what it decides | goes to | a packet that no flow wants |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(table) for table in PIPELINE]
    lines += ["", "## What each table matches", "", "| table | fields |", "|---|---|"]
    lines += [f"| `{table.name}` | {', '.join(dict.fromkeys(_field(f) for f in table.reads))} |" for table in PIPELINE]
    lines += [
        "",
        "## Registers",
        "",
        "| name | field | meaning |",
        "|---|---|---|",
        "| NETWORK | metadata | VNI of the network that the packet is in |",
        "| IN_PORT_KEY | reg1 | key of the VM port that sent it; 0 when it came through a tunnel |",
        "| OUT_PORT_KEY | reg2 | key of the VM port that it goes to; 0 while undecided or for several |",
        "| SRC_IDENTITY | reg3 | identity of the sender |",
        "| DST_IDENTITY | reg4 | identity of the receiver |",
        "| PEER | reg5 | key of the hypervisor that it is tunnelled to |",
        "| FLAGS | reg6 | bit 0: it came through a tunnel |",
        "",
        "## The Geneve option",
        "",
        f"Class 0x{fields.GENEVE_OPTION_CLASS:04x}, type 0x{fields.GENEVE_OPTION_TYPE:02x}, 12 bytes, in `tun_metadata0`: "
        "the key of the sender's port, by which its hypervisor's uplink is shaped (0: not a VM's), the sender's identity, and the key of the "
        "destination port (0: for every port of the network), 32 bits each.",
        "",
        "## Groups",
        "",
        "| id | what |",
        "|---|---|",
        "| VNI | copies for the network's VMs on this hypervisor |",
        "| 0x01000000 + VNI | copies for the network's other hypervisors |",
        "| + 0x02000000, 0x04000000 … | further parts of either, each of at most 1,000 copies |",
        "| 0xfe000000 + router key | what leaves: to the best gateway that is alive |",
        "| 0xfe010000 + router key | the same for what another hypervisor sent here |",
        "| 0xfe020000 + router key | whether this hypervisor is the gateway now, for what comes from the wire |",
        "| 0xfe030000 + router key | the same for what VMs and routers here send to the router's address outside |",
        "| 0xffff0000 | what is always alive |",
        "| 0xffff0001 | alive while this hypervisor sees another one |",
        "| 0xffff0002 | one way on, by which the datapath hashes a new connection of a load balancer |",
        "",
        "## Cookies",
        "",
        "`0x4e` (8 bits), epoch of the layout (8), hash of the owner (48): `pipelines/cookies.py`.",
        "",
    ]
    return "\n".join(lines)


def _row(table: Table) -> str:
    goes = ", ".join(f"`{name}`" for name in table.goes_to) or "out"
    if table.otherwise:
        otherwise = f"goes to `{table.otherwise}`"
    else:
        otherwise = f"dropped: {table.reason}" if table.reason else "goes on where it was"
    return f"| {table.number} | `{table.name}` | {table.feature} | {table.summary} | {goes} | {otherwise} |"


def _field(field: fields.Field) -> str:
    names = [name for name in _NAMED if getattr(fields, name) is field]
    return f"`{names[0]}`" if names else f"`{field.name}`"


def options_page() -> str:
    """docs/options.md: every option, its default and what it does."""
    from novanet_apps import options
    from novanet_apps.host_agent import settings

    lines = [
        "# Options",
        "",
        "Generated from `novanet_apps/options.py` by `make docs`. In a file, `ryu-manager --config-file novanet.conf`, an "
        "option stands under `[DEFAULT]` as `audit_interval = 30`; on the command line as `--audit-interval 30`.",
    ]
    agent = {"Host agent (`novanet-host-agent`, from `novanet_apps/host_agent/settings.py`)": settings.OPTIONS}
    for title, group in {**options.PARTS, **agent}.items():
        lines += ["", f"## {title}", "", "| option | default | what |", "|---|---|---|"]
        lines += [f"| `{option.dest}` | {_default(option.default)} | {option.help} |" for option in group]
    return "\n".join([*lines, ""])


def metrics_page() -> str:
    """docs/metrics.md: every metric."""
    from novanet_apps.rest.metrics import metrics_page

    return metrics_page()


def _default(value: object) -> str:
    if value in (None, "", []):
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, list) else value}`"


_NAMED = ("NETWORK", "IN_PORT_KEY", "OUT_PORT_KEY", "SRC_IDENTITY", "DST_IDENTITY", "PEER", "FLAGS")

PAGES: dict[str, Callable[[], str]] = {
    "pipeline.md": pipeline_page,
    "options.md": options_page,
    "metrics.md": metrics_page,
}


def main() -> int:
    """Write the pages, or with ``--check`` say which are not true."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
            print(f"wrote docs/{name}")
    if "--check" in sys.argv and stale:
        print(f"docs/{', docs/'.join(stale)} not up to date: run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
