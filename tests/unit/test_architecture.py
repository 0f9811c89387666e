"""The rules of the house: what may import what, and that generated pages are true."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import docs

ROOT = Path(__file__).resolve().parents[2]
PURE = {"topology", "pipelines", "networkx", "numpy", "msgspec"}


def imports(path: Path) -> Iterator[str]:
    """Top-level names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"no Python files in {folder}/"
    return found


@pytest.mark.parametrize("path", files("topology") + files("pipelines"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_is_pure(path: Path) -> None:
    allowed = PURE | set(sys.stdlib_module_names) - {"socket", "threading", "subprocess", "asyncio", "time", "logging"}
    assert set(imports(path)) <= allowed


def test_topology_knows_nothing_of_pipelines() -> None:
    for path in files("topology"):
        assert "pipelines" not in set(imports(path)), path


@pytest.mark.parametrize("path", files("novanet_apps"), ids=lambda p: str(p.relative_to(ROOT)))
def test_ryu_is_imported_through_compat_only(path: Path) -> None:
    if "compat" not in path.relative_to(ROOT).parts[1]:
        assert "ryu" not in set(imports(path))


@pytest.mark.parametrize("page", docs.PAGES)
def test_generated_pages_are_true(page: str) -> None:
    assert (docs.DOCS / page).read_text() == docs.PAGES[page](), "run `make docs`"
