"""sFlow against nfdump and pmacct: 7 samples a datagram, 5,000 flows; see ``flow_collecting``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tools.bench import exports, flow_collecting


def main(arguments: Sequence[str] = ()) -> int:
    """Options: --seconds N of each run."""
    parser = argparse.ArgumentParser(prog="sflow_decode")
    parser.add_argument("--seconds", type=float, default=3.0)
    return flow_collecting.measure("sflow_decode", exports.sflow(), parser.parse_args(arguments).seconds)
