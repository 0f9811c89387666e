"""The hypervisors part against real Open vSwitch. Each scenario runs in a process of its own, where threads are green."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def scenarios(module: str) -> list[str]:
    """The names in the module's SCENARIOS, without importing it: that would make this process' threads green."""
    for node in ast.parse((HERE / module).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SCENARIOS":
            assert isinstance(node.value, ast.Tuple)
            return [name.id for name in node.value.elts if isinstance(name, ast.Name)]
    raise AssertionError(f"{module} has no SCENARIOS")


ALL = [
    name
    for part in ("scenarios", "connections", "sessions", "wires", "exporters", "queues", "linux_queues")
    for name in scenarios(f"hypervisor_{part}.py")
]


@pytest.mark.parametrize("name", ALL)
def test_scenario(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.switch.hypervisor_run", name, str(tmp_path)],
        cwd=HERE.parents[1], capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, f"{name}\n{done.stderr[-6000:]}"
