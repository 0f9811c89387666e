"""Runs one scenario: ``python -m tests.switch.hypervisor_run NAME DIRECTORY``. Exit status 0 means that it held."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.switch.hypervisor_world import World  # isort: skip
from tests.switch import (
    hypervisor_connections,
    hypervisor_exporters,
    hypervisor_linux_queues,
    hypervisor_queues,
    hypervisor_scenarios,
    hypervisor_sessions,
    hypervisor_wires,
)


def main(name: str, directory: str) -> None:
    parts = (
        *(hypervisor_scenarios, hypervisor_connections, hypervisor_sessions, hypervisor_wires, hypervisor_exporters),
        *(hypervisor_queues, hypervisor_linux_queues),
    )
    for module in parts:
        for scenario in module.SCENARIOS:
            if scenario.__name__ == name:
                options = getattr(scenario, "options", lambda _directory: {})(Path(directory))
                world = World(Path(directory), **options)
                world.start()
                try:
                    scenario(world)
                finally:
                    world.close()
                return
    raise SystemExit(f"no scenario {name}")


main(*sys.argv[1:])
